"""The loss of a reward model that first writes what it thinks of an answer."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlreward.ops import masked

Array = jax.Array


def critique_rm_loss(
  chosen_P: Array,
  rejected_P: Array,
  nll_chosen_P: Array,
  nll_rejected_P: Array,
  tie_P: Array,
  critic_P: Array,
  known_P: Array | None = None,
  *,
  counts: tuple[Array, Array, Array] | None = None,
  margin: float | Array = 0.0,
  tie_weight: float = 1.0,
  centering: float = 0.01,
  score_weight: float = 1.0,
  critique_weight: float = 1.0,
) -> Array:
  """The parts of each pair; their sum over P is the loss of the batch.

    w_r [mean_nontie softplus(margin - d) + tie_weight mean_tie d^2]
      + centering mean (c + r)^2 + w_c mean (nll_c + nll_r) critic,  d = c - r

  The first two means are over pairs of their own kind and 0 where there are
  none; the others are over all pairs.

  Args:
    chosen_P: scores of the better answers with their critiques.
    rejected_P: of the others.
    nll_chosen_P: mean negative log-likelihood of a critique's tokens.
    nll_rejected_P: the same.
    tie_P: bool, the answers were judged equal.
    critic_P: bool, there are critiques.
    known_P: bool, pairs that count; None means all.
    counts: of pairs that count: no ties, ties, all; where these are a piece of
      a batch, those of the batch. None counts them here.
    margin: nats, at least 0; number or [P].
    tie_weight, centering, score_weight, critique_weight: at least 0.

  Returns:
    f32[P].

  Raises:
    ValueError: a negative coefficient.

  Reference: MM-RLHF, arXiv 2502.10391, as its released trainer has it.
  """
  coefs = (tie_weight, centering, score_weight, critique_weight)
  if min(coefs) < 0:
    raise ValueError(f"coefficients must be >= 0, got {coefs}")
  known = jnp.ones(chosen_P.shape, bool) if known_P is None else known_P
  chex.assert_equal_shape([chosen_P, rejected_P, nll_chosen_P, tie_P, known])
  c, r = masked.clean(chosen_P, known), masked.clean(rejected_P, known)
  tie, apart = known & tie_P, known & ~tie_P
  if counts is None:
    counts = jnp.sum(apart), jnp.sum(tie), jnp.sum(known)
  of_apart, of_tie, of_all = (jnp.maximum(n, 1) for n in counts)
  lead = jax.nn.softplus(jnp.where(apart, margin, 0) - (c - r))
  lead = masked.clean(lead, apart) / of_apart
  equal = masked.clean(jnp.square(c - r), tie) / of_tie
  centred = jnp.square(c + r) / of_all
  nll = masked.clean(nll_chosen_P + nll_rejected_P, known & critic_P) / of_all
  return (
    score_weight * (lead + tie_weight * equal)
    + centering * centred
    + critique_weight * nll
  )
