"""Batches of rows of near length, from a stream that is drawn as ever.

A batch is as wide as its longest row. Rows that are drawn at random make nearly
every batch as wide as the data; sorted within a window they do not, and each
row still comes once in an epoch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rlreward.errors import UserError


def by_length(
  order: Any, batch_size: int, window: int, lengths: np.ndarray, seed: int
) -> Any:
  """A dataset of batches of indices, rows of near length together.

  A window of rows is sorted by length and cut into batches, which come in a
  drawn order, so that training does not go from short to long.

  Args:
    order: a grain.MapDataset of indices.
    batch_size: rows of a batch.
    window: batches of a window.
    lengths: i[R], tokens of each row.
    seed: of the order of batches within a window.

  Returns:
    A grain.MapDataset of i64[batch_size]; a batch depends on its number alone.
  """
  import grain

  windows = order.batch(batch_size * window)
  count = len(order) // (batch_size * window)

  def pick(b: int) -> np.ndarray:
    w, k = divmod(int(b), window)
    rows = np.asarray(windows[w])
    rows = rows[np.argsort(lengths[rows], kind="stable")]
    place = np.random.default_rng([seed, w]).permutation(window)[k]
    return rows[place * batch_size : (place + 1) * batch_size]

  return grain.MapDataset.range(count * window).map(pick)


def check(window: Any) -> None:
  """Refuses what is no number of batches.

  Raises:
    UserError: says what to write.
  """
  if type(window) is not int or window < 0:
    raise UserError(
      f"task.window={window!r}",
      "it is the number of batches that are sorted by length together",
      "use 0 (off) or a whole number such as 16",
    )
