"""How hard a prompt is for a policy, from how often it is right."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import chex
import jax.numpy as jnp

from rlreward.ops import masked
from rlreward.types import Array


def pass_rate(correct_BxG: Array, valid_BxG: Array) -> Array:
  """Share of a prompt's judged samples that are right.

    p_b = sum_g valid correct / sum_g valid

  Args:
    correct_BxG: 1 or true where right.
    valid_BxG: bool, false where there is no judgement.

  Returns:
    f32[B], NaN for a prompt without a judged sample.
  """
  chex.assert_rank([correct_BxG, valid_BxG], 2)
  chex.assert_equal_shape([correct_BxG, valid_BxG])
  rate = masked.masked_mean(correct_BxG.astype(jnp.float32), valid_BxG, axis=1)
  return jnp.where(jnp.any(valid_BxG, 1), rate, jnp.nan)


def difficulty_bucket(pass_rate: Array, edges: Sequence[float]) -> Array:
  """The interval of difficulty that a pass rate lies in.

    bucket = number of edges that are at most the rate

  With edges (0.2, 0.8): 0 is hard (below 0.2), 1 medium, 2 easy (0.8 and more).

  Args:
    pass_rate: f32[...], from 0 to 1.
    edges: rising; static.

  Returns:
    i32[...]; -1 where the rate is not known (NaN).

  Raises:
    ValueError: edges that do not rise, or lie outside [0, 1].

  Reference: SimpleRL-Zoo, arXiv 2503.18892, trains each model on the one of
  three such sets that it can just do.
  """
  edges = tuple(float(e) for e in edges)
  rising = all(a < b for a, b in itertools.pairwise(edges))
  if not edges or not rising or edges[0] < 0 or edges[-1] > 1:
    raise ValueError(f"edges={edges} must rise within [0, 1]")
  rate = jnp.asarray(pass_rate, jnp.float32)
  over = rate[..., None] >= jnp.asarray(edges, jnp.float32)
  bucket = jnp.sum(over, -1, dtype=jnp.int32)
  return jnp.where(jnp.isnan(rate), -1, bucket)
