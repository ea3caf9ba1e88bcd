"""KL as a convex function of reward, through points with known slopes.

Between neighbours t in [0, 1] of the gain in reward costs, of the KL,

  y = t - t (1 - t) a / (1 - t + a c t),   a = 1 - alpha_0 / chord,
                                         1 / c = alpha_1 / chord - 1,

which is convex, has the slope dKL / dreward = alpha at both ends, is exact for
a Gaussian reward from the base on, and has an inverse in closed form. Its error
is of fourth order in the distance of the points.

Reference: Delbourgo and Gregory, Shape preserving piecewise rational
interpolation, 1985.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from rlreward.types import Array


def _segment(kl, reward, alpha, x, by) -> tuple[Array, ...]:
  """(kl, its width, reward, its width, a, c) of where x falls in `by`."""
  i = jnp.clip(jnp.searchsorted(by, x, side="right") - 1, 0, kl.size - 2)
  h, rise = reward[i + 1] - reward[i], kl[i + 1] - kl[i]
  some = (h > 0) & (rise > 0)
  per = jnp.where(some, h, 1) / jnp.where(some, rise, 1)
  more = alpha[i + 1] * per - 1
  bent = some & (more > 0)
  a = jnp.where(bent, jnp.clip(1 - alpha[i] * per, 0, 1), 0)
  c = jnp.where(bent, 1 / jnp.where(bent, more, 1), 0)
  return kl[i], rise, reward[i], h, a, c


def reward_at(kl_A: Array, reward_A: Array, alpha_A: Array, x: Array) -> Array:
  """Reward that a KL buys.

  Args:
    kl_A: rising; rounding may break that.
    reward_A: rising.
    alpha_A: dKL / dreward, rising, may be infinite.
    x: KL, any shape.

  Returns:
    Array of x's shape. Before the first point its reward; beyond the last its
    tangent, which is an upper bound.
  """
  kl_A, reward_A = lax.cummax(kl_A), lax.cummax(reward_A)
  kl, rise, reward, h, a, c = _segment(kl_A, reward_A, alpha_A, x, kl_A)
  y = jnp.clip((x - kl) / jnp.where(rise > 0, rise, 1), 0, 1)
  e = a * c - 1
  square, linear = e + a, 1 - a - y * e
  root = jnp.sqrt(jnp.maximum(linear**2 + 4 * square * y, 0))
  plus = linear + root
  # The root of square t^2 + linear t = y, without cancellation.
  t = jnp.where(
    linear > 0,
    2 * y / jnp.where(plus > 0, plus, 1),
    (root - linear) / (2 * jnp.where(square > 0, square, 1)),
  )
  t = jnp.where(a > 0, jnp.clip(jnp.where(y >= 1, 1, t), 0, 1), y)
  beyond = jnp.maximum(x - kl_A[-1], 0) / alpha_A[-1]
  return jnp.where(jnp.isnan(x), jnp.nan, reward + h * t + beyond)


def kl_at(kl_A: Array, reward_A: Array, alpha_A: Array, x: Array) -> Array:
  """KL that a reward costs, the inverse of `reward_at`.

  Args:
    kl_A, reward_A, alpha_A: as of `reward_at`.
    x: reward, any shape.

  Returns:
    Array of x's shape. Below the first point its KL; beyond the last its
    tangent, which is a lower bound, infinite where the last slope is.
  """
  kl_A, reward_A = lax.cummax(kl_A), lax.cummax(reward_A)
  kl, rise, reward, h, a, c = _segment(kl_A, reward_A, alpha_A, x, reward_A)
  t = jnp.clip((x - reward) / jnp.where(h > 0, h, 1), 0, 1)
  under = 1 - t + a * c * t
  dent = t * (1 - t) * a / jnp.where(under > 0, under, 1)
  over = x - reward_A[-1]
  beyond = jnp.where(over > 0, jnp.where(over > 0, over, 1) * alpha_A[-1], 0)
  return jnp.where(jnp.isnan(x), jnp.nan, kl + rise * (t - dent) + beyond)
