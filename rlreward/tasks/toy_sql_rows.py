"""Tables, questions and gold queries of the toy SQL task."""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np

TABLES = {
  "people": ("pid", "town", "age"),
  "shops": ("sid", "city", "size"),
  "sales": ("buyer", "shop", "price"),
}
NUMBERS = tuple("123456")
_SQL = "SELECT FROM WHERE JOIN ON count(*) max( sum( ) = < >".split()
_TAGS = "<think> </think> <answer> </answer>".split()
_ASKED = "list number largest total of with".split()
WORDS = (*_TAGS, *_SQL, *TABLES, *itertools.chain(*TABLES.values()), *NUMBERS,
         *_ASKED)  # fmt: skip
# What is asked for, and how its query begins.
_HEADS = (
  ("list pid of", "pid"),
  ("number of", "count(*)"),
  ("list price of sales of", "price"),
  ("total price of sales of", "sum( price )"),
  ("largest price of sales of", "max( price )"),
)
KINDS = len(_HEADS)  # as many questions of each
OWN = 2  # the first kinds ask of people alone, the others of sales
PLACES = (("people", "town"), ("people", "age"), ("shops", "city"),
          ("shops", "size"))  # fmt: skip
_JOINS = {"people": "buyer = pid", "shops": "shop = sid"}
MOST = 150
COPIES = 20  # of a question, where demonstrations are garbled
PEOPLE, SHOPS, SALES = 40, 6, 60


class Question(NamedTuple):
  """A question, as places in what can be asked."""

  kind: int
  place: int
  sign: int
  number: int

  def ask(self) -> str:
    """Its words."""
    return f"{_HEADS[self.kind][0]} {PLACES[self.place][0]} with {self._test()}"

  def query(self) -> str:
    """Its gold query."""
    table, head = PLACES[self.place][0], _HEADS[self.kind][1]
    source = table
    if self.kind >= OWN:
      source = f"sales JOIN {table} ON {_JOINS[table]}"
    return f"SELECT {head} FROM {source} WHERE {self._test()}"

  def _test(self) -> str:
    column = PLACES[self.place][1]
    return f"{column} {'=<>'[self.sign]} {NUMBERS[self.number]}"


@functools.cache
def database(world: int) -> str:
  """The script that makes the tables.

  Args:
    world: seed.
  """
  rng = np.random.default_rng([world, 7])
  small = lambda n: rng.integers(1, 7, n)
  made = {
    "people": (100 + np.arange(PEOPLE), small(PEOPLE), small(PEOPLE)),
    "shops": (200 + np.arange(SHOPS), small(SHOPS), small(SHOPS)),
    "sales": (100 + rng.integers(PEOPLE, size=SALES),
              200 + rng.integers(SHOPS, size=SALES),
              rng.integers(10, 100, SALES)),
  }  # fmt: skip
  lines = []
  for name, columns in TABLES.items():
    kinds = ", ".join(f"{c} INTEGER" for c in columns)
    lines.append(f"CREATE TABLE {name} ({kinds});")
    values = ", ".join(str(tuple(map(int, r)))
                       for r in zip(*made[name], strict=True))  # fmt: skip
    lines.append(f"INSERT INTO {name} VALUES {values};")
  return "\n".join(lines)


def asked(kind: int) -> list[Question]:
  """Every question of a kind."""
  places = range(len(PLACES) if kind >= OWN else OWN)
  sizes = itertools.product(places, range(3), range(len(NUMBERS)))
  return [Question(kind, *parts) for parts in sizes]


def garbled(
  question: Question, share: float, rng: np.random.Generator
) -> Question:
  """A question of which each of the four parts is another with a chance.

  Args:
    question: that was asked.
    share: the chance.
    rng: generator.
  """
  sizes = (KINDS, len(PLACES), 3, len(NUMBERS))
  return Question(*(
    (x + int(rng.integers(1, size))) % size if rng.random() < share else x
    for x, size in zip(question, sizes, strict=True)
  ))  # fmt: skip


def table(
  questions: int, world: int, shown: int = KINDS, garble: float = 0.0
) -> list[dict[str, Any]]:
  """Questions with rows to find, as many of each kind.

  A question whose query finds nothing is left out, and so is a number that can
  be written down.

  Args:
    questions: how many.
    world: seed of the tables and of the choice.
    shown: kinds whose demonstrations are right.
    garble: of the other demonstrations, see `garbled`; with it each question
      stands there COPIES times.

  Returns:
    Dicts of `prompt`, `gold`, `chosen` (the gold query between tags),
    `rejected` (that of the next question), `said` (the demonstration) and
    `database`.
  """
  from rlreward.rewards import sql

  base, rng = database(world), np.random.default_rng([world, 11])
  chosen: list[Question] = []
  for kind in range(KINDS):
    every, want = asked(kind), (questions + KINDS - 1 - kind) // KINDS
    found: list[Question] = []
    for i in rng.permutation(len(every)):
      result = sql.run(base, every[i].query()).rows
      told = {str(x) for row in result for x in row}
      if told - {"None", "0", *NUMBERS}:
        found.append(every[i])
      if len(found) == want:
        break
    chosen += found
  wrong = garble if shown < KINDS else 0.0
  out = []
  for _ in range(COPIES if wrong else 1):
    for i, q in enumerate(chosen):
      said = garbled(q, wrong, rng) if q.kind >= shown else q
      other = chosen[(i + 1) % len(chosen)]
      out.append(
        {"prompt": q.ask(), "gold": q.query(), "chosen": _written(q),
         "rejected": _written(other), "said": _written(said),
         "database": base}
      )  # fmt: skip
  return out


def _written(question: Question) -> str:
  return f"<think> </think> <answer> {question.query()} </answer>"
