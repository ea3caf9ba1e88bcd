"""Tools that read and write text, for answers in turns on the host.

  tool = text_tool.make(lookup, tokenizer, turns=3, length=128)

`lookup` gets the calls of all rows at once, as text, and gives an answer to
each. A turn calls where it has the marks once and something between them; the
rest of what the policy writes, its thoughts, is not shown to the tool. What
the tool says is encoded alone, so that no token of the policy changes, without
special tokens (a cell of a table may hold one), and cut to its slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from rlreward.errors import UserError
from rlreward.rewards import execute, sql
from rlreward.sampling.tools import Tool

MOST_CELL = 60  # characters of a value of a result


class Codec(Protocol):
  """What a tool needs of a tokenizer."""

  pad_id: int

  def encode(self, text: str, bos: bool = False) -> list[int]:
    """Text to ids."""
    ...

  def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
    """Ids to text."""
    ...


class Marks(NamedTuple):
  """How a call and its answer stand in the text.

  Attributes:
    opens: before the call.
    closes: after it; "" where the call is the rest of a turn that begins with
      `opens`.
    before: of what is shown, special tokens of a chat template included.
    after: the same, behind it.
  """

  opens: str = "<tool>"
  closes: str = "</tool>"
  before: str = "\n<result>"
  after: str = "</result>\n"


TAGS = Marks()
SQL = Marks("<sql>", "</sql>")


def make(
  answer: Callable[[list[str], Mapping[str, list]], Sequence[str]],
  tokenizer: Codec,
  *,
  turns: int,
  length: int,
  marks: Marks = TAGS,
  columns: Sequence[str] = (),
) -> Tool:
  """A tool of a function of texts.

  Args:
    answer: (calls, {column: value of each call's row}) -> a text for each. An
      error of the call is a text too; an exception stops the run.
    tokenizer: of the policy.
    turns: most calls of a row.
    length: O, tokens of an observation, its marks included.
    marks: see `Marks`.
    columns: of the batch, that `answer` reads.

  Raises:
    UserError: no mark, or no room between the marks of what is shown.
  """
  if not marks.opens:
    raise UserError(
      "a tool whose calls have no opening mark",
      "every turn would be a call, and no row would end with an answer",
      "set opens to what a call begins with",
    )
  before, after = (tokenizer.encode(x) if x else [] for x in marks[2:])
  room = length - len(before) - len(after)
  if room < 1:
    raise UserError(
      f"an observation of {length} tokens, {length - room} of them its marks",
      "nothing of what the tool says would be shown",
      f"give observations at least {length - room + 16} tokens",
    )

  def observe(query, mask, columns):
    said = [
      tokenizer.decode(ids[m].tolist())
      for ids, m in zip(query, mask, strict=True)
    ]
    calls = [call(text, marks) for text in said]
    rows = [i for i, text in enumerate(calls) if text is not None]
    asked = [text for text in calls if text is not None]
    own = {k: [v[i] for i in rows] for k, v in columns.items()}
    found = list(answer(asked, own)) if rows else []
    if len(found) != len(rows):
      raise ValueError(f"{len(found)} answers to {len(rows)} calls")
    ids = np.full((len(query), length), tokenizer.pad_id, np.int32)
    seen = np.zeros(ids.shape, bool)
    for i, text in zip(rows, found, strict=True):
      shown = [*before, *encoded(text, tokenizer)[:room], *after]
      ids[i, : len(shown)], seen[i, : len(shown)] = shown, True
    return ids, seen, seen.any(1)

  return Tool(observe, turns, length, tuple(columns), False)


def call(text: str, marks: Marks) -> str | None:
  """The call of a turn; None where there is none, several or an empty one.

  Args:
    text: of the turn.
    marks: see `Marks`.
  """
  if not marks.closes:
    if not text.startswith(marks.opens):
      return None
    return text[len(marks.opens) :].strip() or None
  if text.count(marks.opens) != 1 or text.count(marks.closes) != 1:
    return None
  _, _, rest = text.partition(marks.opens)
  inside, closed, _ = rest.partition(marks.closes)
  return (inside.strip() or None) if closed else None


def encoded(text: str, tokenizer: Codec) -> list[int]:
  """Ids of a text from outside: no special ones; what has no id is left out.

  Args:
    text: anything.
    tokenizer: of the policy.
  """
  try:
    ids = tokenizer.encode(text)
  except UserError:  # a character that the alphabet has not
    ids = [i for c in text for i in _some(c, tokenizer)]
  return [i for i in ids if tokenizer.decode([i])]


def _some(char: str, tokenizer: Codec) -> list[int]:
  try:
    return tokenizer.encode(char)
  except UserError:
    return []


def sql_tool(
  tokenizer: Codec,
  *,
  turns: int,
  length: int,
  marks: Marks = SQL,
  rows: int = 8,
  steps: int = 50_000_000,
  timeout: float = 30.0,
  workers: int = 2,
  memory_mb: int = 1024,
) -> Tool:
  """A tool that runs queries on the column `database`, which it only reads.

  It shows the first rows of the result, or what SQLite says of a query that
  fails; a query that takes too long is killed.

  Args:
    tokenizer: of the policy.
    turns: most calls of a row.
    length: tokens of an observation.
    marks: of a call and its result.
    rows: that are shown.
    steps: of SQLite's machine for a query.
    timeout: seconds of a query, then its process is killed.
    workers: processes.
    memory_mb: of a process.
  """

  def answer(calls: list[str], columns: Mapping[str, list]) -> list[str]:
    jobs = [
      (base, query, steps, rows)
      for base, query in zip(columns["database"], calls, strict=True)
    ]
    pool = execute.pool(workers, timeout, memory_mb)
    return [_said(outcome) for outcome in pool.map(show, jobs)]

  return make(
    answer, tokenizer, turns=turns, length=length, marks=marks,
    columns=("database",),
  )  # fmt: skip


def show(database: str, query: str, steps: int, rows: int) -> str:
  """The result of a query as text; runs in a worker.

  Args:
    database: see `sql.run`.
    query: of the policy; anything.
    steps: of SQLite's machine.
    rows: that are shown.
  """
  found = sql.run(database, query, steps, rows)
  if found.status != "ok":
    return f"{found.status}: {found.detail}"
  lines = [" | ".join(map(_cell, row)) for row in found.rows]
  more = ["..."] if found.more else []
  return "\n".join([*lines, *more]) or "no rows"


def _cell(value: Any) -> str:
  if value is None:
    return "NULL"
  if isinstance(value, bytes):
    return f"{len(value)} bytes"
  text = str(value).encode("utf-8", "replace").decode()
  return text if len(text) <= MOST_CELL else f"{text[: MOST_CELL - 3]}..."


def _said(outcome: execute.Outcome) -> str:
  if isinstance(outcome.value, str):
    return outcome.value
  return f"{outcome.status}: {outcome.detail or 'the query took too long'}"
