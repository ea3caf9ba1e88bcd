"""Format and length in place of the answer: RL without a gold answer.

  format_length  (s + a) / 2 + R(n) where a = 1, else min(0, R(n))
  format_only    (s + a) / 2
  correctness    s / 2 + 1[right]
  R(n) = 1 - (1 - x / p)^2 for x <= p, 1 - 2 ((x - p) / (1 - p))^2 above it

with x = n / max_new_tokens of an answer's n tokens, the prompt not among them,
s whether it has a thought and a whether an answer can be read. R is 0 for no
tokens, 1 at the peak p and -1 at the limit: an unreadable answer never earns
from its length and still pays for being too long. `shaping.link` names one of
the three and `shaping.names` the components s, a and, for `correctness` alone,
whether it is right. The step is GRPO's.

Reference: Surrogate Signals from Format and Length, arXiv 2505.19439.
Differs from the paper: nothing in the rewards. The loss is a mean over tokens;
GRPO's mean over responses first pays for short answers beside the reward.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from rlreward import errors
from rlreward.algorithms import grpo
from rlreward.ops import advantage, lengths, policy
from rlreward.rewards import shaping
from rlreward.steps import checks, credit, online
from rlreward.types import Array, Method, Rollout, Score, Shaping, Task

LINKS = {"format_length": 2, "format_only": 2, "correctness": 3}
PARTS = ("thought", "answered", "correct")


def make(config, task: Task) -> Method:
  """GRPO on the reward that `config.shaping` names."""
  grpo.check(config)
  c = config.loss
  loss = policy.clipped(*grpo.clip(c, 0.2, 0.2), c.dual_clip)
  return online.make(
    config,
    task,
    loss=grpo.regularised(loss, config),
    credit=credit.group(advantage.group_advantage, grpo.penalty(config)),
    aggregate="token_mean",
    shaping=shaper(config.shaping, config.sampling.max_new_tokens),
  )


def shaper(c, most: int) -> Shaping:
  """The reward of a section `shaping`.

  Args:
    c: see `configs/common.py`.
    most: the budget of tokens.

  Raises:
    UserError: fields that cannot be.
  """
  check(c)
  names = (tuple(c.names) or PARTS)[: LINKS[c.link]]
  reward = rewards(most, c.peak)[c.link]

  def run(score: Score, rollout: Rollout) -> Score:
    parts = [shaping.part(score, name) for name in names]
    known = score.valid
    for part in parts:
      known &= jnp.isfinite(part)
    n = jnp.sum(rollout.action, -1)
    value = reward([part > 0.5 for part in parts], n)
    return score._replace(value=jnp.where(known, value, 0), valid=known)

  return shaping.stateless(run, reads=names)


def rewards(most: int, peak: float) -> dict[str, Callable[..., Array]]:
  """{link: (components as bool[N], lengths [N]) -> f32[N]}.

  Args:
    most: the budget of tokens.
    peak: see `ops.lengths.parabola`.
  """
  one = lambda part: part.astype(jnp.float32)
  return {
    "format_length": lambda p, n: lengths.format_length(
      p[0], p[1], n, most, peak
    ),
    "format_only": lambda p, n: 0.5 * (one(p[0]) + one(p[1])),
    "correctness": lambda p, n: 0.5 * one(p[0]) + one(p[2]),
  }


def check(c) -> None:
  """Refuses unknown words and numbers out of their range with a UserError."""
  checks.choice("shaping.link", c.link, tuple(LINKS),
                "it is what an answer is paid for")  # fmt: skip
  need = LINKS[c.link]
  if c.names and len(c.names) < need:
    raise errors.UserError(
      f"shaping.names={tuple(c.names)} with shaping.link={c.link!r}",
      f"the reward reads {need} components: {', '.join(PARTS[:need])}",
      "name the component of each, in this order",
    )
  checks.ranges(
    "shaping",
    (
      ("peak", c.peak, 0 < c.peak < 1, "inside (0, 1)",
       "the curve of lengths is divided by it and by 1 - peak"),
    ),
  )  # fmt: skip
