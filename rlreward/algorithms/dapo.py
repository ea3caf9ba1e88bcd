"""DAPO: clip-higher, token-mean loss, dynamic sampling, overlong shaping.

  L = sum_t -min(rho A, clip(rho, 1 - 0.2, 1 + 0.28) A) / number of tokens

Groups whose accuracy does not vary are left out (and refilled by the loop, see
`refill_rounds`); `config.filter_on` names the score component that is the
accuracy. Overlong shaping is `truncation="penalise"` with `overlong_buffer`;
the paper's earlier overlong filtering is `truncation="mask"`.

Reference: DAPO, arXiv 2503.14476.
"""

from __future__ import annotations

from rlreward.algorithms import grpo
from rlreward.ops import advantage, policy
from rlreward.steps import credit, online
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """DAPO; the paper has no KL term (`loss.kl_beta` 0)."""
  grpo.check(config)
  c = config.loss
  loss = policy.clipped(*grpo.clip(c, 0.2, 0.28), c.dual_clip)
  return online.make(
    config,
    task,
    loss=grpo.regularised(loss, config),
    credit=credit.group(advantage.group_advantage, grpo.penalty(config)),
    aggregate="token_mean",
    keep=online.accuracy(config.filter_on),
  )
