"""Clip and delta: a process reward that cannot be earned by repeating steps.

  q_k = min(p_k - eta, 0)  (clip);  r_k = alpha (q_k - q_(k+1)) for k < S - 1,
  alpha q_(S-1) at S - 1, 0 at S  (delta);  the success c is at the last token

so that what follows from step k on is alpha q_k + c for k < S, and c at the
last step, whose score is never used. Rewards of good steps that add up
(`process.kind="raw"`) pay for steps without end, and delta alone still pays
alpha p_k for going on against 0 for the answer: clipped scores only punish bad
steps. `process.kind` is any of `ops.process`: `orm` is one score of the whole
answer, `none` success alone.

`process.quantile` puts eta at that quantile of the steps of the first rollout,
which is the start's (`rewards.process.shaped`). Scores of steps come from the
task's reward, or for text from the function that `process.judge` names.

Reference: On Designing Effective RL Reward at Training Time for LLM Reasoning,
arXiv 2410.15115.
Differs from the paper: eta is a quantile by default. PPO as there;
`credit.baseline="group"` is without a critic: returns of tokens less the mean
return of the prompt's samples from the same step on.
"""

from __future__ import annotations

from rlreward.algorithms import grpo
from rlreward.ops import policy
from rlreward.rewards import process
from rlreward.steps import checks, credit, online
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """PPO, or returns against the group's, on rewards of steps."""
  checks.loss(config.loss)
  checks.credit(config.credit)
  c, p, penalty = config.credit, config.process, grpo.penalty(config)
  checks.choice("credit.baseline", c.baseline, ("", "critic", "group"),
                "a critic makes it PPO, the group needs none")  # fmt: skip
  fields = ("gamma", "lam", "whiten_reward", "whiten", "target")
  assigned = credit.gae(penalty, **{name: c[name] for name in fields})
  if c.baseline == "group":
    grpo.check(config)
    assigned = credit.reward_to_go(penalty, gamma=c.gamma, center="step")
  loss = policy.clipped(*grpo.clip(config.loss, 0.2, 0.2),
                        config.loss.dual_clip)  # fmt: skip
  return online.make(
    config,
    process.judged(task, p.judge, p.separator),
    loss=grpo.regularised(loss, config),
    credit=assigned,
    aggregate="token_mean",
    shaping=process.shaped(p.kind, p.alpha, p.eta, p.quantile),
  )
