"""Rewards of steps: what becomes of the scores of a process reward model.

A step is a part of an answer that is scored at its last token. Scores stand in
slots, f32[N, S], beside a mask of those that hold a step: either S steps side
by side, or the T tokens of an answer with the mask true where a step ends. What
the mask leaves out is passed through, whatever it holds.
"""

from __future__ import annotations

from typing import Literal

import chex
import jax.numpy as jnp
from jax import lax

from rlreward.ops import masked
from rlreward.types import Array

Kind = Literal["raw", "clip", "delta", "clip_delta", "progress", "min", "orm"]
KINDS = ("raw", "clip", "delta", "clip_delta", "progress", "min", "orm")
BOUNDED = ("clip", "clip_delta")  # they compare scores with eta


def step_reward(
  p_NxS: Array,
  mask_NxS: Array,
  kind: Kind,
  alpha: float | Array = 1.0,
  eta: float | Array = 0.0,
  temperature: float = 0.1,
) -> Array:
  """The reward of each step from the scores p of an answer's S real steps.

    raw         alpha p_k: what repeats a good step earns again
    clip        alpha min(p_k - eta, 0): only bad steps change anything
    delta       alpha (p_k - p_(k+1)), alpha p_(S-1) at S - 1, 0 at S
    clip_delta  delta of min(p - eta, 0)
    progress    alpha (p_k - p_(k-1)), p_0 = eta: the score of the prompt
    min         alpha p_k softmax(-p / temperature)_k
    orm         alpha p_S at S, 0 before it: one score of the whole answer

  Delta telescopes: what follows from step k on adds up to alpha p_k for k < S,
  and to 0 at S, whose score is never used since success replaces it; an answer
  of one step earns nothing. Progress is meant for its own step alone: its sums
  telescope too, to alpha (p_S - p_(k-1)).

  Args:
    p_NxS: scores; anything, NaN too, where the mask is false.
    mask_NxS: bool, slots that hold a step.
    kind: of KINDS.
    alpha: weight beside the reward of the answer.
    eta: what clip compares scores with, or the first score of progress; f32[]
      or f32[N, 1].
    temperature: of min; towards 0 only the worst step has a reward.

  Returns:
    f32[N, S], 0 where the mask is false.

  Raises:
    ValueError: unknown kind, or a temperature that is not positive.

  Reference: On Designing Effective RL Reward, arXiv 2410.15115 (clip, delta);
    Rewarding Progress, 2410.08146 (progress); Stop Summation, 2504.15275 (min).
  """
  chex.assert_rank([p_NxS, mask_NxS], 2)
  chex.assert_equal_shape([p_NxS, mask_NxS])
  if kind not in KINDS:
    raise ValueError(f"kind={kind!r}; choose one of {', '.join(KINDS)}")
  if temperature <= 0:
    raise ValueError(f"temperature must be positive, got {temperature}")
  p = masked.clean(p_NxS, mask_NxS)
  if kind in BOUNDED:
    p = masked.clean(jnp.minimum(p - eta, 0), mask_NxS)
  _, follows = following(p, mask_NxS)
  if kind in ("delta", "clip_delta"):
    kept = jnp.where(follows, p, 0)  # the last step's score is nobody's
    p = kept - following(kept, mask_NxS)[0]
  elif kind == "progress":
    flip = lambda x: x[:, ::-1]
    before, exists = following(flip(p), flip(mask_NxS))
    p = p - jnp.where(flip(exists), flip(before), eta)
  elif kind == "min":
    score = jnp.where(mask_NxS, -p / temperature, -jnp.inf)
    top = jnp.max(score, 1, keepdims=True, initial=-jnp.inf, where=mask_NxS)
    weight = jnp.exp(score - jnp.where(jnp.isfinite(top), top, 0))
    total = jnp.sum(weight, 1, keepdims=True)
    p = p * weight / jnp.where(total > 0, total, 1)
  elif kind == "orm":
    p = jnp.where(follows, 0, p)
  return masked.clean(alpha * p, mask_NxS)


def following(x_NxS: Array, mask_NxS: Array) -> tuple[Array, Array]:
  """(what the next real slot after each one holds, whether there is one).

  Args:
    x_NxS: anything where the mask is false.
    mask_NxS: bool, real slots.

  Returns:
    (f32[N, S], bool[N, S]); 0 and false after the last real slot.
  """

  def join(late, early):
    held = early[1]
    return jnp.where(held, early[0], late[0]), held | late[1]

  x = masked.clean(x_NxS, mask_NxS)
  near, there = lax.associative_scan(join, (x, mask_NxS), reverse=True, axis=1)
  ahead = lambda y: jnp.pad(y[:, 1:], [(0, 0), (0, 1)])
  return ahead(near), ahead(there)


def scatter_steps(r_NxS: Array, end_NxS: Array, length: int) -> Array:
  """Rewards of steps at the tokens that end them.

  Args:
    r_NxS: rewards; anything, NaN too, where there is no step.
    end_NxS: i32, the slot of each step's last token; below 0 or from `length`
      on where there is no step.
    length: T.

  Returns:
    f32[N, T], 0 at all other tokens; rewards at the same token add up.
  """
  chex.assert_rank([r_NxS, end_NxS], 2)
  chex.assert_equal_shape([r_NxS, end_NxS])
  real = (end_NxS >= 0) & (end_NxS < length)
  r = masked.clean(r_NxS, real)
  rows = jnp.arange(r.shape[0])[:, None]
  at = jnp.where(real, end_NxS, length)
  return (
    jnp.zeros((r.shape[0], length), r.dtype).at[rows, at].add(r, mode="drop")
  )


def step_index(end_NxT: Array) -> Array:
  """i32[N, T]: the step that a token belongs to, from 0.

  Args:
    end_NxT: bool, last tokens of steps. What comes after the last of them
      counts as one step more.
  """
  ends = end_NxT.astype(jnp.int32)
  return jnp.cumsum(ends, 1) - ends


def step_baseline(
  return_NxT: Array, index_NxT: Array, mask_NxT: Array, group: int
) -> Array:
  """Mean return of a group's answers from the same step on.

    b(k) = mean over answers of the group with a step k of R_k

  An answer counts once at each of its steps, with the mean return of the step's
  tokens, however many they are.

  Args:
    return_NxT: returns of rows in groups of succession.
    index_NxT: i32, see `step_index`.
    mask_NxT: bool, tokens that count.
    group: G.

  Returns:
    f32[N, T], 0 where the mask is false.
  """
  chex.assert_equal_shape([return_NxT, index_NxT, mask_NxT])
  n, t = return_NxT.shape
  rows = jnp.arange(n)[:, None]

  def table(x: Array) -> Array:
    """Sums over the tokens of each step, f32[N, T + 1]."""
    return jnp.zeros((n, t + 1), x.dtype).at[rows, index_NxT].add(x)

  size = table(masked.clean(jnp.ones_like(return_NxT), mask_NxT))
  own = table(masked.clean(return_NxT, mask_NxT)) / jnp.maximum(size, 1)
  grouped = lambda x: x.reshape(n // group, group, t + 1)
  mean = masked.masked_mean(grouped(own), grouped(size > 0), 1)
  each = jnp.repeat(mean, group, 0)
  return masked.clean(jnp.take_along_axis(each, index_NxT, 1), mask_NxT)
