"""The frontier: brute force in float64, scipy, and laws whose curve is known.

Tolerances are said where they are used. Sampled estimates use fixed seeds.
"""

import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from rlreward.analytic import (
  best_of_n,
  common_tilt,
  continuous,
  convex,
  frontier,
  tilt,
)

P, R = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 2.0])
LOGP = np.log(P)
exact = jax.jit(frontier.exact)
from_samples = jax.jit(frontier.from_samples, static_argnames="resamples")
best_of_n_curve = jax.jit(frontier.best_of_n_curve, static_argnames="resamples")
attainable, needed = jax.jit(frontier.attainable), jax.jit(frontier.needed)
settings = hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
# One shape for all random laws, so that they compile once.
SHARES = np.array([0.0, 0.02, 0.1, 0.3, 0.6, 0.9, 0.99])


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def _laws(seed, prompts=4, size=6):
  rng = np.random.default_rng(seed)
  p = rng.dirichlet(np.full(size, 0.5), prompts) + 1e-9
  r = rng.normal(size=(prompts, size)) * np.exp(rng.normal(size=(prompts, 1)))
  return np.log(p / p.sum(1, keepdims=True)), r


def _limit(logp, r):
  return float(np.mean(tilt.kl_max(logp, r)))


def _brute(logp, r, kl, gold=None):
  """(alpha, reward, sum of squared weights, gold) by bisection in float64."""

  def at(alpha):
    x = logp + alpha * (r - r.max(1, keepdims=True))
    d = x - np.log(np.exp(x).sum(1, keepdims=True))
    q = np.exp(d)
    return np.mean(np.sum(q * (d - logp), 1)), q

  low, high = 1e-6, 1e6
  for _ in range(200):
    middle = np.sqrt(low * high)
    low, high = (middle, high) if at(middle)[0] < kl else (low, middle)
  q = at(low)[1]
  wanted = None if gold is None else np.mean(np.sum(q * gold, 1))
  return low, np.mean(np.sum(q * r, 1)), np.sum(q * q, 1), wanted


def test_worked_example():
  budgets = np.array([0.05, 0.1, 0.2, 0.5, 1.0])
  curve = exact(LOGP[None], R[None], budgets)
  alpha = [0.388680, 0.546514, 0.775175, 1.289147, 2.175012]
  mean = [0.952923, 1.059857, 1.211386, 1.505448, 1.804650]
  np.testing.assert_allclose(curve.alpha, alpha, atol=1e-6)
  np.testing.assert_allclose(curve.reward, mean, atol=1e-6)
  np.testing.assert_allclose(curve.kl, budgets, rtol=1e-12)
  np.testing.assert_allclose(curve.base, 0.7)
  assert np.all(curve.trusted) and np.all(np.isinf(curve.ess))


@settings
@hypothesis.given(st.integers(0, 10**6))
def test_exact_is_the_brute_force_and_what_identities_demand(seed):
  logp, r = _laws(seed)
  limit = _limit(logp, r)
  budgets = np.append(SHARES * limit, [limit, 2 * limit])
  curve = exact(logp, r, budgets, gold=r)
  np.testing.assert_allclose(curve.gold, curve.reward, atol=1e-9)
  for i in range(1, 7):
    alpha, reward, _, _ = _brute(logp, r, budgets[i])
    # Where little is left to spend, alpha hardly changes what is spent.
    np.testing.assert_allclose(curve.alpha[i], alpha, rtol=1e-6)
    np.testing.assert_allclose(curve.reward[i], reward, rtol=1e-8, atol=1e-9)
  # What is reported is a point of the frontier: each prompt's own tilt.
  each = jax.vmap(tilt.mean_reward)(
    jnp.repeat(logp[None], 9, 0), jnp.repeat(r[None], 9, 0),
    jnp.repeat(curve.alpha[:, None], 4, 1),
  )  # fmt: skip
  np.testing.assert_allclose(each.mean(1), curve.reward, rtol=1e-7, atol=1e-9)
  assert curve.alpha[0] == 0 and np.all(np.isinf(curve.alpha[7:]))
  np.testing.assert_allclose(curve.reward[7:], r.max(1).mean())
  np.testing.assert_allclose(curve.kl[7:], limit, rtol=1e-9)
  # Concave and rising, with the slope 1 / alpha between its chords.
  gain, cost = np.diff(curve.reward[:8]), np.diff(curve.kl[:8])
  chord = gain / cost
  assert np.all(gain > 0) and np.all(np.diff(chord) < 0)
  assert np.all(chord[1:] <= 1 / curve.alpha[1:7] + 1e-9)
  assert np.all(chord[:7] >= 1 / curve.alpha[1:8] - 1e-9)
  # Sub-Gaussian: rewards in [a, b] have s <= (b - a) / 2.
  s = np.sqrt(np.mean((np.ptp(r, axis=1) / 2) ** 2))
  assert np.all(curve.reward - curve.base <= s * np.sqrt(2 * curve.kl) + 1e-9)


