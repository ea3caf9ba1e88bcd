"""Rows of a JSONL to the ids that a reward model reads.

  {"prompt", "completion"}            one score
  {"messages"}                        one; the last message is the assistant's
  {"prompt", "completions": [..]}     several
  {"prompt", "chosen", "rejected"}    two, in this order; without a prompt it is
                                      what both begin with
  {"tokens": [..]}                    one; ids as they are

A prompt is text or chat messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rlreward.errors import UserError
from rlreward.tasks import columns, pairs, tokens

_SIDES = {"chosen": "chosen", "rejected": "rejected"}


class Answer(NamedTuple):
  """One answer in tokens.

  Attributes:
    ids: prompt and answer, up to the token that is read.
    start: place of the answer's first token.
  """

  ids: list[int]
  start: int


class Answers(NamedTuple):
  """What a row asks about.

  Attributes:
    found: its answers.
    several: the row holds a list of them.
  """

  found: list[Answer]
  several: bool


def answers(
  tok: tokens.Tokens, row: Mapping[str, Any], strings: str, read: str
) -> Answers:
  """The answers of a row.

  Args:
    tok: tokenizer.
    row: see the module.
    strings: "plain" or "chat", see `models.reward_card.Card`.
    read: "answer_end" or "last", see there.

  Raises:
    UserError: no such columns, or what cannot be rendered.
  """
  if "tokens" in row:
    ids = row["tokens"]
    if not _are_ids(ids, tok.vocab_size):
      raise UserError(
        f"column 'tokens' is {tokens.head(ids)}",
        f"it is a list of ids below {tok.vocab_size}",
        "correct the row",
      )
    return Answers([Answer(list(ids), 0)], False)
  prompt, said, names = _asked(row)
  found = [
    encode(tok, prompt, a, strings, read, name)
    for a, name in zip(said, names, strict=True)
  ]
  return Answers(found, names[0] in ("completions", "chosen"))


def _asked(row: Mapping[str, Any]) -> tuple[Any, list[Any], list[str]]:
  """(prompt, answers, column of each) of a row."""
  if "completion" in row and "prompt" in row:
    prompt, said, names = row["prompt"], [row["completion"]], ["completion"]
  elif "completions" in row and "prompt" in row:
    prompt, said = row["prompt"], row["completions"]
    if not isinstance(said, (list, tuple)) or not said:
      raise UserError(
        f"column 'completions' is {tokens.head(said)}",
        "it is a list of answers to the prompt",
        "give one or more answers",
      )
    names = ["completions"] * len(said)
  elif "chosen" in row and "rejected" in row:
    name = "prompt" if "prompt" in row else ""
    prompt, *said = columns.pair_values(_SIDES, name, row)
    names = list(_SIDES)
  elif "messages" in row:
    chat = row["messages"]
    if not isinstance(chat, (list, tuple)) or len(chat) < 2:
      raise UserError(
        f"column 'messages' is {tokens.head(chat)}",
        "it is a chat that ends with the answer to judge",
        "give a list of two or more messages",
      )
    prompt, said, names = list(chat[:-1]), [list(chat[-1:])], ["messages"]
  else:
    raise UserError(
      f"columns {sorted(map(str, row))} hold no answer to judge",
      "a score is of an answer to a prompt",
      "give prompt and completion, completions, chosen and rejected, messages,"
      " or tokens",
    )
  return prompt, list(said), names


def singly(row: Mapping[str, Any]) -> list[dict[str, Any]]:
  """A row as rows of one answer each, other columns left out.

  Args:
    row: see the module.

  Raises:
    UserError: no such columns.
  """
  if "tokens" in row:
    return [{"tokens": list(row["tokens"])}]
  prompt, said, _ = _asked(row)
  return [{"prompt": prompt, "completion": a} for a in said]


def encode(
  tok: tokens.Tokens,
  prompt: Any,
  answer: Any,
  strings: str,
  read: str,
  column: str = "completion",
) -> Answer:
  """One answer to a prompt, as it was in training.

  Args:
    tok: tokenizer.
    prompt: text or chat messages.
    answer: text, or the assistant's messages after a chat.
    strings: see `answers`.
    read: see `answers`.
    column: of the answer, for messages.
  """
  if strings == "chat" and isinstance(prompt, str) and isinstance(answer, str):
    prompt = [{"role": "user", "content": prompt}]
  ids, (said, _) = pairs.answered(tok, "prompt", prompt, answer, column)
  if read == "last" and isinstance(prompt, (list, tuple)):
    if isinstance(answer, str):
      answer = [{"role": "assistant", "content": answer}]
    return Answer(tok.chat_with_mask([*prompt, *answer])[0], len(ids))
  return Answer([*ids, *said], len(ids))


def _are_ids(ids: Any, vocab: int) -> bool:
  return (
    isinstance(ids, (list, tuple))
    and bool(ids)
    and all(type(i) is int and 0 <= i < vocab for i in ids)
  )
