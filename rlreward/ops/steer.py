"""Ratings of attributes as goodness, as chances, and as weights of answers.

SteerLM 2.0 draws groups of answers from a frozen policy Q' and pulls a policy
Q toward P(y | a, x), which is P(a | x, y) P(y | x) up to a factor. Both are
known on a group up to their sums, so both become softmaxes over its answers:

  w = softmax(log P(a|x,y) + log P(y|x) - log Q'(y|a,x))
  b = softmax(log Q(y|a,x) - log Q'(y|a,x))

With P(a|x,y) = exp(r / beta) and Q' = P the target is the policy of highest
reward at its KL. A slot whose mask is false changes neither value nor gradient.

Reference: HelpSteer2, arXiv 2406.08673; HelpSteer2-Preference, arXiv
2410.01257.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rlreward.ops import logprob, masked, reward_model
from rlreward.types import Array

# Helpfulness, correctness, coherence, complexity, verbosity.
GOODNESS = (0.65, 0.8, 0.45, 0.0, 0.0)
_EDGE = 1e-3  # a Beta of mean 0 or 1 has no density


def goodness(
  attributes: Array, weights: Sequence[float] | Array = GOODNESS
) -> Array:
  """sum_k weights_k attributes_k: one number of several ratings.

  An attribute of weight 0 may be missing (NaN).

  Args:
    attributes: [..., K].
    weights: K numbers.

  Returns:
    f32[...].

  Raises:
    ValueError: another number of weights than of attributes.

  Reference: HelpSteer2, arXiv 2406.08673.
  """
  weights = jnp.asarray(weights, jnp.float32)
  if weights.shape != attributes.shape[-1:]:
    raise ValueError(
      f"{weights.shape} weights for attributes of shape {attributes.shape}"
    )
  return jnp.sum(weights * masked.clean(attributes, weights != 0), -1)


def gold_accuracy(score: Array, gold: Array) -> tuple[Array, Array]:
  """Right pairs and pairs: rows 2i and 2i + 1 whose gold differs.

  Equal scores are half right.

  Args:
    score: f32[2P].
    gold: f32[2P].

  Returns:
    (f32[], f32[]) without gradient.
  """
  chex.assert_equal_shape([score, gold])
  lead = jnp.sign(gold[0::2] - gold[1::2])
  right = reward_model.pair_accuracy(lead * score[0::2], lead * score[1::2])
  known = lead != 0
  return masked.masked_sum(right, known), jnp.sum(known, dtype=jnp.float32)


def beta_level_logprob(
  rating: Array, levels: int = 5, concentration: float = 24.0
) -> Array:
  """log P(level) of a Likert scale, from a predicted rating.

    P(l) = F((l + 1) / L) - F(l / L),  F the CDF of Beta(c u, c (1 - u)),
    u = rating / (L - 1) within [0.001, 0.999]

  Each difference is taken in the tail in which it is exact. Beyond the range
  of floats it is the log of the smallest one.

  Args:
    rating: predicted, 0 to L - 1, any shape.
    levels: L, at least 2.
    concentration: c, positive; large is sure of the prediction.

  Returns:
    f32[..., L] without gradient.

  Raises:
    ValueError: levels or concentration out of range.

  Reference: HelpSteer2, arXiv 2406.08673. Its Beta is degenerate at ratings of
  0 and L - 1; the bounds on u are ours.
  """
  if levels < 2:
    raise ValueError(f"levels must be at least 2, got {levels}")
  logprob.check_positive("concentration", concentration)
  rating = lax.stop_gradient(jnp.asarray(rating, jnp.float32))[..., None]
  u = jnp.clip(rating / (levels - 1), _EDGE, 1 - _EDGE)
  a, b = concentration * u, concentration * (1 - u)
  edge = np.arange(1, levels, dtype=np.float32) / levels
  below = jax.scipy.special.betainc(a, b, edge)
  above = jax.scipy.special.betainc(b, a, 1 - edge)
  zero, one = jnp.zeros_like(a), jnp.ones_like(a)
  below = jnp.concatenate([zero, below, one], -1)
  above = jnp.concatenate([one, above, zero], -1)
  low, high = below[..., 1:] - below[..., :-1], above[..., :-1] - above[..., 1:]
  # Where most of the mass is above a level, its own is a part of what is below.
  mass = jnp.where(below[..., 1:] < above[..., :-1], low, high)
  return jnp.log(jnp.maximum(mass, jnp.finfo(mass.dtype).tiny))


def asked_logprob(
  ratings: Array, asked: Sequence[int], concentration: float = 24.0
) -> Array:
  """sum_k log P(a_k | rating_k): the chance of the ratings that are asked for.

  Attributes are taken as independent given the answer, as the paper implies.

  Args:
    ratings: [..., K] predicted, 0 to 4.
    asked: K levels from 0 to 4.
    concentration: see `beta_level_logprob`.

  Returns:
    f32[...] without gradient.

  Raises:
    ValueError: another number of levels than of ratings, or one out of range.
  """
  if len(asked) != ratings.shape[-1] or not all(0 <= a < 5 for a in asked):
    raise ValueError(
      f"levels {tuple(asked)} for ratings of shape {ratings.shape}"
    )
  each = beta_level_logprob(ratings, 5, concentration)
  place = jnp.asarray(asked, jnp.int32)[:, None]
  place = jnp.broadcast_to(place, (*each.shape[:-1], 1))
  return jnp.sum(jnp.take_along_axis(each, place, -1)[..., 0], -1)


def group_log_softmax(logits_BxN: Array, valid_BxN: Array) -> Array:
  """log softmax over the valid answers of each group, -inf for the others.

  Args:
    logits_BxN: -inf or finite where valid.
    valid_BxN: bool.

  Returns:
    f32[B, N]; a group without a finite valid logit is -inf throughout.
  """
  chex.assert_rank(logits_BxN, 2)
  chex.assert_equal_shape([logits_BxN, valid_BxN])
  live = valid_BxN & (logits_BxN > -jnp.inf)
  logits = masked.clean(logits_BxN, live)
  top = lax.stop_gradient(jnp.max(jnp.where(live, logits, -jnp.inf), 1))
  logits -= jnp.where(jnp.isfinite(top), top, 0)[:, None]
  total = masked.masked_sum(jnp.exp(jnp.where(live, logits, 0)), live, 1)
  some = jnp.log(jnp.where(total > 0, total, 1))
  return jnp.where(live, logits - some[:, None], -jnp.inf)


def posterior_logw(
  logq0_BxN: Array, logp_prior_BxN: Array, logp_attr_BxN: Array,
  valid_BxN: Array,
) -> Array:  # fmt: skip
  """log w, the target's shares of the answers of each group.

  Args:
    logq0_BxN: log Q'(y|a,x) of the policy that drew them, nats of an answer.
    logp_prior_BxN: log P(y|x).
    logp_attr_BxN: log P(a|x,y).
    valid_BxN: bool.

  Returns:
    f32[B, N] without gradient, -inf where not valid.
  """
  chex.assert_equal_shape([logq0_BxN, logp_prior_BxN, logp_attr_BxN])
  logits = logp_attr_BxN + logp_prior_BxN - logq0_BxN
  return lax.stop_gradient(group_log_softmax(logits, valid_BxN))


def steerlm2_loss(
  logq_BxN: Array,
  logq0_BxN: Array,
  logp_prior_BxN: Array,
  logp_attr_BxN: Array,
  valid_BxN: Array,
) -> tuple[Array, dict[str, Array]]:
  """KL(w || b) of each group; its gradient is -sum (w - b) grad log Q.

  A group of one answer has w = b = 1 and no gradient.

  Args:
    logq_BxN: log Q(y|a,x) of the trained policy, nats of an answer.
    logq0_BxN: of the policy that drew them.
    logp_prior_BxN: log P(y|x).
    logp_attr_BxN: log P(a|x,y).
    valid_BxN: bool.

  Returns:
    (f32[B] nats, {"ess": 1 / sum w^2, "kl_group": KL(w || b)} f32[B] each); 0
    for a group without a valid answer.

  Reference: HelpSteer2, arXiv 2406.08673. The released code divides by the mean
  number of tokens of a group and adds 1e-8 inside logs; neither is done here.
  """
  logw = posterior_logw(logq0_BxN, logp_prior_BxN, logp_attr_BxN, valid_BxN)
  logq0 = lax.stop_gradient(logq0_BxN)
  logb = group_log_softmax(logq_BxN - logq0, valid_BxN)
  live = jnp.isfinite(logw)
  w = jnp.exp(logw)
  gap = masked.clean(logw, live) - masked.clean(logb, live)
  loss = masked.masked_sum(w * gap, live, 1)
  return loss, {
    "ess": effective(logw),
    "kl_group": lax.stop_gradient(loss),
  }


def effective(logw_BxN: Array) -> Array:
  """1 / sum w^2, the answers that count in each group; 0 where none does.

  Args:
    logw_BxN: log shares, -inf where not valid.

  Returns:
    f32[B], 1 to N.
  """
  square = jnp.sum(jnp.exp(2 * logw_BxN), 1)
  return jnp.where(square > 0, 1 / jnp.where(square > 0, square, 1), 0)


def weighted_nll(
  logq_BxN: Array, coefficient_BxN: Array, valid_BxN: Array
) -> Array:
  """-sum c log Q, c constant: of c = w - b the gradient is `steerlm2_loss`'s.

  With c = w it is weighted likelihood without a baseline, which has the same
  gradient on average and a larger spread; c = 1/N is imitation.

  Args:
    logq_BxN: log Q(y|a,x), nats of an answer.
    coefficient_BxN: c.
    valid_BxN: bool.

  Returns:
    f32[B].
  """
  chex.assert_equal_shape([logq_BxN, coefficient_BxN, valid_BxN])
  c = lax.stop_gradient(masked.clean(coefficient_BxN, valid_BxN))
  return -masked.masked_sum(c * masked.clean(logq_BxN, valid_BxN), valid_BxN, 1)


def expo(params_a: Any, params_b: Any, alpha: float) -> Any:
  """a + alpha (b - a): from weights a on through weights b.

  Args:
    params_a: tree, of the first stage.
    params_b: tree of the same structure, of the second.
    alpha: 0 is a, 1 is b, above 1 goes beyond.

  Returns:
    Tree of b's dtypes.

  Reference: Zheng et al., ExPO, arXiv 2404.16792; HelpSteer2-Preference,
  arXiv 2410.01257.
  """

  def one(a: Array, b: Array) -> Array:
    wide = jnp.promote_types(b.dtype, jnp.float32)
    a, end = a.astype(wide), b.astype(wide)
    return (a + alpha * (end - a)).astype(b.dtype)

  return jax.tree.map(one, params_a, params_b)
