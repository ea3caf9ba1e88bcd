"""Do two sets of verdicts agree: kappa, swapped orders, members, languages."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from rlreward.evals import agreement
from rlreward.evals.credit import Credit, Items, mean


def cohen_kappa(
  a: np.ndarray, b: np.ndarray, weight: np.ndarray | None = None
) -> float:
  """Agreement beyond chance: (p_o - p_e) / (1 - p_e).

  Args:
    a, b: [N], labels of any kind; NaN is no label, and its row enters nothing.
    weight: f64[N]; None counts each row once.

  Returns:
    At most 1; where both are constant (p_e = 1) 1 if equal, else 0; NaN where
    nothing is left.

  Reference: Cohen 1960.
  """
  a, b = np.asarray(a), np.asarray(b)
  w = np.ones(len(a)) if weight is None else np.asarray(weight, float)
  known = (a == a) & (b == b) & (w > 0)
  if not known.any():
    return float("nan")
  a, b, w = a[known], b[known], w[known] / w[known].sum()
  kinds = np.unique(np.concatenate([a, b]))
  share = lambda x: np.asarray([w[x == k].sum() for k in kinds])
  seen, chance = float(w[a == b].sum()), float(share(a) @ share(b))
  if math.isclose(chance, 1):
    return float(np.all(a == b))
  return (seen - chance) / (1 - chance)


def drift(
  items: Items, earned: Credit, base: str = "en"
) -> Callable[[np.ndarray], dict[str, float]]:
  """How often a model prefers the same side in another language.

  Choices are compared on the items of one id: 1 where the right answer is
  preferred, 0 where the wrong one is, 1/2 at a tie, which is a label of its
  own.

  Args:
    items: with ids and languages.
    earned: of pairs; a tie is told by `tied`.
    base: the language that the others are compared with, or how its code
      begins (eng_Latn).

  Returns:
    weight f64[N] -> {"kappa/<language>", "kappa": their mean, "kappa_std":
    population, "gap/<language>": accuracy in `base` less that in the language,
    on the ids that both have}; {} without `base`.

  Reference: M-RewardBench, arXiv 2410.15522.
  """
  names = list(dict.fromkeys(map(str, items.language)))
  start = [n for n in names if n.lower().startswith(base)]
  choice = np.where(earned.tied, 0.5, earned.value)

  def column(name: str) -> dict[tuple[str, str], int]:
    rows = np.flatnonzero((items.language == name) & earned.judged)
    return {(str(items.group[r]), str(items.id[r])): int(r) for r in rows}

  first = column(start[0]) if start else {}
  pairs: dict[str, np.ndarray] = {}
  for name in names if start else []:
    other = column(name) if name != start[0] else {}
    both = [(first[k], other[k]) for k in first if k in other]
    if both:
      pairs[name] = np.asarray(both).T

  def measure(weight: np.ndarray) -> dict[str, float]:
    kappa = {
      f"kappa/{n}": cohen_kappa(choice[a], choice[b], weight[a])
      for n, (a, b) in pairs.items()
    }
    gap = {
      f"gap/{n}": mean(earned.value[a] - earned.value[b], weight[a])
      for n, (a, b) in pairs.items()
    }
    known = [v for v in kappa.values() if v == v]
    if not known:
      return {}
    both = {"kappa": float(np.mean(known)), "kappa_std": float(np.std(known))}
    return {**kappa, **both, **gap}

  return measure


def swap(
  first: np.ndarray, second: np.ndarray, truth: np.ndarray | None = None
) -> dict[str, Any]:
  """A judge that saw each pair in both orders.

  Args:
    first: f64[N], verdicts with the pair as given: 1 the first answer, 0 the
      second, 1/2 a tie; NaN where the verdict cannot be read.
    second: f64[N], verdicts with the two exchanged, named by where the answer
      then stood: a judge that follows content has second = 1 - first.
    truth: f64[N], 1 where the first answer as given is the better one, 0 where
      the other is; None where unknown.

  Returns:
    {"pairs", "judged", "abstained": counts, "consistent": share of the judged
    that name the same answer twice, "prefers_first": mean verdict for the place
    (1/2 has no bias); with `truth` "accuracy": mean of both orders, ties half,
    and "strict": share that is right in both orders}; None where nothing was
    judged.
  """
  first, second = np.asarray(first, float), np.asarray(second, float)
  known = np.isfinite(first) & np.isfinite(second)
  a, b = first[known], 1 - second[known]
  share = lambda x: float(np.mean(x)) if known.any() else None
  out = {
    "pairs": len(first),
    "judged": int(known.sum()),
    "abstained": int((~known).sum()),
    "consistent": share(a == b),
    "prefers_first": share((a + 1 - b) / 2),
  }
  if truth is None:
    return out
  t = np.asarray(truth, float)[known]
  out["accuracy"] = share(1 - (np.abs(a - t) + np.abs(b - t)) / 2)
  out["strict"] = share((a == t) & (b == t))
  return out


def agree(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
  """Two judges on the same pairs.

  Args:
    a, b: f64[N], 1, 0 or 1/2 for a tie; NaN where there is no verdict.

  Returns:
    {"judged", "share": equal verdicts, "half": the same where a tie of one
    side alone counts 1/2, "kappa"}.
  """
  a, b = np.asarray(a, float), np.asarray(b, float)
  known = np.isfinite(a) & np.isfinite(b)
  a, b = a[known], b[known]
  if not known.any():
    return {"judged": 0, "share": None, "half": None, "kappa": None}
  return {
    "judged": len(a),
    "share": float(np.mean(a == b)),
    "half": float(np.mean(1 - np.abs(a - b))),
    "kappa": cohen_kappa(a, b),
  }


def members(reward_KxBxN: np.ndarray) -> dict[str, Any]:
  """Do the members of an ensemble rank the samples of a prompt alike?

  Args:
    reward_KxBxN: K members, B prompts, N samples; NaN is no judgement.

  Returns:
    {"spearman": [K][K], mean over prompts of the rank correlation of two
    members, "mean": over pairs of members}; NaN where a pair never both vary.

  Reference: Helping or Herding, arXiv 2312.09244.
  """
  k, prompts, _ = reward_KxBxN.shape
  table = np.full((k, k), np.nan)
  for i in range(k):
    for j in range(i, k):
      found = []
      for b in range(prompts):
        x, y = reward_KxBxN[i, b], reward_KxBxN[j, b]
        seen = np.isfinite(x) & np.isfinite(y)
        rho = agreement.spearman(x[seen], y[seen])
        found += [] if rho is None else [rho]
      if found:
        table[i, j] = table[j, i] = float(np.mean(found))
  apart = table[~np.eye(k, dtype=bool)]
  apart = apart[~np.isnan(apart)]
  both = float(np.mean(apart)) if apart.size else float("nan")
  return {"spearman": table.tolist(), "mean": both}
