"""Best-of-n by an ensemble in closed form, where all is Gaussian.

Member k sees of an answer with gold g ~ N(0, 1)

  r_k = g + s h + p_{pre(k)} + q_k

an artefact h ~ N(0, 1) that all members like, an error of its pretraining seed
and one of its fine-tuning seed, all independent. The best of n by a weighted
mean has E g = m_n / sqrt(1 + v) and E h = s m_n / sqrt(1 + v), with m_n the
largest of n normals and v the variance of what is not gold. More members make v
smaller: gold rises, and the artefact of what is chosen rises with it.

Reference: Helping or Herding? Reward Model Ensembles Mitigate but do not
Eliminate Reward Hacking, arXiv 2312.09244 (the claim; the closed form is ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

from rlreward.analytic.continuous import largest_normal
from rlreward.types import Array


class Parts(NamedTuple):
  """Variances of the parts of a member's score, each f[].

  Attributes:
    shared: of what all members see, gold included where it is not taken off.
    pretrain: of the error that members with one pretraining seed share.
    finetune: of a member's own error.
  """

  shared: float | Array
  pretrain: float | Array
  finetune: float | Array


def error_variance(
  parts: Parts, pretrain_K: Sequence[int], weight_K: Sequence[float] = ()
) -> Array:
  """Variance of the error of a weighted mean of members.

    v = shared (sum w)^2 + pretrain sum_p (sum_{k in p} w_k)^2
        + finetune sum_k w_k^2

  Args:
    parts: variances, those of errors alone.
    pretrain_K: pretraining seed of each member.
    weight_K: summing to 1; () is 1 / K for each.

  Returns:
    f[].
  """
  seeds = np.unique(np.asarray(pretrain_K), return_inverse=True)[1]
  count = seeds.size
  weight = jnp.asarray(weight_K or np.full(count, 1 / count), float)
  chex.assert_shape(weight, (count,))
  of_seed = jnp.asarray(seeds == np.arange(seeds.max() + 1)[:, None], float)
  return (
    parts.shared * jnp.sum(weight) ** 2
    + parts.pretrain * jnp.sum((of_seed @ weight) ** 2)
    + parts.finetune * jnp.sum(weight**2)
  )


def best_of_n_gold(n: float | Array, error: float | Array) -> Array:
  """E gold of the best of n by a proxy, in deviations of the gold.

    m_n / sqrt(1 + error)

  Args:
    n: draws, at least 1.
    error: variance of the proxy's error in variances of the gold, independent
      of it.

  Returns:
    Array of their common shape; `error` 0 is the best that is there.
  """
  return largest_normal(n) / jnp.sqrt(1 + jnp.asarray(error, float))


def best_of_n_artefact(
  n: float | Array, error: float | Array, shared: float | Array
) -> Array:
  """E h of the best of n: the artefact that all members like, in deviations.

    s m_n / sqrt(1 + error)

  Args:
    n: draws, at least 1.
    error: as of `best_of_n_gold`, the shared part included.
    shared: s, what the proxy pays for a deviation of h.

  Returns:
    Array of their common shape. It rises where members are added, for their
    own errors hide the artefact as much as the gold.
  """
  return jnp.asarray(shared, float) * best_of_n_gold(n, error)


def components(covariance_KxK: Array, pretrain: int, finetune: int) -> Parts:
  """The parts of members' scores from their covariance over answers.

    between = mean cov of members with different pretraining seeds
    within  = mean cov of different members with one of them
    shared = between, pretrain = within - between, finetune = var - within

  Args:
    covariance_KxK: over answers, K = P F members in the order of a grid.
    pretrain: P; with 1 there is no telling `pretrain` from `shared`: it is NaN.
    finetune: F; with 1 `finetune` is in `pretrain`, and NaN.

  Returns:
    Parts; unbiased, so that small ones may be below 0.
  """
  chex.assert_shape(covariance_KxK, (pretrain * finetune,) * 2)
  group = np.arange(pretrain * finetune) // finetune
  same = group[:, None] == group
  own = np.eye(len(group), dtype=bool)

  def mean(mask) -> Array:
    return jnp.sum(jnp.where(mask, covariance_KxK, 0)) / max(mask.sum(), 1)

  var, between = mean(own), mean(~same)
  within = mean(same & ~own) if finetune > 1 else var
  nan = jnp.full_like(var, jnp.nan)
  return Parts(
    between if pretrain > 1 else within,
    within - between if pretrain > 1 else nan,
    var - within if finetune > 1 else nan,
  )
