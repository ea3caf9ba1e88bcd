"""XPO: online DPO with an answer of the reference, and a bonus for leaving it.

  y ~ pi, y' ~ ref;  L = -log sigma(beta (h_w - h_l)) + alpha log pi/ref(y')

Reference: Exploratory Preference Optimization, arXiv 2405.21046. alpha is
`preference.explore`, 1e-5 as in TRL; the better of the two answers is chosen by
the reward. One sample of each prompt and one of the reference.
"""

from __future__ import annotations

import jax.numpy as jnp

from rlreward.algorithms import dpo
from rlreward.ops import unpaired
from rlreward.steps import choose, credit, iterate, objective, roles
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """XPO as `config.preference` describes it."""
  iterate.check_units(config, config.prompts_per_step, "pairs")
  actor = roles.policy(config.model)
  pair = dpo.shape(config, "sigmoid", 0.1)
  alpha = config.preference.explore

  def loss(chosen, rejected, columns):
    other = jnp.where(columns["second_chosen"], chosen, rejected)
    bonus = unpaired.exploration(other, alpha=alpha)
    return pair(chosen, rejected, columns) + bonus

  beta = config.preference.beta
  found = objective.pairs(
    actor,
    config.sampling.max_new_tokens,
    loss,
    referenced=True,
    beta=0.1 if beta is None else beta,
  )
  return iterate.make(
    config,
    task,
    actor,
    found,
    select=choose.first_two(config.samples_per_prompt),
    asides=(credit.Aside("reference", 1),),
  )
