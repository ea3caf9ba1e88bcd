"""A process reward model's scores as rewards of tokens.

A reward that judges steps puts the score of each step in `Score.tokens` at the
token that ends it, and NaN everywhere else. `shaped` makes rewards of them,
with 0 between the ends; `value`, the reward of the whole answer, stays.
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from rlreward.errors import UserError
from rlreward.ops import process
from rlreward.types import Array, Rollout, Score, Shaping

KINDS = ("none", *process.KINDS)


def shaped(
  kind: str, alpha: float, eta: float = 0.0, quantile: float = 0.0
) -> Shaping:
  """Rewards of tokens from the scores of steps.

  Args:
    kind: see `ops.process.step_reward`; "none" forgets the scores.
    alpha: weight beside the reward of the answer.
    eta: the threshold of clip, or the first score of progress.
    quantile: above 0 the threshold is the score that this share of steps stay
      below, in the first rollout that has any. A run samples it from the
      policy that it starts with, so these are scores of the reference; the
      threshold is kept from then on.

  Raises:
    UserError: fields that cannot be, or a reward without scores of steps (when
      it is first shaped).
  """
  _check(kind, alpha, eta, quantile)
  if kind == "none":
    return Shaping(
      lambda: (), lambda score, s, _: (score._replace(tokens=None), s)
    )

  def update(score: Score, state, rollout: Rollout) -> tuple[Score, Array]:
    if score.tokens is None:
      raise UserError(
        f"process.kind={kind!r}, and the reward scores no steps",
        "there is nothing to clip or to take differences of",
        "use a task whose reward sets Score.tokens, or process.kind='none'",
      )
    end = ends(score, rollout)
    known = jnp.any(end)
    state = dict(state)
    if quantile:
      scores = jnp.where(end, score.tokens, jnp.nan)
      # Of what is there; jnp.nanquantile would be NaN without any.
      first = jnp.nanquantile(jnp.where(known, scores, 0.0), quantile)
      state["eta"] = jnp.where(state["held"] > 0, state["eta"], first)
      state["held"] = jnp.maximum(state["held"], known.astype(jnp.float32))
    reward = process.step_reward(score.tokens, end, kind, alpha, state["eta"])
    return score._replace(tokens=reward), state

  def init():
    state = {"eta": jnp.asarray(eta, jnp.float32)}
    return {**state, "held": jnp.zeros(())} if quantile else state

  return Shaping(init, update)


def ends(score: Score, rollout: Rollout) -> Array:
  """bool[N, L]: tokens that end a step of a row with a judgement.

  Args:
    score: with scores of steps in `tokens`.
    rollout: the policy's own tokens alone are steps.
  """
  assert score.tokens is not None
  return rollout.action & jnp.isfinite(score.tokens) & score.valid[:, None]


def at_ends(scores: Array, end: Array, length: int) -> Array:
  """Scores of steps, side by side, as `Score.tokens` wants them.

  Args:
    scores: f32[N, S]; anything where there is no step.
    end: i32[N, S], slots of the tokens that end steps; below 0 where there is
      none.
    length: L, slots of a row.

  Returns:
    f32[N, L], NaN where no step ends.
  """
  real = (end >= 0) & (end < length)
  there = process.scatter_steps(real.astype(jnp.float32), end, length) > 0
  return jnp.where(there, process.scatter_steps(scores, end, length), jnp.nan)


def _check(kind: str, alpha: float, eta: float, quantile: float) -> None:
  if kind not in KINDS:
    raise UserError(
      f"process.kind={kind!r} is unknown",
      "it says what becomes of the scores of steps",
      f"set process.kind to one of {', '.join(KINDS)}",
    )
  for name, value, good, fix in (
    ("alpha", alpha, 0 <= alpha < math.inf, "0 or more"),
    ("eta", eta, math.isfinite(eta), "a finite number"),
    ("quantile", quantile, 0 <= quantile < 1, "0 (eta is given) or a share"),
  ):
    if not good:
      raise UserError(
        f"process.{name}={value}", "rewards of steps are made of it",
        f"use {fix}",
      )  # fmt: skip
