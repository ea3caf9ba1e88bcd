"""The papers: what each claims here, what was measured, and whether it holds.

  python -m rlreward.papers docs/papers.md

Rows come from `configs/` and `results/` alone. The numbers of an arm are those
that the claim reads: it is called on the record with every look-up noted down.
"""

from __future__ import annotations

import json
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlreward import config as config_lib
from rlreward import errors

MOST = 4  # numbers that are shown of an arm
WIDEST = 100  # columns of a line for the terminal
# Two-sided 95 % points of Student's t for 1, 2, ... degrees of freedom.
T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
ARXIV = re.compile(r"arXiv[:\s]+(\d{4}\.\d{4,5})")


class Paper(NamedTuple):
  """One paper.

  Attributes:
    name: of its config.
    title: of the paper, or what its config is about.
    arxiv: its number, "" where it has none.
    claim: the first sentence of the claim.
    arms: {arm: {metric: (mean, half of the 95 % interval)}}.
    seconds: of all arms and seeds on 2 cores, NaN if unknown.
    seeds: how many.
    holds: whether the claim does, None without a record.
  """

  name: str
  title: str
  arxiv: str
  claim: str
  arms: Mapping[str, Mapping[str, tuple[float, float]]]
  seconds: float
  seeds: int
  holds: bool | None


class _Seen(dict):
  """A record that notes which of its numbers are read."""

  def __init__(self, tree: Mapping[str, Any], path: str = "", noted=None):
    super().__init__()
    self.noted = {} if noted is None else noted
    self._path = path
    for key, value in tree.items():
      super().__setitem__(key, self._wrapped(key, value))

  def _wrapped(self, key, value):
    if isinstance(value, dict):
      return _Seen(value, f"{self._path}{key}/", self.noted)
    if isinstance(value, list) and value and isinstance(value[0], dict):
      return [_Seen(x, self._path, self.noted) for x in value]
    return value

  def __getitem__(self, key):
    value = super().__getitem__(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
      self.noted[f"{self._path}{key}"] = None
    return value

  def get(self, key, default=None):
    """As `__getitem__`, with a default."""
    return self[key] if key in self else default


def papers(results: pathlib.Path | None = None) -> list[Paper]:
  """Every config that names a paper, in the order of their names.

  Args:
    results: folder of the records; default the one beside `configs/`.
  """
  found = []
  for path in files():
    study = config_lib.study(str(path))
    number = ARXIV.search(study.doc)
    if study.claim is None or not number:
      continue
    folder = results or path.parent.parent / "results"
    found.append(_paper(study, number[1], folder / f"{study.name}.json"))
  return found


def files() -> list[pathlib.Path]:
  """The config files of the checkout, or of the installed package."""
  root = pathlib.Path(__file__).resolve().parent
  folders = [p for p in (root / "configs", root.parent / "configs")
             if p.is_dir()]  # fmt: skip
  return [f for p in folders for f in sorted(p.glob("*.py"))]


def _paper(study, number: str, record: pathlib.Path) -> Paper:
  said = " ".join((study.claim.__doc__ or "").split())
  claim = re.split(r"(?<=\.) ", said)[0]
  flat = " ".join(study.doc.split())
  named = re.search(r"Paper[^:]{0,20}:\s+(.*?),?\s+arXiv", flat)
  title = named[1] if named else flat.partition(". ")[0]
  if not record.is_file():
    return Paper(study.name, title, number, claim, {}, float("nan"), 0, None)
  result = json.loads(record.read_text(encoding="utf-8"))
  read = _reads(study, result["arms"])
  arms = {n: _numbers(result["arms"][n], names) for n, names in read.items()}
  return Paper(
    study.name,
    title,
    number,
    claim,
    arms,
    float(result["seconds"]),
    len(result["seeds"]),
    result["holds"],
  )


def _reads(study, arms: Mapping[str, Any]) -> dict[str, list[str]]:
  """{arm: names of the numbers that the claim looks at}, as the config orders.

  A claim may stop at the first arm that refuses it, so an arm that was not
  reached shows what the others do.
  """
  seen = {name: _Seen(arm) for name, arm in arms.items()}
  study.claim(seen)
  read = {name: _tidy(s.noted) for name, s in seen.items()}
  every = list(dict.fromkeys(n for names in read.values() for n in names))
  names = [a.name for a in study.arms if a.name in read]
  return {name: (read[name] or every)[:MOST] for name in names}


def _tidy(noted: Mapping[str, None]) -> list[str]:
  """Final numbers before others, without steps in between."""
  names = [re.sub(r"^evals/\d+/", "last/", n) for n in noted]
  names = [n for n in dict.fromkeys(names) if n.startswith(("last/", "train/"))]
  return [n for n in names if not n.endswith("_sd")]


def _numbers(arm, names: Sequence[str]) -> dict[str, tuple[float, float]]:
  out = {}
  for name in names:
    when, _, metric = name.partition("/")
    values = [run[when].get(metric) for run in arm["runs"]]
    values = [float(v) for v in values if v is not None]
    if values:
      n = len(values)
      spread = np.std(values, ddof=1) / np.sqrt(n) if n > 1 else float("nan")
      t = T95[min(n - 2, len(T95) - 1)] if n > 1 else float("nan")
      out[metric] = float(np.mean(values)), float(t * spread)
  return out


def lines(found: Sequence[Paper]) -> list[str]:
  """One line for each paper, for the terminal."""
  said = {True: "holds", False: "fails", None: "-"}
  width = max((len(p.name) for p in found), default=0)
  every = [f"  {p.name:{width}}  {said[p.holds]:5}  {p.claim}" for p in found]
  return [x if len(x) <= WIDEST else f"{x[: WIDEST - 2]}.." for x in every]


def page(found: Sequence[Paper]) -> str:
  """The page docs/papers.md."""
  said = {True: "holds", False: "**does not hold**", None: "not measured"}
  out = [
    "# Papers",
    "",
    "Each is a config with arms and a claim, run over seeds on 2 CPU cores."
    " Numbers are what the claim reads, at the end of the runs: the mean over"
    " seeds and half of its 95 % interval (Student's t). Made by `python -m"
    " rlreward.papers docs/papers.md` from `configs/` and `results/`.",
    "",
    "| paper | claim | arms | seconds | verdict |",
    "|---|---|---|---|---|",
  ]
  for p in found:
    link = f"[{p.name}](../configs/{p.name}.py)"
    paper = f"{p.title} ([{p.arxiv}](https://arxiv.org/abs/{p.arxiv}))"
    arms = "<br>".join(
      f"{name}: "
      + ", ".join(f"{k} {m:.3g} ± {h:.2g}" for k, (m, h) in values.items())
      for name, values in p.arms.items()
      if values
    )
    took = "-" if np.isnan(p.seconds) else f"{p.seconds:.0f}"
    verdict = f"{said[p.holds]}, {p.seeds} seeds" if p.seeds else said[p.holds]
    out.append(f"| {link}: {paper} | {p.claim} | {arms} | {took} | {verdict} |")
  return "\n".join(out) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
  """Writes the page; 2 on bad input.

  Args:
    argv: the path of the page; default those of the process.
  """
  words = list(sys.argv[1:] if argv is None else argv)
  try:
    if len(words) != 1 or words[0].startswith("-"):
      raise errors.UserError(
        f"{len(words)} arguments",
        "the one argument is where the page goes",
        "python -m rlreward.papers docs/papers.md",
      )
    text = page(papers())
  except errors.UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  pathlib.Path(words[0]).write_text(text, encoding="utf-8")
  return 0


if __name__ == "__main__":
  sys.exit(main())
