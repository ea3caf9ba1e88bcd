"""ToolRL's graded match of tool calls, on padded ids inside a compiled step.

Names, keys and values are ids (`rewards.call_arrays.encode` makes them). The
host form is `rewards.calls.graded`; both give the same numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlreward.ops import overlap
from rlreward.types import Array


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


def pair_scores(calls: Calls, gold: Calls) -> Array:
  """match(keys) + equal values for each pair; 0 for calls of unlike name.

  Args:
    calls: of the policy, C of them.
    gold: right ones, G of them.

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
  return jnp.where(good, keys + equal, 0.0)


def graded(
  calls: Calls, gold: Calls, low: float = -3.0, high: float = 3.0
) -> Array:
  """low + (high - low) S / S_max, see `rewards.calls.graded`.

  Args:
    calls: of the policy.
    gold: right ones.
    low: reward of nothing right.
    high: of everything.

  Returns:
    f32[N].

  Reference: ToolRL, arXiv 2504.13958.
  """
  scores = pair_scores(calls, gold)

  def step(used: Array, row: Array) -> tuple[Array, Array]:
    left = jnp.where(used, 0.0, row)  # [N, C]
    best = jnp.max(left, -1)
    taken = jax.nn.one_hot(jnp.argmax(left, -1), row.shape[-1], dtype=bool)
    return used | (taken & (best > 0)[:, None]), best

  used = calls.is_call & False
  _, best = jax.lax.scan(step, used, jnp.moveaxis(scores, 1, 0))
  names = overlap.jaccard(
    overlap.overlap(calls.name, gold.name, calls.is_call, gold.is_call)
  )
  sizes = jnp.sum(gold.is_argument, -1) + gold.is_call
  most = 1 + jnp.sum(sizes, -1)
  score = names + jnp.sum(best, 0)
  return low + (high - low) * score / most
