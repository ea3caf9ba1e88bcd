"""Groups of texts: levels in order, and texts whose scores are to stay."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlreward import errors
from rlreward.ops import detect, masked
from rlreward.steps import objective, rank, roles
from rlreward.types import Array


def ends(actor: roles.Policy, variables, rows, slots: int, share: int) -> Array:
  """f32[n]: scores at the last tokens of answers in the last T slots."""
  each = rank.scores(actor, variables, rows, slots, share)
  return rank.at_end(each, rows, slots)[:, 0]


def make(c, actor: roles.Policy, slots: int, group: int) -> objective.Objective:
  """Ordered levels and a replay, see `methods.remodetect`.

  Args:
    c: config section `remodetect`.
    actor: a model with one output.
    slots: T, answer slots.
    group: rows of a group: levels in the order of the rows, or of a column
      `rank` f32[N] (small is good, no ties), then `c.replayed` rows.
  """
  count = group - c.replayed

  def known_of(rows) -> Array:
    """bool[B, group]: a group whose last text to replay is lost is left out.

    Where a ranking lacks an answer its others move up, and what fills the end
    is not valid: levels would be taken for others.
    """
    known = objective.valid(rows).reshape(-1, group)
    return known & known[:, -1:] if c.replayed else known

  def ordered(score: Array, rows) -> tuple[Array, Array]:
    """Scores f32[B, levels] with the best level first, and which are there."""
    cut = lambda x: x.reshape(-1, group)[:, :count]
    score, known = cut(score), known_of(rows)[:, :count]
    if "rank" not in rows:
      return score, known
    place = jnp.argsort(jnp.where(known, cut(rows["rank"]), jnp.inf), 1)
    take = lambda x: jnp.take_along_axis(x, place, 1)
    return take(score), take(known)

  def terms(variables, frozen, rows, share):
    score = ends(actor, variables, rows, slots, share)
    level, known = ordered(score, rows)
    loss = jnp.sum(detect.ordered_bt(level, c.weights, c.l2, known))
    gap, pair = level[:, 0] - level[:, -1], known[:, 0] & known[:, -1]
    sums: dict[str, Any] = {
      "accuracy": _over(jnp.where(gap == 0, 0.5, gap > 0), pair),
      "margin": _over(gap, pair),
    }
    if c.replayed:
      at = lambda x: _last(x, group, count)
      kept = {k: at(v) for k, v in rows.items() if jnp.ndim(v)}
      together = c.replayed if share > 1 else 1  # rows of one prompt
      first = ends(actor, actor.reference(frozen), kept, slots, together)
      there = at(known_of(rows).reshape(-1))
      moved = detect.replay_l2(at(score), first, 1.0)
      sums["replay"] = _over(moved, there)
      loss += c.replay * masked.masked_sum(moved, there)
    return loss, jax.lax.stop_gradient(sums)

  return objective.Objective(
    together=group,
    needs=frozenset({"reference"}) if c.replayed else frozenset(),
    init=dict,
    prepare=objective.nothing,
    weight=lambda rows: jnp.sum(jnp.any(known_of(rows), 1), dtype=jnp.float32),
    terms=terms,
  )


def check(config, group: int) -> None:
  """Refuses fields that cannot be.

  Raises:
    UserError: see the messages.
  """
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
