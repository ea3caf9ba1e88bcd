"""What a benchmark is, and how subsets add up to sections and a total."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from rlreward.errors import UserError
from rlreward.evals.credit import Credit, Items

Measure = Callable[[np.ndarray], dict[str, float]]


class Spec(NamedTuple):
  """A benchmark.

  Attributes:
    name: as in --spec.
    rule: Items -> Credit.
    ties: what equal scores earn, in words.
    section: subset -> its section, None where the benchmark has no such.
    sections: those that a whole run has; empty where any may be.
    counts: items of a subset as the benchmark counts them; where a subset has
      none here, the weights of its items are summed.
    within: "items" weighs the subsets of a section by their counts, "subsets"
      counts each once.
    special: (Items, Credit, Spec) -> (weight f64[N] -> numbers by name that a
      mean does not say); "section/<name>" among them takes the place of a
      section's mean, "total" that of the total.
    cluster: id of an item -> what is drawn together with it.
  """

  name: str
  rule: Callable[[Items], Credit]
  ties: str
  section: Callable[[str], str | None]
  sections: tuple[str, ...] = ()
  counts: Mapping[str, float] = {}
  within: str = "items"
  special: Callable[[Items, Credit, Any], Measure] | None = None
  cluster: Callable[[str], str] = str


def combine(
  subset: Mapping[str, float], size: Mapping[str, float], spec: Spec
) -> dict[str, float]:
  """Scores of subsets -> those of sections, and the total.

    section = sum_s n_s a_s / sum_s n_s,  total = mean over sections

  Args:
    subset: {name: score}; those that are NaN do not count.
    size: {name: weight}, used where `spec.counts` has none.
    spec: the benchmark.

  Returns:
    {"section/<name>", "total": unweighted mean of the sections, "micro": mean
    weighted by `size` alone}.

  Raises:
    UserError: a subset that the benchmark does not have.
  """
  rows: dict[str, list[tuple[float, float]]] = {}
  every: list[tuple[float, float]] = []
  for name, value in subset.items():
    section = find_section(name, spec)
    plain = float(size.get(name, 1.0))
    if np.isnan(value):
      continue
    weight = 1.0 if spec.within == "subsets" else spec.counts.get(name, plain)
    rows.setdefault(section, []).append((value, weight))
    every.append((value, plain))
  out = {f"section/{k}": _weighted(v) for k, v in rows.items()}
  order = {f"section/{s}": i for i, s in enumerate(spec.sections)}
  out = dict(sorted(out.items(), key=lambda x: order.get(x[0], len(order))))
  total = float(np.mean(list(out.values()))) if out else np.nan
  return {**out, "total": total, "micro": _weighted(every)}


def _weighted(rows: list[tuple[float, float]]) -> float:
  total = sum(w for _, w in rows)
  return sum(v * w for v, w in rows) / total if total else float("nan")


def find_section(subset: str, spec: Spec) -> str:
  """The section of a subset.

  Args:
    subset: its name.
    spec: the benchmark.

  Returns:
    A name.

  Raises:
    UserError: none has it; a subset that is passed over would raise the score
      in silence.
  """
  found = spec.section(subset)
  if found is not None:
    return found
  known = [*spec.counts, *spec.sections]
  near = difflib.get_close_matches(subset, known, 1)
  raise UserError(
    f"{spec.name} has no subset {subset!r}",
    "its sections and their weights are fixed, and nothing is passed over",
    f"write {near[0]!r}" if near
    else f"use one of: {', '.join(known[:8])}, ...; or --spec=pairs",
  )  # fmt: skip


def cell_means(
  items: Items, value: np.ndarray, weight: np.ndarray
) -> dict[tuple[str, str], tuple[float, float]]:
  """{(language, subset): (mean of what was judged, its weight)}.

  Args:
    items: N of them.
    value: f64[N], NaN where abstained.
    weight: f64[N].

  Returns:
    NaN where nothing was judged.
  """
  w = np.where(np.isnan(value), 0, weight)
  size = np.bincount(items.cell, w, len(items.cells))
  total = np.bincount(items.cell, w * np.nan_to_num(value), len(items.cells))
  with np.errstate(invalid="ignore"):
    mean = total / size
  rows = zip(items.cells, mean.tolist(), size.tolist(), strict=True)
  return {cell: (m, n) for cell, m, n in rows}


def subset_means(
  items: Items, value: np.ndarray, weight: np.ndarray
) -> tuple[dict[str, float], dict[str, float]]:
  """({subset: mean of what was judged}, {subset: its weight}), all languages.

  Args, Returns: as `cell_means`.
  """
  sums: dict[str, tuple[float, float]] = {}
  for (_, name), (m, n) in cell_means(items, value, weight).items():
    total, size = sums.get(name, (0.0, 0.0))
    sums[name] = (total + (m * n if n else 0.0), size + n)
  means = {k: t / n if n else float("nan") for k, (t, n) in sums.items()}
  return means, {k: n for k, (_, n) in sums.items()}
