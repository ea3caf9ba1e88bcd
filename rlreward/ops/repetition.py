"""Repetition of n-grams of token ids, exact (sorted, not hashed).

An n-gram counts where all its n slots count and lie side by side in the row.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rlreward.types import Array


class Ngrams(NamedTuple):
  """Counts of the n-grams of each row.

  Attributes:
    total: i32[N].
    distinct: i32[N], different ones.
    repeated: i32[N], different ones that occur more than once.
  """

  total: Array
  distinct: Array
  repeated: Array


def ngrams(ids: Array, mask: Array, n: int) -> Ngrams:
  """Counts n-grams by sorting them.

  Args:
    ids: i32[N, L].
    mask: bool[N, L], slots that count.
    n: size, 1 or more.

  Returns:
    Ngrams.

  Raises:
    ValueError: n below 1.
  """
  chex.assert_equal_shape([ids, mask])
  if n < 1:
    raise ValueError(f"n-grams of size {n}; use 1 or more")
  width = ids.shape[1] - n + 1
  if width < 1:
    zero = jnp.zeros(ids.shape[0], jnp.int32)
    return Ngrams(zero, zero, zero)
  gram = jnp.stack([ids[:, k : k + width] for k in range(n)], -1)
  good = jnp.stack([mask[:, k : k + width] for k in range(n)], -1).all(-1)
  return jax.vmap(_row)(gram, good)


def _row(gram: Array, good: Array) -> Ngrams:
  # Those that count come first; equal ones lie side by side.
  order = jnp.lexsort((*gram.T, ~good))
  gram, good = gram[order], good[order]
  same = jnp.all(gram[1:] == gram[:-1], -1) & good[1:] & good[:-1]
  fresh = good & ~jnp.concatenate([jnp.zeros(1, bool), same])
  followed = jnp.concatenate([same, jnp.zeros(1, bool)])
  n = lambda x: jnp.sum(x, dtype=jnp.int32)
  return Ngrams(n(good), n(fresh), n(fresh & followed))


def distinct_share(ids: Array, mask: Array, n: int = 3) -> Array:
  """Different n-grams over n-grams; 1 in rows too short to have one.

  Args:
    ids: i32[N, L].
    mask: bool[N, L].
    n: 3 is R3's RP.

  Returns:
    f32[N] in (0, 1].

  Reference: R3, arXiv 2402.03469.
  """
  c = ngrams(ids, mask, n)
  share = c.distinct / jnp.maximum(c.total, 1)
  return jnp.where(c.total > 0, share, 1.0)


def penalty(ids: Array, mask: Array, n: int = 3, most: float = 1.0) -> Array:
  """-most (1 - distinct / total): 0 where nothing is repeated.

  Args:
    ids: i32[N, L].
    mask: bool[N, L].
    n: size.
    most: what a row of one endless n-gram loses.

  Returns:
    f32[N] in (-most, 0].

  Reference: Tina, arXiv 2504.15777; Demystifying Long CoT, arXiv 2502.03373.
  """
  return -most * (1 - distinct_share(ids, mask, n))


def repeated_share(ids: Array, mask: Array, n: int = 20) -> Array:
  """Different n-grams that occur again over all n-grams; 0 in short rows.

  Args:
    ids: i32[N, L].
    mask: bool[N, L].
    n: 20 in the paper.

  Returns:
    f32[N] in [0, 1 / 2].

  Reference: The Climb Carves Wisdom Deeper Than the Summit, arXiv 2505.22653.
  """
  c = ngrams(ids, mask, n)
  return c.repeated / jnp.maximum(c.total, 1)


def adjacent_share(ids: Array, mask: Array, n: int = 8) -> Array:
  """Share of n-grams that the very same n-gram follows without a gap.

  Args:
    ids: i32[N, L].
    mask: bool[N, L].
    n: 8 is GRIT's.

  Returns:
    f32[N] in [0, 1]; 0 in rows shorter than 2 n.

  Reference: GRIT, arXiv 2505.15879.
  """
  chex.assert_equal_shape([ids, mask])
  width = ids.shape[1] - 2 * n + 1
  if width < 1:
    return jnp.zeros(ids.shape[0])
  spans = range(2 * n)
  good = jnp.stack([mask[:, k : k + width] for k in spans], -1).all(-1)
  pairs = [ids[:, k : k + width] == ids[:, k + n : k + n + width]
           for k in range(n)]  # fmt: skip
  again = jnp.stack(pairs, -1).all(-1) & good
  return jnp.sum(again, -1) / jnp.maximum(jnp.sum(good, -1), 1)
