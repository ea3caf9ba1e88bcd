"""What a group of answers learns from labels that are sometimes turned around.

Answers to a question are right with probability q. The push of a group towards
being right is the gradient of the log-odds of q,

  g = (1/G) sum_i A_i (x_i - q) = (1/G) sum_i A_i x_i,  x_i = 1{answer i right}

with A_i the advantages from the observed labels (they add up to 0). The law of
g is listed: k of G answers are right, a of them and b of the others turned.
For whole questions E g shrinks by 1 - 2 p and E g^2 stays. For single answers

  E g = (1 - 2 p) q (1 - q) (E[A | y = 1] - E[A | y = 0])

with y the observed label; what is in brackets last depends on the rate of ones
that is observed, q' = (1 - 2 p) q + p, alone. Where right answers are rare a
scaled group pays most for them, and turned labels hide that they are rare: the
direction shrinks by more than 1 - 2 p. Without the scale both shrink alike.

Reference: the noise is that of arXiv 2505.22653; the law is derived here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Push(NamedTuple):
  """Moments of the push g of one group.

  Attributes:
    mean: E g.
    sd: its deviation.
    square: E A^2 of an answer.
    silent: chance that all observed labels are equal and nothing is learnt.
  """

  mean: float
  sd: float
  square: float
  silent: float


def advantages(
  size: int, *, scaled: bool = True, ddof: int = 1, eps: float = 1e-6
) -> np.ndarray:
  """A of an answer labelled 0 and of one labelled 1, for m ones of G labels.

  Args:
    size: G, at least 2.
    scaled: over the deviation of the group (GRPO), else not (Dr. GRPO).
    ddof: of that deviation.
    eps: added to it.

  Returns:
    f64[2, G + 1]; 0 where all labels are equal.
  """
  m = np.arange(size + 1)
  sd = np.sqrt(m * (size - m) / (size * (size - ddof)))
  over = np.where((m > 0) & (m < size), sd + eps if scaled else 1.0, np.inf)
  return np.stack([-m / size, 1 - m / size]) / over


def push(
  q: float, p: float, size: int, unit: str = "sample", scaled: bool = True
) -> Push:
  """The push of a group, listed over all right answers and flips.

  Args:
    q: chance that an answer is right.
    p: chance of a flip.
    size: G, at least 2.
    unit: "prompt": one flip for the group; "sample": one for each answer.
    scaled: see `advantages`.

  Raises:
    ValueError: an unknown unit.
  """
  if unit not in ("prompt", "sample"):
    raise ValueError(f"unit={unit!r}; choose 'prompt' or 'sample'")
  a = advantages(size, scaled=scaled)
  mean = second = square = silent = 0.0
  for k in range(size + 1):
    for lost, gained, chance in _flips(k, size, p, unit):
      weight = _binomial(k, size, q) * chance
      m = k - lost + gained
      g = ((k - lost) * a[1, m] + lost * a[0, m]) / size
      mean += weight * g
      second += weight * g * g
      square += weight * (m * a[1, m] ** 2 + (size - m) * a[0, m] ** 2) / size
      silent += weight * (m in (0, size))
  sd = math.sqrt(max(second - mean * mean, 0.0))
  return Push(mean, sd, square, silent)


def shrink(q: float, p: float, size: int, unit: str = "sample") -> float:
  """E g with flips over E g without: what is left of the direction.

  Args:
    q: chance that an answer is right, inside (0, 1).
    p: chance of a flip.
    size: G.
    unit: see `push`.
  """
  return push(q, p, size, unit).mean / push(q, 0.0, size, unit).mean


def _flips(k: int, size: int, p: float, unit: str):
  """(right answers turned, wrong ones turned, chance) of a group of k right."""
  if unit == "prompt":
    return [(0, 0, 1 - p), (k, size - k, p)]
  return [
    (a, b, _binomial(a, k, p) * _binomial(b, size - k, p))
    for a in range(k + 1)
    for b in range(size - k + 1)
  ]


def _binomial(k: int, n: int, p: float) -> float:
  return math.comb(n, k) * p**k * (1 - p) ** (n - k)
