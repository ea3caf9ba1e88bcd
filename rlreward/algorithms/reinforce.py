"""REINFORCE with the baseline of your choice: L = -mean sum_t (r - b) log pi.

`credit.baseline`: running (default; mean of earlier steps), none, batch (mean
of this one), greedy (self-critical: the greedy answer), group (the prompt's
mean), length (OPO: the mean weighted by length, sum L r / sum L, which is
optimal where a token's gradients are equal and orthogonal), gpg (the group
mean, rescaled by the prompts that still vary, no clip, token mean).

Reference: Williams 1992; SCST, arXiv 1612.00563; OPO, arXiv 2505.23585; GPG,
arXiv 2504.02546.
"""

from __future__ import annotations

import functools

from rlreward.algorithms import grpo, rloo
from rlreward.ops import advantage
from rlreward.steps import checks, credit, online
from rlreward.types import Method, Task

BASELINES = ("running", "none", "batch", "greedy", "group", "length", "gpg")


def make(config, task: Task) -> Method:
  """REINFORCE as `credit.baseline` describes it."""
  checks.loss(config.loss)
  checks.credit(config.credit)
  name = config.credit.baseline or "running"
  checks.choice("credit.baseline", name, BASELINES,
                "it is what is taken off a reward")  # fmt: skip
  if name in ("group", "length", "gpg"):
    grpo.check(config)
  return online.make(
    config,
    task,
    loss=grpo.regularised(rloo.surrogate(config), config),
    credit=_credit(name, config.credit.decay, grpo.penalty(config)),
    aggregate="token_mean" if name == "gpg" else "seq_mean_token_sum",
  )


def _credit(name: str, decay: float, penalty) -> credit.Credit:
  none = functools.partial(
    advantage.group_advantage, center="none", scale="none"
  )
  mean = functools.partial(
    advantage.group_advantage, center="mean", scale="none"
  )
  return {
    "running": lambda: credit.running_mean(decay, penalty),
    "none": lambda: credit.group(none, penalty),
    "batch": lambda: credit.sequence(
      lambda s: advantage.minus_mean(s.reward, s.valid), penalty
    ),
    "greedy": lambda: greedy(penalty),
    "group": lambda: credit.group(mean, penalty),
    "length": lambda: credit.sequence(_by_length, penalty),
    "gpg": lambda: credit.group(advantage.rescaled_mean, penalty),
  }[name]()


def greedy(penalty: credit.Penalty | None) -> credit.Credit:
  """Reward minus that of the greedy answer; 0 where that has no judgement."""

  def read(s: credit.Signals):
    found = advantage.minus(
      s.grouped(s.reward), s.grouped(s.valid), s.aside, s.aside_valid
    )
    return found.reshape(-1)

  return credit.sequence(read, penalty, (credit.Aside("policy", 1, True),))


def _by_length(s: credit.Signals):
  length = s.grouped(s.action.sum(1))
  found = advantage.minus_length_weighted(
    s.grouped(s.reward), s.grouped(s.valid), length
  )
  return found.reshape(-1)
