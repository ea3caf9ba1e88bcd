"""One Linen decoder for Llama, Qwen, Mistral, Gemma and GPT-2 shapes.

Three calls share all of its code. `hidden` is the full causal pass. `prefill`
is the same pass over prompts and keeps keys and values. `extend` runs
completions on top of prompts that were prefilled once: row n of N reads the
prompt keys of row n // (N / B), which are never copied. Training, scoring and
sampling all use `extend`; a decode step is `extend` of one token with a cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlreward.models import layers
from rlreward.models.config import TransformerConfig
from rlreward.ops import mesh as mesh_lib

Array = jax.Array
Variables = Any


class Prefix(NamedTuple):
  """Keys and values of B prompts, shared by the rows that continue them.

  Attributes:
    k: [layers, B, K, P, head_dim], or a tuple of arrays without layer axis.
    v: the same.
    attend: bool[B, P].
    position: i32[B, P].
  """

  k: Any
  v: Any
  attend: Array
  position: Array

  @property
  def length(self) -> Array:
    """i32[B], number of real tokens of each prompt."""
    return jnp.sum(self.attend, -1, dtype=jnp.int32)


class Cache(NamedTuple):
  """Keys and values of the rows' own tokens: a tuple of [N, K, S, head_dim].

  Attributes:
    k: keys of each layer.
    v: values of each layer.
    attend: bool[N, S], written slots that hold real tokens.
    position: i32[N, S].
  """

  k: tuple[Array, ...]
  v: tuple[Array, ...]
  attend: Array
  position: Array


class Model(NamedTuple):
  """A decoder as pure functions of its variables.

  `variables` is {"params": tree}, with {"lora": tree} beside it for adapters.

  Attributes:
    config: the shape.
    init: key -> variables.
    hidden: (variables, tokens i32[N, L], attend bool[N, L]) -> [N, L, D].
    logits: the same -> f32[N, L, V].
    prefill: (variables, tokens i32[B, P], attend) -> ([B, P, D], Prefix).
    extend: (variables, tokens i32[N, T], attend, Prefix) -> [N, T, D].
    unstack: variables -> variables with a subtree for each layer, for `decode`.
    decode: (unstacked, tokens i32[N, T], attend, Prefix, Cache, index) ->
      ([N, T, D], Cache); writes slots index .. index + T.
    head: variables -> kernel [D, V].
    score: (variables, hidden [..., D]) -> f32[..., K] by the `score` head.
  """

  config: TransformerConfig
  init: Callable[..., Variables]
  hidden: Callable[..., Array]
  logits: Callable[..., Array]
  prefill: Callable[..., tuple[Array, Prefix]]
  extend: Callable[..., Array]
  unstack: Callable[[Variables], Variables]
  decode: Callable[..., tuple[Array, Cache]]
  head: Callable[[Variables], Array]
  score: Callable[[Variables, Array], Array]


class Decoder(nn.Module):
  """Embedding, blocks, final norm; layers scanned or laid out one by one."""

  config: TransformerConfig
  stacked: bool = True

  @nn.compact
  def __call__(
    self,
    tokens,
    attend,
    position,
    prefix=None,
    cache=None,
    index=None,
    collect=False,
  ):
    c = self.config
    x = layers.Embed(c, c.vocab, name="embed")(tokens)
    if c.embed_scale != 1.0:
      x = x * jnp.asarray(c.embed_scale, x.dtype)
    if c.learned_positions:
      table = layers.Embed(c, c.learned_positions, None, name="positions")
      x = x + table(jnp.minimum(position, c.learned_positions - 1))
    x = mesh_lib.constrain(x, mesh_lib.DATA)
    if cache is None:
      own = (attend, position)
    else:
      put = lambda old, new: jax.lax.dynamic_update_slice(
        old, new.astype(old.dtype), (0, index)
      )
      own = (put(cache.attend, attend), put(cache.position, position))
    views = {
      kind: layers.view(c, kind, position, own, prefix)
      for kind in sorted(set(c.layer_kinds))
    }
    if self.stacked:
      x, kv = self._scan(x, views, prefix, collect)
    else:
      x, kv = self._loop(x, views, prefix, cache, index)
    x = layers.Norm(c, c.width, name="final_norm")(x)
    return x, kv, own

  def _block(self):
    if self.config.remat == "none":
      return layers.Block
    policy = {
      "full": jax.checkpoint_policies.nothing_saveable,
      "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    }[self.config.remat]
    return nn.remat(layers.Block, policy=policy, prevent_cse=not self.stacked)

  def _scan(self, x, views, prefix, collect):
    c = self.config
    kinds = sorted(views)
    kind = jnp.asarray([kinds.index(k) for k in c.layer_kinds])
    scan = nn.scan(
      self._block(),
      variable_axes={"params": 0, "lora": 0},
      split_rngs={"params": True},
      in_axes=(nn.broadcast, 0, nn.broadcast if prefix is None else 0),
      length=c.layers,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    past = None if prefix is None else (prefix.k, prefix.v)
    block = scan(c, collect=collect, name="layers")
    return block(x, tuple(views[k] for k in kinds), kind, past)

  def _loop(self, x, views, prefix, cache, index):
    keys, values = [], []
    for i, kind in enumerate(self.config.layer_kinds):
      block = self._block()(self.config, collect=True, name=f"layers_{i}")
      past = None if prefix is None else (prefix.k[i], prefix.v[i])
      own = None if cache is None else (cache.k[i], cache.v[i], index)
      x, (k, v) = block(x, (views[kind],), None, past, own)
      keys.append(k)
      values.append(v)
    return x, (tuple(keys), tuple(values))


def positions(attend: Array) -> Array:
  """Position of each slot from its mask: cumsum(attend) - 1, at least 0."""
  return jnp.maximum(jnp.cumsum(attend, -1, dtype=jnp.int32) - 1, 0)


def empty_cache(model: Model, rows: int, slots: int, dtype: str) -> Cache:
  """A cache with room for `slots` tokens of each of `rows` rows."""
  c = model.config
  zeros = lambda: mesh_lib.constrain(
    jnp.zeros((rows, c.kv_heads, slots, c.head_dim), jnp.dtype(dtype)),
    mesh_lib.DATA,
    mesh_lib.TENSOR,
  )
  return Cache(
    k=tuple(zeros() for _ in range(c.layers)),
    v=tuple(zeros() for _ in range(c.layers)),
    attend=jnp.zeros((rows, slots), bool),
    position=jnp.zeros((rows, slots), jnp.int32),
  )


def build(config: TransformerConfig) -> Model:
  """Pure functions for a decoder of the given shape."""
  stacked = Decoder(config, stacked=True)
  flat = Decoder(config, stacked=False)

  def boxed(key):
    trunk, head, score = jax.random.split(key, 3)
    row = jnp.zeros((1, 1), jnp.int32)
    tree = stacked.init(trunk, row, row == 0, row)["params"]
    dtype = jnp.dtype(config.param_dtype)
    normal = nn.initializers.normal(config.width**-0.5)
    extra = {}
    if not config.tied:
      extra["head"] = (head, config.vocab, "vocab")
    if config.outputs:
      extra["score"] = (score, config.outputs, None)
    for name, (k, size, axis) in extra.items():
      init = nn.with_logical_partitioning(normal, ("embed", axis))
      tree[name] = {"kernel": init(k, (config.width, size), dtype)}
    return {"params": tree}

  def init(key):
    return nn.meta.unbox(boxed(key))

  def hidden(variables, tokens, attend):
    return stacked.apply(variables, tokens, attend, positions(attend))[0]

  def head(variables):
    params = variables["params"]
    if config.tied:
      return params["embed"]["embedding"].T
    return params["head"]["kernel"]

  def logits(variables, tokens, attend):
    x = hidden(variables, tokens, attend)
    return logits_of(config, x, head(variables))

  def prefill(variables, tokens, attend):
    position = positions(attend)
    unstacked = "layers" not in variables["params"]
    module = flat if unstacked else stacked
    x, (k, v), _ = module.apply(
      variables, tokens, attend, position, collect=True
    )
    return x, Prefix(k, v, attend, position)

  def extend(variables, tokens, attend, prefix):
    position = _after(prefix, positions(attend))
    return stacked.apply(variables, tokens, attend, position, prefix)[0]

  def decode(variables, tokens, attend, prefix, cache, index):
    before = jnp.sum(cache.attend, -1, keepdims=True, dtype=jnp.int32)
    position = _after(prefix, before + positions(attend))
    x, (k, v), own = flat.apply(
      variables, tokens, attend, position, prefix, cache, index
    )
    return x, Cache(k, v, *own)

  def unstack(variables):
    return {name: _unstack(tree) for name, tree in variables.items()}

  def score(variables, x):
    kernel = variables["params"]["score"]["kernel"]
    return (x @ kernel.astype(x.dtype)).astype(jnp.float32)

  return Model(
    config, init, hidden, logits, prefill, extend, unstack, decode, head, score
  )


def logits_of(config: TransformerConfig, x: Array, kernel: Array) -> Array:
  """f32 logits of hidden states, soft-capped where the family does so.

  Args:
    config: the decoder's shape.
    x: [..., D], hidden states after the final norm.
    kernel: [D, V].
  """
  z = jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)
  cap = config.final_softcap
  return z if cap is None else cap * jnp.tanh(z / cap)


def logical_axes(config: TransformerConfig) -> dict[str, Any]:
  """Logical axis names of every parameter, in the tree of `init`."""
  stacked = Decoder(config, stacked=True)
  row = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
  shapes = jax.eval_shape(stacked.init, jax.random.key(0), row, mask, row)
  specs = nn.get_partition_spec(shapes)["params"]
  axes = jax.tree.map(tuple, specs, is_leaf=lambda x: not isinstance(x, dict))
  if not config.tied:
    axes["head"] = {"kernel": ("embed", "vocab")}
  if config.outputs:
    axes["score"] = {"kernel": ("embed", None)}
  return {"params": axes}


def _after(prefix: Prefix, own: Array) -> Array:
  """Positions of own tokens that come after their prompts."""
  n, b = own.shape[0], prefix.attend.shape[0]
  return own + jnp.repeat(prefix.length, n // b)[:, None]


def _unstack(tree):
  if "layers" not in tree:
    return tree
  out = {k: v for k, v in tree.items() if k != "layers"}
  count = jax.tree.leaves(tree["layers"])[0].shape[0]
  for i in range(count):
    out[f"layers_{i}"] = jax.tree.map(lambda x, i=i: x[i], tree["layers"])
  return out
