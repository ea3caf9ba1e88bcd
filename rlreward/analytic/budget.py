"""From a KL budget to the settings that spend it: beta, n, and alpha on line.

The optimum of reward - beta KL spends the budget at beta = 1 / alpha, with the
alpha of the common tilt of all prompts, see `frontier`. From samples of the
reference it is read off their empirical law; for samples of a policy in
training, where a controller of beta has to find it, see `implied_alpha`.

Reference: Asymptotics of Language Model Alignment, arXiv 2404.01730.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rlreward.analytic import best_of_n, common_tilt, frontier, tilt
from rlreward.types import Array

_SLACK = 1e-6  # of a budget; a KL of float32 may be that far off
_LIMIT = 20.0  # of a log-ratio in the control variate, against overflow


def choose_beta(logp_Y: Array, r_Y: Array, kl_budget: float | Array) -> Array:
  """The coefficient of the KL whose optimum spends a budget.

  Args:
    logp_Y: [Y] or [B, Y], log-probs of the base law, up to a constant.
    r_Y: same shape, rewards.
    kl_budget: nats, mean over prompts; any shape.

  Returns:
    Array of kl_budget's shape, reward per nat: inf for a budget of 0, 0 where
    the best reward is within budget, NaN below 0.
  """
  budget = jnp.asarray(kl_budget, float)
  curve = frontier.exact(
    jnp.atleast_2d(logp_Y), jnp.atleast_2d(r_Y), budget.ravel()
  )
  return (1 / curve.alpha).reshape(budget.shape)


def choose_beta_from_samples(
  rewards_BxN: Array, kl_budget: float | Array, valid: Array | None = None
) -> Array:
  """`choose_beta` from N samples of the reference for each prompt.

  Args:
    rewards_BxN: rewards.
    kl_budget: nats, mean over prompts; any shape. Near log N it cannot be
      trusted: see `frontier.from_samples`, whose `trusted` says where.
    valid: bool[B, N]; None means all.

  Returns:
    Array of kl_budget's shape, reward per nat.
  """
  budget = jnp.asarray(kl_budget, float)
  curve = frontier.from_samples(
    rewards_BxN, budget.ravel(), valid=valid, resamples=0
  )
  return (1 / curve.alpha).reshape(budget.shape)


def _largest(spent: Callable[[int], float], kl_budget: float, most: int) -> int:
  """The largest n in 1..most with spent(n) <= budget, spent rising from 0."""
  if not kl_budget >= 0:
    raise ValueError(f"a KL budget is at least 0 nats, got {kl_budget}")
  within = lambda n: spent(n) <= kl_budget * (1 + _SLACK)
  low, high = 1, 2
  while high <= most and within(high):
    low, high = high, 2 * high
  high = min(high, most + 1)
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (middle, high) if within(middle) else (low, middle)
  return low


def choose_n(
  kl_budget: float,
  p: Array | None = None,
  r: Array | None = None,
  *,
  most: int = 1_000_000_000,
) -> int:
  """The largest n whose best-of-n is within a KL budget.

  Args:
    kl_budget: nats, mean over prompts; a Python number.
    p: [Y] or [B, Y], probabilities, with r for the exact KL. None takes the
      bound log n - (n - 1) / n, which holds for every law.
    r: same shape, rewards.
    most: largest answer; a law with atoms has a KL that no n exceeds.

  Returns:
    A Python integer, at least 1.

  Raises:
    ValueError: a negative budget, or one of p and r without the other.
  """
  if (p is None) != (r is None):
    raise ValueError("the exact KL needs both p and r")
  if p is None or r is None:
    return _largest(lambda n: np.log(n) - (n - 1) / n, kl_budget, most)
  kl = jax.jit(jax.vmap(best_of_n.kl, (0, 0, None)))
  law = jnp.atleast_2d(p), jnp.atleast_2d(r)
  spent = lambda n: float(jnp.mean(kl(*law, float(n))))
  return _largest(spent, kl_budget, most)


def choose_n_from_samples(
  rewards_BxN: Array, kl_budget: float, valid: Array | None = None
) -> int:
  """`choose_n` by the KL that `frontier.best_of_n_curve` estimates.

  Args:
    rewards_BxN: rewards of samples of the reference.
    kl_budget: nats, mean over prompts; a Python number.
    valid: bool[B, N]; None means all.

  Returns:
    A Python integer, at least 1, at most the samples of the prompt that has
    fewest of those that have any.

  Raises:
    ValueError: a negative budget.
  """
  inside = np.isfinite(np.asarray(rewards_BxN, float))
  if valid is not None:
    inside &= np.asarray(valid, bool)
  count = inside.sum(axis=1)
  most = int(count[count > 0].min(initial=inside.shape[1]))
  curve = jax.jit(frontier.best_of_n_curve, static_argnames="resamples")

  def spent(n):
    found = curve(rewards_BxN, jnp.array([n]), valid=inside, resamples=0)
    return float(found.kl[0])

  return _largest(spent, kl_budget, most)


def _measured(alpha, r, log_ratio, inside) -> tuple[Array, Array]:
  """Jackknifed D = alpha E_w r - log mean exp(alpha r - log_ratio).

  Returns ([B], and what each sample adds to it [B, G], up to a constant).
  """
  count = jnp.sum(inside, axis=1)

  def weigh(x):
    """(which weighs most, weights, their moments, its log-ratio) of some."""
    first = jnp.argmax(x, axis=1)[:, None] == jnp.arange(x.shape[1])
    at = lambda y: jnp.sum(jnp.where(first, y, 0), axis=1, keepdims=True)
    # Relative to the heaviest, a large alpha leaves no large numbers.
    fall = r - at(r)
    some = x > -jnp.inf
    w = jnp.exp(alpha * fall - (log_ratio - at(log_ratio)))
    w = jnp.where(some, w, 0)
    wr = jnp.where(some, alpha * w * fall, 0)
    return first, w, wr, at(log_ratio)

  def depth(w, wr, level, count):
    return wr / w - jnp.log(w / jnp.maximum(count, 1)) + level

  x = jnp.where(inside, alpha * r - log_ratio, -jnp.inf)
  first, w, wr, level = weigh(x)
  mass, total = (jnp.sum(y, axis=1, keepdims=True) for y in (w, wr))
  whole = depth(mass, total, level, count[:, None])
  # Without the heaviest, what is left is summed anew: a difference could leave
  # nothing. Any other is at most half of all.
  _, w2, wr2, level2 = weigh(jnp.where(first, -jnp.inf, x))
  mass2, total2 = (jnp.sum(y, axis=1, keepdims=True) for y in (w2, wr2))
  out = depth(
    jnp.where(first, mass2, mass - w),
    jnp.where(first, total2, total - wr),
    jnp.where(first, level2, level),
    count[:, None] - 1,
  )
  gain = jnp.sum(jnp.where(inside, whole - out, 0), axis=1)
  value = whole[:, 0] + gain * (count - 1) / jnp.maximum(count, 1)
  return value, count[:, None] * (wr - w * (1 + total / mass)) / mass


def implied_alpha(
  reward_BxG: Array,
  log_ratio_BxG: Array,
  kl_budget: float | Array,
  valid: Array | None = None,
) -> Array:
  """The alpha whose tilt of the reference spends a KL budget, from a policy.

  With l = log pi / ref of samples of any policy pi, and weights w in proportion
  to exp(alpha r - l), of each prompt

    Lambda = log E_pi exp(alpha r - l),   D(alpha) = alpha E_w r - Lambda,

  and D, averaged over prompts, is to be the budget. Where pi is that tilt all
  weights are equal and D is the mean of l, without bias. Elsewhere few samples
  make D too low, so alpha too high: for Gaussian rewards and G = 8 from the
  reference 1.25 times at 0.5 nats, 2.5 times at 1.5, and no D is above log G.
  So

  - D is jackknifed over the samples of each prompt: 1.06 and 1.4 times, and D
    reaches log G + 1. It changes nothing where pi is the tilt; halfway there
    alpha is right to 3 %. Near the largest budget of rewards of 0 and 1 the
    reference gives 0.73 times (1.5 of 1.61 nats), halfway there 1 %.
  - mean exp(-l) - 1, which is 0 on average, is a control variate: what of D
    goes with it, by regression within prompts, is taken out. At 0.1 nats, 16
    prompts and pi the tilt, 80 % of alphas were within 0.92-1.10 of the truth
    instead of 0.69-1.26; with two outcomes nothing is left of the variance.

  A prompt with equal rewards has a D that no alpha moves, what its samples have
  spent: 0 where l is 0. To drop it would bias D low where most samples succeed.

  Args:
    reward_BxG: rewards of G samples of pi for each prompt.
    log_ratio_BxG: log pi - log ref of each, nats.
    kl_budget: f[], nats, mean over prompts.
    valid: bool[B, G]; others and what is not finite have no part, nor has a
      prompt with fewer than 2. None means all.

  Returns:
    f[], 1 / reward, without gradient: 0 where the samples say nothing (all
    rewards of each prompt equal, or a budget at or below what noise alone
    makes of D at alpha = 0); inf where no alpha spends it, as far as they show.
  """
  chex.assert_rank([reward_BxG, log_ratio_BxG], 2)
  chex.assert_equal_shape([reward_BxG, log_ratio_BxG])
  r, lr, budget = lax.stop_gradient(
    tuple(jnp.asarray(x, float) for x in (reward_BxG, log_ratio_BxG, kl_budget))
  )
  inside = jnp.isfinite(r) & jnp.isfinite(lr)
  if valid is not None:
    inside &= jnp.asarray(valid, bool)
  live = jnp.sum(inside, axis=1) >= 2
  # A prompt that has no part takes zeros, to stay finite.
  r, lr = (jnp.where(inside & live[:, None], x, 0) for x in (r, lr))
  inside |= ~live[:, None]
  of = lambda x: common_tilt.ratio(inside.astype(x.dtype), x)
  center = lambda x: jnp.where(inside, x - of(x)[:, None], 0)
  r = center(r)
  mean = lambda x: common_tilt.mean(x, live)
  e = jnp.exp(jnp.minimum(-lr, _LIMIT))
  vary, excess = center(e), mean(of(e)) - 1
  scale = jnp.sum(vary**2)
  known = scale > 1e-12 * e.size

  def under(u):
    value, part = _measured(jnp.exp(u), r, lr, inside)
    c = jnp.sum(center(part) * vary) / jnp.where(known, scale, 1)
    return mean(value) - jnp.where(known, c, 0) * excess < budget

  ranked = jnp.sort(jnp.where(inside, r, jnp.inf), axis=1)
  gap = jnp.where(jnp.isfinite(ranked[:, 1:]), jnp.diff(ranked, axis=1), 0)
  spread = jnp.max(jnp.sum(gap, axis=1))
  # Differences of rewards that are equal but for rounding are none.
  noise = 8 * jnp.finfo(r.dtype).eps * jnp.max(jnp.abs(r))
  least = jnp.min(jnp.where(gap > noise, gap, jnp.inf))
  some = least < jnp.inf
  least, spread = (jnp.where(some, x, 1) for x in (least, spread))
  low = jnp.log(1e-3 * jnp.sqrt(jnp.maximum(budget, 1e-12)) / spread)
  high = jnp.log((100 + 2 * jnp.max(jnp.abs(lr))) / least)
  root = jnp.exp(tilt.bisect(under, low, high))
  found = jnp.where(under(high), jnp.inf, root)
  found = jnp.where(under(low), found, 0)
  return jnp.where(some & jnp.any(live) & (budget > 0), found, 0)
