"""Overlap of two multisets of ids, in padded rows.

  |A n B| = sum_v min(count_A(v), count_B(v))

One kernel for the partial credit of tool calls, of schema and n-gram matches,
and of recall of entities.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax.numpy as jnp

from rlreward.types import Array


class Overlap(NamedTuple):
  """Sizes of the two multisets and of what they share, f32[...]."""

  shared: Array
  left: Array
  right: Array


def overlap(a: Array, b: Array, in_a: Array, in_b: Array) -> Overlap:
  """Sizes of two multisets and of their intersection.

  Args:
    a: i32[..., I].
    b: i32[..., J].
    in_a: bool[..., I], entries that count.
    in_b: bool[..., J].

  Returns:
    Overlap of f32[...].
  """
  chex.assert_equal_shape([a, in_a])
  chex.assert_equal_shape([b, in_b])
  same = (a[..., :, None] == a[..., None, :]) & in_a[..., None, :]
  earlier = jnp.tril(jnp.ones((a.shape[-1],) * 2, bool), -1)
  rank = jnp.sum(same & earlier, -1)  # how many equal ones stand before it
  times = jnp.sum((a[..., :, None] == b[..., None, :]) & in_b[..., None, :], -1)
  size = lambda x: jnp.sum(x, -1, dtype=jnp.float32)
  return Overlap(size(in_a & (rank < times)), size(in_a), size(in_b))


def jaccard(o: Overlap) -> Array:
  """|A n B| / |A u B|; 1 for two empty sets.

  Args:
    o: see `overlap`.

  Reference: the match score of ToolRL, arXiv 2504.13958.
  """
  union = o.left + o.right - o.shared
  return jnp.where(union > 0, o.shared / jnp.maximum(union, 1), 1.0)


def precision(o: Overlap) -> Array:
  """|A n B| / |A|; 1 where both are empty, 0 where only A is."""
  return _share(o.shared, o.left, o.right)


def recall(o: Overlap) -> Array:
  """|A n B| / |B|; 1 where both are empty, 0 where only B is."""
  return _share(o.shared, o.right, o.left)


def f1(o: Overlap) -> Array:
  """2 |A n B| / (|A| + |B|); 1 for two empty sets."""
  total = o.left + o.right
  return jnp.where(total > 0, 2 * o.shared / jnp.maximum(total, 1), 1.0)


def _share(shared: Array, size: Array, other: Array) -> Array:
  empty = jnp.where(other > 0, 0.0, 1.0)
  return jnp.where(size > 0, shared / jnp.maximum(size, 1), empty)
