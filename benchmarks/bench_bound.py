"""The same workload by hand in plain JAX: what XLA can be expected to reach.

usage: python benchmarks/bench_bound.py {S|M} {steady|first}

A decoder as a dict of arrays, one program that samples with a cache, one that
scores, one for loss, gradient and Adam. No masks of real tokens, no metrics, no
options: every row is full. Each prompt is prefilled once per group, but scored
and trained once per row.
"""

from __future__ import annotations

import functools
import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent.parent)]

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import workload

Array = jax.Array
NOTES = {
  "generate": "one jitted program, prompts prefilled once per group",
  "score": "one jitted program, every row in full",
  "update": "clip + k3 to given reference log-probs, gradient, Adam, one"
  " jitted program that donates",
  "grpo_step": "sample, reference, reward and advantage in NumPy, update",
  "first_step_s": "process start to the end of one grpo_step",
}


def init(size: workload.Size, seed: int = 0) -> dict:
  """Random weights, normal with deviation 0.02."""
  rng = np.random.default_rng(seed)
  draw = lambda *s: jnp.asarray(0.02 * rng.standard_normal(s, np.float32))
  d, f = size.width, size.mlp

  def layer():
    return {
      "attn_norm": jnp.ones(d),
      "qkv": draw(d, 3 * d),
      "out": draw(d, d),
      "mlp_norm": jnp.ones(d),
      "gate_up": draw(d, 2 * f),
      "down": draw(f, d),
    }

  return {
    "embed": draw(size.vocab, d),
    "layers": [layer() for _ in range(size.layers)],
    "norm": jnp.ones(d),
    "head": draw(d, size.vocab),
  }


def rms(x: Array, scale: Array) -> Array:
  """x / rms(x) * scale."""
  return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * scale


def rotate(x: Array, position: Array) -> Array:
  """Rotary embedding of [N, H, L, head_dim] at positions [L]."""
  half = x.shape[-1] // 2
  angle = position[:, None] * 10000.0 ** (-jnp.arange(half) / half)
  c, s = jnp.cos(angle), jnp.sin(angle)
  a, b = x[..., :half], x[..., half:]
  return jnp.concatenate([a * c - b * s, b * c + a * s], -1)


def block(p, x: Array, position: Array, size: workload.Size, cache=None):
  """One layer.

  Args:
    p: its weights.
    x: [N, L, D].
    position: i32[L].
    size: the workload.
    cache: keys and values [N, H, S, head_dim], written at `position`; None
      attends to x itself.

  Returns:
    ([N, L, D], keys and values attended to).
  """
  n, length, d = x.shape
  qkv = rms(x, p["attn_norm"]) @ p["qkv"]
  qkv = qkv.reshape(n, length, 3, size.heads, size.head_dim)
  q, k, v = jnp.transpose(qkv, (2, 0, 3, 1, 4))
  q, k = rotate(q, position), rotate(k, position)
  if cache is not None:
    put = jax.lax.dynamic_update_slice_in_dim
    k, v = (
      put(old, new, position[0], 2)
      for old, new in zip(cache, (k, v), strict=True)
    )
  seen = jnp.arange(k.shape[2]) <= position[:, None]
  weight = jnp.einsum("nhqd,nhkd->nhqk", q, k) * size.head_dim**-0.5
  weight = jax.nn.softmax(jnp.where(seen, weight, -1e30), -1)
  mixed = jnp.einsum("nhqk,nhkd->nhqd", weight, v)
  x = x + mixed.transpose(0, 2, 1, 3).reshape(n, length, d) @ p["out"]
  gate, up = jnp.split(rms(x, p["mlp_norm"]) @ p["gate_up"], 2, -1)
  return x + (jax.nn.silu(gate) * up) @ p["down"], (k, v)


def forward(params, tokens: Array, size: workload.Size):
  """Final hidden states [N, L, D] and the keys and values of each layer."""
  x, kept = params["embed"][tokens], []
  position = jnp.arange(tokens.shape[1])
  for p in params["layers"]:
    x, kv = block(p, x, position, size)
    kept.append(kv)
  return rms(x, params["norm"]), kept


def logprobs(params, tokens: Array, size: workload.Size) -> Array:
  """Log-probs f32[N, T] of the completion tokens."""
  x, _ = forward(params, tokens, size)
  logits = x[:, size.prompt - 1 : -1] @ params["head"]
  chosen = tokens[:, size.prompt :, None]
  picked = jnp.take_along_axis(logits, chosen, -1)[..., 0]
  return picked - jax.nn.logsumexp(logits, -1)


