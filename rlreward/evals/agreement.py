"""How far a reward agrees with labels, and how far it follows length.

Values are NaN where there is no judgement; such rows enter nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Z95 = 1.959964  # two-sided 95 % of the normal
CLOSE = 1e-9


def plain(x: Any) -> float | None:
  """A float, None where it is not finite."""
  return float(x) if np.isfinite(x) else None


def best_threshold(value: np.ndarray, good: np.ndarray) -> float:
  """The cut with the best mean of both rates, in the widest gap of these.

    max_t  [P(value >= t | good) + P(value < t | bad)] / 2

  Args:
    value: f64[N].
    good: bool[N].

  Returns:
    t; where one class is absent, a cut that is right on the other.
  """
  seen = np.isfinite(value)
  value, good = value[seen], good[seen]
  if not value.size:
    return 0.5
  at = np.unique(value)
  cuts = np.concatenate([[at[0] - 0.5], (at[1:] + at[:-1]) / 2, [at[-1] + 0.5]])
  gaps = np.concatenate([[0.0], np.diff(at), [0.0]])
  upper = value[:, None] >= cuts
  hit = upper[good].mean(0) if good.any() else np.zeros(len(cuts))
  miss = (~upper[~good]).mean(0) if (~good).any() else np.zeros(len(cuts))
  rate = hit + miss
  best = np.flatnonzero(rate >= rate.max() - CLOSE)
  return float(cuts[best[np.argmax(gaps[best])]])


def confusion(
  value: np.ndarray, good: np.ndarray, threshold: float
) -> dict[str, Any]:
  """Counts at a threshold, with rates.

  Args:
    value: f64[N].
    good: bool[N].
    threshold: a value that reaches it is accepted.

  Returns:
    {"true_positive", "false_positive", "true_negative", "false_negative",
    "unjudged"}: counts; "false_positive_rate" of the bad rows and
    "false_negative_rate" of the good ones, None where there are none.
  """
  seen = np.isfinite(value)
  yes = seen & (value >= threshold)
  no = seen & ~yes
  count = lambda x: int(np.sum(x))
  out = {
    "true_positive": count(yes & good),
    "false_positive": count(yes & ~good),
    "true_negative": count(no & ~good),
    "false_negative": count(no & good),
    "unjudged": count(~seen),
  }
  bad = out["false_positive"] + out["true_negative"]
  fine = out["true_positive"] + out["false_negative"]
  return {
    **out,
    "false_positive_rate": out["false_positive"] / bad if bad else None,
    "false_negative_rate": out["false_negative"] / fine if fine else None,
  }


def concordance(value: np.ndarray, label: np.ndarray) -> float | None:
  """Share of pairs with different labels in the right order, ties half.

  The area under the ROC curve where labels are 0 and 1.

  Args:
    value: f64[N].
    label: f64[N].

  Returns:
    A share; None where no two labels differ.
  """
  seen = np.isfinite(value)
  value, label = value[seen], label[seen]
  above = label[:, None] > label
  if not above.any():
    return None
  ahead = np.sign(value[:, None] - value)[above]
  return float(np.mean((ahead + 1) / 2))


def _ranks(x: np.ndarray) -> np.ndarray:
  """Ranks from 1; equal values share the mean of theirs."""
  _, place, count = np.unique(x, return_inverse=True, return_counts=True)
  return (np.cumsum(count) - (count - 1) / 2)[place]


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
  """Correlation of ranks; None where one of the two is constant."""
  if len(x) < 2 or not (np.ptp(x) and np.ptp(y)):
    return None
  return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def interval(
  r: float | None, n: int, given: int = 0
) -> tuple[float, float] | None:
  """95 % interval of a Spearman correlation.

    tanh(atanh(r) +- 1.96 sqrt((1 + r^2 / 2) / (n - 3 - given)))

  Args:
    r: the correlation.
    n: rows.
    given: variables that are held fixed.

  Returns:
    (low, high); None where there are too few rows.

  Reference: Bonett and Wright, Sample size requirements for estimating
  Pearson, Kendall and Spearman correlations, Psychometrika 65 (2000).
  """
  if r is None or n <= 3 + given:
    return None
  z = math.atanh(min(max(r, CLOSE - 1), 1 - CLOSE))
  wide = Z95 * math.sqrt((1 + r * r / 2) / (n - 3 - given))
  return math.tanh(z - wide), math.tanh(z + wide)


def length_correlation(
  value: np.ndarray, size: np.ndarray, label: np.ndarray
) -> dict[str, Any]:
  """Spearman of reward and length, plain and given the label.

    r(v, s | l) = (r_vs - r_vl r_sl) / sqrt((1 - r_vl^2) (1 - r_sl^2))

  Args:
    value: f64[N].
    size: f64[N], characters of the answers.
    label: f64[N].

  Returns:
    {"rows", "spearman", "interval", "partial", "partial_interval"}. "partial"
    is the plain one where the label is constant, and None where the label
    decides value or length.
  """
  seen = np.isfinite(value)
  value, size, label = value[seen], size[seen], label[seen]
  n = len(value)
  raw = spearman(value, size)
  by_value, by_size = spearman(value, label), spearman(size, label)
  partial, given = raw, 0
  if raw is not None and by_value is not None and by_size is not None:
    left = (1 - by_value**2) * (1 - by_size**2)
    given = 1
    partial = None
    if left > CLOSE:
      partial = (raw - by_value * by_size) / math.sqrt(left)
  return {
    "rows": n,
    "spearman": raw,
    "interval": interval(raw, n),
    "partial": partial,
    "partial_interval": interval(partial, n, given),
  }
