"""Credit over the tokens of a response: returns, GAE, value loss, controllers.

Only actions count. A slot that is no action (a prompt, padding, what a tool
wrote) earns nothing, has no value and is no time step: the recursion passes
through it, so an answer with holes has the credit of the answer without them.
"""

from __future__ import annotations

import chex
import jax.numpy as jnp
from jax import lax

from rlreward.ops import masked
from rlreward.types import Array


def _backwards(factor: Array, step: Array) -> Array:
  """y with y_t = factor_t * y_{t+1} + step_t along axis 1, 0 after the end."""

  def join(late, early):
    return late[0] * early[0], early[0] * late[1] + early[1]

  return lax.associative_scan(join, (factor, step), reverse=True, axis=1)[1]


def at_last(reward_N: Array, mask_NxT: Array) -> Array:
  """The reward of a response at its last action, 0 elsewhere.

  Args:
    reward_N: one number for each response.
    mask_NxT: bool, actions.

  Returns:
    f32[N, T]; a row without actions earns nothing.
  """
  chex.assert_rank([reward_N, mask_NxT], [1, 2])
  slots = jnp.arange(mask_NxT.shape[1])
  last = masked.last_index(mask_NxT)[:, None] == slots
  return masked.clean(jnp.broadcast_to(reward_N[:, None], last.shape),
                      last & mask_NxT)  # fmt: skip


def reward_to_go(
  reward_NxT: Array, mask_NxT: Array, gamma: float = 1.0
) -> Array:
  """R_t = sum_{s >= t} gamma^(s - t) r_s, in time steps that are actions.

  Args:
    reward_NxT: per-token rewards; what is not an action is ignored.
    mask_NxT: bool, actions.
    gamma: discount of one action.

  Returns:
    f32[N, T], 0 where the mask is false.
  """
  chex.assert_equal_shape([reward_NxT, mask_NxT])
  reward = masked.clean(reward_NxT, mask_NxT)
  factor = jnp.where(mask_NxT, jnp.asarray(gamma, reward.dtype), 1)
  return masked.clean(_backwards(factor, reward), mask_NxT)


def gae(
  reward_NxT: Array,
  value_NxT: Array,
  mask_NxT: Array,
  gamma: float = 1.0,
  lam: float = 0.95,
) -> tuple[Array, Array]:
  """Generalised advantage estimation over the actions of each row.

    delta_t = r_t + gamma V_{t+1} - V_t
    A_t     = delta_t + gamma lam A_{t+1},  target_t = A_t + V_t

  where t + 1 is the next action; after the last one V = A = 0, also for rows
  that were cut off (a response has no reward to come beyond its limit).

  Args:
    reward_NxT: per-token rewards.
    value_NxT: V of the state before each action, under the old critic.
    mask_NxT: bool, actions.
    gamma: discount; 1 for text.
    lam: 1 gives returns - V, 0 the one-step error.

  Returns:
    (advantage, target) f32[N, T] without gradient, 0 where the mask is false.

  Reference: arXiv 1506.02438; the rule for holes is verl's.
  """
  chex.assert_equal_shape([reward_NxT, value_NxT, mask_NxT])
  reward = masked.clean(reward_NxT, mask_NxT)
  value = masked.clean(value_NxT, mask_NxT)
  # The value of the first action at or after t, then of the one after t.
  ahead = _backwards(jnp.where(mask_NxT, 0.0, 1.0).astype(value.dtype), value)
  after = jnp.pad(ahead[:, 1:], [(0, 0), (0, 1)])
  delta = masked.clean(reward + gamma * after - value, mask_NxT)
  factor = jnp.where(mask_NxT, jnp.asarray(gamma * lam, value.dtype), 1)
  advantage = masked.clean(_backwards(factor, delta), mask_NxT)
  return lax.stop_gradient((advantage, advantage + value))


def value_loss(
  value_NxT: Array,
  old_value_NxT: Array,
  target_NxT: Array,
  mask_NxT: Array,
  clip: float | None = 0.2,
) -> tuple[Array, Array]:
  """0.5 max((V - R)^2, (clip(V, V_old +- clip) - R)^2) for each action.

  Args:
    value_NxT: V, with gradient.
    old_value_NxT: V when the rollout was made.
    target_NxT: R.
    mask_NxT: bool, actions.
    clip: how far V may move from V_old for free; None or 0 is the plain half
      square.

  Returns:
    (loss f32[N, T], 1 where the clip decided), 0 where the mask is false.

  Reference: PPO as in lm-human-preferences, arXiv 1909.08593.
  """
  chex.assert_equal_shape([value_NxT, old_value_NxT, target_NxT, mask_NxT])
  value = masked.clean(value_NxT, mask_NxT)
  old, target = (
    lax.stop_gradient(masked.clean(x, mask_NxT))
    for x in (old_value_NxT, target_NxT)
  )
  plain = jnp.square(value - target)
  if not clip:
    return 0.5 * plain, jnp.zeros_like(plain)
  near = jnp.square(jnp.clip(value, old - clip, old + clip) - target)
  decided = lax.stop_gradient((near > plain).astype(plain.dtype))
  return 0.5 * jnp.maximum(plain, near), decided


def explained_variance(
  value_NxT: Array, target_NxT: Array, mask_NxT: Array
) -> Array:
  """1 - Var(R - V) / Var R over actions: 1 is perfect, 0 as good as a constant.

  Args:
    value_NxT: V.
    target_NxT: R.
    mask_NxT: bool, actions.

  Returns:
    f32[]; 0 where R does not vary.
  """
  gap = masked.clean(target_NxT, mask_NxT) - masked.clean(value_NxT, mask_NxT)
  spread = masked.masked_var(target_NxT, mask_NxT)
  rest = masked.masked_var(gap, mask_NxT)
  flat = spread <= 0
  return jnp.where(flat, 0, 1 - rest / jnp.where(flat, 1, spread))


def adaptive_kl(
  beta: Array, kl: Array, target: float, episodes: int, horizon: float
) -> Array:
  """The KL coefficient that steers the KL of a response to a target.

    beta <- beta (1 + clip(KL / target - 1, -0.2, 0.2) episodes / horizon)

  Args:
    beta: f32[], the coefficient so far.
    kl: f32[], mean over responses of the sum over tokens, nats.
    target: the KL wanted, nats.
    episodes: responses that `kl` was measured on.
    horizon: episodes in which a full error changes beta by a fifth.

  Returns:
    f32[], the next coefficient; a KL that is not finite leaves it alone.

  Raises:
    ValueError: a target or horizon that is not positive.

  Reference: Fine-Tuning Language Models from Human Preferences, 1909.08593.
  """
  if target <= 0 or horizon <= 0:
    raise ValueError(
      f"target and horizon must be positive, got {target} and {horizon}"
    )
  error = jnp.clip(kl / target - 1, -0.2, 0.2)
  error = jnp.where(jnp.isfinite(kl), error, 0)
  return lax.stop_gradient(beta * (1 + error * episodes / horizon))