@pytest.mark.parametrize("seed", range(2))
def test_scipy_agrees_that_one_alpha_is_the_optimum(seed):
  optimize = pytest.importorskip("scipy.optimize")
  logp, r = _laws(seed, 2, 3)
  p, budget = np.exp(logp), 0.4 * _limit(logp, r)
  kl = lambda q: np.sum(q * np.log(q / p.ravel())) / 2
  found = optimize.minimize(
    lambda q: -q @ r.ravel() / 2, p.ravel(), bounds=[(1e-12, 1)] * 6,
    constraints=(
      {"type": "eq", "fun": lambda q: q.reshape(2, 3).sum(1) - 1},
      {"type": "ineq", "fun": lambda q: budget - kl(q)},
    ),
    options={"ftol": 1e-12, "maxiter": 500},
  )  # fmt: skip
  assert found.success
  # SLSQP meets its constraint to about 1e-7.
  curve = exact(logp, r, np.array([budget]))
  np.testing.assert_allclose(curve.reward, -found.fun, atol=2e-6)


def test_best_of_n_is_below_the_tilt_at_equal_kl():
  logp, r = _laws(3)
  law = (
    jax.vmap(best_of_n.kl, (0, 0, None)),
    jax.vmap(best_of_n.mean_reward, (0, 0, None)),
  )
  kl, reward = (
    np.array([f(np.exp(logp), r, n).mean() for n in (2.0, 4.0, 32.0)])
    for f in law
  )
  curve = exact(logp, r, kl)
  assert np.all(reward <= curve.reward + 1e-9)
  share = frontier.efficiency(curve, curve.base, reward, kl)
  assert np.all((share > 0.5) & (share <= 1 + 1e-9))


@settings
@hypothesis.given(st.integers(0, 10**6))
def test_samples_that_are_all_there_is_give_the_exact_curve(seed):
  r = np.random.default_rng(seed).normal(size=(4, 6))
  r[1] = np.round(r[1])
  budgets = SHARES * _limit(np.zeros_like(r), r)
  got = from_samples(r, budgets, resamples=0)
  want = exact(np.zeros_like(r), r, budgets)
  # 1e-5: two rounds of refinement for the samples, six for the law.
  for name in ("kl", "reward", "base"):
    np.testing.assert_allclose(
      getattr(got, name), getattr(want, name), rtol=1e-5, atol=1e-6
    )
  np.testing.assert_allclose(got.alpha, want.alpha, rtol=1e-3)


