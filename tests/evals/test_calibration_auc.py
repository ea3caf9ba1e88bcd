"""AUROC, PR-AUC and calibration against pairs, loops and closed forms."""

import itertools
import math

import numpy as np
import paths
import pytest

from rlreward.evals import calibration, sources


def scores(seed=0, p=60, n=80):
  """Coarse scores, so that many are equal, some NaN."""
  rng = np.random.default_rng(seed)
  a, b = rng.integers(0, 8, p) + 1.0, rng.integers(0, 8, n) * 1.0
  a[::17], b[::13] = np.nan, np.nan
  return a, b


def test_auroc_equals_all_pairs_and_scipy():
  a, b = scores()
  x, y = a[~np.isnan(a)], b[~np.isnan(b)]
  pairs = [(p > n) + (p == n) / 2 for p, n in itertools.product(x, y)]
  found = calibration.auroc(a, b)
  assert found == pytest.approx(np.mean(pairs), abs=1e-15)
  assert calibration.auroc(b, a) == pytest.approx(1 - found, abs=1e-15)
  assert calibration.auroc(np.zeros(3), np.zeros(4)) == 0.5
  assert math.isnan(calibration.auroc([], [1.0]))
  fpr, tpr = calibration.roc(a, b)
  # The trapezium below the points with ties joined is the same area.
  assert np.trapezoid(tpr, fpr) == pytest.approx(found, abs=1e-12)
  stats = pytest.importorskip("scipy.stats")
  u = stats.mannwhitneyu(x, y).statistic
  assert found == pytest.approx(u / (x.size * y.size), abs=1e-12)


def test_average_precision_equals_a_walk_down_the_ranking():
  a, b = scores(1)
  x, y = a[~np.isnan(a)], b[~np.isnan(b)]
  want, last = 0.0, 0.0
  for cut in sorted({*x, *y}, reverse=True):
    tp, fp = np.sum(x >= cut), np.sum(y >= cut)
    want += (tp / x.size - last) * tp / (tp + fp)
    last = tp / x.size
  found = calibration.average_precision(a, b)
  assert found == pytest.approx(want, abs=1e-15)
  # The example of scikit-learn's manual: labels 0 0 1 1.
  assert calibration.average_precision(
    [0.35, 0.8], [0.1, 0.4]
  ) == pytest.approx(0.8333333333)
  assert calibration.auroc([0.35, 0.8], [0.1, 0.4]) == 0.75
  flat = calibration.average_precision(np.zeros(20), np.zeros(60))
  assert flat == 0.25  # equal scores earn chance, whatever their order


def test_rate_at_a_false_positive_rate():
  a, b = np.asarray([9.0, 8, 3, 1]), np.asarray([7.0, 2, 0, 0])
  assert calibration.tpr_at_fpr(a, b, 0.0) == 0.5
  assert calibration.tpr_at_fpr(a, b, 0.25) == 0.75
  assert calibration.tpr_at_fpr(b, b, 0.0) == 0.0


@pytest.mark.parametrize("n", [2, 4, 16])
def test_best_of_n_text_has_a_known_auroc(n):
  rng = np.random.default_rng(n)
  best = rng.normal(size=(20000, n)).max(1)
  base = rng.normal(size=20000)
  # Closed form n / (n + 1); standard error below 0.003.
  found = calibration.auroc(best, base)
  assert found == pytest.approx(n / (n + 1), abs=0.012)


def test_detection_counts_abstentions():
  a, b = scores()
  out = calibration.detection(a, b)
  assert out["abstained"] == np.isnan(a).sum() + np.isnan(b).sum()
  assert out["positives"] + out["negatives"] + out["abstained"] == 140
  assert calibration.detection(a, [np.nan])["auroc"] is None


def test_real_rewards_detect_correct_solutions():
  folder = paths.shared_data("best_of_n_math")
  data = sources.load_graded(folder / "math_cot_100.jsonl.gz")
  right, wrong = data.reward[data.correct], data.reward[~data.correct]
  assert (right.size, wrong.size) == (728, 72)
  diff = right[:, None] - wrong[None]
  want = np.mean((diff > 0) + (diff == 0) / 2)
  assert (diff == 0).any()  # rewards come in steps of bfloat16
  assert calibration.auroc(right, wrong) == pytest.approx(want, abs=1e-14)


def test_calibration_equals_loops_and_tells_abstentions():
  rng = np.random.default_rng(2)
  p = rng.random(500)
  y = (rng.random(500) < p**2).astype(float)
  p[::50] = np.nan
  out = calibration.calibration(p, y, bins=7)
  known = ~np.isnan(p)
  assert (out["count"], out["abstained"]) == (490, 10)
  ece = worst = 0.0
  for b in range(7):
    at = known & (p >= b / 7) & ((p < (b + 1) / 7) | (b == 6))
    gap = abs(p[at].mean() - y[at].mean())
    ece, worst = ece + at.sum() / 490 * gap, max(worst, gap)
  assert out["ece"] == pytest.approx(ece, abs=1e-12)
  assert out["max"] == pytest.approx(worst, abs=1e-12)
  q, z = p[known], y[known]
  assert out["brier"] == pytest.approx(np.mean((q - z) ** 2), abs=1e-12)
  want = -np.mean(np.log(np.where(z == 1, q, 1 - q)))
  assert out["nll"] == pytest.approx(want, abs=1e-12)
  assert calibration.calibration([1.0], [1.0])["nll"] == 0
  assert math.isinf(calibration.calibration([1.0], [0.0])["nll"])
  assert calibration.calibration([np.nan], [1.0])["ece"] is None


def test_bradley_terry_scores_are_calibrated_and_scaled_ones_are_not():
  rng = np.random.default_rng(3)
  gap = rng.normal(0, 1.5, 40000)
  won = rng.random(40000) < 1 / (1 + np.exp(-gap))
  chosen = np.where(won, gap, -gap)  # the margin from the chosen side
  zero = np.zeros_like(chosen)
  honest = calibration.pair_calibration(chosen, zero)
  loud = calibration.pair_calibration(3 * chosen, zero)
  # Standard error of a bin is below 0.01; three times the margin is too sure.
  assert honest["ece"] < 0.01 and abs(honest["overconfidence"]) < 0.01
  assert loud["overconfidence"] > 0.08
  assert calibration.pair_calibration(3 * chosen, zero, 1 / 3)["ece"] < 0.01
  assert honest["accuracy"] == loud["accuracy"] == np.mean(chosen > 0)
  tied = calibration.pair_calibration([1.0, 1, np.nan], [1.0, 0, 0])
  assert tied["accuracy"] == 0.75 and tied["abstained"] == 1


def test_gaps():
  rng = np.random.default_rng(4)
  real = rng.normal(size=4000)
  seen = 0.5 * real + 0.3 * rng.normal(size=4000)
  out = calibration.gap_calibration(seen, real)
  slope = 0.5 / (0.25 + 0.09)
  # Standard errors 0.014 and 0.005.
  assert out["slope"] == pytest.approx(slope, abs=0.06)
  rho = 0.5 / math.sqrt(0.34)
  assert out["correlation"] == pytest.approx(rho, abs=0.02)
  agree = [b["agree"] for b in out["bins"]]
  assert agree == sorted(agree) and sum(b["count"] for b in out["bins"]) == 4000
  assert calibration.gap_calibration([0, 0], [1, 2])["slope"] is None
  assert calibration.gap_calibration([0.0], [1.0], 1)["bins"][0]["agree"] == 0.5
