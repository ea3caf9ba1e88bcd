"""What is in judged data before a model learns from it: counts and warnings.

Over-long rows, duplicates, equal answers, comparisons that contradict each
other, the balance of labels, and whether length alone tells which answer is
better. Rankings and ratings are read through `scan`, which counts as it goes;
`take` counts the pairs and labelled answers of a text task.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import census_counts as counts
from rlreward.tasks import columns, data, pairs, sources, text, tokens
from rlreward.tasks.census_counts import Census, Entry
from rlreward.tasks.sources import Row, Source


class Scan(NamedTuple):
  """The usable rows of a split.

  Attributes:
    keep: i64[R], indices of the kept rows.
    prompts: i32[R], tokens of their prompts.
    most: answers of the row that has most.
    census: what was left out, and what was found.
    digest: changes when the kept rows do.
  """

  keep: np.ndarray
  prompts: np.ndarray
  most: int
  census: Census
  digest: str


def scan(
  source: Source,
  where: str,
  encode: Callable[[Row], Entry],
  limits: tuple[int, int],
  *,
  kind: str,
  needs: Sequence[str] = (),
  select: Callable[[Row], bool] | None = None,
  on_overlong: str = "drop",
  on_equal: str = "drop",
  on_bad: str = "raise",
  placed: bool = False,
) -> Scan:
  """Reads every row once: checks it, measures it, counts what is found.

  Args:
    source: rows.
    where: its name, for messages.
    encode: row to Entry; raises UserError for one that cannot work.
    limits: tokens of a prompt and of an answer.
    kind: what rows are, in words.
    needs: columns that every row must have.
    select: whether a row belongs to this split.
    on_overlong: "drop" counts longer rows and leaves them out, "raise" stops.
    on_equal: "drop", "keep" (counted) or "raise": rows with equal answers.
    on_bad: "raise", or "drop": rows that cannot be read are counted.
    placed: the order of answers in a row is the data's own, so that a habit of
      the judge shows in it.

  Raises:
    UserError: see the messages; rows are named by file and number.
  """
  policies = (
    ("on_overlong", on_overlong, ("drop", "raise")),
    ("on_equal", on_equal, ("drop", "keep", "raise")),
    ("on_bad", on_bad, ("drop", "raise")),
  )
  for field, value, known in policies:
    if value not in known:
      raise UserError(
        f"{field}={value!r}",
        "it says what happens to such rows; they are counted, never cut",
        f"use one of: {', '.join(known)}",
      )
  tally, digest = counts.Tally(), hashlib.blake2b(digest_size=8)
  keep, sizes, longest, first_bad = [], [], [0, 0], ""
  overlong = bad = equal = other = most = 0
  for i in range(len(source)):
    row = source[i]
    for name in needs:
      data.column(row, name, where, i)
    try:
      if select is not None and not select(row):
        other += 1
        continue
      e = encode(row)
    except UserError as error:
      said = f"row {i} of {where}: {error.what}"
      if on_bad == "raise":
        raise UserError(said, error.why, error.fix) from error
      bad, first_bad = bad + 1, first_bad or said
      continue
    size = (len(e.prompt), max(len(a[0]) for a in e.answers))
    same = len({tuple(a[0]) for a in e.answers}) < len(e.answers)
    long = size[0] > limits[0] or size[1] > limits[1]
    _refuse(i, where, size, limits, same and on_equal == "raise",
            long and on_overlong == "raise")  # fmt: skip
    longest = [max(a, b) for a, b in zip(longest, size, strict=True)]
    equal += same
    overlong += long
    if long or (same and on_equal == "drop"):
      continue
    keep.append(i)
    sizes.append(size[0])
    most = max(most, len(e.answers))
    tally.add(e, placed)
    digest.update(repr((e.prompt, e.answers, e.arrays)).encode())
  census = Census(
    kind=kind,
    rows=len(source),
    kept=len(keep),
    overlong=overlong,
    bad=bad,
    equal=equal,
    other_split=other,
    longest_prompt=longest[0],
    longest_answer=longest[1],
    first_bad=first_bad,
    files=sources.parts(source),
    **tally.found(),
  )
  if not keep:
    raise UserError(
      f"no rows are left of {census.line(where)}; limits {limits}",
      first_bad or "there is nothing to read",
      f"raise prompt_length to {longest[0]}, answer_length to {longest[1]}"
      if overlong
      else "correct the rows, or change the split",
    )
  found = np.asarray(keep, np.int64), np.asarray(sizes, np.int32)
  return Scan(*found, most, census, f"{kind}:{digest.hexdigest()}")


def take(
  config: Any, tokenizer: tokens.Tokens | None = None
) -> dict[str, Census]:
  """The census of a text task's pairs and labelled answers, of every split.

  Args:
    config: section with the fields of `text.defaults`; equal and over-long
      rows are counted, whatever it says of them.
    tokenizer: loaded from `config.tokenizer` if None.

  Returns:
    {"<split> pairs" or "<split> labelled answers": Census}; print their
    `lines`, or `write` them.

  Raises:
    UserError: data without either, or rows that cannot be read.
  """
  c = data.section(config, text.defaults())
  tok = tokenizer or tokens.load(c["tokenizer"])
  opened = columns.open_splits(c)
  first = opened["train"][0][0]
  name = columns.prompt_column(c, first)
  readers = []
  if columns.has_pairs(c, first):
    readers.append(pairs.preferred(c, tok, name, first))
  if name and c["completion"] in first and c["label"] in first:
    readers.append(pairs.labelled(c, tok, name, first))
  if not readers:
    raise UserError(
      f"columns {sorted(map(str, first))} hold no pairs and no labels",
      "a census is of judged answers",
      "name the columns with chosen and rejected, or completion and label",
    )
  limits = tuple(columns.lengths(c[f])[-1] for f in _LIMITS)
  return {
    f"{split} {reader.kind}": scan(
      source,
      where,
      lambda row, read=reader.encode: pairs.entry(read(row)),
      (limits[0], limits[1]),
      kind=reader.kind,
      needs=reader.columns,
      select=columns.selector(c, split, name),
    ).census
    for split, (source, where) in opened.items()
    for reader in readers
  }


def write(report: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
  """Writes a census of each split as JSON; an older file is replaced.

  Args:
    report: of `take`, or `spec["report"]` of a task.
    path: the file, such as RUN/data.json.
  """
  found = {k: v.plain() for k, v in report.items()}
  partial = pathlib.Path(f"{os.fspath(path)}.partial")
  partial.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
  partial.replace(path)


_LIMITS = ("prompt_length", "answer_length")


def _refuse(i, where: str, size, limits, same: bool, long: bool) -> None:
  if same:
    raise UserError(
      f"row {i} of {where} has two answers that are the same",
      "neither is better, so there is nothing to learn from them",
      "remove the row, or set on_equal='drop'",
    )
  if long:
    raise UserError(
      f"row {i} of {where} has a prompt of {size[0]} and an answer of"
      f" {size[1]} tokens, the limits are {limits[0]} and {limits[1]}",
      "rows are never cut, since that would change what is learned",
      f"set prompt_length={max(size[0], limits[0])},"
      f" answer_length={max(size[1], limits[1])}, or on_overlong='drop'",
    )
