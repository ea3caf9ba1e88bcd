"""An endless iterator of drawn batches, the same for every synthetic world."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import data

SPLITS = ("train", "test")
Batch = dict[str, np.ndarray]
# (rows, generator) -> batch, whose arrays have a multiple of so many rows.
Build = Callable[[int, np.random.Generator], Batch]


class Finite(NamedTuple):
  """A set that is gone through again and again, in another order each time.

  Attributes:
    size: items in it.
    build: i64[n], places of items -> batch.
  """

  size: int
  build: Callable[[np.ndarray], Batch]


def digest(c: Mapping[str, Any]) -> str:
  """What batches depend on: every field of a task's config but its name."""
  return ":".join(f"{k}={v}" for k, v in sorted(c.items()) if k != "name")


class Draws:
  """Batches without end; batch k depends on (seed, split, k) alone.

  Args:
    build: (rows, generator) -> batch.
    split: of SPLITS.
    batch_size: global batch.
    seed: of the draws.
    digest: what the batches depend on beside these; part of the state.
    process_index: this host.
    process_count: hosts; each gets its slice of every array.
    finite: seed -> the set that the split "train" is made of; None draws anew.

  Raises:
    UserError: sizes that cannot work, or an unknown split.
  """

  def __init__(
    self,
    build: Build,
    split: str,
    batch_size: int,
    seed: int,
    digest: str,
    process_index: int = 0,
    process_count: int = 1,
    finite: Callable[[int], Finite] | None = None,
  ):
    data.check_batch(batch_size, seed, process_index, process_count)
    if split not in SPLITS:
      raise UserError(
        f"there is no split {split!r}",
        "answers are drawn for training and for tests",
        "use 'train' or 'test'",
      )
    self._build, self._next = build, 0
    self._index, self._count = process_index, process_count
    given = finite is not None and split == "train"
    self._finite = finite(int(seed)) if finite and given else None
    self._facts = {
      "split": split,
      "batch_size": batch_size,
      "seed": int(seed),
      "digest": digest,
    }

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    f = self._facts
    k, size = self._next, f["batch_size"]
    self._next += 1
    if self._finite is None:
      place = [f["seed"], SPLITS.index(f["split"]), k]
      batch = self._build(size, np.random.default_rng(place))
    else:
      batch = self._finite.build(self._places(k * size, size))
    own = {n: len(v) // self._count for n, v in batch.items()}
    i = self._index
    return {n: v[i * own[n] : (i + 1) * own[n]] for n, v in batch.items()}

  def _places(self, start: int, size: int) -> np.ndarray:
    """Items at places start .. start + size of the shuffled epochs."""
    assert self._finite is not None
    n, seed = self._finite.size, self._facts["seed"]
    order = [
      np.random.default_rng([seed, 3, epoch]).permutation(n)
      for epoch in range(start // n, (start + size - 1) // n + 1)
    ]
    return np.concatenate(order)[start % n :][:size]

  def get_state(self) -> dict[str, Any]:
    """The position as plain values; the next batch is `next_batch`."""
    return {"next_batch": self._next, **self._facts}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes to a position.

    Args:
      state: of `get_state`.

    Raises:
      UserError: the state is of other draws.
    """
    data.check_state(state, self._facts)
    self._next = int(state["next_batch"])
