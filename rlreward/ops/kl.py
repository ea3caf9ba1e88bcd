"""KL(pi || ref) per token: values to report, surrogates to differentiate.

With d = log pi(x) - log ref(x), x drawn from pi, three numbers have the mean
KL(pi || ref), exactly (k1, k3) or nearly (k2). Their gradients do not agree: as
a loss k1 pulls nowhere, k2 pulls along KL(pi || ref) and k3 along
KL(ref || pi). So values here carry no gradient, and what is to be minimised is
named after the gradient that it has.

All of these see one token at a time: what a token does to the KL of later
tokens is not in the gradient. A k1 penalty in the reward includes it.

Reference: Schulman, Approximating KL Divergence, 2020.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax import lax

from rlreward.ops import masked
from rlreward.types import Array

LIMIT = 10.0  # largest size of a per-token value, as in verl and OpenRLHF


def _bound(x: Array, limit: float | None) -> Array:
  return x if limit is None else jnp.clip(x, -limit, limit)


def _gap(logp: Array, reference_logp: Array) -> Array:
  chex.assert_equal_shape([logp, reference_logp])
  return logp - lax.stop_gradient(reference_logp)


def k1(
  logp: Array, reference_logp: Array, limit: float | None = LIMIT
) -> Array:
  """k1 = d: unbiased, of either sign, the value to put into a reward.

  Args:
    logp: log-prob of the sampled token under the policy, any shape.
    reference_logp: the same under the reference.
    limit: the value is clipped to [-limit, limit]; None leaves it.

  Returns:
    f32 of the same shape, nats, without gradient.
  """
  return lax.stop_gradient(_bound(_gap(logp, reference_logp), limit))


def k2(
  logp: Array, reference_logp: Array, limit: float | None = LIMIT
) -> Array:
  """k2 = d^2 / 2: biased, never negative, low variance near the reference.

  Args:
    logp: log-prob of the sampled token under the policy, any shape.
    reference_logp: the same under the reference.
    limit: the value is clipped to [-limit, limit]; None leaves it.

  Returns:
    f32 of the same shape, nats, without gradient.
  """
  d = _gap(logp, reference_logp)
  return lax.stop_gradient(_bound(d * d / 2, limit))


def k3(
  logp: Array, reference_logp: Array, limit: float | None = LIMIT
) -> Array:
  """k3 = exp(-d) - 1 + d: unbiased, never negative, the value to report.

  Args:
    logp: log-prob of the sampled token under the policy, any shape.
    reference_logp: the same under the reference.
    limit: the value is clipped to [-limit, limit]; None leaves it. The
      exponent is always kept inside [-20, 20].

  Returns:
    f32 of the same shape, nats, without gradient.
  """
  d = _gap(logp, reference_logp)
  return lax.stop_gradient(_bound(masked.safe_exp(-d) - 1 + d, limit))


def categorical_kl(logits_p: Array, logits_q: Array) -> Array:
  """KL(p || q) = sum p (log p - log q), exact over the last axis.

  Args:
    logits_p: [..., V]; -inf is a token that p never gives.
    logits_q: [..., V].

  Returns:
    f32[...], nats; infinite where p gives what q forbids. Differentiable in
    both.
  """
  chex.assert_equal_shape([logits_p, logits_q])
  dtype = jnp.promote_types(logits_p.dtype, jnp.float32)
  log_p = jax.nn.log_softmax(logits_p.astype(dtype), axis=-1)
  log_q = jax.nn.log_softmax(logits_q.astype(dtype), axis=-1)
  support = log_p > -jnp.inf
  log_p = jnp.where(support, log_p, 0)
  log_q = jnp.where(support, log_q, 0)
  p = jnp.where(support, jnp.exp(log_p), 0)
  return jnp.sum(p * (log_p - log_q), axis=-1)


def _surrogate(
  value: Array, slope: Array, logp: Array, weight: Array | None
) -> Array:
  """The given value, and slope * grad log pi as gradient; both weighted."""
  if weight is not None:
    chex.assert_equal_shape([logp, weight])
    value, slope = value * weight, slope * weight
  value, slope = lax.stop_gradient((value, slope))
  return value + slope * (logp - lax.stop_gradient(logp))


def reverse_kl_surrogate(
  logp: Array,
  reference_logp: Array,
  weight: Array | None = None,
  limit: float | None = LIMIT,
) -> Array:
  """A loss with the gradient of KL(pi || ref) and the value of k3.

  gradient = E[w d grad log pi], which k2 has on-policy (w = 1) and nothing but
  the weighted form has off-policy.

  Args:
    logp: log-prob of the sampled token under the policy, any shape.
    reference_logp: the same under the reference.
    weight: pi / behaviour of the token when it was not drawn from pi; used as a
      number, never differentiated. None means on-policy.
    limit: bound on the value and on d in the gradient, which so saturates far
      from the reference instead of vanishing there; None leaves both.

  Returns:
    f32 of the same shape, to be added to a loss.
  """
  slope = k1(logp, reference_logp, limit)
  value = k3(logp, reference_logp, limit)
  return _surrogate(value, slope, logp, weight)


def forward_kl_surrogate(
  logp: Array,
  reference_logp: Array,
  weight: Array | None = None,
  limit: float | None = LIMIT,
) -> Array:
  """A loss with the gradient of KL(ref || pi) and the value of k3.

  This is k3 used as a loss, GRPO's KL term: gradient = E[w (1 - exp(-d)) grad
  log pi]. The value estimates KL(pi || ref) all the same.

  Args:
    logp: log-prob of the sampled token under the policy, any shape.
    reference_logp: the same under the reference.
    weight: pi / behaviour of the token when it was not drawn from pi; used as a
      number, never differentiated. None means on-policy, which is also what
      GRPO does off-policy.
    limit: bound on the value and on the slope; None leaves both.

  Returns:
    f32 of the same shape, to be added to a loss.

  Reference: DeepSeekMath, 2402.03300.
  """
  slope = 1 - masked.safe_exp(-_gap(logp, reference_logp))
  value = k3(logp, reference_logp, limit)
  return _surrogate(value, _bound(slope, limit), logp, weight)
