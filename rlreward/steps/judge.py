"""Where a reward runs: in the compiled step, or on the hosts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from rlreward import errors, sharding
from rlreward.types import Rollout, Score, Task


def arrays(batch: Mapping[str, Any]) -> dict[str, jax.Array]:
  """The columns of a batch that live on devices."""
  return {k: v for k, v in batch.items() if isinstance(v, jax.Array)}


def spread(mesh: jax.sharding.Mesh, batch: Mapping[str, Any]) -> dict[str, Any]:
  """A batch with its rows over the data axes of a mesh.

  Args:
    mesh: a data shard may lie on several processes (a tensor axis across
      them), or several on one.
    batch: whole, the same on every process.

  Returns:
    The batch with its columns of numbers on devices; text and scalars stay.
  """
  layout, out = sharding.batch_sharding(mesh), {}
  for name, column in batch.items():
    rows = np.asarray(column)
    if rows.ndim and rows.dtype.kind in "biuf":
      column = jax.make_array_from_callback(
        rows.shape, layout, rows.__getitem__
      )
    out[name] = column
  return out


def check_prompts(name: str, prompts: int, task: Task) -> None:
  """Refuses prompts that hosts which judge cannot share evenly.

  Args:
    name: the config field, e.g. "eval.prompts".
    prompts: its value, over all processes.
    task: rewards and tools on the device are not shared out.

  Raises:
    UserError: with the nearest legal value.
  """
  count, tool = jax.process_count(), task.spec.get("tool")
  hosted = not task.spec["on_device"] or (tool and not tool.on_device)
  if hosted and prompts % count:
    raise errors.UserError(
      f"{name}={prompts} with rewards or a tool in Python on {count} processes",
      "each judges as many whole groups as the others",
      f"set {name} to a multiple of {count}, e.g. {prompts + -prompts % count}",
    )


def on_host(tree: Any) -> Any:
  """numpy copies of arrays whose parts may lie on other hosts.

  Every process must call this with the same tree.
  """
  if jax.process_count() == 1:
    return jax.tree.map(np.asarray, jax.device_get(tree))
  from jax.experimental import multihost_utils

  def gather(x):
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
      x = multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)

  return jax.tree.map(gather, tree)


def judge(
  reward: Callable[..., Score],
  task: Task,
  rollout: Rollout,
  placed: Mapping[str, Any],
  whole: Mapping[str, Any],
) -> Score:
  """Scores a rollout where the task says.

  With several processes each host judges its own share of the rows, so that a
  reward that costs money or draws lots is asked once for each row.

  Args:
    reward: (Rollout, batch) -> Score.
    task: `spec["on_device"]` says whether the reward is jittable.
    rollout: N rows.
    placed: the batch with its arrays on the mesh.
    whole: the batch as the iterator gave it, all rows.

  Returns:
    Score of all N rows.
  """
  if task.spec["on_device"]:
    return reward(rollout, arrays(placed))
  count = jax.process_count()
  everything = on_host(rollout)
  if count == 1:
    return reward(everything, whole)
  size = everything.tokens.shape[0] // count
  first = jax.process_index() * size
  cut = lambda x: x[first : first + size] if np.ndim(x) else x
  mine, failure = None, None
  try:
    mine = reward(jax.tree.map(cut, everything), whole)
  except Exception as error:  # told to all, who would wait for ever
    failure = error
  return _joined(mine, failure, everything.tokens[first : first + size])


def everyone(value: Any) -> list[Any]:
  """What each process has to say, by its index; all must call this.

  Args:
    value: what JSON can hold.
  """
  if jax.process_count() == 1:
    return [value]
  from jax.experimental import multihost_utils

  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(len(data)))
  padded = np.pad(data, (0, int(sizes.max()) - len(data)))
  found = multihost_utils.process_allgather(padded)
  return [
    json.loads(bytes(row[:size]))
    for row, size in zip(np.asarray(found), sizes, strict=True)
  ]


def with_components(score: Score, names: Iterable[str]) -> Score:
  """The score with these components in this order, NaN where it lacks one."""
  empty = np.full(np.shape(score.value), np.nan, np.float32)
  parts = {k: score.components.get(k, empty) for k in names}
  return score._replace(components=parts)


def _joined(mine: Score | None, failure: Exception | None, tokens) -> Score:
  """The scores of all processes, whose components may differ."""
  from jax.experimental import multihost_utils

  facts = everyone(
    {
      "names": list(mine.components) if mine else [],
      "tokens": bool(mine and mine.tokens is not None),
      "error": failure and f"{type(failure).__name__}: {failure}",
    }
  )
  if failure is not None:
    raise failure
  for index, fact in enumerate(facts):
    if fact["error"]:
      raise errors.UserError(
        f"the reward failed on process {index}: {fact['error']}",
        "the processes train on one another's rewards, so all stop",
        "see the output of that process",
      )
  assert mine is not None
  names = dict.fromkeys(name for fact in facts for name in fact["names"])
  mine = with_components(mine, names)
  if mine.tokens is None and any(fact["tokens"] for fact in facts):
    mine = mine._replace(tokens=np.zeros(tokens.shape, np.float32))
  # numpy, as with one process: what follows treats both alike.
  gathered = multihost_utils.process_allgather(
    jax.tree.map(np.asarray, mine), tiled=True
  )
  return jax.tree.map(np.asarray, gathered)
