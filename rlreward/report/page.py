"""Builds the page of a run and writes it."""

from __future__ import annotations

import ast
import datetime
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from rlreward import __version__, errors
from rlreward.report import attained, figures, read, samples, stats, verdict
from rlreward.report.plot import nats, number, visible
from rlreward.report.read import Run

HERE = pathlib.Path(__file__).resolve().parent
# Headline numbers: (metric, what it is, unit), held out before training.
HEADLINES = (
  ("eval/reward", "held-out reward", "reward"),
  ("eval/proxy", "held-out reward that is trained on", "reward"),
  ("eval/kl", "KL to the reference, held out", "nats per response"),
  ("eval/efficiency", "of the optimum's gain at that KL", "share"),
  ("eval/kl_wasted", "KL wasted", "nats per response"),
  ("eval/length", "answer length, held out", "tokens"),
  ("eval/truncated", "answers cut, held out", "share"),
  ("eval/held/loss", "held-out loss", "-"),
  ("eval/held/accuracy", "held-out pairs in the right order", "share"),
  ("reward", "reward in training", "reward"),
  ("chosen/reward", "reward of the chosen answers", "reward"),
  ("loss", "loss in training", "-"),
  ("accuracy", "pairs in the right order, in training", "share"),
)
FILES = (
  ("metrics.jsonl", "every number, a line for each step and evaluation"),
  ("config.json", "every field"),
  ("samples", "prompts and answers with rewards, as JSON lines"),
  ("frontier/curve.json", "the best reward at each KL"),
  ("checkpoints", "to resume, sample or export"),
  ("tensorboard", "the same numbers for TensorBoard"),
  ("start", "the stage before"),
)


def write(
  run: str | pathlib.Path,
  out: str | pathlib.Path | None = None,
  compare: Sequence[str | pathlib.Path] = (),
) -> pathlib.Path:
  """Writes a run as one HTML page that loads nothing else.

  Args:
    run: a run directory; it may still be training.
    out: the file; default `report.html` in the run directory.
    compare: other runs, drawn beside it.

  Returns:
    Where it was written. A file that was there is replaced at once.

  Raises:
    UserError: not a run, nothing measured yet, or a path that cannot be
      written.
  """
  target = pathlib.Path(run) / "report.html" if out is None else out
  target = pathlib.Path(target)
  text = build(read.run(run), [read.run(r) for r in compare], target)
  part = target.with_name(target.name + ".partial")
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(text, encoding="utf-8")
    os.replace(part, target)
  except OSError as error:
    part.unlink(missing_ok=True)
    raise errors.UserError(
      f"{target} cannot be written: {error.strerror}",
      "the report goes there",
      "give another file: --out=report.html",
    ) from error
  return target


def build(run: Run, others: Sequence[Run], target: pathlib.Path) -> str:
  """The page as text.

  Args:
    run: what it is about.
    others: runs drawn beside it.
    target: where it will lie, for links to the run's files.
  """
  import jinja2

  runs = list(zip(labels([run, *others]), [run, *others], strict=True))
  rows = [(label, headlines(r)) for label, r in runs]
  about, groups = samples.groups(run)
  found = verdict.findings(run)
  rest, unseen = figures.others(run)
  page = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
    finalize=lambda x: visible(x) if type(x) is str else x,
  ).from_string((HERE / "page.html").read_text("utf-8"))  # fmt: skip
  return page.render(
    title=f"{run.get('algorithm', 'run')} on {run.get('task.name', 'a task')}:"
    f" {labels([run])[0]}",
    version=__version__,
    run=run,
    facts=facts(run),
    headlines=rows,
    paired=any("±" in row["first"] for _, table in rows for row in table),
    look=[f for f in found if f.look],
    fine=[f for f in found if not f.look],
    figures=figures.figures(runs),
    others=rest,
    unseen=unseen,
    frontier=attained.attained(runs),
    tracked=any("kl" in row for row in run.evals.values()),
    samples_about=about,
    groups=groups,
    config=sections(run),
    differences=differences(runs),
    labels=[label for label, _ in runs],
    compiles=compiles(run),
    files=files(run, target),
    stages=[stage(r, i) for i, r in enumerate(earlier(run), 1)],
  )


