"""Shapings of noisy rewards: labels turned around, low scores calibrated.

  chain(flip(key, 0.4), calibrate(0.5, 1.0, "reasoning"))

Shapings act in training alone: evaluation sees the task's own scores. The order
is that of the authors' code, so that what is calibrated is the noisy label.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from rlreward.errors import UserError
from rlreward.ops import noise
from rlreward.rewards import shaping
from rlreward.types import Array, Rollout, Score, Shaping


def flip(
  key: Array, p: float, unit: noise.Unit = "prompt", answered: str = ""
) -> Shaping:
  """1 - r with chance p: of a question, for all of its answers, or of each.

  A question that comes again is drawn again, as in the authors' code. Rows
  without a judgement stay without one.

  Args:
    key: the flips of batch k are those of `fold_in(key, k)`.
    p: in [0, 1].
    unit: "prompt" or "sample".
    answered: component above 1/2 where an answer could be extracted; rows
      without one are never turned, as in the code. "" turns all alike.

  Raises:
    UserError: p or unit that cannot be.

  Reference: The Climb Carves Wisdom Deeper Than the Summit, arXiv 2505.22653.
  """
  if not 0 <= p <= 1 or unit not in noise.UNITS:
    raise UserError(
      f"flips with p={p} of each unit={unit!r}",
      "p is a chance, and a flip is of a question or of one answer",
      f"use p from 0 to 1 and one of {', '.join(noise.UNITS)}",
    )

  # State and no constants: one compiled step for every seed and rate.
  impl = jax.random.key_impl(key)

  def init() -> dict[str, Array]:
    return {
      "key": jax.random.key_data(key) + 0,  # a buffer of its own, for donation
      "p": jnp.asarray(p, jnp.float32),
      "batches": jnp.zeros((), jnp.int32),
    }

  def update(score: Score, state: dict[str, Array], rollout: Rollout):
    root = jax.random.wrap_key_data(state["key"], impl=impl)
    drawn = jax.random.fold_in(root, state["batches"])
    on = noise.flips(drawn, state["p"], rollout.group, unit) & score.valid
    if answered:
      on &= shaping.part(score, answered) > 0.5
    value = noise.flip(score.value, on)
    after = {**state, "batches": state["batches"] + 1}
    return score._replace(value=value), after

  return Shaping(init, update, reads=(answered,) if answered else ())


def calibrate(tau: float, alpha: float, aux: str) -> Shaping:
  """min(1, u + alpha aux) where the score u lies below tau, u elsewhere.

  Args:
    tau: scores from here on are trusted; 0.5 in the paper.
    alpha: 0.1 in the paper for a reward model; 1 with a verifier of 0 and 1,
      whose wrong answers then earn aux.
    aux: any component: phrases of reasoning in the paper. Where it is unknown
      (NaN) and read, the row has no judgement.

  Raises:
    UserError: tau or alpha that cannot be, or no name.

  Reference: arXiv 2505.22653.
  """
  if not (math.isfinite(tau) and 0 <= alpha < math.inf and aux):
    raise UserError(
      f"calibration of scores below tau={tau} with {alpha} of {aux!r}",
      "a signal that the reward reports is added to them",
      "name a component, with a finite tau and alpha of 0 or more",
    )

  def raised(u: Array, score: Score, *_) -> Array:
    return noise.calibrate(u, shaping.part(score, aux), tau, alpha)

  return shaping.each((), raised, reads=(aux,))
