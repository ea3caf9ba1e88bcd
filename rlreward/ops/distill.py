"""Divergence of a student from a frozen teacher at each token, all of V.

With p = softmax(student / temperature) and q = softmax(teacher / temperature):

  forward  KL(q || p), mean-seeking: knowledge distillation
  reverse  KL(p || q), mode-seeking: on-policy distillation, AlignDistil
  js       mix KL(q || m) + (1 - mix) KL(p || m), m = mix q + (1 - mix) p

js is GKD's divergence as printed. It goes to 0 with mix -> 0 (where js / mix ->
forward) and with mix -> 1 (where js / (1 - mix) -> reverse). TRL gives the
plain KLs at these two ends instead of the 0; here they are kinds of their own
and mix stays inside (0, 1).

Values are nats per position. Hinton's factor temperature^2, which keeps the
size of the gradient, is the caller's: multiply the result by it.

Reference: Hinton et al., Distilling the Knowledge in a Neural Network,
  1503.02531; Agarwal et al., On-Policy Distillation of Language Models,
  2306.13649; AlignDistil, 2503.02832.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import chex
import jax
import jax.numpy as jnp
from jax import lax

from rlreward.ops import logprob
from rlreward.types import Array

Kind = Literal["forward", "reverse", "js"]
KINDS = ("forward", "reverse", "js")


def _check(kind: str, mix: float) -> None:
  if kind not in KINDS:
    raise ValueError(f"unknown divergence {kind!r}; choose one of {KINDS}")
  if kind == "js" and not 0 < mix < 1:
    raise ValueError(
      f"mix must lie inside (0, 1), got {mix}; js is 0 at both ends: choose "
      "kind 'forward' for the limit at 0, 'reverse' for the one at 1"
    )


def _log_softmax(logits: Array) -> Array:
  dtype = jnp.promote_types(logits.dtype, jnp.float32)
  return jax.nn.log_softmax(logits.astype(dtype), axis=-1)


def _log_mixture(log_p: Array, log_q: Array, mix: float) -> Array:
  """log(mix q + (1 - mix) p); 0 where both forbid, to be ignored there."""
  some = (log_p > -jnp.inf) | (log_q > -jnp.inf)
  log_p, log_q = jnp.where(some, log_p, 0), jnp.where(some, log_q, 0)
  return jnp.logaddexp(log_p + math.log1p(-mix), log_q + math.log(mix))


def _log_ratio(log_p: Array, log_q: Array) -> Array:
  """log p - log q, and 0 where p is 0 (0 log 0 = 0)."""
  live = jnp.exp(log_p) > 0
  return jnp.where(live, log_p, 0) - jnp.where(live, log_q, 0)


def _kl(log_p: Array, log_q: Array) -> Array:
  return jnp.sum(jnp.exp(log_p) * _log_ratio(log_p, log_q), axis=-1)


def _divergence(log_p: Array, log_q: Array, kind: Kind, mix: float) -> Array:
  if kind == "forward":
    return _kl(log_q, log_p)
  if kind == "reverse":
    return _kl(log_p, log_q)
  log_m = _log_mixture(log_p, log_q, mix)
  return mix * _kl(log_q, log_m) + (1 - mix) * _kl(log_p, log_m)


def _slope(log_p: Array, log_q: Array, kind: Kind, mix: float) -> Array:
  """d divergence / d tempered student logits.

  forward  p - q
  reverse  p (log p/q - KL(p || q))
  js       (1 - mix) p (log p/m - KL(p || m))
  """
  p = jnp.exp(log_p)
  if kind == "forward":
    return p - jnp.exp(log_q)
  if kind == "reverse":
    gap, scale = _log_ratio(log_p, log_q), 1.0
  else:
    gap = _log_ratio(log_p, _log_mixture(log_p, log_q, mix))
    scale = 1 - mix
  return scale * p * (gap - jnp.sum(p * gap, axis=-1, keepdims=True))


def divergence_from_logits(
  student_logits: Array, teacher_logits: Array, kind: Kind, mix: float = 0.5
) -> Array:
  """The divergence of the module's table, for logits already at hand.

  Args:
    student_logits: [..., V]; -inf is a token that the student never gives.
    teacher_logits: [..., V]; frozen, no gradient reaches them.
    kind: one of KINDS.
    mix: weight of the teacher in the mixture, for kind "js".

  Returns:
    f32[...], nats, with a finite gradient where both forbid the same tokens
    (padding of the vocabulary). Infinite where the first argument of a KL gives
    what the second forbids (the gradient of reverse is undefined there); js is
    always finite, at most -mix log mix - (1 - mix) log(1 - mix).

  Raises:
    ValueError: unknown kind, or mix outside (0, 1) for "js".

  Reference: GKD, 2306.13649.
  """
  _check(kind, mix)
  chex.assert_equal_shape([student_logits, teacher_logits])
  log_q = _log_softmax(lax.stop_gradient(teacher_logits))
  return _divergence(_log_softmax(student_logits), log_q, kind, mix)


def _log_probs(hidden, kernel, temperature, softcap):
  """(log-probs, tanh of the soft cap or None) of one block."""
  raw = logprob.raw_logits(hidden, kernel)
  logits, bent = logprob.shape_logits(raw, temperature, softcap)
  return _log_softmax(logits), bent


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7, 8))
def _fused(
  hidden, kernel, t_hidden, t_kernel, temperature, kind, mix, softcaps, plan
):
  def body(carry, block):
    hidden, t_hidden = block
    log_p, _ = _log_probs(hidden, kernel, temperature, softcaps[0])
    log_q, _ = _log_probs(t_hidden, t_kernel, temperature, softcaps[1])
    return carry, _divergence(log_p, log_q, kind, mix)

  return logprob.over_blocks(body, (), (hidden, t_hidden), plan)[1]


def _fused_fwd(
  hidden, kernel, t_hidden, t_kernel, temperature, kind, mix, softcaps, plan
):
  arrays = hidden, kernel, t_hidden, t_kernel, temperature
  return _fused(*arrays, kind, mix, softcaps, plan), arrays


def _fused_bwd(kind, mix, softcaps, plan, arrays, g):
  hidden, kernel, t_hidden, t_kernel, temperature = arrays
  wide = logprob.wide_type(hidden, kernel)

  def body(grad_kernel, block):
    hidden, t_hidden, g = block
    # A position that the loss ignores must not matter, whatever it holds.
    live = (g != 0)[..., None]
    hidden = jnp.where(live, hidden, 0)
    log_p, bent = _log_probs(hidden, kernel, temperature, softcaps[0])
    log_q, _ = _log_probs(t_hidden, t_kernel, temperature, softcaps[1])
    grad = g[..., None] * _slope(log_p, log_q, kind, mix)
    grad = jnp.where(live, grad, 0) / temperature.astype(wide)
    if bent is not None:
      grad = grad * (1 - bent * bent)
    step, grad_hidden = logprob.pull_back(grad, hidden, kernel)
    return grad_kernel + step, grad_hidden

  grad_kernel, grad_hidden = logprob.over_blocks(
    body, jnp.zeros(kernel.shape, wide), (hidden, t_hidden, g), plan
  )
  zero = jnp.zeros_like(temperature)
  return grad_hidden, grad_kernel.astype(kernel.dtype), None, None, zero


_fused.defvjp(_fused_fwd, _fused_bwd)


def _check_heads(hidden_a, kernel_a, hidden_b, kernel_b) -> None:
  chex.assert_rank([hidden_a, hidden_b, kernel_a, kernel_b], [3, 3, 2, 2])
  chex.assert_equal_shape_prefix([hidden_a, hidden_b], 2)
  chex.assert_equal(hidden_a.shape[2], kernel_a.shape[0])
  chex.assert_equal(hidden_b.shape[2], kernel_b.shape[0])
  v, w = kernel_a.shape[1], kernel_b.shape[1]
  if v != w:
    raise ValueError(
      f"one head has {v} tokens, the other {w}: distributions over different "
      f"vocabularies cannot be compared; if the tokenizers agree and only the "
      f"padding differs, cut both kernels to their first {min(v, w)} columns"
    )


def token_divergence(
  student_hidden_NxTxD: Array,
  student_kernel_DxV: Array,
  teacher_hidden_NxTxE: Array,
  teacher_kernel_ExV: Array,
  *,
  kind: Kind = "forward",
  mix: float = 0.5,
  temperature: float | Array = 1.0,
  student_softcap: float | None = None,
  teacher_softcap: float | None = None,
  chunk: int | None = None,
) -> Array:
  """The divergence of the module's table, heads and softmaxes in one pass.

  logits = softcap * tanh(hidden @ kernel / softcap) / temperature, in float32.
  Logits of both models exist for one chunk of positions at a time, in the
  forward pass and in the backward pass, which computes them again. A position
  whose cotangent is 0 adds nothing to any gradient, even if its hidden states
  are NaN. Reverse-mode differentiation only.

  A teacher that extrapolates from b through a (`extrapolated_logits`) needs no
  logits either when neither head has a soft cap: its hidden states are those
  of the two side by side, [(1 + w) a, -w b], and its kernel the two stacked.

  Args:
    student_hidden_NxTxD: states that predict the tokens, f32 or bf16.
    student_kernel_DxV: the student's output matrix, f32 or bf16.
    teacher_hidden_NxTxE: the teacher's states at the same positions.
    teacher_kernel_ExV: the teacher's output matrix, same vocabulary.
    kind: one of KINDS.
    mix: weight of the teacher in the mixture, for kind "js".
    temperature: positive number or f32[], divides the logits of both; may be
      traced, has no gradient.
    student_softcap: Gemma's final soft cap of the student, or None.
    teacher_softcap: the same of the teacher.
    chunk: positions whose logits are held at a time, over the whole mesh; None
      chooses 2**23 // V.

  Returns:
    f32[N, T], nats per position, differentiable in the student's hidden states
    and kernel (whose gradient is summed in float32) and in nothing else.

  Raises:
    ValueError: unknown kind, mix outside (0, 1) for "js", vocabularies of
      different size, or a temperature, soft cap or chunk that is not positive.

  Reference: GKD, 2306.13649; Cut Your Losses, 2411.09009.
  """
  _check(kind, mix)
  _check_heads(
    student_hidden_NxTxD,
    student_kernel_DxV,
    teacher_hidden_NxTxE,
    teacher_kernel_ExV,
  )
  logprob.check_positive("temperature", temperature)
  logprob.check_positive("student_softcap", student_softcap)
  logprob.check_positive("teacher_softcap", teacher_softcap)
  n, t, _ = student_hidden_NxTxD.shape
  return _fused(
    student_hidden_NxTxD,
    student_kernel_DxV,
    lax.stop_gradient(teacher_hidden_NxTxE),
    lax.stop_gradient(teacher_kernel_ExV),
    lax.stop_gradient(jnp.asarray(temperature, jnp.result_type(float))),
    kind,
    mix,
    (student_softcap, teacher_softcap),
    logprob.plan_blocks(n, t, student_kernel_DxV.shape[1], chunk),
  )


def extrapolated_logits(z_a: Array, z_b: Array, w: Array | float) -> Array:
  """z_a + w (z_a - z_b): from b through a and beyond, AlignDistil's teacher.

  With a the DPO model and b the one trained on swapped pairs this is the
  contrastive teacher. The optimum of RLHF with a DPO reward, w z_dpo + (1 - w)
  z_ref, is the same function with a = dpo, b = ref and w - 1.

  Args:
    z_a: logits [..., V].
    z_b: logits [..., V].
    w: how far beyond a, [...] or a number.

  Returns:
    f32[..., V] without gradient; -inf where either model forbids the token.

  Reference: AlignDistil, 2503.02832.
  """
  chex.assert_equal_shape([z_a, z_b])
  dtype = jnp.promote_types(z_a.dtype, jnp.float32)
  z_a, z_b, w = lax.stop_gradient((z_a.astype(dtype), z_b.astype(dtype), w))
  allowed = (z_a > -jnp.inf) & (z_b > -jnp.inf)
  z_a, z_b = jnp.where(allowed, z_a, 0), jnp.where(allowed, z_b, 0)
  z = z_a + jnp.asarray(w)[..., None] * (z_a - z_b)
  return jnp.where(allowed, z, -jnp.inf)


def _check_tv(scale: float | Array, floor: float | Array) -> None:
  logprob.check_positive("scale", scale)
  logprob.check_positive("floor", floor)


def _distance(log_a: Array, log_b: Array) -> Array:
  return jnp.sum(jnp.abs(jnp.exp(log_a) - jnp.exp(log_b)), axis=-1)


def tv_weight(
  logits_a: Array,
  logits_b: Array,
  scale: float | Array = 15.0,
  floor: float | Array = 1e-3,
) -> Array:
  """w = scale sum_v |p_a - p_b| + floor: extrapolate where the models differ.

  The distance is AlignDistil's plain L1, in [0, 2], not the total variation
  (half of it). The floor is meant: where the models agree, the loss weight
  beta / w is large and the teacher is a.

  Args:
    logits_a: [..., V]; -inf is a forbidden token.
    logits_b: [..., V].
    scale: AlignDistil's beta2: 15 on-policy, 10 off-policy.
    floor: smallest w.

  Returns:
    f32[...] without gradient.

  Raises:
    ValueError: a scale or floor that is not positive.

  Reference: AlignDistil, 2503.02832.
  """
  _check_tv(scale, floor)
  chex.assert_equal_shape([logits_a, logits_b])
  gap = _distance(_log_softmax(logits_a), _log_softmax(logits_b))
  return lax.stop_gradient(scale * gap + floor)


def token_tv_weight(
  hidden_a_NxTxD: Array,
  kernel_a_DxV: Array,
  hidden_b_NxTxE: Array,
  kernel_b_ExV: Array,
  *,
  scale: float | Array = 15.0,
  floor: float | Array = 1e-3,
  softcaps: tuple[float | None, float | None] = (None, None),
  chunk: int | None = None,
) -> Array:
  """`tv_weight` from hidden states, one chunk of logits at a time.

  Args:
    hidden_a_NxTxD: states of model a.
    kernel_a_DxV: output matrix of model a.
    hidden_b_NxTxE: states of model b.
    kernel_b_ExV: output matrix of model b.
    scale: AlignDistil's beta2.
    floor: smallest w.
    softcaps: the final soft caps of a and b.
    chunk: positions whose logits are held at a time; None chooses 2**23 // V.

  Returns:
    f32[N, T] without gradient.

  Raises:
    ValueError: vocabularies of different size, or a scale, floor or chunk that
      is not positive.

  Reference: AlignDistil, 2503.02832.
  """
  _check_tv(scale, floor)
  _check_heads(hidden_a_NxTxD, kernel_a_DxV, hidden_b_NxTxE, kernel_b_ExV)
  n, t, _ = hidden_a_NxTxD.shape
  plan = logprob.plan_blocks(n, t, kernel_a_DxV.shape[1], chunk)
  kernels = lax.stop_gradient((kernel_a_DxV, kernel_b_ExV))
  one = jnp.ones(())

  def body(carry, block):
    log_a, _ = _log_probs(block[0], kernels[0], one, softcaps[0])
    log_b, _ = _log_probs(block[1], kernels[1], one, softcaps[1])
    return carry, _distance(log_a, log_b)

  states = lax.stop_gradient((hidden_a_NxTxD, hidden_b_NxTxE))
  _, gap = logprob.over_blocks(body, (), states, plan)
  return lax.stop_gradient(scale * gap + floor)
