"""How sure a score is: Wilson's interval and the bootstrap."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

import numpy as np


def wilson(won: float, n: float, level: float = 0.95) -> tuple[float, float]:
  """Wilson's interval of a share; it never leaves [0, 1] and never has width 0.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

  Args:
    won: successes, 0 to n.
    n: trials.
    level: coverage.

  Returns:
    (low, high); (0, 1) where n is 0.

  Reference: Wilson 1927; Brown, Cai and DasGupta 2001.
  """
  if n <= 0:
    return 0.0, 1.0
  z = statistics.NormalDist().inv_cdf((1 + level) / 2)
  p, a = won / n, z * z / n
  half = (p * (1 - p) * a + a * a / 4) ** 0.5
  low, high = (p + a / 2 - half) / (1 + a), (p + a / 2 + half) / (1 + a)
  return max(low, 0.0) if won else 0.0, min(high, 1.0) if won < n else 1.0


def draws(
  strata: Sequence[object] | np.ndarray,
  clusters: Sequence[object] | np.ndarray,
  resamples: int,
  seed: int,
) -> Iterator[np.ndarray]:
  """How often each item is drawn in each resample.

  Clusters are drawn with replacement, as many as there are, within each
  stratum: subsets keep their sizes, and what belongs together stays together.

  Args:
    strata: [N], e.g. the subset.
    clusters: [N], e.g. the prompt.
    resamples: how many.
    seed: of numpy's generator.

  Yields:
    f64[N], counts.
  """
  rng = np.random.default_rng(seed)
  _, stratum = np.unique(np.asarray(strata), return_inverse=True)
  _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
  both = stratum * (int(cluster.max(initial=0)) + 1) + cluster
  kinds, first, member = np.unique(both, return_index=True, return_inverse=True)
  parts = [np.flatnonzero(stratum[first] == s) for s in np.unique(stratum)]
  for _ in range(resamples):
    times = np.zeros(len(kinds))
    for part in parts:
      drawn = rng.integers(0, len(part), len(part))
      times[part] = np.bincount(drawn, minlength=len(part))
    yield times[member]


def bootstrap(
  statistic: Callable[[np.ndarray], dict[str, float]],
  strata: Sequence[object] | np.ndarray,
  clusters: Sequence[object] | np.ndarray,
  resamples: int = 1000,
  seed: int = 0,
  level: float = 0.95,
) -> dict[str, tuple[float, float]]:
  """Percentile intervals of statistics of weighted items.

  Args:
    statistic: counts f64[N] -> numbers by name.
    strata, clusters, resamples, seed: as of `draws`.
    level: coverage.

  Returns:
    {name: (low, high)}; NaN where a statistic never has a value.
  """
  found: dict[str, list[float]] = {}
  for times in draws(strata, clusters, resamples, seed):
    for name, value in statistic(times).items():
      found.setdefault(name, []).append(value)
  return {name: band(values, level) for name, values in found.items()}


def band(
  values: Sequence[float] | np.ndarray, level: float = 0.95
) -> tuple[float, float]:
  """The middle `level` of the values that are not NaN."""
  kept = np.asarray(values, float)
  kept = kept[~np.isnan(kept)]
  if not kept.size:
    return np.nan, np.nan
  low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
  return float(low), float(high)
