"""One description of a decoder for every family that we load."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from rlreward import errors


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Shape and conventions of a decoder; hashable, so fit for static use.

  Attributes:
    vocab: V, rows of the embedding.
    width: D, size of the residual stream.
    layers: number of blocks.
    heads: query heads.
    kv_heads: key and value heads; divides `heads`.
    head_dim: size of a head.
    mlp: hidden size of the feed-forward layer.
    norm: "rms" or "layer".
    norm_eps: added to the variance.
    norm_offset: the scale in use is `offset + scale` (Gemma: 1).
    activation: "silu" or "gelu_tanh".
    gated: whether the feed-forward layer is gated.
    qkv_bias: biases of q, k, v.
    out_bias: bias of the attention output.
    mlp_bias: biases of the feed-forward layer.
    qk_norm: RMSNorm over each head of q and k (Qwen3, Gemma 3).
    post_norms: norms after attention and feed-forward too (Gemma 2, 3).
    rope_theta: RoPE base of global layers; None for no rotation.
    rope_local_theta: RoPE base of local layers; None for the same.
    rope_scaling: None, ("linear", factor) or ("llama3", factor,
      low_freq_factor, high_freq_factor, original_max_position).
    learned_positions: rows of a learned position table; 0 for none.
    window: a local layer sees keys with 0 <= q - k < window.
    layer_kinds: "global" or "local" for each layer; () means all global.
    attn_softcap: c in c * tanh(z / c) on attention scores.
    final_softcap: the same on the output logits.
    embed_scale: factor on embeddings (Gemma: sqrt(D)).
    query_scale: factor on queries; None for head_dim ** -0.5.
    tied: the head is the transposed embedding.
    outputs: K of a `score` head in the same tree; 0 for none.
    lora_scale: alpha / rank, used where a "lora" collection is given.
    lora_dropout: share of an adapter's inputs that `lora.thinned` leaves out.
    dtype: compute type; norms, softmax and logits are f32 regardless.
    param_dtype: storage type.
    remat: what a layer keeps for its gradient: "none" (all of it), "dots" (the
      products with weights; faster than "none" where memory is slow) or
      "full" (its input).
  """

  vocab: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  head_dim: int
  mlp: int
  norm: str = "rms"
  norm_eps: float = 1e-5
  norm_offset: float = 0.0
  activation: str = "silu"
  gated: bool = True
  qkv_bias: bool = False
  out_bias: bool = False
  mlp_bias: bool = False
  qk_norm: bool = False
  post_norms: bool = False
  rope_theta: float | None = 10000.0
  rope_local_theta: float | None = None
  rope_scaling: tuple | None = None
  learned_positions: int = 0
  window: int | None = None
  layer_kinds: tuple[str, ...] = ()
  attn_softcap: float | None = None
  final_softcap: float | None = None
  embed_scale: float = 1.0
  query_scale: float | None = None
  tied: bool = False
  outputs: int = 0
  lora_scale: float = 1.0
  lora_dropout: float = 0.0
  dtype: str = "float32"
  param_dtype: str = "float32"
  remat: str = "dots"

  def __post_init__(self):
    kinds = self.layer_kinds or ("global",) * self.layers
    object.__setattr__(self, "layer_kinds", tuple(kinds))
    _check(self)

  @property
  def compute_dtype(self):
    """The jnp type of activations."""
    return jnp.dtype(self.dtype)

  def replace(self, **changes) -> TransformerConfig:
    """A copy with some fields changed."""
    return dataclasses.replace(self, **changes)


def _check(c: TransformerConfig) -> None:
  """Refuses shapes that cannot work, before anything is traced."""
  for name in ("vocab", "width", "layers", "heads", "kv_heads", "head_dim"):
    if getattr(c, name) < 1:
      raise errors.UserError(
        f"model.{name}={getattr(c, name)} is below 1",
        "every axis of the decoder needs at least one entry",
        f"set model.{name} to a positive number",
      )
  if c.heads % c.kv_heads:
    raise errors.UserError(
      f"model.heads={c.heads} is not a multiple of kv_heads={c.kv_heads}",
      "grouped-query attention shares each key head among heads/kv_heads",
      f"set kv_heads to a divisor of {c.heads}",
    )
  if c.rope_theta is not None and c.head_dim % 2:
    raise errors.UserError(
      f"model.head_dim={c.head_dim} is odd",
      "RoPE rotates pairs of components",
      "use an even head_dim",
    )
  if len(c.layer_kinds) != c.layers or set(c.layer_kinds) - {"global", "local"}:
    raise errors.UserError(
      f"model.layer_kinds={c.layer_kinds} does not describe {c.layers} layers",
      "each layer is 'global' or 'local'",
      "give one kind for each layer, or () for all global",
    )
  if "local" in c.layer_kinds and not c.window:
    raise errors.UserError(
      f"local layers with window={c.window}",
      "a local layer sees only the last `window` keys",
      "set model.window to a positive number",
    )
  choices = {
    "norm": ("rms", "layer"),
    "activation": ("silu", "gelu_tanh"),
    "remat": ("none", "dots", "full"),
    "dtype": ("float32", "bfloat16"),
    "param_dtype": ("float32", "bfloat16"),
  }
  for name, allowed in choices.items():
    if getattr(c, name) not in allowed:
      raise errors.UserError(
        f"model.{name}={getattr(c, name)!r} is unknown",
        f"it is one of {', '.join(allowed)}",
        f"set model.{name} to one of them",
      )
