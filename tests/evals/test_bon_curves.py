"""Curves over n against every subset, and against recorded ones."""

import itertools
import math

import numpy as np
import paths
import pytest

from rlreward import errors
from rlreward.evals import curves, sources


def pool(seed=0, prompts=6, n=6):
  """Coarse rewards with ties, answers with few values."""
  rng = np.random.default_rng(seed)
  reward = rng.integers(-1, 3, (prompts, n)).astype(float)
  answer = rng.integers(0, 3, (prompts, n))
  correct = answer == 0
  return reward, answer, correct


def best_by_subsets(reward, gold, n):
  """Mean over n-subsets of the mean gold of those with the top reward."""
  out = []
  for r, g in zip(reward, gold, strict=True):
    part = []
    for s in itertools.combinations(range(len(r)), n):
      top = max(r[i] for i in s)
      part.append(np.mean([g[i] for i in s if r[i] == top]))
    out.append(np.mean(part))
  return np.mean(out)


def vote_by_subsets(answer, correct, weight, n):
  out = []
  for a, c, w in zip(answer, correct, weight, strict=True):
    part = []
    for s in itertools.combinations(range(len(a)), n):
      total, right = {}, {}
      for i in s:
        if a[i] >= 0 and np.isfinite(w[i]):
          total[a[i]] = total.get(a[i], 0.0) + w[i]
          right[a[i]] = c[list(a).index(a[i])]
      top = max(total.values(), default=0.0)
      won = [k for k, v in total.items() if v > top - 1e-9]
      part.append(np.mean([right[k] for k in won]) if won else 0.0)
    out.append(np.mean(part))
  return np.mean(out)


def test_best_of_n_equals_every_subset():
  reward, _, correct = pool()
  out = curves.best_of_n(reward, correct, range(1, 7), resamples=20)
  for n in range(1, 7):
    i = n - 1
    gold = best_by_subsets(reward, correct, n)
    assert out["gold"][i] == pytest.approx(gold, abs=1e-6)  # float32
    want = best_by_subsets(reward, reward, n)
    assert out["reward"][i] == pytest.approx(want, abs=1e-6)
    assert out["kl"][i] == pytest.approx(math.log(n) - (n - 1) / n)
    assert out["gold_low"][i] <= out["gold"][i] + 1e-6
    assert out["gold"][i] <= out["gold_high"][i] + 1e-6


def test_a_sample_without_reward_is_never_preferred_and_prompts_are_counted():
  reward, _, correct = pool(1)
  gold = correct.astype(float)
  reward[0, :2], reward[1] = np.nan, np.nan
  gold[2, 3] = np.nan
  out = curves.best_of_n(reward, gold, [1, 3], resamples=0)
  assert (out["prompts"], out["abstained"]) == (4, 2)
  keep = [0, 3, 4, 5]
  low = np.where(np.isnan(reward), -np.inf, reward)[keep]
  want = best_by_subsets(low, gold[keep], 3)
  assert out["gold"][1] == pytest.approx(want, abs=1e-6)
  with pytest.raises(errors.UserError, match="none of 1 prompts"):
    curves.best_of_n(np.full((1, 3), np.nan))
  with pytest.raises(errors.UserError, match="n = 9 of 6"):
    curves.best_of_n(reward, gold, [9])


def test_votes_equal_every_subset():
  reward, answer, correct = pool(2)
  answer[0, 0] = -1
  weight = 1 / (1 + np.exp(-reward))
  weight[1, 2] = np.nan
  plain = curves.vote(answer, correct, None, [1, 2, 3, 6], resamples=0)
  heavy = curves.vote(answer, correct, weight, [1, 2, 3, 6], resamples=0)
  ones = np.ones_like(weight)
  for i, n in enumerate([1, 2, 3, 6]):
    want = vote_by_subsets(answer, correct, ones, n)
    assert plain["value"][i] == pytest.approx(want, abs=1e-6)
    want = vote_by_subsets(answer, correct, weight, n)
    assert heavy["value"][i] == pytest.approx(want, abs=1e-12)


def test_two_spellings_of_a_right_answer_stand_for_election_apart():
  answer = np.asarray([[0, 0, 1, 1, 2]])
  correct = np.asarray([[True, True, True, True, False]])
  for n in range(1, 6):
    got = curves.vote(answer, correct, None, [n], resamples=0)["value"][0]
    want = vote_by_subsets(answer, correct, np.ones((1, 5)), n)
    assert got == pytest.approx(want, abs=1e-12)


