"""ToolRL's graded match of tool calls, on padded ids inside a compiled step.

Names, keys and values are ids (`rewards.call_arrays.encode` makes them). The
host form is `rewards.calls.graded`; both give the same numbers.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from rlreward.ops import overlap
from rlreward.types import Array

MATCHES = ("fine", "strict", "intermediate", "coarse")
Match = Literal["fine", "strict", "intermediate", "coarse"]
MOST_PAIRED = 10  # calls of the best assignment, which looks at all subsets


class Calls(NamedTuple):
  """Calls of N rows, padded to C calls of P arguments.

  Attributes:
    name: i32[N, C].
    key: i32[N, C, P].
    value: i32[N, C, P].
    is_call: bool[N, C].
    is_argument: bool[N, C, P].
  """

  name: Array
  key: Array
  value: Array
  is_call: Array
  is_argument: Array


def pair_scores(calls: Calls, gold: Calls, match: Match = "fine") -> Array:
  """match(keys) + equal values for each pair; 0 for calls of unlike name.

  Args:
    calls: of the policy, C of them.
    gold: right ones, G of them.
    match: see `graded`.

  Returns:
    f32[N, G, C].
  """
  shape = (*gold.name.shape, *calls.name.shape[1:])
  spread = lambda x, axis: jnp.broadcast_to(
    jnp.expand_dims(x, axis), (*shape, x.shape[-1])
  )
  a, in_a = spread(calls.key, 1), spread(calls.is_argument, 1)
  b, in_b = spread(gold.key, 2), spread(gold.is_argument, 2)
  keys = overlap.jaccard(overlap.overlap(a, b, in_a, in_b))
  x, y = spread(calls.value, 1), spread(gold.value, 2)
  hit = (b[..., :, None] == a[..., None, :]) & (
    y[..., :, None] == x[..., None, :]
  )
  hit &= in_b[..., :, None] & in_a[..., None, :]
  equal = jnp.sum(jnp.any(hit, -1), -1, dtype=jnp.float32)
  good = gold.name[:, :, None] == calls.name[:, None, :]
  good &= gold.is_call[:, :, None] & calls.is_call[:, None, :]
  if match == "fine":
    return jnp.where(good, keys + equal, 0.0)
  whole = keys == 1.0
  if match == "strict":
    return jnp.where(good, whole + equal, 0.0)
  whole &= equal == jnp.sum(in_b, -1)
  return jnp.where(good, whole, 0.0)


def graded(
  calls: Calls,
  gold: Calls,
  low: float = -3.0,
  high: float = 3.0,
  match: Match = "fine",
  optimal: bool = False,
) -> Array:
  """low + (high - low) S / S_max, see `rewards.calls.graded`.

  Args:
    calls: of the policy.
    gold: right ones.
    low: reward of nothing right.
    high: of everything.
    match: what a part is worth, see `rewards.calls.graded`.
    optimal: pair calls by the best assignment, not in the order of the gold
      ones; for MOST_PAIRED calls of the policy at most.

  Returns:
    f32[N].

  Raises:
    ValueError: an unknown match, or more calls than can be paired.

  Reference: ToolRL, arXiv 2504.13958.
  """
  if match not in MATCHES:
    raise ValueError(f"match={match!r}; it is one of {MATCHES}")
  if optimal and calls.name.shape[1] > MOST_PAIRED:
    raise ValueError(
      f"{calls.name.shape[1]} calls; {MOST_PAIRED} can be paired at best"
    )
  scores = pair_scores(calls, gold, match)
  paid = _best(scores) if optimal else _greedy(scores)
  count = jnp.sum(gold.is_call, -1, dtype=jnp.float32)
  if match == "coarse":
    share = 1.0 * ((paid == count) & (jnp.sum(calls.is_call, -1) == count))
    return low + (high - low) * share
  names = overlap.jaccard(
    overlap.overlap(calls.name, gold.name, calls.is_call, gold.is_call)
  )
  if match == "strict":
    names = 1.0 * (names == 1.0)
  most = 1 + count
  if match != "intermediate":
    most += jnp.sum(gold.is_argument, (-1, -2))
  return low + (high - low) * (names + paid) / most


def _greedy(scores: Array) -> Array:
  """f32[N]: in gold order, the best call that is left for each."""

  def step(used: Array, row: Array) -> tuple[Array, Array]:
    left = jnp.where(used, 0.0, row)  # [N, C]
    best = jnp.max(left, -1)
    taken = jax.nn.one_hot(jnp.argmax(left, -1), row.shape[-1], dtype=bool)
    return used | (taken & (best > 0)[:, None]), best

  used = jnp.zeros(scores.shape[::2], bool)
  _, best = jax.lax.scan(step, used, jnp.moveaxis(scores, 1, 0))
  return jnp.sum(best, 0)


def _best(scores: Array) -> Array:
  """f32[N]: the largest sum with each call used once.

    best_g(M) = max(best_(g-1)(M), max_(j in M) best_(g-1)(M - j) + s_gj)

  over subsets M of the calls, as bits.
  """
  n, _, c = scores.shape
  subsets = jnp.arange(2**c)
  bits = 2 ** jnp.arange(c)
  inside = (subsets[:, None] & bits) > 0  # [2^C, C]
  without = subsets[:, None] - inside * bits

  def step(best: Array, row: Array) -> tuple[Array, None]:
    gained = jnp.where(inside, best[:, without] + row[:, None], 0.0)
    return jnp.maximum(best, jnp.max(gained, -1)), None

  start = jnp.zeros((n, 2**c), scores.dtype)
  found, _ = jax.lax.scan(step, start, jnp.moveaxis(scores, 1, 0))
  return found[:, -1]
