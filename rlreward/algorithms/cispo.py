"""CISPO: clips the importance weight, never the gradient of a token.

  L = -sg[clip(rho, 1 - low, 1 + high)] A log pi, averaged over tokens

Reference: MiniMax-M1, arXiv 2506.13585. The paper leaves the lower side
unclipped (low 1) and tunes the upper one; 0.2 here unless the config says.
"""

from __future__ import annotations

from rlreward.algorithms import grpo
from rlreward.ops import advantage, policy
from rlreward.steps import credit, online
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """CISPO; the paper has no KL term (`loss.kl_beta` 0)."""
  grpo.check(config)
  c = config.loss
  loss = policy.cispo(*grpo.clip(c, 1.0, 0.2))
  return online.make(
    config,
    task,
    loss=grpo.regularised(loss, config),
    credit=credit.group(advantage.group_advantage, grpo.penalty(config)),
    aggregate="token_mean",
  )
