"""Log-probabilities of given tokens without ever holding [N, T, V] logits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from rlreward.types import Array

_CHUNK_ELEMENTS = 2**23  # logits held at a time when the chunk is chosen here


class Plan(NamedTuple):
  """How [N, T] positions fall into blocks of [rows, width].

  Width is cut first, and rows are cut with a stride, so that each block holds a
  share of every data shard of a batch that is sharded over N.
  """

  rows: int
  row_blocks: int
  width: int
  width_blocks: int

  def split(self, x: Array) -> Array:
    """[N, T, ...] -> [blocks, rows, width, ...], zeros in the padding."""
    n, t = self.rows * self.row_blocks, self.width * self.width_blocks
    tail = x.shape[2:]
    pad = [(0, n - x.shape[0]), (0, t - x.shape[1])] + [(0, 0)] * len(tail)
    if any(high for _, high in pad):
      x = jnp.pad(x, pad)
    x = x.reshape(
      self.rows, self.row_blocks, self.width_blocks, self.width, *tail
    )
    x = jnp.moveaxis(x, 0, 2)
    return x.reshape(-1, self.rows, self.width, *tail)

  def join(self, x: Array, n: int, t: int) -> Array:
    """The inverse of `split`, padding cut off."""
    tail = x.shape[3:]
    x = x.reshape(
      self.row_blocks, self.width_blocks, self.rows, self.width, *tail
    )
    x = jnp.moveaxis(x, 2, 0)
    x = x.reshape(
      self.rows * self.row_blocks, self.width * self.width_blocks, *tail
    )
    return x[:n, :t]


def plan_blocks(n: int, t: int, vocab: int, chunk: int | None) -> Plan:
  """Blocks of at most `chunk` positions; None holds 2**23 logits at a time."""
  if chunk is None:
    chunk = max(1, _CHUNK_ELEMENTS // vocab)
  check_positive("chunk", chunk)
  width = min(t, max(1, chunk // n))
  width_blocks = -(-t // width)
  row_blocks = -(-n // chunk)
  return Plan(
    -(-n // row_blocks), row_blocks, -(-t // width_blocks), width_blocks
  )


def over_blocks(
  body: Callable[[Any, Any], tuple[Any, Any]],
  carry: Any,
  inputs: Any,
  plan: Plan,
) -> tuple[Any, Any]:
  """lax.scan over the blocks of [N, T, ...] inputs; one block is no loop."""
  n, t = jax.tree.leaves(inputs)[0].shape[:2]
  if plan.row_blocks * plan.width_blocks == 1:
    return body(carry, inputs)
  carry, outputs = lax.scan(body, carry, jax.tree.map(plan.split, inputs))
  return carry, jax.tree.map(lambda x: plan.join(x, n, t), outputs)


def wide_type(hidden: Array, kernel: Array) -> jnp.dtype:
  """The type of logits and of summed kernel gradients: at least float32."""
  dtype = jnp.promote_types(hidden.dtype, kernel.dtype)
  return jnp.promote_types(dtype, jnp.float32)


def raw_logits(hidden: Array, kernel: Array) -> Array:
  """hidden @ kernel in float32; mixed inputs meet in their common type."""
  dtype = jnp.promote_types(hidden.dtype, kernel.dtype)
  return lax.dot_general(
    hidden.astype(dtype),
    kernel.astype(dtype),
    (((hidden.ndim - 1,), (0,)), ((), ())),
    preferred_element_type=wide_type(hidden, kernel),
  )


def pull_back(grad: Array, hidden: Array, kernel: Array) -> tuple[Array, Array]:
  """Gradients of the kernel (wide) and of hidden (its type) from dlogits.

  dlogits are rounded to the common type of hidden and kernel first, so that
  both products run at the speed of that type; sums are float32.
  """
  product = jnp.promote_types(hidden.dtype, kernel.dtype)
  wide = wide_type(hidden, kernel)
  grad = grad.astype(product)
  axes = tuple(range(grad.ndim - 1))
  grad_hidden = lax.dot_general(
    grad,
    kernel.astype(product),
    (((grad.ndim - 1,), (1,)), ((), ())),
    preferred_element_type=wide,
  )
  grad_kernel = lax.dot_general(
    hidden.astype(product),
    grad,
    ((axes, axes), ((), ())),
    preferred_element_type=wide,
  )
  return grad_kernel, grad_hidden.astype(hidden.dtype)


def shape_logits(
  raw: Array, temperature: Array, softcap: float | None
) -> tuple[Array, Array | None]:
  """softcap * tanh(raw / softcap) / temperature, and the tanh."""
  bent = None
  if softcap is not None:
    bent = jnp.tanh(raw / softcap)
    raw = softcap * bent
  return raw / temperature.astype(raw.dtype), bent


def _pick(logits: Array, targets: Array) -> Array:
  """logits[..., target]; NaN for a target outside [0, V)."""
  vocab = logits.shape[-1]
  index = jnp.where(targets < 0, vocab, targets)[..., None]
  return jnp.take_along_axis(logits, index, axis=-1, mode="fill")[..., 0]


def _forward(
  hidden: Array,
  kernel: Array,
  targets: Array,
  temperature: Array,
  softcap: float | None,
  plan: Plan,
  entropy: bool,
) -> tuple[Array, Array, Array | None]:
  """(log-prob, log-normaliser, entropy) of each position."""

  def body(carry, block):
    hidden, targets = block
    raw = raw_logits(hidden, kernel)
    logits, _ = shape_logits(raw, temperature, softcap)
    norm = jax.nn.logsumexp(logits, axis=-1)
    spread = None
    if entropy:
      gap = logits - norm[..., None]
      spread = -jnp.sum(jnp.exp(gap) * gap, axis=-1)
    return carry, (_pick(logits, targets) - norm, norm, spread)

  return over_blocks(body, (), (hidden, targets), plan)[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _fused(hidden, kernel, targets, temperature, softcap, plan, entropy):
  logp, _, spread = _forward(
    hidden, kernel, targets, temperature, softcap, plan, entropy
  )
  return logp, spread


def _fused_fwd(hidden, kernel, targets, temperature, softcap, plan, entropy):
  logp, norm, spread = _forward(
    hidden, kernel, targets, temperature, softcap, plan, entropy
  )
  residuals = hidden, kernel, targets, temperature, norm, spread
  return (logp, spread), residuals


def _fused_bwd(softcap, plan, entropy, residuals, cotangents):
  """d logits = g (onehot - p) - e p (log p + H), block by block."""
  hidden, kernel, targets, temperature, norm, spread = residuals
  g_logp, g_spread = cotangents
  wide = wide_type(hidden, kernel)

  def body(grad_kernel, block):
    hidden, targets, norm, g, spread, e = block
    # A position that the loss ignores must not matter, whatever it holds.
    live = g != 0 if e is None else (g != 0) | (e != 0)
    hidden = jnp.where(live[..., None], hidden, 0)
    raw = raw_logits(hidden, kernel)
    logits, bent = shape_logits(raw, temperature, softcap)
    gap = logits - norm[..., None]
    pull = g[..., None]
    if e is not None:
      pull = pull + e[..., None] * (gap + spread[..., None])
    hit = lax.broadcasted_iota(jnp.int32, gap.shape, gap.ndim - 1)
    hit = hit == targets[..., None]
    grad = jnp.where(hit, g[..., None], 0) - jnp.exp(gap) * pull
    grad = jnp.where(live[..., None], grad, 0)
    grad = grad / temperature.astype(wide)
    if bent is not None:
      grad = grad * (1 - bent * bent)
    step, grad_hidden = pull_back(grad, hidden, kernel)
    return grad_kernel + step, grad_hidden

  blocks = hidden, targets, norm, g_logp, spread, g_spread
  grad_kernel, grad_hidden = over_blocks(
    body, jnp.zeros(kernel.shape, wide), blocks, plan
  )
  return (
    grad_hidden,
    grad_kernel.astype(kernel.dtype),
    None,
    jnp.zeros_like(temperature),
  )


_fused.defvjp(_fused_fwd, _fused_bwd)


def token_logprob(
  hidden_NxTxD: Array,
  kernel_DxV: Array,
  targets_NxT: Array,
  *,
  temperature: float | Array = 1.0,
  softcap: float | None = None,
  chunk: int | None = 1024,
  entropy: bool = False,
) -> tuple[Array, Array | None]:
  """log softmax(logits)[target], the head and the softmax in one pass.

  logits = softcap * tanh(hidden @ kernel / softcap) / temperature, in float32.
  Logits exist for one chunk of positions at a time, in the forward pass and in
  the backward pass, which computes them again. The only large products are
  hidden @ kernel (twice), dlogits @ kernel^T and hidden^T @ dlogits.
  A position whose cotangent is 0 adds nothing to any gradient, even if its
  hidden state is NaN. Reverse-mode differentiation only.

  Args:
    hidden_NxTxD: states that predict the targets, f32 or bf16.
    kernel_DxV: output matrix, f32 or bf16; mixed types are promoted.
    targets_NxT: i32 token ids; one outside [0, V) gives NaN.
    temperature: positive number or f32[]; may be traced, has no gradient.
    softcap: Gemma's final soft cap, or None.
    chunk: positions whose logits are held at a time, over the whole mesh; None
      chooses 2**23 // V.
    entropy: also give the entropy of the (tempered) distribution.

  Returns:
    (logp f32[N, T], entropy f32[N, T] in nats or None), both differentiable in
    hidden and kernel.

  Raises:
    ValueError: a temperature, soft cap or chunk that is not positive.

  Reference: Wijmans et al., Cut Your Losses in Large-Vocabulary Language
    Models, 2411.09009.
  """
  chex.assert_rank([hidden_NxTxD, kernel_DxV, targets_NxT], [3, 2, 2])
  chex.assert_equal_shape_prefix([hidden_NxTxD, targets_NxT], 2)
  chex.assert_equal(hidden_NxTxD.shape[2], kernel_DxV.shape[0])
  check_positive("temperature", temperature)
  check_positive("softcap", softcap)
  n, t = targets_NxT.shape
  return _fused(
    hidden_NxTxD,
    kernel_DxV,
    targets_NxT,
    lax.stop_gradient(jnp.asarray(temperature, jnp.result_type(float))),
    softcap,
    plan_blocks(n, t, kernel_DxV.shape[1], chunk),
    entropy,
  )


def check_positive(name: str, value: Any) -> None:
  """ValueError for a Python number that is not above 0; arrays pass."""
  if isinstance(value, (int, float)) and not value > 0:
    raise ValueError(
      f"{name} must be positive, got {value}; greedy samples have no "
      "log-probability to train on"
      if name == "temperature"
      else f"{name} must be positive, got {value}"
    )


def logprob_from_logits(
  logits: Array, targets: Array, temperature: float | Array = 1.0
) -> Array:
  """log softmax(logits / temperature)[target], for logits already at hand.

  Args:
    logits: [..., V].
    targets: i32[...]; one outside [0, V) gives NaN.
    temperature: positive number or f32[].

  Returns:
    f32[...].
  """
  chex.assert_equal_shape_prefix([logits, targets], targets.ndim)
  check_positive("temperature", temperature)
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  logits = logits / temperature
  return _pick(logits, targets) - jax.nn.logsumexp(logits, axis=-1)


def entropy_from_logits(
  logits: Array, temperature: float | Array = 1.0
) -> Array:
  """Entropy of softmax(logits / temperature), -sum p log p.

  Args:
    logits: [..., V]; -inf (a forbidden token) is allowed.
    temperature: positive number or f32[].

  Returns:
    f32[...], nats.
  """
  check_positive("temperature", temperature)
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  logp = jax.nn.log_softmax(logits / temperature, axis=-1)
  allowed = logp > -jnp.inf
  logp = jnp.where(allowed, logp, 0)
  return -jnp.sum(jnp.where(allowed, jnp.exp(logp) * logp, 0), axis=-1)
