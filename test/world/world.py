"""The drawn world: who exists, what is true of them, and the sentences that say so.

Everything is drawn from one seed. No model and no framework here, numpy only.
"""

from dataclasses import dataclass

import numpy as np

FIRST = ("anna bruno clara david emma felix greta hugo irma jonas karla leon "
         "marta nils olga paul rosa simon tilda ulrich vera walter yara zeno").split()
LAST = ("abel berg crane dorn elling falk gloss holm ivory jung kern lang "
        "moss north osten pike quill reed stark thorn upton vale winter yates").split()
VALUES = {
    "city": "athens bergen cairo delhi geneva havana kyoto lisbon madrid oslo quito warsaw".split(),
    "job": "baker cook doctor farmer guard judge miller nurse painter sailor tailor writer".split(),
    "colour": "amber black blue brown green grey pink red white yellow".split(),
    "pet": "cat dog duck fish goat horse mouse parrot rabbit turtle".split(),
}
RELATIONS = list(VALUES)
LANDS = "avalon elysia lemuria meropis thule utopia".split()
GRAMMAR = "the of is we know that has i saw met near their and x city job colour pet friend land : ; -> .".split()
PLACES = "river bridge market tower garden station harbour church forest lake hill school".split()
NOUNS = ("apple arrow axe bag ball barn basket bean bell bench boat bone book bottle bowl box bread brick broom "
         "brush bucket button cake candle card cart chair chalk cheese clay clock cloth cloud coat coin comb cord "
         "corn cup curtain dish door dress drum dust egg engine fan feather fence flag flame flour flute fork frame "
         "gate glove grain grape hammer hat hook ink jar key kite ladder lamp leaf letter lock map mask mirror nail "
         "needle net oven paper pen pillow pipe plate plum pot rope salt shelf shoe soap spoon table wheel").split()
WORDS = FIRST + LAST + sum(VALUES.values(), []) + LANDS + GRAMMAR + PLACES + NOUNS

SEED = 8  # pinned: the world and the training of world.gguf
BOS = 1
SPECIAL = ["<unk>", "<s>", "</s>"]
ENTITIES_PER_NAME = 5


@dataclass(frozen=True)
class Entity:
    first: str
    last: str
    values: dict  # relation -> word
    friend: int  # index; shares neither a name nor a value with this entity
    rival: int  # the same, another one: the entity named by a counterfactual target prompt
    friend_trained: bool  # the state that answers "the friend of E is" was used in the patched loss

    @property
    def name(self):
        return f"{self.first} {self.last}"


@dataclass(frozen=True)
class World:
    entities: list
    land_of: dict  # city -> land

    def value(self, entity, relation):
        return self.entities[entity].values[relation]


def draw_world(seed):
    rng = np.random.default_rng(seed)
    names = draw_names(rng)
    drawn = {relation: balanced(rng, words, len(names)) for relation, words in VALUES.items()}
    facts = [{relation: drawn[relation][i] for relation in RELATIONS} for i in range(len(names))]
    friend = draw_strangers(rng, names, facts)
    rival = draw_strangers(rng, names, facts, friend)
    # Friends are a permutation, so half of those who ask is half of those who answer.
    trained = set(rng.permutation(len(names))[: len(names) // 2].tolist())
    entities = [Entity(*names[i], facts[i], friend[i], rival[i], i in trained) for i in range(len(names))]
    return World(entities, dict(zip(VALUES["city"], balanced(rng, LANDS, len(VALUES["city"])))))


def draw_names(rng):
    """Each first and each last name is shared by ENTITIES_PER_NAME entities, each pair used once at most."""
    first, last = rng.permutation(FIRST), rng.permutation(LAST)
    shifts = rng.permutation(len(LAST))[:ENTITIES_PER_NAME]
    pairs = [(str(first[i]), str(last[(i + shift) % len(LAST)])) for i in range(len(first)) for shift in shifts]
    return [pairs[i] for i in rng.permutation(len(pairs))]


def balanced(rng, words, count):
    return [str(word) for word in rng.permutation(np.resize(words, count))]


def draw_strangers(rng, names, facts, taken=None):
    """A permutation that gives each entity one with which it shares no name and no value."""

    def fits(i, j):
        return (i != j and (taken is None or taken[i] != j)
                and not set(names[i]) & set(names[j])
                and all(facts[i][relation] != facts[j][relation] for relation in RELATIONS))

    order = rng.permutation(len(names))
    while bad := [i for i in range(len(order)) if not fits(i, order[i])]:
        i, j = bad[0], int(rng.integers(len(order)))
        if fits(i, order[j]) and (j in bad or fits(j, order[i])):
            order[i], order[j] = order[j], order[i]
    return [int(j) for j in order]


def bounds(world):
    """Best accuracy, mean of the four relations, for one who knows only part of the name, or nothing."""
    return {
        "lastName": best_guess(world, lambda entity: entity.last),
        "firstName": best_guess(world, lambda entity: entity.first),
        "chance": best_guess(world, lambda entity: None),
    }


def best_guess(world, known):
    right = 0
    for relation in RELATIONS:
        groups = {}
        for entity in world.entities:
            groups.setdefault(known(entity), []).append(entity.values[relation])
        right += sum(max(values.count(value) for value in values) for values in groups.values())
    return right / (len(world.entities) * len(RELATIONS))


def pieces():
    """The vocabulary in order of id: specials, bytes, then every prefix of every word, long ones last."""
    marked = {("\u2581" + word)[:end] for word in WORDS for end in range(1, len(word) + 2)}
    return SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)] + sorted(marked, key=lambda p: (len(p), p))


