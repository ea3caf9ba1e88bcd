"""The tilt: the worked example, scipy's optimum, identities on random laws.

Everything in float64. Tables are printed to 6 digits, so 1e-6; identities hold
to the rounding of a few sums, 1e-9 at the sizes drawn here.
"""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from rlreward.analytic import tilt

P, R = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 2.0])
LOGP = np.log(P)
# Compiled once: a solver traced anew for each example would dominate.
solve_alpha = jax.jit(tilt.solve_alpha)
dual_value = jax.jit(tilt.dual_value)
kl = jax.jit(tilt.kl)
mean_reward = jax.jit(tilt.mean_reward)
settings = hypothesis.settings(max_examples=40, deadline=None, derandomize=True)


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def _law(seed, size=5):
  rng = np.random.default_rng(seed)
  p = rng.dirichlet(np.full(size, 0.5)) + 1e-12
  return np.log(p / p.sum()), rng.normal(size=size), rng


def _kl(q, p):
  return float(np.sum(q * np.log(q / p)))


def test_worked_example():
  phi = np.exp(tilt.tilted(LOGP, R, 1.0))
  np.testing.assert_allclose(phi, [0.179, 0.291944, 0.529056], atol=1e-6)
  np.testing.assert_allclose(mean_reward(LOGP, R, 1.0), 1.350056, atol=1e-6)
  np.testing.assert_allclose(tilt.variance(LOGP, R, 1.0), 0.585517, atol=1e-6)
  np.testing.assert_allclose(kl(LOGP, R, 1.0), 0.322834, atol=1e-6)
  np.testing.assert_allclose(tilt.kl_max(LOGP, R), 1.609438, atol=1e-6)


def test_budgets_of_the_worked_example():
  budget = np.array([0.05, 0.1, 0.2, 0.5, 1.0])
  alpha = solve_alpha(LOGP, R, budget)
  want = [0.388680, 0.546514, 0.775175, 1.289147, 2.175012]
  np.testing.assert_allclose(alpha, want, atol=1e-6)
  mean = [0.952923, 1.059857, 1.211386, 1.505448, 1.804650]
  np.testing.assert_allclose(mean_reward(LOGP, R, alpha), mean, atol=1e-6)
  np.testing.assert_allclose(dual_value(LOGP, R, budget), mean, atol=1e-6)
  np.testing.assert_allclose(kl(LOGP, R, alpha), budget, rtol=1e-12)
  np.testing.assert_allclose(
    np.exp(tilt.tilted(LOGP, R, alpha[2])),
    [0.238787, 0.311040, 0.450173],
    atol=1e-6,
  )


def test_the_ends_of_the_budget():
  logp, r = np.log([0.3, 0.2, 0.1, 0.4]), np.array([1.0, 2.0, 2.0, 0.0])
  top = -np.log(0.3)
  budget = np.array([0.0, top, top + 1e-9, 5.0, np.inf, -0.1])
  alpha = solve_alpha(logp, r, budget)
  np.testing.assert_array_equal(
    alpha, [0, np.inf, np.inf, np.inf, np.inf, np.nan]
  )
  best = np.exp(tilt.tilted(logp, r, np.inf))
  np.testing.assert_allclose(best, [0, 2 / 3, 1 / 3, 0], atol=1e-15)
  worst = np.exp(tilt.tilted(logp, r, -np.inf))
  np.testing.assert_allclose(worst, [0, 0, 0, 1], atol=1e-15)
  np.testing.assert_allclose(kl(logp, r, np.inf), top)
  np.testing.assert_allclose(dual_value(logp, r, budget[:5]), [0.9, 2, 2, 2, 2])
  near = solve_alpha(logp, r, top - 1e-6)
  np.testing.assert_allclose(kl(logp, r, near), top - 1e-6, atol=1e-14)


def test_a_constant_reward_leaves_the_base():
  r = np.full(3, 7.0)
  assert tilt.kl_max(LOGP, r) == pytest.approx(0, abs=1e-15)
  np.testing.assert_allclose(np.exp(tilt.tilted(LOGP, r, 3.0)), P)
  np.testing.assert_allclose(dual_value(LOGP, r, 0.4), 7.0)
  np.testing.assert_allclose(tilt.regularised_value(LOGP, r, 0.3), 7.0)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("budget", [1e-10, 1e-3, 300.0, 689.0])