def labels(runs: Sequence[Run]) -> list[str]:
  """The shortest ends of the paths that tell the runs apart."""
  paths = [pathlib.Path(os.path.abspath(run.path)).parts for run in runs]
  for size in range(1, max(map(len, paths)) + 1):
    names = ["/".join(path[-size:]) for path in paths]
    if len(set(names)) == len(names):
      return names
  return [f"{'/'.join(p[-1:])} ({i + 1})" for i, p in enumerate(paths)]


def facts(run: Run) -> list[tuple[str, str]]:
  """What ran: (name, words)."""
  done, all_steps = run.done(), int(run.get("steps") or run.done())
  name = str(run.get("algorithm", "?"))
  doc = _first_line(name)
  found = [("algorithm", f"{name}: {doc}" if doc else name)]
  found.append(("model", _model(run)))
  found.append(("task", str(run.get("task.name", "?"))))
  state = "finished" if done >= all_steps else "not finished"
  found.append(("steps", f"{done} of {all_steps} ({state})"))
  batch = _batch(run)
  if batch:
    found.append(("batch", batch))
  found.append(("seed", str(run.get("seed", "?"))))
  if run.times:
    begun, ended = (
      datetime.datetime.fromtimestamp(t, datetime.UTC) for t in run.times
    )
    took = _duration(run.times[1] - run.times[0])
    found.append(
      ("when", f"{begun:%Y-%m-%d %H:%M} to {ended:%Y-%m-%d %H:%M} UTC, {took}")
    )
  if run.start is not None:
    before = earlier(run)
    each = [f"{r.get('algorithm')} for {r.done()} steps" for r in before]
    found.append(
      ("stages", f"{len(before) + 1}: {', '.join(each)}, then {name}")
    )
  if run.skipped:
    lines = f"{run.skipped} line{'s' * (run.skipped > 1)}"
    found.append(("left out", f"{lines} of metrics.jsonl that cannot be read"))
  return found


def headlines(run: Run) -> list[dict[str, str]]:
  """Rows of the table first -> last; standard errors where samples tell."""
  rows = []
  for name, what, unit in HEADLINES:
    points = [(s, v) for s, v in run.series(name) if v is not None]
    if not points or (name == "loss" and run.series("reward")):
      continue
    (a, first), (b, last) = points[0], points[-1]
    show = nats if unit.startswith("nats") else number
    row = {
      "what": what,
      "metric": name,
      "unit": "" if unit == "-" else unit,
      "first": show(first),
      "last": show(last) if a != b else "-",
      "change": _signed(last - first) if a != b else "-",
      "steps": f"{a} to {b}" if a != b else str(a),
    }
    errors_of = {"eval/reward": ((a, None), (b, None), (b, a))}.get(name, ())
    columns = ("first", "last", "change")
    for column, (step, before) in zip(columns, errors_of, strict=False):
      noise = stats.error(run, step, before)
      if noise and row[column] != "-":
        row[column] += f" ±\N{NO-BREAK SPACE}{number(noise)}"
    rows.append(row)
  return rows


