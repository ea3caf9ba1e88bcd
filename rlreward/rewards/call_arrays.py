"""Tool calls as padded arrays of ids, for `ops.calls`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from rlreward.errors import UserError
from rlreward.ops.calls import Calls
from rlreward.rewards import calls as host


def encode(
  *sides: Sequence[Sequence[host.Call]],
  most_calls: int = 8,
  most_arguments: int = 16,
) -> tuple[Calls, ...]:
  """Lists of calls as arrays; equal names, keys and values have equal ids.

  Args:
    *sides: each N lists of calls, such as those of the policy and the gold
      ones; they share their ids.
    most_calls: C.
    most_arguments: P.

  Returns:
    Calls of numpy arrays, one for each side.

  Raises:
    UserError: a row with more calls or arguments than fit.
  """
  ids: dict[Hashable, int] = {}
  number = lambda item: ids.setdefault(item, len(ids) + 1)
  out = []
  for rows in sides:
    shape = (len(rows), most_calls, most_arguments)
    name, there = np.zeros(shape[:2], np.int32), np.zeros(shape[:2], bool)
    key, value = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    filled = np.zeros(shape, bool)
    for i, row in enumerate(rows):
      _check(i, row, most_calls, most_arguments)
      for j, call in enumerate(row):
        name[i, j], there[i, j] = number(("name", call.name)), True
        for k, (word, item) in enumerate(call.arguments.items()):
          key[i, j, k] = number(("key", word))
          value[i, j, k] = number(("value", host.frozen(item)))
          filled[i, j, k] = True
    fields: Any = (name, key, value, there, filled)
    out.append(Calls(*fields))
  return tuple(out)


def _check(i: int, row, most_calls: int, most_arguments: int) -> None:
  widest = max((len(c.arguments) for c in row), default=0)
  if len(row) > most_calls or widest > most_arguments:
    raise UserError(
      f"row {i} has {len(row)} calls, the widest of {widest} arguments",
      f"the arrays hold {most_calls} calls of {most_arguments} arguments",
      "raise most_calls or most_arguments, or score this batch on the host",
    )