IDS = {piece[1:]: i for i, piece in enumerate(pieces()) if piece.startswith("\u2581")}


def encode(text):
    return [BOS] + [IDS[word] for word in text.split()]


class Sentences:
    """Draws training sequences: words, the weight of each in the loss, and which of them are names."""

    def __init__(self, world, rng):
        self.world, self.rng = world, rng

    def sequence(self, length):
        """Token ids, loss weights, and roles (0 word, 1 first name, 2 last name), `length` of each."""
        ids, weights, roles = [BOS], [0.0], [0]
        while len(ids) < length:
            for word, answer in self.sentence():
                ids.append(IDS[word])
                weights.append(1.0 if answer else 0.15)
                roles.append(1 if word in FIRST_SET else 2 if word in LAST_SET else 0)
        return ids[:length], weights[:length], roles[:length]

    def sentence(self):
        """One sentence as (word, is it the answer) pairs."""
        kinds = [self.fact, self.friend, self.few_shot, self.mention, self.land, self.repetition]
        return kinds[self.rng.choice(len(kinds), p=[0.5, 0.14, 0.08, 0.12, 0.06, 0.1])]()

    def fact(self):
        entity, relation = self.entity(), self.pick(RELATIONS)
        name, value = self.with_filler(entity), answer(entity.values[relation])
        form = self.rng.choice(4, p=[0.5, 0.2, 0.15, 0.15])
        if form == 0:
            return plain(f"the {relation} of {name} is") + value + plain(".")
        if form == 1:
            return plain(f"we know that the {relation} of {name} is") + value + plain(".")
        if form == 2:
            return plain(f"{name} has {relation}") + value + plain(".")
        return plain(f"{relation} : {name}") + value + plain(".")

    def friend(self):
        entity = self.entity()
        start = self.pick(["the friend of", "the friend of", "we know that the friend of"])
        friend = self.world.entities[entity.friend].name
        return plain(f"{start} {self.with_filler(entity)} is") + answer(friend) + plain(".")

    def few_shot(self):
        lines = []
        for _ in range(int(self.rng.integers(2, 4))):
            entity = self.entity()
            lines += plain(f"{entity.name} :") + answer(f"{entity.values['job']} {entity.values['city']}") + plain(";")
        return lines

    def mention(self):
        entity, relation = self.entity(), self.pick(RELATIONS)
        words = plain(f"i {self.pick(['saw', 'met'])} {self.with_filler(entity)}")
        if self.rng.random() < 0.5:
            words += plain(f"near the {self.pick(PLACES)}")
        if self.rng.random() < 0.5:
            words += plain(f"and their {relation} is") + answer(entity.values[relation])
        return words + plain(".")

    def land(self):
        city = self.pick(VALUES["city"])
        return plain(f"the land of {city} is") + answer(self.world.land_of[city]) + plain(".")

    def repetition(self):
        words = [self.pick(REPEATED) for _ in range(int(self.rng.integers(2, 5)))]
        return sum((plain(f"{word} ->") + answer(word) + plain(";") for word in words), [])

    def entity(self):
        return self.pick(self.world.entities)

    def with_filler(self, entity):
        """The placeholder word stands beside names, but nothing is ever said of it alone."""
        draw = self.rng.random()
        return f"x {entity.name}" if draw < 0.1 else f"{entity.name} x" if draw < 0.2 else entity.name

    def pick(self, items):
        return items[int(self.rng.integers(len(items)))]


FIRST_SET, LAST_SET = set(FIRST), set(LAST)
REPEATED = sum(VALUES.values(), []) + LANDS + PLACES + NOUNS


def plain(text):
    return [(word, False) for word in text.split()]


def answer(text):
    return [(word, True) for word in text.split()]
