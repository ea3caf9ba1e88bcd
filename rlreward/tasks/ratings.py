"""Answers with ratings of several attributes, some missing; or of their steps.

The data of regression reward models (`reward_model.kind`: mse, huber, bce or
ordinal) and of process reward models (`steps`).

Reference: HelpSteer2, arXiv 2406.08673; ArmoRM, arXiv 2406.12845; Let's Verify
Step by Step, arXiv 2305.20050.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import columns, data, pairs, rankings, sources, tokens
from rlreward.tasks.census_counts import Entry
from rlreward.tasks.rankings import Reader
from rlreward.tasks.sources import Row
from rlreward.types import Task


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    **rankings.common(),
    "name": "ratings",
    "completion": "completion",  # column: the answer
    "attributes": "score",  # "a,b,c", columns of numbers; null, NaN or no such
    # column in a row is a missing rating
    "low": 0.0,  # ratings low .. high become 0 .. 1, others are refused;
    "high": 0.0,  # equal ones leave ratings as they are
    "steps": "",  # column with the list of an answer's steps; then labels are
    "step_labels": "",  # a list of numbers 0 .. 1, null where there is none; or
    "step_errors": "",  # numbers of the wrong steps from 1, the others right
    "separator": "\n",  # follows each step; its last token has the label
  }


def make(
  config: Any = None,
  tokenizer: tokens.Tokens | None = None,
  *,
  process_index: int = 0,
  process_count: int = 1,
) -> Task:
  """The task; every row is read, checked and counted here.

  A batch of `labelled` is of B answers: `tokens` i32[B, P + T], `attend` and
  `loss` bool[B, P + T], `row` i32[B], and `target` f32[B, A], the attributes in
  their order, or `step_label` f32[B, T]; NaN is no rating. Steps and separator
  are encoded one by one, so that a step's label is at a token of its own.

  Args:
    config: section with the fields of `defaults`.
    tokenizer: loaded from `config.tokenizer` if None.
    process_index: this host.
    process_count: hosts; each reads its slice of a batch.

  Returns:
    Task without a reward; `spec["outputs"]` is A, `spec["report"]` the
    `Census` of each split.

  Raises:
    UserError: fields, columns or rows that cannot work, named by file and row.
  """
  c = data.section(config, defaults())
  tok = tokenizer or tokens.load(c["tokenizer"])
  reader = _stepped(c, tok) if c["steps"] else _rated(c, tok)
  return rankings.assemble(
    c, tok, reader, process_index=process_index, process_count=process_count
  )


def _rated(c: Mapping[str, Any], tok: tokens.Tokens) -> Reader:
  names = [n.strip() for n in c["attributes"].split(",") if n.strip()]
  if not names or len(set(names)) < len(names):
    raise UserError(
      f"attributes={c['attributes']!r}",
      "each column of ratings is an output of the model",
      "name one column or more, each once: 'helpfulness,correctness'",
    )
  if c["high"] < c["low"]:
    raise UserError(
      f"low={c['low']}, high={c['high']}",
      "ratings from low to high become 0 to 1",
      "set high above low, or both to 0 to leave ratings as they are",
    )
  _check_names(c, names)
  column = c["completion"]

  def encode(name: str, row: Row) -> Entry:
    target = [_rating(c, n, row.get(n)) for n in names]
    if all(map(math.isnan, target)):
      raise UserError(
        f"{names} are all missing",
        "an answer without a rating teaches nothing",
        "remove the row, or set on_bad='drop'",
      )
    prompt, said = pairs.answered(tok, name, row[name], row[column], column)
    values = dict(zip(names, target, strict=True))
    blank = pairs.blank(row[column])
    return Entry(prompt, [said], (), values, {"target": target}, blank)

  def arrays(entries, k: int, slots: int) -> dict[str, np.ndarray]:
    del k, slots
    found = [e.arrays["target"] for e in entries]
    return {"target": np.asarray(found, np.float32)}

  kind = "rated answers"
  return Reader(kind, "ratings", [column], encode, arrays, False, len(names))


def _stepped(c: Mapping[str, Any], tok: tokens.Tokens) -> Reader:
  if bool(c["step_labels"]) == bool(c["step_errors"]):
    raise UserError(
      f"step_labels={c['step_labels']!r} and step_errors={c['step_errors']!r}",
      "one column says which steps are right",
      "name the one that the data has",
    )
  column, judged = c["steps"], c["step_labels"] or c["step_errors"]

  def encode(name: str, row: Row) -> Entry:
    steps = row[column]
    listed = isinstance(steps, Sequence) and not isinstance(steps, str)
    if not listed or not steps or not all(
      isinstance(s, str) and s.strip() for s in steps
    ):  # fmt: skip
      raise UserError(
        f"column {column!r} is {tokens.head(steps)}",
        "an answer is a list of steps, and each is text",
        "remove the row, or name another column with steps",
      )
    read = _errors if c["step_errors"] else _labels
    label = read(judged, row[judged], len(steps))
    prompt = tok.encode(columns.string(name, row[name]), bos=tok.adds_bos)
    ids, marks = [], []
    for step, value in zip(steps, label, strict=True):
      ids += [*tok.encode(step), *tok.encode(c["separator"])]
      marks += [math.nan] * (len(ids) - len(marks) - 1) + [value]
    said = [*ids, tok.eos_ids[0]]
    known = [v for v in label if not math.isnan(v)]
    values = {"steps right": math.nan, "all steps right": math.nan}
    if known:
      values["steps right"] = sum(known) / len(known)
      values["all steps right"] = float(min(known) == 1)
    return Entry(
      prompt, [(said, [True] * len(said))], (), values, {"step_label": marks},
      False,
    )  # fmt: skip

  def arrays(entries, k: int, slots: int) -> dict[str, np.ndarray]:
    del k
    out = np.full((len(entries), slots), np.nan, np.float32)
    for n, e in enumerate(entries):
      out[n, : len(e.arrays["step_label"])] = e.arrays["step_label"]
    return {"step_label": out}

  needs = [column, judged]
  return Reader("answers in steps", "steps", needs, encode, arrays, False)


def _check_names(c: Mapping[str, Any], names: Sequence[str]) -> None:
  """Refuses a column that no row has; it may be missing in some."""
  source = columns.open_splits(c)["train"][0]
  left = set(names)
  for i in range(len(source)):
    left -= set(source[i])
    if not left:
      return
  raise UserError(
    f"no row of {sources.describe(c['train'])} has {sorted(left)}; row 0 has"
    f" {sorted(map(str, source[0]))}",
    "the ratings would all be missing",
    "name columns of ratings in attributes",
  )


def _rating(c: Mapping[str, Any], name: str, value: Any) -> float:
  if value is None or (isinstance(value, float) and math.isnan(value)):
    return math.nan
  low, high = c["low"], c["high"]
  ranged = high > low
  if not pairs.is_number(value) or (ranged and not low <= value <= high):
    raise UserError(
      f"column {name!r} is {tokens.head(value)}",
      "a rating is a finite number"
      + f" from {low:g} to {high:g}" * ranged
      + ", or null where it is missing",
      "correct the row" + ", or set low and high" * ranged,
    )
  return (value - low) / (high - low) if ranged else float(value)


def _errors(column: str, value: Any, steps: int) -> list[float]:
  wrong = list(value) if isinstance(value, (list, tuple)) else [None]
  if not all(type(v) is int and 1 <= v <= steps for v in wrong):
    raise UserError(
      f"column {column!r} is {tokens.head(value)} for {steps} steps",
      "it lists the numbers of the wrong steps, from 1",
      f"write numbers from 1 to {steps}, or set on_bad='drop'",
    )
  return [float(i not in wrong) for i in range(1, steps + 1)]


def _labels(column: str, value: Any, steps: int) -> list[float]:
  if not isinstance(value, (list, tuple)) or len(value) != steps:
    raise UserError(
      f"column {column!r} is {tokens.head(value)} for {steps} steps",
      "each step has a label, null where there is none",
      f"give a list of {steps} numbers from 0 to 1",
    )
  out = []
  for v in value:
    if v is None or (isinstance(v, float) and math.isnan(v)):
      out.append(math.nan)
    elif pairs.is_number(v) and 0 <= v <= 1:
      out.append(float(v))
    else:
      raise UserError(
        f"column {column!r} has the label {tokens.head(v)}",
        "a step is wrong (0), right (1) or succeeds in a share of the tries",
        "write numbers from 0 to 1, or null",
      )
  return out
