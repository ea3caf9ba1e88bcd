"""One alpha for many prompts: the tilts that a budget of mean KL allows.

What a frontier needs of B laws on N outcomes, at many alphas in one pass each.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from rlreward.analytic.tilt import bisect
from rlreward.types import Array

_KNOTS = 24  # values of alpha that are tried first
_SERIES = 0.1  # below this log-ratio the series beats the cancelling formula
_TERMS = [(n - 1) / m for n, m in zip(
  range(9, 1, -1), (362880, 40320, 5040, 720, 120, 24, 6, 2), strict=True
)]  # fmt: skip


class Laws(NamedTuple):
  """Laws of B prompts on N outcomes.

  Attributes:
    logp: [B, N], -inf outside.
    fall: [B, N], reward - best <= 0.
    best: [B], the largest reward.
    gold: [B, N], NaN where unknown, or None.
    live: bool[B], has any outcome.
  """

  logp: Array
  fall: Array
  best: Array
  gold: Array | None
  live: Array


class Table(NamedTuple):
  """What prompts do at A values of alpha.

  Attributes:
    kl: [A, B], nats.
    reward: [A, B], mean.
    var: [A, B], of the reward.
    square: [A, B], sum of squared probabilities.
    gold: [A, B], mean, NaN where none is known, or None.
  """

  kl: Array
  reward: Array
  var: Array
  square: Array
  gold: Array | None


def laws(
  logp_BxN: Array, r_BxN: Array, gold_BxN: Array | None, valid_BxN: Array | None
) -> Laws:
  """Laws, each conditioned on its valid outcomes.

  Args:
    logp_BxN: up to a constant of each prompt.
    r_BxN: rewards; what is not finite is not valid.
    gold_BxN: NaN where unknown.
    valid_BxN: bool; None means all.

  Returns:
    Laws.
  """
  chex.assert_rank([logp_BxN, r_BxN], 2)
  chex.assert_equal_shape([logp_BxN, r_BxN])
  logp, r = jnp.asarray(logp_BxN, float), jnp.asarray(r_BxN, float)
  inside = jnp.isfinite(r) & (logp > -jnp.inf)
  if valid_BxN is not None:
    chex.assert_equal_shape([r, valid_BxN])
    inside &= jnp.asarray(valid_BxN, bool)
  live = jnp.any(inside, axis=1)
  alive = inside | ~live[:, None]  # a prompt without outcomes stays finite
  logp = jnp.where(alive, jnp.where(inside, logp, 0), -jnp.inf)
  r = jnp.where(inside, r, 0)
  best = jnp.max(jnp.where(alive, r, -jnp.inf), axis=1)
  fall = jnp.where(alive, r - best[:, None], 0)
  gold = None if gold_BxN is None else jnp.asarray(gold_BxN, float)
  return Laws(jax.nn.log_softmax(logp, axis=1), fall, best, gold, live)


def ratio(weight: Array, x: Array) -> Array:
  """Weighted mean of what is finite, over the last axis; NaN if nothing."""
  known = jnp.isfinite(x)
  total = jnp.sum(weight * jnp.where(known, x, 0), axis=-1)
  mass = jnp.sum(jnp.where(known, weight, 0), axis=-1)
  return total / jnp.where(mass > 0, mass, jnp.nan)


def mean(x: Array, live_B: Array) -> Array:
  """Mean over the last axis of what is live and finite; NaN if nothing."""
  return ratio(jnp.broadcast_to(live_B, x.shape).astype(x.dtype), x)


def table(law: Laws, alpha_A: Array) -> Table:
  """What tilts do, one pass over all outcomes for each.

  Args:
    law: of the prompts.
    alpha_A: at least 0, may be infinite.

  Returns:
    Table.
  """
  p, level = jnp.exp(law.logp), law.fall == 0

  def one(alpha):
    # An infinite alpha leaves the best alone and kills all others.
    x = jnp.where(level, 0, alpha * jnp.where(level, 1, law.fall))
    top = jnp.max(law.logp + x, axis=1, keepdims=True)
    w = jnp.exp(law.logp + x - top)
    total = jnp.sum(w, axis=1, keepdims=True)
    q, d = w / total, x - (top + jnp.log(total))
    # As in tilt.divergence, terms q d - q + p >= 0 keep a small KL precise.
    near = jnp.abs(d) < _SERIES
    e = jnp.where(near, d, 0)
    series = jnp.zeros_like(e)
    for term in _TERMS:
      series = term + e * series
    far = jnp.where(q > 0, q * jnp.where(near | (q == 0), 0, d), 0) - q + p
    kl = jnp.sum(jnp.where(near, p * e * e * series, far), axis=1)
    average = jnp.sum(q * law.fall, axis=1)
    var = jnp.sum(q * (law.fall - average[:, None]) ** 2, axis=1)
    gold = None if law.gold is None else ratio(q, law.gold)
    square = jnp.sum(q * q, axis=1)
    return Table(kl, law.best + average, var, square, gold)

  return lax.map(one, alpha_A)


def _invert(u: Array, f: Array, slope: Array, y: Array) -> Array:
  """u where the cubic through a rising f with these slopes passes y."""
  f = lax.cummax(f)
  i = jnp.clip(jnp.searchsorted(f, y, side="right") - 1, 0, u.size - 2)
  h, f0, f1 = u[i + 1] - u[i], f[i], f[i + 1]
  s0, s1 = h * slope[i], h * slope[i + 1]
  c = 2 * (f0 - f1) + s0 + s1

  def under(t):
    return f0 + t * (s0 + t * (f1 - f0 - s0 - c + t * c)) < y

  return u[i] + h * bisect(under, jnp.zeros_like(y), jnp.ones_like(y))


def solve(law: Laws, kls_K: Array, rounds: int) -> tuple[Array, Table]:
  """The alphas at which the mean KL is each budget, among others.

  A wide grid first; then each round tries what a cubic in log KL against log
  alpha says, whose slopes are exact: dKL / dalpha = alpha Var.

  Args:
    law: of the prompts.
    kls_K: budgets, nats.
    rounds: 2 leave about 1e-5 of a budget, 6 the rounding of float64.

  Returns:
    (alphas [A], their table). The first are 0 and inf, then comes the grid; the
    last K are the budgets': 0 from 0 down, inf where no more can be spent.
  """
  top = jnp.where(law.fall == 0, law.logp, -jnp.inf)
  limits = -jax.nn.logsumexp(top, axis=1)
  limit = mean(limits, law.live)
  inside = (kls_K > 0) & (kls_K < limit)
  target = jnp.where(inside, kls_K, jnp.where(limit > 0, limit / 2, 1))
  fall = jnp.where(law.live[:, None] & (law.logp > -jnp.inf), -law.fall, 0)
  spread = jnp.max(fall)
  second = jnp.min(jnp.where(fall > 0, fall, jnp.inf))
  # As in tilt.solve_alpha: KL <= (alpha spread)^2 / 8, and all but the best
  # are gone at the other end.
  low = jnp.log(8 * jnp.min(target)) / 2
  low = low - jnp.log(jnp.where(spread > 0, spread, 1))
  high = jnp.log(jnp.max(limits) + 100)
  high = high - jnp.log(jnp.where(second < jnp.inf, second, 1))
  grid = jnp.linspace(low, jnp.maximum(high, low + 1), _KNOTS)
  ends = jnp.array([0, jnp.inf], grid.dtype)
  alpha = jnp.concatenate([ends, jnp.exp(grid)])
  found = table(law, alpha)

  def line(u, found):
    """(log alpha, log KL and its slope) of points."""
    kl = jnp.maximum(mean(found.kl, law.live), jnp.finfo(u.dtype).tiny)
    slope = jnp.exp(2 * u) * mean(found.var, law.live) / kl
    return jnp.stack([u, jnp.log(kl), slope])

  def guess(points):
    u, kl, slope = points[:, jnp.argsort(points[0])]
    return _invert(u, kl, slope, jnp.log(target))

  def refine(i, points):
    u = guess(points)
    more = line(u, table(law._replace(gold=None), jnp.exp(u)))
    return lax.dynamic_update_slice(points, more, (0, _KNOTS + i * u.size))

  first = line(grid, jax.tree.map(lambda x: x[2:], found))
  # Until they are known, later points stand at the end of the grid.
  spare = jnp.repeat(first[:, -1:], (rounds - 1) * kls_K.size, axis=1)
  points = jnp.concatenate([first, spare], axis=1)
  points = lax.fori_loop(0, rounds - 1, refine, points)
  edge = jnp.where(kls_K >= limit, jnp.inf, 0)
  asked = jnp.where(inside, jnp.exp(guess(points)), edge)
  both = jax.tree.map(lambda *x: jnp.concatenate(x), found, table(law, asked))
  return jnp.concatenate([alpha, asked]), both
