"""Dr. GRPO: GRPO without its two biased normalisers.

  A = r - mean r;  L = sum_t min-clip loss / (N * max_new_tokens)

Dividing by a length or a spread that the policy controls rewards long wrong
answers and short right ones; a constant does not.

Reference: Understanding R1-Zero-Like Training, arXiv 2503.20783. The constant
is N * max_new_tokens (Oat, TRL); verl divides by max_new_tokens alone.
"""

from __future__ import annotations

import functools

from rlreward.algorithms import grpo
from rlreward.ops import advantage, policy
from rlreward.steps import online, turn_credit
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """Dr. GRPO; the paper has no KL term (`loss.kl_beta` 0)."""
  grpo.check(config)
  c = config.loss
  loss = policy.clipped(*grpo.clip(c, 0.2, 0.2), c.dual_clip)
  return online.make(
    config,
    task,
    loss=grpo.regularised(loss, config),
    credit=turn_credit.chosen(
      config,
      task,
      functools.partial(advantage.group_advantage, center="mean", scale="none"),
      grpo.penalty(config),
    ),
    aggregate="const",
  )
