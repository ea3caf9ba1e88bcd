"""Levels of difficulty of a task, and training that goes through them.

A task with levels has the fields `level` and `stages` and two functions:
`levels()`, the fields that each level sets, easy to hard, and `at(level)`, the
whole section of one. Fields that a config sets itself win over its level.
`stages` is "0,1@200,3@500": level 0 from the start, level 1 from batch 200 and
level 3 from batch 500 on. With `advance=0.7` it is "0,1,3", and the next level
begins when 0.7 of the answers to the last `patience` steps of the one before
were right. The level of a batch depends on its number, or on these rates, which
are part of the iterator's state: a run that is resumed sees the batches of one
that never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import data

Ladder = Sequence[Mapping[str, Any]]
FIELDS = {
  "level": 0,  # of `levels()`; fields that are set here win over it
  "stages": "",  # "0,1@200": levels of training batches and their first ones
  "advance": 0.0,  # share of right answers that ends a stage of "0,1,2"; 0 = by
  "patience": 4,  # batch; it is the mean of so many steps of the stage
}


class Stage(NamedTuple):
  """A level and the number of the first batch that is of it."""

  first: int
  level: int


class Stream(Protocol):
  """An iterator whose batch k depends on k alone."""

  def __next__(self) -> Any: ...

  def get_state(self) -> dict[str, Any]: ...

  def set_state(self, state: Mapping[str, Any], /) -> None: ...


def at(defaults: Mapping[str, Any], ladder: Ladder, level: Any) -> dict:
  """A task's section at a level.

  Args:
    defaults: of the task.
    ladder: of its `levels`.
    level: place in the ladder.

  Raises:
    UserError: there is no such level.
  """
  return {**defaults, **ladder[_known(ladder, level)], "level": int(level)}


def section(config: Any, defaults: Mapping[str, Any], ladder: Ladder) -> dict:
  """A config section with what its level says, where it says nothing itself.

  Args:
    config: mapping or ConfigDict; None for all defaults.
    defaults: every field there is.
    ladder: of the task's `levels`.

  Raises:
    UserError: an unknown field or level.
  """
  level = data.section(config, defaults)["level"]
  return data.section(config, at(defaults, ladder, level))


def plan(
  config: Any, defaults: Mapping[str, Any], ladder: Ladder
) -> tuple[tuple[Stage, ...], dict[int, dict[str, Any]]]:
  """The stages of training and the section of each of their levels.

  Args:
    config: mapping or ConfigDict; None for all defaults.
    defaults: every field there is.
    ladder: of the task's `levels`.

  Returns:
    (stages, {level: section}); without `stages` the one of `level`.

  Raises:
    UserError: an unknown field or level, stages that cannot be read, or a
      rate that cannot be.
  """
  c = section(config, defaults, ladder)
  _check_rates(c)
  stages = parse(c["stages"], ladder, bool(c["advance"]))
  stages = stages or (Stage(0, int(c["level"])),)
  given = {} if config is None else dict(config.items())
  return stages, {
    s.level: section({**given, "level": s.level}, defaults, ladder)
    for s in stages
  }


def parse(
  text: Any, ladder: Ladder, by_rate: bool = False
) -> tuple[Stage, ...]:
  """Reads `stages`.

  Args:
    text: "0,1@200", or "0,1" where stages end by their rate; "" has none.
    ladder: of the task's `levels`.
    by_rate: see `text`; the first batches are all 0 then.

  Raises:
    UserError: it is of another form, or its batches do not rise from 0.
  """
  out: list[Stage] = []
  for part in str(text).split(",") if text else ():
    level, _, first = part.partition("@")
    if not (level.strip().isdecimal() and (first or "0").strip().isdecimal()):
      raise _bad(text, f"{part!r} is no level@batch")
    out.append(Stage(int(first or 0), _known(ladder, int(level))))
  firsts = [s.first for s in out]
  if by_rate:
    if any(firsts) or "@" in str(text):
      raise UserError(
        f"stages={text!r} with advance above 0",
        "a stage begins where the rate of the one before says so",
        "leave the batches out, as in '0,1,2', or set advance=0",
      )
    return tuple(out)
  if firsts and (firsts[0] or firsts != sorted(set(firsts))):
    raise _bad(text, f"its first batches are {firsts}")
  return tuple(out)


def level_of(stages: Sequence[Stage], batch: int) -> int:
  """The level of a batch.

  Args:
    stages: rising from batch 0.
    batch: its number.
  """
  return [s.level for s in stages if s.first <= batch][-1]


class Staged:
  """Batches of the level whose turn it is; batch k is batch k of that level.

  Args:
    stages: rising from batch 0.
    opened: level -> its batches.
  """

  def __init__(self, stages: Sequence[Stage], opened: Callable[[int], Stream]):
    self._stages = tuple(stages)
    self._streams = {s.level: opened(s.level) for s in stages}
    self._next = 0

  def __iter__(self) -> Iterator[Any]:
    return self

  @property
  def level(self) -> int:
    """The level of the next batch."""
    return level_of(self._stages, self._next)

  def __next__(self) -> Any:
    stream = self._streams[self.level]
    stream.set_state({**stream.get_state(), "next_batch": self._next})
    self._next += 1
    return next(stream)

  def _facts(self) -> dict[str, Any]:
    """What the batches depend on beside their number."""
    facts: dict[str, Any] = {"stages": [list(s) for s in self._stages]}
    for level, stream in self._streams.items():
      state = stream.get_state()
      del state["next_batch"]
      facts |= {f"{k} of level {level}": v for k, v in state.items()}
    return facts

  def get_state(self) -> dict[str, Any]:
    """The position as plain values; the next batch is `next_batch`."""
    return {"next_batch": self._next, **self._facts()}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes to a position.

    Args:
      state: of `get_state`.

    Raises:
      UserError: the state is of other batches.
    """
    data.check_state(state, self._facts())
    self._next = int(state["next_batch"])


