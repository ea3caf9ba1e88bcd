"""One nano model and one on-device task, shared to compile once."""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from rlreward import registry
from rlreward.types import Score, Task

REPO = pathlib.Path(__file__).resolve().parent.parent
V, B, G, P, T = 16, 4, 4, 6, 5
STOP_ID = 3


def config(**changes):
  """The nano config; names with __ reach into sections."""
  sys.path.insert(0, str(REPO))
  from configs import common

  c = common.base()
  c.prompts_per_step, c.samples_per_prompt, c.steps = B, G, 8
  c.sampling.max_new_tokens = T
  c.model.update(
    vocab=V, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp=24
  )
  # A large eps makes Adam linear in the gradient: differences stay readable.
  c.optimizer.update(learning_rate=100.0, eps=1e3, clip_norm=0.0)
  for name, value in changes.items():
    node, *rest = name.split("__")
    target, last = c, node
    for part in rest:
      target, last = target[last], part
    with c.unlocked():
      target[last] = value
  return c


def even_share(rollout, batch):
  """Share of even ids among the actions; always valid."""
  del batch
  action = rollout.action
  even = jnp.sum((rollout.tokens % 2 == 0) & action, 1)
  value = even / jnp.maximum(jnp.sum(action, 1), 1)
  return Score(value, jnp.ones(value.shape, bool), None, {"even": value})


def in_parts(rollout, batch):
  """Named parts in [0, 1] from the shares of even, low and third ids."""
  del batch
  act = rollout.action
  share = lambda x: jnp.sum(x & act, 1) / jnp.maximum(jnp.sum(act, 1), 1)
  even, low, third = (
    share(x)
    for x in (
      rollout.tokens % 2 == 0,
      rollout.tokens < V // 2,
      rollout.tokens % 3 == 0,
    )
  )
  names = ("format", "syntax", "schema", "ngram", "fine")
  parts = dict(zip(names, (even, low, third, even * low, 2 * third - 1),
                   strict=True))  # fmt: skip
  parts["execution"] = (even > 0.5).astype(jnp.float32)
  return Score(even, jnp.ones(even.shape, bool), None, parts)


def task(reward=even_share, **spec):
  """A task with random prompts and a reward on the device."""
  facts = {
    "vocab_size": V,
    "prompt_length": P,
    "stop_ids": (STOP_ID,),
    "pad_id": STOP_ID,
    "on_device": True,
    "tokenizer": None,
  }
  return Task(batches, reward, reward, {**facts, **spec})


def batches(split, size, seed):
  """Endless random prompts of ragged length; pad and stop ids inside."""
  rng = np.random.default_rng([seed, split == "test"])
  while True:
    yield batch(size, rng)


def batch(size=B, rng=None):
  """Prompts i32[size, P] with 1 to P real tokens at the right end."""
  rng = rng or np.random.default_rng(0)
  length = rng.integers(2, P + 1, size)
  return {
    "prompt": jnp.asarray(rng.integers(0, V, (size, P)), jnp.int32),
    "prompt_mask": jnp.asarray(np.arange(P)[None] >= P - length[:, None]),
  }


@functools.cache
def method(algorithm="grpo", **changes):
  """A method of the nano config, built once for each set of changes."""
  return registry.algorithm(algorithm).make(config(**changes), task())


def start(method, seed=0):
  """A State; copied by the caller's update, so make a new one each time."""
  return jax.jit(method.init)(jax.random.key(seed))


def gap(a, b):
  """Largest difference between two trees."""
  diff = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b)
  return max(jax.tree.leaves(diff))
