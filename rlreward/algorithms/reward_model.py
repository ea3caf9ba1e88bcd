"""A reward model: one score at the end of an answer, learned from comparisons.

  L = -log sigma(scale (r(y_w) - r(y_l)) - margin) + centering (r_w + r_l)^2

Reference: Learning to summarize from human feedback, arXiv 2009.01325; margin
and centring as in Llama 2, arXiv 2307.09288, and 2312.09244. Other losses by
`reward_model.kind`: rao_kupper and davidson (ties), mse, huber, bce, ordinal
and steps on single labelled answers. `model.outputs=1` makes the head. Pairs
share the pass over their prompt; held-out accuracy is the evaluation.
"""

from __future__ import annotations

from rlreward.steps import fit, rank, roles
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """A reward model as `config.reward_model` describes it."""
  rank.check(config)
  actor = roles.policy(config.model)
  paired = config.reward_model.kind in rank.PAIRED
  build = rank.pairs if paired else rank.singles
  return fit.make(
    config,
    task,
    actor,
    build(config, actor, fit.slots(task)),
    source="preferences" if paired else "labelled",
    sampled=False,
  )
