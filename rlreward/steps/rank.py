"""Objectives of reward models: scores of answers, alone or side by side."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rlreward import errors
from rlreward.models import reward_heads
from rlreward.models import score as score_lib
from rlreward.ops import masked
from rlreward.ops import reward_model as ops
from rlreward.steps import checks, objective, reward_head, roles
from rlreward.types import Array, Task

PAIRED = ("bradley_terry", "rao_kupper", "davidson")
LISTED = ("plackett_luce",)
SINGLE = ("mse", "huber", "bce", "ordinal", "steps")
KINDS = (*PAIRED, *LISTED, *SINGLE)
# What a task's `spec["labels"]` says that it holds: kinds that read it.
_READS = {
  "ranks": LISTED,
  "ratings": ("mse", "huber", "bce", "ordinal"),
  "steps": ("steps",),
}


def scores(
  actor: roles.Policy, variables, rows, slots: int, share: int
) -> Array:
  """f32[n, T, K]: outputs at the tokens of answers in the last T slots."""
  if actor.head.kind != "scalar":
    raise errors.UserError(
      f"model.head.kind={actor.head.kind!r}",
      "this method reads one linear layer at every token",
      "set model.head.kind='scalar', or train it with algorithm=reward_model",
    )
  tokens = rows["tokens"]
  x = score_lib.completion_states(
    actor.model,
    variables,
    tokens,
    rows["attend"],
    tokens.shape[1] - slots,
    share,
  )
  return actor.model.score(variables, x)


def at_end(each: Array, rows, slots: int) -> Array:
  """f32[n, K]: outputs at the last real token of an answer."""
  last = masked.last_index(rows["attend"][:, -slots:])
  return jnp.take_along_axis(each, last[:, None, None], 1)[:, 0]


def judged(
  actor: roles.Policy, variables, rows, slots: int, share: int
) -> reward_heads.Reading:
  """What the model's head says of answers in the last T slots."""
  if actor.head.kind == "scalar":
    end = at_end(scores(actor, variables, rows, slots, share), rows, slots)
    return reward_heads.Reading(end[:, 0], end, {})
  return reward_head.judged(actor, variables, rows, slots, share)


def check(config) -> None:
  """Refuses a model without a head and fields that cannot be.

  Raises:
    UserError: see the messages.
  """
  c = config.reward_model
  checks.choice("reward_model.kind", c.kind, KINDS, "it is the loss of scores")
  if not config.model.outputs:
    raise errors.UserError(
      "model.outputs=0 with reward_model",
      "a reward model has a score head in place of the language head",
      "set model.outputs=1",
    )
  several = ("mse", "huber", "bce")
  mixed = reward_head.check(config)
  if c.kind not in several and config.model.outputs != 1 and not mixed:
    raise errors.UserError(
      f"model.outputs={config.model.outputs} with reward_model.kind={c.kind!r}",
      f"it is a loss of one score; {', '.join(several)} are of several",
      "set model.outputs=1",
    )
  if c.kind == "ordinal" and c.grades < 2:
    raise errors.UserError(
      f"reward_model.grades={c.grades} with reward_model.kind='ordinal'",
      "an answer's grade is one of several, and grades 0 .. K - 1 are data",
      "set reward_model.grades to their number, 2 or more",
    )
  if c.kind != "bradley_terry" and (c.margin or c.label_smoothing):
    raise errors.UserError(
      f"reward_model.margin={c.margin}, label_smoothing={c.label_smoothing}"
      f" with reward_model.kind={c.kind!r}",
      "they belong to the loss of bradley_terry and would change nothing",
      "leave them at False and 0, or set reward_model.kind='bradley_terry'",
    )
  least = 0.0 if c.kind == "rao_kupper" else -math.inf
  eps = c.label_smoothing
  checks.ranges(
    "reward_model",
    (
      ("scale", c.scale, c.scale > 0, "above 0", "it scales differences"),
      ("centering", c.centering, c.centering >= 0, "0 or more",
       "a negative one drives scores away from 0"),
      ("ties", c.ties, least < c.ties < math.inf, f"above {least}",
       "it is the lead that is not noticed, or how common ties are, in logs"),
      ("label_smoothing", eps, 0 <= eps < 0.5, "from 0 to below 0.5",
       "it is the share of labels thought to be wrong"),
    ),
  )  # fmt: skip


