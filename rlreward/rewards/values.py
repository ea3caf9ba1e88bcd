"""What a user's reward may return, and what is said when it is something else.

A judgement is a finite number, None (abstain) or named parts. Everything else
is an error that says so; none becomes a reward of zero.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlreward.errors import UserError

OK, ABSTAIN, TIMEOUT, ERROR = 0, 1, 2, 3
STATUS_NAMES = ("ok", "abstain", "timeout", "error")
EXPECTED = "a finite float, None to abstain, or a dict of named floats"


class RewardError(UserError):
  """A reward function that failed; names the function and the sample.

  Args:
    what: see `UserError`.
    why: see `UserError`.
    fix: see `UserError`.
    function: the function's name.
    sample: row of the batch, or None when it is the whole batch.
  """

  def __init__(
    self,
    what: str,
    why: str,
    fix: str,
    function: str = "",
    sample: int | None = None,
  ):
    super().__init__(what, why, fix)
    self.function, self.sample = function, sample


class BadValueError(Exception):
  """A returned value of the wrong form.

  Args:
    got: what was returned, in words.
    fix: how to return it rightly.
    expected: the form that was expected.
    whole: it is the whole batch that is wrong, not one sample.
  """

  def __init__(
    self, got: str, fix: str, expected: str = EXPECTED, whole: bool = False
  ):
    super().__init__(f"returned {got}, expected {expected}")
    self.got, self.fix, self.whole = got, fix, whole


class Judgement(NamedTuple):
  """One function's word on one sample.

  Attributes:
    value: None when there is no judgement.
    parts: named numbers that the value was made of; None where absent.
  """

  value: float | None
  parts: Mapping[str, float | None] = {}


class Unjudged(NamedTuple):
  """A function may return it in place of a value, to say why there is none.

  Attributes:
    status: TIMEOUT or ERROR.
    why: in words.
  """

  status: int
  why: str


class UnjudgedError(Exception):
  """What a function said of a sample that it could not judge."""


def number(value: Any) -> float:
  """A returned scalar as a float.

  Args:
    value: bool, int, float, or a 0-d array of numpy, jax or torch.

  Returns:
    The float, finite also as f32.

  Raises:
    BadValueError: anything else.
  """
  if isinstance(value, str):
    raise BadValueError(
      f"the string {short(value)}", "convert it with float(...)"
    )
  if isinstance(value, (bool, np.bool_, numbers.Real)):
    out = float(value)
  else:
    out = _zero_dim(value)
  if math.isnan(out):
    raise BadValueError("NaN", "return None where there is no judgement")
  if math.isinf(out) or abs(out) > float(np.finfo(np.float32).max):
    raise BadValueError(
      f"{out}, which is infinite in 32 bits", "clip the reward to a range"
    )
  return out


def judgement(value: Any) -> Judgement:
  """Reads what a per-sample function returned.

  A dict's value is its "value" entry, else the sum of its parts, which is no
  judgement when a part is None.

  Args:
    value: number, None or dict of numbers.

  Raises:
    BadValueError: anything else.
  """
  if value is None:
    return Judgement(None)
  if not isinstance(value, Mapping):
    return Judgement(number(value))
  if not value:
    raise BadValueError("an empty dict", "name at least one component")
  parts: dict[str, float | None] = {}
  for name, part in value.items():
    if not isinstance(name, str):
      raise BadValueError(
        f"a dict with the key {short(name)}", "use strings as names"
      )
    try:
      parts[name] = None if part is None else number(part)
    except BadValueError as error:
      raise BadValueError(f"{error.got} as {name!r}", error.fix) from None
  if "value" in parts:
    return Judgement(parts.pop("value"), parts)
  known = [p for p in parts.values() if p is not None]
  return Judgement(sum(known) if len(known) == len(parts) else None, parts)


def judgements(
  value: Any, n: int
) -> list[Judgement | BadValueError | Unjudged]:
  """Reads what a batched function returned.

  Args:
    value: sequence of n entries as of a per-sample function, a one-axis array
      of n numbers, or a dict of such sequences.
    n: samples in the batch.

  Returns:
    One entry per sample; a bad entry is given back as its error, an `Unjudged`
    as it is.

  Raises:
    BadValueError: not n entries.
  """
  if isinstance(value, Mapping):
    if not value:
      fix = "name at least one component"
      raise BadValueError("an empty dict", fix, f"{n} values a name", True)
    columns = {k: _entries(v, n, f" as {k!r}") for k, v in value.items()}
    rows = [{k: v[i] for k, v in columns.items()} for i in range(n)]
  else:
    rows = _entries(value, n, "")
  out: list[Judgement | BadValueError | Unjudged] = []
  for row in rows:
    try:
      out.append(row if isinstance(row, Unjudged) else judgement(row))
    except BadValueError as error:
      out.append(error)
  return out


def _entries(value: Any, n: int, name: str) -> Sequence[Any]:
  expected = f"a sequence of {n}, one entry per sample"
  fix = f"return a list with one float or None for each of the {n} samples"
  if value is None or isinstance(value, (str, bytes, numbers.Number)):
    raise BadValueError(f"{short(value)}{name}", fix, expected, True)
  if not isinstance(value, (list, tuple)):
    shape = _shape(value)
    if shape is None:
      raise BadValueError(f"a {kind(value)}{name}", fix, expected, True)
    if len(shape) != 1:
      raise BadValueError(
        f"an array of shape {shape}{name}", fix, expected, True
      )
    value = np.asarray(value).tolist()
  if len(value) != n:
    raise BadValueError(f"{len(value)} entries{name}", fix, expected, True)
  return value


def _zero_dim(value: Any) -> float:
  shape = _shape(value)
  if shape is None:
    seq = isinstance(value, (list, tuple))
    raise BadValueError(
      f"a {kind(value)}" + (f" of {len(value)} entries" if seq else ""),
      "name the only parameter `batch` if the function is batched"
      if seq
      else "return a number",
    )
  if shape:
    raise BadValueError(
      f"an array of shape {shape}", "reduce it to one number per sample"
    )
  try:
    return float(value)
  except (TypeError, ValueError):
    raise BadValueError(
      f"a {kind(value)} {short(value)}", "return a number"
    ) from (None)


def _shape(value: Any) -> tuple[int, ...] | None:
  shape = getattr(value, "shape", None)
  return None if shape is None else tuple(shape)


def kind(value: Any) -> str:
  """The type of a value, in words."""
  return type(value).__name__


def said(error: BaseException, size: int = 200) -> str:
  """The first line of an error's message."""
  lines = str(error).strip().splitlines()
  return lines[0][:size] if lines else kind(error)


def short(value: Any, size: int = 60) -> str:
  """The start of a value's repr on one line."""
  text = repr(value)
  return text if len(text) <= size else text[: size - 3] + "..."
