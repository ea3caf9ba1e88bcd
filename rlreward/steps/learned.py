"""A reward model of an earlier stage as the reward of an online run.

  r'(x, y) = r(x, y) - mean_D r(x, y_D),  or a fixed low reward where y was cut

The model is a frozen role of the State. It reads what was sampled inside the
compiled step and writes the score beside the rows (`Rollout.extras`), where the
task's reward, compiled or not, finds it.

Reference: Learning to summarize from human feedback, arXiv 2009.01325: answers
of the data set have a mean reward of 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rlreward import chain, errors
from rlreward.steps import checks, rank, roles
from rlreward.types import LENGTH, Rollout, Score, Task

ROLE = "reward"
_COLUMN = "learned"


def rewarded(config, task: Task) -> Task:
  """The task with the learned reward in place of its own, if there is one.

  Args:
    config: section `learned`.
    task: its gold, or its own reward where it has none, stays what is wanted.

  Raises:
    UserError: fields that cannot be, or nothing to normalise on.
  """
  if chain.judge(config) is None or task.spec.get("learned"):
    return task
  check(config, task)

  def reward(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    del batch
    value = rollout.extras[_COLUMN]
    return Score(value, jnp.isfinite(value))

  gold = task.gold
  if gold is None and task.spec.get("judged", True):
    gold = task.reward
  # Listed answers have rewards of the task's own, which are others.
  spec = {k: v for k, v in task.spec.items() if k != "outcomes"}
  return task._replace(
    reward=reward, gold=gold, spec={**spec, "judged": True, "learned": True}
  )


def check(config, task: Task) -> None:
  """Refuses the fields of `learned` that cannot be with a UserError."""
  c = config.learned
  cut = 0.0 if c.truncated is None else c.truncated
  checks.ranges(
    "learned",
    (
      ("references", c.references, c.references >= 0, "0 or more",
       "it is a number of demonstrations"),
      ("truncated", cut, math.isfinite(cut), "a finite number, or None",
       "it is the reward of an answer that was cut"),
    ),
  )  # fmt: skip
  if c.references and task.demonstrations is None:
    raise errors.UserError(
      f"learned.references={c.references} on task {config.task.name!r},"
      " which has no demonstrations",
      "their mean reward is what is made 0",
      "set learned.references=0",
    )


def init(config, key) -> dict[str, Any]:
  """{"reward": an untrained model and its shift}, or nothing."""
  found = chain.judge(config)
  if found is None:
    return {}
  actor = roles.policy(found.model)
  params, frozen = actor.init(jax.random.fold_in(key, 5))
  tree = actor.variables(params, frozen)
  return {ROLE: {"model": tree, "shift": jnp.zeros((), jnp.float32)}}


def sampled(config, sample: Callable[..., Rollout]) -> Callable[..., Rollout]:
  """A sampler whose rows are judged too; its arguments are the same."""
  read = reader(config)
  if read is None:
    return sample
  # Between turns on the host nothing else compiles it.
  compiled = jax.jit(read, static_argnums=2)

  def both(state, batch, key, *whole) -> Rollout:
    rollout = sample(state, batch, key, *whole)
    share = rollout.tokens.shape[0] // batch["prompt"].shape[0]
    return (compiled if whole else read)(state.frozen, rollout, share)

  return both


def reader(config) -> Callable[..., Rollout] | None:
  """(frozen, rollout, share) -> the rollout with its scores; None without.

  Args:
    config: `sampling.max_new_tokens` slots of a row are the answer's.
  """
  found = chain.judge(config)
  if found is None:
    return None
  actor = roles.policy(found.model)
  t, cut = config.sampling.max_new_tokens, config.learned.truncated

  def read(frozen: Mapping[str, Any], rollout: Rollout, share: int = 1):
    tree = frozen[ROLE]
    rows = {"tokens": rollout.tokens, "attend": rollout.attend}
    value = _scores(actor, tree["model"], rows, t, share) - tree["shift"]
    if cut is not None:
      value = jnp.where(rollout.finish == LENGTH, cut, value)
    return rollout._replace(extras={**rollout.extras, _COLUMN: value})

  return read


def normalised(config, task: Task, variables) -> dict[str, Any]:
  """The role: a model, and its mean score of `learned.references` answers.

  Args:
    config: a run's.
    task: whose demonstrations are the answers.
    variables: of the reward model.
  """
  found, n = chain.judge(config), config.learned.references
  shift = jnp.zeros((), jnp.float32)
  if n:
    assert task.demonstrations is not None
    actor = roles.policy(found.model)
    batch = next(task.demonstrations("train", n, config.seed))
    if "segment" in batch:
      raise errors.UserError(
        f"learned.references={n} on packed demonstrations",
        "a reward is read at the end of a row, which holds several there",
        "set task.pack=False, or learned.references=0",
      )
    rows = {k: jnp.asarray(batch[k]) for k in ("tokens", "attend")}

    @jax.jit
    def mean(variables, rows):
      # Demonstrations have no answer slots: each is read where it ends.
      slots = rows["tokens"].shape[1] - 1
      return jnp.mean(_scores(actor, variables, rows, slots))

    shift = mean(variables, rows)
  return {"model": variables, "shift": shift}


def _scores(actor: roles.Policy, variables, rows, slots: int, share: int = 1):
  """f32[n]: scores at the last real token of rows."""
  each = rank.scores(actor, variables, rows, slots, share)
  return jax.lax.stop_gradient(rank.at_end(each, rows, slots)[:, 0])
