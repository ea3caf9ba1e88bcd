"""Names to modules: the file name is the registry."""

from __future__ import annotations

import difflib
import importlib
import pathlib
from types import ModuleType
from typing import Any

from rlreward import errors
from rlreward.types import Score, Task

ROOT = pathlib.Path(__file__).resolve().parent
METHODS = ("algorithms", "methods")


def names(folder: str) -> list[str]:
  """Names of the modules in a folder of the package, sorted."""
  files = (ROOT / folder).glob("*.py")
  return sorted(f.stem for f in files if not f.stem.startswith("_"))


def find(name: str, folders: tuple[str, ...], field: str) -> ModuleType:
  """The module called `name` in the first folder that has it.

  Args:
    name: file name without ".py".
    folders: folders of the package, in order.
    field: the config field, for the message.

  Raises:
    UserError: no such file; proposes the nearest names.
  """
  for folder in folders:
    if name in names(folder):
      return importlib.import_module(f"rlreward.{folder}.{name}")
  known = [n for folder in folders for n in names(folder)]
  if folders == ("tasks",):
    known = tasks()
  close = difflib.get_close_matches(name, known) or known
  raise errors.UserError(
    f"{field}={name!r} is unknown",
    f"it names a file in rlreward/{' or rlreward/'.join(folders)}",
    f"use one of: {', '.join(close)}",
  )


def algorithm(name: str) -> ModuleType:
  """The module of an algorithm or a paper's method; it has `make`."""
  return find(name, METHODS, "algorithm")


def task(config: Any) -> Any:
  """The Task that a config's `task` section names.

  Args:
    config: the run's config; `task.name` is a file of rlreward/tasks with
      `make(config) -> Task`.
  """
  module = find(config.task.name, ("tasks",), "task.name")
  if not {"make", "defaults"} <= set(vars(module)):
    raise errors.UserError(
      f"task.name={config.task.name!r} names a module that is not a task",
      "a task module has defaults() and make(config) -> Task",
      f"use one of: {', '.join(tasks())}",
    )
  section = config.task.to_dict()
  # Text is cut by the model's own tokenizer unless another one is named.
  if "tokenizer" in module.defaults() and not section.get("tokenizer"):
    section["tokenizer"] = config.model.path
  from rlreward import model_rewards

  return with_gold(
    config, model_rewards.with_model(config, module.make(section))
  )


def with_gold(config: Any, task: Task) -> Task:
  """The task with the held-out scorer that `eval.gold` names, if any.

  Args:
    config: the run's; `eval.gold` is "file.py:function" or "package:function":
      (Rollout, batch) -> Score and compiled where the task's own reward is,
      else a reward function like those of `task.rewards`; or the directory of
      a reward model.
    task: whose reward stays what is trained on.

  Raises:
    UserError: no such function, or nothing that it could be held against.
  """
  path = config.eval.get("gold", "")
  if not path:
    return task
  if not task.spec.get("judged", True):
    raise errors.UserError(
      f"eval.gold={path!r} on a task without a reward",
      "it is evaluated beside what is trained on, and here that is nothing",
      "name it in task.rewards, which judges the evaluations then",
    )
  if pathlib.Path(path).is_dir():
    from rlreward import model_rewards

    return task._replace(gold=model_rewards.load(path, task))
  if not task.spec["on_device"]:
    from rlreward.rewards import function
    from rlreward.tasks import text

    gold: Any = function.make(
      text.parse_rewards(path),
      task.spec["tokenizer"],
      columns=[*task.spec["columns"], "row"]
      if "columns" in task.spec
      else None,
    )
    return task._replace(gold=gold)
  from rlreward.rewards import loader

  found = loader.load(path)
  if not callable(found):
    raise errors.UserError(
      f"eval.gold={path!r} is a {type(found).__name__}",
      "it is called with a Rollout and a batch",
      "name a function (rollout, batch) -> Score",
    )

  def scored(rollout, batch) -> Score:
    score = found(rollout, batch)
    if not isinstance(score, Score):
      raise errors.UserError(
        f"eval.gold={path!r} returned a {type(score).__name__}",
        f"task {config.task.name!r} is judged inside the compiled step",
        "return rlreward.types.Score(value, valid)",
      )
    return score

  spec = dict(task.spec)
  listed = spec.get("outcomes")
  if listed:  # their gold is that of the task's own
    spec["outcomes"] = lambda batch: listed(batch)._replace(gold=None)
  return task._replace(gold=scored, spec=spec)


def tasks() -> list[str]:
  """Names of the tasks."""
  return [
    n
    for n in names("tasks")
    if "\ndef make(" in (ROOT / "tasks" / f"{n}.py").read_text()
  ]
