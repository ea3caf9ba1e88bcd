"""Turns of a row: runs of actions, parted by what the policy did not write.

A row that asks a tool twice has three turns. A turn's reward is all that its
actions earn, and what follows it is discounted by turns, not by tokens, so that
a long query does not cost more than a short one.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlreward.ops import masked
from rlreward.types import Array


def number(action_NxT: Array) -> Array:
  """Which turn an action belongs to.

  Args:
    action_NxT: bool.

  Returns:
    i32[N, T], 0 for the first; slots that are no action have the turn before
    them, -1 before the first.
  """
  chex.assert_rank(action_NxT, 2)
  before = jnp.pad(action_NxT, ((0, 0), (1, 0)))[:, :-1]
  return jnp.cumsum(action_NxT & ~before, 1, dtype=jnp.int32) - 1


def total(
  reward_NxT: Array, action_NxT: Array, most: int
) -> tuple[Array, Array]:
  """What each turn earned.

  Args:
    reward_NxT: of tokens; what is no action is ignored.
    action_NxT: bool.
    most: K, turns of a row; those beyond are left out.

  Returns:
    (f32[N, K], bool[N, K] the turns that there are).
  """
  chex.assert_equal_shape([reward_NxT, action_NxT])
  own = jax.nn.one_hot(number(action_NxT), most) * action_NxT[..., None]
  reward = masked.clean(reward_NxT, action_NxT)
  return jnp.einsum("nt,ntk->nk", reward, own), own.any(1)


def to_go(reward_NxK: Array, gamma: float = 1.0) -> Array:
  """R_k = sum_{j >= k} gamma^(j - k) r_j, in steps that are turns.

  Args:
    reward_NxK: of turns, 0 where there is none.
    gamma: discount of a turn.

  Returns:
    f32[N, K].
  """
  chex.assert_rank(reward_NxK, 2)
  step = jnp.arange(reward_NxK.shape[1])
  ahead = step[:, None] - step  # [j, k]
  weight = jnp.where(ahead >= 0, gamma ** jnp.maximum(ahead, 0), 0.0)
  return reward_NxK @ weight.astype(reward_NxK.dtype)


def spread(value_NxK: Array, action_NxT: Array) -> Array:
  """The value of its turn at each action, 0 elsewhere.

  Args:
    value_NxK: of turns.
    action_NxT: bool.

  Returns:
    f32[N, T].
  """
  place = jnp.clip(number(action_NxT), 0, value_NxK.shape[1] - 1)
  wide = jnp.take_along_axis(value_NxK, place, 1)
  return masked.clean(wide, action_NxT)
