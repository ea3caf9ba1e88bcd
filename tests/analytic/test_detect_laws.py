"""AUROC of optimised laws: closed forms against listing and quadrature."""

import math

import numpy as np
import pytest

from rlreward.analytic import best_of_n, detect


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_best_of_n_by_listing_every_outcome(n):
  """Y equally likely rewards: P(best of n > draw) + P(equal) / 2 -> n / (n+1).

  The best of n is below y with chance ((y - 1) / Y)^n; the sum is a midpoint
  rule for the integral, off by order Y^-2.
  """
  y = 4000
  edges = np.arange(y + 1) / y
  chance = np.diff(edges**n)  # of the best being y
  below = (edges[:-1] + edges[1:]) / 2  # a draw is below it, ties half
  assert float(np.sum(chance * below)) == pytest.approx(
    float(detect.auroc_best_of_n(n)), abs=1e-5
  )


def test_ties_are_the_win_rate_of_the_listed_law():
  """Three rewards of unequal chance, n = 3, by enumeration of 3^4 draws."""
  p, r = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 2.0])
  total = 0.0
  for draw in np.ndindex(3, 3, 3, 3):
    best, other = max(r[list(draw[:3])]), r[draw[3]]
    total += np.prod(p[list(draw)]) * ((best > other) + (best == other) / 2)
  got = float(best_of_n.win_rate(p, r, 3))
  assert got == pytest.approx(total, abs=1e-6)
  assert got < float(detect.auroc_best_of_n(3))  # ties cost


@pytest.mark.parametrize(("s", "beta"), [(1.0, 1.0), (0.5, 2.0), (2.0, 1.5)])
def test_the_tilted_law_by_quadrature(s, beta):
  r = np.linspace(-12 * s, 12 * s + s * s / beta, 20001)
  base = np.exp(-0.5 * (r / s) ** 2)
  tilted = np.exp(-0.5 * (r / s) ** 2 + r / beta)
  base, tilted = base / base.sum(), tilted / tilted.sum()
  below = np.cumsum(base) - base / 2
  want = float(np.sum(tilted * below))
  phi = 0.5 * (1 + math.erf(s / (2 * beta)))  # Phi(s / (beta sqrt 2))
  assert want == pytest.approx(phi, abs=1e-6)
  assert float(detect.auroc_tilted(s, beta)) == pytest.approx(want, abs=1e-5)


def test_numbers_of_the_miniature():
  """n = 2, 4, 16 in 200,000 draws: a deviation of 0.0007 at most."""
  rng = np.random.default_rng(0)
  for n in (2, 4, 16):
    best = rng.normal(size=(200_000, n)).max(1)
    found = np.mean(best > rng.normal(size=200_000))
    assert found == pytest.approx(float(detect.auroc_best_of_n(n)), abs=0.004)
