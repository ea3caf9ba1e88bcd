"""Nash-MD: the policy learns to beat a mixture of itself and the reference.

  y ~ pi, y' ~ pi^(1 - s) ref^s / Z;  P = sigma(r(y) - r(y'))
  L = -mean over responses of (P - 1/2 - beta log pi/ref(y)) sum_t log pi

Reference: Nash Learning from Human Feedback, arXiv 2312.00886. s is
`preference.mixture` and beta `kl_reward.beta`. The preference is that of a
Bradley-Terry model with the task's reward; with it the equilibrium is the
policy that wins against itself, not the one of highest mean reward.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlreward.algorithms import grpo, rloo
from rlreward.ops import masked
from rlreward.steps import checks, credit, online
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """Nash-MD-PG; the KL in the reward is that of the whole response."""
  checks.loss(config.loss)
  checks.preference(config, "sigmoid", 1.0, 0.0, 0.0)
  share = config.preference.mixture

  def wins(s: credit.Signals):
    """P(y beats y') - 1/2, 0 where one of them has no judgement."""
    gap = s.grouped(s.reward) - s.aside[:, :1]
    known = s.grouped(s.valid) & s.aside_valid[:, :1]
    return masked.clean(jax.nn.sigmoid(gap) - 0.5, known).reshape(-1)

  return online.make(
    config,
    task,
    loss=grpo.regularised(rloo.surrogate(config), config),
    credit=credit.sequence(
      lambda s: jnp.where(s.valid, s.reward, 0),
      grpo.penalty(config),
      (credit.Aside("mixture", 1, share=share),),
      wins,
    ),
    aggregate="seq_mean_token_sum",
  )
