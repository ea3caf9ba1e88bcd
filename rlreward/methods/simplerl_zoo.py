"""RL from a base model: paid for what is right, not for how it is boxed.

  r = table[right][formed];  A = (r - mean r) / (sd r + eps)
  L = mean over tokens of -min(rho A, clip(rho) A) + beta k3 - c H

`format.table` names the rewards of (wrong, right) x (unformed, formed):

  correct  ((0, 0), (1, 1)), the paper's choice: the format earns nothing
  strict   ((-1, -0.5), (0.5, 1))
  mix      ((p, -0.5), (p, 1)), p = format.penalty: whatever is not formed pays,
           right or wrong, so that a policy which is right but seldom boxes
           leaves that way of answering before it has learned to box

GRPO with the spread of the group (ddof 1), PPO's clip, and one mean over all
tokens of the batch.

Reference: SimpleRL-Zoo, arXiv 2503.18892.
Differs from the paper: nothing in the objective; answers are read and compared
by our own verifiers (`verify:math`, `verify:boxed`).
"""

from __future__ import annotations

import math

from rlreward import errors
from rlreward.algorithms import grpo
from rlreward.ops import advantage, policy
from rlreward.rewards import combine
from rlreward.steps import checks, credit, online
from rlreward.types import Method, Task

TABLES = ("correct", "strict", "mix")


def make(config, task: Task) -> Method:
  """GRPO with a mean over tokens, on the table of `config.format`."""
  grpo.check(config)
  c = config.format
  check(c)
  loss = policy.clipped(*grpo.clip(config.loss, 0.2, 0.2),
                        config.loss.dual_clip)  # fmt: skip
  return online.make(
    config,
    task,
    loss=grpo.regularised(loss, config),
    credit=credit.group(advantage.group_advantage, grpo.penalty(config)),
    aggregate="token_mean",
    shaping=combine.table(
      c.right, "" if c.table == "correct" else c.formed, values(c)
    ),
  )


def values(c) -> tuple[tuple[float, float], tuple[float, float]]:
  """Rewards of (wrong, right) x (unformed, formed).

  Args:
    c: the section `format`.
  """
  return {
    "correct": ((0.0, 0.0), (1.0, 1.0)),
    "strict": ((-1.0, -0.5), (0.5, 1.0)),
    "mix": ((c.penalty, -0.5), (c.penalty, 1.0)),
  }[c.table]


def check(c) -> None:
  """Refuses an unknown table, no format to read, and no finite penalty."""
  checks.choice("format.table", c.table, TABLES,
                "it says what right and formed answers earn")  # fmt: skip
  checks.ranges(
    "format",
    (("penalty", c.penalty, abs(c.penalty) < math.inf, "a finite number",
      "it is a reward"),),
  )  # fmt: skip
  if c.table != "correct" and not c.formed:
    raise errors.UserError(
      f"format.table={c.table!r} with format.formed=''",
      "what it pays depends on the format of an answer",
      "set format.formed to a component of the reward, such as 'boxed'",
    )