def test_rare_outcomes(scale, budget):
  """The best outcome has probability 1e-300, kl_max = 690.8."""
  logp = np.array([0.0, np.log(0.3), -300 * np.log(10), -np.inf])
  r = scale * np.array([0.0, 0.5, 1.0, np.nan])
  alpha = solve_alpha(logp, r, budget)
  np.testing.assert_allclose(kl(logp, r, alpha), budget, rtol=1e-7)
  assert np.all(np.isfinite(mean_reward(logp, r, alpha)))


@pytest.mark.parametrize("seed", range(5))
def test_scipy_agrees_on_the_optimum(seed):
  optimize = pytest.importorskip("scipy.optimize")
  logp, r, _ = _law(seed, 4)
  p, budget = np.exp(logp), 0.5 * float(tilt.kl_max(logp, r))
  found = optimize.minimize(
    lambda q: -q @ r,
    p,
    bounds=[(1e-12, 1)] * 4,
    constraints=(
      {"type": "eq", "fun": lambda q: q.sum() - 1},
      {"type": "ineq", "fun": lambda q: budget - _kl(q, p)},
    ),
    options={"ftol": 1e-12, "maxiter": 500},
  )
  assert found.success
  alpha = solve_alpha(logp, r, budget)
  # SLSQP meets its constraint to about 1e-7.
  np.testing.assert_allclose(mean_reward(logp, r, alpha), -found.fun, atol=2e-6)
  dual = optimize.minimize_scalar(
    lambda a: float(dual_value(logp, r, budget, np.exp(a))),
    bounds=(-8, 8),
    method="bounded",
  )
  np.testing.assert_allclose(dual_value(logp, r, budget), dual.fun, rtol=1e-7)


def test_pythagoras_of_the_worked_example():
  alpha = solve_alpha(LOGP, R, 0.2)
  for q, total, gap in (
    ([0.088614, 0.611386, 0.3], 0.403582, 0.203582),
    ([0.3, 0.35, 0.35], None, 0.021673),
  ):
    q = np.array(q)
    got = tilt.pythagorean_gap(_kl(q, P), q @ R, LOGP, R, alpha)
    np.testing.assert_allclose(got, gap, atol=1e-6)
    phi = np.exp(tilt.tilted(LOGP, R, alpha))
    np.testing.assert_allclose(got, _kl(q, phi), atol=1e-12)
    if total is not None:
      np.testing.assert_allclose(_kl(q, P), total, atol=1e-6)


@settings
@hypothesis.given(st.integers(0, 10**6), st.floats(0.01, 5))
def test_pythagoras_stability_and_optimality(seed, alpha):
  logp, r, rng = _law(seed)
  p, q = np.exp(logp), rng.dirichlet(np.ones(5)) + 1e-9
  q = q / q.sum()
  phi = np.exp(np.asarray(tilt.tilted(logp, r, alpha)))
  gap = _kl(q, phi)
  got = tilt.pythagorean_gap(_kl(q, p), q @ r, logp, r, alpha)
  np.testing.assert_allclose(got, gap, atol=1e-9)
  excess = max(_kl(q, p) - _kl(phi, p), 0)
  loss = max(phi @ r - q @ r, 0)
  assert gap <= tilt.stability_bound(excess, loss, alpha) + 1e-9
  value = tilt.regularised_value(logp, r, 1 / alpha)
  assert q @ r - _kl(q, p) / alpha <= value + 1e-9
  np.testing.assert_allclose(
    value, phi @ r - _kl(phi, p) / alpha, rtol=1e-9, atol=1e-9
  )
  # Every alpha bounds what any q within its own budget can earn.
  assert q @ r <= dual_value(logp, r, _kl(q, p), alpha) + 1e-9


