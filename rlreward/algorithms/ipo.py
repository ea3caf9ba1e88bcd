"""IPO: the margin of a pair is regressed to a finite target.

  h = log pi/ref(y_w) - log pi/ref(y_l);  L = (h - 1 / (2 tau))^2

Reference: A General Theoretical Paradigm, arXiv 2310.12036. tau is
`preference.beta`. Log-probs are sums over tokens, as in the paper;
`preference.normalise="mean"` is TRL's form, whose tau is on another scale.
"""

from __future__ import annotations

from rlreward.algorithms import dpo
from rlreward.steps import fit, roles
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """IPO as `config.preference` describes it."""
  actor = roles.policy(config.model)
  found = dpo.loss(config, actor, fit.slots(task), "ipo", 0.1)
  return fit.make(config, task, actor, found, source="preferences")
