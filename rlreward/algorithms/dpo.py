"""DPO: a pair's better answer gains on the worse one, measured by a reference.

  h = log pi/ref(y_w) - log pi/ref(y_l);  L = -log sigma(beta h)

Reference: DPO, arXiv 2305.18290. `preference.kind` gives the other shapes on
the same h (hinge, robust, exo_pair, nca_pair, sppo_hard, apo_zero, apo_down,
discopop, aot, ...), `label_smoothing` cDPO, `divergence` f-DPO (2309.16240).
The reference is the policy at the start, live or as a column of the data
(`reference="data"`).
"""

from __future__ import annotations

from typing import Literal

from rlreward.ops import preference
from rlreward.steps import checks, fit, objective, roles
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """DPO as `config.preference` describes it."""
  actor = roles.policy(config.model)
  found = loss(config, actor, fit.slots(task), "sigmoid", 0.1)
  return fit.make(config, task, actor, found, source="preferences")


def loss(
  config,
  actor: roles.Policy,
  slots: int,
  kind: str,
  beta: float,
  *,
  referenced: bool = True,
  normalise: Literal["sum", "mean"] = "sum",
  margin: float = 0.0,
  nll: float = 0.0,
) -> objective.Objective:
  """A pairwise objective; None and "" in the config leave the paper's value.

  Args:
    config: section `preference`.
    actor: the policy.
    slots: T, answer slots.
    kind: shape, see `preference.pairwise`.
    beta: of the log-ratio.
    referenced: whether there is a reference.
    normalise: of log-probs, "sum" or "mean".
    margin: of the target.
    nll: weight of -log p(chosen).
  """
  c = config.preference
  size: Literal["sum", "mean"] = c.normalise or normalise
  return objective.pairs(
    actor,
    slots,
    shape(config, kind, beta, margin),
    referenced=referenced,
    normalise=size,
    nll=nll if c.nll is None else c.nll,
    beta=beta if c.beta is None else c.beta,
  )


def shape(config, kind: str, beta: float, margin: float = 0.0):
  """(chosen, rejected, columns) -> f32[P], see `objective.pairs`."""
  c = config.preference
  beta = beta if c.beta is None else c.beta
  margin = margin if c.margin is None else c.margin
  kind = c.kind or kind
  # EXO compares with a smoothed label; 1e-3 is its paper's.
  smoothing = c.label_smoothing or (1e-3 if kind == "exo_pair" else 0.0)
  checks.preference(config, kind, beta, smoothing, margin)

  def pair(chosen, rejected, columns):
    score = lambda x: preference.f_score(x, c.divergence)
    return preference.pairwise(
      score(chosen),
      score(rejected),
      beta=beta,
      kind=kind,
      label_smoothing=smoothing,
      margin=margin,
      weight=columns["strength"] if c.strength else 1.0,
      valid_P=columns.get("valid"),
      reference_margin_P=columns.get("reference_margin"),
    )

  return pair
