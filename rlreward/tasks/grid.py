"""Counting in a grid: "#:#.@/.##=" is answered by "3" and the stop token.

The prompt names a mark and shows rows of cells; the answer is how many cells
have it. Difficulty is the size of the grid and the number of other marks. The
count is drawn uniformly from 0 to height * width, so no constant answer is
right more often than 1 in height * width + 1 before prompts are held out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlreward.tasks import answered, curriculum
from rlreward.tasks.answered_rows import Item, Sizes
from rlreward.types import Task

MARKS = "#@%&"
EMPTY = "."


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "grid",
    **answered.FIELDS,
    "height": 2,
    "width": 2,
    "kinds": 1,  # of marks; the prompt asks for one of them
  }


def levels() -> tuple[dict[str, Any], ...]:
  """Fields of each level, easy to hard."""
  return (
    {"height": 2, "width": 2, "kinds": 1},
    {"height": 3, "width": 3, "kinds": 1},
    {"height": 3, "width": 4, "kinds": 2},
    {"height": 5, "width": 5, "kinds": 3},
    {"height": 8, "width": 8, "kinds": 4},
  )


def at(level: int) -> dict[str, Any]:
  """The task's section at a level."""
  return curriculum.at(defaults(), levels(), level)


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task: exact match of the count and its stop token.

  Args:
    config: section with the fields of `defaults`, None for all of them.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task, see `answered.task`.

  Raises:
    UserError: fields that cannot work.
  """
  world = answered.World(
    defaults(), levels(), f"0123456789{MARKS}{EMPTY}:/=", _check, _sizes,
    _draw, lambda c: 1.0 / (c["height"] * c["width"] + 1),
  )  # fmt: skip
  return answered.task(world, config, process_index, process_count)


def _sizes(c: Mapping[str, Any]) -> Sizes:
  cells = c["height"] * c["width"]
  return Sizes(2 + cells + (c["height"] - 1) + 1, len(str(cells)) + 1)


def _draw(c: Mapping[str, Any], rng: np.random.Generator) -> Item:
  cells = c["height"] * c["width"]
  mark = MARKS[int(rng.integers(c["kinds"]))]
  rest = [EMPTY, *(m for m in MARKS[: c["kinds"]] if m != mark)]
  count = int(rng.integers(cells + 1))
  flat = [rest[i] for i in rng.integers(0, len(rest), cells)]
  for place in rng.permutation(cells)[:count]:
    flat[place] = mark
  rows = [
    "".join(flat[i : i + c["width"]]) for i in range(0, cells, c["width"])
  ]
  step = 1 if rng.random() < 0.5 else -1
  wrong = count + (step if 0 <= count + step <= cells else -step)
  return Item(f"{mark}:{'/'.join(rows)}=", str(count), str(wrong))


def _check(c: Mapping[str, Any]) -> None:
  answered.whole("height", c["height"], 1, 16)
  answered.whole("width", c["width"], 1, 16)
  answered.whole("kinds", c["kinds"], 1, len(MARKS))
