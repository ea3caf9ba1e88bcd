"""Flips and calibration by hand; the identity of a group that is turned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.ops import advantage, noise

GROUP = jnp.repeat(jnp.arange(500), 8)


@pytest.mark.parametrize("unit", noise.UNITS)
def test_a_share_p_is_flipped_and_the_same_key_flips_the_same(unit):
  on = noise.flips(jax.random.key(0), 0.3, GROUP, unit)
  again = noise.flips(jax.random.key(0), 0.3, GROUP, unit)
  other = noise.flips(jax.random.key(1), 0.3, GROUP, unit)
  np.testing.assert_array_equal(on, again)
  assert not np.array_equal(on, other)
  # 500 coins and 4000: three standard errors.
  coins = 500 if unit == "prompt" else 4000
  assert on.mean() == pytest.approx(0.3, abs=3 * (0.21 / coins) ** 0.5)
  rows = np.asarray(on).reshape(500, 8)
  shared = (rows == rows[:, :1]).all(1).mean()
  assert shared == 1 if unit == "prompt" else shared < 0.1


@pytest.mark.parametrize("unit", noise.UNITS)
def test_ends_of_p(unit):
  assert not noise.flips(jax.random.key(0), 0.0, GROUP, unit).any()
  assert noise.flips(jax.random.key(0), 1.0, GROUP, unit).all()


def test_rows_of_a_question_need_not_be_side_by_side():
  group = jnp.asarray([2, 0, 2, 1, 0, 2])
  for seed in range(8):
    on = noise.flips(jax.random.key(seed), 0.5, group)
    assert on[0] == on[2] == on[5] and on[1] == on[4]


def test_an_unknown_unit_is_refused():
  with pytest.raises(ValueError, match="answer"):
    noise.flips(jax.random.key(0), 0.1, GROUP, "answer")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("scale", ["group", "none"])
def test_a_group_that_is_turned_has_minus_its_advantage(scale):
  # 0 and 1 minus them are exact in binary, so only the last place may differ.
  rng = np.random.default_rng(0)
  r = jnp.asarray(rng.random((200, 8)) < rng.random((200, 1)), jnp.float32)
  valid = jnp.asarray(rng.random((200, 8)) < 0.8)
  turned = noise.flip(r.reshape(-1), jnp.ones(1600, bool)).reshape(r.shape)
  plain = advantage.group_advantage(r, valid, scale=scale)
  np.testing.assert_allclose(
    advantage.group_advantage(turned, valid, scale=scale), -plain, atol=3e-7
  )
  assert np.abs(plain).max() > 0.5


def test_the_mean_reward_is_that_of_the_flip_rate():
  r = jnp.asarray([0.0, 1.0, 0.25])
  p, n = 0.3, 40_000
  group = jnp.zeros(n, jnp.int32)
  on = noise.flips(jax.random.key(3), p, group, "sample")
  mean = jax.vmap(lambda x: noise.flip(jnp.full(n, x), on).mean())(r)
  # The largest deviation of one draw is 0.46: three errors of 40,000 are .007.
  np.testing.assert_allclose(mean, (1 - 2 * p) * r + p, atol=0.007)


def test_low_scores_alone_are_raised():
  u = jnp.asarray([0.0, 0.49, 0.5, 0.9, 0.45])
  aux = jnp.asarray([0.5, 1.0, 1.0, np.nan, 8.0])
  found = noise.calibrate(u, aux)
  np.testing.assert_allclose(found, [0.05, 0.59, 0.5, 0.9, 1.0], rtol=1e-6)
  # A verifier: wrong answers earn the signal, right ones stay at 1.
  found = noise.calibrate(jnp.asarray([0.0, 1.0]), jnp.full(2, 0.4), 0.5, 1.0)
  np.testing.assert_allclose(found, [0.4, 1.0], rtol=1e-6)
