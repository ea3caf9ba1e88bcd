"""A reward model: one score at the end of an answer, learned from comparisons.

  L = -log sigma(scale (r(y_w) - r(y_l)) - margin) + centering (r_w + r_l)^2

Reference: Learning to summarize from human feedback, arXiv 2009.01325; margin
and centring as in Llama 2, arXiv 2307.09288, and 2312.09244. Other losses by
`reward_model.kind`: rao_kupper and davidson (ties), plackett_luce on rankings
of K answers (task `rankings`), mse, huber, bce and ordinal on ratings of single
answers and steps on those of their steps (task `ratings`). `model.outputs=1`
makes the head, and `model.head` one that is more than a linear layer. Answers
share the pass over their prompt; held-out accuracy is the evaluation.
"""

from __future__ import annotations

from rlreward.steps import fit, rank, reward_head, roles
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """A reward model as `config.reward_model` describes it."""
  rank.check(config)
  rank.check_labels(config, task)
  actor, slots = roles.policy(config.model), fit.slots(task)
  kind = config.reward_model.kind
  if actor.head.kind == "critique":
    read = reward_head.critiques(config, actor, slots)
  elif kind in rank.LISTED:
    read = rank.rankings(config, actor, slots, task.spec["answers"])
  else:
    build = rank.pairs if kind in rank.PAIRED else rank.singles
    read = build(config, actor, slots)
  source = "preferences" if kind in rank.PAIRED else "labelled"
  return fit.make(config, task, actor, read, source=source, sampled=False)
