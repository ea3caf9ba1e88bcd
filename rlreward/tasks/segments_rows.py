"""Answers made of segments to arrays: pairs from trees or independent, pools.

Token 0 is the prompt and the padding, 1 the stop token, 2 + K d + k the segment
of type k at place d. What a segment earns depends on its place too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlreward.ops import prefix_tree

EOS, FIRST = 1, 2
SPLITS = ("fine", "independent")  # of held-out pairs
POOLS = ("leaves", "near")  # what follows them: answers to choose from
POOL = 32  # answers of a pool
Batch = dict[str, np.ndarray]


def gold(c: Mapping[str, Any]) -> np.ndarray:
  """f32[D, K]: what each type of segment earns at each place, N(0, 1).

  Args:
    c: all fields of `segments.defaults`.
  """
  rng = np.random.default_rng([c["world"], 7])
  return rng.normal(size=(c["depth"], c["types"])).astype(np.float32)


def value(c: Mapping[str, Any], answers: np.ndarray) -> np.ndarray:
  """f32[...]: gold of answers i32[..., D]; a segment left out (-1) earns 0."""
  table, place = gold(c), np.arange(c["depth"])
  kind = answers - FIRST - place * c["types"]
  return np.where(answers >= 0, table[place, np.maximum(kind, 0)], 0).sum(-1)


def uniform(c: Mapping[str, Any], size: tuple[int, ...], rng) -> np.ndarray:
  """i32[*size, D]: independent answers of the policy."""
  place = np.arange(c["depth"])
  kind = rng.integers(0, c["types"], (*size, c["depth"]))
  return (FIRST + place * c["types"] + kind).astype(np.int32)


@functools.partial(jax.jit, static_argnames=("places", "branch", "types"))
def _trees(keys, places: range, branch: int, types: int) -> jax.Array:
  """i32[n, B^D, D]: for each key a tree of the segments at D places."""

  def segment(key, prefix, level):
    del prefix
    low = FIRST + places[level] * types
    return jax.random.randint(key, (1,), low, low + types)

  prompt = jnp.zeros(0, jnp.int32)
  grow = lambda k: prefix_tree.prefix_tree_sample(
    k, segment, prompt, len(places), branch, 1
  )[0]
  return jax.vmap(grow)(keys)


@functools.partial(jax.jit, static_argnames=("n",))
def _leaf_pairs(keys, trees, n: int) -> jax.Array:
  tree_id = jnp.zeros(trees.shape[1], jnp.int32)
  draw = lambda k, x: prefix_tree.leaf_pairs(k, x, n, tree_id)
  return jax.vmap(draw)(keys, trees)


def _keys(rng, n: int):
  return jax.random.split(jax.random.key(int(rng.integers(2**31))), n)


def sampled(c: Mapping[str, Any], rng) -> np.ndarray:
  """All training pairs of a seed: i32[prompts * pairs_per_prompt, 2, D].

    tree   one full binary tree of each prompt, pairs of its leaves
    chain  2 independent answers for each pair

  With `text` "partial" both are cut after the same number of segments, at
  least one of which differs; the rest is -1.

  Args:
    c: all fields of `segments.defaults`.
    rng: numpy generator.
  """
  prompts, each, depth = c["prompts"], c["pairs_per_prompt"], c["depth"]
  if c["pairs"] == "chain":
    found = uniform(c, (prompts * each, 2), rng)
  else:
    trees = _trees(_keys(rng, prompts), range(depth), c["branch"], c["types"])
    rows = np.asarray(_leaf_pairs(_keys(rng, prompts), trees, each))
    found = np.take_along_axis(
      np.asarray(trees)[:, None], rows[..., None], 2
    ).reshape(-1, 2, depth)
    found = found[(rows >= 0).all(-1).reshape(-1)]  # hardly ever too few
  if c["text"] == "partial":
    equal = found[:, 0] == found[:, 1]
    shared = np.cumprod(equal, 1).sum(1)
    kept = rng.integers(np.minimum(shared + 1, depth), depth + 1)
    found = np.where(
      np.arange(depth) < kept[:, None, None], found, np.int32(-1)
    )
  return found


def labelled(c: Mapping[str, Any], pairs: np.ndarray, rng) -> np.ndarray:
  """Pairs with the preferred answer first.

    A is preferred where r(A) - r(B) + Logistic(0, s) > 0,
    s = noise + load * (segments that differ)

  The annotator has more to weigh where more differs. Of a share `shuffled` of
  the pairs the label is a coin.

  Args:
    c: all fields of `segments.defaults`.
    pairs: i32[n, 2, D].
    rng: numpy generator.
  """
  lead = value(c, pairs[:, 0]) - value(c, pairs[:, 1])
  differ = (pairs[:, 0] != pairs[:, 1]).sum(-1)
  scale = c["noise"] + c["load"] * differ
  first = lead + scale * rng.logistic(size=len(pairs)) > 0
  coin = rng.random((2, len(pairs)))
  first = np.where(coin[0] < c["shuffled"], coin[1] < 0.5, first)
  return np.where(first[:, None, None], pairs, pairs[:, ::-1])


def rows(answers: np.ndarray) -> Batch:
  """`tokens`, `attend`, `loss` [n, 1 + D + 1]: prompt, answer, stop, padding.

  Args:
    answers: i32[n, D], -1 from the first segment that is left out.
  """
  size, depth = answers.shape
  tokens = np.zeros((size, depth + 2), np.int32)
  tokens[:, 1:-1] = np.maximum(answers, 0)
  length = (answers >= 0).sum(1)
  tokens[np.arange(size), 1 + length] = EOS
  attend = np.arange(depth + 2) <= 1 + length[:, None]
  loss = attend & (np.arange(depth + 2) > 0)
  return {"tokens": tokens, "attend": attend, "loss": loss}


def paired(pairs: np.ndarray) -> Batch:
  """Rows of n pairs, the preferred first, and `strength` f32[2n]."""
  out = rows(pairs.reshape(-1, pairs.shape[-1]))
  return {**out, "strength": np.ones(len(out["tokens"]), np.float32)}


def held_out(c: Mapping[str, Any], size: int, rng) -> Batch:
  """`size` pairs without noise, about half of their rows in the form of pools.

  Columns beside those of `paired`: `split` i32[2 size], the place in SPLITS (a
  pair that differs in the last segment alone, or two independent answers), or
  in POOLS after those; `gold` f32[2 size]; `valid` bool[2 size], false for
  pools, which are no pairs. Pools come last, POOL rows each and as many of one
  kind as of the other, size // POOL in all or one less.

  Args:
    c: all fields of `segments.defaults`.
    size: pairs.
    rng: numpy generator.
  """
  each = size // (2 * POOL)  # pools of a kind
  left = size - each * POOL
  fine = uniform(c, (left // 2,), rng)
  other = fine.copy()
  last, types = other[:, -1], c["types"]
  low = FIRST + (c["depth"] - 1) * types
  step = rng.integers(1, types, len(fine))
  other[:, -1] = low + (last - low + step) % types
  pairs = np.concatenate(
    [np.stack([fine, other], 1), uniform(c, (left - left // 2, 2), rng)]
  )
  better = value(c, pairs[:, 0]) > value(c, pairs[:, 1])
  pairs = np.where(better[:, None, None], pairs, pairs[:, ::-1])
  whole = [pairs.reshape(-1, c["depth"])]
  if each:
    whole += [pools(c, each, shared, rng) for shared in (0, c["depth"] // 2)]
  answers = np.concatenate(whole)
  counts = [left // 2 * 2, (left - left // 2) * 2, each * POOL, each * POOL]
  split = np.repeat(np.arange(4), counts).astype(np.int32)
  return {
    **paired(answers.reshape(size, 2, -1)),
    "split": split,
    "gold": value(c, answers).astype(np.float32),
    "valid": split < len(SPLITS),
  }


def pools(c: Mapping[str, Any], count: int, shared: int, rng) -> np.ndarray:
  """i32[count * POOL, D]: answers of one tree each, in random order.

  They are random leaves of the narrowest tree with twice as many (3 branches
  for 4 segments), that begins after `shared` segments which all have.

  Args:
    c: all fields of `segments.defaults`.
    count: pools.
    shared: segments from 0 to D - 1.
    rng: numpy generator.
  """
  depth = c["depth"]
  places = range(shared, depth)
  wide = math.ceil((2 * POOL) ** (1 / len(places)))
  trees = np.asarray(_trees(_keys(rng, count), places, wide, c["types"]))
  order = rng.permuted(np.tile(np.arange(trees.shape[1]), (count, 1)), axis=1)
  drawn = np.take_along_axis(trees, order[:, :POOL, None], 1)
  begun = uniform(c, (count, 1), rng)[..., :shared]
  begun = np.broadcast_to(begun, (count, POOL, shared))
  return np.concatenate([begun, drawn], 2).reshape(-1, depth)
