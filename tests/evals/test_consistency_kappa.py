"""Kappa, swapped orders and members against tables done by hand."""

import numpy as np
import pytest

from rlreward.evals import consistency


def test_kappa_of_hand_made_tables():
  table = lambda n11, n10, n01, n00: (
    np.repeat([1, 1, 0, 0], [n11, n10, n01, n00]),
    np.repeat([1, 0, 1, 0], [n11, n10, n01, n00]),
  )
  # p_o = 0.8 with balanced margins: 0.6.
  assert consistency.cohen_kappa(*table(40, 10, 10, 40)) == pytest.approx(0.6)
  # Cohen's own kind of table: p_o 0.7, p_e 0.5.
  assert consistency.cohen_kappa(*table(20, 5, 10, 15)) == pytest.approx(0.4)
  assert consistency.cohen_kappa(*table(0, 50, 50, 0)) == pytest.approx(-1)
  assert consistency.cohen_kappa(*table(9, 0, 0, 0)) == 1
  assert consistency.cohen_kappa(np.ones(5), np.zeros(5)) == 0
  assert np.isnan(consistency.cohen_kappa([np.nan], [1.0]))


def test_kappa_with_weights_is_that_of_repeated_rows():
  rng = np.random.default_rng(0)
  a, b = rng.integers(0, 3, 50), rng.integers(0, 3, 50)
  w = rng.integers(0, 4, 50)
  want = consistency.cohen_kappa(np.repeat(a, w), np.repeat(b, w))
  assert consistency.cohen_kappa(a, b, w) == pytest.approx(want, abs=1e-12)


def test_kappa_of_chance_is_zero():
  rng = np.random.default_rng(1)
  a, b = rng.random(20000) < 0.8, rng.random(20000) < 0.7
  # Standard error 0.007.
  assert consistency.cohen_kappa(a, b) == pytest.approx(0, abs=0.03)


def test_swapped_orders():
  # Content: first better twice; place: always the first; a tie; unreadable.
  first = np.asarray([1.0, 1, 0.5, np.nan])
  second = np.asarray([0.0, 1, 0.5, 1])
  out = consistency.swap(first, second, np.asarray([1.0, 1, 1, 1]))
  assert (out["pairs"], out["judged"], out["abstained"]) == (4, 3, 1)
  assert out["consistent"] == pytest.approx(2 / 3)
  assert out["prefers_first"] == pytest.approx((0.5 + 1 + 0.5) / 3)
  assert out["accuracy"] == pytest.approx((1 + 0.5 + 0.5) / 3)
  assert out["strict"] == pytest.approx(1 / 3)
  assert consistency.swap([np.nan], [1.0])["consistent"] is None


def test_a_judge_of_places_has_half_the_pairs_and_no_consistency():
  truth = np.asarray([1.0, 0, 1, 0])
  out = consistency.swap(np.ones(4), np.ones(4), truth)
  assert out["accuracy"] == 0.5 and out["strict"] == 0
  assert out["consistent"] == 0 and out["prefers_first"] == 1


def test_agreement_of_two_judges():
  out = consistency.agree([1, 0, 0.5, 1, np.nan], [1, 1, 1, 1, 0])
  assert out["judged"] == 4 and out["share"] == 0.5
  assert out["half"] == pytest.approx((1 + 0 + 0.5 + 1) / 4)


def test_members_rank_alike_as_scipy_says():
  stats = pytest.importorskip("scipy.stats")
  rng = np.random.default_rng(2)
  shared = rng.normal(size=(1, 5, 12))
  reward = np.round(shared + rng.normal(size=(3, 5, 12)), 1)
  reward[0, 2, 4] = np.nan
  out = consistency.members(reward)
  want = []
  for i, j in ((0, 1), (0, 2), (1, 2)):
    rho = [
      stats.spearmanr(reward[i, b], reward[j, b], nan_policy="omit").statistic
      for b in range(5)
    ]
    want.append(np.mean(rho))
    assert out["spearman"][i][j] == pytest.approx(want[-1], abs=1e-12)
  assert out["mean"] == pytest.approx(np.mean(want), abs=1e-12)
