"""Sampling as one compiled program: token ids in, a Rollout out.

Each prompt is prefilled once and its keys are read by all of its G samples
through the decoder's shared prefix, so they are never copied. The loop ends as
soon as every row has stopped. The log-prob that is recorded is that of the
untruncated distribution at the sampling temperature, which is the one that a
trainer can recompute; a Rollout carries how it was truncated, and trainers
refuse those.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from rlreward import errors
from rlreward.models import transformer
from rlreward.ops import logprob, mesh
from rlreward.types import LENGTH, STOP, Array, Rollout, Sampling

_NEG = -1e30
Variables = Any


@dataclasses.dataclass(frozen=True)
class Spec:
  """How to sample; hashable, a static argument of the compiled program.

  Attributes:
    max_new_tokens: T, completion slots.
    samples_per_prompt: G.
    temperature: logits are divided by it; 0 is greedy.
    top_k: keep the k likeliest tokens; 0 keeps all.
    top_p: keep the smallest set of mass >= p; 1 keeps all.
    min_p: keep tokens with probability >= min_p * the largest; 0 keeps all.
    min_new_tokens: stop ids cannot be drawn before this many tokens.
    stop_ids: ids that end a row; the stop id itself is part of the row.
    pad_id: written after the end; never read, since masks are carried.
    cache_dtype: type of keys and values.
  """

  max_new_tokens: int
  samples_per_prompt: int = 1
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  min_new_tokens: int = 0
  stop_ids: tuple[int, ...] = ()
  pad_id: int = 0
  cache_dtype: str = "float32"

  def __post_init__(self):
    _check(self)

  @property
  def truncated(self) -> bool:
    """Whether the distribution sampled from is not the model's own."""
    return bool(
      self.temperature == 0
      or self.top_k
      or self.top_p < 1
      or self.min_p
      or (self.min_new_tokens and self.stop_ids)
    )


def _check(s: Spec) -> None:
  rules = (
    ("max_new_tokens", s.max_new_tokens >= 1, "at least 1"),
    ("samples_per_prompt", s.samples_per_prompt >= 1, "at least 1"),
    ("temperature", 0 <= s.temperature < float("inf"), "0 or more"),
    ("top_k", s.top_k >= 0, "0 (off) or more"),
    ("top_p", 0 < s.top_p <= 1, "in (0, 1]"),
    ("min_p", 0 <= s.min_p < 1, "in [0, 1)"),
    (
      "min_new_tokens",
      0 <= s.min_new_tokens <= s.max_new_tokens,
      f"in [0, max_new_tokens={s.max_new_tokens}]",
    ),
    (
      "cache_dtype",
      s.cache_dtype in ("float32", "bfloat16"),
      "float32 or bfloat16",
    ),
    ("stop_ids", all(i >= 0 for i in s.stop_ids), "token ids, 0 or more"),
  )
  for name, good, want in rules:
    if not good:
      raise errors.UserError(
        f"sampling {name}={getattr(s, name)!r}",
        f"{name} must be {want}",
        f"set {name} to a value {want}",
      )


def truncate(logits: Array, spec: Spec) -> Array:
  """Logits at temperature 1 of the kept tokens; the others at -1e30.

  Filters apply in the order top-k, top-p, min-p, each on the renormalised
  result of the one before; the likeliest token always stays.

  Args:
    logits: f32[N, V], already divided by the temperature.
    spec: which filters are on.

  Returns:
    f32[N, V].

  Reference: nucleus sampling, arXiv 1904.09751; min-p, arXiv 2407.01082.
  """
  if 0 < spec.top_k < logits.shape[-1]:
    kth = jax.lax.top_k(logits, spec.top_k)[0][..., -1:]
    logits = jnp.where(logits < kth, _NEG, logits)
  if spec.top_p < 1:
    ranked = jnp.sort(logits, -1, descending=True)
    p = jax.nn.softmax(ranked, -1)
    kept = jnp.cumsum(p, -1) - p < spec.top_p
    edge = jnp.min(jnp.where(kept, ranked, jnp.inf), -1, keepdims=True)
    logits = jnp.where(logits < edge, _NEG, logits)
  if spec.min_p:
    top = logits.max(-1, keepdims=True)
    logits = jnp.where(logits < top + jnp.log(spec.min_p), _NEG, logits)
  return logits


def pick(logits: Array, key: Array, index, spec: Spec) -> tuple[Array, Array]:
  """Draws one token for each row and its log-prob.

  Args:
    logits: f32[N, V] of the model.
    key: key of this position.
    index: i32[], how many tokens each row already has, or i32[N, 1].
    spec: the distribution.

  Returns:
    (tokens i32[N], logp f32[N] at the sampling temperature, untruncated; at
    temperature 1 for greedy).
  """
  scaled = logits / (spec.temperature or 1.0)
  drawn = scaled
  if spec.min_new_tokens and spec.stop_ids:
    stops = jnp.zeros(logits.shape[-1], bool).at[jnp.array(spec.stop_ids)]
    early = index < spec.min_new_tokens
    drawn = jnp.where(stops.set(True) & early, _NEG, drawn)
  if spec.temperature == 0:
    token = jnp.argmax(drawn, -1)
  else:
    token = jax.random.categorical(key, truncate(drawn, spec))
  token = token.astype(jnp.int32)
  return token, logprob.logprob_from_logits(scaled, token)


