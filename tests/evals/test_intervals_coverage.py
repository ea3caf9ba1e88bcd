"""Intervals contain the truth as often as they say, by simulation."""

import numpy as np
import pytest

from rlreward.evals import intervals, preference


def test_wilson_equals_the_roots_of_its_equation():
  z = 1.959963984540054
  for won, n in ((3, 10), (0, 7), (7, 7), (60, 100), (0.5, 4)):
    low, high = intervals.wilson(won, n)
    p = won / n
    # |p - q| = z sqrt(q (1 - q) / n), a quadratic in q.
    roots = np.sort(np.roots([1 + z * z / n, -2 * p - z * z / n, p * p]).real)
    np.testing.assert_allclose([low, high], roots, atol=1e-12)
  assert intervals.wilson(0, 0) == (0.0, 1.0)
  assert intervals.wilson(5, 5)[0] < 1 == intervals.wilson(5, 5)[1]


def test_wilson_equals_scipy():
  stats = pytest.importorskip("scipy.stats")
  for won, n in ((3, 10), (0, 7), (90, 95)):
    want = stats.binomtest(won, n).proportion_ci(0.9, method="wilson")
    found = intervals.wilson(won, n, 0.9)
    np.testing.assert_allclose(found, [want.low, want.high], atol=1e-12)


def test_wilson_covers():
  rng = np.random.default_rng(0)
  for p in (0.5, 0.9, 0.98):
    won = rng.binomial(40, p, 4000)
    bands = np.asarray([intervals.wilson(w, 40) for w in won])
    cover = np.mean((bands[:, 0] <= p) & (p <= bands[:, 1]))
    assert 0.92 < cover < 0.98, (p, cover)


def test_draws_keep_strata_and_clusters():
  strata, clusters = ["a"] * 6 + ["b"] * 3, [0, 0, 1, 1, 2, 2, 0, 1, 2]
  seen = []
  for times in intervals.draws(strata, clusters, 200, 1):
    assert times[:6].sum() == 6 and times[6:].sum() == 3
    np.testing.assert_array_equal(times[:6:2], times[1:6:2])
    seen.append(times)
  np.testing.assert_allclose(np.mean(seen, 0), 1, atol=0.25)  # five sd
  again = next(intervals.draws(strata, clusters, 1, 1))
  np.testing.assert_array_equal(again, seen[0])


def test_bootstrap_of_the_runner_covers_a_total_with_clusters():
  """Two subsets, prompts of three dependent items: 95 % bands cover."""
  rng = np.random.default_rng(5)
  hits = {True: 0, False: 0}
  runs, prompts = 200, 40
  truth = (0.7 + 0.4) / 2
  group = np.repeat(["a", "b"], 3 * prompts)
  ids = np.repeat(np.arange(2 * prompts), 3)
  chance = np.where(group == "a", 0.7, 0.4)
  for i in range(runs):
    # Items of a prompt share their luck in 4 of 5 prompts.
    shared = np.repeat(rng.random(2 * prompts), 3)
    own = rng.random(6 * prompts)
    same = np.repeat(rng.random(2 * prompts) < 0.8, 3)
    won = np.where(same, shared, own) < chance
    for clustered in hits:
      out = preference.evaluate(
        np.stack([won, np.full(len(won), 0.5)], 1),
        np.ones((len(won), 2), bool),
        np.ones(len(won), int),
        group,
        ids=ids if clustered else None,
        resamples=120,
        seed=i,
      )
      low, high = out["total"]["low"], out["total"]["high"]
      hits[clustered] += low <= truth <= high
  # Three standard errors of 200 runs are 0.046; without ids it is too sure.
  assert hits[True] / runs > 0.9
  assert hits[False] / runs < 0.85
