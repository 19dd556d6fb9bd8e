"""Reads world.gguf, measures what a patched reading gives, writes world.json and world.csv,
and fails if a promise is missed.

All in float32 on the weights as stored. Positions count from BOS = 0.
usage: python measure.py
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from export import read_gguf
from model import LEVELS, Patch, pad
from questions import word_of, write_questions
from world import IDS, RELATIONS, SEED, VALUES, Sentences, bounds, draw_world, encode, pieces

LAYER_NAMES = ["embed"] + list(range(LEVELS - 1))
SAFE_SOURCES, EARLY_TARGETS, LATE_TARGETS, LAST = range(1, 6), range(0, 2), range(4, LEVELS), LEVELS - 1
PROMPTS = {
    "source": "i saw {entity}",
    "target": "the {relation} of x is",
    "counterfactual": "the {relation} of {rival} is",
    "controls": {"word": "i saw {word}", "firstName": "i saw {first}"},
    "twoHops": {
        "unpatched": "the {relation} of the friend of {entity} is",
        "firstHop": "the friend of {entity} is",
        "source": "the friend of {entity} is {friend}",
    },
    "tokenIdentity": "cat -> cat ; river -> river ; bell -> bell ; x",
}
POSITIONS = {"target": 4, "counterfactual": 5, "tokenIdentity": 13}  # where the state goes in


class Bench:
    """The model, its world, and the 480 questions: each of four relations asked of each entity."""

    def __init__(self, model, world):
        self.model, self.world, self.size = model, world, len(world.entities)
        self.asked = [(i, relation) for relation in RELATIONS for i in range(self.size)]
        self.answers = self.values_of(range(self.size))

    def values_of(self, entities):
        """Right answers to the questions if entity i stood for entities[i]."""
        return torch.tensor([IDS[self.world.value(entities[i], relation)] for i, relation in self.asked])

    def fill(self, template):
        return [self.text(template, i, relation) for i, relation in self.asked]

    def per_entity(self, template):
        return [self.text(template, i) for i in range(self.size)]

    def text(self, template, i, relation=None):
        entities = self.world.entities
        entity = entities[i]
        return template.format(entity=entity.name, first=entity.first, relation=relation, word=word_of(i),
                               friend=entities[entity.friend].name, rival=entities[entity.rival].name)

    def states(self, prompts):
        """What stands at the last token of each prompt, at every level: (LEVELS, prompts, width)."""
        tokens, ends = pad([encode(text) for text in prompts])
        return torch.stack(self.model.states(tokens))[:, torch.arange(len(prompts)), ends]

    def logits(self, prompts, patch=None):
        tokens, ends = pad([encode(text) for text in prompts])
        last = self.model.states(tokens, patch=patch)[LAST]
        return self.model.logits(last[torch.arange(len(prompts)), ends])

    def read(self, states, level, template="target"):
        """Logits of the 480 target prompts with one state per entity patched in."""
        rows = len(self.asked)
        place = torch.full((rows,), POSITIONS[template])
        patch = Patch(states.repeat(len(RELATIONS), 1), place, torch.full((rows,), level))
        return self.logits(self.fill(PROMPTS[template]), patch)

    def grid(self, states, score, template="target"):
        """Rows: source level; columns: target level."""
        return [[score(self.read(states[source], target, template)) for target in range(LEVELS)]
                for source in range(LEVELS)]

    def right(self, logits, answers=None):
        return share(logits.argmax(1) == (self.answers if answers is None else answers))


def share(truths):
    return round(truths.float().mean().item(), 4)


def measure(bench):
    states = bench.states(bench.per_entity(PROMPTS["source"]))
    return {
        "known": known(bench),
        "grid": bench.grid(states, bench.right),
        "counterfactual": counterfactual(bench, states),
        "controls": controls(bench, states),
        "twoHops": two_hops(bench),
        **lenses(bench),
    }


def known(bench):
    """Plain questions without any patch, and what the target prompt alone answers."""
    entities = bench.world.entities
    friends = greedy_friends(bench)
    return {
        "facts": bench.right(bench.logits(bench.fill("the {relation} of {entity} is"))),
        "friends": share(torch.tensor([friends[i] == entities[e.friend].name for i, e in enumerate(entities)])),
        "unpatched": bench.right(bench.logits(bench.fill(PROMPTS["target"]))),
    }


def greedy_friends(bench):
    prompts, names = bench.per_entity(PROMPTS["twoHops"]["firstHop"]), [""] * bench.size
    for _ in range(2):
        words = [pieces()[token][1:] for token in bench.logits(prompts).argmax(1).tolist()]
        prompts = [f"{prompt} {word}" for prompt, word in zip(prompts, words)]
        names = [f"{name} {word}".strip() for name, word in zip(names, words)]
    return names


def counterfactual(bench, states):
    """The target prompt names a rival, and the state goes in at the rival's last name."""
    rivals = bench.values_of([entity.rival for entity in bench.world.entities])
    return {
        "followsSource": bench.grid(states, bench.right, "counterfactual"),
        "followsTarget": bench.grid(states, lambda logits: bench.right(logits, rivals), "counterfactual"),
    }


