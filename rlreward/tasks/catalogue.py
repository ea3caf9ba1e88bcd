"""The tasks on one page: what each is, and those with levels by example.

RLREWARD_DATA=... python -m rlreward.tasks.catalogue docs/tasks.md
"""

from __future__ import annotations

import ast
import importlib
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlreward.types import Task

FOLDER = pathlib.Path(__file__).resolve().parent
LEVELED = ("arithmetic", "cipher", "slots", "grid", "search_world", "chinook")
_HEAD = """# Tasks

Made by `python -m rlreward.tasks.catalogue docs/tasks.md` from the modules of
`rlreward/tasks`; a test fails where it is not current. `task.name` of a config
names one of them.
"""
_LEVELS = """## Tasks in levels

Each of these has the fields `level` and `stages`, and its module has
`levels()`, the fields that each level sets, and `at(level)`, the whole section
of one. Fields that a config sets itself win over its level.
`task.stages=0,1@200,3@500` trains on level 0, from batch 200 on level 1 and
from batch 500 on level 3; evaluation is on the last of them. With
`task.advance=0.7` and `task.stages=0,1,3` a level ends when 0.7 of the answers
to its last `task.patience` steps were right (`filter_on` names a component that
is not the reward). A resumed run sees the same batches in either case.

`guess` is how often a policy is right that knows the form of the answers and
does not read the prompt; `chance` is that of uniform tokens. Examples are the
first training problem of seed 0.
"""


def page() -> str:
  """The whole page; needs the Chinook database for its examples."""
  parts = [_HEAD, listing(), _LEVELS, *(section(n) for n in LEVELED)]
  return "\n".join(parts)


def listing() -> str:
  """A table of all tasks and the first sentence of each."""
  rows = [f"| {name} | {first} |" for name, first in _tasks().items()]
  return "\n".join(["| task | what it is |", "| --- | --- |", *rows, ""])


def section(name: str) -> str:
  """A task with levels: its fields, an example and chances at each.

  Args:
    name: of LEVELED.
  """
  module = importlib.import_module(f"rlreward.tasks.{name}")
  head = ["level", *_fields(module.levels()), "guess", "chance", "example"]
  rows = [head, ["---"] * len(head)]
  for level, fields in enumerate(module.levels()):
    task = module.make({"level": level})
    batch = next(task.batches("train", 1, 0))
    chance = task.spec.get("chance")
    rows.append(
      [
        str(level),
        *(str(fields[k]) for k in _fields(module.levels())),
        f"{task.spec['guess']:.2g}",
        f"{chance(batch)[0]:.1g}" if chance else "-",
        f"`{_example(task)}`",
      ]
    )
  doc = ast.get_docstring(ast.parse(_source(name))) or ""
  table = [f"| {' | '.join(row)} |" for row in rows]
  return "\n".join([f"### {name}\n", f"{doc}\n", *table, ""])


def main(argv: Sequence[str] | None = None) -> int:
  """Writes the page to the path that is given."""
  given = list(sys.argv[1:] if argv is None else argv)
  if len(given) != 1:
    print("usage: python -m rlreward.tasks.catalogue docs/tasks.md")
    return 2
  pathlib.Path(given[0]).write_text(page(), encoding="utf-8")
  return 0


def _tasks() -> dict[str, str]:
  """{task: first sentence of its module}."""
  out = {}
  for path in sorted(FOLDER.glob("[!_]*.py")):
    text = _source(path.stem)
    if "\ndef make(" in text and "\ndef defaults(" in text:
      doc = ast.get_docstring(ast.parse(text)) or ""
      out[path.stem] = doc.splitlines()[0].replace("|", "\\|")
  return out


def _source(name: str) -> str:
  return (FOLDER / f"{name}.py").read_text(encoding="utf-8")


def _fields(levels: Sequence[Mapping[str, Any]]) -> list[str]:
  return list(dict.fromkeys(k for fields in levels for k in fields))


def _example(task: Task) -> str:
  """The first demonstration: its prompt, and all that follows it."""
  assert task.demonstrations is not None
  row = next(task.demonstrations("train", 1, 0))
  ids, attend, loss = (np.asarray(row[k][0]) for k in
                       ("tokens", "attend", "loss"))  # fmt: skip
  tok, start = task.spec["tokenizer"], int(np.argmax(loss))
  text = lambda part: tok.decode(ids[part][attend[part]])
  ask, said = text(slice(0, start)), text(slice(start, None))
  return f"{ask} {said}".replace("\n", " ").replace("|", "\\|")


if __name__ == "__main__":
  sys.exit(main())
