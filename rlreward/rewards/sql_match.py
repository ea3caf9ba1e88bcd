"""Whether two results of queries are the same. Standard library only."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import Any

Rows = Sequence[tuple]
MOST_PAIRED = 300  # rows that are paired exactly where sorting does not do
MOST_ORDERS = 2000  # of columns that are tried


def same(
  gold: Rows,
  found: Rows,
  ordered: bool = False,
  tolerance: float = 1e-6,
  columns: str = "same",
) -> bool:
  """Whether a result is the gold result.

  Rows are a multiset, or a list where the gold is ordered. NULL is NULL; whole
  numbers are compared exactly, others within the tolerance; a text is never a
  number. Names of columns do not count.

  Args:
    gold: rows.
    found: rows.
    ordered: whether their order counts.
    tolerance: relative, and its thousandth absolute.
    columns: "same" order, or "any".
  """
  if len(gold) != len(found):
    return False
  if not gold:
    return True
  width = len(gold[0])
  if width != len(found[0]):
    return False
  if _equal(gold, found, ordered, tolerance):
    return True
  if columns != "any" or width == 1:
    return False
  alone = lambda rows, j: [(r[j],) for r in rows]
  fits = [
    [
      j
      for j in range(width)
      if _equal(alone(gold, i), alone(found, j), ordered, tolerance)
    ]
    for i in range(width)
  ]
  tried = 0
  stack: list[tuple[int, ...]] = [()]
  while stack and tried < MOST_ORDERS:
    order = stack.pop()
    tried += 1
    if len(order) == width:
      if _equal(gold, [tuple(r[j] for j in order) for r in found], ordered,
                tolerance):  # fmt: skip
        return True
    else:
      stack += [(*order, j) for j in fits[len(order)] if j not in order]
  return False


def cell(a: Any, b: Any, tolerance: float) -> bool:
  """Whether two values are the same.

  Args:
    a: None, int, float, str or bytes.
    b: likewise.
    tolerance: see `same`.
  """
  if isinstance(a, int | float) and isinstance(b, int | float):
    if isinstance(a, int) and isinstance(b, int):
      return a == b
    try:
      return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance / 1000)
    except OverflowError:
      return False
  return type(a) is type(b) and a == b


def _row(a: tuple, b: tuple, tolerance: float) -> bool:
  return all(cell(x, y, tolerance) for x, y in zip(a, b, strict=True))


def _equal(gold: Rows, found: Rows, ordered: bool, tolerance: float) -> bool:
  if ordered:
    return all(_row(a, b, tolerance) for a, b in zip(gold, found, strict=True))
  # Numbers apart, equal rows have equal signatures: pair within each.
  ours, theirs = _groups(gold), _groups(found)
  if {k: len(v) for k, v in ours.items()} != {
    k: len(v) for k, v in theirs.items()
  }:
    return False
  return all(_paired(ours[k], theirs[k], tolerance) for k in ours)


def _groups(rows: Rows) -> dict[tuple, list[tuple]]:
  out = collections.defaultdict(list)
  for row in rows:
    number = [isinstance(x, int | float) for x in row]
    key = tuple(
      (n, None if n else x, None if n else type(x))
      for x, n in zip(row, number, strict=True)
    )
    out[key].append(tuple(x for x, n in zip(row, number, strict=True) if n))
  return out


def _paired(a: list[tuple], b: list[tuple], tolerance: float) -> bool:
  """Whether the rows can be paired off, equal within the tolerance."""
  a, b = sorted(a), sorted(b)
  if all(_row(x, y, tolerance) for x, y in zip(a, b, strict=True)):
    return True
  if len(a) > MOST_PAIRED or len(a[0]) == 1:
    return False
  # Rounding may have reordered the sorted rows: an exact matching decides.
  near = [[j for j, y in enumerate(b) if _row(x, y, tolerance)] for x in a]
  owner: dict[int, int] = {}

  def place(i: int, seen: set[int]) -> bool:
    for j in near[i]:
      if j not in seen:
        seen.add(j)
        if j not in owner or place(owner[j], seen):
          owner[j] = i
          return True
    return False

  return all(place(i, set()) for i in range(len(a)))