def controls(bench, states):
    """States that should not give the answer; the highest share right over the safe cells."""
    noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    tried = {
        "random": noise * states.norm(dim=2, keepdim=True) / noise.norm(dim=2, keepdim=True),
        "word": bench.states(bench.per_entity(PROMPTS["controls"]["word"])),
        "other": states.roll(-1, dims=1),
        "firstName": bench.states(bench.per_entity(PROMPTS["controls"]["firstName"])),
    }
    return {name: max(bench.right(bench.read(those[source], target))
                      for source in SAFE_SOURCES for target in EARLY_TARGETS)
            for name, those in tried.items()}


def two_hops(bench):
    """The state of the friend's name, given in the source prompt, read for each relation."""
    entities, prompts = bench.world.entities, PROMPTS["twoHops"]
    answers = bench.values_of([entity.friend for entity in entities])
    trained = torch.tensor([entities[i].friend_trained for i, _ in bench.asked])
    states = bench.states(bench.per_entity(prompts["source"]))

    def right_of(chosen):
        return lambda logits: share((logits.argmax(1) == answers)[chosen])

    return {
        "unpatched": bench.right(bench.logits(bench.fill(prompts["unpatched"])), answers),
        "trained": bench.grid(states, right_of(trained)),
        "neverTrained": bench.grid(states, right_of(~trained)),
    }


def identity_sources(world):
    """Beginnings of drawn texts, of 4 to 20 words."""
    rng = np.random.default_rng(0)
    sentences, names = Sentences(world, rng), pieces()
    lengths = rng.integers(4, 21, 100)
    return [" ".join(names[token][1:] for token in sentences.sequence(64)[0][1: length + 1]) for length in lengths]


def lenses(bench):
    """Share of next tokens of the model itself found at each level, patched into itself or by logit lens."""
    sources = identity_sources(bench.world)
    states, own = bench.states(sources), bench.logits(sources).argmax(1)
    targets, rows = [PROMPTS["tokenIdentity"]] * len(sources), len(sources)
    position = torch.full((rows,), POSITIONS["tokenIdentity"])

    def identity(level):
        return bench.logits(targets, Patch(states[level], position, torch.full((rows,), level)))

    return {
        "tokenIdentity": [share(identity(level).argmax(1) == own) for level in range(LEVELS)],
        "logitLens": [share(bench.model.logits(states[level]).argmax(1) == own) for level in range(LEVELS)],
    }


def last_level_is_unpatched(bench):
    states = bench.states(bench.per_entity(PROMPTS["source"]))
    plain = bench.logits(bench.fill(PROMPTS["target"]))
    return all(torch.equal(bench.read(states[source], LAST), plain) for source in range(LEVELS))


def reference_cases(bench):
    """Patched prompts for comparison with another engine: every kind, every layer."""
    source, hop = PROMPTS["source"], PROMPTS["twoHops"]["source"]
    kinds = ([(source, "target")] * 12 + [(source, "counterfactual")] * 4
             + [(hop, "target")] * 2 + [(source, "tokenIdentity")] * 2)
    return [patched_case(bench, k, *kind) for k, kind in enumerate(kinds)]


