"""Long sequences of independent tokens: exact exponents of reward and KL.

With y of m tokens, p(y) = prod p1(y_i) and r(y) = sum r1(y_i), the tilt of the
sequence is the product of the tilts of its tokens, so everything is about one
token: Lambda1(alpha) = log E_{p1} exp(alpha r1), see `tilt`. A KL budget of m
delta nats gives the alpha that delta gives one token. Best-of-n with n = exp(m
delta) has the same reward and KL per token as that tilt, as m grows.

Reference: Asymptotics of Language Model Alignment, 2404.01730.
"""

from __future__ import annotations

import chex
import jax.numpy as jnp
import numpy as np
from jax import lax

from rlreward.analytic import tilt
from rlreward.types import Array


def _logs(p: Array) -> Array:
  return jnp.log(jnp.asarray(p, float))


def solve_mean(p_Y: Array, r_Y: Array, x: float | Array) -> Array:
  """The alpha of either sign with Lambda1'(alpha) = x.

  Args:
    p_Y: [Y], probabilities of one token.
    r_Y: [Y], its rewards.
    x: mean reward to reach, any shape.

  Returns:
    Array of x's shape, 1 / reward. At the largest or smallest reward, which no
    finite alpha reaches, one that is there up to exp(-100) of probability.
  """
  chex.assert_rank([p_Y, r_Y], 1)
  logp, x = _logs(p_Y), jnp.asarray(x, float)
  r = jnp.asarray(r_Y, float)
  high = _end(logp, r)
  low = _end(logp, -r)
  under = lambda alpha: tilt.mean_reward(logp, r, alpha) < x
  full = lambda a: jnp.broadcast_to(a, x.shape)
  return tilt.bisect(under, full(-low), full(high))


def _end(logp: Array, r: Array) -> Array:
  """An alpha at which all but the best outcomes have mass exp(-100)."""
  alive = logp > -jnp.inf
  fall = jnp.max(jnp.where(alive, r, -jnp.inf)) - r
  second = jnp.min(jnp.where(alive & (fall > 0), fall, jnp.inf))
  second = jnp.where(jnp.isfinite(second), second, 1)
  return (tilt.kl_max(logp, r) + 100) / second


def rate(
  p_Y: Array, r_Y: Array, x: float | Array, alpha: float | Array = 0.0
) -> Array:
  """I(x) = sup_t t x - [Lambda1(alpha + t) - Lambda1(alpha)].

  P(r / m near x) = exp(-m I(x) + o(m)) under the tilt by alpha. It is also
  KL(phi_x || phi_alpha) with phi_x the tilt whose mean is x: 0 at the mean of
  phi_alpha, convex, infinite beyond the largest and the smallest reward.

  Args:
    p_Y: [Y], probabilities of one token.
    r_Y: [Y], its rewards.
    x: mean reward per token, any shape.
    alpha: f[], the tilt that sequences are drawn from; 0 is the base.

  Returns:
    Array of x's shape, nats per token; d rate / dx = alpha_x - alpha.
  """
  logp, x = _logs(p_Y), jnp.asarray(x, float)
  alive, r = logp > -jnp.inf, jnp.asarray(r_Y, float)
  root = lax.stop_gradient(solve_mean(p_Y, r, x))
  moved = tilt.tilted(logp, r, root)
  value = tilt.divergence(moved, tilt.tilted(logp, r, alpha))
  # The derivative is that of the supremum's own formula at its maximum.
  partition = lambda a: tilt.log_partition(logp, r, a)
  envelope = (root - alpha) * x - partition(root) + partition(alpha)
  value = lax.stop_gradient(value) + envelope - lax.stop_gradient(envelope)
  inside = (x <= jnp.max(jnp.where(alive, r, -jnp.inf))) & (
    x >= jnp.min(jnp.where(alive, r, jnp.inf))
  )
  return jnp.where(inside, value, jnp.where(jnp.isnan(x), x, jnp.inf))


