"""The scaling law of over-optimisation: its fit, its peak, its interval."""

import math

import numpy as np
import pytest

from rlreward.errors import UserError
from rlreward.evals import overoptimisation as over

KL = np.linspace(0.01, 9, 40)
LAWS = {
  "best_of_n": lambda d, a, b: d * (a - b * d),
  "rl": lambda d, a, b: d * (a - b * np.log(d)),
}
each = pytest.mark.parametrize("form", over.FORMS)


@each
def test_the_coefficients_of_an_exact_path_come_back(form):
  gold = LAWS[form](np.sqrt(KL), 1.3, 0.4)
  found = over.fit(KL, gold, form)
  # Two columns in float64.
  assert (found.alpha, found.beta) == pytest.approx((1.3, 0.4), abs=1e-10)
  assert found.r2 == pytest.approx(1, abs=1e-12)
  np.testing.assert_allclose(over.predict(found, KL), gold, atol=1e-10)
  assert all(math.isnan(x) for x in (*found.low, *found.high))


@each
def test_the_peak_is_that_of_the_curve(form):
  found = over.Fit(form, 1.3, 0.7, 1.0)
  kl, gold = over.peak(found)
  grid = np.linspace(1e-6, 4 * kl, 400_001)
  path = LAWS[form](np.sqrt(grid), 1.3, 0.7)
  assert kl == pytest.approx(grid[path.argmax()], rel=1e-3)
  assert gold == pytest.approx(path.max(), rel=1e-9)
  assert over.peak(found._replace(beta=-0.1)) == (math.inf, math.inf)
  assert over.peak(found._replace(beta=1e-6))[0] > 1e5


@each
def test_the_interval_covers_what_made_the_points(form):
  inside = []
  for seed in range(40):
    rng = np.random.default_rng(seed)
    noise = 0.05 * rng.normal(size=len(KL))
    gold = LAWS[form](np.sqrt(KL), 1.0, 0.3) + noise
    found = over.fit(KL, gold, form, resamples=200, seed=seed)
    inside.append(
      found.low[0] < 1.0 < found.high[0] and found.low[1] < 0.3 < found.high[1]
    )
    assert 0.5 < found.r2 < 1
  # Both at once at 95 %, strongly correlated: 36 of 40 expected, 3 sd are 6.
  assert np.mean(inside) > 0.72


def test_clusters_are_drawn_as_a_whole():
  # Three seeds with slopes of their own: points within a seed know no more.
  kl, seed = np.tile(KL, 3), np.repeat([0, 1, 2], len(KL))
  gold = LAWS["rl"](np.sqrt(kl), np.asarray([0.5, 1.0, 1.5])[seed], 0.3)
  whole = over.fit(kl, gold, "rl", clusters=seed, resamples=300)
  points = over.fit(kl, gold, "rl", resamples=300)
  assert whole.alpha == points.alpha == pytest.approx(1.0)
  wide = [f.high[0] - f.low[0] for f in (whole, points)]
  assert wide[0] > 2 * wide[1]
  assert whole.low[0] == pytest.approx(0.5) and whole.high[0] <= 1.5 + 1e-9


def test_points_at_zero_and_unknown_ones_say_nothing():
  gold = LAWS["best_of_n"](np.sqrt(KL), 2.0, 0.5)
  kl = np.concatenate([[0.0, np.nan, 1.0], KL])
  more = np.concatenate([[5.0, 1.0, np.nan], gold])
  found = over.fit(kl, more, "best_of_n", resamples=20)
  assert (found.alpha, found.beta) == pytest.approx((2.0, 0.5))
  assert over.predict(found, np.zeros(1))[0] == 0


def test_bad_input_is_refused():
  with pytest.raises(UserError, match="ppo"):
    over.fit(KL, KL, "ppo")
  with pytest.raises(UserError, match="two coefficients"):
    over.fit(np.full(3, 1.0), np.ones(3), "rl")
