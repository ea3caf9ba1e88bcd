"""Ordered levels, replay and AUROC against sums written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.evals import calibration
from rlreward.ops import detect
from rlreward.ops import reward_model as ops

RNG = np.random.default_rng(0)


def softplus(x):
  return np.log1p(np.exp(x))


def test_three_levels_by_hand():
  r = np.array([[2.0, 0.5, -1.0], [0.0, 0.3, 0.1]])
  w, l2 = (0.35, 1.0, 0.35), 0.01
  want = []
  for a, b, c in r:
    each = [
      0.35 * (softplus(b - a) + l2 / 2 * (a * a + b * b)),
      1.00 * (softplus(c - a) + l2 / 2 * (a * a + c * c)),
      0.35 * (softplus(c - b) + l2 / 2 * (b * b + c * c)),
    ]
    want.append(sum(each) / 3)
  got = detect.ordered_bt(jnp.asarray(r), w, l2)
  np.testing.assert_allclose(got, want, rtol=1e-6)  # f32


def test_two_levels_are_bradley_terry():
  r = jnp.asarray(RNG.normal(size=(7, 2)), jnp.float32)
  want = ops.bradley_terry(r[:, 0], r[:, 1])
  np.testing.assert_allclose(detect.ordered_bt(r), want, rtol=1e-6)


def test_four_levels_have_six_pairs_in_order():
  r = jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32)
  total = 0
  pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
  for k, (i, j) in enumerate(pairs):
    weights = [0.0] * 6
    weights[k] = 2.0
    only = detect.ordered_bt(r, weights)
    want = 2 * softplus(np.asarray(r[:, j] - r[:, i])) / 6
    np.testing.assert_allclose(only, want, rtol=1e-5)
    total = total + only
  np.testing.assert_allclose(detect.ordered_bt(r, (2.0,) * 6), total, rtol=1e-5)


def test_a_level_that_is_not_there_is_in_no_pair():
  r = jnp.asarray([[1.0, jnp.nan, 0.0], [1.0, 5.0, 0.0]])
  there = jnp.asarray([[True, False, True], [True, False, True]])
  value, grad = jax.value_and_grad(
    lambda x: jnp.sum(detect.ordered_bt(x, (), 0.1, there))
  )(r)
  want = 2 * (softplus(-1.0) + 0.05) / 3
  np.testing.assert_allclose(value, want, rtol=1e-6)
  assert np.isfinite(grad).all() and not grad[:, 1].any()
  alone = jnp.asarray([[True, False, False]])
  assert detect.ordered_bt(r[:1], (), 0.1, alone)[0] == 0


@pytest.mark.parametrize(
  ("weights", "l2"), [((1.0,), 0.0), ((1.0, -1.0, 1.0), 0.0), ((), -0.1)]
)
def test_wrong_weights_are_refused(weights, l2):
  with pytest.raises(ValueError, match="3 levels have 3 weights"):
    detect.ordered_bt(jnp.zeros((2, 3)), weights, l2)


def test_one_level_is_no_order():
  with pytest.raises(ValueError, match="two levels"):
    detect.ordered_bt(jnp.zeros((2, 1)))


def test_replay_pulls_to_where_scores_were():
  new, old = jnp.asarray([1.0, -2.0]), jnp.asarray([0.5, -2.0])
  np.testing.assert_allclose(detect.replay_l2(new, old, 0.01), [0.0025, 0.0])
  loss = lambda a, b: jnp.sum(detect.replay_l2(a, b, 0.5))
  a, b = jax.grad(loss, (0, 1))(new, old)
  np.testing.assert_allclose(a, [0.5, 0.0])  # 2 * 0.5 * (1 - 0.5)
  np.testing.assert_array_equal(b, [0, 0])
  with pytest.raises(ValueError, match="coefficient"):
    detect.replay_l2(new, old, -1.0)


@pytest.mark.parametrize("spread", [2, 1000])
def test_auroc_is_that_of_the_evaluation(spread):
  """Whole numbers, so that many are equal with the small spread."""
  p = RNG.integers(0, spread, 40) + spread / 10
  p, n = np.floor(p), RNG.integers(0, spread, 30)
  want = calibration.auroc(p, n)
  got = detect.auroc(jnp.asarray(p, jnp.float32), jnp.asarray(n, jnp.float32))
  assert float(got) == pytest.approx(want, abs=1e-6)  # f32 of a share


def test_auroc_of_those_that_count():
  p = jnp.asarray(RNG.normal(size=50) + 0.5, jnp.float32)
  n = jnp.asarray(RNG.normal(size=60), jnp.float32)
  keep_p, keep_n = RNG.random(50) < 0.5, RNG.random(60) < 0.5
  want = calibration.auroc(np.asarray(p)[keep_p], np.asarray(n)[keep_n])
  got = detect.auroc(p, n, jnp.asarray(keep_p), jnp.asarray(keep_n))
  assert float(got) == pytest.approx(want, abs=1e-6)
  spoiled = jnp.where(jnp.asarray(keep_n), n, jnp.nan)
  got = detect.auroc(p, spoiled, jnp.asarray(keep_p), jnp.asarray(keep_n))
  assert float(got) == pytest.approx(want, abs=1e-6)
  none = jnp.zeros(50, bool)
  assert float(detect.auroc(p, n, none)) == 0.5
