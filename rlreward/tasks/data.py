"""Rows to batches on Grain: counted, shuffled, resumed exactly, sliced by host.

The order of an epoch depends on the seed and the number of rows alone. Every
process draws the same global batch of indices and reads its own slice of it,
so the batches of a run do not depend on how many hosts feed it.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import windows
from rlreward.tasks.sources import Row, Source

Load = Callable[[np.ndarray, np.ndarray], dict[str, Any]]


class Counts(NamedTuple):
  """What became of the rows of a split.

  Attributes:
    rows: read.
    kept: used.
    overlong: left out, longer than the limit; never cut.
    duplicates: kept rows whose prompt came before.
    other_split: left out, held out for (or from) another split.
    longest: tokens of the longest row, over-long ones included.
  """

  rows: int
  kept: int
  overlong: int
  duplicates: int
  other_split: int
  longest: int

  def line(self, name: str) -> str:
    """One line for the banner of a run."""
    share = 100 * self.overlong / max(1, self.rows)
    return (
      f"{name}: {self.kept} of {self.rows} rows"
      f" ({self.overlong} over-long = {share:.1f}% dropped,"
      f" {self.duplicates} duplicate prompts,"
      f" {self.other_split} in the other split, longest {self.longest} tokens)"
    )

  def lines(self, name: str) -> list[str]:
    """For the banner of a run."""
    return [self.line(name)]

  def plain(self) -> dict[str, Any]:
    """Itself as a dict, for JSON."""
    return self._asdict()


class Rows(NamedTuple):
  """The usable rows of a split.

  Attributes:
    source: all rows.
    keep: i64[R], indices into `source`.
    lengths: i32[R], tokens of each kept row.
    counts: what was left out.
    digest: changes when the kept rows do.
  """

  source: Source
  keep: np.ndarray
  lengths: np.ndarray
  counts: Counts
  digest: str


def scan(
  source: Source,
  encode: Callable[[Row], Sequence[int]],
  limit: int,
  *,
  where: str,
  on_overlong: str = "drop",
  columns: Sequence[str] = (),
  select: Callable[[Row], bool] | None = None,
) -> Rows:
  """Reads every row once: checks it, measures it, counts what is left out.

  Args:
    source: rows.
    encode: row to ids.
    limit: longest row in tokens.
    where: name of the source, for messages.
    on_overlong: "drop" counts longer rows and leaves them out, "raise" stops.
    columns: names that every row must have, of one kind each.
    select: whether a row belongs to this split.

  Returns:
    Rows.

  Raises:
    UserError: a missing column (lists those found), mixed kinds, an empty or
      over-long prompt, no rows left.
  """
  if on_overlong not in ("drop", "raise"):
    raise UserError(
      f"on_overlong={on_overlong!r}",
      "it says what happens to rows that do not fit; they are never cut",
      "use 'drop' (counted and left out) or 'raise'",
    )
  kinds: dict[str, tuple[str, int]] = {}
  keep, lengths, seen = [], [], set()
  digest = hashlib.blake2b(digest_size=8)
  overlong = duplicates = other = longest = 0
  for i in range(len(source)):
    row = source[i]
    if not isinstance(row, Mapping):
      raise UserError(
        f"row {i} of {where} is a {type(row).__name__}",
        "rows are read by column name",
        "give dicts only",
      )
    for name in columns:
      _check_kind(kinds, name, column(row, name, where, i), where, i)
    try:
      if select is not None and not select(row):
        other += 1
        continue
      ids = encode(row)
    except UserError as error:
      raise UserError(
        f"row {i} of {where}: {error.what}", error.why, error.fix
      ) from error
    if not len(ids):
      raise UserError(
        f"row {i} of {where} has an empty prompt",
        "the model has nothing to condition on",
        "remove the row, or use a tokenizer with a bos id",
      )
    longest = max(longest, len(ids))
    if len(ids) > limit:
      if on_overlong == "raise":
        raise UserError(
          f"row {i} of {where} has {len(ids)} tokens, the limit is {limit}",
          "rows are never cut, since that would change what is asked",
          f"raise the limit to {len(ids)}, or set on_overlong='drop'",
        )
      overlong += 1
      continue
    key = _hash(ids)
    duplicates += key in seen
    seen.add(key)
    digest.update(key)
    keep.append(i)
    lengths.append(len(ids))
  counts = Counts(len(source), len(keep), overlong, duplicates, other, longest)
  if not keep:
    raise UserError(
      f"no rows are left of {counts.line(where)}; limit {limit} tokens",
      "there is nothing to read",
      f"raise the limit to {longest}" if overlong else "change the split",
    )
  return Rows(
    source,
    np.asarray(keep, np.int64),
    np.asarray(lengths, np.int32),
    counts,
    digest.hexdigest(),
  )


def column(row: Row, name: str, where: str, index: int) -> Any:
  """A value of a row.

  Raises:
    UserError: no such column; lists those found.
  """
  if name in row:
    return row[name]
  found = sorted(map(str, row))
  near = difflib.get_close_matches(name, found, 1)
  raise UserError(
    f"row {index} of {where} has no column {name!r}; it has {found}",
    "this column was asked for by name",
    f"use {near[0]!r}" if near else f"name one of {found}",
  )


def held_out(prompt: str, share: float) -> bool:
  """Whether a prompt is in the held-out share: a hash of its text.

  Equal prompts fall on the same side, so train and test never overlap.

  Args:
    prompt: its text.
    share: in [0, 1).
  """
  key = hashlib.blake2b(prompt.encode(), digest_size=6).digest()
  return int.from_bytes(key, "big") < share * 2**48


class Stream:
  """An endless iterator of batches whose state is exact.

  Args:
    rows: R, indices 0..R-1 are drawn without replacement in each epoch.
    batch_size: global batch; a batch may reach over the edge of an epoch.
    seed: of the order.
    load: (own indices i64[B / count], all indices i64[B]) -> batch.
    digest: identifies the data; part of the state.
    process_index: this host.
    process_count: hosts.
    shuffle: draw in another order each epoch, else in the rows' order.
    lengths: i[R], tokens of each row, by which `window` sorts.
    window: batches that are drawn at once and then put together by length, so
      that a batch pads little; each row still comes once in an epoch. 0 and 1
      leave the order as it is drawn.

  Raises:
    UserError: sizes that cannot work.
  """

  def __init__(
    self,
    rows: int,
    batch_size: int,
    seed: int,
    load: Load,
    *,
    digest: str = "",
    process_index: int = 0,
    process_count: int = 1,
    shuffle: bool = True,
    lengths: np.ndarray | None = None,
    window: int = 0,
  ):
    check_batch(batch_size, seed, process_index, process_count)
    windows.check(window)
    import grain

    size = batch_size // process_count
    own = slice(process_index * size, (process_index + 1) * size)
    order = grain.MapDataset.range(rows).seed(seed)
    if shuffle:
      order = order.shuffle()
    # Endless in practice; an endless repeat has no length that Grain can hold.
    epochs = max(1, 2**48 // rows)
    order = order.repeat(epochs)
    if lengths is not None and window > 1:
      batches = windows.by_length(order, batch_size, window, lengths, seed)
    else:
      batches = order.batch(batch_size)
    batches = batches.map(lambda every: load(every[own], every))
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    self._iterator = iter(batches.to_iter_dataset(options))
    self._facts = {
      "rows": rows,
      "batch_size": batch_size,
      "seed": int(seed),
      "digest": digest,
    }
    if window > 1:
      self._facts["window"] = window

  def __iter__(self) -> Stream:
    return self

  def __next__(self) -> dict[str, Any]:
    return next(self._iterator)

  @property
  def epoch(self) -> int:
    """Epochs that are complete."""
    taken = self.get_state()["next_batch"] * self._facts["batch_size"]
    return taken // self._facts["rows"]

  def get_state(self) -> dict[str, Any]:
    """The position as plain values; the next batch is `next_batch`."""
    return {
      "next_batch": int(self._iterator.get_state()["next_index"]),
      **self._facts,
    }

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes to a position.

    Args:
      state: of `get_state`.

    Raises:
      UserError: the state is of other data, another batch size or seed.
    """
    wanted = self._facts
    check_state(state, wanted)
    self._iterator.set_state({"next_index": int(state["next_batch"])})