def test_pass_at_k_equals_every_subset():
  _, _, correct = pool(3)
  out = curves.pass_at_k(correct, [1, 2, 5], resamples=0)
  for i, k in enumerate([1, 2, 5]):
    subsets = list(itertools.combinations(range(6), k))
    want = np.mean([[c[list(s)].any() for s in subsets] for c in correct])
    assert out["value"][i] == pytest.approx(want, abs=1e-6)


def test_bands_cover_the_expected_maximum():
  """Best of 4 of 8 normals, 40 prompts: E = 1.0294 for every prompt."""
  rng = np.random.default_rng(4)
  truth, hits = 1.02938, 0
  for seed in range(100):
    reward = rng.normal(size=(40, 8))
    out = curves.best_of_n(reward, sizes=[4], resamples=200, seed=seed)
    hits += out["reward_low"][0] <= truth <= out["reward_high"][0]
  # 95 % but for three standard errors of 0.022; percentile bands of 40
  # prompts are a little narrow.
  assert hits / 100 > 0.87


def test_real_maths_samples_best_of_n_votes_and_pass():
  folder = paths.shared_data("best_of_n_math")
  data = sources.load_graded(folder / "math_cot_100.jsonl.gz")
  assert data.correct.shape == (100, 8)
  sizes = [1, 4, 8]
  best = curves.best_of_n(data.reward, data.correct, sizes, resamples=100)
  oracle = curves.pass_at_k(data.correct, sizes, resamples=100)
  plain = curves.vote(data.answer, data.correct, None, sizes, resamples=100)
  sure = 1 / (1 + np.exp(-data.reward))
  heavy = curves.vote(data.answer, data.correct, sure, sizes, resamples=100)
  accuracy = data.correct.mean()
  assert accuracy == 0.91
  for curve in (best["gold"], oracle["value"], plain["value"], heavy["value"]):
    assert curve[0] == pytest.approx(accuracy, abs=1e-6)
  for i, n in enumerate(sizes):
    want = best_by_subsets(data.reward, data.correct, n)
    assert best["gold"][i] == pytest.approx(want, abs=1e-6)
    ones = np.ones_like(sure)
    want = vote_by_subsets(data.answer, data.correct, ones, n)
    assert plain["value"][i] == pytest.approx(want, abs=1e-6)
    want = vote_by_subsets(data.answer, data.correct, sure, n)
    assert heavy["value"][i] == pytest.approx(want, abs=1e-9)
    hit = [
      data.correct[:, list(s)].any(1).mean()
      for s in itertools.combinations(range(8), n)
    ]
    assert oracle["value"][i] == pytest.approx(np.mean(hit), abs=1e-6)
    assert best["gold"][i] <= oracle["value"][i] + 1e-6
  assert oracle["value"][-1] == pytest.approx(data.correct.any(1).mean())


def test_recorded_best_of_n_curves_are_means_of_their_trials():
  folder = paths.shared_data("prm_best_of_n")
  rows = sources.load_trials(folder / "best-of-n-results.csv.gz")
  assert len(rows) == 324
  full = [r for r in rows if r["trials"] is not None]
  assert len(full) == 304
  for r in full:
    assert len(r["trials"]) == 10
    found = curves.trials(r["trials"][:, None])
    # Exact up to the order of a sum in float64; the deviation is population's.
    assert found["mean"][0] == pytest.approx(r["mean"], abs=1e-15)
    assert found["std"][0] == pytest.approx(r["std"], abs=1e-15)
  # A pool of 16: the best of all 16 has no noise but that of ties.
  noise = {n: [r["std"] for r in full if r["n"] == n] for n in (2, 4, 8, 16)}
  assert np.mean(noise[16]) < 3e-4 < 5e-3 < np.mean(noise[8])
  assert np.mean(noise[8]) < np.mean(noise[4]) < np.mean(noise[2])


def test_recorded_curves_rise_with_n_and_products_beat_minima():
  folder = paths.shared_data("prm_best_of_n")
  rows = sources.load_trials(folder / "best-of-n-results.csv.gz")
  mean = lambda metric, n: np.mean(
    [r["mean"] for r in rows if r["n"] == n and metric in r["metric"]]
  )
  for metric in ("product", "minimum", "majority"):
    curve = [mean(metric, n) for n in (2, 4, 8, 16)]
    assert curve == sorted(curve)
  assert all(mean("product", n) > mean("minimum", n) for n in (2, 4, 8))
  assert mean("majority", 2) < mean("product", 2)
  assert mean("majority", 16) > mean("product", 16)
