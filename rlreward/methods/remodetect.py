"""A reward model that detects: texts of models over mixed ones over people's.

  L = mean over pairs i < j of levels of
        w_ij [-log sigma(r_i - r_j) + l2 (r_i^2 + r_j^2) / 2]
    + replay sum_u (r(u) - r_0(u))^2

Levels are a model's text, one that a model has rewritten in part, and a
person's; u are texts of the comparisons that the reward model comes from, whose
rewards stay what they were. Rows come in groups: the levels in order, or in
that of a column `rank`, and then as many texts to replay as
`remodetect.replayed` says. Where rows are pairs, two levels are Bradley-Terry.
Held-out rows with a column `author` are judged by their authors: `auroc/seen`
for the model of the training rows (0), `auroc/unseen` for the mean over others.

Reference: ReMoDetect: Reward Models Recognize Aligned LLM's Generations, arXiv
2405.17382.
Differs from the paper: the replay is a mean over groups of the sum over their
texts; the paper's code adds up the texts of a batch of one group.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax

from rlreward.evals import authors
from rlreward.steps import fit, levels, rank, roles
from rlreward.types import Array, Method, State, Task


def make(config, task: Task) -> Method:
  """A reward model trained on levels of texts and on what it was before."""
  c, group = config.remodetect, task.spec.get("answers", 2)
  rank.check(config)
  levels.check(config, group)
  actor, slots = roles.policy(config.model), fit.slots(task)
  method = fit.make(
    config,
    task,
    actor,
    levels.make(c, actor, slots, group),
    source="labelled" if "answers" in task.spec else "preferences",
    sampled=False,
  )
  assert method.held is not None
  plain = method.held

  @jax.jit
  def by_author(state: State, rows: Mapping[str, Array]):
    variables = actor.variables(state.params, state.frozen)
    score = levels.ends(actor, variables, rows, slots, 1).reshape(-1, group)
    return authors.judged(score, rows["author"][::group], group - c.replayed)

  def held(state: State, batch: Mapping[str, Array]):
    found = dict(plain(state, batch))
    return found | (by_author(state, batch) if "author" in batch else {})

  return method._replace(held=held)
