"""One runner for the benchmarks of reward models.

Scores in, the table of a benchmark out: accuracy per subset with its interval,
sections, total, and what a mean does not say. Equal scores earn what the
benchmark's rule says (it is part of the result). An item whose scores are not
all finite is an abstention: it is counted apart and is neither won nor lost;
`floor` says what the score is if abstentions were lost.

Reference: RewardBench, arXiv 2403.13787; RewardBench 2, arXiv 2506.01937.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlreward.errors import UserError
from rlreward.evals import benchmarks, credit, intervals, special
from rlreward.evals import spec as spec_lib
from rlreward.evals.credit import Credit, Items
from rlreward.evals.spec import Measure, Spec


def pick(name: str) -> Spec:
  """The spec of this name.

  Raises:
    UserError: there is none.
  """
  if name in benchmarks.SPECS:
    return benchmarks.SPECS[name]
  raise UserError(
    f"there is no spec {name!r}",
    "it says what an item earns and how subsets add up",
    f"use one of: {', '.join(benchmarks.SPECS)}",
  )


def evaluate(
  scores: np.ndarray,
  valid: np.ndarray,
  num_correct: Sequence[int] | np.ndarray,
  group: Sequence[str] | np.ndarray,
  weight: Sequence[float] | np.ndarray | None = None,
  spec: Spec | str = "pairs",
  *,
  ids: Sequence[str] | np.ndarray | None = None,
  language: Sequence[str] | np.ndarray | None = None,
  style: Sequence[str] | np.ndarray | None = None,
  resamples: int = 1000,
  seed: int = 0,
  level: float = 0.95,
) -> dict[str, Any]:
  """Runs a benchmark over scored items.

  Args:
    scores: f[N, K], the right candidates first; NaN or infinite is no score.
    valid: bool[N, K], candidates that exist; the rest is padding.
    num_correct: i[N], how many from the left are right.
    group: [N], names of subsets.
    weight: f[N], of items within their subset; None counts each once.
    spec: a benchmark, or its name.
    ids: [N], prompts; items of one prompt are drawn together by the bootstrap,
      and languages are compared on it. None: each item is a prompt.
    language: [N], codes; M-RewardBench only.
    style: [N], hard, normal or easy; RM-Bench given as pairs only.
    resamples: of the bootstrap; 0 leaves its intervals out.
    seed: of the bootstrap.
    level: coverage of the intervals.

  Returns:
    Plain numbers: {"spec", "ties": the rule in words, "level", "items",
    "judged", "abstained", "tied", "subsets": {name: {"items", "judged",
    "abstained", "tied", "accuracy", "low", "high", "interval": "wilson" or
    "bootstrap", "floor"}}, "sections", "total", "micro", "extra":
    {name: {"value", "low", "high"}}, "missing": [sections without items]}.
    Wilson's interval where credits are 0 or 1, weights equal and prompts
    apart; the bootstrap elsewhere, whose width is 0 where every item earned
    the same. None stands for NaN.

  Raises:
    UserError: items without a right or a wrong candidate, subsets that the
      benchmark does not have.

  Reference: see the module.
  """
  spec = pick(spec) if isinstance(spec, str) else spec
  items = credit.make(
    scores, valid, num_correct, group, weight, ids, language, style
  )
  for name in dict.fromkeys(map(str, items.group)):
    spec_lib.find_section(name, spec)
  earned = spec.rule(items)
  clusters = np.asarray([spec.cluster(str(i)) for i in items.id])
  strata = items.group
  if spec.special is special.ties:
    strata = np.asarray([spec.section(str(g)) for g in items.group])

  measure = _measure(items, earned, spec)
  value = measure(np.ones(len(items.group)))
  bands = intervals.bootstrap(measure, strata, clusters, resamples, seed, level)
  entry = lambda name: {
    "value": _plain(value[name]),
    "low": _plain(bands.get(name, (np.nan, np.nan))[0]),
    "high": _plain(bands.get(name, (np.nan, np.nan))[1]),
  }
  named = ("section/", "subset/")
  found = [n.removeprefix("section/") for n in value if n.startswith(named[0])]
  count = lambda x: int(np.sum(x))
  return {
    "spec": spec.name,
    "ties": spec.ties,
    "level": level,
    "items": len(items.group),
    "judged": count(earned.judged),
    "abstained": count(~earned.judged),
    "tied": count(earned.tied),
    "subsets": {
      name: _subset(name, items, earned, clusters, bands, level)
      for name in dict.fromkeys(map(str, items.group))
    },
    "sections": {n: entry(f"section/{n}") for n in found},
    "total": entry("total"),
    "micro": entry("micro"),
    "extra": {
      n: entry(n)
      for n in value
      if not n.startswith(named) and n not in ("total", "micro")
    },
    "missing": [s for s in spec.sections if s not in found],
  }


def _measure(items: Items, earned: Credit, spec: Spec) -> Measure:
  """Draws of each item -> every number of a benchmark, by name."""
  more = spec.special(items, earned, spec) if spec.special else None

  def measure(times: np.ndarray) -> dict[str, float]:
    weight = items.weight * times
    means, sizes = spec_lib.subset_means(items, earned.value, weight)
    out = spec_lib.combine(means, sizes, spec)
    extra = more(weight) if more else {}
    out |= extra
    if "total" not in extra:
      parts = [v for k, v in out.items() if k.startswith("section/")]
      out["total"] = float(np.mean(parts)) if parts else float("nan")
    return {**out, **{f"subset/{k}": v for k, v in means.items()}}

  return measure


def _subset(
  name: str,
  items: Items,
  earned: Credit,
  clusters: np.ndarray,
  bands: dict[str, tuple[float, float]],
  level: float,
) -> dict[str, Any]:
  """The row of one subset."""
  at = items.group == name
  value, weight = earned.value[at], items.weight[at]
  known = earned.judged[at]
  mean = credit.mean(value, weight)
  whole = np.all(np.isin(value[known], (0.0, 1.0)))
  even = np.ptp(weight) == 0 and weight[0] > 0
  apart = len(set(clusters[at])) == len(value)
  kind = "wilson" if whole and even and apart else "bootstrap"
  low, high = bands.get(f"subset/{name}", (np.nan, np.nan))
  if kind == "wilson":
    low, high = intervals.wilson(
      float(np.sum(value[known])), int(known.sum()), level
    )
  return {
    "items": len(value),
    "judged": int(known.sum()),
    "abstained": int((~known).sum()),
    "tied": int(earned.tied[at].sum()),
    "accuracy": _plain(mean),
    "low": _plain(low),
    "high": _plain(high),
    "interval": kind,
    "floor": _plain(credit.mean(np.nan_to_num(value), weight)),
  }


def _plain(x: float) -> float | None:
  return float(x) if np.isfinite(x) else None