def check_labels(config, task: Task) -> None:
  """Refuses a loss that does not read what the task holds.

  Raises:
    UserError: see the messages.
  """
  kind, spec = config.reward_model.kind, task.spec
  held = spec.get("labels", "")
  reads = _READS.get(held, (*PAIRED, *SINGLE))
  if kind not in reads:
    raise errors.UserError(
      f"reward_model.kind={kind!r} on task {config.task.name!r}, which holds"
      f" {held or 'no rankings'}",
      "each loss reads judgements of one form",
      f"use one of {', '.join(reads)}, or another task",
    )
  if held and config.model.outputs != spec["outputs"]:
    raise errors.UserError(
      f"model.outputs={config.model.outputs}, and the task judges"
      f" {spec['outputs']} of each answer",
      "every number that is judged has an output of its own",
      f"set model.outputs={spec['outputs']}",
    )


def pairs(config, actor: roles.Policy, slots: int) -> objective.Objective:
  """-log p of the comparison, as `config.reward_model` describes it.

  Args:
    config: sections `reward_model` and `preference` (strength as weight).
    actor: a model with one output.
    slots: T, answer slots. Rows 2i = chosen, 2i + 1 = rejected; column
      `strength`, and `tie` for the kinds that know ties.
  """
  c = config.reward_model
  weighed = config.preference.strength

  def compare(chosen, rejected, rows) -> Array:
    strength = rows.get("strength", jnp.ones(rows["loss"].shape[0]))[0::2]
    weight = strength if weighed else 1.0
    if c.kind == "bradley_terry":
      return ops.bradley_terry(
        chosen,
        rejected,
        margin=strength if c.margin else 0.0,
        scale=c.scale,
        label_smoothing=c.label_smoothing,
        weight=weight,
      )
    tie = rows.get("tie", jnp.zeros(rows["loss"].shape[0], bool))[0::2]
    known = {"rao_kupper": ops.rao_kupper, "davidson": ops.davidson}[c.kind]
    return known(c.scale * chosen, c.scale * rejected, tie, c.ties, weight)

  def terms(variables, frozen, rows, share):
    del frozen
    found = judged(actor, variables, rows, slots, share)
    chosen, rejected = found.value[0::2], found.value[1::2]
    known = objective.valid(rows)[0::2]
    loss = compare(chosen, rejected, rows)
    loss += ops.centering_penalty(chosen, rejected, c.centering)
    metrics = {
      "accuracy": ops.pair_accuracy(chosen, rejected),
      "margin": chosen - rejected,
      "score_mean": (chosen + rejected) / 2,
      "score_square": (chosen**2 + rejected**2) / 2,
    }
    metrics = jax.lax.stop_gradient(metrics)
    sums = {k: masked.masked_sum(v, known) for k, v in metrics.items()}
    extra, more = reward_head.extra(c, found, rows)
    return masked.masked_sum(loss, known) + extra, sums | more

  return objective.Objective(
    together=2,
    needs=frozenset(),
    init=dict,
    prepare=objective.nothing,
    weight=lambda rows: jnp.sum(objective.valid(rows)[0::2], dtype=jnp.float32),
    terms=terms,
  )


