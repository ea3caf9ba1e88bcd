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
from rlreward.ops import advantage, masked, policy
from rlreward.steps import checks, credit, online
from rlreward.types import Method, Shaping, Task

BASELINES = ("", "critic", "group")


def make(config, task: Task) -> Method:
  """PPO as `config.credit`, `config.critic` and `config.loss` describe it."""
  return shaped(config, task, None, own(config))


def either(config, task: Task, shaping: Shaping | None) -> Method:
  """PPO, or GRPO where `credit.baseline` is "group": papers that ran both.

  Args:
    config: see `configs/common.py`.
    task: prompts and rewards.
    shaping: of its scores.

  Raises:
    UserError: fields that cannot be.
  """
  checks.choice("credit.baseline", config.credit.baseline, BASELINES,
                "a critic makes it PPO, the group GRPO")  # fmt: skip
  if config.credit.baseline != "group":
    return shaped(config, task, shaping, own(config))
  grpo.check(config)
  assigned = credit.group(advantage.group_advantage, grpo.penalty(config))
  return shaped(config, task, shaping, assigned, "seq_mean_token_mean")


def own(config) -> credit.Credit:
  """GAE as `config.credit` describes it."""
  checks.credit(config.credit)
  fields = ("gamma", "lam", "whiten_reward", "whiten", "target")
  c = {name: config.credit[name] for name in fields}
  return credit.gae(grpo.penalty(config), **c)


def shaped(
  config, task, shaping, assigned, mode: masked.Mode = "token_mean"
) -> Method:
  """The clipped loss on rewards as `shaping` leaves them."""
  checks.loss(config.loss)
  loss = policy.clipped(*grpo.clip(config.loss, 0.2, 0.2),
                        config.loss.dual_clip)  # fmt: skip
  loss = grpo.regularised(loss, config)
  return online.make(config, task, loss=loss, credit=assigned, aggregate=mode,
                     shaping=shaping)  # fmt: skip
