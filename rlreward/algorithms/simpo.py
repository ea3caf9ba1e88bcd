"""SimPO: the reward is the mean log-prob of a token; there is no reference.

  L = -log sigma(beta (log pi(y_w) / |y_w| - log pi(y_l) / |y_l|) - gamma)

Reference: SimPO, arXiv 2405.14734. beta 2, gamma 1 (`preference.margin`), the
middle of the ranges that its authors searched.
"""

from __future__ import annotations

from rlreward.algorithms import dpo
from rlreward.steps import fit, roles
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """SimPO as `config.preference` describes it."""
  actor = roles.policy(config.model)
  found = dpo.loss(
    config,
    actor,
    fit.slots(task),
    "sigmoid",
    2.0,
    referenced=False,
    normalise="mean",
    margin=1.0,
  )
  return fit.make(config, task, actor, found, source="preferences")
