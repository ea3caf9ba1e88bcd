"""Early and late means of a curve, standard errors of held-out rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlreward.report.read import Point, Run


def known(points: Sequence[Point]) -> list[float]:
  """The finite values."""
  return [y for _, y in points if y is not None]


def early(points: Sequence[Point]) -> float | None:
  """Mean of the first tenth, at least 5 values or what there is."""
  values = known(points)
  part = values[: max(5, len(values) // 10)]
  return sum(part) / len(part) if part else None


def late(points: Sequence[Point]) -> float | None:
  """Mean of the last tenth, at least 5 values or what there is."""
  return early(points[::-1])


def error(run: Run, step: int, before: int | None = None) -> float | None:
  """Standard error of the held-out reward, or of its change.

  The spread is that of the answers in `samples/eval_N.jsonl`, the count is
  that of the held-out prompts. A change pairs the answers to a prompt.

  Args:
    run: the run.
    step: of the evaluation.
    before: of the earlier evaluation, for a change.
  """
  rows = run.samples(f"eval_{step}")
  value = lambda row: row.get("reward") if row.get("valid", True) else None
  values = [value(row) for row in rows]
  if before is not None:
    old = run.samples(f"eval_{before}")
    pairs = zip(rows, old, values, map(value, old), strict=False)
    values = [
      None if a is None or b is None else a - b
      for new, was, a, b in pairs
      if new.get("prompt") == was.get("prompt")
    ]
  values = [v for v in values if isinstance(v, int | float)]
  n = len(values)
  if n < 3:
    return None
  mean = sum(values) / n
  spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
  return spread / math.sqrt(max(run.get("eval.prompts") or n, n))
