"""A proxy that is Gaussian together with the gold: accuracy and best-of-n.

With unit variances and correlation rho, a pair of answers is ordered alike by
both with probability

  accuracy = 1/2 + asin(rho) / pi

and the best of n by the proxy has a gold of rho e_n on average, e_n the mean of
the largest of n normals. The proxy promises e_n: it overstates its gain by a
factor 1 / rho at every n, whatever the accuracy on pairs looks like.

Reference: the setting of Learning to summarize from human feedback, arXiv
2009.01325; the orthant probability is Sheppard's (1899).
"""

from __future__ import annotations

import jax.numpy as jnp

from rlreward.analytic.continuous import largest_normal
from rlreward.types import Array


def pair_accuracy(rho: float | Array) -> Array:
  """Share of pairs that proxy and gold order alike.

    1/2 + asin(rho) / pi

  Args:
    rho: correlation, in [-1, 1].
  """
  return 0.5 + jnp.arcsin(jnp.asarray(rho, float)) / jnp.pi


def correlation(accuracy: float | Array) -> Array:
  """Correlation of a proxy whose accuracy on pairs is known.

    sin(pi (accuracy - 1/2))

  Args:
    accuracy: share of pairs, in [0, 1].
  """
  return jnp.sin(jnp.pi * (jnp.asarray(accuracy, float) - 0.5))


def best_of_n(n: float | Array, rho: float | Array) -> tuple[Array, Array]:
  """(proxy, gold) of the best of n by the proxy, in deviations of each.

    e_n, rho e_n

  Args:
    n: draws, at least 1.
    rho: correlation.
  """
  top = largest_normal(n)
  return top, jnp.asarray(rho, float) * top
