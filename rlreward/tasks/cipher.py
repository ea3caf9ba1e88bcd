"""Cipher translation: "dacb>abba=" is answered by "daad" and the stop token.

The key stands in the prompt: with a substitution the letter that each letter
of the alphabet becomes, with a shift the one that "a" becomes. ">" asks to
encode, "<" to decode. Difficulty is the size of the alphabet and the length of
the text; a policy that ignores the prompt is right with letters^-length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import answered, curriculum
from rlreward.tasks.answered_rows import Item, Sizes
from rlreward.types import Task

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIGNS = {"encode": ">", "decode": "<"}
KEYS = ("shift", "substitution")


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "cipher",
    **answered.FIELDS,
    "key": "shift",  # shift | substitution
    "letters": 4,  # of the alphabet
    "length": 2,  # of the text
    "direction": "encode",  # encode | decode
  }


def levels() -> tuple[dict[str, Any], ...]:
  """Fields of each level, easy to hard."""
  return (
    {"key": "shift", "letters": 4, "length": 2},
    {"key": "substitution", "letters": 4, "length": 3},
    {"key": "substitution", "letters": 8, "length": 4},
    {"key": "substitution", "letters": 16, "length": 6},
    {"key": "substitution", "letters": 26, "length": 8},
  )


def at(level: int) -> dict[str, Any]:
  """The task's section at a level."""
  return curriculum.at(defaults(), levels(), level)


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task: exact match of the translation and its stop token.

  Args:
    config: section with the fields of `defaults`, None for all of them.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task, see `answered.task`; `share` is a component of its score, the share
    of letters that are right.

  Raises:
    UserError: fields that cannot work.
  """
  world = answered.World(
    defaults(), levels(), LETTERS + "<>=", _check, _sizes, _draw,
    lambda c: float(c["letters"]) ** -c["length"],
  )  # fmt: skip
  return answered.task(world, config, process_index, process_count)


def translate(text: str, table: str, direction: str = "encode") -> str:
  """A text under a substitution.

  Args:
    text: letters of the alphabet.
    table: what its letters become, in order.
    direction: "encode" or "decode", which goes back.
  """
  plain = LETTERS[: len(table)]
  pair = (plain, table) if direction == "encode" else (table, plain)
  return text.translate(str.maketrans(*pair))


def shifted(letters: int, by: int) -> str:
  """The substitution table of a shift: "bca" for 3 letters by 1."""
  return LETTERS[by:letters] + LETTERS[:by]


def _sizes(c: Mapping[str, Any]) -> Sizes:
  key = 1 if c["key"] == "shift" else c["letters"]
  return Sizes(key + c["length"] + 2, c["length"] + 1)


def _draw(c: Mapping[str, Any], rng: np.random.Generator) -> Item:
  k, n = c["letters"], c["length"]
  if c["key"] == "shift":
    table = shifted(k, int(rng.integers(k)))
    shown = table[0]
  else:
    table = shown = "".join(LETTERS[i] for i in rng.permutation(k))
  text = "".join(LETTERS[i] for i in rng.integers(0, k, n))
  answer = translate(text, table, c["direction"])
  place = int(rng.integers(n))
  letter = LETTERS[answered.other(rng, k, LETTERS.index(answer[place]))]
  wrong = answer[:place] + letter + answer[place + 1 :]
  ask = f"{shown}{SIGNS[c['direction']]}{text}="
  return Item(ask, answer, wrong)


def _check(c: Mapping[str, Any]) -> None:
  answered.whole("letters", c["letters"], 2, len(LETTERS))
  answered.whole("length", c["length"], 1, 64)
  for name, known in {"key": KEYS, "direction": tuple(SIGNS)}.items():
    if c[name] not in known:
      raise UserError(
        f"{name}={c[name]!r}",
        "it says how a text is translated",
        f"use one of: {', '.join(known)}",
      )
