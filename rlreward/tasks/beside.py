"""Arrays beside a prompt: its demonstrated answer, its wording with a hint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import columns, data, sources, tokens
from rlreward.tasks.sources import Row


def slots(c: Mapping[str, Any], first: Row) -> int:
  """Slots of a demonstrated answer, 0 where the config asks for none.

  Args:
    c: all fields of `text.defaults`.
    first: the first row of the source.

  Raises:
    UserError: a column that is named and absent.
  """
  where = sources.describe(c["train"])
  if c["hint"]:
    data.column(first, c["hint"], where, 0)
  if not c["demonstrated"]:
    return 0
  data.column(first, c["completion"], where, 0)
  return columns.lengths(c["answer_length"])[-1]


def arrays(
  c: Mapping[str, Any],
  tok: tokens.Tokens,
  items: Sequence[Row],
  index: np.ndarray,
) -> dict[str, np.ndarray]:
  """What the config asks for beside the prompts of a batch.

  Args:
    c: all fields of `text.defaults`.
    tok: tokenizer.
    items: the rows.
    index: their places in the source, for messages.

  Returns:
    `answer` i32[B, answer_length] with eos and `answer_mask`, right-padded;
    `hint` i32[B, prompt_length] and `hint_mask`, left-padded.

  Raises:
    UserError: what is no text, or does not fit: nothing is cut.
  """
  out = {}
  if c["demonstrated"]:
    size = columns.lengths(c["answer_length"])[-1]
    ids = [
      [*tok.encode(_text(c, "completion", row, i)), tok.eos_ids[0]]
      for row, i in zip(items, index, strict=True)
    ]
    _fit(ids, index, size, "completion", "answer_length")
    out["answer"], out["answer_mask"] = tokens.right_pad(ids, size, tok.pad_id)
  if c["hint"]:
    size = columns.lengths(c["prompt_length"])[-1]
    ids = [
      tok.encode(_text(c, "hint", row, i), bos=tok.adds_bos)
      for row, i in zip(items, index, strict=True)
    ]
    _fit(ids, index, size, "hint", "prompt_length")
    out["hint"], out["hint_mask"] = tokens.left_pad(ids, size, tok.pad_id)
  return out


def _text(c, field: str, row: Row, index) -> str:
  value = row.get(c[field])
  if not isinstance(value, str):
    raise UserError(
      f"column {c[field]!r} of row {index} is {tokens.head(value)}",
      f"{field} is read as text beside the prompt",
      "write a string there, or leave the row out",
    )
  return value


def _fit(ids, index, size: int, what: str, field: str) -> None:
  for row, i in zip(ids, index, strict=True):
    if len(row) > size:
      raise UserError(
        f"the {what} of row {i} has {len(row)} tokens, {field}={size}",
        "it is compared with samples of that length, and nothing is cut",
        f"set task.{field}={len(row)} or more, or leave the row out",
      )
