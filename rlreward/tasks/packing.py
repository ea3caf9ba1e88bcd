"""Several examples in one row: fewer padded slots, no example cut.

Rows carry `segment`, 0 where empty and 1, 2, ... for each example, so that
attention and positions can stay within an example.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import data

_LOG = logging.getLogger(__name__)

Lengths = Sequence[int] | np.ndarray
Encode = Callable[[int], tuple[Sequence[int], Sequence[bool]]]


def pack(lengths: Lengths, row_length: int) -> list[list[int]]:
  """First-fit decreasing: the longest example first, into the first row left.

  Never more than 11/9 of the fewest rows plus one. The same lengths give the
  same rows; equal lengths keep their order. O(n log n).

  Args:
    lengths: tokens of each of n examples.
    row_length: tokens of a row.

  Returns:
    Rows of example indices; every index is in exactly one row.

  Raises:
    UserError: an example that is empty or longer than a row.

  Reference: Johnson (1973), Near-optimal bin packing algorithms.
  """
  sizes = [int(n) for n in lengths]
  for i, size in enumerate(sizes):
    if not 1 <= size <= row_length:
      raise UserError(
        f"example {i} has {size} tokens for rows of {row_length}",
        "examples are packed whole",
        f"use rows of at least {max(sizes)} tokens, or drop longer examples",
      )
  if not sizes:
    return []
  # room[leaves + r] is the room in row r; a parent has its children's larger.
  leaves = 1 << (len(sizes) - 1).bit_length()
  room = [row_length] * (2 * leaves)
  rows: list[list[int]] = []
  for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
    node = 1
    while node < leaves:
      node *= 2
      node += room[node] < sizes[i]
    if node - leaves == len(rows):
      rows.append([])
    rows[node - leaves].append(i)
    room[node] -= sizes[i]
    while node > 1:
      node //= 2
      room[node] = max(room[2 * node], room[2 * node + 1])
  return rows


def utilisation(
  lengths: Lengths, rows: Sequence[Sequence[int]], row_length: int
) -> float:
  """Share of the slots of `rows` that hold a token.

  Args:
    lengths: tokens of each example.
    rows: of `pack`.
    row_length: tokens of a row.

  Returns:
    A number in (0, 1]; 0 without rows.
  """
  used = sum(int(lengths[i]) for row in rows for i in row)
  return used / max(1, len(rows) * row_length)


def stream(
  lengths: Lengths,
  row_length: int,
  batch_size: int,
  seed: int,
  encode: Encode,
  *,
  pad_id: int,
  where: str,
  digest: str = "",
  process_index: int = 0,
  process_count: int = 1,
) -> data.Stream:
  """Batches of packed rows; every example once in an epoch.

  A batch has `tokens` i32[B, row_length], `attend` and `loss`
  bool[B, row_length] and `segment` i32[B, row_length]. The examples are packed
  once, and the rows drawn in another order each epoch. The first token of an
  example has nothing before it to be predicted from, and so no loss.

  Args:
    lengths: tokens of each example.
    row_length: tokens of a row.
    batch_size: rows, over all processes.
    seed: of the order.
    encode: example index to (ids, mask of what is trained on).
    pad_id: fills the rest of a row.
    where: name of the data, for the line of the log.
    digest: identifies the examples.
    process_index: this host.
    process_count: hosts.

  Returns:
    An iterator with `get_state` and `set_state`.

  Raises:
    UserError: examples or sizes that cannot work.
  """
  rows = pack(lengths, row_length)
  share = utilisation(lengths, rows, row_length)
  _LOG.info(
    "%s: %d examples packed into %d rows of %d tokens, %.1f%% of them used",
    *(where, len(lengths), len(rows), row_length, 100 * share),
  )

  def load(own: np.ndarray, every: np.ndarray) -> dict[str, np.ndarray]:
    del every
    shape = (len(own), row_length)
    out = {
      "tokens": np.full(shape, pad_id, np.int32),
      "attend": np.zeros(shape, bool),
      "loss": np.zeros(shape, bool),
      "segment": np.zeros(shape, np.int32),
    }
    for n, r in enumerate(own):
      start = 0
      for number, i in enumerate(rows[int(r)], 1):
        ids, mask = encode(i)
        place = (n, slice(start, start + len(ids)))
        out["tokens"][place], out["attend"][place] = ids, True
        out["loss"][place], out["segment"][place] = mask, number
        out["loss"][n, start] = False
        start += len(ids)
    return out

  return data.Stream(
    len(rows),
    batch_size,
    seed,
    load,
    digest=f"{digest}:packed:{row_length}",
    process_index=process_index,
    process_count=process_count,
  )