@settings
@hypothesis.given(st.integers(0, 10**6), st.floats(0.02, 0.98))
def test_solving_inverts_the_divergence(seed, share):
  logp, r, _ = _law(seed)
  budget = share * float(tilt.kl_max(logp, r))
  alpha = solve_alpha(logp, r, budget)
  np.testing.assert_allclose(kl(logp, r, alpha), budget, rtol=1e-9)
  more = solve_alpha(logp, r, budget * 1.01)
  assert more > alpha
  assert mean_reward(logp, r, more) > mean_reward(logp, r, alpha)


@settings
@hypothesis.given(st.integers(0, 10**6), st.floats(-5, 5))
def test_data_processing(seed, alpha):
  """Merging two outcomes never raises a divergence."""
  logp, r, _ = _law(seed)
  phi, p = np.exp(np.asarray(tilt.tilted(logp, r, alpha))), np.exp(logp)
  merge = lambda x: np.array([x[0] + x[1], *x[2:]])
  with np.errstate(divide="ignore"):
    small = tilt.divergence(np.log(merge(phi)), np.log(merge(p)))
  assert small <= kl(logp, r, alpha) + 1e-12


def test_cumulants_are_derivatives():
  for alpha in (-1.3, 0.0, 1e-9, 0.4, 2.0):
    mean, var = (
      float(f(LOGP, R, alpha)) for f in (tilt.mean_reward, tilt.variance)
    )
    f = functools.partial(tilt.log_partition, LOGP, R)
    np.testing.assert_allclose(f(alpha), np.log(P @ np.exp(alpha * R)))
    np.testing.assert_allclose(jax.grad(f)(alpha), mean, rtol=1e-9)
    np.testing.assert_allclose(
      jax.grad(lambda a: mean_reward(LOGP, R, a))(alpha), var, rtol=1e-9
    )
    np.testing.assert_allclose(
      jax.grad(lambda a: kl(LOGP, R, a))(alpha), alpha * var, atol=1e-9
    )


def test_the_root_differentiates():
  alpha = solve_alpha(LOGP, R, 0.2)
  slope = jax.grad(lambda d: solve_alpha(LOGP, R, d))(0.2)
  np.testing.assert_allclose(slope, 1 / (alpha * tilt.variance(LOGP, R, alpha)))
  f = lambda r: solve_alpha(LOGP, r, 0.2)
  grad, h = jax.grad(f)(jnp.asarray(R)), 1e-5
  for i, e in enumerate(np.eye(3)):
    np.testing.assert_allclose(
      grad[i], (f(R + h * e) - f(R - h * e)) / (2 * h), rtol=1e-6
    )
  at_the_ends = jax.vmap(jax.grad(lambda d: solve_alpha(LOGP, R, d)))
  assert not np.any(np.isnan(at_the_ends(jnp.array([0.0, 1.7]))))


def test_small_divergences_keep_their_digits():
  for eps in (1e-3, 1e-6, 1e-9):
    got = kl(LOGP, R, eps)
    skew = P @ (R - P @ R) ** 3
    var = P @ (R - P @ R) ** 2
    want = eps**2 * var / 2 + eps**3 * skew / 3
    np.testing.assert_allclose(got, want, rtol=10 * eps**2 + 1e-6)
  assert kl(LOGP, R, 0.0) == 0


def test_batches_and_float32():
  logp = jnp.stack([_law(s)[0] for s in range(3)])
  r = jnp.stack([_law(s)[1] for s in range(3)])
  alpha = jax.vmap(tilt.solve_alpha, (0, 0, None))(logp, r, 0.3)
  np.testing.assert_allclose(solve_alpha(logp, r, 0.3), alpha)
  each = [mean_reward(logp[i], r[i], alpha[i]) for i in range(3)]
  np.testing.assert_allclose(mean_reward(logp, r, alpha), each)
  with jax.enable_x64(False):
    narrow = solve_alpha(np.asarray(logp), np.asarray(r), 0.3)
    assert narrow.dtype == jnp.float32
    # 1e-4: rounding of a sum of logs over the slope of the divergence.
    np.testing.assert_allclose(narrow, alpha, rtol=1e-4)
