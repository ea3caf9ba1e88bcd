"""The Gaussian law of a proxy, against sampling and a fitted reward model."""

import numpy as np
import pytest

from rlreward.analytic import correlated


@pytest.mark.parametrize(
  ("rho", "want"), [(0.3, 0.5970), (0.5, 0.6667), (0.7, 0.7468), (0.9, 0.8564)]
)
def test_accuracy_of_pairs(rho, want):
  got = float(correlated.pair_accuracy(rho))
  assert got == pytest.approx(want, abs=5e-5)  # four digits were worked out
  assert float(correlated.correlation(got)) == pytest.approx(rho, abs=1e-6)
  rng = np.random.default_rng(0)
  gold = rng.normal(size=(200_000, 2))
  noise = rng.normal(size=gold.shape)
  proxy = rho * gold + np.sqrt(1 - rho**2) * noise
  alike = (gold[:, 0] > gold[:, 1]) == (proxy[:, 0] > proxy[:, 1])
  # Three standard errors of a share of 200000.
  assert alike.mean() == pytest.approx(got, abs=3 * 0.5 / 200_000**0.5)


def test_what_is_exact():
  assert float(correlated.pair_accuracy(0.5)) == pytest.approx(2 / 3, abs=1e-6)
  got = [float(correlated.pair_accuracy(r)) for r in (-1.0, 0.0, 1.0)]
  np.testing.assert_allclose(got, [0, 0.5, 1], atol=1e-6)


def test_the_best_of_n():
  n = np.array([1, 2, 4, 16, 64, 256])
  proxy, gold = correlated.best_of_n(n, 0.5)
  want = [0, 0.5642, 1.0294, 1.7660, 2.3437, 2.8269]
  np.testing.assert_allclose(proxy, want, atol=6e-5)
  np.testing.assert_allclose(gold, np.asarray(want) / 2, atol=3e-5)
  # By sampling: three standard errors of 20000 maxima.
  rng = np.random.default_rng(1)
  g = rng.normal(size=(20_000, 16))
  p = 0.5 * g + np.sqrt(0.75) * rng.normal(size=g.shape)
  picked = np.take_along_axis(g, p.argmax(1)[:, None], 1)
  assert picked.mean() == pytest.approx(float(gold[3]), abs=3 / 20_000**0.5)


@pytest.mark.parametrize(("n", "seed"), [(50, 0), (50, 1), (200, 2)])
def test_a_linear_reward_model_obeys_it(n, seed):
  """Bradley-Terry labels of 16 features, fitted by Newton steps.

  What a fit of n comparisons gets wrong is a direction of the features, so
  that its score and the gold are Gaussian together, with the cosine as rho.
  """
  rng = np.random.default_rng(seed)
  truth = rng.normal(size=16)
  x = rng.normal(size=(n, 2, 16))
  x = x[:, 0] - x[:, 1]
  label = rng.random(n) < 1 / (1 + np.exp(-x @ truth))
  x = np.where(label[:, None], x, -x)
  found = np.zeros(16)
  for _ in range(30):
    p = 1 / (1 + np.exp(x @ found))
    curved = (x * (p * (1 - p))[:, None]).T @ x + 0.1 * np.eye(16)
    found += np.linalg.solve(curved, x.T @ p - 0.1 * found)
  unit = lambda w: w / np.linalg.norm(w)
  rho = float(unit(found) @ unit(truth))
  assert 0.6 < rho < 0.99
  pairs = rng.normal(size=(50_000, 2, 16))
  gold, proxy = pairs @ unit(truth), pairs @ unit(found)
  alike = (gold[:, 0] > gold[:, 1]) == (proxy[:, 0] > proxy[:, 1])
  want = float(correlated.pair_accuracy(rho))
  assert alike.mean() == pytest.approx(want, abs=0.02)
  for count in (4, 16, 64):
    rows = rng.normal(size=(4000, count, 16))
    best = (rows @ unit(found)).argmax(1)
    picked = (rows @ unit(truth))[np.arange(4000), best]
    want = float(correlated.best_of_n(count, rho)[1])
    assert picked.mean() == pytest.approx(want, abs=0.06)
