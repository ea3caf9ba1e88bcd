"""Weights for rows that another policy sampled: stale, foreign or rounded.

Three policies: the behaviour mu that sampled, the proximal pi_old at the start
of the update (the anchor of the clip), and pi that is trained. The weight
corrects mu -> pi_old; the ratio of the loss corrects pi_old -> pi.
"""

from __future__ import annotations

from typing import Literal

import chex
import jax.numpy as jnp
from jax import lax

from rlreward.ops import masked
from rlreward.types import Array

LEVELS = ("token", "sequence", "geometric")
BOUNDS = ("truncate", "mask")
Level = Literal["token", "sequence", "geometric"]
Bound = Literal["truncate", "mask"]


def rollout_weight(
  old_logp_NxT: Array,
  behaviour_logp_NxT: Array,
  mask_NxT: Array,
  *,
  level: Level = "token",
  bound: Bound = "truncate",
  low: float = 0.0,
  high: float = 2.0,
  normalise: bool = False,
) -> tuple[Array, dict[str, Array]]:
  """w = bounded pi_old / mu, a frozen factor of the policy loss.

    token      exp(old_t - mu_t), for each token
    sequence   exp(sum_t (old_t - mu_t)), the same for all tokens of a row
    geometric  exp(mean_t (old_t - mu_t)), the same for all tokens of a row

    truncate   clip(w, low, high)                        (TIS)
    mask       w where low <= w <= high, else 0          (IcePop, rejection)

  Multiply the surrogate by it after its clip, never the KL term.

  Args:
    old_logp_NxT: log-probs under pi_old.
    behaviour_logp_NxT: log-probs that the sampler reported.
    mask_NxT: bool, actions.
    level: what the weight is of.
    bound: what happens outside [low, high].
    low: 0 leaves it unbounded below.
    high: C; 2 to 5 are usual.
    normalise: divide by the mean weight over actions, so that the size of the
      update is kept.

  Returns:
    (f32[N, T] without gradient, 0 where the mask is false,
    {"weight": the same, "weight_bounded": 1 where the bound decided}).

  Raises:
    ValueError: unknown level or bound, or an empty interval.

  Reference: decoupled PPO 2110.00641; truncated importance sampling, Ionides
    2008, as used between samplers and trainers by verl, OpenRLHF and TRL.
  """
  if level not in LEVELS or bound not in BOUNDS:
    raise ValueError(
      f"got level={level!r}, bound={bound!r}; level is one of {LEVELS}, "
      f"bound one of {BOUNDS}"
    )
  if not 0 <= low < high:
    raise ValueError(f"need 0 <= low < high, got low={low}, high={high}")
  chex.assert_equal_shape([old_logp_NxT, behaviour_logp_NxT, mask_NxT])
  gap = masked.clean(old_logp_NxT, mask_NxT) - masked.clean(
    behaviour_logp_NxT, mask_NxT
  )
  if level == "sequence":
    gap = jnp.broadcast_to(jnp.sum(gap, 1, keepdims=True), gap.shape)
  elif level == "geometric":
    mean = masked.masked_mean(gap, mask_NxT, axis=1)
    gap = jnp.broadcast_to(mean[:, None], gap.shape)
  raw = masked.safe_exp(gap)
  inside = (raw >= low) & (raw <= high)
  if bound == "truncate":
    weight = jnp.clip(raw, low, high)
  else:
    weight = jnp.where(inside, raw, 0)
  weight = masked.clean(weight, mask_NxT)
  if normalise:
    mean = masked.masked_mean(weight, mask_NxT)
    weight = weight / jnp.where(mean > 0, mean, 1)
  weight = lax.stop_gradient(weight)
  outside = lax.stop_gradient(masked.clean(~inside, mask_NxT))
  return weight, {"weight": weight, "weight_bounded": outside}
