"""The parts of the decoder: embedding, norms, projections, attention, block."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rlreward.models.config import TransformerConfig
from rlreward.ops import mesh

Array = jax.Array
_NEG = -1e30


class View(NamedTuple):
  """What the queries of one kind of layer may see, and their rotation.

  Attributes:
    cos: f32[N, T, head_dim / 2], or None without RoPE.
    sin: the same.
    own: bool[N, T, S], visible keys among the rows' own.
    past: bool[B, G or 1, T or 1, P], visible prompt keys, or None.
    prompt: bool[B, P, P] when prompts and completions run together: then cos
      and sin are [B, P + G * T, head_dim / 2]; None otherwise.
  """

  cos: Array | None
  sin: Array | None
  own: Array
  past: Array | None = None
  prompt: Array | None = None


def inverse_frequencies(c: TransformerConfig, kind: str) -> np.ndarray:
  """RoPE frequencies theta^(-2i/d), scaled as the checkpoint asks.

  Args:
    c: the decoder's shape.
    kind: "global" or "local"; local layers are never scaled.

  Returns:
    f64[head_dim / 2], radians for each position.

  Reference: RoFormer, arXiv 2104.09864; Llama 3.1 for the "llama3" rule.
  """
  theta = c.rope_theta or 1.0
  if kind == "local" and c.rope_local_theta is not None:
    theta = c.rope_local_theta
  freq = 1.0 / theta ** (np.arange(0, c.head_dim, 2) / c.head_dim)
  local = kind == "local" and c.rope_local_theta is not None
  if c.rope_scaling is None or local:
    return freq
  if c.rope_scaling[0] == "linear":
    return freq / c.rope_scaling[1]
  _, factor, low, high, original = c.rope_scaling
  wavelength = 2 * math.pi / freq
  smooth = (original / wavelength - low) / (high - low)
  smooth = np.clip(smooth, 0.0, 1.0)
  return (1 - smooth) * freq / factor + smooth * freq


def rotation(c: TransformerConfig, kind: str, position):
  """cos and sin of the RoPE angles, f32[..., head_dim / 2], or (None, None)."""
  if c.rope_theta is None:
    return None, None
  freq = jnp.asarray(inverse_frequencies(c, kind), jnp.float32)
  angle = position[..., None].astype(jnp.float32) * freq
  return jnp.cos(angle), jnp.sin(angle)


def causal(
  c: TransformerConfig, kind: str, position, attend, key_position, segment=None
):
  """bool[N, T, S]: real keys not after the query and inside the window.

  With `segment` i32[N, T], keys of another segment are not seen; positions
  count within each.
  """
  gap = position[:, :, None] - key_position[:, None, :]
  mask = attend[:, None, :] & (gap >= 0)
  if segment is not None:
    mask &= segment[:, :, None] == segment[:, None, :]
  if kind == "local" and c.window:
    mask &= gap < c.window
  return mask


def past_mask(c: TransformerConfig, kind: str, position, attend, key_position):
  """bool[B, G or 1, T or 1, P]: prompt keys that completions may see.

  Args:
    c: the decoder's shape.
    kind: "global" or "local".
    position: i32[N, T] of the completions, N = B * G.
    attend: bool[B, P] of the prompts.
    key_position: i32[B, P].
  """
  b, p = attend.shape
  past = attend[:, None, None, :]
  if kind == "local" and c.window:
    q = position.reshape(b, -1, position.shape[1], 1)
    past &= q - key_position.reshape(b, 1, 1, p) < c.window
  return past


def rotate(x, cos, sin):
  """Half-split rotary embedding of x [N, T, H, head_dim]."""
  a, b = jnp.split(x.astype(jnp.float32), 2, -1)
  cos, sin = cos[:, :, None], sin[:, :, None]
  out = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
  return out.astype(x.dtype)


def attention(q, k, v, mask, past, scale: float, softcap: float | None):
  """Softmax attention over shared prompt keys and own keys at once.

  Args:
    q: [N, T, H, head_dim].
    k: [N, K, S, head_dim], own keys.
    v: the same, own values.
    mask: bool[N, T, S], visible own keys.
    past: (k, v, mask) of B prompts, each read by N / B rows: k and v are
      [B, K, P, head_dim], the mask bool[B, G or 1, T or 1, P]. Or None.
    scale: factor on the scores.
    softcap: c in c * tanh(score / c), or None.

  Returns:
    [N, T, H, head_dim] in the type of q.
  """
  n, t, h, d = q.shape
  kv = k.shape[1]
  r = h // kv
  dtype = q.dtype
  q = (q * jnp.asarray(scale, dtype)).reshape(n, t, kv, r, d)
  q = q.transpose(0, 2, 3, 1, 4)  # [N, K, R, T, d]

  def scores(q, k):
    z = jnp.einsum(
      "nkqd,nksd->nkqs", q, k.astype(dtype), preferred_element_type=jnp.float32
    )
    if softcap is not None:
      z = softcap * jnp.tanh(z / softcap)
    return z

  z = scores(q.reshape(n, kv, r * t, d), k)
  z = z.reshape(n, kv, r, t, -1)
  z = jnp.where(mask[:, None, None], z, _NEG)
  top = jax.lax.stop_gradient(z.max(-1))  # [N, K, R, T]
  if past is None:
    w = jnp.exp(z - top[..., None])
    total = w.sum(-1)
    out = _weigh(w.reshape(n, kv, r * t, -1), v, dtype)
    out = out.reshape(n, kv, r, t, d)
  else:
    b, p = past[0].shape[0], past[0].shape[2]
    g = n // b
    wide = lambda x: x.reshape((b, g, *x.shape[1:])).swapaxes(1, 2)
    back = lambda x: x.swapaxes(1, 2).reshape((n, kv, *x.shape[3:]))
    qp = wide(q)  # [B, K, G, R, T, d]
    zp = scores(qp.reshape(b, kv, g * r * t, d), past[0])
    zp = zp.reshape(b, kv, g, r, t, p)
    zp = jnp.where(past[2][:, None, :, None], zp, _NEG)
    top = jnp.maximum(top, back(jax.lax.stop_gradient(zp.max(-1))))
    w = jnp.exp(z - top[..., None])
    wp = jnp.exp(zp - wide(top)[..., None])
    total = w.sum(-1) + back(wp.sum(-1))
    out = _weigh(w.reshape(n, kv, r * t, -1), v, dtype)
    outp = _weigh(wp.reshape(b, kv, g * r * t, p), past[1], dtype)
    out = out.reshape(n, kv, r, t, d) + back(outp.reshape(b, kv, g, r, t, d))
  out = (out / total[..., None]).astype(dtype)
  return out.transpose(0, 3, 1, 2, 4).reshape(n, t, h, d)


def _weigh(w, v, dtype):
  return jnp.einsum(
    "nkqs,nksd->nkqd",
    w.astype(dtype),
    v.astype(dtype),
    preferred_element_type=jnp.float32,
  )


def _param(module, name: str, init, axes, shape) -> Any:
  """A parameter with logical axis names, in the config's storage type."""
  boxed = nn.with_logical_partitioning(init, axes)
  return module.param(name, boxed, shape, jnp.dtype(module.config.param_dtype))


