"""Labelled fixtures of an audit, read from JSONL.

A line is {"prompt", "completion", "label": true | false | number}, with
"tags": [...], "finish": "stop" | "length" and dataset columns where there are
any. The first line may be {"spec": {...}}, see `expect.Spec`.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from rlreward.errors import UserError
from rlreward.evals import expect
from rlreward.evals.probes import Fixture, Row
from rlreward.rewards import values

FINISH = ("stop", "length")
_OWN = ("prompt", "completion", "label", "tags", "finish")


def read(
  path: str | os.PathLike[str],
) -> tuple[list[Fixture], dict[str, Any]]:
  """Fixtures of a JSONL file, and the spec of its first line.

  Args:
    path: of the file.

  Returns:
    (fixtures, fields of the spec).

  Raises:
    UserError: names the line and the field.
  """
  file = pathlib.Path(path)
  if not file.is_file():
    raise UserError(
      f"there is no file {str(path)!r}",
      "an audit compares a reward with labelled answers",
      'give a JSONL of {"prompt": .., "completion": .., "label": true}',
    )
  rows: list[Fixture] = []
  spec: Any = {}
  try:
    lines = file.read_text(encoding="utf-8").split("\n")
  except UnicodeDecodeError as error:
    raise UserError(
      f"{path} is no UTF-8: {error}", "fixtures are text", "save it as UTF-8"
    ) from error
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    where = f"{path} line {number}"
    try:
      row = json.loads(line)
    except json.JSONDecodeError as error:
      raise UserError(
        f"{where} is no JSON: {error}",
        "each line is one labelled answer",
        "write one JSON object per line",
      ) from error
    if not isinstance(row, dict):
      raise _field(where, "the line", row, "an object")
    if list(row) == ["spec"] and not rows:
      spec = row["spec"]
      expect.read(spec, where)
    else:
      rows.append(_fixture(row, number, where))
  if not rows:
    raise UserError(
      f"{path} has no fixtures",
      "an audit compares a reward with labelled answers",
      'write {"prompt": "1+1=", "completion": "2", "label": true}',
    )
  return rows, spec


def _fixture(row: Mapping[str, Any], number: int, where: str) -> Fixture:
  for name in ("prompt", "completion", "label"):
    if name not in row:
      raise UserError(
        f"{where} has no field {name!r}; it has {sorted(row)}",
        "a fixture is a prompt, an answer and the label that it deserves",
        f"add {name!r} to this line",
      )
  for name in ("prompt", "completion"):
    if not isinstance(row[name], str):
      raise _field(where, name, row[name], "a text, as the reward sees it")
  label, tags = row["label"], row.get("tags", [])
  if not isinstance(label, int | float) or not math.isfinite(label):
    raise _field(where, "label", label, "true, false or a finite number")
  if not (isinstance(tags, list) and all(isinstance(t, str) for t in tags)):
    raise _field(where, "tags", tags, "a list of texts")
  finish = row.get("finish", "stop")
  if finish not in FINISH:
    raise _field(where, "finish", finish, "'stop' or 'length'")
  rest = {k: v for k, v in row.items() if k not in _OWN}
  own = Row(row["prompt"], row["completion"], finish, rest)
  return Fixture(own, float(label), number, tuple(tags))


def _field(where: str, name: str, value: Any, form: str) -> UserError:
  return UserError(
    f"{where}: {name} is {values.short(value)}",
    "it cannot be read as a labelled answer",
    f"make it {form}",
  )
