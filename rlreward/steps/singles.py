"""Objectives on single answers with a label, beside a reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlreward.ops import masked, preference
from rlreward.steps import objective, roles
from rlreward.types import Array

# (log-ratio f32[n], rows) -> loss f32[n]
Loss = Callable[[Array, objective.Rows], Array]
# (log-ratio of the rows at the start, compute, rows, state) -> (rows, state)
Prepare = Callable[..., tuple[objective.Rows, Any]]


def make(
  actor: roles.Policy,
  slots: int,
  loss: Loss,
  *,
  beta: float,
  init: Callable[[], dict[str, Any]] = dict,
  prepare: Prepare | None = None,
) -> objective.Objective:
  """A loss on log-ratios of answers with the column `label` bool[N].

  Args:
    actor: the policy.
    slots: T, answer slots.
    loss: per answer.
    beta: what a log-ratio is multiplied with in the reported rewards.
    init: state of `prepare`.
    prepare: adds columns that are fixed before the update.
  """

  def reference(compute, rows):
    if "reference_logp" in rows:
      return rows["reference_logp"]
    return masked.masked_sum(
      compute("reference", rows), rows["loss"][:, -slots:], 1
    )

  def ready(compute, rows, state):
    rows = {**rows, "reference": reference(compute, rows)}
    if prepare is not None:
      rows, state = prepare(compute, rows, state)
    return rows, state

  def terms(variables, frozen, rows, share):
    del frozen
    logp, mask = objective.answer_logp(actor, variables, rows, slots, share)
    ratio = preference.sequence_logp(logp, mask) - rows["reference"]
    good, known = rows["label"], objective.valid(rows)
    value = loss(ratio, rows)
    said = jax.lax.stop_gradient(beta * ratio)
    count = lambda x: jnp.sum(known & x, dtype=jnp.float32)
    mean = lambda x: (masked.masked_sum(said, known & x), count(x))
    sums = {
      "reward_good": mean(good),
      "reward_bad": mean(~good),
      "good": count(good),
    }
    return masked.masked_sum(value, known), sums

  return objective.Objective(
    together=1,
    needs=frozenset({"reference"}),
    init=init,
    prepare=ready,
    weight=lambda rows: jnp.sum(objective.valid(rows), dtype=jnp.float32),
    terms=terms,
  )


def log_ratio(compute: objective.Compute, rows, slots: int) -> Array:
  """log pi - log ref of answers before the update, f32[N]."""
  mask = rows["loss"][:, -slots:]
  return masked.masked_sum(compute("policy", rows), mask, 1) - rows["reference"]


def mismatched(rows, slots: int):
  """Each prompt with the answer of the next row, as rows without columns.

  Args:
    rows: prompts in the first slots, answers in the last.
    slots: T.
  """
  p = rows["tokens"].shape[1] - slots
  shift = lambda x: jnp.concatenate([x[:, :p], jnp.roll(x[:, p:], -1, 0)], 1)
  return {k: shift(rows[k]) for k in ("tokens", "attend", "loss")}
