"""Bounded shapes: hand numbers, slopes, monotone, and what bounds buy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from rlreward.analytic import tilt
from rlreward.ops import bounded, transform

EXACT = {
  "sigmoid": special.expit,
  "tanh": np.tanh,
  "arctan": np.arctan,
}
SLOPES = {"sigmoid": 0.25, "tanh": 1.0, "arctan": 1.0, "polynomial": 0.228789}
NAN = np.nan


@pytest.mark.parametrize("shape", bounded.SHAPES)
def test_hand_numbers_and_the_slope_at_the_reference(shape):
  f = bounded.SHAPES[shape]
  low, high = bounded.RANGES[shape]
  assert float(f(0.0)) == pytest.approx((low + high) / 2)
  assert float(jax.grad(f)(0.0)) == pytest.approx(SLOPES[shape], abs=1e-6)
  x = np.linspace(-6, 6, 101)
  if shape in EXACT:
    np.testing.assert_allclose(f(jnp.float32(x)), EXACT[shape](x), atol=1e-6)
  # Odd about the middle: as much is lost below as is won above.
  np.testing.assert_allclose(
    f(jnp.float32(x)) + f(jnp.float32(-x)), low + high, atol=1e-6
  )


def test_the_polynomial_is_the_fit_of_numpy_held_inside():
  grid = np.linspace(-5, 5, 100)
  fit = np.poly1d(np.polyfit(grid, special.expit(grid), 5))
  x = np.linspace(-5, 5, 1001)
  got = bounded.polynomial(jnp.float32(x))
  np.testing.assert_allclose(got, np.clip(fit(x), 0, 1), atol=1e-6)
  assert fit(4.9) > 1  # what the clip is for
  np.testing.assert_allclose(got, special.expit(x), atol=0.022)


@settings(deadline=None, max_examples=40)
@given(
  st.sampled_from(sorted(bounded.SHAPES)),
  st.floats(-1e4, 1e4, width=32),
  st.floats(0, 1e4, width=32),
)
def test_monotone_and_inside_the_range(shape, x, more):
  f = bounded.SHAPES[shape]
  low, high = bounded.RANGES[shape]
  a, b = float(f(jnp.float32(x))), float(f(jnp.float32(x) + more))
  # one unit of float32: the vendor's functions are not monotone to the bit
  assert low - 1e-6 <= a <= b + 2e-7 and b <= high + 1e-6
  assert np.isfinite(jax.grad(f)(jnp.float32(x)))


@pytest.mark.parametrize("shape", bounded.SHAPES)
def test_relative_is_the_mean_over_known_references(shape):
  rng = np.random.default_rng(0)
  r, refs = rng.normal(size=6), rng.normal(size=(6, 4))
  refs[1, 2] = refs[2] = NAN
  got = bounded.relative(r, refs, shape, 2.0, 0.5)
  f = EXACT.get(shape, lambda x: np.asarray(bounded.polynomial(x)))
  for i in range(6):
    known = refs[i][np.isfinite(refs[i])]
    want = f(2 * (r[i] - 0.5 - known)).mean() if known.size else NAN
    np.testing.assert_allclose(got[i], want, atol=1e-6)
  valid = np.isfinite(refs)
  np.testing.assert_array_equal(
    got, bounded.relative(r, refs, shape, 2.0, 0.5, valid)
  )
  grad = jax.grad(
    lambda r: jnp.nansum(bounded.relative(r, refs, shape, 2.0, 0.5))
  )(jnp.float32(r))
  assert np.isfinite(grad).all() and grad[2] == 0


def test_par_is_preference_as_reward_and_blind_to_a_shift():
  rng = np.random.default_rng(1)
  r, refs = rng.normal(size=5), rng.normal(size=(5, 10))
  par = bounded.relative(r, refs)
  np.testing.assert_allclose(
    par, transform.preference_as_reward(r, refs), atol=1e-6
  )
  np.testing.assert_allclose(
    bounded.relative(r + 7, refs + 7), par, atol=2e-6
  )  # float32 of 7
  one = float(bounded.relative(jnp.asarray(2.0), jnp.asarray([2.0])))
  assert one == 0.5  # as good as the reference
  with pytest.raises(ValueError, match="cosine"):
    bounded.relative(r, refs, "cosine")


def test_par_is_an_unbiased_estimate_of_the_chance_to_win():
  # Over all samples of two references out of four: exactly the chance.
  pool = jnp.asarray([-1.0, 0.0, 0.5, 3.0])
  pairs = pool[jnp.stack(jnp.meshgrid(*[jnp.arange(4)] * 2), -1)]
  est = bounded.relative(jnp.full((4, 4), 0.7), pairs)
  chance = special.expit(0.7 - np.asarray(pool)).mean()
  assert float(est.mean()) == pytest.approx(chance, abs=1e-6)


def test_a_bounded_reward_bounds_the_policy():
  rng = np.random.default_rng(2)
  r = rng.standard_t(1.5, 400)  # a tail that no model should be trusted in
  logp = jnp.full(400, -math.log(400))
  for beta in (0.05, 0.5):
    for shape, (low, high) in bounded.RANGES.items():
      s = bounded.SHAPES[shape](jnp.float32(r))
      moved = np.abs(tilt.tilted(logp, s, 1 / beta) - logp).max()
      assert moved <= (high - low) / beta + 1e-4


def test_gold_at_a_budget_where_the_proxy_has_a_heavy_tail():
  """PAR keeps at KL 2 what the raw reward and affine maps of it lose."""
  rng = np.random.default_rng(0)
  gold = rng.normal(size=20000)
  proxy = gold + 0.7 * rng.standard_t(2, 20000)
  refs = jnp.asarray(rng.choice(proxy, 10))
  mean, sd = proxy.mean(), proxy.std()
  shaped = {
    "raw": proxy,
    "standard": bounded.standardise(proxy, mean, sd),
    "minmax": bounded.minmax(proxy, proxy.min(), proxy.max()),
    "par": bounded.relative(proxy, refs),
    "slow": bounded.relative(proxy, refs, shift=3.0),
    "clip": bounded.clip(proxy, mean, sd),
  }

  def at(s, budget=2.0):
    s = np.asarray(s, np.float64)
    low, high = 0.0, 2000.0 / np.ptp(s)
    for _ in range(40):
      a = (low + high) / 2
      p = special.softmax(a * (s - s.max()))
      kl = np.sum(special.xlogy(p, p * len(p)))
      low, high = (a, high) if kl < budget else (low, a)
    return p @ gold

  found = {k: at(s) for k, s in shaped.items()}
  np.testing.assert_allclose(found["standard"], found["raw"], atol=1e-3)
  np.testing.assert_allclose(found["minmax"], found["raw"], atol=1e-3)
  assert found["par"] > found["raw"] + 0.4
  assert found["par"] > found["slow"] + 0.2
  assert found["clip"] > found["raw"] + 0.4


def test_affine_maps_and_no_spread():
  r = jnp.asarray([1.0, 2.0, 4.0])
  np.testing.assert_allclose(bounded.standardise(r, 2.0, 2.0), [-0.5, 0.0, 1.0])
  np.testing.assert_allclose(bounded.standardise(r, 2.0, 0.0), [-1, 0, 2])
  # The spread of equal rewards is rounding and must not become noise.
  tiny = bounded.standardise(jnp.asarray([100.00001]), 100.0, 1e-6)
  assert np.abs(tiny).max() < 1e-4
  np.testing.assert_allclose(bounded.minmax(r, 1.0, 3.0), [0, 0.5, 1])
  np.testing.assert_array_equal(bounded.minmax(r, 2.0, 2.0), np.zeros(3))
  np.testing.assert_array_equal(bounded.minmax(r, np.inf, -np.inf), np.zeros(3))
  np.testing.assert_allclose(bounded.clip(r, 2.0, 0.5), [1.5, 2.0, 2.5])
  unknown = jnp.asarray([NAN])
  for x in (bounded.minmax(unknown, 0.0, 1.0), bounded.clip(unknown, 0.0, 1.0),
            bounded.minmax(unknown, 1.0, 1.0)):  # fmt: skip
    assert np.isnan(x).all()
  for f in (
    lambda r: bounded.standardise(r, 0.0, 0.0),
    lambda r: bounded.minmax(r, 1.0, 1.0),
    lambda r: bounded.minmax(r, np.inf, -np.inf),
  ):
    assert np.isfinite(jax.grad(lambda r, f=f: f(r).sum())(r)).all()
