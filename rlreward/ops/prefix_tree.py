"""Trees of answers that share their beginnings, and pairs of their leaves.

A node is an answer that is not yet complete; each has `branch` continuations of
one segment. Rows are in breadth-first order: node i has the children branch i +
1 .. branch i + branch, and leaves that share a beginning are neighbours.

Reference: Reward Generalization in RLHF: A Topological Perspective, 2402.10184.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rlreward.types import Array

# (key, prompt and segments so far i32[P + level S], level) -> i32[S].
StepFn = Callable[[Array, Array, int], Array]


def prefix_tree_sample(
  key: Array,
  step_fn: StepFn,
  prompt_P: Array,
  depth: int,
  branch: int,
  seg_len: int,
) -> tuple[Array, Array]:
  """Grows a full tree of answers from a prompt, one level after the other.

  The number of nodes is sum_l B^l with B = `branch`. A sampler may be hotter
  near the root: `level` counts from 0 and is known before compiling.

  Args:
    key: typed PRNG key.
    step_fn: draws one segment after a beginning, see `StepFn`; it is mapped
      over the nodes of a level.
    prompt_P: i32[P], may be empty.
    depth: D, segments of an answer, at least 1.
    branch: B, continuations of each node, at least 1.
    seg_len: S, tokens of a segment, at least 1.

  Returns:
    (leaves i32[B^D, D S], without the prompt; parents i32[nodes], the row of
    each node's parent in breadth-first order, -1 for the root).

  Raises:
    ValueError: a size below 1.
  """
  for name, size in (
    ("depth", depth),
    ("branch", branch),
    ("seg_len", seg_len),
  ):
    if size < 1:
      raise ValueError(f"{name} must be at least 1, got {size}")
  chex.assert_rank(prompt_P, 1)
  nodes = jnp.asarray(prompt_P, jnp.int32)[None]
  for level in range(depth):
    nodes = jnp.repeat(nodes, branch, 0)
    keys = jax.random.split(jax.random.fold_in(key, level), nodes.shape[0])
    grow = lambda k, x, level=level: step_fn(k, x, level)
    said = jax.vmap(grow)(keys, nodes)
    chex.assert_shape(said, (nodes.shape[0], seg_len))
    nodes = jnp.concatenate([nodes, said.astype(jnp.int32)], 1)
  count = sum(branch**level for level in range(depth + 1))
  parents = (np.arange(count) - 1) // branch
  return nodes[:, prompt_P.shape[0] :], jnp.asarray(parents, jnp.int32)


def leaf_pairs(key: Array, leaves_LxT: Array, n: int, tree_id_L: Array):
  """n different pairs of different answers of one tree, uniform over them.

  Two leaves with the same tokens are no pair: there is nothing to compare.
  Memory is L^2, so draw tree by tree (`jax.vmap`) where there are many.

  Args:
    key: typed PRNG key.
    leaves_LxT: i32, answers of one or more trees.
    n: pairs to draw, at most L^2.
    tree_id_L: i32, the tree of each.

  Returns:
    i32[n, 2], rows of `leaves_LxT` in random order; (-1, -1) where there are
    fewer than n such pairs.
  """
  chex.assert_rank([leaves_LxT, tree_id_L], [2, 1])
  size = leaves_LxT.shape[0]
  differ = jnp.any(leaves_LxT[:, None] != leaves_LxT[None], -1)
  together = tree_id_L[:, None] == tree_id_L[None]
  known = jnp.triu(differ & together, 1)
  draw, turn = jax.random.split(key)
  lot = jnp.where(known, jax.random.uniform(draw, known.shape), -1.0)
  best, place = jax.lax.top_k(lot.reshape(-1), n)
  pair = jnp.stack([place // size, place % size], 1).astype(jnp.int32)
  turned = jax.random.bernoulli(turn, 0.5, (n, 1))
  pair = jnp.where(turned, pair[:, ::-1], pair)
  return jnp.where(best[:, None] >= 0, pair, -1)


def lcp(a: Array, b: Array) -> Array:
  """Tokens of the longest common prefix: what an annotator need not read twice.

  Args:
    a: i32[..., T].
    b: i32[..., T].

  Returns:
    i32[...], from 0 to T.
  """
  chex.assert_equal_shape([a, b])
  return jnp.sum(jnp.cumprod((a == b).astype(jnp.int32), -1), -1)


def differing_segments(a: Array, b: Array, seg_len: int) -> Array:
  """Segments in which two answers are not the same, whether shared or not.

  Args:
    a: i32[..., D S].
    b: i32[..., D S].
    seg_len: S.

  Returns:
    i32[...], from 0 to D.

  Raises:
    ValueError: a length that is no multiple of S.
  """
  chex.assert_equal_shape([a, b])
  if a.shape[-1] % seg_len:
    raise ValueError(f"{a.shape[-1]} tokens are no segments of {seg_len}")
  other = (a != b).reshape(*a.shape[:-1], -1, seg_len)
  return jnp.sum(jnp.any(other, -1), -1)
