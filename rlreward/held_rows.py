"""Held-out answers of a run, which a reward model's record is made of."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import columns, data, scored, text, tokens
from rlreward.types import Task

MOST = 128  # answers that mean and scale of scores are of
LEAST = 8  # rows of ids that are asked for


def held_out(
  config: Any, task: Task, tok: tokens.Tokens
) -> tuple[list[dict[str, Any]], int]:
  """(different answers that fit, tokens of the longest row trained on).

  Args:
    config: of the run.
    task: of the run.
    tok: of the model.

  Raises:
    UserError: no row fits.
  """
  if config.task.name == "text":
    c = data.section(config.task, text.defaults())
    names = ("prompt_length", "answer_length")
    limit = sum(columns.lengths(c[name])[-1] for name in names)
    found = _texts(c, tok, limit)
  else:
    stream = task.preferences or task.labelled
    assert stream is not None  # a reward model was trained on one of them
    batch = next(stream("test", LEAST, 0))
    attend = np.asarray(batch["attend"], bool)
    rows = zip(np.asarray(batch["tokens"]), attend, strict=True)
    limit = attend.shape[1]
    found = iter([{"tokens": t[a].tolist()} for t, a in rows])
  seen: list[dict[str, Any]] = []
  for row in itertools.islice(found, 4 * MOST):
    if row not in seen:
      seen.append(row)
  if not seen:
    raise UserError(
      f"no row of the task has {limit} tokens or fewer",
      "golden scores are of its rows",
      "raise task.prompt_length or task.answer_length",
    )
  return seen[:MOST], limit


def _texts(
  c: Mapping[str, Any], tok: tokens.Tokens, limit: int
) -> Iterator[dict[str, Any]]:
  """Prompts with an answer, of the test split where there is one."""
  opened = columns.open_splits(c)
  split = "test" if "test" in opened else "train"
  source, _ = opened[split]
  name = columns.prompt_column(c, source[0])
  select = columns.selector(c, split, name)
  for i in range(len(source)):
    row = source[i]
    if select is not None and not select(row):
      continue
    if columns.has_pairs(c, row):
      prompt, *said = columns.pair_values(c, name, row)
    else:
      prompt, said = row[name], [row[c["completion"]]]
    for answer in said:
      made = {"prompt": prompt, "completion": answer}
      try:
        ids = scored.encode(tok, prompt, answer, "plain", "answer_end").ids
      except UserError:
        continue  # training left it out as well, or said so
      if len(ids) <= limit:
        yield made
