"""Exponents of long sequences: enumeration at small m, convolution at large.

Everything in float64; tables are printed to 5 or 6 digits.
"""

import functools
import itertools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from rlreward.analytic import best_of_n, tilt
from rlreward.analytic import large_deviation as ld

P, R = np.array([0.5, 0.3, 0.2]), np.array([0, 1, 2])
LOGP = np.log(P)
DELTA, ALPHA = 0.1, 0.5465138972271268  # KL(phi_alpha || p) = delta
rate = jax.jit(ld.rate)
solve_alpha = jax.jit(tilt.solve_alpha)


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


@functools.cache
def _sums(m, alpha=0.0):
  p = np.exp(tilt.tilted(LOGP, R * 1.0, alpha))
  value, law = ld.iid_reward_pmf(p, R, m)
  return value, np.asarray(law)


def test_the_tilt_of_sequences_is_the_product_of_tilts():
  rows = np.array(list(itertools.product(range(3), repeat=3)))
  logp, total = LOGP[rows].sum(axis=1), R[rows].sum(axis=1) * 1.0
  token = tilt.tilted(LOGP, R * 1.0, 1.3)
  np.testing.assert_allclose(
    np.exp(tilt.tilted(logp, total, 1.3)),
    np.exp(np.asarray(token)[rows].sum(axis=1)),
    atol=1e-15,
  )
  np.testing.assert_allclose(
    solve_alpha(logp, total, 3 * DELTA), ALPHA, rtol=1e-12
  )
  # A reward that does not add up: KL of its tilt to its marginals' product.
  phi = np.exp(tilt.tilted(logp, R[rows].max(axis=1) * 1.0, 1.0))
  phi = phi.reshape(3, 3, 3)
  marginal = phi.sum(axis=(1, 2))
  product = np.einsum("i,j,k", marginal, marginal, marginal)
  np.testing.assert_allclose(np.sum(phi * np.log(phi / product)), 0.0605,
                             atol=5e-5)  # fmt: skip


def test_cumulants_both_ways():
  q = np.exp(R) / np.exp(R).sum()
  log_z = np.log(np.exp(R).sum())
  np.testing.assert_allclose(log_z, 2.407606, atol=1e-6)
  h = lambda t: ld.renyi_cross_entropy(P, q, t)
  np.testing.assert_allclose(
    [h(1.5), h(2.0), h(3.0)], [1.546286, 1.380384, 1.101237], atol=1e-6
  )
  want = [0.285805, 0.611420, 1.364060, -0.446002]
  for rho, value in zip((0.25, 0.5, 1, -0.5), want, strict=True):
    got = ld.scaled_cumulant(P, R, ALPHA, rho)
    np.testing.assert_allclose(got, value, atol=1e-6)
    a = ALPHA + rho
    other = -a * h(1 + a) + ALPHA * h(1 + ALPHA) + rho * log_z
    np.testing.assert_allclose(other, got, rtol=1e-12)
    sums, law = _sums(200, ALPHA)
    finite = np.log(law @ np.exp(rho * (sums - 200.0))) / 200 + rho
    np.testing.assert_allclose(finite, got, atol=1e-6)


def test_renyi_cross_entropy_near_order_one():
  q = np.array([0.2, 0.3, 0.5])
  cross = -P @ np.log(q)
  h = jax.jit(ld.renyi_cross_entropy)(P, q, np.array([1, 1 + 1e-13, 1 - 1e-13]))
  np.testing.assert_allclose(h, cross, rtol=1e-11)
  np.testing.assert_allclose(
    ld.renyi_cross_entropy(P, q, 0.3), np.log(P @ q**-0.7) / 0.7
  )


def test_rate_of_the_worked_example():
  mean = tilt.mean_reward(LOGP, R, ALPHA)
  x = np.array([1.3, mean + 0.2, mean - 0.2, mean])
  want = [0.043646, 0.030110, 0.029563, 0]
  np.testing.assert_allclose(rate(P, R, x, ALPHA), want, atol=1e-6)
  np.testing.assert_allclose(ld.solve_mean(P, R, 1.3), 0.91629, atol=6e-6)
  slope = jax.grad(lambda x: ld.rate(P, R, x, ALPHA))(1.3)
  np.testing.assert_allclose(slope, ld.solve_mean(P, R, 1.3) - ALPHA, rtol=1e-9)


def test_rate_at_and_beyond_the_ends():
  x = np.array([0.0, 2.0, -1e-9, 2 + 1e-9, np.nan])
  want = [-np.log(0.5), -np.log(0.2), np.inf, np.inf, np.nan]
  np.testing.assert_allclose(rate(P, R, x), want, rtol=1e-12)
  same = np.full(3, 4.0)
  np.testing.assert_allclose(
    rate(P, same, np.array([4.0, 4.1])), [0, np.inf], atol=1e-15
  )
  # What never happens has no part in the ends.
  p = np.array([0.5, 0.5, 0.0])
  np.testing.assert_allclose(
    rate(p, R, np.array([1.0, 1.5])), [np.log(2), np.inf]
  )