def generate(
  model: transformer.Model,
  variables,
  prompt: Array,
  prompt_mask: Array,
  key: Array,
  spec: Spec,
  version: Array | int = 0,
  mixture: tuple[Variables, float] | None = None,
) -> Rollout:
  """Samples G completions of each prompt; call it under `jax.jit`.

  Args:
    model: the decoder.
    variables: its variables, stacked as `init` gives them.
    prompt: i32[B, P], left-padded.
    prompt_mask: bool[B, P].
    key: a key that no other call uses.
    spec: how to sample.
    version: step of the parameters, recorded in the Rollout.
    mixture: other variables of the same decoder and their share s: tokens are
      drawn from p^(1 - s) q^s / Z, and that is the log-prob recorded.

  Returns:
    Rollout of N = B * G rows and L = P + T slots.
  """
  b, p = prompt.shape
  g, t = spec.samples_per_prompt, spec.max_new_tokens
  n = b * g
  rows = lambda x: mesh.constrain(x, mesh.DATA)
  parties = [variables] if mixture is None else [variables, mixture[0]]
  flat = [model.unstack(tree) for tree in parties]
  kernels = [model.head(tree) for tree in parties]
  started = [
    model.prefill(tree, rows(prompt), rows(prompt_mask)) for tree in parties
  ]
  prefixes = [prefix for _, prefix in started]

  def draw(hidden, i):
    logits = [
      transformer.logits_of(model.config, x, kernel)
      for x, kernel in zip(hidden, kernels, strict=True)
    ]
    whole = logits[0]
    if mixture is not None:
      own, other = (jax.nn.log_softmax(z, -1) for z in logits)
      whole = (1 - mixture[1]) * own + mixture[1] * other
    return pick(whole, jax.random.fold_in(key, i), i, spec)

  def put(array, column, i):
    return jax.lax.dynamic_update_slice(array, column[:, None], (0, i))

  def stops(token):
    ids = jnp.asarray(spec.stop_ids, jnp.int32)
    return jnp.isin(token, ids) if spec.stop_ids else jnp.zeros(n, bool)

  token, logp = draw([jnp.repeat(x[:, -1], g, 0) for x, _ in started], 0)
  tokens = put(jnp.full((n, t), spec.pad_id, jnp.int32), rows(token), 0)
  logps = put(jnp.zeros((n, t), jnp.float32), rows(logp), 0)
  action = put(jnp.zeros((n, t), bool), jnp.ones(n, bool), 0)
  caches = [
    transformer.empty_cache(model, n, max(t - 1, 1), spec.cache_dtype)
    for _ in parties
  ]

  def more(carry):
    i, *_, done = carry
    return (i < t) & ~jnp.all(done)

  def step(carry):
    i, tokens, logps, action, caches, token, done = carry
    found = [
      model.decode(tree, token[:, None], ~done[:, None], prefix, cache, i - 1)
      for tree, prefix, cache in zip(flat, prefixes, caches, strict=True)
    ]
    caches = [cache for _, cache in found]
    token, logp = draw([x[:, 0] for x, _ in found], i)
    token = jnp.where(done, spec.pad_id, token)
    tokens = put(tokens, token, i)
    logps = put(logps, jnp.where(done, 0.0, logp), i)
    action = put(action, ~done, i)
    return i + 1, tokens, logps, action, caches, token, done | stops(token)

  start = (1, tokens, logps, action, caches, token, stops(token))
  _, tokens, logps, action, *_, done = jax.lax.while_loop(more, step, start)
  wide = lambda x: jnp.repeat(x, g, 0)
  none = jnp.zeros((n, p), bool)
  join = lambda a, b: rows(jnp.concatenate([a, b], 1))
  whole = join(none, action)
  return Rollout(
    tokens=join(wide(prompt), tokens),
    attend=join(wide(prompt_mask), action),
    action=whole,
    loss=whole,
    logp=join(jnp.zeros((n, p), jnp.float32), logps),
    group=jnp.arange(n, dtype=jnp.int32) // g,
    finish=jnp.where(done, STOP, LENGTH).astype(jnp.int32),
    version=jnp.asarray(version, jnp.int32),
    sampling=drawn_from(spec),
  )


def drawn_from(spec: Spec) -> Sampling:
  """What a Rollout says of the distribution that it was sampled from."""
  real = lambda x: jnp.asarray(x, jnp.float32)
  return Sampling(
    temperature=real(spec.temperature),
    top_p=real(spec.top_p),
    top_k=jnp.asarray(spec.top_k, jnp.int32),
    min_p=real(spec.min_p),
  )


@functools.cache
def sampler(model: transformer.Model, spec: Spec):
  """`generate` for one model and spec, compiled once for each prompt shape.

  Returns:
    (variables, prompt, prompt_mask, key, version) -> Rollout.
  """

  def sample(variables, prompt, prompt_mask, key, version=0):
    return generate(model, variables, prompt, prompt_mask, key, spec, version)

  return jax.jit(sample)
