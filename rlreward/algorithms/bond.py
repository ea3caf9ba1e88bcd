"""BOND: distils the best of n into one sample, by its law instead of its data.

  r'(x, y) = log pi_N(y|x) / ref(y|x) = log (F^n - F_-^n) / (F - F_-)
  L = policy gradient of E[r'] - KL(pi || ref), which is -KL(pi || pi_N)

Reference: BOND, arXiv 2407.14622; vBoN, arXiv 2407.06057. F is the share of the
reference's rewards at most r, from `best_of_n.anchors` samples of it for each
prompt, so a monotone transform of the reward changes nothing. Differs from
J-BOND, which adds the forward KL and a moving anchor: this is the backward KL
to the best of n of the fixed reference, whose optimum is known. The leave-one-
out baseline is RLOO's.
"""

from __future__ import annotations

import functools

from rlreward import errors
from rlreward.algorithms import grpo, rloo
from rlreward.ops import advantage, best_of_n
from rlreward.steps import checks, credit, online
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """BOND; the coefficient of the KL is 1 unless `kl_reward.beta` says else."""
  grpo.check(config)
  if config.loss.kl_beta:
    raise errors.UserError(
      f"loss.kl_beta={config.loss.kl_beta} with bond, whose kl_reward.beta is"
      f" {config.kl_reward.beta or 1.0}",
      "the KL to the reference would be paid for twice",
      "set loss.kl_beta=0",
    )
  c = config.best_of_n
  checks.best_of_n(config)
  loo = functools.partial(advantage.group_advantage, center="loo", scale="none")

  def law(s: credit.Signals):
    found = best_of_n.log_ratio(
      s.grouped(s.reward), s.aside, s.aside_valid, c.n
    )
    return found.reshape(-1)

  def read(s: credit.Signals):
    return loo(s.grouped(s.reward), s.grouped(s.valid)).reshape(-1)

  return online.make(
    config,
    task,
    loss=grpo.regularised(rloo.surrogate(config), config),
    credit=credit.sequence(
      read,
      grpo.penalty(config) or credit.Penalty(1.0),
      (credit.Aside("reference", c.anchors),),
      law,
    ),
    aggregate="seq_mean_token_sum",
  )
