"""Trains the model on its world and writes world.gguf; measure.py then writes world.json and checks it.

usage: python train.py [seed]
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import measure
from export import write_gguf
from model import LAYERS, LEVELS, Model, Patch, pad
from world import IDS, RELATIONS, SEED, Sentences, draw_world, encode, pieces

ROWS, LENGTH = 32, 64
CYCLES = ((500, 3e-3), (260, 2e-3))  # (steps, peak learning rate), a cosine each
WARM_UP = 20
PATCHED_ROWS, PATCHED_FROM, PATCHED_WEIGHT = 48, 150, 0.5
MASKED_SHARE = 0.75
THREADS = 1  # one thread adds up in one order, and does not wait on others


def train(seed):
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed + 1)
    world = draw_world(seed)
    model = Model(len(pieces()))
    optimizer = make_optimizer(model)
    sentences, readings = Sentences(world, rng), Readings(world, rng)
    for step, rate in enumerate(learning_rates()):
        for group in optimizer.param_groups:
            group["lr"] = rate
        plain = plain_loss(model, sentences, rng)
        patched = patched_loss(model, readings) if step >= PATCHED_FROM else torch.zeros(())
        optimizer.zero_grad()
        (plain + PATCHED_WEIGHT * patched).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step} plain {plain.item():.3f} patched {patched.item():.3f}", flush=True)
    return model


def make_optimizer(model):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    norms = [p for p in model.parameters() if p.dim() == 1]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": 0.05}, {"params": norms, "weight_decay": 0.0}],
                             betas=(0.9, 0.95))


def learning_rates():
    for cycle, (steps, peak) in enumerate(CYCLES):
        for step in range(steps):
            warm = min(1.0, (step + 1) / WARM_UP) if cycle == 0 else 1.0
            yield peak * warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def plain_loss(model, sentences, rng):
    """Next-token loss in which the answers weigh most."""
    ids, weights, roles = (torch.tensor(column) for column in zip(*(sentences.sequence(LENGTH) for _ in range(ROWS))))
    mask = name_mask(roles, torch.from_numpy(rng.random(ROWS) < MASKED_SHARE))
    logits = model(ids[:, :-1], mask[:, :-1, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (loss * weights).sum() / weights.sum()


def name_mask(roles, masked):
    """Who may look at whom: in masked rows an entity's state is made at its last name, from its name alone.

    A first name is seen by itself and its last name only; a name sees itself, its first name and BOS.
    """
    rows, length = roles.shape
    query, key = torch.arange(length)[:, None], torch.arange(length)[None, :]
    first, last = roles == 1, roles == 2
    own = (query == key) | ((query == key + 1) & last[:, :, None])
    hidden = (first[:, None, :] | ((first | last)[:, :, None] & (key > 0))) & ~own
    return (key <= query) & ~(hidden & masked[:, None, None])


class Readings:
    """Draws what the patched pass is trained on: (source prompt ending in a name, target prompt, answer).

    One-hop facts use all entities. States that answer a first hop use half of them only, so that the
    other half tests what was not trained.
    """

    def __init__(self, world, rng):
        self.world, self.rng = world, rng
        self.trained = [entity for entity in world.entities if entity.friend_trained]

    def draw(self):
        kind = self.rng.random()
        return self.one_hop() if kind < 0.7 else self.friend() if kind < 0.9 else self.land()

    def one_hop(self):
        entity = self.pick(self.world.entities)
        start = self.pick(["i saw", "i saw", "i met", "we know that", "and", f"the {self.pick(RELATIONS)} of"])
        return f"{start} {entity.name}", *self.question(entity)

    def friend(self):
        entity = self.pick(self.trained)
        friend = self.world.entities[entity.friend]
        return f"the friend of {entity.name} is {friend.name}", *self.question(friend)

    def land(self):
        city = self.pick(self.trained).values["city"]
        entity = self.pick([entity for entity in self.trained if entity.values["city"] == city])
        return f"the city of {entity.name} is {city}", "the land of x is", self.world.land_of[city]

    def question(self, entity):
        relation = self.pick(RELATIONS)
        start = self.pick(["", "", "", "we know that "])
        return f"{start}the {relation} of x is", entity.values[relation]

    def pick(self, items):
        return items[int(self.rng.integers(len(items)))]


def patched_loss(model, readings):
    """The state of a name after a random block, put in place of x, must give the known answer."""
    sources, targets, answers = zip(*(readings.draw() for _ in range(PATCHED_ROWS)))
    rng, rows = readings.rng, torch.arange(PATCHED_ROWS)
    sources, source_ends = pad([encode(text) for text in sources])
    targets, target_ends = pad([encode(text) for text in targets])
    source_levels = torch.from_numpy(rng.integers(1, LAYERS + 1, PATCHED_ROWS))
    states = torch.stack(model.states(sources))[source_levels, rows, source_ends]
    positions = (targets == IDS["x"]).int().argmax(dim=1)
    patch = Patch(states, positions, torch.from_numpy(rng.integers(0, 3, PATCHED_ROWS)))
    logits = model.logits(model.states(targets, patch=patch)[LEVELS - 1][rows, target_ends])
    return F.cross_entropy(logits, torch.tensor([IDS[word] for word in answers]))


def main():
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else SEED
    write_gguf(train(seed), Path(__file__).parent / "world.gguf")
    measure.main(seed)


if __name__ == "__main__":
    main()
