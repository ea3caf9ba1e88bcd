"""How well a reward tells optimised texts from those of the base: exact laws.

AUROC = P(r(y) > r(y')), y of the optimised law and y' of the base, ties half.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def auroc_best_of_n(n: float | Array) -> Array:
  """n / (n + 1): of the best of n draws against one more, without ties.

  The best of n + 1 draws is any of them with equal chance, and it is the one
  left out of the n in 1 / (n + 1) of all cases. With ties it is
  `best_of_n.win_rate`.

  Args:
    n: draws, at least 1.

  Returns:
    f32, in [1/2, 1).

  Reference: miniature of ReMoDetect, arXiv 2405.17382.
  """
  n = jnp.asarray(n, float)
  return n / (n + 1)


def auroc_tilted(spread: float | Array, beta: float | Array) -> Array:
  """Phi(s / (beta sqrt 2)): of the law exp(r / beta) over a base N(m, s^2).

  The tilted law of r is N(m + s^2 / beta, s^2), and the difference of the two
  has variance 2 s^2.

  Args:
    spread: s, deviation of the reward under the base.
    beta: coefficient of the KL, positive.

  Returns:
    f32, in [1/2, 1].

  Reference: miniature of ReMoDetect, arXiv 2405.17382.
  """
  gap = jnp.asarray(spread, float) / (jnp.asarray(beta, float) * jnp.sqrt(2.0))
  return jax.scipy.stats.norm.cdf(gap)
