"""What the worked example says besides the tables of the other tests.

E1: p = (.5, .3, .2), r = (0, 1, 2). Printed to 6 digits.
"""

import jax
import numpy as np
import pytest

from rlreward.analytic import best_of_n, tilt

P, R = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 2.0])
LOGP = np.log(P)


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def test_ties_broken_by_id_are_another_law():
  """Then tied outcomes are classes of their own, the first the best."""
  p = np.array([0.25, 0.25, 0.5])
  by_id = np.array([2.0, 1.0, 0.0])
  want = [0.683594, 0.253906, 0.0625]
  np.testing.assert_allclose(best_of_n.pmf(p, by_id, 4), want, atol=1e-6)
  np.testing.assert_allclose(best_of_n.kl(p, by_id, 4), 0.561600, atol=1e-6)


def test_argmax_of_independent_draws_breaks_ties_at_random():
  """200,000 simulated bests of 4: 5 standard errors are .0056."""
  rng = np.random.default_rng(0)
  p, r = np.array([0.25, 0.25, 0.5]), np.array([1.0, 1.0, 0.0])
  draw = rng.choice(3, p=p, size=(200_000, 4))
  best = draw[np.arange(200_000), np.argmax(r[draw], axis=1)]
  got = np.bincount(best) / 200_000
  np.testing.assert_allclose(got, [0.4687, 0.4684, 0.0629], atol=0.0056)
  np.testing.assert_allclose(got, best_of_n.pmf(p, r, 4), atol=0.0056)


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_log_density_by_the_telescoping_sum(n):
  """pi_n / p = sum_k F-^(k - 1) F^(n - k)."""
  f = np.cumsum(P)
  below = f - P
  k = np.arange(1, n + 1)[:, None]
  ratio = np.sum(below ** (k - 1) * f ** (n - k), axis=0)
  got = best_of_n.log_pmf(LOGP, R, n) - LOGP
  np.testing.assert_allclose(got, np.log(ratio), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("n", [2, 4, 8])
def test_slack_of_the_bound_is_what_cells_hide(n):
  """bound - KL = sum c_i KL(U_max given cell i || uniform on it)."""
  high = np.cumsum(P)
  low, total = high - P, 0.0
  for a, b in zip(low, high, strict=True):
    u = a + (b - a) * (np.arange(200_000) + 0.5) / 200_000
    c = b**n - a**n
    density = n * u ** (n - 1) * (b - a) / c
    total += c * np.mean(density * np.log(density))
  slack = best_of_n.kl_bound(n) - best_of_n.kl(P, R, n)
  np.testing.assert_allclose(slack, total, atol=1e-8)


def test_any_reward_is_a_log_law_and_the_tilt_its_mismatched_tilt():
  q = np.exp(R) / np.exp(R).sum()
  np.testing.assert_allclose(q, [0.090031, 0.244728, 0.665241], atol=1e-6)
  alpha = tilt.solve_alpha(LOGP, R, 0.2)
  law = P * q ** float(alpha)
  np.testing.assert_allclose(
    np.exp(tilt.tilted(LOGP, R, alpha)), law / law.sum(), atol=1e-14
  )


def test_dual_is_the_least_over_alpha():
  """(Lambda + Delta) / alpha, equal to 6 digits at each budget."""
  for delta, mean in ((0.05, 0.952923), (0.2, 1.211386), (1.0, 1.804650)):
    grid = np.geomspace(0.1, 10, 20_001)
    dual = (np.log(np.exp(np.outer(grid, R)) @ P) + delta) / grid
    np.testing.assert_allclose(dual.min(), mean, atol=1e-6)


def test_beyond_the_largest_budget_is_the_base_on_the_best():
  alpha = tilt.solve_alpha(LOGP, R, 1.609439)
  np.testing.assert_allclose(np.exp(tilt.tilted(LOGP, R, alpha)), [0, 0, 1])


def test_sub_gaussian_guarantee():
  """E_q r - E_p r <= sqrt(2 s^2 KL), s = 1 for rewards in [0, 2]."""
  rng = np.random.default_rng(0)
  for q in rng.dirichlet(np.ones(3), 200):
    kl = np.sum(q * np.log(q / P))
    assert q @ R - P @ R <= np.sqrt(2 * kl)
  alpha = np.array([0.388680, 0.775175, 2.175012])
  spent = tilt.kl(LOGP, R, alpha)
  assert np.all(tilt.mean_reward(LOGP, R, alpha) - 0.7 <= np.sqrt(2 * spent))
