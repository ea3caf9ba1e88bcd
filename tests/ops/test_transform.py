"""Reward transforms against hand numbers, numpy, float64 and Bayes' rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from rlreward.analytic import tilt
from rlreward.ops import transform

# Four outcomes, a uniform base: 1 and 4 are each excellent in one reward alone.
R1, R2 = (8.0, 1.0, 3.0, -4.0), (-4.0, 1.0, -1.0, 8.0)
BOTH = np.stack([R1, R2], -1)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


# ------------------------------------------------------------ log-sigmoid
def test_hand_numbers_of_one_reward(x64):
  one = lambda r: transform.lsc(jnp.asarray([r]), jnp.zeros(1))
  assert float(one(0.0)) == pytest.approx(-0.6931, abs=5e-5)
  slopes = [float(jax.grad(one)(r)) for r in (-4.0, 0.0, 4.0)]
  np.testing.assert_allclose(slopes, [0.982, 0.5, 0.018], atol=5e-4)


@pytest.mark.parametrize("ref", [(0.0, 0.0), (2.0, -1.5)])
def test_equals_the_log_of_the_chances(x64, ref):
  rng = np.random.default_rng(0)
  r = rng.normal(0, 3, (5, 4, 2))
  weights = np.asarray([1.0, 0.5])
  want = np.log(special.expit(r - ref)) @ weights
  got = transform.lsc(r, jnp.asarray(ref), weights)
  np.testing.assert_allclose(got, want, rtol=1e-12)
  moved = transform.lsc(np.moveaxis(r, -1, 0), jnp.asarray(ref)[:, None, None],
                        weights, 0)  # fmt: skip
  np.testing.assert_allclose(moved, want, rtol=1e-12)


def test_far_from_the_reference_nothing_overflows():
  r = jnp.asarray([-1e4, 1e4])
  f = lambda x: transform.lsc(x[None], jnp.zeros(1))
  np.testing.assert_allclose([f(x) for x in r], [-1e4, 0.0])
  np.testing.assert_allclose([jax.grad(f)(x) for x in r], [1.0, 0.0])


def test_a_shift_of_both_changes_nothing_and_a_scale_does(x64):
  ref = jnp.asarray([0.5, -1.0])
  base = transform.lsc(BOTH, ref)
  np.testing.assert_allclose(
    transform.lsc(BOTH + 7.0, ref + 7.0), base, rtol=1e-12
  )
  scaled = np.asarray(transform.lsc(3 * BOTH, 3 * ref))
  assert np.ptp(scaled / np.asarray(base)) > 0.5  # not the same up to a factor


def test_the_optimum_is_the_bayes_posterior(x64):
  # Gate: exp(u) pi_0 / Z = P(y | good in both), to 1e-5 and to the paper's
  # sheet of numbers; the raw sum pays for one property with the other.
  logp = jnp.log(jnp.full(4, 0.25))
  got = jnp.exp(tilt.tilted(logp, transform.lsc(BOTH, jnp.zeros(2)), 1.0))
  good = special.expit(np.asarray(R1)) * special.expit(np.asarray(R2))
  np.testing.assert_allclose(got, good / good.sum(), atol=1e-5)
  np.testing.assert_allclose(got, [0.0218, 0.6466, 0.3099, 0.0218], atol=1e-4)
  raw = jnp.exp(tilt.tilted(logp, transform.total(BOTH), 1.0))
  np.testing.assert_allclose(raw, [0.4404, 0.0596, 0.0596, 0.4404], atol=1e-4)


def test_gamma_is_the_power_of_the_chance(x64):
  logp = jnp.log(jnp.asarray([0.1, 0.2, 0.3, 0.4]))
  u = transform.lsc(BOTH, jnp.asarray([1.0, 0.0]))
  got = jnp.exp(tilt.tilted(logp, u, 1 / 0.5))
  good = special.expit(BOTH - [1.0, 0.0]).prod(-1) ** 2
  want = np.asarray([0.1, 0.2, 0.3, 0.4]) * good
  np.testing.assert_allclose(got, want / want.sum(), rtol=1e-10)


def test_centring_the_sum_changes_no_optimum(x64):
  logp = jnp.log(jnp.full(4, 0.25))
  ref = transform.mean_reference(BOTH.T)
  centred = tilt.tilted(logp, transform.total(BOTH - np.asarray(ref)), 0.7)
  raw = tilt.tilted(logp, transform.total(BOTH), 0.7)
  np.testing.assert_allclose(centred, raw, rtol=1e-12)


def test_unjudged_rewards_leave_value_and_gradient_alone():
  valid = jnp.asarray([[True, False], [True, True]])
  hole = jnp.asarray([[1.0, jnp.nan], [2.0, -1.0]])
  filled = jnp.asarray([[1.0, 5.0], [2.0, -1.0]])
  for f in (
    lambda x: transform.lsc(x, jnp.zeros(2), valid=valid),
    lambda x: transform.total(x, jnp.asarray([1.0, 2.0]), valid=valid),
  ):
    np.testing.assert_array_equal(f(hole), f(filled))
    grads = jax.grad(lambda x, f=f: f(x).sum())(hole)
    assert np.isfinite(grads).all() and float(grads[0, 1]) == 0.0
  assert np.isnan(transform.lsc(hole, jnp.zeros(2))[0])


# ------------------------------------------------------------ references
@pytest.mark.parametrize("q", [0.1, 0.5, 0.85])
def test_quantiles_are_those_of_numpy(x64, q):
  x = np.random.default_rng(1).normal(size=(6, 17))
  got = transform.quantile_reference(x, q)
  np.testing.assert_allclose(got, np.quantile(x, q, axis=1), rtol=1e-12)
  got = transform.quantile_reference(x, q, "gaussian")
  want = x.mean(1) + stats.norm.ppf(q) * x.std(1, ddof=1)
  np.testing.assert_allclose(got, want, rtol=1e-10)


def test_the_gaussian_constant_of_the_85th_percentile(x64):
  x = jnp.asarray([[-1.0, 0.0, 1.0]])  # mean 0, sd 1
  got = transform.quantile_reference(x, 0.85, "gaussian")
  assert float(got[0]) == pytest.approx(1.0364, abs=5e-5)


@pytest.mark.parametrize("method", transform.QUANTILES)
def test_samples_that_do_not_count_are_not_seen(x64, method):
  x = np.random.default_rng(2).normal(size=(3, 8))
  hole = x.copy()
  hole[0, 3], hole[1, 0], hole[2] = np.nan, np.inf, np.nan
  got = transform.quantile_reference(hole, 0.7, method)
  valid = np.isfinite(hole)
  for row in (0, 1):
    want = transform.quantile_reference(hole[row][valid[row]], 0.7, method)
    np.testing.assert_allclose(got[row], want, rtol=1e-12)
  assert np.isnan(got[2])  # unknown, never 0
  told = transform.quantile_reference(x, 0.7, method, valid_BxR=valid)
  np.testing.assert_array_equal(told, got)


def test_one_sample_and_equal_samples_are_their_own_quantile():
  for method in transform.QUANTILES:
    one = transform.quantile_reference(jnp.asarray([[2.5]]), 0.85, method)
    same = transform.quantile_reference(jnp.full((1, 4), 2.5), 0.85, method)
    assert float(one[0]) == float(same[0]) == 2.5


@pytest.mark.parametrize(
  ("q", "method", "word"), [(0.0, "empirical", "inside"), (0.5, "mid", "mid")]
)
def test_what_cannot_be_a_quantile_is_refused(q, method, word):
  with pytest.raises(ValueError, match=word):
    transform.quantile_reference(jnp.zeros((1, 2)), q, method)


def test_no_gradient_reaches_a_reference():
  x = jnp.asarray([[1.0, 2.0, 4.0]])
  for f in (
    lambda x: transform.quantile_reference(x, 0.5),
    lambda x: transform.quantile_reference(x, 0.5, "gaussian"),
    transform.mean_reference,
    lambda x: transform.preference_as_reward(jnp.zeros(1), x),
  ):
    assert not np.any(jax.grad(lambda x, f=f: f(x).sum())(x))


def test_preference_as_reward_by_hand(x64):
  r, refs = np.asarray([0.0, 2.0]), np.asarray([[1.0, -1.0], [0.0, np.nan]])
  got = transform.preference_as_reward(r, refs)
  np.testing.assert_allclose(got, [0.5, special.expit(2.0)], rtol=1e-12)
  none = transform.preference_as_reward(r, np.full((2, 3), np.nan))
  assert np.isnan(none).all()
  slope = jax.grad(lambda r: transform.preference_as_reward(r, refs).sum())
  grads = slope(jnp.asarray(r))
  want = [special.expit(1) * special.expit(-1),
          special.expit(2) * special.expit(-2)]  # fmt: skip
  np.testing.assert_allclose(grads, want, rtol=1e-12)
