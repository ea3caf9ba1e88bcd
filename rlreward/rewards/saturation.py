"""Which rows a bounded shape can tell apart no more: at an end of its range."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from rlreward.types import Array, Score

NAME = "saturated"  # the component that holds it
_EDGE = 0.01  # of a range, or of the unit where the range is open


def mark(score: Score, made: Iterable[Array], ends: Any) -> Score:
  """The score with `saturated`: the share of a row's rewards at an end.

    mean_k 1{r_k <= low + 0.01 w or r_k >= high - 0.01 w},  w = high - low

  or w = 1 where one end is open. A row that an earlier shape has saturated
  stays so.

  Args:
    score: shaped.
    made: f32[N] each, K rewards of the rows.
    ends: (low, high), numbers or f32[K], infinite where open; None marks
      nothing.
  """
  if ends is None:
    return score
  r_NxK = jnp.stack(list(made), -1)
  low, high = (jnp.asarray(end, jnp.float32) for end in ends)
  width = _EDGE * jnp.where(jnp.isfinite(high - low), high - low, 1)
  at = (r_NxK <= low + width) | (r_NxK >= high - width)
  share = jnp.mean(at.astype(jnp.float32), -1)
  before = score.components.get(NAME, jnp.zeros_like(share))
  share = jax.lax.stop_gradient(jnp.maximum(before, share))
  return score._replace(components={**score.components, NAME: share})
