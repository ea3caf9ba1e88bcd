"""SQL in 40 words: a question about three small tables, one SELECT.

"total price of sales of people with age > 4" is answered by any query with the
rows of the gold one, between <answer> and </answer> after a thought that may be
empty. The database is a script that is made from `world`; numbers that a
question asks for cannot be written down, so that a query must find them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlreward.errors import UserError
from rlreward.rewards import execute, function
from rlreward.tasks import answered, data, text
from rlreward.tasks import toy_sql_rows as rows
from rlreward.tasks.words import WordTokenizer
from rlreward.types import Task

REWARDS = ("exact", "parts")
STEPS = 300_000  # of SQLite's machine; a right query needs fewer than 2,000
REMEMBERED = 100_000  # judgements


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "toy_sql",
    "questions": 60,
    "holdout": 0.0,  # share kept for the test split; 0 tests on all of them
    "world": 0,  # seed of the tables and of the choice of questions
    "shown": rows.KINDS,  # kinds of questions whose demonstrations are right
    "garble": 0.0,  # of the others: each of four parts is another one
    "reward": "exact",  # exact | parts, those of sql_parts.PARTS but the judge
  }


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task: queries whose rows are those of the gold query.

  It is a text task with the columns of `toy_sql_rows.table`; its demonstrations
  are the gold queries with an empty thought, or garbled ones; its pairs hold a
  gold query and that of another question. A query that runs out of steps is
  worth 0 in all parts and has `timeout` 1.

  Args:
    config: section with the fields of `defaults`, None for all of them.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task judged on the host; gold is 1 for a right query, whatever the reward.

  Raises:
    UserError: fields that cannot work.
  """
  c = data.section(config or {}, defaults())
  _check(c)
  tok = WordTokenizer(rows.WORDS)
  found = rows.table(c["questions"], c["world"], c["shown"], c["garble"])
  size = lambda name: max(len(tok.encode(r[name])) for r in found) + 1
  prompt, said = size("prompt"), size("said")
  exact = reward(partial=False)
  test = rows.table(c["questions"], c["world"])
  splits = {"holdout": c["holdout"]} if c["holdout"] else {"test": test}
  task = text.make(
    {
      "train": found,
      **splits,
      "prompt": "prompt",
      "completion": "said",
      "prompt_length": prompt,
      "row_length": prompt + said,
      "answer_length": said,
      "rewards": [reward(partial=True) if c["reward"] == "parts" else exact],
    },
    tok,
    process_index=process_index,
    process_count=process_count,
  )
  gold = task.reward
  if c["reward"] == "parts":
    gold = function.make([exact], tok, columns=[*found[0], "row"])
  spec = {**task.spec, "completion_length": said}
  return task._replace(gold=gold, spec=spec)


def reward(partial: bool) -> function.RewardFunction:
  """What a query earns here, by columns `database` and `gold`.

  Args:
    partial: in parts, or 1 and 0.
  """
  return execute.sql_reward(
    partial=partial, steps=STEPS, rows=1000, empty=False, late=0.0,
    remember=REMEMBERED,
  )  # fmt: skip


def _check(c: Mapping[str, Any]) -> None:
  answered.whole("questions", c["questions"], 5, rows.MOST)
  answered.whole("world", c["world"], 0, 2**31 - 1)
  answered.whole("shown", c["shown"], 0, rows.KINDS)
  for name, top in {"holdout": 0.5, "garble": 1.0}.items():
    if not 0 <= c[name] <= top:
      raise UserError(
        f"{name}={c[name]!r}", "it is a share", f"use a number from 0 to {top}"
      )
  if c["reward"] not in REWARDS:
    raise UserError(
      f"reward={c['reward']!r}",
      "it says whether a part of a query is worth something",
      f"use one of: {', '.join(REWARDS)}",
    )
