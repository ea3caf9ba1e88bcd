"""Counts of judged answers, entry by entry, and how they are told."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

LEAD = 0.1  # of an AUROC over 1/2, from which length is said to tell
SIGMAS = 3.0  # standard errors that it must be away from 1/2 as well
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Entry(NamedTuple):
  """A row in tokens.

  Attributes:
    prompt: ids.
    answers: (ids with eos, mask of what the assistant wrote) of each answer.
    order: a number for each answer, larger is better and equal is a tie; ()
      for an answer that is judged alone.
    values: {label: number} of an answer that is judged alone, NaN where it
      has none.
    arrays: {array of the batch: a value for each answer}.
    blank: an answer is white space alone.
  """

  prompt: Sequence[int]
  answers: Sequence[tuple[list[int], list[bool]]]
  order: Sequence[float]
  values: Mapping[str, float]
  arrays: Mapping[str, Sequence[Any]]
  blank: bool


class Length(NamedTuple):
  """How far length tells which answer is better.

  Attributes:
    auroc: P(the better is longer) + P(equally long) / 2.
    error: its standard error at 1/2; rows count as independent.
    better: mean tokens of better answers, eos included.
    worse: mean tokens of the others.
  """

  auroc: float
  error: float
  better: float
  worse: float

  @property
  def tells(self) -> bool:
    """Whether a judge that reads nothing but length would do well."""
    lead = abs(self.auroc - 0.5)
    return lead >= LEAD and lead > SIGMAS * self.error


class Census(NamedTuple):
  """What became of the rows of a split, and what they say.

  Attributes:
    kind: what rows are, such as "pairs" or "rankings".
    rows: read.
    kept: used.
    overlong: left out, prompt or an answer longer than its slots; never cut.
    bad: left out, could not be read (`on_bad="drop"`).
    equal: rows with two answers that are the same.
    duplicates: kept rows whose prompt, answers and order came before.
    contradicting: pairs of answers to a prompt that are judged both ways, and
      answers labelled both ways.
    other_split: left out, held out for (or from) another split.
    blank: kept rows with an answer of white space alone.
    comparisons: of kept rows, ties included.
    ties: of those.
    balance: {label: (answers or rows that have it, their mean)}.
    length: {label: Length}; "order" for comparisons.
    longest_prompt: tokens, over-long ones included.
    longest_answer: tokens with eos, over-long ones included.
    first_bad: message of the first row that could not be read.
    missing: {label: kept rows without it}, where some have none.
    longer: share of comparisons without a tie whose better answer has more
      tokens; None without comparisons.
    sizes: {"prompt", "better" and "worse", or "answer": QUANTILES of tokens}.
    files: {file: rows read}, where rows are of files.
  """

  kind: str
  rows: int
  kept: int
  overlong: int
  bad: int
  equal: int
  duplicates: int
  contradicting: int
  other_split: int
  blank: int
  comparisons: int
  ties: int
  balance: Mapping[str, tuple[int, float]]
  length: Mapping[str, Length]
  longest_prompt: int
  longest_answer: int
  first_bad: str = ""
  missing: Mapping[str, int] = {}
  longer: float | None = None
  sizes: Mapping[str, Sequence[float]] = {}
  files: Mapping[str, int] = {}

  def line(self, name: str) -> str:
    """The counts in one line."""
    compared = f"{self.comparisons} comparisons, {self.ties} ties, "
    return (
      f"{name}: {self.kept} of {self.rows} {self.kind} ("
      + compared * bool(self.comparisons)
      + f"{self.overlong} over-long dropped, {self.bad} unreadable dropped,"
      f" {self.equal} with equal answers, {self.duplicates} duplicates,"
      f" {self.contradicting} contradicting, {self.blank} with a blank answer,"
      f" {self.other_split} in the other split, longest prompt"
      f" {self.longest_prompt}, answer {self.longest_answer} tokens)"
    )

  def lines(self, name: str) -> list[str]:
    """For the banner of a run: counts, balance, length, warnings."""
    out = [self.line(name)]
    if len(self.files) > 1:
      each = ", ".join(f"{k} {n}" for k, n in self.files.items())
      out.append(f"  rows of each file: {each}")
    for k, n in self.missing.items():
      out.append(f"  {k}: missing in {n} of {self.kept} rows")
    for k, (count, mean) in self.balance.items():
      out.append(f"  {k}: {count} with mean {mean:.3g}")
    for k, n in self.length.items():
      out.append(
        f"  length by {k}: better {n.better:.1f}, worse {n.worse:.1f} tokens,"
        f" AUROC {n.auroc:.3f} +- {n.error:.3f}"
      )
    if self.longer is not None:
      out.append(f"  the better answer is longer in {100 * self.longer:.1f}%")
    cuts = ", ".join(f"{100 * q:g}" for q in QUANTILES)
    for k, found in self.sizes.items():
      each = ", ".join(f"{x:g}" for x in found)
      out.append(f"  tokens, {k}: {each} at {cuts}%")
    return out + [f"  WARNING: {w}" for w in self.warnings()]

  def warnings(self) -> list[str]:
    """What to look at before training."""
    out = []
    for k, n in self.length.items():
      if n.tells:
        longer = "longer" if n.auroc > 0.5 else "shorter"
        out.append(
          f"length alone predicts {k} with AUROC {n.auroc:.3f}: the {longer}"
          " answer is usually the better one, and a model can learn just that"
        )
    for k, (count, mean) in self.balance.items():
      if self.kind == "labelled answers" and mean in (0, 1):
        out.append(f"all {count} labels {k!r} are {mean:g}")
    for count, what in (
      (self.contradicting, "comparisons or labels are contradicted by others"),
      (self.duplicates, "rows came before and count twice"),
      (self.equal, "rows have two answers that are the same"),
      (self.overlong, "rows are over-long and were left out"),
    ):
      if count:
        out.append(f"{count} {what}")
    if self.bad:
      out.append(f"{self.bad} rows are unreadable; first: {self.first_bad}")
    return out

  def plain(self) -> dict[str, Any]:
    """Itself as dicts and lists, for JSON; not-a-number is null."""
    length = {k: v._asdict() for k, v in self.length.items()}
    balance = {
      k: {"count": n, "mean": m if math.isfinite(m) else None}
      for k, (n, m) in self.balance.items()
    }
    found = {**self._asdict(), "balance": balance, "length": length}
    return {**found, "warnings": self.warnings()}


class Tally:
  """Counts kept entries one by one."""

  def __init__(self):
    self.seen: set[bytes] = set()
    self.duplicates = self.comparisons = self.ties = self.blank = 0
    self.judged: dict[bytes, set[bool]] = {}
    self.sides: list[tuple[int, int]] = []
    self.ordered = 0
    self.first: dict[str, list[float]] = {}
    self.single: dict[str, list[tuple[int, float]]] = {}
    self.missing: dict[str, int] = {}
    self.asked: list[int] = []
    self.alone: list[int] = []

  def add(self, e: Entry, placed: bool) -> None:
    """Counts one entry.

    Args:
      e: kept.
      placed: the order of its answers is the data's own.
    """
    said = [_key(a[0]) for a in e.answers]
    size = [len(a[0]) for a in e.answers]
    prompt = _key(e.prompt)
    self.asked.append(len(e.prompt))
    self.blank += e.blank
    facts = repr(sorted(zip(said, e.order or [0] * len(said), strict=True)))
    whole = _key([prompt, facts, repr(sorted(e.values.items()))])
    self.duplicates += whole in self.seen
    self.seen.add(whole)
    before = len(self.sides)
    for i in range(len(e.order)):
      for j in range(i + 1, len(e.order)):
        gain = e.order[i] - e.order[j]
        self.comparisons += 1
        self.ties += gain == 0
        if gain == 0 or said[i] == said[j]:
          continue
        best, worst = (i, j) if gain > 0 else (j, i)
        self.sides.append((size[best], size[worst]))
        first = said[best] < said[worst]
        both = _key([prompt, *sorted((said[i], said[j]))])
        self.judged.setdefault(both, set()).add(first)
    self.ordered += len(self.sides) > before
    top = max(e.order, default=0)
    if placed and sum(o == top for o in e.order) == 1:
      for i, o in enumerate(e.order, 1):
        self.first.setdefault(f"answer {i} is best", []).append(o == top)
    if not e.order:
      self.alone.append(size[0])
    for k, v in e.values.items():
      self.missing[k] = self.missing.get(k, 0) + (not math.isfinite(v))
      if math.isfinite(v):
        self.single.setdefault(k, []).append((size[0], v))
        if v in (0, 1):
          self.judged.setdefault(_key([prompt, said[0], k]), set()).add(v == 1)

  @property
  def contradicting(self) -> int:
    """Comparisons and labels that are judged both ways."""
    return sum(len(v) > 1 for v in self.judged.values())

  def balance(self) -> dict[str, tuple[int, float]]:
    """{label: (how many have it, mean)}."""
    alone = {k: [v for _, v in found] for k, found in self.single.items()}
    every = {**self.first, **alone}
    return {k: (len(v), float(np.mean(v))) for k, v in sorted(every.items())}

  def found(self) -> dict[str, Any]:
    """The fields of a Census that are counted here, by name."""
    sides = np.asarray(self.sides, float).reshape(-1, 2)
    sizes = {"prompt": self.asked, "answer": self.alone,
             "better": sides[:, 0], "worse": sides[:, 1]}  # fmt: skip
    cuts = lambda x: [float(q) for q in np.quantile(x, QUANTILES)]
    return {
      "duplicates": self.duplicates,
      "contradicting": self.contradicting,
      "blank": self.blank,
      "comparisons": self.comparisons,
      "ties": self.ties,
      "balance": self.balance(),
      "length": self.length(),
      "missing": {k: n for k, n in self.missing.items() if n},
      "longer": float(np.mean(sides[:, 0] > sides[:, 1]))
      if len(sides)
      else None,
      "sizes": {k: cuts(v) for k, v in sizes.items() if len(v)},
    }

  def length(self) -> dict[str, Length]:
    """{label: how far length tells which is better}."""
    out = {}
    if self.sides:
      better, worse = np.asarray(self.sides, float).T
      auroc = np.mean((better > worse) + (better == worse) / 2)
      error = 0.5 / math.sqrt(self.ordered)
      means = (float(np.mean(better)), float(np.mean(worse)))
      out["order"] = Length(float(auroc), error, *means)
    for k, found in sorted(self.single.items()):
      size, value = np.asarray(found, float).T
      # Of more than two values, the upper half against the lower one.
      good = value > (0.5 if set(value) <= {0, 1} else np.median(value))
      if good.all() or not good.any():
        continue
      out[k] = Length(*auroc_of(size, good), size[good].mean(),
                      size[~good].mean())  # fmt: skip
    return out


def auroc_of(score: np.ndarray, good: np.ndarray) -> tuple[float, float]:
  """P(a good one scores higher than a bad one) + P(equal) / 2, and its error.

  The error is that of scores without any bearing, sqrt((m + n + 1) / 12 m n).

  Args:
    score: [N].
    good: bool[N], both kinds there.

  Reference: Mann and Whitney, 1947.
  """
  values, index, count = np.unique(
    score, return_inverse=True, return_counts=True
  )
  del values
  middle = np.cumsum(count) - (count - 1) / 2  # ranks from 1, equal ones share
  m, n = int(good.sum()), int((~good).sum())
  above = middle[index][good].sum() - m * (m + 1) / 2
  return float(above / (m * n)), math.sqrt((m + n + 1) / (12 * m * n))


def _key(parts: Sequence[Any]) -> bytes:
  return hashlib.blake2b(repr(list(parts)).encode(), digest_size=16).digest()