def test_invalid_samples_and_dead_prompts_have_no_part():
  rng = np.random.default_rng(0)
  r, gold = rng.normal(size=(5, 8)), rng.normal(size=(5, 8))
  valid = np.ones((5, 8), bool)
  valid[0, 2] = valid[3] = False
  dirty, wild = r.copy(), gold.copy()
  dirty[0, 2], dirty[3], dirty[1, 0] = np.nan, np.inf, np.nan
  wild[0, 2], wild[3], wild[2, 1] = np.nan, np.nan, np.nan
  kls = np.array([0.0, 0.1, 0.8])
  got = from_samples(dirty, kls, valid=valid, gold=wild)
  rows = [r[0, [0, 1, 3, 4, 5, 6, 7]], r[1, 1:], r[2], r[4]]
  logp = np.full((4, 8), -np.inf)
  full = np.zeros((4, 8))
  for i, row in enumerate(rows):
    full[i, : row.size], logp[i, : row.size] = row, 0
  want = exact(logp, full, kls)
  np.testing.assert_allclose(got.reward, want.reward, rtol=1e-6)
  np.testing.assert_allclose(got.alpha, want.alpha, rtol=1e-5)
  assert np.all(np.isfinite(got.gold)) and np.all(np.isfinite(got.low))
  wanted = (
    gold[0, [0, 1, 3, 4, 5, 6, 7]], gold[1, 1:],
    gold[2, [0, *range(2, 8)]], gold[4],
  )  # fmt: skip
  wanted = [np.mean(x) for x in wanted]
  np.testing.assert_allclose(got.gold[0], np.mean(wanted))
  none = from_samples(np.full((5, 8), np.nan), kls)
  assert np.all(np.isnan(none.reward)) and not np.any(none.trusted)
  masked = exact(np.zeros((5, 8)), dirty, kls, valid=valid)
  np.testing.assert_allclose(masked.reward, want.reward, rtol=1e-9)


def test_gold_follows_the_weights_of_the_proxy():
  rng = np.random.default_rng(1)
  r = rng.normal(size=(6, 64))
  gold = r - 0.3 * r**2
  kls = np.array([0.1, 0.5, 1.0])
  got = from_samples(r, kls, gold=gold, resamples=0)
  for i, kl in enumerate(kls):
    want = _brute(np.full_like(r, -np.log(64)), r, kl, gold)
    np.testing.assert_allclose(got.gold[i], want[3], rtol=1e-5)
    np.testing.assert_allclose(got.ess[i], np.mean(1 / want[2]), rtol=1e-4)


def test_float32_is_right_to_1e_4():
  """Discrete, continuous and constant rewards of different scales, N = 256."""
  rng = np.random.default_rng(2)
  r = rng.normal(size=(24, 256)) * np.exp(rng.normal(size=(24, 1)))
  r[:8] = rng.uniform(size=(8, 256)) < 0.1
  r[8] = 3.0
  r = np.float32(r)
  for kls in (np.array([1e-4, 0.01, 0.3, 1.0, 2.5]), np.array([0.7])):
    with jax.enable_x64(False):
      curve = from_samples(r, np.float32(kls), resamples=0)
    assert curve.reward.dtype == jnp.float32
    for i, kl in enumerate(kls):
      alpha, reward, _, _ = _brute(
        np.full(r.shape, -np.log(256)), r.astype(float), kl
      )
      np.testing.assert_allclose(curve.alpha[i], alpha, rtol=1e-4)
      gain = curve.reward[i] - curve.base
      base = r.mean(1, dtype=float).mean()
      # Relative to the gain, with the rounding of a mean of size 1.
      np.testing.assert_allclose(gain, reward - base, rtol=1e-4, atol=3e-7)


