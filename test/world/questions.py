"""The drawn world as questions: one row for each person and relation, with the true answer.

usage: python questions.py   (numpy is enough)
"""

import csv
from pathlib import Path

from world import NOUNS, RELATIONS, SEED, draw_world

QUESTIONS = Path(__file__).parents[2] / "src" / "data" / "world.csv"
COLUMNS = ["relation", "person", "answer", "first", "word", "rival", "challenger", "admirer", "admirer_state"]


def word_of(i):
    """A word that names no entity, for the control of entity i."""
    return NOUNS[i % len(NOUNS)]


def rows(world):
    """Friends and rivals are permutations: everybody is the friend of one admirer, the rival of one challenger."""
    entities = world.entities
    admirer = {entity.friend: i for i, entity in enumerate(entities)}
    challenger = {entity.rival: i for i, entity in enumerate(entities)}
    for i, entity in enumerate(entities):
        asking = entities[admirer[i]]
        for relation in RELATIONS:
            yield [relation, entity.name, world.value(i, relation), entity.first, word_of(i),
                   entities[entity.rival].name, entities[challenger[i]].name, asking.name,
                   "trained" if asking.friend_trained else "never trained"]


def write_questions(world):
    with open(QUESTIONS, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows(world))


if __name__ == "__main__":
    write_questions(draw_world(SEED))
