"""What a run directory holds, read with patience for what a kill left."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from rlreward import errors, fields

Point = tuple[int, float | None]


class Run(NamedTuple):
  """A run as it lies on disk.

  Attributes:
    path: its directory, as given.
    config: {"dotted.field": value}.
    train: a row of `metrics.jsonl` for each step, steps ascending.
    evals: {step: {metric without "eval/": number or None}}.
    times: (first, last) time of writing, seconds since 1970; None without.
    skipped: lines that are no JSON object with a step.
    curve: of `frontier/curve.json`, or None.
    command: what started it, where that was recorded, else "".
    start: the earlier stage, or None.
  """

  path: pathlib.Path
  config: dict[str, Any]
  train: list[dict[str, Any]]
  evals: dict[int, dict[str, float | None]]
  times: tuple[float, float] | None
  skipped: int
  curve: dict[str, Any] | None
  command: str
  start: Run | None

  def get(self, field: str, default: Any = None) -> Any:
    """A field of the config, by its dotted name."""
    return self.config.get(field, default)

  def done(self) -> int:
    """Finished steps."""
    last = self.train[-1]["step"] if self.train else 0
    return max([int(last), *self.evals])

  def series(self, name: str) -> list[Point]:
    """A metric over steps, None where it is not finite; "eval/x" held out."""
    if name.startswith("eval/"):
      rows = self.evals.items()
      return [(s, v[name[5:]]) for s, v in rows if name[5:] in v]
    return [(r["step"], r[name]) for r in self.train if name in r]

  def names(self) -> set[str]:
    """Every metric, held-out ones with "eval/"."""
    found = {name for row in self.train for name in row}
    held = {f"eval/{name}" for row in self.evals.values() for name in row}
    return (found | held) - {"step", "time"}

  def samples(self, name: str) -> list[dict[str, Any]]:
    """Rows of `samples/<name>.jsonl`; none where there is no such file."""
    return _lines(self.path / "samples" / f"{name}.jsonl")[0]

  def sampled(self, kind: str) -> list[int]:
    """Steps N with a file `samples/<kind>_N.jsonl`, ascending."""
    found = (self.path / "samples").glob(f"{kind}_*.jsonl")
    steps = (f.stem.removeprefix(f"{kind}_") for f in found)
    return sorted(int(s) for s in steps if s.isdigit())


def run(path: str | pathlib.Path) -> Run:
  """Reads a run directory; a line that a kill cut off is skipped.

  Args:
    path: what `rlreward train` wrote.

  Raises:
    UserError: no run there, or nothing measured yet.
  """
  found = _read(pathlib.Path(path))
  if found.train or found.evals or found.start is not None:
    return found
  raise errors.UserError(
    f"{path} has no metrics yet",
    "a report shows what was measured, and nothing was",
    "wait for the first evaluation, or give the same train command again",
  )


def _read(path: pathlib.Path) -> Run:
  config = _config(path)
  lines, skipped = _lines(path / "metrics.jsonl")
  rows: dict[int, dict[str, Any]] = {}
  evals: dict[int, dict[str, Any]] = {}
  times = []
  for line in lines:
    step = line.get("step")
    if not isinstance(step, int):
      skipped += 1
      continue
    if isinstance(line.get("time"), int | float):
      times.append(float(line["time"]))
    numbers = {k: _number(v) for k, v in line.items() if k != "time"}
    held = {k[5:]: v for k, v in numbers.items() if k.startswith("eval/")}
    if held:
      evals.setdefault(step, {}).update(held)
    if len(numbers) > len(held) + 1:
      rest = {k: v for k, v in numbers.items() if not k.startswith("eval/")}
      rows.setdefault(step, {}).update({**rest, "step": step})
  command = path / "command.txt"
  start = path / "start"
  earlier = None
  if (start / "config.json").is_file():
    earlier = _read(start)
    if not (earlier.train or earlier.evals):
      earlier = None
  return Run(
    path,
    config,
    [rows[s] for s in sorted(rows)],
    dict(sorted(evals.items())),
    (min(times), max(times)) if times else None,
    skipped,
    _curve(_json(path / "frontier" / "curve.json")),
    command.read_text("utf-8").strip() if command.is_file() else "",
    earlier,
  )


def _config(path: pathlib.Path) -> dict[str, Any]:
  file = path / "config.json"
  if not file.is_file():
    raise errors.UserError(
      f"{path} holds no run (no config.json)",
      "a run directory is what rlreward train writes",
      "give the --workdir of a run, e.g. runs/quickstart",
    )
  tree = _json(file)
  if tree is None:
    raise errors.UserError(
      f"{file} is not a JSON object",
      "a run is described by it",
      "restore the file from the run's config, or train in a new directory",
    )
  return dict(fields.flatten(tree))


def _curve(tree: dict[str, Any] | None) -> dict[str, Any] | None:
  """A frontier whose columns can be drawn; None where they cannot."""
  if tree is None or not isinstance(tree.get("kl"), list):
    return None
  found: dict[str, Any] = _finite(tree)
  best, bon = found.get("reward") or [], found.get("bon") or {}
  columns = [best, *(found.get(k) for k in ("low", "high", "gold", "trusted"))]
  even = all(
    c is None or (isinstance(c, list) and len(c) == len(found["kl"]))
    for c in columns
  )
  points = [bon.get(k, []) for k in ("n", "kl", "reward")]
  even &= len({len(p) for p in points}) == 1
  even &= None not in [*found["kl"], *points[1], *points[2]]
  if not even or not any(v is not None for v in best):
    return None
  return {**found, "bon": dict(zip(("n", "kl", "reward"), points, strict=True))}


def _finite(tree: Any) -> Any:
  """The same with None where a number is not finite."""
  if isinstance(tree, dict):
    return {k: _finite(v) for k, v in tree.items()}
  if isinstance(tree, list):
    return [_finite(v) for v in tree]
  return _number(tree) if isinstance(tree, float) else tree


def _json(file: pathlib.Path) -> dict[str, Any] | None:
  if not file.is_file():
    return None
  try:
    tree = json.loads(file.read_text("utf-8", errors="replace"))
  except ValueError:
    return None
  return tree if isinstance(tree, dict) else None


def _lines(file: pathlib.Path) -> tuple[list[dict[str, Any]], int]:
  """JSON objects of a file, and how many lines are not one."""
  if not file.is_file():
    return [], 0
  found, skipped = [], 0
  with file.open(encoding="utf-8", errors="replace") as opened:
    for text in opened:
      try:
        row = json.loads(text)
      except ValueError:
        row = None
      if isinstance(row, dict):
        found.append(row)
      else:
        skipped += bool(text.strip())
  return found, skipped


def _number(value: Any) -> float | None:
  known = isinstance(value, int | float) and math.isfinite(value)
  return value if known else None


def thin(items: list[Any], most: int) -> list[Any]:
  """At most `most` of the items, evenly, the first and the last among them."""
  if len(items) <= most:
    return items
  step = (len(items) - 1) / (most - 1)
  return [items[round(i * step)] for i in range(most)]


def finish_shares(of: Run, most: int = 60) -> dict[str, list[Point]]:
  """Share of rows that ended in each way, over the logged samples."""
  kind = "step" if len(of.sampled("step")) > 1 else "eval"
  return _over_samples(of, kind, most, _finishes)


def surprise(of: Run, most: int = 60) -> list[Point]:
  """Mean of -log p of the held-out samples, nats per token.

  An unbiased estimate of the entropy at the temperature of the evaluation.
  """
  found = _over_samples(of, "eval", most, _surprise)
  return found.get("surprise", [])


def _over_samples(
  of: Run,
  kind: str,
  most: int,
  read: Callable[[list[dict[str, Any]]], Mapping[str, float]],
) -> dict[str, list[Point]]:
  steps = thin(of.sampled(kind), most)
  found = [(s, read(of.samples(f"{kind}_{s}"))) for s in steps]
  names = sorted({name for _, shares in found for name in shares})
  known = [(s, shares) for s, shares in found if shares]
  return {n: [(s, shares.get(n, 0.0)) for s, shares in known] for n in names}


def _finishes(rows: list[dict[str, Any]]) -> dict[str, float]:
  ways = [str(r["finish"]) for r in rows if "finish" in r]
  return {w: ways.count(w) / len(ways) for w in set(ways)}


def _surprise(rows: list[dict[str, Any]]) -> dict[str, float]:
  logp = list(_logps(rows))
  return {"surprise": -sum(logp) / len(logp)} if logp else {}


def _logps(rows: list[dict[str, Any]]) -> Iterator[float]:
  for row in rows:
    found = row.get("logp")
    for value in found if isinstance(found, list) else ():
      known = _number(value)
      if known is not None:
        yield known