def check_state(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
  """Refuses an iterator state that belongs to another stream.

  Raises:
    UserError: names the facts that differ.
  """
  if "next_batch" not in state:
    raise UserError(
      f"iterator state has {sorted(state)}, not 'next_batch'",
      "it is not a state of this iterator",
      "start in a new directory",
    )
  wrong = [
    f"{k} was {state.get(k)!r} and is {v!r}"
    for k, v in wanted.items()
    if state.get(k) != v
  ]
  if wrong:
    raise UserError(
      f"the data stream has changed: {', '.join(wrong)}",
      "going on would skip some rows and repeat others",
      "restore these settings, or start in a new directory",
    )


def check_batch(
  batch_size: int, seed: int, process_index: int, process_count: int
) -> None:
  """Refuses sizes that cannot work.

  Raises:
    UserError: says which.
  """
  if batch_size < 1:
    raise UserError(
      f"batch size {batch_size}", "a batch holds prompts", "use 1 or more"
    )
  if not 0 <= process_index < process_count:
    raise UserError(
      f"process {process_index} of {process_count}",
      "each process reads its own slice of a batch",
      "pass jax.process_index() and jax.process_count()",
    )
  if batch_size % process_count:
    near = max(process_count, batch_size - batch_size % process_count)
    raise UserError(
      f"a batch of {batch_size} over {process_count} processes",
      "each process reads an equal slice",
      f"use a multiple of {process_count}, such as {near}",
    )
  if not 0 <= seed < 2**32:
    raise UserError(
      f"seed {seed}", "it must fit into 32 bits", "use 0 to 4294967295"
    )


def section(config: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
  """A config section as a dict with its defaults filled in.

  Args:
    config: mapping or ConfigDict; None for all defaults.
    defaults: every field there is.

  Raises:
    UserError: an unknown field (with the nearest name).
  """
  given = {} if config is None else dict(config.items())
  for name in given:
    if name not in defaults:
      near = difflib.get_close_matches(name, list(defaults), 1)
      raise UserError(
        f"task has no field {name!r}; it has {sorted(defaults)}",
        "a field nobody reads would be ignored",
        f"use {near[0]!r}" if near else f"remove {name!r}",
      )
  return {**defaults, **given}


def _check_kind(kinds, name: str, value: Any, where: str, i: int) -> None:
  if value is None:
    return
  kind = "number" if isinstance(value, (int, float)) else type(value).__name__
  first, row = kinds.setdefault(name, (kind, i))
  if kind != first:
    raise UserError(
      f"column {name!r} of {where} is a {kind} in row {i}"
      f" and a {first} in row {row}",
      "a reward or a template would read one of them wrongly",
      f"write {name!r} as one kind in every row",
    )


def _hash(ids: Sequence[int]) -> bytes:
  data = np.asarray(ids, np.int32).tobytes()
  return hashlib.blake2b(data, digest_size=16).digest()