@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
@hypothesis.given(
  st.integers(0, 10**6), st.floats(0.05, 0.95), st.floats(-2, 2)
)
def test_rate_is_the_supremum(seed, share, alpha):
  rng = np.random.default_rng(seed)
  p, r = rng.dirichlet(np.ones(3)) + 1e-3, rng.normal(size=3)
  p = p / p.sum()
  x = r.min() + share * (r.max() - r.min())
  got = rate(p, r, x, alpha)
  partition = lambda a: np.log(np.sum(p[:, None] * np.exp(np.outer(r, a)), 0))
  center = float(ld.solve_mean(p, r, x)) - alpha
  t = center + np.linspace(-3, 3, 601)
  line = t * x - partition(alpha + t) + partition(np.array([alpha]))
  np.testing.assert_allclose(got, line.max(), rtol=1e-6, atol=1e-9)


def test_sums_by_enumeration():
  p, r = np.array([0.5, 0.2, 0.2, 0.1]), np.array([-1, 3, 0, 3])
  value, law = ld.iid_reward_pmf(p, r, 5)
  want = np.zeros(21)
  for row in itertools.product(range(4), repeat=5):
    want[r[list(row)].sum() + 5] += np.prod(p[list(row)])
  np.testing.assert_array_equal(value, np.arange(-5, 16))
  np.testing.assert_allclose(law, want, rtol=1e-13, atol=1e-18)
  with pytest.raises(ValueError, match="integer"):
    ld.iid_reward_pmf(p, r + 0.5, 5)
  _, long = _sums(400)
  np.testing.assert_allclose(long.sum(), 1, atol=1e-12)
  np.testing.assert_allclose(np.log(long[-1]), 400 * np.log(0.2), rtol=1e-12)


def test_tails_of_the_worked_example():
  """The rate alone is slow; with its prefactor it is right to 1 / m."""
  exponent = {25: 0.10559, 50: 0.07532, 100: 0.06240, 200: 0.05459,
              400: 0.04993}  # fmt: skip
  ratio = {50: 0.878, 100: 0.927, 200: 0.959, 400: 0.978}
  for m, want in exponent.items():
    sums, law = _sums(m, ALPHA)
    exact = np.log(law[sums >= np.ceil(1.3 * m - 1e-9)].sum())
    np.testing.assert_allclose(-exact / m, want, atol=6e-6)
    if m in ratio:
      got = ld.log_tail(P, R, 1.3, m, ALPHA)
      np.testing.assert_allclose(np.exp(exact - got), ratio[m], atol=6e-4)
  below = ld.log_tail(P, -R, -0.8, 400, -ALPHA)
  sums, law = _sums(400, ALPHA)
  np.testing.assert_allclose(below, np.log(law[sums <= 320].sum()), atol=0.05)
  assert np.isnan(ld.log_tail(P, R, 0.9, 400, ALPHA))


def test_tails_off_a_lattice_and_on_a_wider_one():
  wide = ld.log_tail(P, 2.0 * R, 2.6, 100, ALPHA / 2, span=2.0)
  narrow = ld.log_tail(P, R, 1.3, 100, ALPHA)
  np.testing.assert_allclose(wide, narrow, rtol=1e-12)
  fine = ld.log_tail(P, R, 1.3, 100, ALPHA, span=1e-9)
  none = ld.log_tail(P, R, 1.3, 100, ALPHA, span=0.0)
  np.testing.assert_allclose(fine, none, rtol=1e-9)


def _per_token(m, log_n):
  """(reward, KL, KL to the tilt) per token of best-of-exp(log_n), rounded."""
  sums, law = _sums(m)
  n = np.round(np.exp(log_n))
  kl = best_of_n.kl(law, sums, n)
  reward = best_of_n.mean_reward(law, sums, n)
  # p and the tilt agree within a sum, so sums tell all of the divergence.
  gap = tilt.pythagorean_gap(kl, reward, np.log(law), sums * 1.0, ALPHA)
  return float(reward) / m, float(kl) / m, float(gap) / m


def test_best_of_n_nears_the_tilt():
  want = {
    10: (0.91026, 0.04246, 0.02422),
    25: (0.95931, 0.06229, 0.01724),
    50: (0.99931, 0.07977, 0.01286),
    100: (1.02430, 0.08981, 0.00924),
    200: (1.03922, 0.09489, 0.00617),
    400: (1.04805, 0.09744, 0.00390),
  }
  got = np.array([_per_token(m, DELTA * m) for m in want])
  np.testing.assert_allclose(got, list(want.values()), atol=6e-6)
  assert np.all(np.diff(got, axis=0) * [1, 1, -1] > 0)
  np.testing.assert_allclose(
    got[:, 2] * list(want), [0.24, 0.43, 0.64, 0.92, 1.23, 1.56], atol=6e-3
  )
  assert np.all(got[:, 0] < tilt.mean_reward(LOGP, R, ALPHA))


def test_a_factor_of_e_meets_the_budget_at_finite_length():
  rows = [_per_token(m, DELTA * m + 1) for m in (25, 50, 100, 200, 400)]
  np.testing.assert_allclose(rows[0][1], 0.1003, atol=6e-5)
  np.testing.assert_allclose(
    [row[0] for row in rows],
    [1.0334, 1.0370, 1.0431, 1.0486, 1.0527],
    atol=6e-5,
  )


def test_float32():
  with jax.enable_x64(False):
    got = ld.rate(P, R, jnp.float32(1.3), ALPHA)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, 0.043646, rtol=1e-4)
