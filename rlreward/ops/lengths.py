"""Rewards of length: named curves of a length and of correctness.

Lengths are counts of tokens that the policy chose, f32[N] or i32[N]; `right` is
bool[N]. Every curve is pure and bounded, except those that count without end.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlreward.types import Array


def overlong(
  length: Array, most: int, cache: int, factor: float = 1.0
) -> Array:
  """DAPO's soft punishment of overlong answers.

    0 up to most - cache, then (most - cache - n) / cache, and -1 beyond most

  Args:
    length: [N].
    most: length from which the punishment is whole.
    cache: width of the slope.
    factor: of all of it.

  Returns:
    f32[N] in [-factor, 0].

  Reference: DAPO, arXiv 2503.14476.
  """
  gap = (most - cache - length) / cache
  return factor * jnp.clip(gap, -1.0, 0.0)


def parabola(length: Array, most: int, peak: float = 0.5) -> Array:
  """Highest at a share of the budget.

    x = n / most;  1 - (1 - x / p)^2 for x <= p,  1 - 2 ((x - p) / (1 - p))^2

  Args:
    length: [N].
    most: the budget.
    peak: p in (0, 1).

  Returns:
    f32[N]; 0 at 0, 1 at p, -1 at the budget.

  Reference: Surrogate Signals from Format and Length, arXiv 2505.19439.
  """
  x = length / most
  below = 1 - (1 - x / peak) ** 2
  above = 1 - 2 * ((x - peak) / (1 - peak)) ** 2
  return jnp.where(x <= peak, below, above)


def format_length(
  thought: Array, answered: Array, length: Array, most: int, peak: float = 0.5
) -> Array:
  """Format and length without a gold answer.

    (thought + answered) / 2 + R where answered, else min(0, R); R = parabola

  Args:
    thought: bool[N], has a thought.
    answered: bool[N], has an answer that can be read.
    length: [N].
    most: see `parabola`.
    peak: see `parabola`.

  Returns:
    f32[N].

  Reference: arXiv 2505.19439.
  """
  r = parabola(length, most, peak)
  form = (thought.astype(jnp.float32) + answered.astype(jnp.float32)) / 2
  return jnp.where(answered, form + r, jnp.minimum(r, 0.0))


def cosine(
  length: Array,
  right: Array,
  most: int,
  right_ends: tuple[float, float] = (1.0, 0.5),
  wrong_ends: tuple[float, float] = (-1.0, -0.5),
  over: float | None = None,
) -> Array:
  """Half a cosine from the value of the shortest answer to that of the longest.

    end + (start - end) (1 + cos(pi n / most)) / 2

  Args:
    length: [N].
    right: bool[N].
    most: the budget; longer answers earn as one of that length.
    right_ends: (shortest, longest) right answer: right ones are paid for being
      short.
    wrong_ends: of wrong ones, which are punished less for trying longer.
    over: what answers at or over the budget earn instead; the paper's -10.

  Returns:
    f32[N].

  Reference: Demystifying Long Chain-of-Thought Reasoning, arXiv 2502.03373.
  """
  chex.assert_equal_shape([length, right])
  wave = (1 + jnp.cos(jnp.pi * jnp.clip(length / most, 0, 1))) / 2
  ends = [jnp.where(right, r, w)
          for r, w in zip(right_ends, wrong_ends, strict=True)]  # fmt: skip
  out = ends[1] + (ends[0] - ends[1]) * wave
  return out if over is None else jnp.where(length >= most, over, out)


def kimi(length: Array, right: Array, group: Array) -> Array:
  """Short among the answers to the same prompt.

    l = 1/2 - (n - min) / (max - min);  right: l,  wrong: min(0, l)

  Args:
    length: [N].
    right: bool[N].
    group: i32[N], prompt of the row.

  Returns:
    f32[N] in [-1/2, 1/2]; 0 where all lengths of a prompt are equal.

  Reference: Kimi k1.5, arXiv 2501.12599.
  """
  n, rows = length.astype(jnp.float32), length.shape[0]
  low = jax.ops.segment_min(n, group, rows)[group]
  high = jax.ops.segment_max(n, group, rows)[group]
  width = high - low
  short = jnp.where(width > 0, 0.5 - (n - low) / jnp.maximum(width, 1), 0.0)
  return jnp.where(right, short, jnp.minimum(short, 0.0))


def l1_exact(
  length: Array, right: Array, target: Array | int, slope: float = 3e-4
) -> Array:
  """right - slope |target - n|: as long as it was asked to be.

  Args:
    length: [N].
    right: bool[N].
    target: [N] or one number.
    slope: per token.

  Returns:
    f32[N].

  Reference: L1, arXiv 2503.04697.
  """
  return right.astype(jnp.float32) - slope * jnp.abs(target - length)


def l1_max(
  length: Array,
  right: Array,
  target: Array | int,
  slope: float = 3e-4,
  offset: float = 0.5,
) -> Array:
  """right * clip(slope (target - n) + offset, 0, 1): within a budget.

  Args:
    length: [N].
    right: bool[N].
    target: [N] or one number.
    slope: per token.
    offset: what a right answer of just the target earns.

  Returns:
    f32[N] in [0, 1].

  Reference: L1, arXiv 2503.04697.
  """
  return right * jnp.clip(slope * (target - length) + offset, 0.0, 1.0)


def linear(
  length: Array, per: float | Array = 100.0, most: float | None = None
) -> Array:
  """n / per, up to `most`: R3's incentive and ToolRL's min(1, words / 512).

  Args:
    length: [N], of tokens or words.
    per: length that earns 1.
    most: of the reward; None has no limit.

  Returns:
    f32[N].

  Reference: R3, arXiv 2402.03469; ToolRL, arXiv 2504.13958.
  """
  out = length / per
  return out if most is None else jnp.minimum(out, most)


def over_limit(length: Array, limit: int, each: float = 0.01) -> Array:
  """-each (n - limit) beyond a limit; PAR's penalty, without an end.

  Args:
    length: [N].
    limit: 300 in PAR.
    each: per token.

  Returns:
    f32[N], at most 0.

  Reference: PAR, arXiv 2502.18770.
  """
  return -each * jnp.maximum(length - limit, 0).astype(jnp.float32)


def shortest_right(
  length: Array,
  right: Array,
  group: Array,
  floor: int = 100,
  bonus: float = 0.2,
) -> Array:
  """A bonus for the shortest right answer of a prompt, if longer than a floor.

  Args:
    length: [N].
    right: bool[N].
    group: i32[N], prompt of the row.
    floor: keeps answers from collapsing to a line.
    bonus: earned by the first of the shortest.

  Returns:
    f32[N]; 0 for every row of a prompt without a right answer (the released
    code pays row 0 there).

  Reference: Observe-R1, arXiv 2505.12432.
  """
  rows = length.shape[0]
  n = jnp.where(right, length.astype(jnp.float32), jnp.inf)
  least = jax.ops.segment_min(n, group, rows)[group]
  mine = right & (n == least)
  index = jnp.arange(rows)
  first = jax.ops.segment_min(jnp.where(mine, index, rows), group, rows)[group]
  return bonus * (mine & (index == first) & (least > floor))
