"""Data to update: a step of any method that trains on given rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlreward import errors, sharding
from rlreward.ops import masked, mesh
from rlreward.steps import (
  accumulate,
  batching,
  checks,
  evaluate,
  optimizer,
  roles,
)
from rlreward.types import Method, State, Task

Array = jax.Array
Loss = Callable[..., tuple[Array, Array, Mapping[str, Array]]]


def make(config, task: Task, *, loss: Loss) -> Method:
  """A supervised method from its loss.

  Args:
    config: see `configs/common.py`; `prompts_per_step` rows per update.
    task: must have demonstrations.
    loss: (model, variables, batch) -> (per-token loss f32[B, L], mask
      bool[B, L], {metric: f32[B, L]}).

  Returns:
    Method without phases.

  Raises:
    UserError: a config that cannot train.
  """
  checks.counts(config, ("prompts_per_step", "steps"))
  checks.vocabulary(config, task)
  if task.demonstrations is None:
    raise errors.UserError(
      f"task {config.task.name!r} has no demonstrations",
      f"{config.algorithm} trains on given answers",
      "use a task with a completion column, or an online algorithm",
    )
  actor = roles.policy(config.model)
  opt = optimizer.make(config.optimizer, config.steps)
  shards = mesh.data_shards()
  plan = batching.plan(config.prompts_per_step, 1, config.microbatch, shards)

  def init(key, variables=None) -> State:
    params, frozen = actor.init(key, variables)
    return State(
      step=jnp.zeros((), jnp.int32),
      params=params,
      frozen=frozen,
      opt=opt.init(params),
      key=jax.random.fold_in(key, 2),
    )

  def step(state: State, batch: Mapping[str, Any], key):
    del key
    weight = jnp.maximum(jnp.sum(batch["loss"][:, 1:], dtype=jnp.float32), 1)

    def piece_loss(params, piece):
      variables = actor.variables(params, state.frozen)
      loss_BxL, mask, metrics = loss(actor.model, variables, piece)
      sums = {k: masked.masked_sum(v, mask) for k, v in metrics.items()}
      return masked.masked_sum(loss_BxL, mask) / weight, (sums, {})

    value, sums, _, grads = accumulate.gradient(
      piece_loss, state.params, dict(batch), plan
    )
    change, opt_state = opt.update(grads, state.opt, state.params)
    metrics = {k: v / weight for k, v in sums.items()}
    metrics["loss"] = value
    metrics["grad_norm"] = optax.tree.norm(grads)
    metrics["trained_tokens"] = weight
    state = state._replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, change),
      opt=opt_state,
    )
    return sharding.pin(state, actor.axes), metrics

  return Method(init, step, evaluate.make(config, task, actor))
