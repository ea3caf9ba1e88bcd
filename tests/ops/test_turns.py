"""Turns of a row against plain loops, and hand-written numbers."""

import jax
import numpy as np

from rlreward.ops import returns, turns

# Two actions, one seen, one action, padding; a row in one go; an empty one.
ACTION = np.array(
  [
    [1, 1, 0, 0, 1, 0, 1, 0],
    [0, 0, 1, 1, 1, 1, 0, 0],
    [0, 0, 0, 0, 0, 0, 0, 0],
  ],
  bool,
)
REWARD = np.array(
  [
    [1.0, 2.0, 50.0, 50.0, 4.0, 50.0, 8.0, 50.0],
    [np.nan, 9.0, 0.0, 1.0, 0.0, 3.0, np.nan, 9.0],
    [9.0] * 8,
  ],
  np.float32,
)


def test_numbers_are_of_runs():
  np.testing.assert_array_equal(
    turns.number(ACTION),
    [
      [0, 0, 0, 0, 1, 1, 2, 2],
      [-1, -1, 0, 0, 0, 0, 0, 0],
      [-1] * 8,
    ],
  )


def test_a_turn_earns_what_its_actions_earn():
  found, there = turns.total(REWARD, ACTION, 3)
  np.testing.assert_array_equal(found, [[3, 4, 8], [4, 0, 0], [0, 0, 0]])
  np.testing.assert_array_equal(
    there, [[True] * 3, [True, False, False], [False] * 3]
  )
  few, _ = turns.total(REWARD, ACTION, 2)
  np.testing.assert_array_equal(few, [[3, 4], [4, 0], [0, 0]])


def test_what_follows_is_discounted_by_turns():
  got = turns.to_go(np.array([[3.0, 4.0, 8.0]], np.float32), 0.5)
  np.testing.assert_allclose(got, [[3 + 2 + 2, 4 + 4, 8]])
  none = turns.to_go(np.array([[3.0, 4.0, 8.0]], np.float32), 0.0)
  np.testing.assert_allclose(none, [[3, 4, 8]])


def test_each_action_has_the_value_of_its_turn():
  value = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32)
  np.testing.assert_array_equal(
    turns.spread(value, ACTION),
    [[1, 1, 0, 0, 2, 0, 3, 0], [0, 0, 4, 4, 4, 4, 0, 0], [0] * 8],
  )


def test_undiscounted_turns_are_the_tokens_to_go_at_a_turns_start():
  """gamma = 1: R of a turn is reward to go at its first action; f32: 1e-5."""
  rng = np.random.default_rng(0)
  for _ in range(20):
    action = rng.random((3, 12)) < 0.6
    reward = rng.normal(size=(3, 12)).astype(np.float32)
    total, _ = turns.total(reward, action, 12)
    ours = np.asarray(turns.spread(turns.to_go(total), action))
    plain = np.asarray(returns.reward_to_go(reward, action))
    first = action & ~np.pad(action, ((0, 0), (1, 0)))[:, :-1]
    np.testing.assert_allclose(ours[first], plain[first], atol=1e-5)


def test_rewards_of_what_is_no_action_have_no_gradient():
  """NaN in a masked slot changes neither value nor gradient."""

  def whole(reward):
    total, _ = turns.total(reward, ACTION, 3)
    return turns.to_go(total, 0.5).sum()

  slope = jax.grad(whole)(REWARD)
  assert np.isfinite(slope).all() and not slope[~ACTION].any()
  np.testing.assert_allclose(slope[0][ACTION[0]], [1, 1, 1.5, 1.75])
