"""Tables, questions and gold queries of the toy SQL task."""

from __future__ import annotations

import functools
import itertools
from typing import Any

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
KINDS = 5  # of questions, as many of each
MOST = 150
PEOPLE, SHOPS, SALES = 40, 6, 60

_FILTERS = (("people", "town"), ("people", "age"))
_JOINS = {"people": "buyer = pid", "shops": "shop = sid"}


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


def asked() -> list[list[tuple[str, str]]]:
  """(question, gold query) of each kind."""
  tests = [f"{op} {v}" for op in "=<>" for v in NUMBERS]
  where = [(t, f"{c} {test}") for t, c in _FILTERS for test in tests]
  shops = [("shops", f"{c} {x}") for c in ("city", "size") for x in tests]
  joined = [(t, w, f"FROM sales JOIN {t} ON {_JOINS[t]} WHERE {w}")
            for t, w in [*where, *shops]]  # fmt: skip
  return [
    [(f"list pid of {t} with {w}", f"SELECT pid FROM {t} WHERE {w}")
     for t, w in where],
    [(f"number of {t} with {w}", f"SELECT count(*) FROM {t} WHERE {w}")
     for t, w in where],
    [(f"list price of sales of {t} with {w}", f"SELECT price {rest}")
     for t, w, rest in joined],
    [(f"total price of sales of {t} with {w}", f"SELECT sum( price ) {rest}")
     for t, w, rest in joined],
    [(f"largest price of sales of {t} with {w}", f"SELECT max( price ) {rest}")
     for t, w, rest in joined],
  ]  # fmt: skip


def table(questions: int, world: int) -> list[dict[str, Any]]:
  """Questions with rows to find, as many of each kind.

  A question whose query finds nothing is left out, and so is a number that can
  be written down.

  Args:
    questions: how many.
    world: seed of the tables and of the choice.

  Returns:
    Dicts of `prompt`, `gold`, `chosen` (the gold query between tags),
    `rejected` (that of the next question) and `database`.
  """
  from rlreward.rewards import sql

  base, rng = database(world), np.random.default_rng([world, 11])
  chosen: list[tuple[str, str]] = []
  for kind, every in enumerate(asked()):
    want = (questions + KINDS - 1 - kind) // KINDS
    found = []
    for i in rng.permutation(len(every)):
      result = sql.run(base, every[i][1]).rows
      told = {str(x) for row in result for x in row}
      if told - {"None", "0", *NUMBERS}:
        found.append(every[i])
      if len(found) == want:
        break
    chosen += found
  written = [f"<think> </think> <answer> {gold} </answer>"
             for _, gold in chosen]  # fmt: skip
  return [
    {"prompt": ask, "gold": gold, "chosen": written[i],
     "rejected": written[(i + 1) % len(written)], "database": base}
    for i, (ask, gold) in enumerate(chosen)
  ]  # fmt: skip
