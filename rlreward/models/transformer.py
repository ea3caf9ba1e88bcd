"""One Linen decoder for Llama, Qwen, Mistral, Gemma and GPT-2 shapes.

Its calls share one block. `hidden` is the full causal pass. `together` runs
prompts and their completions as one packed pass, in which the G completions of
a prompt read its keys and it is computed once: training and scoring use it.
`prefill` keeps the keys of prompts and `decode` continues them with an explicit
cache: the sampler uses those. In all of them row n of N = B * G belongs to
prompt n // G, and prompt keys are never copied to the rows.
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


# How the scan over layers hands on its inputs: views to all, kinds one by one.
AXES: Any = (nn.broadcast, 0)


class Prefix(NamedTuple):
  """Keys and values of B prompts, shared by the rows that continue them.

  Attributes:
    k: [B, K, P, head_dim] of each layer.
    v: the same.
    attend: bool[B, P].
    position: i32[B, P].
  """

  k: tuple[Array, ...]
  v: tuple[Array, ...]
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
    hidden: (variables, tokens i32[N, L], attend bool[N, L], segment i32[N, L]
      or None) -> [N, L, D]; tokens see those of their own segment alone.
    logits: the same -> f32[N, L, V].
    prefill: (variables, tokens i32[B, P], attend) -> ([B, P, D], Prefix).
    together: (variables, prompt i32[B, P], its attend, tokens i32[N, T], their
      attend) -> ([B, P, D], [N, T, D]); each prompt is computed once.
    unstack: variables -> variables with a subtree for each layer, for `decode`.
    decode: (unstacked, tokens i32[N, T], attend, Prefix, Cache, index) ->
      ([N, T, D], Cache); writes slots index .. index + T, of each row its own
      where index is i32[N].
    head: variables -> kernel [D, V].
    score: (variables, hidden [..., D]) -> f32[..., K] by the `score` head.
    logical_axes: () -> the tree of `init` with tuples of logical axis names.
  """

  config: TransformerConfig
  init: Callable[..., Variables]
  hidden: Callable[..., Array]
  logits: Callable[..., Array]
  prefill: Callable[..., tuple[Array, Prefix]]
  together: Callable[..., tuple[Array, Array]]
  unstack: Callable[[Variables], Variables]
  decode: Callable[..., tuple[Array, Cache]]
  head: Callable[[Variables], Array]
  score: Callable[[Variables, Array], Array]
  logical_axes: Callable[[], Any]


