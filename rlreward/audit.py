"""Audits a reward by its path: labelled fixtures in, a report to read out."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlreward import reward_models
from rlreward.errors import UserError
from rlreward.evals import audit, expect, fixtures, functions
from rlreward.evals.audit import Scorer
from rlreward.evals.probes import Fixture, Row
from rlreward.rewards import loader

SHOWN = 5  # breaks of a probe in the text


def run(
  name: str,
  path: str | os.PathLike[str] | None = None,
  *,
  threshold: float | None = None,
  seed: int = 0,
) -> dict[str, Any]:
  """The report of a reward given by its path.

  Args:
    name: "file.py:function", "package.module:function", a weighted sum
      "a.py:f@1.0,b.py:g@0.5" as in `task.rewards`, the path of a `Scorer`, or
      the directory of a reward model or an ensemble.
    path: of fixtures, see `evals.fixtures`. None probes a reward model with
      the golden texts of its card, of which the upper half by its own score
      counts as good: what edits do to it shows, agreement with labels does not.
    threshold: in place of the spec's.
    seed: of the probes.

  Returns:
    See `evals.audit.run`.

  Raises:
    UserError: no such reward, bad fixtures, columns that the reward needs and
      the fixtures lack.
  """
  if path is None:
    scorer, rows = _own_texts(name)
    spec: Any = {}
  else:
    rows, spec = fixtures.read(path)
    scorer = load(name, rows)
  if threshold is not None:
    spec = expect.read({**spec, "threshold": threshold}, "--threshold")
  else:
    spec = expect.read(spec, f"{path} line 1")
  return audit.run(scorer, rows, spec, seed)


def load(name: str, rows: Sequence[Fixture]) -> Scorer:
  """The reward that a path names, as a Scorer.

  Args:
    name: see `run`.
    rows: that it will be asked about; they must have its columns.

  Raises:
    UserError: see `run`.
  """
  if pathlib.Path(name).is_dir():
    return reward_models.scorer(reward_models.load(name))
  parts = [p.strip() for p in name.split(",") if p.strip()]
  pairs: list[Any] = []
  for part in parts:
    path, at, weight = part.rpartition("@")
    pairs.append((path if at else part, _weight(weight if at else "1", part)))
  if len(pairs) == 1 and pairs[0][1] == 1:
    found = loader.load(pairs[0][0])
    if isinstance(found, Scorer):
      return found
  return functions.wrap(pairs, rows, name)


def _own_texts(name: str) -> tuple[Scorer, list[Fixture]]:
  """A reward model, and the golden texts of its card as fixtures."""
  if not pathlib.Path(name).is_dir():
    raise UserError(
      f"audit-reward {name} without --fixtures",
      "a rule is audited on labelled answers; only a reward model in a"
      " directory has texts of its own",
      "give --fixtures=FILE.jsonl",
    )
  found = reward_models.load(name)
  model, texts = found.model, []
  for golden in reward_models.golden(name):
    prompt, answer = (golden.get(k) for k in ("prompt", "completion"))
    prompt, answer = map(_said, (prompt, answer))
    if prompt is not None and answer:
      texts.append(Row(prompt, answer))
  if len(texts) < 2:
    raise UserError(
      f"the card of {name} has {len(texts)} golden texts",
      "without --fixtures they are what is probed, and they are ids or chats"
      " of several turns here",
      "give --fixtures=FILE.jsonl",
    )
  scorer = reward_models.scorer(found)
  assert scorer.score is not None
  value = np.asarray(scorer.score(texts).value, float)
  value = np.nan_to_num(value, nan=-np.inf)
  good = value > np.median(value)
  rows = [
    Fixture(row, float(g), i)
    for i, (row, g) in enumerate(zip(texts, good, strict=True), 1)
  ]
  about = (
    f"{name} (its own texts, {model.card.strings}; the upper half is good)"
  )
  return scorer._replace(name=about), rows


def _said(value: Any) -> str | None:
  """A text, or the content of the only message of a chat."""
  if isinstance(value, list | tuple) and len(value) == 1:
    value = value[0].get("content")
  return value if isinstance(value, str) else None


def _weight(text: str, part: str) -> float:
  try:
    return float(text)
  except ValueError:
    raise UserError(
      f"the weight of {part!r} is {text!r}",
      "what follows @ is the weight in the sum of rewards",
      f"write {part.rpartition('@')[0]}@1.0",
    ) from None


def write(report: Mapping[str, Any], out: str | os.PathLike[str]) -> None:
  """Writes a report as JSON to a file that does not exist.

  Raises:
    UserError: it exists.
  """
  path = pathlib.Path(out)
  check_out(out)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(path.name + ".partial")
  partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
  os.replace(partial, path)


def check_out(out: str | os.PathLike[str]) -> None:
  """Raises a UserError where the file is there already."""
  if pathlib.Path(out).exists():
    raise UserError(
      f"{out} exists", "it is not overwritten", "give another --out"
    )


def text(report: Mapping[str, Any]) -> str:
  """The report for people: verdicts first, then what lies behind them."""
  lines = [f"{report['reward']} on {report['rows']} fixtures", ""]
  for s in report["sections"]:
    mark = "pass" if s["passed"] else "FAIL"
    lines.append(f"  {mark}  {s['name']:18} {s['says']}")
  if report["first_error"]:
    lines += ["", f"first error: {report['first_error']}"]
  if "confusion" in report:
    lines += ["", *_agreement(report)]
  for p in report["probes"]:
    if p["breaks"]:
      lines += ["", *_breaks(p)]
    elif "accuracy" in p:
      lines += ["", f"pairs in the right order: {p['accuracy']:.2f}"]
  failed = [s["name"] for s in report["sections"] if not s["passed"]]
  verdict = f"FAIL: {', '.join(failed)}" if failed else "pass"
  return "\n".join([*lines, "", verdict])


def _agreement(report: Mapping[str, Any]) -> list[str]:
  """Confusion, length and the rows that are judged wrongly."""
  c, length = report["confusion"], report["length"]
  out = [
    f"accepted from {c['threshold']:.4g} ({c['chosen']}), good from a label of"
    f" {report['good_from']:.4g}, AUROC {_number(c['auroc'])}",
    f"length: Spearman {_number(length['spearman'])}"
    f" {_band(length['interval'])}, given the label"
    f" {_number(length['partial'])} {_band(length['partial_interval'])}",
    "",
    f"  {'':18} {'TP':>4} {'FP':>4} {'TN':>4} {'FN':>4} {'none':>4}  AUROC",
  ]
  for name, row in {"all": c, **report["tags"]}.items():
    counts = [
      row[k]
      for k in (
        "true_positive",
        "false_positive",
        "true_negative",
        "false_negative",
        "unjudged",
      )
    ]
    shown = " ".join(f"{n:4}" for n in counts)
    out.append(f"  {name:18} {shown}  {_number(row['auroc'])}")
  for row in c["wrong"]:
    out += [
      "",
      f"{row['kind']}, line {row['line']}: {row['value']:.4g}"
      f" for the label {row['label']:g}",
      f"  {_short(row['prompt'])} -> {_short(row['completion'])}",
    ]
  return out


def _breaks(p: Mapping[str, Any]) -> list[str]:
  """The first breaks of a probe, with the texts."""
  out = [f"{p['name']} ({p['relation']}): {p['says']}"]
  for b in p["breaks"][:SHOWN]:
    out += [
      f"  line {b['line']}, {b['note']}: {_number(b['before'])} ->"
      f" {_number(b['after'])} (delta {_number(b['delta'], '+')})"
      + (
        "" if b["bound"] == b["before"] else f", control {_number(b['bound'])}"
      ),
      f"    before {_short(b['before_text'])}",
      f"    after  {_short(b['after_text'])}",
    ]
  left = len(p["breaks"]) - SHOWN
  return [*out, f"  and {left} more (--json has all)"] if left > 0 else out


def _number(x: float | None, sign: str = "") -> str:
  return "none" if x is None else f"{x:{sign}.4g}"


def _band(band: Sequence[float] | None) -> str:
  return "" if band is None else f"[{band[0]:.2f}, {band[1]:.2f}]"


def _short(said: str, size: int = 100) -> str:
  """A text on one line, its middle left out."""
  shown = repr(said)
  half = size // 2 - 3
  return shown if len(shown) <= size else f"{shown[:half]} ... {shown[-half:]}"


def main(
  name: str,
  path: str | None = None,
  threshold: float | None = None,
  seed: int = 0,
  as_json: bool = False,
  out: str | None = None,
) -> int:
  """Prints a report.

  Args:
    name: see `run`.
    path: see `run`.
    threshold: see `run`.
    seed: see `run`.
    as_json: print JSON.
    out: also write JSON to this file, which must not exist.

  Returns:
    1 where an expectation is broken, else 0.

  Raises:
    UserError: see `run`.
  """
  if out is not None:
    check_out(out)
  report = run(name, path, threshold=threshold, seed=seed)
  if out is not None:
    write(report, out)
  print(json.dumps(report, indent=2) if as_json else text(report))
  return 0 if report["passed"] else 1
