"""Stages of a config: what `start` says is trained before the rest.

A config may have a `start`, fields that differ in the stage before it, and that
one a `start` of its own: SFT, then a reward model, then PPO. Stages are counted
from 1, the first that trains. One of 0 steps is left out, so that an arm can
switch it off.
"""

from __future__ import annotations

from typing import Any

import ml_collections

from rlreward import fields
from rlreward.errors import UserError


def earlier(config: Any) -> ml_collections.FrozenConfigDict | None:
  """The config of the stage before: ours, with what `start` changes.

  What a stage is judged by is its own: `learned.stage` is 0 in the one before,
  unless `start` sets it. A stage before of 0 steps does not train: what is
  before it is before ours.

  Args:
    config: a run's.

  Returns:
    Its config, with the `start` of `start`; None where nothing is before.

  Raises:
    UserError: `start` names a field that the config does not have.
  """
  if not config.start:
    return None
  changes = config.start.to_dict()
  before = changes.pop("start", {})
  base = config.to_dict()
  base["start"] = {}
  base["learned"]["stage"] = 0
  own = ml_collections.ConfigDict(base)
  fields.assign(own, dict(fields.flatten(changes)))
  tree = own.to_dict()
  tree["start"] = before
  found = ml_collections.FrozenConfigDict(ml_collections.ConfigDict(tree))
  return found if found.steps else earlier(found)


def stages(config: Any) -> list[Any]:
  """Configs of all stages, the first that trains first, ours last."""
  found = [config]
  while (before := earlier(found[0])) is not None:
    found.insert(0, before)
  return found


def judge(config: Any) -> Any:
  """The config of the stage whose reward model judges; None without one.

  Args:
    config: `learned.stage` is that stage's number.

  Raises:
    UserError: no such stage before this one, or it trains no reward model.
  """
  number = config.learned.stage
  if not number:
    return None
  every = stages(config)
  if not 1 <= number < len(every):
    raise UserError(
      f"learned.stage={number} in stage {len(every)} of a run",
      "answers are judged by the reward model of an earlier stage",
      f"set learned.stage from 1 to {len(every) - 1}"
      if len(every) > 1
      else "give the config a `start` that trains a reward model, or set"
      " learned.stage=0",
    )
  found = every[number - 1]
  if found.model.outputs != 1:
    raise UserError(
      f"learned.stage={number} is {found.algorithm} with model.outputs="
      f"{found.model.outputs}",
      "a reward is one number, which a score head gives",
      "name a stage with algorithm='reward_model' and model.outputs=1",
    )
  return found


def parent(config: Any) -> int:
  """Number of the stage whose weights ours begins with; 0 for none.

  It is the stage before, or the last one with a language head: a reward model
  has none that a policy could go on with.
  """
  for number, before in reversed([*enumerate(stages(config)[:-1], 1)]):
    if config.model.outputs or not before.model.outputs:
      return number
  return 0
