"""What ensembles choose among answers, and how their members differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import chex
import jax.numpy as jnp
import numpy as np

from rlreward.analytic import best_of_n, ensemble
from rlreward.analytic.continuous import largest_normal
from rlreward.ops import aggregate, masked
from rlreward.types import Array


def joined(
  score_KxM: Array,
  sets_ExS: np.ndarray,
  rule: aggregate.Rule = "mean",
  coef: float = 1.0,
) -> Array:
  """Scores of E ensembles of S members each.

  Members know their scores up to a shift, which is taken off by their mean over
  the answers. A member whose scores are not finite is not there.

  Args:
    score_KxM: of K members for M answers to one prompt.
    sets_ExS: places of members.
    rule: of `ops.aggregate`.
    coef: of the spread.

  Returns:
    f32[E, M]; NaN where an ensemble has no member.
  """
  alive = jnp.all(jnp.isfinite(score_KxM), 1)
  score = masked.clean(score_KxM, alive[:, None])
  score = score - jnp.mean(score, 1, keepdims=True)
  of_set = jnp.moveaxis(score[sets_ExS], 1, -1)
  mask = alive[sets_ExS][:, None]
  return aggregate.aggregate(of_set, rule, mask, coef=coef)


def chosen(
  score_ExM: Array, values: Mapping[str, Array], sizes: Sequence[int]
) -> dict[str, Array]:
  """Mean over ensembles of what the best of n has, from all n-subsets.

  Args:
    score_ExM: of E ensembles for M answers to one prompt; those with NaN are
      left out.
    values: {name: f32[M]}, such as the gold.
    sizes: the n, at most M.

  Returns:
    {"name/n": f32[]}.
  """
  alive = jnp.all(jnp.isfinite(score_ExM), 1)
  out = {}
  for name, value in values.items():
    chex.assert_shape(value, score_ExM.shape[1:])
    wanted = jnp.broadcast_to(value, score_ExM.shape)
    for n in sizes:
      each = best_of_n.value_unbiased(score_ExM, n, wanted)
      out[f"{name}/{n}"] = masked.masked_mean(each, alive)
  return out


def expected(score_ExM: Array, gold_M: Array, n: int) -> Array:
  """What the best of n had, were gold and scores jointly Gaussian.

    E gold + corr(score, gold) sd(gold) m_n

  Args:
    score_ExM: as in `chosen`.
    gold_M: of the answers.
    n: draws.

  Returns:
    f32[], mean over ensembles.
  """
  alive = jnp.all(jnp.isfinite(score_ExM), 1)
  centred = lambda x: x - jnp.mean(x, -1, keepdims=True)
  score, gold = (
    centred(masked.clean(score_ExM, alive[:, None])),
    centred(gold_M),
  )
  spread = jnp.sqrt(jnp.mean(score**2, -1))
  slope = jnp.mean(score * gold, -1) / jnp.where(spread > 0, spread, 1)
  return jnp.mean(gold_M) + masked.masked_mean(slope, alive) * largest_normal(n)


def parts(score_KxM: Array, pretrain: int, finetune: int) -> dict[str, Array]:
  """Shares of the variance of members' scores, over answers.

  Args:
    score_KxM: in the order of a grid.
    pretrain: P, 2 or more.
    finetune: F, 2 or more.

  Returns:
    {"shared", "pretrain", "finetune"}: f32[], summing to 1; see
    `analytic.ensemble.components`. NaN where a member is.
  """
  centred = score_KxM - jnp.mean(score_KxM, 1, keepdims=True)
  covariance = centred @ centred.T / score_KxM.shape[1]
  found = ensemble.components(covariance, pretrain, finetune)
  total = jnp.trace(covariance) / covariance.shape[0]
  return {k: v / total for k, v in found._asdict().items()}
