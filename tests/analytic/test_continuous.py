"""Families of rewards against scipy's quadrature in float64, 1e-9 relative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.analytic import best_of_n, continuous, tilt

integrate = pytest.importorskip("scipy.integrate")
stats = pytest.importorskip("scipy.stats")

ALPHA = np.array([-1.7, -0.1, 1e-4, 0.3, 1.9])
FAMILIES = {
  "gaussian": (continuous.gaussian(0.4, 1.3), stats.norm(0.4, 1.3)),
  "exponential": (continuous.exponential(2.0), stats.expon(scale=0.5)),
  "uniform": (continuous.uniform(-1.0, 4.0), stats.uniform(-1, 5)),
}


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def _quad(f, law, alpha):
  """E f(r) exp(alpha r) under a law of scipy."""
  low, high = law.support()
  if not np.isfinite(low):
    low, high = -30.0, 30.0
  high = min(high, 400.0)
  points = np.clip([law.mean(), law.mean() + 10], low, high)
  return integrate.quad(
    lambda r: f(r) * np.exp(alpha * r + law.logpdf(r)), low, high,
    points=points, limit=400, epsabs=0, epsrel=1e-12,
  )[0]  # fmt: skip


@pytest.mark.parametrize("name", list(FAMILIES))
def test_tilts_by_quadrature(name):
  family, law = FAMILIES[name]
  for alpha in ALPHA:
    z = _quad(lambda r: 1.0, law, alpha)
    mean = _quad(lambda r: r, law, alpha) / z
    var = _quad(lambda r, m=mean: (r - m) ** 2, law, alpha) / z
    close = lambda f, x, a=alpha: np.testing.assert_allclose(
      f(a), x, rtol=1e-9, atol=1e-11
    )
    close(family.log_partition, np.log(z))
    close(family.mean, mean)
    close(family.variance, var)
    close(family.kl, alpha * mean - np.log(z))


@pytest.mark.parametrize("name", list(FAMILIES))
def test_budgets_are_spent_and_the_frontier_has_their_slope(name):
  family, _ = FAMILIES[name]
  # Half the digits of a tiny KL would be gone without the series.
  kls = np.array([1e-12, 1e-6, 0.01, 0.5, 2.0, 9.0])
  alpha = family.solve_alpha(kls)
  np.testing.assert_allclose(family.kl(alpha), kls, rtol=1e-9)
  best = family.best_reward(kls)
  np.testing.assert_allclose(family.mean(alpha), best, rtol=1e-9)
  h = 1e-5
  slope = (family.best_reward(kls + h) - family.best_reward(kls - h)) / (2 * h)
  np.testing.assert_allclose(slope[3:], 1 / alpha[3:], rtol=1e-5)
  assert family.solve_alpha(0.0) == 0 and np.isnan(family.solve_alpha(-0.1))
  np.testing.assert_allclose(family.best_reward(0.0), family.mean(0.0))
  gain = family.best_reward(1e-12) - family.mean(0.0)
  near = np.sqrt(2e-12 * family.variance(0.0))
  np.testing.assert_allclose(gain, near, rtol=1e-5)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_best_of_n_by_quadrature(name):
  family, law = FAMILIES[name]
  for n in (1, 2, 7, 64, 1000):
    # In v = F^n the integrand is smooth but for the ends.
    want = integrate.quad(
      lambda v, n=n: law.isf(-np.expm1(np.log(v) / n)), 0, 1, limit=500,
      epsabs=1e-11, points=[1e-3, 0.5, 0.999],
    )[0]  # fmt: skip
    np.testing.assert_allclose(family.best_of_n(n), want, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(family.best_of_n_kl(n), best_of_n.kl_bound(n))
    # Never above the tilt at the same KL.
    assert family.best_of_n(n) <= family.best_reward(family.best_of_n_kl(n)) + (
      1e-12
    )


def test_the_largest_normal():
  """Closed forms of small n; at 1e9 quadrature over the normal itself."""
  got = continuous.largest_normal(np.array([1, 2, 3, 4, 5, 1e3, 1e6, 1e9]))
  want = [
    0, 1 / np.sqrt(np.pi), 3 / (2 * np.sqrt(np.pi)),
    3 / np.sqrt(np.pi) * (0.5 + np.arcsin(1 / 3) / np.pi),
    5 / (4 * np.sqrt(np.pi)) * (1 + 6 / np.pi * np.arcsin(1 / 3)),
  ]  # fmt: skip
  np.testing.assert_allclose(got[:5], want, atol=1e-13)
  for n, value in zip((1e3, 1e6, 1e9), got[5:], strict=True):
    density = lambda z, n=n: (
      z
      * np.exp(
        np.log(n) + stats.norm.logpdf(z) + (n - 1) * stats.norm.logcdf(z)
      )
    )
    top = stats.norm.isf(1 / n)
    want = integrate.quad(
      density, top - 3, top + 12, points=[top], limit=500, epsabs=1e-13
    )[0]
    np.testing.assert_allclose(value, want, rtol=1e-10)


def test_the_largest_exponential_is_harmonic():
  family = continuous.exponential(0.5)
  n = np.array([1, 2, 10, 1000])
  harmonic = [2 * np.sum(1 / np.arange(1, k + 1)) for k in n]
  np.testing.assert_allclose(family.best_of_n(n), harmonic, rtol=1e-13)
  far = 2 * (np.log(1e9) + np.euler_gamma + 5e-10)
  np.testing.assert_allclose(family.best_of_n(1e9), far, rtol=1e-14)


def test_ends_of_the_exponential():
  family = continuous.exponential(2.0)
  for f in (family.log_partition, family.mean, family.variance, family.kl):
    np.testing.assert_array_equal(f(np.array([2.0, 5.0])), np.inf)
    assert np.isfinite(f(2.0 - 1e-9)) and np.isnan(f(np.nan))
  kls = np.array([1e-300, 600.0, 1e9])
  # y - log(1 + y) = 600 and 1e9: y beyond it by its logarithm.
  y = 2 * family.best_reward(kls) - 1
  np.testing.assert_allclose(y[0], 0, atol=1e-15)
  np.testing.assert_allclose(y[1:] - np.log1p(y[1:]), kls[1:], rtol=1e-13)
  assert family.solve_alpha(np.inf) == 2 and np.isinf(
    family.best_reward(np.inf)
  )


def test_a_uniform_is_the_rank():
  family = continuous.uniform(0.0, 1.0)
  kls = np.array([1e-8, 0.05, 1.0, 4.0, 30.0, 600.0])
  np.testing.assert_allclose(
    family.best_reward(kls), best_of_n.optimal_win_rate(kls), rtol=1e-9
  )
  wide = np.array([1e-300, 1e-9, 1e9, 1e300])
  for f in (family.log_partition, family.mean, family.variance, family.kl):
    assert np.all(np.isfinite(f(wide))) and np.all(np.isfinite(f(-wide)))
  np.testing.assert_allclose(family.kl(wide[1]), 1e-18 / 24, rtol=1e-12)
  np.testing.assert_allclose(family.kl(1e9), np.log(1e9) - 1, rtol=1e-14)
  for h in (0.999999, 1.000001):  # both sides of where the series ends
    c = h  # alpha * width, twice the half-width's
    np.testing.assert_allclose(family.kl(c), (
      c * (1 / -np.expm1(-c) - 1 / c) - np.log(np.expm1(c) / c)
    ), rtol=1e-12)  # fmt: skip
  assert family.mean(np.inf) == 1 and family.mean(-np.inf) == 0
  np.testing.assert_allclose(family.best_reward(np.array([800.0])), 1)
  np.testing.assert_allclose(family.best_of_n(1e9), 1 - 1 / (1e9 + 1))


@pytest.mark.parametrize("p", [1e-300, 1e-9, 0.3, 1 - 1e-12])
def test_bernoulli_is_the_law_of_two_outcomes(p):
  family = continuous.bernoulli(p)
  law, r = np.array([1 - p, p]), np.array([0.0, 1.0])
  for n in (1.0, 2.0, 50.0, 1e9):
    np.testing.assert_allclose(
      family.best_of_n(n), best_of_n.mean_reward(law, r, n), rtol=1e-12
    )
    np.testing.assert_allclose(
      family.best_of_n_kl(n), best_of_n.kl(law, r, n), rtol=1e-9, atol=1e-13
    )
  alpha = np.array([-2.0, 0.0, 0.5, 3.0, 800.0])
  logp = np.array([np.log1p(-p), np.log(p)])
  q = 1 / (1 + np.exp(logp[0] - logp[1] - alpha))
  np.testing.assert_allclose(family.mean(alpha), q, rtol=1e-10)
  np.testing.assert_allclose(
    family.log_partition(alpha[:4]), np.log1p(p * np.expm1(alpha[:4])),
    rtol=1e-12,
  )  # fmt: skip
  top = -np.log(p)
  budget = np.array([0.01, 0.5, 0.97]) * top
  np.testing.assert_allclose(family.kl(family.solve_alpha(budget)), budget,
                             rtol=1e-7)  # fmt: skip
  np.testing.assert_array_equal(
    family.best_reward(np.array([1.001, 2]) * top), 1
  )


def test_bernoulli_from_impossible_to_certain():
  p = jnp.array([0.0, 0.25, 1.0])
  family = continuous.bernoulli(p)
  np.testing.assert_allclose(family.best_of_n(2.0), [0, 0.4375, 1])
  got = family.best_of_n_kl(2.0)
  want = 0.4375 * np.log(0.4375 / 0.25) + 0.5625 * np.log(0.75)
  np.testing.assert_allclose(got, [0, want, 0], atol=1e-15)
  np.testing.assert_allclose(family.mean(1.0)[::2], [0, 1], atol=1e-15)


def test_many_outcomes_near_a_family():
  """A fine grid of ranks under the uniform: 1e-5, its width squared."""
  size = 400
  r = 5 * (np.arange(size) + 0.5) / size - 1
  family, _ = FAMILIES["uniform"]
  for kl in (0.1, 2.0):
    np.testing.assert_allclose(
      tilt.dual_value(np.zeros(size), r, kl), family.best_reward(kl), atol=1e-4
    )


def test_float32():
  """1e-4; best-of-n to 1e-5 up to n of 1e9."""
  want = continuous.largest_normal(np.array([1.0, 8.0, 1e4, 1e9]))
  with jax.enable_x64(False):
    n = jnp.array([1.0, 8.0, 1e4, 1e9])
    z = continuous.largest_normal(n)
    assert z.dtype == jnp.float32
    np.testing.assert_allclose(z, want, rtol=1e-5, atol=1e-6)
    kls = jnp.array([1e-6, 0.01, 1.0, 4.0])
    for family, _ in FAMILIES.values():
      alpha = family.solve_alpha(kls)
      np.testing.assert_allclose(family.kl(alpha), kls, rtol=1e-4)
      assert np.all(np.diff(family.best_reward(kls)) > 0)
