"""Levels in order, scores that are to stay, and the area under the ROC curve.

A reward model as a detector: several levels of texts, the best one first, are
told apart two by two, and texts of the data that the model comes from keep
their scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from rlreward.ops import masked

Array = jax.Array


def ordered_bt(
  scores_BxL: Array,
  weights: Sequence[float] = (),
  l2: float = 0.0,
  valid_BxL: Array | None = None,
) -> Array:
  """Mean over pairs i < j of w_ij [softplus(r_j - r_i) + l2 (r_i^2 + r_j^2)/2].

  Pairs come in the order (0, 1), (0, 2) .. (1, 2) ..; two levels and no l2 are
  Bradley-Terry.

  Args:
    scores_BxL: of L levels, the best one first.
    weights: one for each pair, at least 0; () is 1 for each.
    l2: pull of each score of a pair to 0, at least 0.
    valid_BxL: bool, levels that are there; None means all.

  Returns:
    f32[B], nats; 0 where fewer than two levels are there.

  Raises:
    ValueError: fewer than two levels, another number of weights, or a negative
      number.

  Reference: ReMoDetect, arXiv 2405.17382.
  """
  chex.assert_rank(scores_BxL, 2)
  levels = scores_BxL.shape[1]
  if levels < 2:
    raise ValueError(f"an order has two levels or more, got {levels}")
  pairs = [(i, j) for i in range(levels) for j in range(i + 1, levels)]
  weights = tuple(weights) or (1.0,) * len(pairs)
  if len(weights) != len(pairs) or min(*weights, l2) < 0:
    raise ValueError(
      f"{levels} levels have {len(pairs)} weights of 0 or more,"
      f" got {weights} and l2={l2}"
    )
  shape = scores_BxL.shape
  valid = jnp.ones(shape, bool) if valid_BxL is None else jnp.asarray(valid_BxL)
  chex.assert_equal_shape([scores_BxL, valid])
  r = masked.clean(scores_BxL, valid)
  first, second = (jnp.asarray(x) for x in zip(*pairs, strict=True))
  a, b = r[:, first], r[:, second]
  each = jax.nn.softplus(b - a) + l2 * 0.5 * (a**2 + b**2)
  live = valid[:, first] & valid[:, second]
  return masked.masked_sum(each * jnp.asarray(weights), live, 1) / len(pairs)


def replay_l2(score_N: Array, first_N: Array, coefficient: float) -> Array:
  """coefficient (r - sg(r_0))^2: a score that is to stay what it was.

  Args:
    score_N: r, any shape.
    first_N: r_0, of the model at the start; no gradient passes.
    coefficient: at least 0.

  Returns:
    f32[N].

  Raises:
    ValueError: a negative coefficient.

  Reference: ReMoDetect, arXiv 2405.17382, whose sum is over a batch of one.
  """
  if coefficient < 0:
    raise ValueError(f"coefficient must be >= 0, got {coefficient}")
  chex.assert_equal_shape([score_N, first_N])
  return coefficient * jnp.square(score_N - jax.lax.stop_gradient(first_N))


def auroc(
  positive_P: Array,
  negative_N: Array,
  positive_mask_P: Array | None = None,
  negative_mask_N: Array | None = None,
) -> Array:
  """P(a positive scores above a negative), ties half, on the device.

  Args:
    positive_P: scores of what is to be found.
    negative_N: scores of the rest.
    positive_mask_P: bool, those that count; None means all.
    negative_mask_N: bool.

  Returns:
    f32[] without gradient; 1/2 where one side is empty.
  """
  chex.assert_rank([positive_P, negative_N], 1)
  ones = lambda x, m: jnp.ones(x.shape, bool) if m is None else m
  p_mask = ones(positive_P, positive_mask_P)
  n_mask = ones(negative_N, negative_mask_N)
  size = negative_N.shape[0]
  ordered = jnp.sort(jnp.where(n_mask, negative_N, jnp.inf))
  count = jnp.sum(n_mask)
  at = lambda side: jnp.minimum(
    jnp.searchsorted(ordered, positive_P, side), jnp.minimum(count, size)
  )
  below = (at("left") + at("right")) / 2
  share = below / jnp.maximum(count, 1)  # of the negatives, for each positive
  some = jnp.any(p_mask) & (count > 0)
  found = jnp.where(some, masked.masked_mean(share, p_mask), 0.5)
  return jax.lax.stop_gradient(found)
