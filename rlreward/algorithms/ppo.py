"""PPO: a critic says what each action was worth more than expected.

  A = GAE(r - beta (log pi - log ref), V);  L = -min(rho A, clip(rho) A)
  L_V = 0.5 max((V - R)^2, (clip(V, V_old +- e) - R)^2),  R = A + V_old

Reference: PPO, arXiv 1707.06347; for language models, arXiv 1909.08593. The KL
is in the reward (`kl_reward`, fixed or steered to a target) or in the loss
(`loss.kl_beta`), never in both. Passes over a rollout are `updates_per_step` x
`epochs`; `loss.kl_stop` ends them early. The critic is a model of its own with
its own optimiser, or a head on the policy's trunk (`critic.shared`).
"""

from __future__ import annotations

from rlreward.algorithms import grpo
from rlreward.ops import policy
from rlreward.steps import checks, credit, online
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """PPO as `config.credit`, `config.critic` and `config.loss` describe it."""
  checks.loss(config.loss)
  checks.credit(config.credit)
  c = config.credit
  loss = policy.clipped(*grpo.clip(config.loss, 0.2, 0.2),
                        config.loss.dual_clip)  # fmt: skip
  return online.make(
    config,
    task,
    loss=grpo.regularised(loss, config),
    credit=credit.gae(
      grpo.penalty(config),
      gamma=c.gamma,
      lam=c.lam,
      whiten_reward=c.whiten_reward,
      whiten=c.whiten,
      target=c.target,
    ),
    aggregate="token_mean",
  )
