"""Patterns of token ids: where they begin, tags in order, phrases that occur.

A pattern is a fixed sequence of ids. It occurs where all its ids stand side by
side in slots that count; the mask is carried and never read off the ids.
`tags.compile` makes the tables of the automaton.

Ids are what the model wrote: a tag that the tokenizer may write in several ways
(alone, or joined to what follows it) is one pattern for each way.
"""

from __future__ import annotations

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from rlreward.ops import repetition
from rlreward.types import Array

OTHER, SPACE = 0, 1  # symbols of an automaton; tag k is FIRST + k
FIRST = 2


def starts(ids: Array, mask: Array, pattern: Sequence[int]) -> Array:
  """Where a pattern begins.

  Args:
    ids: i32[N, L].
    mask: bool[N, L], slots that count.
    pattern: token ids, at least one.

  Returns:
    bool[N, L].
  """
  chex.assert_equal_shape([ids, mask])
  found = mask
  for k, token in enumerate(pattern):
    found &= _ahead(mask, k, False) & (_ahead(ids, k, -1) == token)
  return found


def _ahead(x: Array, k: int, fill: int | bool) -> Array:
  """x moved k slots to the left."""
  if k == 0:
    return x
  tail = jnp.full((x.shape[0], min(k, x.shape[1])), fill, x.dtype)
  return jnp.concatenate([x[:, k:], tail], 1)


def count(ids: Array, mask: Array, pattern: Sequence[int]) -> Array:
  """How often a pattern begins; overlapping ones count each.

  Args:
    ids: i32[N, L].
    mask: bool[N, L].
    pattern: token ids.

  Returns:
    i32[N].
  """
  return jnp.sum(starts(ids, mask, pattern), -1, dtype=jnp.int32)


def hits(
  ids: Array, mask: Array, phrases: Sequence[Sequence[Sequence[int]]]
) -> Array:
  """Which phrases occur.

  Args:
    ids: i32[N, L].
    mask: bool[N, L].
    phrases: K phrases, each of them the ways to write it in ids.

  Returns:
    bool[N, K].
  """
  columns = []
  for ways in phrases:
    any_way = jnp.zeros(ids.shape[0], bool)
    for way in ways:
      any_way |= jnp.any(starts(ids, mask, way), -1)
    columns.append(any_way)
  return jnp.stack(columns, -1)


def phrase_reward(
  found: Array,
  c: float = 40.0,
  repeated: Array | float = 0.0,
  turns: Array | float = 0.0,
  answered: Array | bool = True,
) -> Array:
  """RPR: distinct phrases over c, less repetition and invented turns.

    max(0, min(1, hits / c) - repeated - turns),  0 without an answer

  Args:
    found: bool[N, K], see `hits`.
    c: 40 in the paper's text, 20 in the authors' code.
    repeated: f32[N], see `repetition.repeated_share`.
    turns: f32[N], how often the policy wrote the other side's turn.
    answered: bool[N], whether an answer could be extracted.

  Returns:
    f32[N].

  Reference: The Climb Carves Wisdom Deeper Than the Summit, arXiv 2505.22653.
  """
  count = jnp.sum(found, -1, dtype=jnp.float32)
  score = jnp.minimum(1.0, count / c) - repeated - turns
  return jnp.where(answered, jnp.maximum(score, 0.0), 0.0)


def reasoning_reward(
  ids: Array,
  mask: Array,
  phrases: Sequence[Sequence[Sequence[int]]],
  turn: Sequence[Sequence[int]] = (),
  c: float = 40.0,
  answered: Array | bool = True,
) -> Array:
  """`phrase_reward` of token ids, with repeated 20-grams of ids.

  Args:
    ids: i32[N, L].
    mask: bool[N, L], what the policy reasoned.
    phrases: see `hits`.
    turn: the ways to write the beginning of an invented turn.
    c: see `phrase_reward`.
    answered: see `phrase_reward`.

  Returns:
    f32[N].
  """
  turns = sum((count(ids, mask, way) for way in turn), jnp.zeros(len(ids)))
  rep = repetition.repeated_share(ids, mask, 20)
  return phrase_reward(hits(ids, mask, phrases), c, rep, turns, answered)


def symbols(
  ids: Array,
  mask: Array,
  tags: Sequence[Sequence[Sequence[int]]],
  spaces: Sequence[int] = (),
) -> tuple[Array, Array]:
  """Ids as symbols of an automaton: OTHER, SPACE, or a tag that begins here.

  Slots inside a tag, behind its first id, are left out; where two tags begin in
  one slot the longer one is meant.

  Args:
    ids: i32[N, L].
    mask: bool[N, L].
    tags: K tags, each of them the ways to write it in ids.
    spaces: ids that are white space only.

  Returns:
    (symbols i32[N, L], slots that count bool[N, L]).
  """
  blank = jnp.isin(ids, jnp.asarray(list(spaces) or [-1], ids.dtype))
  symbol = jnp.where(blank, SPACE, OTHER)
  size = jnp.ones_like(symbol)
  ways = [(len(w), k, w) for k, tag in enumerate(tags) for w in tag]
  for length, k, way in sorted(ways, key=lambda w: w[:2]):
    here = starts(ids, mask, way)
    symbol = jnp.where(here, FIRST + k, symbol)
    size = jnp.where(here, length, size)

  def step(left: Array, slot: tuple[Array, Array]) -> tuple[Array, Array]:
    size, counts = slot
    free = counts & (left <= 0)
    left = jnp.where(free, size, left) - counts
    return left, free

  zero = jnp.zeros_like(size[:, 0])
  _, free = jax.lax.scan(step, zero, (size.T, mask.T))
  return symbol, free.T


def run(symbol: Array, mask: Array, table: Array, start: int = 0) -> Array:
  """The state of an automaton after a row.

    s' = table[s, symbol],  over the slots that count

  Args:
    symbol: i32[N, L].
    mask: bool[N, L].
    table: i32[S, K], next states.
    start: state before the row.

  Returns:
    i32[N].
  """
  chex.assert_equal_shape([symbol, mask])
  table = jnp.asarray(table)

  def step(state: Array, slot: tuple[Array, Array]) -> tuple[Array, None]:
    symbol, counts = slot
    return jnp.where(counts, table[state, symbol], state), None

  # Made of the row, so that it has the row's sharding inside shard_map.
  first = jnp.zeros_like(symbol[:, 0]) + start
  state, _ = jax.lax.scan(step, first, (symbol.T, mask.T))
  return state


def tag_share(
  symbol: Array, mask: Array, tags: Sequence[int], most: int = 1
) -> Array:
  """Share of the tags that occur 1 to `most` times: partial credit of a format.

  Args:
    symbol: i32[N, L], see `symbols`.
    mask: bool[N, L].
    tags: which of them.
    most: above it a tag earns nothing.

  Returns:
    f32[N] in [0, 1].
  """
  good = []
  for k in tags:
    n = jnp.sum(mask & (symbol == FIRST + k), -1)
    good.append((n >= 1) & (n <= most))
  return jnp.mean(jnp.stack(good, -1).astype(jnp.float32), -1)
