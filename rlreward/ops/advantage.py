"""Advantages of a sample relative to the other samples of its prompt."""

from __future__ import annotations

from typing import Literal

import chex
import jax.numpy as jnp
from jax import lax

from rlreward.ops import masked
from rlreward.types import Array

CENTERS = ("mean", "loo", "none")
SCALES = ("group", "batch", "none")
# A spread of this many units in the last place is rounding, not signal.
_ROUNDING = 2


def _moments(
  reward: Array, valid: Array, ddof: int
) -> tuple[Array, Array, Array, Array]:
  """(count[B,1], deviation[B,G], sd[B,1], smallest sd that is no rounding)."""
  reward = masked.clean(reward, valid)
  count = jnp.sum(valid, axis=1, keepdims=True, dtype=reward.dtype)
  # Distance to the smallest reward first: equal rewards deviate by exactly 0.
  low = jnp.min(jnp.where(valid, reward, jnp.inf), axis=1, keepdims=True)
  above = masked.clean(reward - low, valid)
  mean = masked.masked_mean(above, valid, axis=1)[:, None]
  deviation = masked.clean(above - mean, valid)
  sd = jnp.sqrt(masked.masked_var(above, valid, axis=1, ddof=ddof))[:, None]
  size = jnp.max(jnp.abs(reward), axis=1, keepdims=True)
  return count, deviation, sd, _ROUNDING * jnp.finfo(reward.dtype).eps * size


def informative(reward_BxG: Array, valid_BxG: Array) -> Array:
  """Prompts whose samples differ: the ones with any group-relative gradient.

  DAPO's dynamic sampling filters on accuracy, so pass the accuracy: a summed
  reward with a length penalty differs even in an all-right group.

  Args:
    reward_BxG: rewards or accuracies.
    valid_BxG: bool, false where there is no judgement.

  Returns:
    bool[B]: two valid samples or more, not all equal (up to rounding).

  Reference: DAPO, 2503.14476.
  """
  chex.assert_rank([reward_BxG, valid_BxG], 2)
  chex.assert_equal_shape([reward_BxG, valid_BxG])
  count, _, sd, rounding = _moments(reward_BxG, valid_BxG, ddof=1)
  return jnp.squeeze((count >= 2) & (sd > rounding), axis=1)


def group_advantage(
  reward_BxG: Array,
  valid_BxG: Array,
  *,
  center: Literal["mean", "loo", "none"] = "mean",
  scale: Literal["group", "batch", "none"] = "group",
  ddof: int = 1,
  eps: float = 1e-6,
  sd_min: float = 1e-8,
) -> Array:
  """Advantage of each sample: reward minus baseline, over a scale.

    center: mean  r - mean of the group
            loo   r - mean of the others = n / (n - 1) (r - mean)   (RLOO)
            none  r
    scale:  group  / (sd of the group + eps); 0 where that sd <= sd_min
            batch  (A - mean A) / (max(sd, sd_min) + eps) over all valid A
            none

  mean/group is GRPO, mean/none Dr. GRPO, loo/none RLOO, mean/batch REINFORCE++
  with baseline, none/none REINFORCE. Samples without a valid reward leave all
  statistics. With a group statistic in play, a group with fewer than two valid
  samples or without spread (up to float rounding) gets 0.

  Args:
    reward_BxG: rewards; anything, NaN too, where not valid.
    valid_BxG: bool, false where there is no judgement.
    center: the baseline.
    scale: what to divide by.
    ddof: 1 (as torch, verl, TRL) or 0.
    eps: added to the standard deviation.
    sd_min: scale="group": groups with this spread or less get 0;
      scale="batch": floor of the batch's standard deviation, which keeps noise
      small once the signal has died out.

  Returns:
    f32[B, G] without gradient, 0 where not valid.

  Raises:
    ValueError: unknown center or scale, or a group statistic of groups of 1.

  Reference: 2402.03300 (GRPO), 2503.20783 (Dr. GRPO), 2402.14740 (RLOO),
    2501.03262 (REINFORCE++).
  """
  chex.assert_rank([reward_BxG, valid_BxG], 2)
  chex.assert_equal_shape([reward_BxG, valid_BxG])
  if center not in CENTERS or scale not in SCALES:
    raise ValueError(
      f"got center={center!r}, scale={scale!r}; center is one of {CENTERS}, "
      f"scale one of {SCALES}"
    )
  grouped = center != "none" or scale == "group"
  if grouped and reward_BxG.shape[1] < 2:
    raise ValueError(
      f"groups of {reward_BxG.shape[1]} have no group statistics: sample at "
      "least 2 per prompt, or use center='none' with scale='batch' or 'none'"
    )
  count, deviation, sd, rounding = _moments(reward_BxG, valid_BxG, ddof)
  advantage = deviation
  if center == "none":
    advantage = masked.clean(reward_BxG, valid_BxG)
  elif center == "loo":
    advantage = deviation * count / jnp.maximum(count - 1, 1)
  counted = valid_BxG & (count >= 2) if grouped else valid_BxG
  alive = counted & (sd > rounding) if grouped else valid_BxG
  advantage = masked.clean(advantage, alive)
  if scale == "group":
    alive = alive & (sd > sd_min)
    advantage = advantage / (sd + eps)
  elif scale == "batch":
    mean = masked.masked_mean(advantage, counted)
    spread = jnp.sqrt(masked.masked_var(advantage, counted, ddof=ddof))
    advantage = (advantage - mean) / (jnp.maximum(spread, sd_min) + eps)
  advantage = masked.clean(advantage, alive)
  return lax.stop_gradient(advantage)
