"""Online DPO: the policy's own best and worst answers are the pair.

  y_w, y_l = best and worst of G samples;  L = -log sigma(beta (h_w - h_l))

Reference: Direct Language Model Alignment from Online AI Feedback, arXiv
2402.04792. G is 2 in the paper; pairs of equal reward do not count. The
reference is the policy at the start of the run.
"""

from __future__ import annotations

from rlreward.algorithms import dpo, grpo
from rlreward.steps import choose, iterate, roles
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """Online DPO as `config.preference` describes it."""
  return pairs(config, task, select=choose.best_and_worst)


def pairs(config, task: Task, *, least: int = 2, **more) -> Method:
  """Rounds of DPO on pairs that the policy takes part in.

  Args:
    config: section `preference`.
    task: prompts and rewards.
    least: samples of each prompt that are needed.
    **more: arguments of `iterate.make`.
  """
  if least > 1:
    grpo.check(config)
  iterate.check_units(config, config.prompts_per_step, "pairs")
  actor = roles.policy(config.model)
  slots = config.sampling.max_new_tokens
  found = dpo.loss(config, actor, slots, "sigmoid", 0.1)
  return iterate.make(config, task, actor, found, **more)
