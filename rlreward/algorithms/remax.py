"""ReMax: the baseline of a sample is the reward of the greedy answer.

  A = R(x, y) - R(x, greedy(x));  L = -mean over responses of sum_t A log pi

Reference: ReMax, arXiv 2310.10505. One sample of each prompt and one greedy
answer, which is judged and never trained on. The greedy answer's own KL is not
taken off its reward: the baseline may be any number that the sample does not
change.
"""

from __future__ import annotations

from rlreward.algorithms import grpo, reinforce, rloo
from rlreward.steps import checks, online
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """ReMax; the paper's KL is in the reward (`kl_reward.beta`)."""
  checks.loss(config.loss)
  return online.make(
    config,
    task,
    loss=grpo.regularised(rloo.surrogate(config), config),
    credit=reinforce.greedy(grpo.penalty(config)),
    aggregate="seq_mean_token_sum",
  )
