"""Rows of a text task to tokens: one prompt and its answers.

Prompt and answer are encoded as they are when a policy samples: apart, the
answer ending with eos.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rlreward.errors import UserError
from rlreward.tasks import columns, data, tokens
from rlreward.tasks.census_counts import Entry
from rlreward.tasks.sources import Row

_REFERENCE = "reference_logp"


class Item(NamedTuple):
  """A row in tokens.

  Attributes:
    prompt: ids.
    answers: (ids with eos, mask of what the assistant wrote) of the chosen
      and the rejected answer, or of the one there is.
    values: {array of the batch: a number for each answer}.
    blank: an answer is white space alone.
  """

  prompt: list[int]
  answers: list[tuple[list[int], list[bool]]]
  values: dict[str, list[float]]
  blank: bool


def all_pairs(
  row: Row,
  *,
  completions: str = "completions",
  scores: str = "scores",
  ranks: str = "",
  ties: bool = False,
) -> list[dict[str, Any]]:
  """All pairs of k answers to one prompt, k (k - 1) / 2 without ties.

  For a source that is a function: `yield from all_pairs(row)`. Pairs of one
  prompt fall into one split. With scores a pair's `strength` is their
  difference; ranks (1 is best) say only which is better, so it is 1. Other
  columns are kept.

  Args:
    row: of the source.
    completions: column of the k answers.
    scores: column of k numbers, larger is better.
    ranks: column of k numbers, smaller is better; used instead of scores.
    ties: keep pairs of equal scores, with `tie` true and strength 0; then
      every row has `tie`.

  Returns:
    Rows with `chosen`, `rejected` and `strength`.

  Raises:
    UserError: lists that are missing, of unequal size or not numbers.
  """
  by = ranks or scores
  answers, values = (data.column(row, n, "a row", 0) for n in (completions, by))
  if (
    not isinstance(answers, Sequence)
    or not isinstance(values, Sequence)
    or len(answers) != len(values)
    or not all(is_number(v) for v in values)
  ):
    raise UserError(
      f"{completions!r} is {tokens.head(answers)} and {by!r} is"
      f" {tokens.head(values)}",
      "each answer has one finite number",
      "give two lists of equal length",
    )
  other = {k: v for k, v in row.items() if k not in (completions, by)}
  out = []
  for i, j in itertools.combinations(range(len(values)), 2):
    gain = float(values[i]) - float(values[j])
    if gain == 0 and not ties:
      continue
    best, worst = (j, i) if (-gain if ranks else gain) < 0 else (i, j)
    strength = float(gain != 0) if ranks else abs(gain)
    pair = {"chosen": answers[best], "rejected": answers[worst]}
    tie = {"tie": gain == 0} if ties else {}
    out.append({**other, **pair, "strength": strength, **tie})
  return out


class Reader(NamedTuple):
  """How rows become items.

  Attributes:
    kind: "pairs" or "labelled answers".
    columns: that every row must have.
    encode: row to Item; raises UserError for one that cannot work.
  """

  kind: str
  columns: list[str]
  encode: Callable[[Row], Item]


def preferred(c: Mapping[str, Any], tok: tokens.Tokens, name: str, first: Row):
  """Reads both answers to a prompt and what the row says of the pair.

  Args:
    c: all fields of `text.defaults`.
    tok: tokenizer.
    name: prompt column, "" for the common part of the sides.
    first: row 0; its optional columns are those of every row.

  Returns:
    Reader.
  """
  sides = [c["chosen"], c["rejected"]]
  references = [f"{side}_{_REFERENCE}" for side in ("chosen", "rejected")]
  if not any(r in first for r in references):
    references = []
  tie = ["tie"] if "tie" in first else []
  strength = [c["strength"]] if c["strength"] else []

  def encode(row: Row) -> Item:
    prompt, *answers = columns.pair_values(c, name, row)
    both = [
      answered(tok, name, prompt, a, side)
      for a, side in zip(answers, sides, strict=True)
    ]
    power = [_number(row, s, low=0.0) for s in strength] or [1.0]
    values = {"strength": power * 2}
    if references:
      values[_REFERENCE] = [_number(row, r) for r in references]
    if tie:
      values["tie"] = [_truth(row, "tie")] * 2
    said = [b[1] for b in both]
    return Item(both[0][0], said, values, any(map(blank, answers)))

  given = [name] if name else []
  return Reader("pairs", given + sides + strength + references + tie, encode)


def labelled(c: Mapping[str, Any], tok: tokens.Tokens, name: str, first: Row):
  """Reads one answer to a prompt and whether it is good.

  Args:
    c: all fields of `text.defaults`.
    tok: tokenizer.
    name: prompt column.
    first: row 0; its optional columns are those of every row.

  Returns:
    Reader.
  """
  column, label = c["completion"], c["label"]
  reference = [_REFERENCE] if _REFERENCE in first else []

  def encode(row: Row) -> Item:
    prompt, said = answered(tok, name, row[name], row[column], column)
    values: dict[str, list[float]] = {"label": [_truth(row, label)]}
    if reference:
      values[_REFERENCE] = [_number(row, _REFERENCE)]
    return Item(prompt, [said], values, blank(row[column]))

  needs = [name, column, label, *reference]
  return Reader("labelled answers", needs, encode)


def entry(item: Item) -> Entry:
  """An item as it is counted, see `census_counts`."""
  v = item.values
  if "label" in v:
    values, order = {"label": float(v["label"][0])}, ()
  else:
    values, order = {}, (float(not v.get("tie", [0])[0]), 0.0)
  return Entry(item.prompt, item.answers, order, values, v, item.blank)


def answered(
  tok: tokens.Tokens, name: str, prompt: Any, answer: Any, column: str
) -> tuple[list[int], tuple[list[int], list[bool]]]:
  """An answer to a prompt in tokens, as in every batch of answers.

  Args:
    tok: tokenizer.
    name: column of the prompt, for messages.
    prompt: a string or chat messages.
    answer: a string, or the assistant's messages after a chat.
    column: of the answer, for messages.

  Returns:
    (prompt ids, (answer ids with eos, mask of what the assistant wrote)).

  Raises:
    UserError: an empty answer, or one that the template cannot place.
  """
  chat = isinstance(prompt, (list, tuple))
  if isinstance(answer, str) and chat:
    answer = [{"role": "assistant", "content": answer}]
  texts = [answer] if isinstance(answer, str) else _contents(answer)
  if not isinstance(answer, (str, list, tuple)) or not all(texts) or not texts:
    raise UserError(
      f"column {column!r} is {tokens.head(answer)}",
      "an answer is text, or the assistant's messages, and not empty",
      "remove the row, or name another column",
    )
  if isinstance(answer, str):
    ids = tok.encode(columns.string(name, prompt), bos=tok.adds_bos)
    said = [*tok.encode(answer), tok.eos_ids[0]]
    return ids, (said, [True] * len(said))
  roles = [m.get("role") for m in answer if isinstance(m, dict)]
  if not chat or roles[:1] + roles[-1:] != ["assistant"] * 2:
    raise UserError(
      f"column {column!r} has an answer of roles {roles} to"
      f" {tokens.head(prompt)}",
      "messages answer messages, and the assistant has the first and last one",
      "give prompts as chat messages that end before the assistant's turn",
    )
  if not prompt:
    raise UserError(
      f"column {column!r} is a chat that begins with the assistant",
      "the prompt is what comes before the answer, and it is empty",
      "remove the row, or give the prompt as chat messages",
    )
  ids = tok.chat(prompt)
  whole, mask = tok.chat_with_mask([*prompt, *answer])
  if whole[: len(ids)] != ids or not any(mask[len(ids) :]):
    raise UserError(
      f"the chat template of {tok.name} renders the prompt of {column!r}"
      " differently once it is answered",
      "the log-prob of the answer would be that of another prompt",
      "use a template whose prompt is the beginning of the whole chat",
    )
  said, mask = whole[len(ids) :], mask[len(ids) :]
  end = len(mask) - mask[::-1].index(True)  # template text after eos is left
  return ids, (said[:end], mask[:end])


def _contents(answer: Any) -> list[str]:
  """Texts of chat messages; malformed ones are left to the tokenizer."""
  if not isinstance(answer, (list, tuple)):
    return []
  return [m.get("content", " ") if isinstance(m, dict) else " " for m in answer]


def blank(answer: Any) -> bool:
  """Whether an answer, or a message of it, says nothing."""
  texts = [answer] if isinstance(answer, str) else _contents(answer)
  return any(isinstance(t, str) and not t.strip() for t in texts)


def is_number(value: Any) -> bool:
  """Whether a value of a row is a finite number."""
  return isinstance(value, (int, float)) and math.isfinite(value)


def _number(row: Row, name: str, low: float = -math.inf) -> float:
  value = row[name]
  if not is_number(value) or value < low:
    raise UserError(
      f"column {name!r} is {tokens.head(value)}",
      "it is a finite number" + (f" of at least {low:g}" if low == 0 else ""),
      "correct the row, or remove the column",
    )
  return float(value)


def _truth(row: Row, name: str) -> bool:
  value = row[name]
  if not isinstance(value, (bool, int, float)) or value not in (0, 1):
    raise UserError(
      f"column {name!r} is {tokens.head(value)}",
      "it says yes or no",
      "write true or false (1 or 0)",
    )
  return bool(value)
