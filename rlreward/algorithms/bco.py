"""BCO: a classifier of good and bad answers whose logit is the implicit reward.

  r = beta log pi/ref(y);  L = -log sigma(r - delta) for good,
  -log sigma(delta - r) for bad, delta = (mean r good + mean r bad) / 2, running

Reference: Binary Classifier Optimization, arXiv 2404.04656. delta is of all
batches so far, the means of the two labels averaged as in the paper; TRL takes
one mean over both, which is the same for equal counts. The density ratio of
bad answers from other prompts is left at 1: it needs an embedding of prompts.
"""

from __future__ import annotations

import jax.numpy as jnp

from rlreward.ops import unpaired
from rlreward.steps import checks, fit, objective, roles, singles
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """BCO as `config.preference` describes it."""
  c, slots = config.preference, fit.slots(task)
  beta = 0.1 if c.beta is None else c.beta
  checks.preference(config, "sigmoid", beta, 0.0, 0.0)
  actor = roles.policy(config.model)

  def start():
    return {k: jnp.zeros((), jnp.float32) for k in ("good", "bad", "n_good",
                                                    "n_bad")}  # fmt: skip

  def running(compute, rows, state):
    ratio = singles.log_ratio(compute, rows, slots)
    known, good = objective.valid(rows), rows["label"]
    state = dict(state)
    for name, rows_of in (("good", known & good), ("bad", known & ~good)):
      new = jnp.sum(rows_of, dtype=jnp.float32)
      total = state[f"n_{name}"] + new
      mean = unpaired.bco_delta(ratio, rows_of, beta=beta)
      gain = jnp.where(total > 0, new / jnp.maximum(total, 1), 0)
      state[name] += gain * (mean - state[name])
      state[f"n_{name}"] = total
    return {**rows, "delta": (state["good"] + state["bad"]) / 2}, state

  def loss(ratio, rows):
    return unpaired.bco(ratio, rows["label"], rows["delta"], beta=beta)

  found = singles.make(
    actor, slots, loss, beta=beta, init=start, prepare=running
  )
  return fit.make(config, task, actor, found, source="labelled")
