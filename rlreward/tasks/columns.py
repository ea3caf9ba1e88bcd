"""What a config says about the columns of a source: splits, prompts, pairs.

A prompt is a column, or what the two sides of a pair have in common.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from rlreward.errors import UserError
from rlreward.sampling.buckets import bucket
from rlreward.tasks import data, sources, tokens
from rlreward.tasks.sources import Row

TURN = "\n\nAssistant:"  # ends the prompt of a dialogue in one string


def open_splits(c: Mapping[str, Any]) -> dict[str, tuple[sources.Source, str]]:
  """Opens the data of each split.

  Args:
    c: fields train, test, holdout.

  Returns:
    {split: (source, its name)}; a held-out share is of the same source.

  Raises:
    UserError: no data, two test splits, or a share that is none.
  """
  share = c["holdout"]
  if not isinstance(share, (int, float)) or not 0 <= share < 1:
    raise UserError(
      f"holdout={share!r}", "it is a share of the prompts", "use 0 to 0.5"
    )
  if isinstance(c["train"], str) and not c["train"]:
    raise UserError(
      "task.train is empty", "there are no prompts", "set it to a data file"
    )
  has_test = not isinstance(c["test"], str) or bool(c["test"])
  if has_test and share:
    raise UserError(
      f"both test={sources.describe(c['test'])} and holdout={share}",
      "there can be one test split",
      "set holdout=0 or leave test empty",
    )
  train = (sources.open_source(c["train"]), sources.describe(c["train"]))
  out = {"train": train}
  if has_test:
    test = c["test"]
    out["test"] = (sources.open_source(test), sources.describe(test))
  elif share:
    out["test"] = train
  return out


def check_split(split: str, found: Any) -> str:
  """The split, if it is there.

  Raises:
    UserError: it is not; says what is.
  """
  if split not in found:
    raise UserError(
      f"there is no split {split!r}; there is {sorted(found)}",
      "the config names the data of each split",
      "set task.test to a source, or task.holdout to a share such as 0.1",
    )
  return split


def selector(
  c: Mapping[str, Any], split: str, name: str
) -> Callable[[Row], bool] | None:
  """Whether a row belongs to a split; None where all of them do.

  Dialogues that open with the same words stay together: what comes before the
  assistant's first turn decides, so all pairs of a prompt are in one split.

  Args:
    c: fields holdout, chosen, rejected.
    split: "train" or "test".
    name: prompt column, "" for the common part of pairs.
  """
  share = c["holdout"]
  if not share:
    return None

  def select(row: Row) -> bool:
    value = prompt_value(c, name, row)
    if isinstance(value, (list, tuple)):
      roles = [m.get("role") if isinstance(m, dict) else "" for m in value]
      cut = roles.index("assistant") if "assistant" in roles else len(roles)
      value = json.dumps(value[:cut], sort_keys=True, default=str)
    elif not name:
      value = str(value).split(TURN)[0]
    return data.held_out(str(value), share) == (split == "test")

  return select


def has_pairs(c: Mapping[str, Any], row: Row) -> bool:
  """Whether a row has both sides of a pair."""
  return c["chosen"] in row and c["rejected"] in row


def prompt_column(c: Mapping[str, Any], first: Row) -> str:
  """The column of the prompts; "" where pairs hold whole dialogues.

  Args:
    c: fields prompt, train, chosen, rejected.
    first: row 0.

  Raises:
    UserError: the columns do not say which it is.
  """
  found = sorted(map(str, first))
  if c["prompt"]:
    data.column(first, c["prompt"], sources.describe(c["train"]), 0)
    return c["prompt"]
  both = [n for n in ("prompt", "messages") if n in first]
  if len(both) == 1:
    return both[0]
  if not both and has_pairs(c, first):
    return ""
  raise UserError(
    f"columns {found} have {'both' if both else 'neither'} 'prompt' and"
    " 'messages'",
    "one column holds the prompts",
    f"set task.prompt to one of {found}",
  )


def needed(c: Mapping[str, Any], name: str) -> list[str]:
  """The columns that a prompt is read from."""
  return [name] if name else [c["chosen"], c["rejected"]]


def prompt_value(c: Mapping[str, Any], name: str, row: Row) -> Any:
  """A row's prompt, a string or chat messages.

  Args:
    c: fields chosen, rejected.
    name: prompt column, "" for the common part of a pair.
    row: of the source.

  Raises:
    UserError: sides without a common part.
  """
  value = row.get(name)
  sides = (row.get(c["chosen"]), row.get(c["rejected"]))
  chats = all(isinstance(s, (list, tuple)) for s in sides)
  if name and not (isinstance(value, str) and chats):
    return value
  return pair_values(c, name, row)[0]


def pair_values(
  c: Mapping[str, Any], name: str, row: Row
) -> tuple[Any, Any, Any]:
  """Prompt, chosen and rejected answer of a row.

  Sides that are chats without a chat as prompt are whole dialogues: what both
  begin with is the prompt (huggingface/trl does the same; a prompt beside
  them as a string repeats their first turn). Sides that are strings without
  a prompt are dialogues "\\n\\nHuman: ... \\n\\nAssistant: ..." and the
  prompt is what both have up to the last "\\n\\nAssistant:", as in
  Anthropic's HH data.

  Args:
    c: fields chosen, rejected.
    name: prompt column, "" where there is none.
    row: of the source.

  Returns:
    (prompt, chosen, rejected), each a string or chat messages.

  Raises:
    UserError: sides without a common part.
  """
  a, b = row.get(c["chosen"]), row.get(c["rejected"])
  given = row.get(name) if name else None
  if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
    if not isinstance(given, (list, tuple)):
      size = _common(a, b)
      return list(a[:size]), list(a[size:]), list(b[size:])
    start = list(given)
    whole = all(list(s[: len(start)]) == start for s in (a, b))
    size = len(start) if whole else 0
    return start, list(a[size:]), list(b[size:])
  if name:
    return given, a, b
  if not isinstance(a, str) or not isinstance(b, str):
    raise UserError(
      f"{c['chosen']!r} is {tokens.head(a)}, {c['rejected']!r} is"
      f" {tokens.head(b)}, and there is no prompt",
      "the prompt is then what two dialogues begin with",
      "give both sides as strings or both as chat messages, or a prompt",
    )
  same = [x == y for x, y in zip(a, b, strict=False)]
  size = a[: [*same, False].index(False)].rfind(TURN)
  if size < 0:
    raise UserError(
      f"{c['chosen']!r} {tokens.head(a)} and {c['rejected']!r}"
      f" {tokens.head(b)} share no part that ends with {TURN!r}",
      "without a prompt column that part is the prompt",
      "add a prompt column, or write the dialogues as chat messages",
    )
  size += len(TURN)
  return a[:size], a[size:], b[size:]


def lengths(value: Any) -> tuple[int, ...]:
  """Ascending widths of compiled shapes, from one number or several.

  Raises:
    UserError: none, or not positive.
  """
  found = (value,) if isinstance(value, int) else tuple(value)
  bucket(0, found)
  return tuple(sorted(found))


def string(name: str, value: Any) -> str:
  """The value, if it is text.

  Raises:
    UserError: it is not.
  """
  if not isinstance(value, str):
    raise UserError(
      f"column {name!r} is {tokens.head(value)}, a {type(value).__name__}",
      "a prompt is a string or a list of chat messages",
      "convert the column, or name another with task.prompt",
    )
  return value


def _common(a, b) -> int:
  """Messages that both begin with, at least one of each side left over."""
  limit = max(0, min(len(a), len(b)) - 1)
  same = [x == y for x, y in zip(a, b, strict=False)]
  return same.index(False) if False in same else limit
