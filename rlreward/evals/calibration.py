"""Scores as detectors and as probabilities: AUROC, PR-AUC, calibration, gap.

NaN is no score: such rows enter nothing and are counted by the caller or, where
a function gives back a dict, under "abstained".
"""

from __future__ import annotations

from typing import Any

import numpy as np


def _seen(x: np.ndarray) -> np.ndarray:
  x = np.asarray(x, float).ravel()
  return x[~np.isnan(x)]


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
  """P(a positive scores above a negative), ties half; sorted, not by pairs.

    (#{p > n} + #{p = n} / 2) / (P N)

  Args:
    positive: f[P], scores of what is to be found.
    negative: f[N].

  Returns:
    In [0, 1], 1/2 for chance; NaN where one side is empty.

  Reference: ReMoDetect uses a reward so, arXiv 2405.17382.
  """
  p, n = _seen(positive), np.sort(_seen(negative))
  if not (p.size and n.size):
    return float("nan")
  below = np.searchsorted(n, p, "left") + np.searchsorted(n, p, "right")
  return float(np.sum(below) / 2 / (p.size * n.size))


def _cuts(
  positive: np.ndarray, negative: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """(true, false positives) at each distinct score from the top."""
  p, n = _seen(positive), _seen(negative)
  cuts = np.unique(np.concatenate([p, n]))[::-1]
  at_least = lambda x: x.size - np.searchsorted(np.sort(x), cuts, "left")
  return at_least(p), at_least(n)


def roc(
  positive: np.ndarray, negative: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The ROC curve: (false, true positive rate), one point for each score.

  Args:
    positive: f[P].
    negative: f[N].

  Returns:
    Two f64[C + 1] from (0, 0) to (1, 1); equal scores are one point.
  """
  tp, fp = _cuts(positive, negative)
  rate = lambda x: np.concatenate([[0.0], x / max(x[-1], 1)])
  return rate(fp), rate(tp)


def tpr_at_fpr(
  positive: np.ndarray, negative: np.ndarray, fpr: float = 0.01
) -> float:
  """The most positives that a threshold finds at no more than this FPR.

  Args:
    positive: f[P].
    negative: f[N].
    fpr: share of the negatives.

  Returns:
    A share; 0 where the top score is already shared by too many negatives.
  """
  false, true = roc(positive, negative)
  return float(np.max(true[false <= fpr + 1e-12]))


def average_precision(positive: np.ndarray, negative: np.ndarray) -> float:
  """PR-AUC as a step sum: sum_c (recall_c - recall_{c-1}) precision_c.

  Without interpolation between points, which would be too good; equal scores
  are one step, so their order cannot help.

  Args:
    positive: f[P].
    negative: f[N].

  Returns:
    In [0, 1]; chance is P / (P + N); NaN without positives.

  Reference: Davis and Goadrich 2006.
  """
  if not _seen(positive).size:
    return float("nan")
  tp, fp = _cuts(positive, negative)
  recall = np.concatenate([[0.0], tp / tp[-1]])
  return float(np.sum(np.diff(recall) * tp / (tp + fp)))


def detection(positive: np.ndarray, negative: np.ndarray) -> dict[str, Any]:
  """A reward as a detector.

  Args:
    positive: f[P], e.g. rewards of texts of language models.
    negative: f[N], of texts by people.

  Returns:
    {"positives", "negatives", "abstained": counts, "auroc",
    "average_precision", "tpr_at_1_percent"}.

  Reference: ReMoDetect, arXiv 2405.17382.
  """
  p, n = _seen(positive), _seen(negative)
  lost = np.size(positive) + np.size(negative) - p.size - n.size
  both = p.size and n.size
  return {
    "positives": int(p.size),
    "negatives": int(n.size),
    "abstained": int(lost),
    "auroc": auroc(p, n) if both else None,
    "average_precision": average_precision(p, n) if both else None,
    "tpr_at_1_percent": tpr_at_fpr(p, n) if both else None,
  }


def calibration(
  probability: np.ndarray, outcome: np.ndarray, bins: int = 10
) -> dict[str, Any]:
  """Does an event that is given probability p happen with frequency p?

    ECE = sum_b n_b / N |mean p_b - mean y_b|
    Brier = mean (p - y)^2,  NLL = -mean y log p + (1 - y) log(1 - p)

  Args:
    probability: f[N] in [0, 1]; NaN is no prediction.
    outcome: f[N] in [0, 1], what happened; 1/2 for a tie.
    bins: of equal width; the last one is closed.

  Returns:
    {"count", "abstained", "ece", "max": the largest gap of a bin, "brier",
    "nll": inf where a sure prediction fails, "bins": [{"low", "high", "count",
    "probability", "frequency"}]}, bins that hold something; None for what has
    no value.

  Reference: Guo et al., arXiv 1706.04599.
  """
  p, y = np.asarray(probability, float), np.asarray(outcome, float)
  known = ~(np.isnan(p) | np.isnan(y))
  out: dict[str, Any] = {
    "count": int(known.sum()),
    "abstained": int((~known).sum()),
  }
  p, y = p[known], y[known]
  if not p.size:
    none = dict.fromkeys(("ece", "max", "brier", "nll"))
    return {**out, **none, "bins": []}
  place = np.minimum((p * bins).astype(int), bins - 1)
  rows = []
  for b in np.unique(place):
    at = place == b
    rows.append(
      {
        "low": float(b / bins),
        "high": float((b + 1) / bins),
        "count": int(at.sum()),
        "probability": float(p[at].mean()),
        "frequency": float(y[at].mean()),
      }
    )
  gap = np.asarray([abs(r["probability"] - r["frequency"]) for r in rows])
  share = np.asarray([r["count"] for r in rows]) / p.size
  with np.errstate(divide="ignore", invalid="ignore"):
    yes = np.where(y > 0, y * np.log(p), 0)
    no = np.where(y < 1, (1 - y) * np.log1p(-p), 0)
  out |= {
    "ece": float(gap @ share),
    "max": float(gap.max()),
    "brier": float(np.mean((p - y) ** 2)),
    "nll": float(-np.mean(yes + no)),
  }
  return {**out, "bins": rows}


def pair_calibration(
  chosen: np.ndarray, rejected: np.ndarray, scale: float = 1.0, bins: int = 10
) -> dict[str, Any]:
  """Is sigmoid(scale (r_c - r_r)) the chance that the labels agree?

  Each pair is told from the side that the scores prefer, p = sigmoid(|gap|)
  against "the preferred one was chosen"; from the chosen side every outcome
  would be 1, and nothing could be uncalibrated from below.

  Args:
    chosen: f[N].
    rejected: f[N].
    scale: of the margin; a Bradley-Terry model has 1.
    bins: of [0, 1]; the lower half stays empty.

  Returns:
    As `calibration`, with "gap": mean margin r_c - r_r, "accuracy": ties half,
    and "overconfidence": mean p less accuracy.
  """
  gap = scale * (np.asarray(chosen, float) - np.asarray(rejected, float))
  p = 1 / (1 + np.exp(-np.abs(gap)))
  won = np.where(np.isnan(gap), np.nan, (np.sign(gap) + 1) / 2)
  out = calibration(np.where(np.isnan(gap), np.nan, p), won, bins)
  if not out["count"]:
    return {**out, "gap": None, "accuracy": None, "overconfidence": None}
  known = ~np.isnan(gap)
  accuracy = float(np.mean(won[known]))
  return {
    **out,
    "gap": float(np.mean(gap[known]) / scale),
    "accuracy": accuracy,
    "overconfidence": float(np.mean(p[known])) - accuracy,
  }


def gap_calibration(
  predicted: np.ndarray, actual: np.ndarray, bins: int = 5
) -> dict[str, Any]:
  """Does a larger predicted gap between two answers mean a larger real one?

  Args:
    predicted: f[N], gap of two answers by the scores, either sign.
    actual: f[N], by the labels, from the same side.
    bins: quantiles of |predicted|.

  Returns:
    {"count", "abstained", "slope": of least squares through 0 (1 has the right
    scale), "correlation": Pearson's, "bins": [{"count", "predicted", "actual",
    "agree": ties half}] from small to large gaps, each told from the predicted
    side}.

  Reference: writing-quality rewards compare gaps so, arXiv 2504.07532.
  """
  x, y = np.asarray(predicted, float), np.asarray(actual, float)
  known = np.isfinite(x) & np.isfinite(y)
  lost = int((~known).sum())
  x, y = x[known], y[known]
  side = np.where(x < 0, -1.0, 1.0)
  size, real = np.abs(x), side * y
  order = np.argsort(size, kind="stable")
  rows = [
    {
      "count": int(part.size),
      "predicted": float(size[part].mean()),
      "actual": float(real[part].mean()),
      "agree": float(np.mean(np.where(size[part] > 0, np.sign(real[part]), 0)
                             + 1) / 2),
    }
    for part in np.array_split(order, bins)
    if part.size
  ]  # fmt: skip
  vary = x.size > 1 and np.ptp(x) > 0 and np.ptp(y) > 0
  return {
    "count": int(x.size),
    "abstained": lost,
    "slope": float(x @ y / (x @ x)) if np.any(x) else None,
    "correlation": float(np.corrcoef(x, y)[0, 1]) if vary else None,
    "bins": rows,
  }