def generate(params, prompt: Array, key: Array, size: workload.Size) -> Array:
  """Samples `group` rows of each prompt: i32[N, L]."""
  wide = lambda x: jnp.repeat(x, size.group, 0)
  x, kept = forward(params, prompt, size)
  room = ((0, 0), (0, 0), (0, size.new), (0, 0))
  cache = jax.tree.map(lambda z: jnp.pad(wide(z), room), kept)
  logits = wide(x[:, -1] @ params["head"])
  tokens = jnp.pad(wide(prompt), ((0, 0), (0, size.new)))

  def body(index, carry):
    tokens, cache, logits = carry
    draw = jax.random.categorical(jax.random.fold_in(key, index), logits)
    draw = draw.astype(tokens.dtype)[:, None]
    tokens = jax.lax.dynamic_update_slice_in_dim(tokens, draw, index, 1)
    x, new = params["embed"][draw], []
    for p, kv in zip(params["layers"], cache, strict=True):
      x, kv = block(p, x, index[None], size, kv)
      new.append(kv)
    return tokens, new, rms(x[:, 0], params["norm"]) @ params["head"]

  stop = size.prompt + size.new
  start = (tokens, cache, logits)
  return jax.lax.fori_loop(size.prompt, stop, body, start)[0]


def loss(params, tokens: Array, adv: Array, reference: Array, size) -> Array:
  """GRPO: clipped ratio and 0.04 k3, mean over all tokens (rows are full)."""
  logp = logprobs(params, tokens, size)
  ratio = jnp.exp(logp - jax.lax.stop_gradient(logp))
  adv = adv[:, None]
  gain = jnp.minimum(ratio * adv, jnp.clip(ratio, 0.8, 1.2) * adv)
  gap = reference - logp
  return jnp.mean(0.04 * (jnp.exp(gap) - gap - 1) - gain)


def adam(params, grads, state):
  """Adam with rate 1e-5; state is (first moment, second moment, count)."""
  m, v, count = state
  count = count + 1
  m = jax.tree.map(lambda a, g: 0.9 * a + 0.1 * g, m, grads)
  v = jax.tree.map(lambda a, g: 0.999 * a + 0.001 * g * g, v, grads)
  rate = 1e-5 * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
  move = lambda p, a, b: p - rate * a / (jnp.sqrt(b) + 1e-8)
  return jax.tree.map(move, params, m, v), (m, v, count)


def advantages(tokens: Array, size: workload.Size) -> Array:
  """Share of even ids among the new tokens, normalised in each group."""
  even = np.asarray(tokens)[:, size.prompt :] % 2 == 0
  r = even.mean(-1).reshape(-1, size.group)
  r = r - r.mean(-1, keepdims=True)
  r = r / (r.std(-1, ddof=1, keepdims=True) + 1e-6)
  return jnp.asarray(r.reshape(-1), jnp.float32)


def main(size: workload.Size, mode: str) -> None:
  """Runs one mode and prints the report."""
  report = workload.Report("bound", size, mode, NOTES)
  reference = init(size)
  zeros = lambda: jax.tree.map(jnp.zeros_like, reference)
  box = [init(size), (zeros(), zeros(), jnp.zeros(()))]
  shape = (size.prompts, size.prompt)
  prompt = np.random.default_rng(1).integers(1, size.vocab, shape, np.int32)
  prompt = jnp.asarray(prompt)
  sample = jax.jit(functools.partial(generate, size=size))
  score = jax.jit(functools.partial(logprobs, size=size))

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def update(params, state, tokens, adv, ref):
    value, grads = jax.value_and_grad(loss)(params, tokens, adv, ref, size)
    return *adam(params, grads, state), value

  count = [0]

  def run_sample() -> Array:
    count[0] += 1
    key = jax.random.key(count[0])
    return jax.block_until_ready(sample(box[0], prompt, key))

  def grpo_step() -> float:
    tokens = run_sample()
    ref = score(reference, tokens)
    *box[:], value = update(*box, tokens, advantages(tokens, size), ref)
    return float(value)

  if mode == "first":
    report.put("loss", grpo_step())
    report.put("first_step_s", workload.process_age())
    report.finish()
    return
  time = lambda fn: workload.measure(fn, size.reps)
  report.add("generate", time(run_sample), size.new_tokens)
  tokens = run_sample()
  run_score = lambda: jax.block_until_ready(score(reference, tokens))
  report.add("score", time(run_score), size.all_tokens)
  ref, adv = run_score(), advantages(tokens, size)

  def run_update() -> None:
    *box[:], _ = update(*box, tokens, adv, ref)
    jax.block_until_ready(box)

  report.add("update", time(run_update), size.all_tokens)
  report.add("grpo_step", time(grpo_step), size.new_tokens)
  report.finish()


if __name__ == "__main__":
  main(workload.SIZES[sys.argv[1]], sys.argv[2])