def scaled_cumulant(
  p_Y: Array, r_Y: Array, alpha: float | Array, rho: float | Array
) -> Array:
  """(1 / m) log E exp(rho r) under phi_alpha, at every m.

  Lambda1(alpha + rho) - Lambda1(alpha).

  Args:
    p_Y: [Y], probabilities of one token.
    r_Y: [Y], its rewards.
    alpha: [...], the tilt that sequences are drawn from; 0 is the base.
    rho: [...], order, of either sign.

  Returns:
    [...], nats per token.
  """
  moved = tilt.tilted(_logs(p_Y), r_Y, alpha)
  return tilt.log_partition(moved, jnp.broadcast_to(r_Y, moved.shape), rho)


def renyi_cross_entropy(p_Y: Array, q_Y: Array, t: float | Array) -> Array:
  """H_t(p || q) = log(sum p q^(t - 1)) / (1 - t).

  With q = softmax(r1) and Z its denominator, the cumulants of the reward are
  Lambda1(t) = t log Z - t H_{1 + t}(p || q).

  Args:
    p_Y: [Y], probabilities.
    q_Y: [Y], probabilities, positive where p is.
    t: [...], order; 1 is the cross entropy -sum p log q.

  Returns:
    [...], nats.
  """
  s = jnp.asarray(t, float) - 1
  logp, logq = _logs(p_Y), _logs(q_Y)
  safe = jnp.where(s == 0, 1, s)
  mean = tilt.mean_reward(logp, logq, jnp.zeros_like(s))
  return -jnp.where(s == 0, mean, tilt.log_partition(logp, logq, safe) / safe)


def iid_reward_pmf(
  p_Y: Array, r_Y: np.ndarray, m: int
) -> tuple[np.ndarray, Array]:
  """The law of the sum of m independent integer rewards.

  Convolutions of positive numbers, by repeated squaring: unlike with an FFT the
  digits of small probabilities are kept.

  Args:
    p_Y: [Y], probabilities of one token.
    r_Y: [Y], integers, known before compiling.
    m: tokens, at least 1.

  Returns:
    (the sums m min r .. m max r, their probabilities), each [S].

  Raises:
    ValueError: rewards that are no integers, or m below 1.
  """
  r = np.asarray(r_Y)
  if not np.array_equal(r, np.round(r)) or m < 1:
    raise ValueError(f"need integer rewards and m >= 1, got {r} and m={m}")
  r = r.astype(int)
  low, width = r.min(), r.max() - r.min()
  power = jnp.zeros(width + 1, float).at[r - low].add(jnp.asarray(p_Y, float))
  total, left = jnp.ones(1, float), m
  while left:
    if left % 2:
      total = jnp.convolve(total, power, precision=lax.Precision.HIGHEST)
    left //= 2
    if left:
      power = jnp.convolve(power, power, precision=lax.Precision.HIGHEST)
  return m * low + np.arange(m * width + 1), total


def log_tail(
  p_Y: Array,
  r_Y: Array,
  x: float | Array,
  m: float | Array,
  alpha: float | Array = 0.0,
  span: float = 1.0,
) -> Array:
  """log P(r / m >= x) under phi_alpha, up to o(1).

  P ~ exp(-m I(x)) / sqrt(2 pi m v) * h / (1 - exp(-h eta)), with eta =
  alpha_x - alpha, v = Lambda1''(alpha_x) and rewards on a lattice of span h.
  The rate alone, exp(-m I), is off by a factor that grows with m.

  Args:
    p_Y: [Y], probabilities of one token.
    r_Y: [Y], its rewards.
    x: reward per token above the mean of phi_alpha and below the largest, with
      m x on the lattice; any shape. Negate r and x for the lower tail.
    m: tokens, broadcastable.
    alpha: f[], the tilt that sequences are drawn from; 0 is the base.
    span: largest h that all differences of rewards are multiples of; 0 for
      rewards on no lattice.

  Returns:
    Array of x's shape; NaN where x is not above the mean.

  Reference: Bahadur and Rao, On Deviations of the Sample Mean, 1960.
  """
  logp, r = _logs(p_Y), jnp.asarray(r_Y, float)
  root = solve_mean(p_Y, r, x)
  eta = root - alpha
  above = eta > 0
  eta = jnp.where(above, eta, 1)
  ladder = -span / jnp.expm1(-span * eta) if span else 1 / eta
  width = jnp.log(2 * jnp.pi * m * tilt.variance(logp, r, root)) / 2
  value = jnp.log(ladder) - width - m * rate(p_Y, r, x, alpha)
  return jnp.where(above, value, jnp.nan)
