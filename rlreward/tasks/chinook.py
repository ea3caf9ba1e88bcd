"""Toy SQL over Chinook, the database of a music shop: a question, one SELECT.

"Question: How many customers live in Brazil?" is answered by any query with the
rows of the gold query, which runs read-only; see `rewards.execute`. Questions
are made from templates and the values in the database. Difficulty is the
number of filters and joins, and whether there is an aggregate.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from rlreward.errors import UserError
from rlreward.rewards import execute, function, text_tool
from rlreward.tasks import answered, curriculum, draws, text, tokens, turned
from rlreward.tasks import chinook_rows as rows
from rlreward.types import Task

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))  # of the default tokenizer
FOLDER, FILE = "sql_chinook", "Chinook_Sqlite.sqlite.gz"


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "chinook",
    **curriculum.FIELDS,
    "filters": 1,
    "joins": 0,
    "aggregate": False,  # count, sum and the like
    "schema": False,  # tables and their columns stand in the prompt
    "holdout": 0.1,  # share of the questions kept for the test split
    "database": "",  # .sqlite or .sqlite.gz; "" looks under RLREWARD_DATA
    "tokenizer": "",  # see tokens.load; "" has one id per character
    "turns": 0,  # queries that may be tried before the answer; see `make`
    "observation": 64,  # tokens of what such a query shows
  }


def levels() -> tuple[dict[str, Any], ...]:
  """Fields of each level, easy to hard."""
  names = ("filters", "joins", "aggregate")
  sizes = (
    (1, 0, False),
    (1, 0, True),
    (2, 0, False),
    (1, 1, False),
    (1, 1, True),
    (2, 3, True),
  )
  return tuple(dict(zip(names, size, strict=True)) for size in sizes)


def at(level: int) -> dict[str, Any]:
  """The task's section at a level."""
  return curriculum.at(defaults(), levels(), level)


def make(
  config: Any = None,
  tokenizer: tokens.Tokens | None = None,
  *,
  process_index: int = 0,
  process_count: int = 1,
) -> Task:
  """The task: queries whose rows are those of the gold query.

  It is a text task with the columns of `chinook_rows.table`; its
  demonstrations are the gold queries, its pairs hold a gold query and that of
  another question with other rows.

  Args:
    config: section with the fields of `defaults`, None for all of them.
    tokenizer: loaded from `config.tokenizer` if None.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task judged on the host. With `turns` a turn may be a query to try, between
    <sql> and </sql>, and its first rows are shown; the last turn is judged,
    and demonstrations try the gold query before they give it. `spec["guess"]`
    is how often the gold query of a random question is right, `spec["levels"]`
    the ladder.

  Raises:
    UserError: no database, or fields that cannot work.
  """
  stages, sections = curriculum.plan(config, defaults(), levels())
  c = sections[stages[-1].level]
  for section in sections.values():
    _check(section)
  base = database(c["database"])
  tok = tokenizer or tokens.load(c["tokenizer"] or f"char:{ALPHABET}")
  found = {level: rows.table(base, s) for level, s in sections.items()}
  every = [r for table in found.values() for r in table]
  size = lambda name: max(len(tok.encode(r[name])) for r in every) + 1
  prompt, said = size("prompt") + tok.adds_bos, size("gold")
  tasks = {
    level: text.make(
      {
        "train": table,
        "holdout": c["holdout"],
        "prompt": "prompt",
        "completion": "gold",
        "prompt_length": prompt,
        "row_length": prompt + said,
        "answer_length": said,
        "rewards": [_last_turn if c["turns"] else execute.sql],
      },
      tok,
      process_index=process_index,
      process_count=process_count,
    )
    for level, table in found.items()
  }
  task = tasks[stages[-1].level]

  def stream(kind: str) -> Callable[[str, int, int], Any]:
    def opened(split: str, batch_size: int, seed: int) -> Any:
      one = lambda level: getattr(tasks[level], kind)(split, batch_size, seed)
      if split == "test":
        return one(stages[-1].level)
      return curriculum.training(c, stages, one, kind == "batches")

    return opened

  width, shown = said, stream("demonstrations")
  spec = {**task.spec, "levels": levels()}
  if c["turns"]:
    tool = text_tool.sql_tool(tok, turns=c["turns"], length=c["observation"])
    tried = {
      level: turned.Shown(table, tok, tool, _tried, c["holdout"])
      for level, table in found.items()
    }
    width = max(t.width for t in tried.values())
    tasks = {
      level: t._replace(
        demonstrations=tried[level].stream(
          prompt, width, draws.digest(sections[level]), process_index,
          process_count,
        )
      )
      for level, t in tasks.items()
    }  # fmt: skip
    spec["tool"] = tool
  spec |= {
    "completion_length": width,
    "sft_batches": shown,
    "guess": rows.guess(found[stages[-1].level]),
  }
  return task._replace(
    batches=stream("batches"),
    gold=task.reward,
    spec=spec,
    demonstrations=shown,
    preferences=stream("preferences"),
  )


def _tried(row: Mapping[str, Any]) -> list[str]:
  """A demonstration in turns: the gold query is tried, then it is given."""
  return [f"<sql>{row['gold']}</sql>", row["gold"]]


@function.reward(
  batched=True, name="sql", on_error="abstain", max_error_share=0.5
)
def _last_turn(turns: list, database: list, gold: list) -> list:
  """`execute.sql` of the last turn; those before it were tried."""
  return execute.sql([own[-1] for own in turns], database, gold)


def database(path: str = "") -> str:
  """The path of the database, unpacked where it is packed.

  Args:
    path: of a .sqlite or .sqlite.gz file; "" is that of the data folder.

  Raises:
    UserError: there is no such file.
  """
  root = os.environ.get("RLREWARD_DATA", "data")
  file = pathlib.Path(path) if path else pathlib.Path(root) / FOLDER / FILE
  if not file.is_file():
    raise UserError(
      f"the Chinook database is not at {str(file)!r}",
      "questions and gold queries are made from its rows",
      "set task.database to the .sqlite file, or RLREWARD_DATA to the folder"
      f" that has {FOLDER}/{FILE}",
    )
  if file.suffix != ".gz":
    return str(file)
  raw = gzip.decompress(file.read_bytes())
  name = hashlib.blake2b(raw, digest_size=12).hexdigest()
  out = pathlib.Path(tempfile.gettempdir()) / f"rlreward-{name}.sqlite"
  if not out.is_file() or out.read_bytes() != raw:
    part = tempfile.NamedTemporaryFile(dir=out.parent, delete=False)
    with part:
      part.write(raw)
    os.replace(part.name, out)  # whole at once, whoever else does the same
  return str(out)


def _check(c: Mapping[str, Any]) -> None:
  answered.whole("filters", c["filters"], 0, 9)
  answered.whole("joins", c["joins"], 0, 9)
  answered.whole("turns", c["turns"], 0, 16)
  answered.whole("observation", c["observation"], 1, 1 << 16)
  for name in ("aggregate", "schema"):
    if not isinstance(c[name], bool):
      raise UserError(
        f"{name}={c[name]!r}", "it is a choice", "use True or False"
      )