FAMILIES = {
  "gaussian": (
    continuous.gaussian(0.0, 1.0), lambda rng, s: rng.normal(size=s), 0.02
  ),
  "exponential": (
    continuous.exponential(1.0), lambda rng, s: rng.exponential(size=s), 0.05
  ),
  "bernoulli": (
    continuous.bernoulli(0.02), lambda rng, s: rng.uniform(size=s) < 0.02, 0.05
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(FAMILIES))
@pytest.mark.parametrize("size", [64, 1024])
def test_trusted_points_are_right_and_others_are_not(name, size):
  """Within 2 or 5 % of the gain where trusted, over 10 % off at the end."""
  family, draw, error = FAMILIES[name]
  prompts = 262_144 // size
  r = draw(np.random.default_rng(0), (prompts, size)) * 1.0
  # The base's own noise is no error of the tilt.
  r = r - r.mean() + float(family.mean(0.0))
  kls = np.linspace(0.05, np.log(size) - 0.1, 24)
  curve = from_samples(r, kls, resamples=0)
  truth = family.best_reward(kls) - family.mean(0.0)
  off = np.asarray((curve.reward - curve.base) / truth - 1)
  sure = np.asarray(curve.trusted)
  assert sure[0] and not sure[-1] and np.all(np.diff(1.0 * sure) <= 0)
  assert np.max(np.abs(off[sure])) < error
  assert np.all(kls[sure] <= np.log(size / frontier.TRUST))
  if name == "bernoulli":
    # All there is has been reached: 1, for less KL than the truth.
    assert size == 1024 or off[kls <= 3].min() < -0.08
  else:
    assert off[-1] < -0.1


def test_the_bias_that_the_samples_tell_is_a_third_of_it():
  """Why it is not added: exponential rewards, N = 256, 1 nat."""
  r = np.random.default_rng(0).exponential(size=(1024, 256))
  curve = from_samples(r, np.array([1.0]), resamples=0)
  family = continuous.exponential(1.0)
  truth = family.best_reward(1.0) - 1
  lacks = truth - (curve.reward - curve.base)[0]
  law = common_tilt.laws(np.zeros_like(r), r, None, None)
  square = common_tilt.table(law, curve.alpha).square.mean()
  told = (square - 1 / 256) / 2 / curve.alpha[0]
  assert 0.2 < told / lacks < 0.6


def test_bands_cover():
  """90 % of bands hold the reward of the population: 82 of 100 would be odd.

  Prompts differ by more than the tilt gains, so only the gain has a narrow one.
  """
  hits, narrow = 0, 0
  rng = np.random.default_rng(0)
  truth = np.sqrt(2 * 0.3)
  for _ in range(100):
    r = rng.normal(size=(24, 1)) * 2 + rng.normal(size=(24, 64))
    curve = from_samples(r, np.array([0.3]))
    hits += bool(curve.low[0] <= truth <= curve.high[0])
    narrow += bool(curve.gain_low[0] <= truth <= curve.gain_high[0])
    assert curve.high[0] - curve.low[0] > curve.gain_high[0] - curve.gain_low[0]
  assert 82 <= hits <= 98 and 75 <= narrow
  one = from_samples(r, np.array([0.3]), seed=3)
  np.testing.assert_array_equal(
    one.low, from_samples(r, np.array([0.3]), seed=3).low
  )
  assert one.low[0] != curve.low[0] and one.reward[0] == curve.reward[0]


def test_bootstrap_is_that_of_the_solved_curve():
  """A resample's reward from tables is that of its prompts solved anew."""
  rng = np.random.default_rng(4)
  r = rng.normal(size=(12, 40)) * np.exp(rng.normal(size=(12, 1)) / 2)
  kls = np.array([0.05, 0.4, 1.2])
  got = from_samples(r, kls, resamples=40, seed=7)
  share = frontier._resample(jnp.ones(12, bool), 40, 7)
  rows = [
    from_samples(np.repeat(r, np.round(12 * np.asarray(s)).astype(int), 0), kls,
                 resamples=0).reward for s in share
  ]  # fmt: skip
  low, high = np.quantile(rows, [0.05, 0.95], axis=0)
  np.testing.assert_allclose(got.low, low, rtol=1e-3)
  np.testing.assert_allclose(got.high, high, rtol=1e-3)


def test_between_and_beyond_the_points():
  logp, r = _laws(11)
  limit = _limit(logp, r)
  points = np.linspace(0.01, 0.9, 24) * limit
  curve = exact(logp, r, points)
  between = np.linspace(0.002, 0.88, 24) * limit
  truth = exact(logp, r, between)
  gain = np.asarray(truth.reward - curve.base)
  # Fourth order in the distance of the points; the first is 5 times the
  # budget below it.
  got = np.asarray(attainable(curve, between))
  np.testing.assert_allclose(got[1:] - curve.base, gain[1:], rtol=1e-4)
  np.testing.assert_allclose(got[0] - curve.base, gain[0], rtol=2e-3)
  np.testing.assert_allclose(attainable(curve, points), curve.reward, rtol=1e-9)
  np.testing.assert_allclose(needed(curve, got), between, rtol=1e-7)
  np.testing.assert_allclose(
    needed(curve, curve.reward), curve.kl, rtol=1e-7, atol=1e-9
  )
  dense = np.linspace(1e-4, 1, 400) * limit
  line = np.asarray(attainable(curve, dense))
  assert np.all(np.diff(line) > 0) and np.all(np.diff(line, 2) < 1e-9)
  # Beyond the last point: the tangent is above the curve.
  assert attainable(curve, limit) >= r.max(1).mean() - 1e-9
  assert 0.9 * limit < needed(curve, r.max(1).mean()) <= limit
  whole = exact(logp, r, np.append(points, [limit, 2 * limit]))
  best = r.max(1).mean()
  np.testing.assert_allclose(attainable(whole, 5 * limit), best)
  np.testing.assert_allclose(needed(whole, best), limit)
  # The last slope is infinite: what is left of the KL buys next to nothing.
  assert 0.9 * limit < needed(whole, best - 1e-9) < limit
  assert np.isposinf(needed(whole, best + 0.1))
  assert np.isneginf(frontier.wasted(whole, best + 0.1, 3.0))


def test_order_of_the_points_does_not_matter():
  logp, r = _laws(5)
  kls = np.array([0.4, 0.02, 0.1, 0.1, 0.0])
  curve, rising = exact(logp, r, kls), exact(logp, r, np.sort(kls))
  np.testing.assert_allclose(
    curve.reward, rising.reward[np.array([4, 1, 2, 2, 0])]
  )
  x = np.array([0.01, 0.05, 0.3])
  np.testing.assert_allclose(
    frontier.attainable(curve, x), frontier.attainable(rising, x)
  )


def test_a_gaussian_needs_one_point():
  """KL is a parabola in the gain, which the interpolation holds exactly."""
  line = lambda kl: (
    jnp.array([0, kl]), jnp.array([1, 1 + np.sqrt(2 * kl)]),
    jnp.array([0, np.sqrt(2 * kl)]),
  )  # fmt: skip
  x = np.array([1e-6, 0.01, 0.3, 1.9])
  got = convex.reward_at(*line(2.0), x)
  np.testing.assert_allclose(got, 1 + np.sqrt(2 * x), rtol=1e-12)
  np.testing.assert_allclose(convex.kl_at(*line(2.0), got), x, rtol=1e-6)


def test_efficiency_and_its_edges():
  curve = exact(LOGP[None], R[None], np.linspace(0.02, 1.5, 32))
  kl, best = 0.2, 1.211386
  score = functools.partial(frontier.efficiency, curve, 0.7)
  np.testing.assert_allclose(score(best, kl), 1, atol=1e-5)
  np.testing.assert_allclose(score(0.7 + (best - 0.7) / 2, kl), 0.5, atol=1e-5)
  assert score(0.6, kl) < 0 < 1 < score(best + 0.1, kl)
  for none in (0.0, -0.01, np.nan):
    assert np.isnan(score(0.8, none))
  small = score(0.7 + np.sqrt(2 * 0.61 * 1e-8), 1e-8)
  np.testing.assert_allclose(small, 1, rtol=5e-3)
  np.testing.assert_allclose(frontier.wasted(curve, best, kl), 0, atol=1e-5)
  np.testing.assert_allclose(frontier.wasted(curve, best, 0.5), 0.3, atol=1e-5)
  np.testing.assert_allclose(frontier.wasted(curve, 0.5, 0.3), 0.3)
  assert frontier.wasted(curve, best, 0.1) < -0.09
  many = jax.vmap(score)(np.array([0.8, 0.9]), np.array([0.1, 0.2]))
  assert many.shape == (2,)


def test_constant_rewards_have_no_frontier():
  for f in (from_samples, lambda r, k: exact(np.zeros_like(r), r, k)):
    curve = f(np.full((3, 8), 2.0), np.array([0.0, 0.5]))
    np.testing.assert_allclose(curve.reward, 2)
    np.testing.assert_allclose(curve.kl, 0, atol=1e-12)
    assert np.isnan(frontier.efficiency(curve, 2.0, 2.0, 0.5))
    np.testing.assert_allclose(frontier.wasted(curve, 2.0, 0.5), 0.5)


def test_vmap():
  r = np.random.default_rng(0).normal(size=(2, 3, 16))
  kls = np.array([0.1, -0.6])
  some = lambda x: frontier.from_samples(x, kls, resamples=20)
  both = jax.jit(jax.vmap(some))(r)
  one = from_samples(r[1], kls, resamples=20)
  for a, b in zip(both, one, strict=True):
    if b is not None:
      np.testing.assert_allclose(a[1], b, rtol=1e-9)
  assert np.isnan(one.reward[1]) and np.isnan(one.low[1])
  assert not one.trusted[1] and np.isfinite(one.low[0])


def test_best_of_n_curve_of_different_rewards():
  rng = np.random.default_rng(0)
  r, gold = rng.normal(size=(2, 5, 16))
  ns = np.array([1, 2, 7, 16, 17])
  got = best_of_n_curve(r, ns, gold=gold)
  np.testing.assert_allclose(got.kl[:4], best_of_n.kl_bound(ns[:4]), atol=1e-12)
  np.testing.assert_allclose(got.bound, best_of_n.kl_bound(ns))
  for i, n in enumerate([1, 2, 7, 16]):
    value = best_of_n.value_unbiased(r, n)
    np.testing.assert_allclose(got.reward[i], value.mean(), rtol=1e-10)
    value = best_of_n.value_unbiased(r, n, gold)
    np.testing.assert_allclose(got.gold[i], value.mean(), rtol=1e-10)
  np.testing.assert_array_equal(got.trusted, [True] * 4 + [False])
  assert np.all(got.low[:4] < got.reward[:4])
  assert np.all(got.reward[:4] < got.high[:4])
  assert np.isnan(got.reward[4]) and np.isnan(got.kl[4])


def _counted(x, n):
  """(best-of-n reward, its square, KL) by subsets and by powers."""
  value = square = kl = 0.0
  below = 0
  for v in np.unique(x):
    here = below + np.sum(x == v)
    chosen = math.comb(here, n) - math.comb(below, n)
    value += v * chosen / math.comb(x.size, n)
    square += v**2 * chosen / math.comb(x.size, n)
    c = (here / x.size) ** n - (below / x.size) ** n
    kl += c * np.log(c * x.size / (here - below))
    below = here
  return value, square, kl


def test_best_of_n_curve_of_tied_and_missing_rewards():
  rng = np.random.default_rng(1)
  r = rng.integers(0, 3, (4, 16)) * 1.0
  r[:, :6] = [0, 0, 1, 1, 2, 2]  # nothing is alone
  valid = np.ones((4, 16), bool)
  valid[1, 6:9] = valid[3] = False
  dirty = np.where(valid, r, np.nan)
  ns = np.array([1, 3, 13, 16])
  got = best_of_n_curve(dirty, ns, gold=dirty**2)
  keep = [r[i][valid[i]] for i in range(3)]
  for k, n in enumerate(ns):
    rows = [_counted(x, n) for x in keep if x.size >= n]
    value, square, kl = np.mean(rows, axis=0)
    np.testing.assert_allclose(got.kl[k], kl, atol=1e-12)
    np.testing.assert_allclose(got.reward[k], value, rtol=1e-10)
    np.testing.assert_allclose(got.gold[k], square, rtol=1e-10)
  np.testing.assert_array_equal(got.trusted, [True, True, True, False])
  assert np.all(got.kl[1:] < got.bound[1:])
  with jax.enable_x64(False):
    narrow = best_of_n_curve(np.float32(dirty), ns, resamples=0)
    # 1e-5: a cumulative sum of 16 weights.
    np.testing.assert_allclose(narrow.reward, got.reward, rtol=1e-5)
    np.testing.assert_allclose(narrow.kl, got.kl, rtol=1e-4, atol=1e-6)


def test_the_estimated_kl_of_best_of_n_nears_the_truth():
  """E1 with 512 samples: 2 % of the exact KL of the worked example."""
  r = np.random.default_rng(0).choice(R, p=P, size=(16, 512))
  got = best_of_n_curve(r, np.array([2, 4, 8, 16]))
  want = [0.140638, 0.559751, 1.068533, 1.469645]
  np.testing.assert_allclose(got.kl, want, rtol=0.02)
  np.testing.assert_allclose(got.reward, [1.11, 1.5279, 1.828322, 1.971837],
                             rtol=0.02)  # fmt: skip
