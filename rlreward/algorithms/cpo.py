"""CPO: DPO without its reference, held in place by the chosen answers.

  L = -log sigma(beta (log pi(y_w) - log pi(y_l))) + lambda NLL(y_w)

Reference: Contrastive Preference Optimization, arXiv 2401.08417. lambda
(`preference.nll`) is 1 and the NLL a mean over the answer's tokens.
"""

from __future__ import annotations

from rlreward.algorithms import dpo
from rlreward.steps import fit, roles
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """CPO as `config.preference` describes it."""
  actor = roles.policy(config.model)
  found = dpo.loss(
    config,
    actor,
    fit.slots(task),
    "sigmoid",
    0.1,
    referenced=False,
    nll=1.0,
  )
  return fit.make(config, task, actor, found, source="preferences")
