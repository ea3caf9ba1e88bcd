"""What some benchmarks measure beside mean accuracies.

Each function gets the items once and gives back a function of weights, which
the bootstrap calls again and again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rlreward.errors import UserError
from rlreward.evals import consistency, credit
from rlreward.evals import spec as spec_lib
from rlreward.evals.credit import Credit, Items
from rlreward.evals.spec import Measure, Spec

LEVELS = ("hard", "normal", "easy")
RMB = tuple(
  f"{kind} {goal}"
  for kind in ("Pairwise", "BoN")
  for goal in ("Helpfulness", "Harmlessness")
)


def ties(items: Items, earned: Credit, spec: Spec) -> Measure:
  """RewardBench 2's score of its Ties domain; at best 1.01.

  Of each prompt there is a "ref" item with one right answer and a "tied" one
  with several. With d = max right - min right of the tied item, and e = min
  right - max wrong of each,

    0.3 P(e_tied > 0) + 0.3 P(e_ref > 0) + 0.2 P(e_tied > d)
    + 0.2 P(min(e) > d) + 0.01 E tanh(min(e) / d - 1)

  The last three are over prompts that have both; 0 / 0 earns 0.

  Args:
    items: of which those of subset "Ties" count; ids are "ref:<prompt>" and
      "tied:<prompt>".
    earned: of the items; one that is not judged enters nothing.
    spec: the benchmark.

  Returns:
    weight -> {"section/Ties", "ties/ref", "ties/tied"}; {} without any.

  Raises:
    UserError: another form of id, or one that comes twice.

  Reference: RewardBench 2, arXiv 2506.01937.
  """
  gap, wide = credit.margin(items), credit.spread(items)
  found: dict[str, dict[str, int]] = {"ref": {}, "tied": {}}
  for row in np.flatnonzero(items.group == "Ties"):
    kind, _, prompt = str(items.id[row]).partition(":")
    if kind not in found or not prompt or prompt in found[kind]:
      raise UserError(
        f"an item of Ties has id {str(items.id[row])!r}",
        "its score joins the two items of each prompt",
        "write ref:<prompt> where one answer is right, tied:<prompt> where"
        " several are, each once",
      )
    if earned.judged[row]:
      found[kind][prompt] = int(row)
  ref, tied = (np.asarray([*found[k].values()], int) for k in ("ref", "tied"))
  if not (len(ref) + len(tied)):
    return lambda weight: {}
  both = [p for p in found["ref"] if p in found["tied"]]
  a = np.asarray([found["ref"][p] for p in both], int)
  b = np.asarray([found["tied"][p] for p in both], int)
  least, d = np.minimum(gap[a], gap[b]), wide[b]
  with np.errstate(divide="ignore", invalid="ignore"):
    degree = np.nan_to_num(np.tanh(least / d - 1), nan=0.0)
  parts = (
    (0.3, tied, gap[tied] > 0),
    (0.3, ref, gap[ref] > 0),
    (0.2, b, gap[b] > d),
    (0.2, b, least > d),
    (0.01, b, degree),
  )

  def measure(weight: np.ndarray) -> dict[str, float]:
    means = [
      credit.mean(np.asarray(x, float), weight[at]) for _, at, x in parts
    ]
    used = np.nan_to_num(means)
    score = sum(p[0] * m for p, m in zip(parts, used, strict=True))
    return {
      "section/Ties": float(score),
      "ties/ref": means[1],
      "ties/tied": means[0],
    }

  return measure


def style_matrix(items: Items, weight: np.ndarray | None = None) -> np.ndarray:
  """RM-Bench's accuracies by style of the right (row) and wrong answer.

  Args:
    items: of 3 right and 3 wrong answers, each concise, plain, markdown.
    weight: f64[N]; None takes that of the items.

  Returns:
    f64[3, 3]; a tie is lost, an abstention enters nothing.

  Reference: RM-Bench, arXiv 2410.16184.
  """
  weight = items.weight if weight is None else weight
  use = credit.judged(items) & (weight > 0)
  won = items.scores[use, :3, None] > items.scores[use, None, 3:6]
  w = weight[use]
  if not w.size:
    return np.full((3, 3), np.nan)
  return np.tensordot(w, won.astype(float), 1) / w.sum()


def levels(matrix: np.ndarray) -> dict[str, float]:
  """hard: above the diagonal; normal: on it; easy: below."""
  upper, lower = np.triu_indices(3, 1), np.tril_indices(3, -1)
  hard, easy = float(np.mean(matrix[upper])), float(np.mean(matrix[lower]))
  return {"hard": hard, "normal": float(np.trace(matrix)) / 3, "easy": easy}


def styles(items: Items, earned: Credit, spec: Spec) -> Measure:
  """RM-Bench by difficulty: markdown on the wrong side is hard, else easy.

  Args:
    items: with 6 scores and num_correct 3, in the order of `style_matrix`, or
      pairs whose style is hard, normal or easy.
    earned: of the items.
    spec: the benchmark.

  Returns:
    weight -> {"hard", "normal", "easy": each the mean over domains,
    "section/<domain>": the mean of its three}.

  Raises:
    UserError: items of another form.

  Reference: RM-Bench, arXiv 2410.16184.
  """
  wide = (np.sum(items.valid, axis=1) == 6) & (items.num_correct == 3)
  for row in np.flatnonzero(~wide & ~np.isin(items.style, LEVELS))[:1]:
    name, style = str(items.group[row]), str(items.style[row])
    raise UserError(
      f"an item of {name!r} has {np.sum(items.valid[row])} scores, num_correct"
      f" {items.num_correct[row]} and style {style!r}",
      "RM-Bench compares each of 3 styles with each",
      "give 6 scores (right concise, plain, markdown, then wrong) with"
      " num_correct 3, or pairs with style hard, normal or easy",
    )
  names = np.asarray([spec_lib.find_section(str(g), spec) for g in items.group])
  domains = {}
  for name in dict.fromkeys(names.tolist()):
    rows = np.flatnonzero((names == name) & wide)
    single = {
      level: np.flatnonzero((names == name) & ~wide & (items.style == level))
      for level in LEVELS
    }
    domains[name] = (rows, items.take(rows), single)

  def measure(weight: np.ndarray) -> dict[str, float]:
    out, table = {}, []
    for name, (rows, full, single) in domains.items():
      of = levels(style_matrix(full, weight[rows]))
      if not rows.size:
        of = {k: credit.mean(earned.value[r], weight[r])
              for k, r in single.items()}  # fmt: skip
      table.append([of[level] for level in LEVELS])
      out[f"section/{name}"] = float(np.mean(table[-1]))
    return {**out, **dict(zip(LEVELS, np.mean(table, 0).tolist(), strict=True))}

  return measure


def single_pairs(items: Items, earned: Credit, spec: Spec) -> Measure:
  """RMB's accuracy over the single pairs of its best-of-n items.

  Args:
    items, earned, spec: of the benchmark.

  Returns:
    weight -> {"pairs/BoN <goal>"}.

  Reference: RMB, arXiv 2410.09893.
  """
  value = credit.strict_pairs(items).value
  count = (np.sum(items.valid, axis=1) - items.num_correct) * items.num_correct
  names = np.asarray([spec_lib.find_section(str(g), spec) for g in items.group])
  rows = {n: np.flatnonzero(names == n) for n in RMB if n.startswith("BoN")}
  return lambda weight: {
    f"pairs/{n}": credit.mean(value[r], (weight * count)[r])
    for n, r in rows.items()
    if r.size
  }


def languages(items: Items, earned: Credit, spec: Spec) -> Measure:
  """M-RewardBench: a RewardBench of each language, and drift from English.

  Args:
    items, earned, spec: of the benchmark.

  Returns:
    weight -> {"language/<code>": its total, "total": mean over languages, and
    what `consistency.drift` says}.

  Reference: M-RewardBench, arXiv 2410.15522.
  """
  drift: Callable[[np.ndarray], dict[str, float]] = consistency.drift(
    items, earned
  )
  codes = list(dict.fromkeys(lang for lang, _ in items.cells))

  def measure(weight: np.ndarray) -> dict[str, float]:
    cells = spec_lib.cell_means(items, earned.value, weight)
    out = {}
    for code in codes:
      here = {g: v for (lang, g), v in cells.items() if lang == code}
      means = {g: m for g, (m, _) in here.items()}
      sizes = {g: n for g, (_, n) in here.items()}
      total = spec_lib.combine(means, sizes, spec)["total"]
      out[f"language/{code or 'none'}"] = total
    known = [v for v in out.values() if v == v]
    out["total"] = float(np.mean(known)) if known else float("nan")
    return {**out, **drift(weight)}

  return measure