def sections(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
  """The config by sections, the fields without one first."""
  found: dict[str, list[tuple[str, str]]] = {"": []}
  for name, value in run.config.items():
    head, dot, rest = name.partition(".")
    section, field = (head, rest) if dot else ("", head)
    found.setdefault(section, []).append((field, _value(value)))
  return [(name, rows) for name, rows in found.items() if rows]


def differences(runs: Sequence[tuple[str, Run]]) -> list[tuple[str, list[str]]]:
  """Fields that the runs do not share: (name, the value of each)."""
  names = dict.fromkeys(n for _, run in runs for n in run.config)
  rows = [
    (n, [_value(run.get(n)) if n in run.config else "-" for _, run in runs])
    for n in names
  ]
  return [row for row in rows if len(set(row[1])) > 1]


def compiles(run: Run) -> list[tuple[str, str, str]]:
  """(phase, times compiled, seconds in all)."""
  last = run.train[-1] if run.train else {}
  names = sorted(n[9:] for n in last if n.startswith("compiles/"))
  return [
    (n, number(last[f"compiles/{n}"]), number(last.get(f"compile_seconds/{n}")))
    for n in names
  ]


def files(run: Run, target: pathlib.Path) -> list[tuple[str, str, str]]:
  """(relative link from the page, name, what it is) of what is there."""
  found = []
  for name, what in FILES:
    path = run.path / name
    if path.exists():
      link = os.path.relpath(path, os.path.abspath(target.parent))
      found.append((pathlib.PurePath(link).as_posix(), name, what))
  return found


def earlier(run: Run) -> list[Run]:
  """The stages before a run, the first that trained first."""
  found = []
  while run.start is not None:
    run = run.start
    found.insert(0, run)
  return found


def stage(run: Run, number: int) -> dict[str, Any]:
  """What the page shows of an earlier stage."""
  return {
    "name": str(run.get("algorithm", "?")),
    "number": number,
    "facts": facts(run),
    "headlines": [("", headlines(run))],
    "figures": figures.figures([("", run)]),
    "look": [f for f in verdict.findings(run) if f.look],
  }


def _first_line(name: str) -> str:
  """The first line of an algorithm's docstring, "" where it is not ours."""
  for folder in ("algorithms", "methods"):
    file = HERE.parent / folder / f"{name}.py"
    if name.isidentifier() and file.is_file():
      doc = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
      line = doc.splitlines()[0].rstrip(".") if doc else ""
      return line.partition(": ")[2] or line
  return ""


def parameters(run: Run) -> int | None:
  """Parameters of a decoder that the config describes; None where it is not."""
  keys = ("vocab", "width", "layers", "heads", "kv_heads", "head_dim", "mlp")
  sizes = [run.get(f"model.{key}") for key in keys]
  if run.get("model.path") or not all(isinstance(n, int) for n in sizes):
    return None
  v, d, layers, h, k, hd, mlp = sizes
  inner = (h + 2 * k) * hd
  layer = d * (inner + h * hd + 3 * mlp) + 2 * d
  layer += inner * bool(run.get("model.qkv_bias"))
  layer += 2 * hd * bool(run.get("model.qk_norm"))
  outputs = run.get("model.outputs") or 0
  head = 0 if run.get("model.tied") or outputs else v * d
  return v * d + layers * layer + d + d * outputs + head


def _model(run: Run) -> str:
  path = run.get("model.path")
  size = "{layers} layers, width {width}, {heads} heads, vocabulary {vocab}"
  keys = ("layers", "width", "heads", "vocab")
  shape = size.format(**{k: run.get(f"model.{k}", "?") for k in keys})
  text = f"checkpoint {path}"
  if not path:
    count = parameters(run)
    size = "" if count is None else f"{number(count)} parameters, "
    text = f"from random weights, {size}{shape}"
  if run.get("model.lora_rank"):
    text += f", adapter of rank {run.get('model.lora_rank')}"
  if run.get("model.outputs"):
    text += f", score head of {run.get('model.outputs')}"
  return f"{text}, {run.get('model.dtype', '?')}"


def _batch(run: Run) -> str:
  b, g = run.get("prompts_per_step"), run.get("samples_per_prompt")
  if not (isinstance(b, int) and isinstance(g, int)):
    return ""
  if not run.series("reward"):
    return f"{b} rows per update"
  cut, epochs = run.get("updates_per_step", 1), run.get("epochs", 1)
  updates = cut * epochs
  return (
    f"{b} prompts x {g} samples = {b * g} rows = {updates} update"
    f"{'s' * (updates > 1)} x {b * g // max(cut, 1)}"
  )


def _signed(value: float) -> str:
  text = number(abs(value))
  return ("+" if value >= 0 else "-") + text if text != "0" else "0"


def _value(value: Any) -> str:
  if isinstance(value, list | tuple):
    return "(" + ", ".join(map(_value, value)) + ")"
  return '""' if value == "" else str(value)


def _duration(value: float) -> str:
  whole = round(value)
  hours, rest = divmod(whole, 3600)
  if hours:
    return f"{hours} h {rest // 60:02d} min"
  return f"{rest // 60} min {rest % 60:02d} s" if rest >= 60 else f"{rest} s"