def rankings(
  config, actor: roles.Policy, slots: int, answers: int
) -> objective.Objective:
  """-log p of an order of K answers (Plackett-Luce), the best ones first.

  Args:
    config: section `reward_model`.
    actor: a model with one output.
    slots: T, answer slots. K rows in succession have one prompt; columns
      `rank` f32[N], small is good and equal a tie, and `valid` bool[N].
    answers: K.
  """
  scale = config.reward_model.scale

  def listed(rows) -> tuple[Array, Array]:
    cut = lambda x: x.reshape(-1, answers)
    return cut(rows["rank"]), cut(objective.valid(rows))

  def terms(variables, frozen, rows, share):
    del frozen
    found = judged(actor, variables, rows, slots, share)
    score = found.value.reshape(-1, answers)
    rank, known = listed(rows)
    loss = ops.plackett_luce(scale * score, rank, known)
    s = masked.clean(jax.lax.stop_gradient(score), known)
    better = rank[:, :, None] < rank[:, None, :]
    better &= known[:, :, None] & known[:, None, :]
    gap = s[:, :, None] - s[:, None, :]
    right = jnp.where(gap == 0, 0.5, gap > 0)
    over = lambda x, mask: (
      masked.masked_sum(x, mask),
      jnp.sum(mask, dtype=jnp.float32),
    )
    sums = {
      "accuracy": over(right, better),
      "margin": over(gap, better),
      "score_mean": over(s, known),
      "score_square": over(s**2, known),
    }
    return jnp.sum(loss), sums

  def count(rows) -> Array:
    known = listed(rows)[1]
    return jnp.sum(jnp.sum(known, 1) > 1, dtype=jnp.float32)

  return objective.Objective(
    together=answers,
    needs=frozenset(),
    init=dict,
    prepare=objective.nothing,
    weight=count,
    terms=terms,
  )


def singles(config, actor: roles.Policy, slots: int) -> objective.Objective:
  """A loss on single answers with `target` f32[N, K], or `label` bool[N].

    mse, huber, bce  each output to its target; NaN is a missing label
    ordinal          grades 0 .. K - 1 in `target` f32[N], NaN where missing:
                     K - 1 thresholds `scale` nats apart, around 0
    steps            `step_label` f32[N, T], NaN where no step ends

  Args:
    config: section `reward_model`.
    actor: a model with K outputs.
    slots: T, answer slots.
  """
  c = config.reward_model
  kind = c.kind

  def target(rows, name: str) -> Array:
    if name in rows:
      return rows[name]
    return rows["label"].astype(jnp.float32)[:, None]

  def by_step(each, rows) -> tuple[Array, Array]:
    label = rows["step_label"]
    known = jnp.isfinite(label) & rows["loss"][:, -slots:]
    clean = masked.clean(label, known)
    return ops.step_labels(each[..., 0], clean, known, "soft"), known

  def by_grade(found, rows) -> tuple[Array, Array]:
    grade = target(rows, "target").reshape(-1)
    cuts = c.scale * (jnp.arange(c.grades - 1) - (c.grades - 2) / 2)
    known = jnp.isfinite(grade)
    grade = masked.clean(grade, known).astype(jnp.int32)
    loss = ops.ordinal(found.value, grade, cuts, known.astype(jnp.float32))
    return loss[:, None], known[:, None]

  def by_value(found, rows) -> tuple[Array, Array]:
    return ops.regression(found.outputs, target(rows, "target"), kind=kind)

  read: Callable[..., tuple[Array, Array]] = {
    "steps": by_step,
    "ordinal": by_grade,
  }.get(kind, by_value)

  def count(rows) -> Array:
    known = objective.valid(rows)[:, None]
    if kind == "steps":
      labels = jnp.isfinite(rows["step_label"]) & rows["loss"][:, -slots:]
    else:
      labels = jnp.isfinite(target(rows, "target"))
      labels = labels.reshape(known.shape[0], -1)
    return jnp.sum(labels & known, dtype=jnp.float32)

  def terms(variables, frozen, rows, share):
    del frozen
    look = scores if kind == "steps" else judged
    loss, present = read(look(actor, variables, rows, slots, share), rows)
    known = present & objective.valid(rows)[:, None]
    return masked.masked_sum(loss, known), {}

  return objective.Objective(
    together=1,
    needs=frozenset(),
    init=dict,
    prepare=objective.nothing,
    weight=count,
    terms=terms,
  )
