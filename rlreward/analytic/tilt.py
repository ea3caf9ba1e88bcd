"""The KL-constrained optimum: an exponential tilt of the base law.

On a finite set of outcomes with base law p and reward r, the largest mean
reward within a KL budget, and the optimum of reward - beta * KL, is

  phi_alpha(y) = p(y) exp(alpha r(y)) / Z(alpha),   alpha = 1 / beta,

with log Z(alpha) = Lambda(alpha), Lambda' the mean and Lambda'' the variance of
the reward under phi_alpha. Everything works on the last axis and in log-space;
log-probs of -inf are outcomes that never happen, whatever their reward.

Reference: Asymptotics of Language Model Alignment, 2404.01730.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax import lax

from rlreward.types import Array

_STEPS = 80  # halvings of a bracket: past float64's precision
_SERIES = 0.02  # below this log-ratio the series beats the cancelling formula


def _inputs(logp: Array, r: Array) -> tuple[Array, Array, Array]:
  """(normalised logp, reward with 0 where p = 0, support)."""
  chex.assert_equal_shape([logp, r])
  logp = jax.nn.log_softmax(jnp.asarray(logp, float), axis=-1)
  support = logp > -jnp.inf
  return logp, jnp.where(support, jnp.asarray(r, float), 0), support


def _pivot(r: Array, support: Array, alpha: Array) -> Array:
  """The reward that the tilt favours most, [..., 1]."""
  high = jnp.max(jnp.where(support, r, -jnp.inf), axis=-1, keepdims=True)
  low = jnp.min(jnp.where(support, r, jnp.inf), axis=-1, keepdims=True)
  return jnp.where(alpha >= 0, high, low)


def _exponent(
  logp: Array, r: Array, alpha: Array
) -> tuple[Array, Array, Array, Array]:
  """(logp, alpha * (r - pivot) <= 0, pivot[..., 1], alpha[..., 1])."""
  logp, r, support = _inputs(logp, r)
  alpha = jnp.asarray(alpha, float)[..., None]
  pivot = _pivot(r, support, alpha)
  gap = jnp.where(support, r - pivot, 0)
  # An infinite alpha leaves a gap of 0 alone and kills all others.
  moved = alpha * jnp.where(gap == 0, 1, gap)
  return logp, jnp.where(gap == 0, 0, moved), pivot, alpha


def _log_mean_exp(logp: Array, x: Array) -> Array:
  """log E_p exp(x) for x <= 0, precise also where x is tiny; [...]."""
  small = jnp.min(x, axis=-1, keepdims=True) > -0.5
  shift = jnp.sum(jnp.exp(logp) * jnp.expm1(jnp.where(small, x, 0)), axis=-1)
  lse = jax.nn.logsumexp(logp + x, axis=-1)
  return jnp.where(small[..., 0], jnp.log1p(shift), lse)


def bisect(under: Callable[[Array], Array], low: Array, high: Array) -> Array:
  """Where a rising function passes its target.

  Args:
    under: u -> bool, true below the target; elementwise.
    low: where it is true, any shape.
    high: where it is false, same shape.

  Returns:
    Array of that shape, within (high - low) / 2^81 or rounding.
  """

  def halve(_, bracket):
    low, high = bracket
    middle = (low + high) / 2
    below = under(middle)
    return jnp.where(below, middle, low), jnp.where(below, high, middle)

  low, high = lax.fori_loop(0, _STEPS, halve, (low, high))
  return (low + high) / 2


def tilted(logp_Y: Array, r_Y: Array, alpha: float | Array) -> Array:
  """log phi_alpha = log p + alpha r - Lambda(alpha).

  Args:
    logp_Y: [..., Y], log-probs of the base law, up to a constant.
    r_Y: [..., Y], rewards, finite where p > 0.
    alpha: [...], 1 / reward; 0 is the base, inf the base conditioned on its
      best outcomes, negative values prefer the worst.

  Returns:
    [..., Y], normalised log-probs.
  """
  logp, x, _, _ = _exponent(logp_Y, r_Y, jnp.asarray(alpha))
  return jax.nn.log_softmax(logp + x, axis=-1)


def log_partition(logp_Y: Array, r_Y: Array, alpha: float | Array) -> Array:
  """Lambda(alpha) = log E_p exp(alpha r), the cumulants' generating function.

  Args:
    logp_Y: [..., Y], log-probs of the base law, up to a constant.
    r_Y: [..., Y], rewards.
    alpha: [...], finite, of either sign.

  Returns:
    [...], nats.
  """
  logp, x, pivot, alpha = _exponent(logp_Y, r_Y, jnp.asarray(alpha))
  return (alpha * pivot)[..., 0] + _log_mean_exp(logp, x)


def divergence(logq_Y: Array, logp_Y: Array) -> Array:
  """KL(q || p) = sum q log(q / p), relatively precise also where q is near p.

  Args:
    logq_Y: [..., Y], log-probs, up to a constant.
    logp_Y: [..., Y], log-probs, up to a constant.

  Returns:
    [...], nats; infinite where q gives what p forbids.
  """
  logq = jax.nn.log_softmax(jnp.asarray(logq_Y, float), axis=-1)
  logp = jax.nn.log_softmax(jnp.asarray(logp_Y, float), axis=-1)
  q, p = jnp.exp(logq), jnp.exp(logp)
  support = logq > -jnp.inf
  d = jnp.where(support, jnp.where(support, logq, 0) - logp, 0)
  # sum q = sum p, so each term may take q d - q + p = p (d^2 / 2 + ...) >= 0.
  near = support & (jnp.abs(d) < _SERIES)
  e = jnp.where(near, d, 0)
  series = e * e * (1 / 2 + e * (1 / 3 + e * (1 / 8 + e * (1 / 30 + e / 144))))
  direct = jnp.where(support, q * jnp.where(near, 0, d), 0) - q + p
  return jnp.sum(jnp.where(near, p * series, direct), axis=-1)


def kl(logp_Y: Array, r_Y: Array, alpha: float | Array) -> Array:
  """D(alpha) = KL(phi_alpha || p), rising in |alpha|.

  Args:
    logp_Y: [..., Y], log-probs of the base law, up to a constant.
    r_Y: [..., Y], rewards.
    alpha: [...], may be infinite.

  Returns:
    [...], nats.
  """
  return divergence(tilted(logp_Y, r_Y, alpha), logp_Y)


def kl_max(logp_Y: Array, r_Y: Array) -> Array:
  """-log p(argmax r), the KL of the best that any budget can buy.

  Args:
    logp_Y: [..., Y], log-probs of the base law, up to a constant.
    r_Y: [..., Y], rewards.

  Returns:
    [...], nats.
  """
  logp, r, support = _inputs(logp_Y, r_Y)
  best = support & (r == _pivot(r, support, jnp.ones(())))
  return -jax.nn.logsumexp(jnp.where(best, logp, -jnp.inf), axis=-1)


def mean_reward(logp_Y: Array, r_Y: Array, alpha: float | Array) -> Array:
  """Lambda'(alpha), the mean reward under the tilt.

  Args:
    logp_Y: [..., Y], log-probs of the base law, up to a constant.
    r_Y: [..., Y], rewards.
    alpha: [...], may be infinite.

  Returns:
    [...], units of reward.
  """
  _, r, _ = _inputs(logp_Y, r_Y)
  return jnp.sum(jnp.exp(tilted(logp_Y, r_Y, alpha)) * r, axis=-1)


def variance(logp_Y: Array, r_Y: Array, alpha: float | Array) -> Array:
  """Lambda''(alpha), the variance of the reward under the tilt.

  Args:
    logp_Y: [..., Y], log-probs of the base law, up to a constant.
    r_Y: [..., Y], rewards.
    alpha: [...], may be infinite.

  Returns:
    [...], units of reward squared.
  """
  _, r, _ = _inputs(logp_Y, r_Y)
  phi = jnp.exp(tilted(logp_Y, r_Y, alpha))
  mean = jnp.sum(phi * r, axis=-1, keepdims=True)
  return jnp.sum(phi * (r - mean) ** 2, axis=-1)


def solve_alpha(logp_Y: Array, r_Y: Array, kl_budget: float | Array) -> Array:
  """The alpha >= 0 with KL(phi_alpha || p) = budget.

  Bisection of log alpha between two proven bounds, sqrt(8 budget) / (max r -
  min r) and (kl_max + 100) / (gap from the best to the second best reward);
  then one Newton step, which also carries the derivatives in all arguments.

  Args:
    logp_Y: [..., Y], log-probs of the base law, up to a constant.
    r_Y: [..., Y], rewards.
    kl_budget: [...], nats.

  Returns:
    [...], 1 / reward: 0 for a budget of 0, inf from `kl_max` on (where `tilted`
    gives the base conditioned on its best outcomes), NaN below 0.
  """
  logp, r, support = _inputs(logp_Y, r_Y)
  limit = kl_max(logp, r)
  limit, budget = jnp.broadcast_arrays(limit, jnp.asarray(kl_budget, float))
  inside = (budget > 0) & (budget < limit)
  # Any target keeps the arithmetic finite where the answer is known.
  target = jnp.where(inside, budget, jnp.where(limit > 0, limit / 2, 1))
  fall = jnp.where(support, _pivot(r, support, jnp.ones(())) - r, 0)
  spread = jnp.max(fall, axis=-1)
  spread = jnp.where(spread > 0, spread, 1)
  second = jnp.min(jnp.where(fall > 0, fall, jnp.inf), axis=-1)
  second = jnp.where(jnp.isfinite(second), second, 1)
  low = jnp.log(8 * target) / 2 - jnp.log(spread)
  high = jnp.log(limit + 100) - jnp.log(second)
  low, high = lax.stop_gradient((low, jnp.maximum(low, high)))
  root = bisect(lambda u: kl(logp, r, jnp.exp(u)) < target, low, high)
  root = lax.stop_gradient(jnp.exp(root))
  slope = lax.stop_gradient(root * variance(logp, r, root))
  step = (kl(logp, r, root) - target) / jnp.where(slope > 0, slope, jnp.inf)
  # Rounding of a vanishing slope must not throw a good root away.
  near = jnp.abs(step) < 1e-3 * root
  alpha = root - jnp.where(near, step, 0)
  edge = jnp.where(budget >= limit, jnp.inf, jnp.nan)
  return jnp.where(inside, alpha, jnp.where(budget == 0, 0, edge))


def dual_value(
  logp_Y: Array,
  r_Y: Array,
  kl_budget: float | Array,
  alpha: float | Array | None = None,
) -> Array:
  """(Lambda(alpha) + budget) / alpha >= the best mean reward in the budget.

  Args:
    logp_Y: [..., Y], log-probs of the base law, up to a constant.
    r_Y: [..., Y], rewards.
    kl_budget: [...], nats, at least 0.
    alpha: [...], > 0; any gives an upper bound. None minimises over alpha, and
      then the bound is the best mean reward itself.

  Returns:
    [...], units of reward.
  """
  if alpha is None:
    alpha = solve_alpha(logp_Y, r_Y, kl_budget)
  logp, x, pivot, alpha = _exponent(logp_Y, r_Y, jnp.asarray(alpha))
  alpha = alpha[..., 0]
  plain = (alpha > 0) & (alpha < jnp.inf)
  excess = (_log_mean_exp(logp, x) + kl_budget) / jnp.where(plain, alpha, 1)
  edge = mean_reward(logp_Y, r_Y, alpha)
  return jnp.where(plain, pivot[..., 0] + excess, edge)


def regularised_value(logp_Y: Array, r_Y: Array, beta: float | Array) -> Array:
  """max_q E_q r - beta KL(q || p) = beta Lambda(1 / beta).

  Args:
    logp_Y: [..., Y], log-probs of the base law, up to a constant.
    r_Y: [..., Y], rewards.
    beta: [...], units of reward per nat; 0 gives max r, inf the base's mean.

  Returns:
    [...], units of reward.
  """
  return dual_value(logp_Y, r_Y, 0.0, 1 / jnp.asarray(beta, float))


def pythagorean_gap(
  kl_q: float | Array,
  reward_q: float | Array,
  logp_Y: Array,
  r_Y: Array,
  alpha: float | Array,
) -> Array:
  """KL(q || phi_alpha) = KL(q || p) - alpha E_q r + Lambda(alpha), exactly.

  How far any policy q is from the optimum, from two numbers that can be
  measured of it. With E_q r = E_phi r it is the theorem of Pythagoras,
  KL(q || p) = KL(q || phi) + KL(phi || p).

  Args:
    kl_q: [...], KL(q || p), nats.
    reward_q: [...], mean reward of q.
    logp_Y: [..., Y], log-probs of the base law, up to a constant.
    r_Y: [..., Y], rewards.
    alpha: [...], finite.

  Returns:
    [...], nats.
  """
  return kl_q - alpha * reward_q + log_partition(logp_Y, r_Y, alpha)


def stability_bound(
  kl_excess: float | Array, reward_loss: float | Array, alpha: float | Array
) -> Array:
  """KL(q || phi_alpha) <= kl_excess + alpha * reward_loss.

  What is nearly as good as the optimum is near the optimum.

  Args:
    kl_excess: [...], nats that q may spend beyond KL(phi_alpha || p).
    reward_loss: [...], mean reward that q may lack of that of phi_alpha.
    alpha: [...], 1 / reward.

  Returns:
    [...], nats.
  """
  return jnp.asarray(kl_excess, float) + alpha * jnp.asarray(reward_loss, float)
