"""A run of several stages: where each lies, what it hands to later ones.

The stage before lies in `start` of the directory of the one after it, and has a
`start` of its own where another one is before it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from rlreward import chain, errors, registry, sharding
from rlreward.checkpoint import Checkpointer
from rlreward.steps import judge, learned, overlap, pool, roles
from rlreward.types import Method, State, Task


class Stage(NamedTuple):
  """One of the stages of a run.

  Attributes:
    config: its config.
    folder: its run directory.
    number: from 1.
    count: of all stages.
    label: for the banner, "stage 2 of 3, ppo"; empty where there is but one.
    before: steps of all earlier stages.
  """

  config: Any
  folder: pathlib.Path
  number: int
  count: int
  label: str
  before: int

  @property
  def last(self) -> bool:
    """Whether no stage follows."""
    return self.number == self.count


def of(config: Any, workdir: pathlib.Path, label: str = "") -> list[Stage]:
  """The stages of a run, the first that trains first.

  Args:
    config: the run's.
    workdir: the run's directory, which is that of the last stage.
    label: of the last stage, where the caller has one.

  Raises:
    UserError: a `start` with an unknown field.
  """
  configs = chain.stages(config)
  count, found, before = len(configs), [], 0
  for number, own in enumerate(configs, 1):
    folder = workdir.joinpath(*["start"] * (count - number))
    said = f"stage {number} of {count}, {own.algorithm}" if count > 1 else ""
    said = label or said if number == count else said
    found.append(Stage(own, folder, number, count, said, before))
    before += own.steps
  return found


def reached(stages: Sequence[Stage]) -> int:
  """Index of the stage that a run goes on with: the last with a checkpoint.

  Raises:
    UserError: processes see different ones.
  """
  held = [Checkpointer(s.folder / "checkpoints").latest() for s in stages]
  own = max((i for i, step in enumerate(held) if step is not None), default=0)
  found = judge.everyone(own)
  if len(set(found)) > 1:
    raise errors.UserError(
      f"the processes see checkpoints of stages {[i + 1 for i in found]} in"
      f" {stages[-1].folder}",
      "each of them reads and writes a part of every checkpoint",
      "give a --workdir on a file system that all of them share",
    )
  return own


def check(stage: Stage, frozen: Mapping[str, Any]) -> None:
  """Refuses a learned reward that nobody asks.

  Args:
    stage: which.
    frozen: roles of its State.

  Raises:
    UserError: the algorithm has no place for it.
  """
  number = stage.config.learned.stage
  if number and learned.ROLE not in frozen:
    raise errors.UserError(
      f"learned.stage={number} with algorithm={stage.config.algorithm!r}",
      "it samples no answers that a reward model could judge",
      "set learned.stage=0, or use an online algorithm such as ppo",
    )


class Made(NamedTuple):
  """A stage that is ready to run: its task, its method, shapes of its State."""

  task: Task
  method: Method
  abstract: State


def made(stage: Stage, task: Task | None) -> Made:
  """Builds a stage and refuses what cannot train; nothing compiles.

  Args:
    stage: which.
    task: what to learn, where it is made in Python; else the config's.
  """
  config = stage.config
  mesh, _ = overlap.meshes(config)
  with jax.set_mesh(mesh):
    given = registry.task(config) if task is None else task
    task = learned.rewarded(config, given)
    for name, rows in (
      ("prompts_per_step", config.prompts_per_step),
      ("eval.prompts", config.eval.prompts),
    ):
      sharding.check_rows(name, rows, mesh)
      judge.check_prompts(name, rows, task)
    method = registry.algorithm(config.algorithm).make(config, task)
    abstract = jax.eval_shape(method.init, jax.random.key(config.seed))
    check(stage, abstract.frozen)
    if method.evaluate is not None:
      pool.check(config, abstract.frozen)
  return Made(task, method, abstract)


class Trained:
  """Variables of the stages that are over.

  Args:
    stages: of the run.
  """

  def __init__(self, stages: Sequence[Stage]):
    self.stages, self._kept = stages, {}

  def keep(self, stage: Stage, state: State) -> None:
    """Keeps what a stage has trained, if a later one asks for it."""
    later = self.stages[stage.number :]
    asked = {chain.parent(s.config) for s in later}
    asked |= {s.config.learned.stage for s in later}
    if stage.number in asked:
      actor = roles.policy(stage.config.model)
      self._kept[stage.number] = actor.variables(state.params, state.frozen)

  def given(self, stage: Stage, task: Task) -> tuple[Any, dict[str, Any]]:
    """(variables to begin with or None, {role: tree} that is handed over).

    Args:
      stage: which is about to begin, its mesh in force.
      task: its task; its demonstrations are what a learned reward is
        normalised on.
    """
    number = chain.parent(stage.config)
    loaded = self._variables(number) if number else None
    number = stage.config.learned.stage
    if not number:
      return loaded, {}
    tree = learned.normalised(stage.config, task, self._variables(number))
    return loaded, {learned.ROLE: tree}

  def _variables(self, number: int) -> Any:
    if number not in self._kept:
      stage = self.stages[number - 1]
      self._kept[number] = _read(stage)
    return self._kept[number]


def _read(stage: Stage) -> Any:
  """Variables of a stage from its last checkpoint."""
  actor = roles.policy(stage.config.model)
  params, frozen = jax.eval_shape(actor.init, jax.random.key(0))
  mesh, parts = jax.sharding.get_mesh(), {}
  saver = Checkpointer(stage.folder / "checkpoints")
  for name, tree in (("params", params), ("frozen", frozen)):
    if tree:
      placed = sharding.state_shardings(
        tree, actor.axes, sharding.TRAIN_RULES, mesh
      )
      wanted = sharding.with_shardings(tree, placed)
      parts[name], _ = saver.restore_part(wanted, name)
  saver.close()
  return actor.variables(parts["params"], parts.get("frozen", {}))
