"""Whether a reward puts wrong answers of a group above right ones."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from rlreward.types import Array


def outranked(reward_BxG: Array, right_BxG: Array, valid_BxG: Array) -> Array:
  """Share of the wrong answers of its group that earn more than a right one.

    o_i = #{j wrong : r_j > r_i} / #{j wrong}

  Args:
    reward_BxG: what is trained on; anything where not valid.
    right_BxG: bool.
    valid_BxG: bool, answers with a judgement.

  Returns:
    f32[B, G], NaN for what is not right and in groups without a wrong answer.
  """
  chex.assert_rank([reward_BxG, right_BxG, valid_BxG], 2)
  chex.assert_equal_shape([reward_BxG, right_BxG, valid_BxG])
  wrong = valid_BxG & ~right_BxG
  above = reward_BxG[:, None, :] > reward_BxG[:, :, None]
  count = jnp.sum(wrong, 1, keepdims=True)
  share = jnp.sum(above & wrong[:, None, :], -1) / jnp.maximum(count, 1)
  known = valid_BxG & right_BxG & (count > 0)
  return jnp.where(known, share.astype(jnp.float32), jnp.nan)
