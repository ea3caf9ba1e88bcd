"""RLOO: the baseline of a sample is the mean reward of the others.

  R = r - beta sum_t (log pi - log ref)_t;  A_i = R_i - mean_{j != i} R_j
  L = -mean over responses of sum_t A log pi

Reference: Back to Basics, arXiv 2402.14740. The response is one action, so its
log-prob is a sum over tokens. With several updates for each rollout the tokens
are weighed and clipped as in PPO (verl); the paper makes one.
"""

from __future__ import annotations

import functools

from rlreward.algorithms import grpo
from rlreward.ops import advantage, policy
from rlreward.steps import credit, online
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """RLOO; the paper's KL is in the reward (`kl_reward.beta`)."""
  grpo.check(config)
  return online.make(
    config,
    task,
    loss=grpo.regularised(surrogate(config), config),
    credit=credit.group(
      functools.partial(advantage.group_advantage, center="loo", scale="none"),
      grpo.penalty(config),
    ),
    aggregate="seq_mean_token_sum",
  )


def surrogate(config) -> policy.Loss:
  """-A log pi, or PPO's clip where a rollout is used more than once."""
  if config.updates_per_step * config.epochs == 1:
    return policy.reinforce()
  c = config.loss
  return policy.clipped(*grpo.clip(c, 0.2, 0.2), c.dual_clip)