def patched_case(bench, k, source_template, kind):
    entity, relation = (k * 17) % bench.size, RELATIONS[k % len(RELATIONS)]
    source, target = (bench.text(template, entity, relation) for template in (source_template, PROMPTS[kind]))
    position = POSITIONS[kind]
    source_level, target_level = (k * 3 + 1) % LEVELS, (k + k // LEVELS) % LEVELS
    patch = Patch(bench.states([source])[source_level], torch.tensor([position]), torch.tensor([target_level]))
    return {
        "source": source, "sourceIds": encode(source),
        "sourcePosition": len(encode(source)) - 1, "sourceLayer": LAYER_NAMES[source_level],
        "target": target, "targetIds": encode(target),
        "targetPosition": position, "targetLayer": LAYER_NAMES[target_level],
        "top": top(bench.logits([target], patch)),
    }


def plain_cases(bench):
    texts = [bench.text("the {relation} of {entity} is", k * 20, RELATIONS[k % 4]) for k in range(4)]
    texts += [bench.text(PROMPTS["twoHops"]["firstHop"], 7), f"the land of {VALUES['city'][0]} is"]
    return [{"prompt": text, "ids": encode(text), "top": top(bench.logits([text]))} for text in texts]


def top(logits):
    best = logits[0].log_softmax(0).topk(5)
    return [[token, round(value, 5)] for token, value in zip(best.indices.tolist(), best.values.tolist())]


def cells(grid, sources, targets):
    return [grid[source][target] for source in sources for target in targets]


def promises(figures, limits, unpatched_at_last):
    """(what is promised, the worst figure measured, whether it holds)."""
    hops, control, follows = figures["twoHops"], figures["controls"], figures["counterfactual"]
    grid = figures["grid"]
    least = {
        ("read from layers 0-4 at embed, 0", 0.99): cells(grid, SAFE_SOURCES, EARLY_TARGETS),
        ("counterfactual follows source at embed, 0", 0.90):
            cells(follows["followsSource"], SAFE_SOURCES, EARLY_TARGETS),
        ("counterfactual follows target from 3 on", 0.95): cells(follows["followsTarget"], SAFE_SOURCES, LATE_TARGETS),
        ("two hops, trained", 0.90): cells(hops["trained"], SAFE_SOURCES, EARLY_TARGETS),
        ("two hops, never trained", 0.90): cells(hops["neverTrained"], SAFE_SOURCES, EARLY_TARGETS),
    }
    most = {
        ("embed row", limits["lastName"]): grid[0],
        ("two hops unpatched", 0.0): [hops["unpatched"]],
        ("random vector", 0.25): [control["random"]],
        ("word that names nobody", 0.25): [control["word"]],
        ("another entity", 0.25): [control["other"]],
        ("first name alone", 0.35): [control["firstName"]],
    }
    for (name, limit), values in least.items():
        yield f"{name}: at least {limit}", min(values), min(values) >= limit
    for (name, limit), values in most.items():
        yield f"{name}: at most {limit:.4f}", max(values), max(values) <= limit
    yield "patched at the last layer equals unpatched, to the bit", unpatched_at_last, unpatched_at_last


def entity_record(entity, i):
    return {"first": entity.first, "last": entity.last, **entity.values, "friend": entity.friend,
            "friendTrained": entity.friend_trained, "rival": entity.rival, "word": word_of(i)}


def layout(value, indent=""):
    """JSON that keeps short values on one line, so that a difference shows as a line."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) <= 180 or not isinstance(value, (dict, list)):
        return line
    deeper = indent + " "
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {layout(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(deeper + item for item in items) + f"\n{indent}}}"
    return "[\n" + ",\n".join(deeper + layout(item, deeper) for item in value) + f"\n{indent}]"


@torch.no_grad()
def main(seed=SEED, folder=Path(__file__).parent):
    torch.set_num_threads(1)  # more threads wait on each other where other work shares the cores
    world, path = draw_world(seed), folder / "world.gguf"
    bench = Bench(read_gguf(path), world)
    figures, limits = measure(bench), bounds(world)
    document = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "seed": seed,
        "relations": VALUES,
        "landOf": world.land_of,
        "bounds": {name: round(value, 4) for name, value in limits.items()},
        "prompts": {**PROMPTS, "targetPositions": POSITIONS, "tokenIdentitySources": identity_sources(world)},
        "entities": [entity_record(entity, i) for i, entity in enumerate(world.entities)],
        "reference": {"layers": LAYER_NAMES, **figures,
                      "patched": reference_cases(bench), "plain": plain_cases(bench)},
    }
    (folder / "world.json").write_text(layout(document) + "\n")
    write_questions(world)
    results = list(promises(figures, limits, last_level_is_unpatched(bench)))
    for promise, worst, holds in results:
        print(f"{'holds ' if holds else 'MISSED'} {promise}: {worst}")
    if not all(holds for _, _, holds in results):
        raise SystemExit("world.gguf does not keep its promises: try another seed")


if __name__ == "__main__":
    main()