class Norm(nn.Module):
  """RMSNorm or LayerNorm over the last axis, computed in f32."""

  config: TransformerConfig
  size: int
  kind: str = ""

  @nn.compact
  def __call__(self, x):
    c = self.config
    kind = self.kind or c.norm
    dtype = x.dtype
    offset = c.norm_offset
    init = nn.initializers.constant(1.0 - offset)
    scale = _param(self, "scale", init, (None,), (self.size,))
    x = x.astype(jnp.float32)
    if kind == "layer":
      x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + c.norm_eps)
    x = x * (offset + scale.astype(jnp.float32))
    if kind == "layer":
      zeros = nn.initializers.zeros
      bias = _param(self, "bias", zeros, (None,), (self.size,))
      x = x + bias.astype(jnp.float32)
    return x.astype(dtype)


class Linear(nn.Module):
  """x @ kernel (+ bias), plus a low-rank adapter where one is given."""

  config: TransformerConfig
  features: int
  axes: tuple[str | None, str | None]
  bias: bool = False

  @nn.compact
  def __call__(self, x):
    c = self.config
    fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    shape = (x.shape[-1], self.features)
    kernel = _param(self, "kernel", fan_in, self.axes, shape)
    y = x @ kernel.astype(x.dtype)
    if self.has_variable("lora", "a"):
      a = self.get_variable("lora", "a").astype(x.dtype)
      b = self.get_variable("lora", "b").astype(x.dtype)
      z = x
      if self.has_variable("lora", "drop"):
        kept = 1 - c.lora_dropout
        key = self.get_variable("lora", "drop")
        z = jnp.where(jax.random.bernoulli(key, kept, x.shape), x / kept, 0)
      y = y + (z @ a) @ b * jnp.asarray(c.lora_scale, x.dtype)
    if self.bias:
      zeros = nn.initializers.zeros
      bias = _param(self, "bias", zeros, self.axes[1:], (self.features,))
      y = y + bias.astype(y.dtype)
    return y


class Embed(nn.Module):
  """Rows of a table: token embeddings, or learned positions."""

  config: TransformerConfig
  rows: int
  axis: str | None = "vocab"

  @nn.compact
  def __call__(self, index):
    c = self.config
    init = nn.initializers.normal(c.width**-0.5)
    axes = (self.axis, "embed")
    table = _param(self, "embedding", init, axes, (self.rows, c.width))
    # Gathered over fsdp first: rows then come out split like the batch.
    rows = mesh.TENSOR if self.axis == "vocab" else None
    table = mesh.constrain(table, rows, None)
    return jnp.take(table, index, axis=0).astype(c.compute_dtype)


