"""Losses of single judged answers (KTO, BCO) and terms of online methods.

Log-ratios are sums over an answer of log pi - log ref, as `preference` has
them; values are per answer.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from rlreward.ops import masked
from rlreward.types import Array

Number = float | Array


def _inputs(
  log_ratio_N: Array, desirable_N: Array, valid_N: Array | None, beta: Number
) -> tuple[Array, Array, Array]:
  """(log-ratios, +1 for desirable and -1 for not, valid)."""
  if not isinstance(beta, Tracer) and not np.all(np.asarray(beta) > 0):
    raise ValueError(f"beta must be above 0, got {beta}")
  chex.assert_equal_shape([log_ratio_N, desirable_N])
  desirable = jnp.asarray(desirable_N)
  if desirable.dtype != jnp.bool_:
    raise TypeError(f"desirable must be bool, got {desirable.dtype}")
  valid = jnp.ones(desirable.shape, bool) if valid_N is None else valid_N
  chex.assert_equal_shape([desirable, valid])
  return (
    masked.clean(log_ratio_N, valid), jnp.where(desirable, 1.0, -1.0), valid
  )  # fmt: skip


def kto(
  log_ratio_N: Array,
  desirable_N: Array,
  reference_point: Number,
  *,
  beta: Number,
  desirable_weight: Number = 1.0,
  undesirable_weight: Number = 1.0,
  valid_N: Array | None = None,
) -> Array:
  """lambda (1 - value), the value of an answer seen from a reference point.

    desirable    lambda_D (1 - sigmoid(beta (g - z0)))
    undesirable  lambda_U (1 - sigmoid(beta (z0 - g)))

  A reference point of 0 is TRL's "apo_zero_unpaired". Weights with
  lambda_D n_D / (lambda_U n_U) in [1, 4/3] suit unequal counts.

  Args:
    log_ratio_N: g, log pi - log ref of the answer, nats, with gradient.
    desirable_N: bool.
    reference_point: z0 in nats, from `kto_reference`; never differentiated.
    beta: above 0.
    desirable_weight: lambda_D.
    undesirable_weight: lambda_U.
    valid_N: bool, answers that count; None means all.

  Returns:
    f32[N], 0 and without gradient where not valid.

  Raises:
    ValueError: beta at or below 0.
    TypeError: labels that are not bool.

  Reference: KTO, 2402.01306.
  """
  g, sign, valid = _inputs(log_ratio_N, desirable_N, valid_N, beta)
  gap = g - lax.stop_gradient(reference_point)
  scale = jnp.where(sign > 0, desirable_weight, undesirable_weight)
  return masked.clean(scale * jax.nn.sigmoid(-beta * sign * gap), valid)


def kto_reference(
  mismatched_log_ratio_N: Array, valid_N: Array | None = None
) -> Array:
  """z0 = max(0, mean_i [log pi(y_j|x_i) - log ref(y_j|x_i)]), j not i.

  A rough KL(pi || ref) from answers to other prompts. The caller rolls answers
  by one within a batch of at least two different prompts, and takes the mean
  over the global batch (a mean of clamped means is another number).

  Args:
    mismatched_log_ratio_N: log-ratios of answers that belong to other prompts.
    valid_N: bool, pairs that count; None means all.

  Returns:
    f32[], nats, at least 0, without gradient; 0 when nothing counts.

  Reference: KTO, 2402.01306.
  """
  if valid_N is None:
    valid_N = jnp.ones(jnp.shape(mismatched_log_ratio_N), bool)
  mean = masked.masked_mean(mismatched_log_ratio_N, valid_N)
  return lax.stop_gradient(jnp.maximum(mean, 0))


def bco(
  log_ratio_N: Array,
  desirable_N: Array,
  delta: Number,
  *,
  beta: Number,
  density_weight: Number = 1.0,
  valid_N: Array | None = None,
) -> Array:
  """-log sigmoid(+-(beta g - delta)): a classifier whose logit is the reward.

  Args:
    log_ratio_N: g, log pi - log ref of the answer, nats, with gradient.
    desirable_N: bool.
    delta: reward shift, the running mean of `bco_delta`, this batch included;
      never differentiated.
    beta: above 0.
    density_weight: factor of the undesirable answers, a number or f32[N]: p /
      (1 - p) with p the probability that the prompt comes from the desirable
      set, bounded (TRL: 0.5 to 10). Never differentiated.
    valid_N: bool, answers that count; None means all.

  Returns:
    f32[N], 0 and without gradient where not valid.

  Raises:
    ValueError: beta at or below 0.
    TypeError: labels that are not bool.

  Reference: BCO, 2404.04656.
  """
  g, sign, valid = _inputs(log_ratio_N, desirable_N, valid_N, beta)
  logit = sign * (beta * g - lax.stop_gradient(delta))
  scale = jnp.where(sign > 0, 1, lax.stop_gradient(density_weight))
  return masked.clean(-scale * jax.nn.log_sigmoid(logit), valid)


def bco_delta(
  log_ratio_N: Array, valid_N: Array | None = None, *, beta: Number
) -> Array:
  """mean(beta g) over the batch, both labels together, as TRL has it.

  TRL keeps a mean over all answers seen: mean += (batch - mean) * n / (n +
  seen), updated before the loss. The paper averages the two labels' means
  instead, which is the same when the labels are equally frequent.

  Args:
    log_ratio_N: g, log pi - log ref of the answer, nats.
    valid_N: bool, answers that count; None means all.
    beta: scale of the implicit reward.

  Returns:
    f32[] without gradient; 0 when nothing counts.

  Reference: BCO, 2404.04656.
  """
  if valid_N is None:
    valid_N = jnp.ones(jnp.shape(log_ratio_N), bool)
  return lax.stop_gradient(beta * masked.masked_mean(log_ratio_N, valid_N))


def exploration(log_ratio_N: Array, *, alpha: Number) -> Array:
  """alpha (log pi - log ref) of answers drawn from the reference: XPO's bonus.

  Added to the loss of a pair, one answer of which the policy and the other the
  reference gave, it pushes down what the reference would say and so pays for
  leaving it. The expectation is -alpha KL(ref || pi): unbounded below, so keep
  alpha small (TRL: 1e-5). TRL adds alpha log pi: the same gradient.

  Args:
    log_ratio_N: of the answer sampled from the reference, nats, with gradient.
    alpha: at least 0.

  Returns:
    f32[N], to be added to the pair's loss.

  Raises:
    ValueError: a negative alpha.

  Reference: XPO, 2405.21046.
  """
  if not isinstance(alpha, Tracer) and not np.all(np.asarray(alpha) >= 0):
    raise ValueError(f"alpha must be at least 0, got {alpha}")
  return alpha * log_ratio_N


def nash_md_advantage(
  probability: Array, log_ratio: Array, *, beta: Number
) -> Array:
  """P(y beats y') - 1/2 - beta log(pi / ref): the advantage of Nash-MD-PG.

  y comes from the policy, y' from the geometric mixture of policy and
  reference; the loss is `policy.reinforce`'s. With a log-ratio per sequence
  [N] the gradient is that of the sequence KL; with one per token [N, T] and
  probability [N, 1] it is TRL's, which holds each token responsible for its own
  log-ratio alone.

  Args:
    probability: that y is preferred, in [0, 1]; sigmoid of the reward gap when
      a Bradley-Terry model judges.
    log_ratio: log pi - log ref of y, nats, broadcastable to probability's
      shape or the other way round.
    beta: strength of the KL term, at least 0.

  Returns:
    f32 without gradient.

  Reference: Nash learning from human feedback, 2312.00886.
  """
  return lax.stop_gradient(probability - 0.5 - beta * log_ratio)
