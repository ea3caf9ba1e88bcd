"""Scores of a file of any size by a reward model; nothing is lost or cut.

The input is read in windows of lines. A window's answers are sorted into
buckets of length, scored by one program for each bucket, and written in the
order of the input, one line for each line. A run that was killed goes on after
the last whole window, so that its file is the same byte for byte.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from rlreward.errors import UserError
from rlreward.reward_models import Loaded
from rlreward.tasks import scored

WINDOWS = 16  # batches of a window


class Counts(NamedTuple):
  """What became of the lines.

  Attributes:
    lines: written, those that were there included.
    resumed: lines that were there from an earlier run.
    scored: answers with a score, in this run.
    overlong: answers longer than the model reads, in this run.
    invalid: lines or answers without a score for another reason, in this run.
  """

  lines: int = 0
  resumed: int = 0
  scored: int = 0
  overlong: int = 0
  invalid: int = 0

  def text(self) -> str:
    """The numbers on one line."""
    return (
      f"{self.lines} lines ({self.resumed} were there), {self.scored} scored,"
      f" {self.overlong} over-long, {self.invalid} invalid"
    )


def run(
  found: Loaded,
  source: str | os.PathLike[str],
  out: str | os.PathLike[str],
  *,
  column: str = "score",
  traces: bool = False,
  normalise: bool = False,
) -> Counts:
  """Writes each line of a JSONL with its score.

  A row keeps its fields and gets `score`, or `scores` where it holds several
  answers; null and `reason` where there is none. A line that is no row becomes
  {"line", "score": null, "reason", "text"}.

  Args:
    found: the model.
    source: a JSONL, plain or .gz, or a .parquet; see `tasks.scored` for its
      columns.
    out: a file that does not exist; `out.partial` is resumed.
    column: name of the score; several are its plural.
    traces: also write `<column>_tokens`: ids, values at each of them, and
      `start`, place of the answer.
    normalise: (score - mean) / scale of the card.

  Raises:
    UserError: no input, an existing file, or a partial one that is not of this
      input and this model.
  """
  path, target = pathlib.Path(source), pathlib.Path(out)
  if not path.is_file():
    raise UserError(
      f"there is no file {path}", "rows are read from it", "check --input"
    )
  if target.exists():
    raise UserError(
      f"{target} exists", "it is not overwritten", "give another --out"
    )
  if normalise and not found.model.card.texts:
    raise UserError(
      f"{found.name} has no mean and scale of scores",
      "without them scores cannot be normalised",
      "leave --normalise away, or export the model from its run",
    )
  target.parent.mkdir(parents=True, exist_ok=True)
  partial = target.with_name(target.name + ".partial")
  state = target.with_name(target.name + ".partial.json")
  writer = _Writer(found, column, traces, normalise)
  size = found.model.batch * WINDOWS
  about = {**writer.about(), "window": size}
  done, end = _resume(partial, state, about, path, writer, size)
  state.write_text(json.dumps(about) + "\n")
  total = Counts(lines=done, resumed=done)
  with partial.open("r+b" if partial.exists() else "w+b") as file:
    file.truncate(end)
    file.seek(end)
    lines = itertools.islice(_lines(path), done, None)
    while window := list(itertools.islice(lines, size)):
      rows, counts = writer.window(window)
      file.write("".join(json.dumps(r) + "\n" for r in rows).encode())
      file.flush()
      total = Counts(*(a + b for a, b in zip(total, counts, strict=True)))
  os.replace(partial, target)
  state.unlink()
  return total


def _resume(partial, state, about, path, writer, size) -> tuple[int, int]:
  """(whole lines to keep, their bytes) of a partial output.

  Raises:
    UserError: it is of another model or setting, or another input.
  """
  if not partial.exists():
    return 0, 0
  fix = f"remove {partial} to start again, or give another --out"
  before = json.loads(state.read_text()) if state.exists() else None
  if before != about:
    names = [k for k in about if (before or {}).get(k) != about[k]]
    raise UserError(
      f"{partial} was written with other settings ({', '.join(names)})",
      "its scores and the rest would not be comparable",
      fix,
    )
  with partial.open("rb") as file:
    count = sum(1 for line in file if line.endswith(b"\n"))
  done = count - count % size
  end = 0
  with partial.open("rb") as file:
    ours = itertools.islice(file, done)
    for line, theirs in itertools.zip_longest(
      ours, itertools.islice(_lines(path), done)
    ):
      number = theirs[0] if theirs else 0
      if theirs is None or not writer.same(line, *theirs):
        raise UserError(
          f"{partial} does not belong to {path}: they differ at line {number}"
          if theirs
          else f"{partial} has more lines than {path}",
          "scores would stand beside other rows",
          fix,
        )
      end += len(line)
  return done, end


def _lines(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
  """(number from 1, bytes without the newline) of each line or row."""
  if path.suffix == ".parquet":
    yield from _parquet(path)
    return
  opened = gzip.open if path.suffix == ".gz" else open
  with opened(path, "rb") as file:
    for number, line in enumerate(file, 1):
      yield number, line.rstrip(b"\r\n")


def _parquet(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
  """(number from 1, JSON) of each row; what JSON lacks becomes its text."""
  import pyarrow
  import pyarrow.parquet

  number = 0
  try:
    with pyarrow.parquet.ParquetFile(path) as file:
      for part in file.iter_batches(batch_size=1024):
        for row in part.to_pylist():
          number += 1
          yield number, json.dumps(row, default=str).encode()
  except (pyarrow.ArrowException, OSError) as error:
    raise UserError(
      f"{path} cannot be read after row {number}: {error}",
      "rows would be missing",
      "write the file again, or convert it to .jsonl",
    ) from error


class _Writer:
  """Lines in, lines with scores out."""

  def __init__(self, found: Loaded, column: str, traces: bool, normal: bool):
    self.found, self.column, self.traces = found, column, traces
    self.normal = normal
    self.added = {column, f"{column}s", f"{column}_tokens", "reason"}

  def about(self) -> dict[str, Any]:
    """What the output depends on, apart from the input."""
    model = self.found.model
    leaves = jax.tree.leaves(model.variables["params"]["score"])
    weights = b"".join(np.asarray(x).tobytes() for x in leaves)
    card = json.dumps(model.card._asdict(), sort_keys=True, default=str)
    return {
      "model": hashlib.sha256(weights + card.encode()).hexdigest(),
      "dtype": model.model.config.dtype,
      "buckets": list(model.buckets),
      "column": self.column,
      "traces": self.traces,
      "normalise": self.normal,
    }

  def read(self, number: int, line: bytes) -> tuple[Any, str | None]:
    """(row, None), or (the line as a row of ours, why it is none)."""
    text = line.decode("utf-8", "replace")
    try:
      row, why = json.loads(line.decode("utf-8")), None
    except ValueError as error:  # UnicodeDecodeError is one
      row, why = None, f"is not JSON: {error}" if text.strip() else "is empty"
    if not isinstance(row, dict):
      why = why or f"is a {type(row).__name__}, not an object"
    elif taken := sorted(self.added & set(row)):
      why = f"has a column {taken[0]!r} already; choose another --column"
    if why is None:
      return row, None
    why = f"line {number} {why}"
    return {"line": number, self.column: None, "reason": why, "text": text}, why

  def same(self, written: bytes, number: int, line: bytes) -> bool:
    """Whether a line of the output is of a line of the input."""
    row, why = self.read(number, line)
    try:
      ours = json.loads(written)
    except ValueError:
      return False
    if why is None and isinstance(ours, dict):
      ours = {k: v for k, v in ours.items() if k not in self.added}
    # As text: NaN in a row is unequal to itself.
    return json.dumps(ours) == json.dumps(row)

  def window(self, lines) -> tuple[list[dict[str, Any]], Counts]:
    """The lines of a window with scores, and counts."""
    out: list[dict[str, Any]] = []
    asked: list[tuple[int, scored.Answers]] = []
    limit = self.found.model.buckets[-1]
    bad = over = 0
    for number, line in lines:
      row, why = self.read(number, line)
      out.append(row)
      if why is None:
        try:
          asked.append((len(out) - 1, self.found.encode(row)))
          continue
        except UserError as error:
          why = f"line {number}: {str(error).splitlines()[0]}"
        out[-1] = {**row, self.column: None, "reason": why}
      bad += 1
    fits = [
      (place, k)
      for place, a in asked
      for k, x in enumerate(a.found)
      if len(x.ids) <= limit
    ]
    own = dict(asked)
    values = self._values([own[place].found[k] for place, k in fits])
    got = dict(zip(fits, values, strict=True))
    fine = 0
    for place, a in asked:
      each, notes = [], []
      for k, x in enumerate(a.found):
        value = got.get((place, k))
        if value is None:
          over += 1
          notes.append(f"{len(x.ids)} tokens, and at most {limit} are read")
        elif value[0] is None:
          bad += 1
          notes.append("the score is not finite")
        else:
          fine += 1
        each.append(value or (None, None))
      out[place] = self._row(out[place], each, notes, a.several)
    return out, Counts(len(lines), 0, fine, over, bad)

  def _row(self, row, each, notes, several) -> dict[str, Any]:
    name = f"{self.column}s" if several else self.column
    one = (lambda x: x) if several else (lambda x: x[0])
    row = {**row, name: one([value for value, _ in each])}
    if self.traces:
      row[f"{self.column}_tokens"] = one([trace for _, trace in each])
    return {**row, "reason": "; ".join(notes)} if notes else row

  def _values(self, answers: list[scored.Answer]):
    """(score or None, trace or None) of each answer."""
    model, ids = self.found.model, [a.ids for a in answers]
    adjust = model.normalised if self.normal else (lambda x: x)
    value = adjust(model.scores(ids, [a.start for a in answers]))
    if not self.traces:
      return [(_plain(v), None) for v in value]
    out = []
    for a, v, every in zip(answers, value, model.traces(ids), strict=True):
      values = [_plain(x) for x in adjust(every)]
      trace = {"ids": list(a.ids), "values": values, "start": a.start}
      out.append((_plain(v), trace))
    return out


def _plain(value: Any) -> float | None:
  """The shortest decimal that is this f32; None where it is not finite."""
  found = float(str(np.float32(value)))
  return found if math.isfinite(found) else None
