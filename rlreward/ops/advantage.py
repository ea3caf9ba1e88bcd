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


def minus_mean(reward_N: Array, valid_N: Array) -> Array:
  """r - mean r over the batch, 0 where not valid.

  The mean holds the sample itself: the gradient is (1 - 1 / N) of the unbiased
  one, in the same direction.

  Args:
    reward_N: rewards.
    valid_N: bool.

  Returns:
    f32[N] without gradient.
  """
  chex.assert_equal_shape([reward_N, valid_N])
  mean = masked.masked_mean(reward_N, valid_N)
  return lax.stop_gradient(masked.clean(reward_N - mean, valid_N))


def minus(
  reward_BxG: Array, valid_BxG: Array, other_BxM: Array, other_valid_BxM: Array
) -> Array:
  """r minus the mean reward of other answers to the prompt.

  With M = 1 greedy answers this is the self-critical baseline: it does not
  depend on the sample, so the gradient is unbiased.

  Args:
    reward_BxG: rewards.
    valid_BxG: bool.
    other_BxM: rewards of the other answers.
    other_valid_BxM: bool; prompts without a valid one get 0.

  Returns:
    f32[B, G] without gradient.

  Reference: SCST, arXiv 1612.00563; ReMax, arXiv 2310.10505.
  """
  chex.assert_rank([reward_BxG, other_BxM], 2)
  known = valid_BxG & jnp.any(other_valid_BxM, 1, keepdims=True)
  base = masked.masked_mean(other_BxM, other_valid_BxM, axis=1)[:, None]
  return lax.stop_gradient(masked.clean(reward_BxG - base, known))


def minus_length_weighted(
  reward_BxG: Array, valid_BxG: Array, length_BxG: Array
) -> Array:
  """r - sum_g L_g r_g / sum_g L_g, the baseline of least variance.

  It is optimal where the squared norm of a response's score grows with its
  length, as for tokens with orthogonal gradients of equal size.

  Args:
    reward_BxG: rewards.
    valid_BxG: bool.
    length_BxG: tokens of each response.

  Returns:
    f32[B, G] without gradient, 0 where not valid or alone.

  Reference: OPO, arXiv 2505.23585.
  """
  chex.assert_equal_shape([reward_BxG, valid_BxG, length_BxG])
  length = masked.clean(length_BxG, valid_BxG)
  weighed = length * masked.clean(reward_BxG, valid_BxG)
  total = jnp.sum(length, 1, keepdims=True)
  base = jnp.sum(weighed, 1, keepdims=True) / jnp.where(total > 0, total, 1)
  known = valid_BxG & (jnp.sum(valid_BxG, 1, keepdims=True) >= 2)
  return lax.stop_gradient(masked.clean(reward_BxG - base, known))


def rescaled_mean(reward_BxG: Array, valid_BxG: Array) -> Array:
  """alpha (r - mean of the group), alpha = prompts / prompts that vary.

  Groups of equal rewards add zeros to the batch's mean gradient; alpha takes
  the shrinkage back.

  Args:
    reward_BxG: rewards.
    valid_BxG: bool.

  Returns:
    f32[B, G] without gradient.

  Reference: GPG, arXiv 2504.02546, with its F_norm = 1.
  """
  alive = informative(reward_BxG, valid_BxG)
  scale = alive.shape[0] / jnp.maximum(jnp.sum(alive), 1)
  return scale * group_advantage(
    reward_BxG, valid_BxG, center="mean", scale="none"
  )
