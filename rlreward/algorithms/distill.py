"""Distillation: a student meets its teacher's distribution at every token.

  L = mean_t D(teacher(. | s_t), student(. | s_t)) over the whole vocabulary,
  D = forward KL(teacher||student), reverse KL(student||teacher), or JS

Reference: GKD, arXiv 2306.13649. `distill.on_policy` is the share of the
student's own samples: 1 (default) is on-policy distillation, 0 trains on the
task's demonstrations without sampling, between them each prompt has the
demonstrated answer or a sample. No gradient passes through the sampling. The
logits of neither model are ever held whole.
"""

from __future__ import annotations

from rlreward.steps import choose, distil, fit, iterate, roles
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """Distillation as `config.distill` and `config.teacher` describe it."""
  actor = roles.policy(config.model)
  share = config.distill.on_policy
  if share == 0:
    found = distil.objective_of(config, actor, 0)
    return fit.make(config, task, actor, found, source="demonstrations")
  if share < 1:
    choose.check_demonstrated(config, task)
  iterate.check_units(config, config.prompts_per_step, "prompts")
  slots = config.sampling.max_new_tokens
  return iterate.make(
    config,
    task,
    actor,
    distil.objective_of(config, actor, slots),
    select=choose.mixed(share),
    columns=choose.ANSWER if share < 1 else (),
  )
