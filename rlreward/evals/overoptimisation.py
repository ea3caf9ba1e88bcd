"""Gold against KL as two coefficients: how well a proxy lets itself be used.

With d = sqrt(KL) and gold measured from the base,

  best of n   gold(d) = d (alpha - beta d)
  RL          gold(d) = d (alpha - beta log d)

alpha is what the proxy is worth at first, beta how soon it is used up. Both are
linear in (alpha, beta), so the fit is least squares in closed form.

Reference: Scaling Laws for Reward Model Overoptimization, arXiv 2210.10760.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlreward.errors import UserError
from rlreward.evals import intervals

FORMS = ("best_of_n", "rl")


class Fit(NamedTuple):
  """A fitted law.

  Attributes:
    form: of FORMS.
    alpha: slope in sqrt(KL), reward / sqrt(nats).
    beta: what bends it down; in the same unit (rl) or reward / nats.
    r2: 1 - residual / total sum of squares, about the weighted mean.
    low: (alpha, beta), lower ends of the interval; NaN without one.
    high: upper ends.
  """

  form: str
  alpha: float
  beta: float
  r2: float
  low: tuple[float, float] = (math.nan, math.nan)
  high: tuple[float, float] = (math.nan, math.nan)


def fit(
  kl: np.ndarray,
  gold: np.ndarray,
  form: str,
  *,
  clusters: Sequence[object] | np.ndarray | None = None,
  resamples: int = 0,
  seed: int = 0,
  level: float = 0.95,
) -> Fit:
  """The law that is nearest to points of a path, with its bootstrap interval.

  Args:
    kl: [N], nats of a response to the base; points at 0 say nothing and are
      left out.
    gold: [N], mean gold reward minus that of the base.
    form: "best_of_n" or "rl".
    clusters: [N], what is drawn as a whole, e.g. the seed; None draws points.
    resamples: of the interval; 0 for none.
    seed: of the resamples.
    level: coverage.

  Returns:
    Fit.

  Raises:
    UserError: an unknown form, or too few points for two coefficients.
  """
  if form not in FORMS:
    raise UserError(
      f"form={form!r}",
      "best-of-n and RL use a proxy up at different rates",
      f"use one of: {', '.join(FORMS)}",
    )
  kl, gold = np.asarray(kl, float), np.asarray(gold, float)
  known = (kl > 0) & np.isfinite(kl) & np.isfinite(gold)
  x, y = basis(kl[known], form), gold[known]
  if len(set(kl[known].tolist())) < 2:
    raise UserError(
      f"{int(known.sum())} points with a KL above 0, all at the same KL",
      "two coefficients need two of them",
      "evaluate more often along the path",
    )
  alpha, beta, r2 = _solve(x, y, np.ones(len(y)))
  found = Fit(form, alpha, beta, r2)
  if not resamples:
    return found
  of = np.arange(len(kl)) if clusters is None else np.asarray(clusters)

  def statistic(times: np.ndarray) -> dict[str, float]:
    a, b, _ = _solve(x, y, times)
    return {"alpha": a, "beta": b}

  names = ("alpha", "beta")
  band = intervals.bootstrap(
    statistic, np.zeros(len(y)), of[known], resamples, seed, level
  )
  low, high = (tuple(band[n][i] for n in names) for i in range(2))
  return found._replace(low=low, high=high)


def basis(kl: np.ndarray, form: str) -> np.ndarray:
  """f64[N, 2]: what alpha and -beta multiply; 0 at a KL of 0.

  Args:
    kl: [N], nats.
    form: of FORMS.
  """
  d = np.sqrt(np.asarray(kl, float))
  if form == "best_of_n":
    return np.stack([d, -d * d], 1)
  log = np.log(np.where(d > 0, d, 1))
  return np.stack([d, -d * log], 1)


def predict(found: Fit, kl: np.ndarray) -> np.ndarray:
  """f64[N]: gold over that of the base.

  Args:
    found: of `fit`.
    kl: [N], nats.
  """
  return basis(kl, found.form) @ np.asarray([found.alpha, found.beta])


def peak(found: Fit) -> tuple[float, float]:
  """(KL in nats, gold over the base) of the most that the law allows.

    best of n   d = alpha / (2 beta), gold = alpha^2 / (4 beta)
    RL          d = exp(alpha / beta - 1), gold = beta d

  Args:
    found: of `fit`; with beta at or below 0 there is no peak, and both are
      infinite.
  """
  a, b = found.alpha, found.beta
  if b <= 0:
    return math.inf, math.inf
  if found.form == "best_of_n":
    d = max(a / (2 * b), 0.0)
    return d * d, d * (a - b * d)
  if a / b > 300:  # beyond any KL, and any float
    return math.inf, math.inf
  d = math.exp(a / b - 1)
  return d * d, b * d


def _solve(x, y, weight) -> tuple[float, float, float]:
  """(alpha, beta, R^2); NaN where a resample has one KL alone."""
  root = np.sqrt(weight)[:, None]
  found, _, rank, _ = np.linalg.lstsq(root * x, root[:, 0] * y, rcond=None)
  if rank < 2:
    return math.nan, math.nan, math.nan
  mean = np.average(y, weights=weight)
  total = np.sum(weight * (y - mean) ** 2)
  left = np.sum(weight * (y - x @ found) ** 2)
  r2 = 1 - left / total if total > 0 else math.nan
  return float(found[0]), float(found[1]), float(r2)
