"""Best-of-n by Gaussian ensembles: closed form, simulation, sheet numbers."""

import jax
import numpy as np
import pytest

from rlreward.analytic import ensemble
from rlreward.analytic.ensemble import Parts
from rlreward.ops import aggregate

K, N = 5, 64
ONE = [0]
SAME, APART = [0] * K, list(range(K))
WORLD = Parts(0.7**2, 1.0, 1.0)


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def simulated(shared, own, pretrain, seeds, rule="mean", prompts=4000):
  """(mean gold, mean artefact) of what is selected among N answers."""
  rng = np.random.default_rng(0)
  gold, hack = rng.normal(size=(2, prompts, N))
  groups = rng.normal(size=(max(seeds) + 1, prompts, N)) * pretrain
  each = rng.normal(size=(len(seeds), prompts, N)) * own
  r = gold + shared * hack + groups[seeds] + each
  proxy = np.asarray(aggregate.aggregate(np.moveaxis(r, 0, -1), rule))
  at = proxy.argmax(1)[:, None]
  take = lambda x: np.take_along_axis(x, at, 1).mean()
  return take(gold), take(hack)


def test_error_variance_by_hand():
  parts = Parts(0.5, 2.0, 3.0)
  error = lambda seeds, w=(): float(ensemble.error_variance(parts, seeds, w))
  assert error([0]) == pytest.approx(5.5)
  assert error([7, 7]) == pytest.approx(0.5 + 2.0 + 1.5)
  assert error([3, 8]) == pytest.approx(0.5 + 1.0 + 1.5)
  # (1/2, 1/4 + 1/4): 2 (1/4 + 1/4) of pretraining, 3 (1/4 + 1/8) of its own.
  mixed = error([0, 1, 1], [0.5, 0.25, 0.25])
  assert mixed == pytest.approx(0.5 + 1.0 + 3 * 0.375)
  # A contrast of members: what all share cancels.
  assert error([0, 1], [1.0, -1.0]) == pytest.approx(2 * 2.0 + 2 * 3.0)


@pytest.mark.parametrize(
  ("seeds", "gold", "hack"),
  [(ONE, 1.27, 0.87), (SAME, 1.43, 1.01), (APART, 1.71, 1.20)],
)
def test_numbers_of_the_sheet(seeds, gold, hack):
  """Shared 0.7, pretraining 1, fine-tuning 1, best of 64; printed +- 0.01."""
  error = ensemble.error_variance(WORLD, seeds)
  expected = float(ensemble.best_of_n_gold(N, error))
  artefact = float(ensemble.best_of_n_artefact(N, error, 0.7))
  assert expected == pytest.approx(gold, abs=0.02)
  assert artefact == pytest.approx(hack, abs=0.02)
  found = simulated(0.7, 1.0, 1.0, seeds)
  # 4000 prompts: the selected gold has a deviation below 1, 3 errors are 0.05.
  assert found[0] == pytest.approx(expected, abs=0.05)
  assert found[1] == pytest.approx(artefact, abs=0.05)


def test_five_members_against_one_in_the_first_world_of_the_sheet():
  for seeds, said in ((ONE, 1.023), (SAME, 1.637)):
    error = ensemble.error_variance(Parts(0.25, 0.0, 4.0), seeds)
    formula = float(ensemble.best_of_n_gold(N, error))
    assert formula == pytest.approx(said, abs=0.002)
    assert simulated(0.5, 2.0, 0.0, seeds)[0] == pytest.approx(
      formula, abs=0.05
    )


def test_every_rule_beats_one_member_by_more_than_a_quarter():
  single = simulated(0.5, 2.0, 0.0, ONE)[0]
  found = {
    rule: simulated(0.5, 2.0, 0.0, APART, rule)[0]
    for rule in ("mean", "mean_minus_std", "median", "min")
  }
  printed = {"mean": 1.64, "mean_minus_std": 1.53, "median": 1.51, "min": 1.45}
  for rule, want in printed.items():
    assert found[rule] == pytest.approx(want, abs=0.05)
    assert found[rule] > single + 0.3


def test_gold_and_artefact_rise_together_as_members_are_added():
  errors = [
    ensemble.error_variance(WORLD, list(range(k))) for k in (1, 2, 4, 64)
  ]
  gold = [float(ensemble.best_of_n_gold(N, e)) for e in errors]
  hack = [float(ensemble.best_of_n_artefact(N, e, 0.7)) for e in errors]
  assert gold == sorted(gold) and hack == sorted(hack)
  # However many there are, what all share stays.
  limit = float(ensemble.best_of_n_gold(N, WORLD.shared))
  assert gold[-1] < limit < float(ensemble.best_of_n_gold(N, 0.0))


def test_best_of_n_takes_arrays():
  n = np.asarray([1, 4, 64])
  found = np.asarray(ensemble.best_of_n_gold(n, 1.0))
  want = np.asarray([0.0, 1.02938, 2.34373]) / np.sqrt(2)
  np.testing.assert_allclose(found, want, atol=1e-4)


def test_parts_are_found_again_in_a_covariance():
  want, group = Parts(1.5, 0.7, 0.3), np.arange(12) // 4
  same = group[:, None] == group
  covariance = want.shared + want.pretrain * same + want.finetune * np.eye(12)
  found = ensemble.components(covariance, 3, 4)
  np.testing.assert_allclose(found, want, rtol=1e-12)


def test_parts_that_cannot_be_told_apart_are_unknown():
  lone = ensemble.components(np.full((4, 4), 2.0) + np.eye(4), 1, 4)
  np.testing.assert_allclose(lone, (2.0, np.nan, 1.0))
  single = ensemble.components(np.full((4, 4), 2.0) + np.eye(4), 4, 1)
  np.testing.assert_allclose(single, (2.0, 1.0, np.nan))
  with pytest.raises(AssertionError):
    ensemble.components(np.eye(4), 3, 4)


def test_parts_of_simulated_scores():
  """Of 200,000 answers: 5 standard errors are about 0.03."""
  rng = np.random.default_rng(1)
  seeds = np.arange(9) // 3
  shared = rng.normal(size=200_000) * np.sqrt(1.5)
  groups = rng.normal(size=(3, 200_000)) * np.sqrt(0.5)
  own = rng.normal(size=(9, 200_000)) * 0.5
  found = ensemble.components(np.cov(shared + groups[seeds] + own), 3, 3)
  np.testing.assert_allclose(found, (1.5, 0.5, 0.25), atol=0.03)
