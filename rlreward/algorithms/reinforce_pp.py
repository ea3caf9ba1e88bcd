"""REINFORCE++: PPO without a critic, whitened over the whole batch.

  R_t = sum_{s >= t} gamma^(s - t) (1[s = last] r - beta k1_s)
  A = (R - mean) / sd over all actions of the batch;  L = -min(rho A, clip A)

Reference: REINFORCE++, arXiv 2501.03262. `credit.baseline="group"` is its
baseline form: the mean reward of the prompt's samples is taken off first. The
paper has one sample of each prompt, and several in the baseline form.
"""

from __future__ import annotations

from rlreward.algorithms import grpo
from rlreward.ops import policy
from rlreward.steps import checks, credit, online
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """REINFORCE++; the paper's KL is in the reward (`kl_reward.beta`)."""
  checks.loss(config.loss)
  checks.credit(config.credit)
  c = config.credit
  checks.choice("credit.baseline", c.baseline, ("", "none", "group"),
                "it is what is taken off a reward first")  # fmt: skip
  if c.baseline == "group":
    grpo.check(config)
  loss = policy.clipped(*grpo.clip(config.loss, 0.2, 0.2),
                        config.loss.dual_clip)  # fmt: skip
  return online.make(
    config,
    task,
    loss=grpo.regularised(loss, config),
    credit=credit.reward_to_go(
      grpo.penalty(config), gamma=c.gamma, center=c.baseline or "none"
    ),
    aggregate="token_mean",
  )
