"""GSPO: ratio and clip of the whole response, normalised by its length.

  s = exp(mean_t (logp_t - old_t));  L = -mean min(s A, clip(s) A)

Reference: Group Sequence Policy Optimization, arXiv 2507.18071. Clip 3e-4 and
4e-4: the ratio is a geometric mean, so it moves little.
"""

from __future__ import annotations

from rlreward.algorithms import grpo
from rlreward.ops import advantage, policy
from rlreward.steps import credit, online
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """GSPO; the paper has no KL term (`loss.kl_beta` 0)."""
  grpo.check(config)
  c = config.loss
  loss = policy.clipped(
    *grpo.clip(c, 3e-4, 4e-4), c.dual_clip, level="sequence"
  )
  return online.make(
    config,
    task,
    loss=grpo.regularised(loss, config),
    credit=credit.group(advantage.group_advantage, grpo.penalty(config)),
    aggregate="seq_mean_token_mean",
  )
