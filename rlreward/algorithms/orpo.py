"""ORPO: imitation and preference in one loss, by the odds of mean log-probs.

  a = log pi(y) / |y|;  odds = log(e^a / (1 - e^a))
  L = NLL(y_w) - lambda log sigma(odds(y_w) - odds(y_l))

Reference: ORPO, arXiv 2403.07691. lambda is `preference.beta`, 0.1. The NLL is
that of the answer, as in the paper; some trainers add the prompt's.
"""

from __future__ import annotations

from rlreward.ops import preference
from rlreward.steps import checks, fit, objective, roles
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """ORPO as `config.preference` describes it."""
  c = config.preference
  weight = 0.1 if c.beta is None else c.beta
  checks.preference(config, "sigmoid", weight, c.label_smoothing, 0.0)
  actor = roles.policy(config.model)

  def pair(chosen, rejected, columns):
    odds = preference.odds_ratio(chosen, rejected)
    return weight * preference.pairwise(
      odds,
      0 * odds,
      beta=1.0,
      label_smoothing=c.label_smoothing,
      weight=columns["strength"] if c.strength else 1.0,
      valid_P=columns.get("valid"),
    )

  found = objective.pairs(
    actor,
    fit.slots(task),
    pair,
    referenced=False,
    normalise="mean",
    nll=1.0 if c.nll is None else c.nll,
  )
  return fit.make(config, task, actor, found, source="preferences")
