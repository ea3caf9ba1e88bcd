"""Data to update: a step of any method that trains on given rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rlreward import errors, sharding
from rlreward.ops import mesh
from rlreward.steps import (
  batching,
  checks,
  evaluate,
  optimizer,
  roles,
  thin,
)
from rlreward.steps import (
  objective as objective_lib,
)
from rlreward.types import Method, State, Task

_WHAT = {
  "demonstrations": ("given answers", "a completion column"),
  "preferences": ("pairs of answers", "chosen and rejected columns"),
  "labelled": ("answers with a label", "completion and label columns"),
}


def make(
  config,
  task: Task,
  actor: roles.Policy,
  objective: objective_lib.Objective,
  *,
  source: str,
  sampled: bool = True,
) -> Method:
  """A method that trains on rows of a task.

  Args:
    config: see `configs/common.py`; `prompts_per_step` pairs, or rows where
      they are not paired, per update.
    task: must have the `source`.
    actor: the policy.
    objective: what is minimised.
    source: "demonstrations", "preferences" or "labelled".
    sampled: whether held-out prompts are answered and judged too, where the
      task can judge.

  Returns:
    Method without phases.

  Raises:
    UserError: a config that cannot train.
  """
  check(config, task, source)
  per = objective.together
  opt = optimizer.make(config.optimizer, config.steps)
  shards = mesh.data_shards()
  batching.plan(config.prompts_per_step, per, config.microbatch, shards, per)
  trainer = objective_lib.trainer(
    config, actor, objective, opt, slots(task), shards
  )

  def init(key, variables=None, given=None) -> State:
    params, frozen = actor.init(key, variables)
    frozen = {**frozen, **objective.start(key), **(given or {})}
    live = "reference" in objective.needs and config.reference != "data"
    if live or config.reference == "always":
      frozen = {**frozen, "reference": actor.snapshot(params)}
    return State(
      step=jnp.zeros((), jnp.int32),
      params=params,
      frozen=frozen,
      opt=opt.init(params),
      key=jax.random.fold_in(key, 2),
      extra=objective.init(),
    )

  def step(state: State, batch: Mapping[str, Any], key):
    del key
    rows = dict(batch)
    compute = trainer.compute(state.params, state.frozen, rows)
    rows, extra = objective.prepare(compute, rows, state.extra)
    carry = state.params, state.opt
    carry, metrics = trainer.update(carry, rows, state.frozen)
    tokens = jnp.sum(batch["loss"], dtype=jnp.float32)
    metrics["trained_tokens"] = tokens
    state = state._replace(
      step=state.step + 1, params=carry[0], opt=carry[1], extra=extra
    )
    return sharding.pin(state, actor.axes), metrics

  @jax.jit
  def held(state: State, batch: Mapping[str, Any]):
    compute = trainer.compute(state.params, state.frozen, batch)
    rows, _ = objective.prepare(compute, dict(batch), state.extra)
    return trainer.measure(state.params, state.frozen, rows)

  judged = sampled and task.spec.get("judged", True)
  return Method(
    init,
    step,
    evaluate.make(config, task, actor) if judged else None,
    source=source,
    held=held,
    given=objective.given,
  )


def slots(task: Task) -> int:
  """T, the answer slots of a task's pairs and labelled answers."""
  return task.spec.get("answer_length", 0)


def check(config, task: Task, source: str) -> None:
  """Refuses what cannot be trained on.

  Raises:
    UserError: see the messages.
  """
  checks.counts(config, ("prompts_per_step", "steps"))
  checks.vocabulary(config, task)
  thin.refuse(config)
  if getattr(task, source) is None:
    what, column = _WHAT[source]
    raise errors.UserError(
      f"task {config.task.name!r} has no {source}",
      f"{config.algorithm} trains on {what}",
      f"use a task with {column}, or an online algorithm",
    )