class Adaptive(Staged):
  """Batches of a level until it is mastered, then those of the next one.

  Args:
    stages: in their order.
    opened: level -> its batches.
    advance: share of right answers that ends a stage.
    patience: steps whose mean it is, all of them of the stage.
  """

  def __init__(
    self,
    stages: Sequence[Stage],
    opened: Callable[[int], Stream],
    advance: float,
    patience: int,
  ):
    super().__init__(stages, opened)
    self._advance, self._patience = advance, patience
    self._place, self._rates = 0, []

  @property
  def level(self) -> int:
    """The level of the next batch."""
    return self._stages[self._place].level

  def observe(self, rate: float) -> None:
    """Takes note of a step; the batches after it may be of the next level.

    Args:
      rate: share of its answers that were right; NaN where none was judged.
    """
    if not math.isfinite(rate):
      return
    self._rates = [*self._rates, float(rate)][-self._patience :]
    full = len(self._rates) == self._patience
    mastered = full and sum(self._rates) / self._patience >= self._advance
    if mastered and self._place + 1 < len(self._stages):
      self._place, self._rates = self._place + 1, []

  def _facts(self) -> dict[str, Any]:
    rule = {"advance": self._advance, "patience": self._patience}
    return {**super()._facts(), **rule}

  def get_state(self) -> dict[str, Any]:
    """The position, the stage, and the rates of its last steps."""
    own = {"stage": self._place, "rates": list(self._rates)}
    return {**super().get_state(), **own}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes to a position.

    Args:
      state: of `get_state`.

    Raises:
      UserError: the state is of other batches.
    """
    super().set_state(state)
    self._place = int(state["stage"])
    self._rates = [float(r) for r in state["rates"]]


def training(
  c: Mapping[str, Any],
  stages: Sequence[Stage],
  opened: Callable[[int], Stream],
  judged: bool,
) -> Stream:
  """Training batches that go through stages, as a section says.

  Args:
    c: section of the task.
    stages: of `plan`.
    opened: level -> its batches.
    judged: whether answers to them are judged, so that there is a rate.

  Raises:
    UserError: stages that end by a rate that there is not.
  """
  if len(stages) == 1:
    return opened(stages[0].level)
  if not c["advance"]:
    return Staged(stages, opened)
  if not judged:
    raise UserError(
      f"advance={c['advance']} with training on given answers",
      "no answer is judged, so no level is ever mastered",
      "name batches instead, such as advance=0 and stages='0,1@200'",
    )
  return Adaptive(stages, opened, float(c["advance"]), int(c["patience"]))


def _check_rates(c: Mapping[str, Any]) -> None:
  advance, patience = c["advance"], c["patience"]
  if not isinstance(advance, (int, float)) or not 0 <= advance <= 1:
    raise UserError(
      f"advance={advance!r}",
      "it is a share of right answers",
      "use a number from 0 (stages by batch) to 1, such as 0.7",
    )
  whole = isinstance(patience, (int, np.integer)) and patience is not True
  if not whole or patience < 1:
    raise UserError(
      f"patience={patience!r}",
      "it is the number of steps whose rate is averaged",
      "use a whole number of 1 or more",
    )


def _known(ladder: Ladder, level: Any) -> int:
  whole = isinstance(level, (int, np.integer)) and not isinstance(level, bool)
  if not whole or not 0 <= level < len(ladder):
    raise UserError(
      f"level={level!r}",
      f"the task has the levels 0 to {len(ladder) - 1}",
      "use one of them, or set the fields of difficulty themselves",
    )
  return int(level)


def _bad(text: Any, what: str) -> UserError:
  return UserError(
    f"stages={text!r}: {what}",
    "it lists levels and the first batch of each, the first of them from 0",
    "write it as '0,1@200,2@500'",
  )
