"""KTO: answers are good or bad by themselves, measured from a moving zero.

  g = log pi/ref(y);  z0 = max(0, mean of g over mismatched prompts and answers)
  L = w_D (1 - sigma(beta (g - z0))) for good, w_U (1 - sigma(beta (z0 - g)))

Reference: KTO, arXiv 2402.01306. z0 is of the whole batch and carries no
gradient; each prompt takes the answer of the next row. The paper wants
w_D n_D / (w_U n_U) between 1 and 4/3 (`preference.desirable`, `undesirable`).
"""

from __future__ import annotations

import jax.numpy as jnp

from rlreward import errors
from rlreward.ops import masked, unpaired
from rlreward.steps import checks, fit, objective, roles, singles
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """KTO as `config.preference` describes it."""
  c, slots = config.preference, fit.slots(task)
  beta = 0.1 if c.beta is None else c.beta
  checks.preference(config, "sigmoid", beta, 0.0, 0.0)
  if config.prompts_per_step < 2:
    raise errors.UserError(
      f"prompts_per_step={config.prompts_per_step} with kto",
      "the zero of the scale comes from other rows' answers",
      "set prompts_per_step=2 or more, 32 is usual",
    )
  if config.reference == "data":
    raise errors.UserError(
      "reference='data' with kto",
      "the zero of the scale needs the reference's log-probs of other rows'"
      " answers, which are no column of the data",
      "set reference='auto'",
    )
  actor = roles.policy(config.model)

  def zero(compute, rows, state):
    other = singles.mismatched(rows, slots)
    mask = other["loss"][:, -slots:]
    total = lambda role: masked.masked_sum(compute(role, other), mask, 1)
    known = objective.valid(rows)
    known &= jnp.roll(known, -1)
    point = unpaired.kto_reference(total("policy") - total("reference"), known)
    return {**rows, "zero": point}, state

  def loss(ratio, rows):
    return unpaired.kto(
      ratio,
      rows["label"],
      rows["zero"],
      beta=beta,
      desirable_weight=c.desirable,
      undesirable_weight=c.undesirable,
    )

  found = singles.make(actor, slots, loss, beta=beta, prepare=zero)
  return fit.make(config, task, actor, found, source="labelled")
