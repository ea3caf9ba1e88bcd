"""Scores of a reward model on a benchmark: a JSONL in, a table and JSON out."""

from __future__ import annotations

import difflib
import gzip
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rlreward.errors import UserError
from rlreward.evals import preference


def main(scores: str, spec: str, out: str | None) -> int:
  """Evaluates a file of scores, prints the table, writes the result.

  Args:
    scores: a JSONL; see `read`.
    spec: name of a benchmark.
    out: a JSON file that does not exist; None writes nothing.

  Returns:
    Exit code 0.

  Raises:
    UserError: an unknown spec, an existing file, bad lines.
  """
  preference.pick(spec)
  path = pathlib.Path(out) if out else None
  if path and path.exists():
    raise UserError(
      f"{path} exists", "it is not overwritten", "give another --out"
    )
  found = preference.evaluate(**read(scores), spec=spec)
  print(table(found))
  if path:
    write(path, {"scores": str(scores), **found})
    print(f"wrote {path}")
  return 0


def read(path: str | pathlib.Path) -> dict[str, Any]:
  """The columns of a JSONL of scored items; it is read line by line.

  Args:
    path: each line an object with `scores` (numbers, the right answers first;
      null or NaN where a score is missing), `subset` or `group`, `num_correct`
      (1 where not said and there are two scores), and where wanted `weight`,
      `id`, `language`, `style`. Other fields, such as texts, are passed over.

  Returns:
    Arguments of `preference.evaluate`.

  Raises:
    UserError: a bad line, with its number and field.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(
      f"there is no file {path}", "scores are read from it", "check --scores"
    )
  rows: list[list[float]] = []
  columns: dict[str, list[Any]] = {
    k: [] for k in ("num_correct", "group", "weight", "ids", "language",
                    "style")
  }  # fmt: skip
  for number, line in _lines(path):
    if not line.strip():
      continue
    item = _Line(line, number, path)
    scores = item.scores()
    rows.append(scores)
    columns["num_correct"].append(item.num_correct(len(scores)))
    columns["group"].append(item.subset())
    columns["weight"].append(item.weight())
    columns["ids"].append(item.word("id", f"line {number}"))
    columns["language"].append(item.word("language", ""))
    columns["style"].append(item.word("style", ""))
  if not rows:
    raise UserError(
      f"{path} has no lines", "there is nothing to evaluate", "check --scores"
    )
  sizes = np.asarray([len(r) for r in rows])
  table_NxK = np.full((len(rows), int(sizes.max())), np.nan)
  for i, row in enumerate(rows):
    table_NxK[i, : len(row)] = row
  valid = np.arange(table_NxK.shape[1]) < sizes[:, None]
  return {"scores": table_NxK, "valid": valid, **columns}


def _lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
  """(number from 1, line) of a text file, plain or .gz."""
  number = 0
  try:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
      for number, line in enumerate(file, 1):
        yield number, line
  except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
    raise UserError(
      f"{path} is not text after line {number}: {error}",
      "each line is one item as JSON",
      "give a JSONL in UTF-8, or one that gzip wrote as .gz",
    ) from error


class _Line:
  """One line, and what is wrong with it."""

  def __init__(self, line: str, number: int, path: pathlib.Path):
    self.number, self.path = number, path
    try:
      self.item = json.loads(line)
    except json.JSONDecodeError as error:
      raise self.bad(
        f"is not JSON: {error.msg} (column {error.colno})",
        "each line is one item",
        "write one JSON object in each line",
      ) from error
    if not isinstance(self.item, dict):
      raise self.bad(
        f"is a {type(self.item).__name__}, not an object",
        "each line is one item",
        'write {"scores": [..], "num_correct": 1, "subset": ".."}',
      )

  def bad(self, what: str, why: str, fix: str) -> UserError:
    return UserError(f"line {self.number} of {self.path} {what}", why, fix)

  def missing(self, name: str, why: str, fix: str) -> UserError:
    near = difflib.get_close_matches(name, self.item, 1, 0.8)
    said = f"; it has {near[0]!r}" if near else ""
    return self.bad(f"has no field {name!r}{said}", why, fix)

  def scores(self) -> list[float]:
    why = "right answers are compared with wrong ones"
    fix = "give a list of at least two numbers, null where a score is missing"
    if "scores" not in self.item:
      raise self.missing("scores", why, fix)
    value = self.item["scores"]
    if not isinstance(value, list) or len(value) < 2:
      raise self.bad(f"has 'scores' {_short(value)}", why, fix)
    out = []
    for place, x in enumerate(value):
      if x is not None and not _number(x):
        raise self.bad(f"has 'scores'[{place}] {_short(x)}", why, fix)
      out.append(math.nan if x is None else float(x))
    return out

  def num_correct(self, size: int) -> int:
    why = "it says how many scores from the left are of right answers"
    fix = f"give a whole number of 1 to {size - 1}"
    if "num_correct" not in self.item:
      if size == 2 and not difflib.get_close_matches(
        "num_correct", self.item, 1, 0.8
      ):
        return 1
      raise self.missing("num_correct", why, fix)
    value = self.item["num_correct"]
    if type(value) is not int or not 1 <= value < size:
      raise self.bad(
        f"has 'num_correct' {_short(value)} and {size} scores", why, fix
      )
    return value

  def subset(self) -> str:
    name = "subset" if "subset" in self.item else "group"
    if name not in self.item:
      raise self.missing("subset", "scores are told apart by it",
                         "give the subset of the benchmark")  # fmt: skip
    return self.word(name, "")

  def weight(self) -> float:
    value = self.item.get("weight", 1.0)
    if not _number(value) or not 0 <= value < math.inf:
      raise self.bad(
        f"has 'weight' {_short(value)}",
        "means are weighted by it",
        "give a finite number of at least 0, or leave it out",
      )
    return float(value)

  def word(self, name: str, default: str) -> str:
    value = self.item.get(name, default)
    if isinstance(value, bool) or not isinstance(value, str | int):
      raise self.bad(
        f"has {name!r} {_short(value)}",
        "items are joined and told apart by it",
        "give a string",
      )
    return str(value)


def _number(x: Any) -> bool:
  return isinstance(x, int | float) and not isinstance(x, bool)


def _short(x: Any) -> str:
  text = repr(x)
  return text if len(text) < 60 else text[:57] + "..."


def table(found: Mapping[str, Any]) -> str:
  """The result of `preference.evaluate` as text.

  Args:
    found: the result.

  Returns:
    A line for each subset, section and other number, with its interval.
  """
  level = f"{100 * found['level']:g} % interval"
  wide = max(len(n) for n in ("subset", *found["subsets"]))
  head = f"{'subset':{wide}}  {'n':>6}  {'accuracy':>8}  {level:16}"
  lines = [
    f"{found['spec']}: {found['ties']}; items without a score are left out",
    f"{head}  {'ties':>5}  {'abstained':>9}",
  ]
  for name, row in found["subsets"].items():
    lines.append(
      f"{name:{wide}}  {row['items']:6}  {_value(row['accuracy']):>8}"
      f"  {_band(row):16}  {row['tied']:5}  {row['abstained']:9}"
    )
  named = {f"section {k}": v for k, v in found["sections"].items()}
  if set(found["sections"]) == set(found["subsets"]):
    named = {}  # each subset is its own section
  rows = {**named, **found["extra"], "items alike": found["micro"]}
  rows["total"] = found["total"]
  wide = max(map(len, rows))
  lines.append("")
  for name, row in rows.items():
    lines.append(f"{name:{wide}}  {_value(row['value']):>8}  {_band(row)}")
  if found["abstained"]:
    lines.append(
      f"{found['abstained']} of {found['items']} items have a score that is"
      " missing; the JSON says under floor what is left if they are lost"
    )
  if found["missing"]:
    lines.append(f"not the whole benchmark: no {', '.join(found['missing'])}")
  return "\n".join(lines)


def _value(x: float | None) -> str:
  return "-" if x is None else f"{x:.4f}"


def _band(row: Mapping[str, Any]) -> str:
  if row["low"] is None or row["high"] is None:
    return "-"
  return f"{row['low']:.4f} to {row['high']:.4f}"


def write(path: pathlib.Path, found: Mapping[str, Any]) -> None:
  """Writes JSON whole or not at all.

  Args:
    path: a file that does not exist; its folder is made.
    found: plain numbers.

  Raises:
    UserError: the file exists, also where it came while we evaluated.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
  text = json.dumps(found, indent=1, allow_nan=False) + "\n"
  partial.write_text(text, encoding="utf-8")
  try:
    os.link(partial, path)  # unlike a rename it never replaces
  except FileExistsError as error:
    raise UserError(
      f"{path} exists", "it is not overwritten", "give another --out"
    ) from error
  except OSError:  # no hard links here
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)
