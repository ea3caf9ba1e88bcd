"""Rewards of a known law: the tilt and best-of-n in closed form.

A `Family` is what `tilt` and `best_of_n` say of a list of outcomes, for the law
of the reward itself: the KL of a policy is at least that of its reward, and the
tilt and best-of-n attain it. The frontier of many prompts with the same law is
that of one.

  Gaussian     E r + sd sqrt(2 KL), best-of-n by quadrature
  exponential  (1 + y) / rate with y - log(1 + y) = KL, best-of-n H_n / rate
  uniform      low + width W(c), best-of-n high - width / (n + 1)
  Bernoulli    the binary KL from p, best-of-n 1 - (1 - p)^n

Reference: Asymptotics of Language Model Alignment, arXiv 2404.01730.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy import special

from rlreward.analytic import tilt
from rlreward.analytic.best_of_n import kl_bound
from rlreward.types import Array

# The largest of n normals by the trapezoid rule, in g = -log(-n log F). Its
# error is exp(-pi^2 / step), below 1e-16.
_GUMBEL = np.linspace(-4, 41, 226)
_SMALL = 0.5  # below this half-width of a uniform's tilt its series is used
_NEAR = 0.1  # below this y - log(1 + y) is summed as a series
_TERMS = 16


class Family(NamedTuple):
  """A law of rewards; all functions are elementwise in arrays.

  Attributes:
    log_partition: alpha -> log E exp(alpha r); inf where that diverges.
    mean: alpha -> E r under the tilt.
    variance: alpha -> Var r under the tilt.
    kl: alpha -> KL(tilt || base), nats.
    solve_alpha: KL -> the alpha >= 0 of the tilt that spends it; NaN below 0.
    best_reward: KL -> the largest mean reward that it buys.
    best_of_n: n -> E r of the best of n, n >= 1.
    best_of_n_kl: n -> KL of the best of n, nats.
  """

  log_partition: Callable[[Array], Array]
  mean: Callable[[Array], Array]
  variance: Callable[[Array], Array]
  kl: Callable[[Array], Array]
  solve_alpha: Callable[[Array], Array]
  best_reward: Callable[[Array], Array]
  best_of_n: Callable[[Array], Array]
  best_of_n_kl: Callable[[Array], Array]


def _floats(*f: Callable[[Array], Array]) -> Family:
  """A family whose functions take Python numbers and integers too."""
  wrap = lambda g: lambda x: g(jnp.asarray(x, float))
  return Family(*map(wrap, f))


def gaussian(mean: float | Array, sd: float | Array) -> Family:
  """Normal rewards: every tilt is the same law, moved by alpha sd^2.

  Args:
    mean: of the reward under the base.
    sd: its standard deviation, > 0.

  Returns:
    Family.
  """
  return _floats(
    lambda a: a * mean + (a * sd) ** 2 / 2,
    lambda a: mean + a * sd**2,
    lambda a: jnp.zeros_like(a) + sd**2,
    lambda a: (a * sd) ** 2 / 2,
    lambda k: jnp.sqrt(2 * k) / sd,
    lambda k: mean + sd * jnp.sqrt(2 * k),
    lambda n: mean + sd * largest_normal(n),
    kl_bound,
  )


def largest_normal(n: float | Array) -> Array:
  """E max of n independent standard normals, to rounding for n from 1 to 1e9.

  F(max)^n is uniform, so with F^n = exp(-exp(-g)) the g are Gumbel's:
  E max = int exp(-g - exp(-g)) z(g) dg, log Phi(z) = -exp(-g) / n.

  Args:
    n: draws, at least 1, any shape.

  Returns:
    Array of n's shape.
  """
  n = jnp.asarray(n, float)
  g = jnp.asarray(_GUMBEL, n.dtype)
  share = jnp.exp(-g) / n[..., None]
  upper = -jnp.expm1(-share)  # of the normal above z
  half = upper < 0.5
  z = special.ndtri(jnp.where(half, upper, jnp.exp(-share)))
  weight = jnp.exp(-g - jnp.exp(-g)) * (_GUMBEL[1] - _GUMBEL[0])
  return jnp.sum(weight * jnp.where(half, -z, z), axis=-1)


def _excess(y: Array) -> Array:
  """y - log(1 + y), precise also for small y."""
  small = jnp.abs(y) < _NEAR
  e, series = jnp.where(small, y, 0), jnp.zeros_like(y)
  for n in range(_TERMS, 1, -1):
    series = 1 / n - e * series
  return jnp.where(small, e * e * series, y - jnp.log1p(y))


def exponential(rate: float | Array) -> Family:
  """Exponential rewards: heavy enough that no alpha reaches `rate`.

  Args:
    rate: 1 / mean of the reward under the base, > 0.

  Returns:
    Family; log_partition, mean, variance and kl are inf from alpha = rate on.
  """

  def inside(f):
    """f of what alpha leaves of the rate, and of the gain rate E r - 1."""

    def g(a):
      left = rate - a
      some = left > 0
      safe = jnp.where(some, left, 1)
      value = f(safe, jnp.where(some, a, 0) / safe)
      return jnp.where(some, value, jnp.where(jnp.isnan(a), a, jnp.inf))

    return g

  def gain(k):
    root = jnp.sqrt(2 * k)
    low, high = jnp.maximum(k, root), k + root
    y = tilt.bisect(lambda y: _excess(y) < k, low, high)
    return jnp.where(k < jnp.inf, y, k)

  def alpha(k):
    y = gain(k)
    whole = jnp.isposinf(y)
    y = jnp.where(whole, 0, y)
    return rate * jnp.where(whole, 1, y / (1 + y))

  return _floats(
    inside(lambda left, y: jnp.log1p(y)),
    inside(lambda left, y: 1 / left),
    inside(lambda left, y: 1 / left**2),
    inside(lambda left, y: _excess(y)),
    alpha,
    lambda k: (1 + gain(k)) / rate,
    lambda n: (special.digamma(n + 1) + np.euler_gamma) / rate,
    kl_bound,
  )


def _langevin() -> list[float]:
  """Coefficients of coth h - 1 / h = sum l_k h^(2 k - 1)."""
  out = []
  for k in range(1, 13):
    square = sum(out[i] * out[k - 2 - i] for i in range(k - 1))
    out.append(((k == 1) - square) / (2 * k + 1))
  return out


_COTH = _langevin()


def _powers(h2: Array, scale: Callable[[int], float]) -> Array:
  """sum scale(k) l_k h2^k / h2."""
  total = jnp.zeros_like(h2)
  for k, c in reversed(list(enumerate(_COTH, 1))):
    total = scale(k) * c + h2 * total
  return total


def _split(h: Array) -> tuple[Array, Array, Array]:
  """(is it small, h where small, |h| where not)."""
  small = jnp.abs(h) < _SMALL
  return small, jnp.where(small, h, 0), jnp.where(small, 1, jnp.abs(h))


def _log_sinhc(h: Array) -> Array:
  """log(sinh(h) / h)."""
  small, s, b = _split(h)
  big = b + jnp.log(-jnp.expm1(-2 * b)) - jnp.log(2 * b)
  return jnp.where(small, s * s * _powers(s * s, lambda k: 1 / (2 * k)), big)


def _mean_of(h: Array) -> Array:
  """coth h - 1 / h, the mean of a tilt on [-1, 1]."""
  small, s, b = _split(h)
  big = jnp.sign(h) * (1 - 2 * jnp.exp(-2 * b) / jnp.expm1(-2 * b) - 1 / b)
  return jnp.where(small, s * _powers(s * s, lambda k: 1), big)


def _var_of(h: Array) -> Array:
  """1 / h^2 - 1 / sinh(h)^2, its variance."""
  small, s, b = _split(h)
  big = 1 / b**2 - 4 * jnp.exp(-2 * b) / jnp.expm1(-2 * b) ** 2
  return jnp.where(small, _powers(s * s, lambda k: 2 * k - 1), big)


def _kl_of(h: Array) -> Array:
  """h (coth h - 1 / h) - log(sinh(h) / h), its KL."""
  small, s, b = _split(h)
  tail = jnp.expm1(-2 * b)
  big = (
    -2 * jnp.minimum(b, 1e3) * jnp.exp(-2 * b) / tail
    - 1
    - jnp.log(-tail)
    + jnp.log(2 * b)
  )
  series = s * s * _powers(s * s, lambda k: 1 - 1 / (2 * k))
  return jnp.where(small, series, big)


def uniform(low: float | Array, high: float | Array) -> Family:
  """Uniform rewards, as ranks are; see also `best_of_n.optimal_win_rate`.

  Args:
    low: smallest reward.
    high: largest.

  Returns:
    Family.
  """
  low, high = jnp.asarray(low, float), jnp.asarray(high, float)
  middle, half = (low + high) / 2, (high - low) / 2

  def solve(k):
    """h = alpha half: h^2 / 6 >= KL >= log(2 h) - 1."""
    most = 80.0 if k.dtype == jnp.float32 else 700.0
    some = (k > 0) & (k < most)
    safe = jnp.where(some, k, 1)
    least = jnp.log(6 * safe) / 2
    end = jnp.maximum(safe + 1 - np.log(2), least)
    u = tilt.bisect(lambda u: _kl_of(jnp.exp(u)) < safe, least, end)
    edge = jnp.where(k >= most, jnp.inf, jnp.where(k == 0, 0, jnp.nan))
    return jnp.where(some, jnp.exp(u), edge)

  def mean(h):
    whole = jnp.isinf(h)
    value = middle + half * _mean_of(jnp.where(whole, 0, h))
    return jnp.where(whole, jnp.where(h > 0, high, low), value)

  return _floats(
    lambda a: a * middle + _log_sinhc(a * half),
    lambda a: mean(a * half),
    lambda a: half**2 * _var_of(a * half),
    lambda a: _kl_of(a * half),
    lambda k: solve(k) / half,
    lambda k: mean(solve(k)),
    lambda n: high - 2 * half / (n + 1),
    kl_bound,
  )


def bernoulli(p: float | Array) -> Family:
  """Rewards of 0 and 1, a verifier's.

  Args:
    p: P(r = 1) under the base; 1e-300 keeps its digits in float64.

  Returns:
    Family. From a KL of -log p on alpha is inf and the best reward 1.
  """
  p = jnp.asarray(p, float)
  logp = jnp.stack([jnp.log1p(-p), jnp.log(p)], axis=-1)
  r = jnp.broadcast_to(jnp.arange(2.0), logp.shape)
  some = (p > 0) & (p < 1)
  log_p = jnp.where(some, logp[..., 1], 0)
  log_miss = jnp.where(some, logp[..., 0], -1)

  def best_kl(n):
    miss = n * log_miss
    hit = -jnp.expm1(miss)
    hit = jnp.where(hit > 0, hit, 1)
    excess = jnp.log(hit) - log_p
    value = hit * excess + jnp.exp(miss) * (n - 1) * log_miss
    return jnp.where(some, jnp.maximum(value, 0), 0)

  def partition(a):
    large = a > 30
    low = jnp.log1p(p * jnp.expm1(jnp.where(large, 0, a)))
    return jnp.where(large, jnp.logaddexp(logp[..., 0], logp[..., 1] + a), low)

  on = lambda f: lambda x: f(logp, r, x)
  return _floats(
    partition,
    on(tilt.mean_reward),
    on(tilt.variance),
    on(tilt.kl),
    on(tilt.solve_alpha),
    lambda k: tilt.mean_reward(logp, r, tilt.solve_alpha(logp, r, k)),
    lambda n: jnp.where(some, -jnp.expm1(n * log_miss), jnp.clip(p, 0, 1)),
    best_kl,
  )
