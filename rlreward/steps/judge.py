"""Where a reward runs: in the compiled step, or on the hosts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from rlreward.types import Rollout, Score, Task


def arrays(batch: Mapping[str, Any]) -> dict[str, jax.Array]:
  """The columns of a batch that live on devices."""
  return {k: v for k, v in batch.items() if isinstance(v, jax.Array)}


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
  from jax.experimental import multihost_utils

  size = everything.tokens.shape[0] // count
  first = jax.process_index() * size
  cut = lambda x: x[first : first + size] if np.ndim(x) else x
  mine = reward(jax.tree.map(cut, everything), whole)
  return multihost_utils.process_allgather(
    jax.tree.map(np.asarray, mine), tiled=True
  )