class Decoder(nn.Module):
  """Embedding, blocks, final norm; layers scanned or laid out one by one."""

  config: TransformerConfig
  stacked: bool = True

  @nn.compact
  def __call__(
    self, tokens, position, views, past=None, cache=None, index=None, keep=False
  ):
    c = self.config
    x = layers.Embed(c, c.vocab, name="embed")(tokens)
    if c.embed_scale != 1.0:
      x = x * jnp.asarray(c.embed_scale, x.dtype)
    if c.learned_positions:
      table = layers.Embed(c, c.learned_positions, None, name="positions")
      x = x + table(jnp.minimum(position, c.learned_positions - 1))
    x = mesh_lib.constrain(x, mesh_lib.DATA)
    if self.stacked:
      x, kv = self._scan(x, views, keep)
    else:
      x, kv = self._loop(x, views, past, cache, index)
    return layers.Norm(c, c.width, name="final_norm")(x), kv

  def _block(self):
    if self.config.remat == "none":
      return layers.Block
    policy = {
      "full": jax.checkpoint_policies.nothing_saveable,
      "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    }[self.config.remat]
    return nn.remat(layers.Block, policy=policy, prevent_cse=False)

  def _scan(self, x, views, keep):
    c = self.config
    kinds = sorted(views)
    kind = jnp.asarray([kinds.index(k) for k in c.layer_kinds])
    scan = nn.scan(
      self._block(),
      variable_axes={"params": 0, "lora": 0},
      split_rngs={"params": True},
      in_axes=AXES,
      length=c.layers,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    block = scan(c, keep=keep, name="layers")
    return block(x, tuple(views[k] for k in kinds), kind)

  def _loop(self, x, views, past, cache, index):
    keys, values = [], []
    for i, kind in enumerate(self.config.layer_kinds):
      block: Any = layers.Block(self.config, keep=True, name=f"layers_{i}")
      shared = None if past is None else (past.k[i], past.v[i])
      own = None if cache is None else (cache.k[i], cache.v[i], index)
      x, kv = block(x, (views[kind],), None, shared, own)
      keys.append(kv[0])
      values.append(kv[1])
    return x, (tuple(keys), tuple(values))


def positions(attend: Array, segment: Array | None = None) -> Array:
  """Position of each slot from its mask: cumsum(attend) - 1, at least 0.

  Args:
    attend: bool[N, L].
    segment: i32[N, L]; positions begin again where it changes.
  """
  place = jnp.cumsum(attend, -1, dtype=jnp.int32) - 1
  if segment is not None:
    fresh = segment[:, 1:] != segment[:, :-1]
    starts = jnp.pad(fresh, [(0, 0), (1, 0)], constant_values=True)
    # Tokens before the slot: the place of its segment's first token.
    first = jnp.where(starts, place - attend.astype(jnp.int32) + 1, 0)
    place = place - jax.lax.cummax(first, axis=1)
  return jnp.maximum(place, 0)


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
    tree = stacked.init(trunk, row, row, causal_views(row, row == 0))["params"]
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

  def views(make):
    return {kind: make(kind) for kind in sorted(set(config.layer_kinds))}

  def causal_views(position, attend, segment=None):
    return views(
      lambda kind: layers.View(
        *layers.rotation(config, kind, position),
        layers.causal(config, kind, position, attend, position, segment),
      )
    )

  def hidden(variables, tokens, attend, segment=None):
    position = positions(attend, segment)
    see = causal_views(position, attend, segment)
    return stacked.apply(variables, tokens, position, see)[0]

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
    see = causal_views(position, attend)
    x, (k, v) = stacked.apply(variables, tokens, position, see, keep=True)
    split = lambda z: tuple(z[i] for i in range(config.layers))
    return x, Prefix(split(k), split(v), attend, position)

  def together(variables, prompt, prompt_attend, tokens, attend):
    b, p = prompt.shape
    before = positions(prompt_attend)
    length = jnp.sum(prompt_attend, -1, dtype=jnp.int32)
    after = (
      positions(attend) + jnp.repeat(length, tokens.shape[0] // b)[:, None]
    )
    pack = lambda x, y: jnp.concatenate([x, y.reshape(b, -1)], 1)
    position = pack(before, after)
    see = views(
      lambda kind: layers.View(
        *layers.rotation(config, kind, position),
        layers.causal(config, kind, after, attend, after),
        layers.past_mask(config, kind, after, prompt_attend, before),
        layers.causal(config, kind, before, prompt_attend, before),
      )
    )
    x, _ = stacked.apply(variables, pack(prompt, tokens), position, see)
    return x[:, :p], x[:, p:].reshape(*tokens.shape, -1)

  def decode(variables, tokens, attend, prefix, cache, index):
    before = jnp.sum(cache.attend, -1, keepdims=True, dtype=jnp.int32)
    g = tokens.shape[0] // prefix.attend.shape[0]
    before += jnp.repeat(prefix.length, g)[:, None]
    position = before + positions(attend)
    put = lambda old, new: layers.write(old, new, index, 1)
    own = (put(cache.attend, attend), put(cache.position, position))
    see = views(
      lambda kind: layers.View(
        *layers.rotation(config, kind, position),
        layers.causal(config, kind, position, *own),
        layers.past_mask(
          config, kind, position, prefix.attend, prefix.position
        ),
      )
    )
    out: Any = flat.apply(
      variables, tokens, position, see, prefix, cache, index
    )
    return out[0], Cache(out[1][0], out[1][1], *own)

  def unstack(variables):
    return {name: _unstack(tree) for name, tree in variables.items()}

  def score(variables, x):
    kernel = variables["params"]["score"]["kernel"]
    return (x @ kernel.astype(x.dtype)).astype(jnp.float32)

  def logical_axes():
    shapes = jax.eval_shape(boxed, jax.random.key(0))
    specs = nn.get_partition_spec(shapes)
    leaf = lambda x: not isinstance(x, dict)
    return jax.tree.map(tuple, specs, is_leaf=leaf)

  return Model(
    config=config,
    init=init,
    hidden=hidden,
    logits=logits,
    prefill=prefill,
    together=together,
    unstack=unstack,
    decode=decode,
    head=head,
    score=score,
    logical_axes=logical_axes,
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


def _unstack(tree):
  if "layers" not in tree:
    return tree
  out = {k: v for k, v in tree.items() if k != "layers"}
  count = jax.tree.leaves(tree["layers"])[0].shape[0]
  for i in range(count):
    out[f"layers_{i}"] = jax.tree.map(lambda x, i=i: x[i], tree["layers"])
  return out
