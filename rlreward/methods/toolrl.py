"""ToolRL: tool calls are paid for their parts, not only for being all right.

  r = f(t) format + c(t) match + length,  format in {0, 1}, match in [-1, 1]
  match = 2 S / S_max - 1,  S = J(names) + sum_gold max_call (J(keys) + #equal)

with J the Jaccard index of multisets and S_max what the right calls have; then
GRPO without a KL. `calls.match` is how finely a match is graded: fine; strict,
names and keys all or nothing; intermediate, 1 for a call that is right as a
whole; coarse, all calls or nothing; optimal pairs calls by the best assignment,
where the others go through the gold calls in order. `calls.scale` gives f and c
at step t: paper 1 and 3; equal 1 and 1; two_stage 1 and 1 before step 30, 1/2
and 3 from it on; linear from 2 to 1 and from 2 to 3 in 150 steps.
`calls.length` adds min(1, words of the thought / target): fixed 512, or moving
from 384 to 640 in 105 steps.

Reference: ToolRL: Reward is All Tool Learning Needs, arXiv 2504.13958.
Differs from the paper: the low end of the format is 0 under all scales, and a
moving target stays at its end. Calls that are equal in any order are right.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from rlreward.algorithms import grpo
from rlreward.ops import advantage, calls, lengths, policy
from rlreward.rewards import shaping
from rlreward.steps import checks, credit, online
from rlreward.types import Array, Method, Rollout, Score, Shaping, Task

MATCHES = (*calls.MATCHES, "optimal")
SCALES = ("paper", "equal", "two_stage", "linear")
LENGTHS = ("", "fixed", "moving")
TURN, RAMP, LONGER = 30, 150, 105  # steps


def make(config, task: Task) -> Method:
  """GRPO on the reward of calls that `config.calls` describes."""
  grpo.check(config)
  check(config.calls)
  loss = policy.clipped(*grpo.clip(config.loss, 0.2, 0.2),
                        config.loss.dual_clip)  # fmt: skip
  return online.make(
    config,
    task,
    loss=grpo.regularised(loss, config),
    credit=credit.group(advantage.group_advantage, grpo.penalty(config)),
    aggregate="seq_mean_token_mean",
    shaping=shaper(config.calls),
  )


def shaper(c) -> Shaping:
  """Format, match and length, weighed by the step; its state is the step.

  Args:
    c: section `calls`, see `configs/common.py`.
  """
  reads = ("format", c.match, *(("words",) if c.length else ()))

  def update(score: Score, step: Array, rollout: Rollout):
    del rollout
    part = lambda name: shaping.part(score, name)
    form, match = scales(c.scale, step)
    value = form * part("format") + match * part(c.match)
    if c.length:
      goal: Any = target(c.length, step)
      value += lengths.linear(part("words"), goal, 1.0)
    known = score.valid & jnp.isfinite(value)
    paid = score._replace(value=jnp.where(known, value, 0), valid=known)
    return paid, step + 1

  return Shaping(lambda: jnp.zeros((), jnp.int32), update, 0, reads)


def scales(scale: str, step: Array) -> tuple[Array, Array]:
  """(f, c): f32[] weights of the format and of the match at a step.

  Args:
    scale: one of SCALES.
    step: i32[], from 0.
  """
  late = jnp.asarray(step) >= TURN
  share = jnp.clip(jnp.asarray(step) / RAMP, 0.0, 1.0)
  found = {
    "paper": (1.0, 3.0),
    "equal": (1.0, 1.0),
    "two_stage": (jnp.where(late, 0.5, 1.0), jnp.where(late, 3.0, 1.0)),
    "linear": (2.0 - share, 2.0 + share),
  }[scale]
  form, match = (jnp.asarray(x, jnp.float32) for x in found)
  return form, match


def target(length: str, step: Array) -> Array:
  """f32[]: words of a thought that earn 1.

  Args:
    length: "fixed" or "moving".
    step: i32[], from 0.
  """
  share = jnp.clip(jnp.asarray(step) / LONGER, 0.0, 1.0)
  moving = 384.0 + (640.0 - 384.0) * share
  return jnp.asarray(512.0 if length == "fixed" else moving, jnp.float32)


def check(c) -> None:
  """Refuses words that are not known with a UserError."""
  why = "it says what is paid for calls"
  checks.choice("calls.match", c.match, MATCHES, why)
  checks.choice("calls.scale", c.scale, SCALES, why)
  checks.choice("calls.length", c.length, LENGTHS, why)
