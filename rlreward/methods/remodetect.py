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
from typing import Any

import jax
import jax.numpy as jnp

from rlreward import errors
from rlreward.ops import detect, masked
from rlreward.steps import fit, objective, rank, roles
from rlreward.types import Array, Method, State, Task


def make(config, task: Task) -> Method:
  """A reward model trained on levels of texts and on what it was before."""
  c, group = config.remodetect, task.spec.get("answers", 2)
  check(config, group)
  actor, slots = roles.policy(config.model), fit.slots(task)
  levels = group - c.replayed

  def ordered(score: Array, rows) -> tuple[Array, Array]:
    """Scores f32[B, levels] with the best level first, and which are there."""
    cut = lambda x: x.reshape(-1, group)[:, :levels]
    score, known = cut(score), cut(objective.valid(rows))
    if "rank" not in rows:
      return score, known
    place = jnp.argsort(jnp.where(known, cut(rows["rank"]), jnp.inf), 1)
    take = lambda x: jnp.take_along_axis(x, place, 1)
    return take(score), take(known)

  def ends(variables, rows, share) -> Array:
    each = rank.scores(actor, variables, rows, slots, share)
    return rank.at_end(each, rows, slots)[:, 0]

  def terms(variables, frozen, rows, share):
    score = ends(variables, rows, share)
    level, known = ordered(score, rows)
    loss = jnp.sum(detect.ordered_bt(level, c.weights, c.l2, known))
    gap, pair = level[:, 0] - level[:, -1], known[:, 0] & known[:, -1]
    sums: dict[str, Any] = {
      "accuracy": _over(jnp.where(gap == 0, 0.5, gap > 0), pair),
      "margin": _over(gap, pair),
    }
    if c.replayed:
      at = lambda x: _last(x, group, levels)
      kept = {k: at(v) for k, v in rows.items() if jnp.ndim(v)}
      together = c.replayed if share > 1 else 1  # rows of one prompt
      first = ends(actor.reference(frozen), kept, together)
      there = at(objective.valid(rows))
      moved = detect.replay_l2(at(score), first, 1.0)
      sums["replay"] = _over(moved, there)
      loss += c.replay * masked.masked_sum(moved, there)
    return loss, jax.lax.stop_gradient(sums)

  own = objective.Objective(
    together=group,
    needs=frozenset({"reference"}) if c.replayed else frozenset(),
    init=dict,
    prepare=objective.nothing,
    weight=lambda rows: jnp.sum(
      jnp.any(objective.valid(rows).reshape(-1, group), 1), dtype=jnp.float32
    ),
    terms=terms,
  )
  source = "labelled" if "answers" in task.spec else "preferences"
  method = fit.make(config, task, actor, own, source=source, sampled=False)
  assert method.held is not None
  plain = method.held

  @jax.jit
  def authors(state: State, rows: Mapping[str, Array]):
    score = ends(actor.variables(state.params, state.frozen), rows, 1)
    return judged(score.reshape(-1, group), rows["author"][::group], levels)

  def held(state: State, batch: Mapping[str, Array]):
    found = dict(plain(state, batch))
    return found | (authors(state, batch) if "author" in batch else {})

  return method._replace(held=held)


def judged(score_BxG: Array, author_B: Array, levels: int) -> dict:
  """{metric: (value, 1)} of groups by their authors, of which 0 was seen.

  Args:
    score_BxG: rewards, the levels first.
    author_B: i32, the model that wrote the first level.
    levels: the last one is a person's.
  """
  found = {}
  human = score_BxG[:, levels - 1]
  for name, own in (("seen", author_B == 0), ("unseen", author_B > 0)):
    found[f"auroc/{name}"] = detect.auroc(score_BxG[:, 0], human, own)
    for i in range(levels):
      mean = masked.masked_mean(score_BxG[:, i], own)
      found[f"level/{name}/{i}"] = mean
  if score_BxG.shape[1] > levels + 1:
    better, worse = score_BxG[:, levels], score_BxG[:, levels + 1]
    found["preferred"] = jnp.mean(better > worse)
  return {k: (v, jnp.ones(())) for k, v in found.items()}


def check(config, group: int) -> None:
  """Refuses fields that cannot be.

  Raises:
    UserError: see the messages.
  """
  rank.check(config)
  c, levels = config.remodetect, group - config.remodetect.replayed
  pairs = levels * (levels - 1) // 2
  if config.model.outputs != 1 or levels < 2 or c.replayed < 0:
    raise errors.UserError(
      f"remodetect.replayed={c.replayed} of {group} rows of a group, and"
      f" model.outputs={config.model.outputs}",
      "one score orders two levels or more, and the others are replayed",
      "set model.outputs=1 and replayed to at most the group's rows minus 2",
    )
  if len(c.weights) not in (0, pairs) or min(*c.weights, c.l2, c.replay) < 0:
    raise errors.UserError(
      f"remodetect.weights={tuple(c.weights)}, l2={c.l2}, replay={c.replay}",
      f"{levels} levels have {pairs} pairs, each with a weight of 0 or more",
      f"give {pairs} weights, or () for 1 each, and nothing below 0",
    )


def _last(x: Array, group: int, levels: int) -> Array:
  """Rows [N, ...] of groups without those of the levels."""
  tail = x.shape[1:]
  return x.reshape(-1, group, *tail)[:, levels:].reshape(-1, *tail)


def _over(value: Array, mask: Array) -> tuple[Array, Array]:
  """(sum, weight) of a mean over what is there."""
  return masked.masked_sum(value, mask), jnp.sum(mask, dtype=jnp.float32)