def write(old, new, index, axis: int):
  """`old` with `new` written from a slot on.

  Args:
    old: [N, ...] with S slots along `axis`.
    new: the same shape with T slots; no row writes beyond its last slot.
    index: i32[], the first slot, or i32[N], that of each row.
    axis: of the slots, 1 or more.
  """
  put = jax.lax.dynamic_update_slice_in_dim
  new = new.astype(old.dtype)
  if not jnp.ndim(index):
    return put(old, new, index, axis)
  return jax.vmap(lambda o, n, i: put(o, n, i, axis - 1))(old, new, index)


class Attention(nn.Module):
  """Grouped-query attention with an explicit cache."""

  config: TransformerConfig

  @nn.compact
  def __call__(self, x, view: View, past, own):
    c = self.config
    n, t, _ = x.shape
    heads = (
      ("q", c.heads, "heads"),
      ("k", c.kv_heads, "kv"),
      ("v", c.kv_heads, "kv"),
    )
    q, k, v = (
      Linear(c, count * c.head_dim, ("embed", axis), c.qkv_bias, name=name)(
        x
      ).reshape(n, t, count, c.head_dim)
      for name, count, axis in heads
    )
    if c.qk_norm:
      q = Norm(c, c.head_dim, "rms", name="q_norm")(q)
      k = Norm(c, c.head_dim, "rms", name="k_norm")(k)
    if view.cos is not None:
      q, k = (rotate(z, view.cos, view.sin) for z in (q, k))
    scale = c.head_dim**-0.5 if c.query_scale is None else c.query_scale
    attend = functools.partial(attention, scale=scale, softcap=c.attn_softcap)
    if view.prompt is not None:
      y = self._together(q, k, v, view, attend)
    else:
      k, v = (z.transpose(0, 2, 1, 3) for z in (k, v))
      if own is not None:
        old_k, old_v, index = own
        k, v = (write(old, z, index, 2) for old, z in ((old_k, k), (old_v, v)))
      past = None if past is None else (*past, view.past)
      y = attend(q, k, v, view.own, past)
    y = y.reshape(n, t, c.heads * c.head_dim)
    out = Linear(c, c.width, ("heads", "embed"), c.out_bias, name="o")
    return out(y), (k, v)

  def _together(self, q, k, v, view: View, attend):
    """Prompts among themselves, completions on their prompt and themselves."""
    assert view.prompt is not None
    b, p = view.prompt.shape[:2]
    n, t = view.own.shape[:2]
    turn = lambda z: z.transpose(0, 2, 1, 3)
    rows = lambda z: z[:, p:].reshape(n, t, *z.shape[2:])
    k_past, v_past = turn(k[:, :p]), turn(v[:, :p])
    first = attend(q[:, :p], k_past, v_past, view.prompt, None)
    past = (k_past, v_past, view.past)
    rest = attend(rows(q), turn(rows(k)), turn(rows(v)), view.own, past)
    return jnp.concatenate([first, rest.reshape(b, -1, *rest.shape[2:])], 1)


class Mlp(nn.Module):
  """SwiGLU-type or plain feed-forward layer."""

  config: TransformerConfig

  @nn.compact
  def __call__(self, x):
    c = self.config
    act = {"silu": nn.silu, "gelu_tanh": nn.gelu}[c.activation]
    axes = ("embed", "mlp")
    up = Linear(c, c.mlp, axes, c.mlp_bias, name="up")(x)
    if c.gated:
      x = act(Linear(c, c.mlp, axes, c.mlp_bias, name="gate")(x)) * up
    else:
      x = act(up)
    return Linear(c, c.width, ("mlp", "embed"), c.mlp_bias, name="down")(x)


class Block(nn.Module):
  """Pre-norm attention and feed-forward, with post-norms for Gemma."""

  config: TransformerConfig
  keep: bool = False

  @nn.compact
  def __call__(self, x, views, kind, past=None, own=None):
    c = self.config
    seen = views[0]
    for i, other in enumerate(views[1:], 1):
      seen = jax.tree.map(
        lambda a, b, i=i: jnp.where(kind == i, b, a), seen, other
      )
    post = lambda name, y: Norm(c, c.width, name=name)(y)
    y = Norm(c, c.width, name="attn_norm")(x)
    y, kv = Attention(c, name="attn")(y, seen, past, own)
    x = x + (post("attn_post_norm", y) if c.post_norms else y)
    y = Mlp(c, name="mlp")(Norm(c, c.width, name="mlp_norm")(x))
    x = x + (post("mlp_post_norm", y) if c.post_norms else y)
    return x, (kv if self.keep else None)
