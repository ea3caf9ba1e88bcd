"""The best-of-n law from anchors, against draws that are enumerated."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.ops import best_of_n


def _ratio(reward, anchor, n, valid=None):
  """log pi_N / ref of each reward against one prompt's anchors."""
  anchor = jnp.asarray(anchor, jnp.float32)[None]
  valid = jnp.ones(anchor.shape, bool) if valid is None else valid[None]
  reward = jnp.asarray(reward, jnp.float32)[None]
  return np.asarray(best_of_n.log_ratio(reward, anchor, valid, n)[0])


def _enumerated(items, n):
  """P(each item is the best of n draws with replacement), ties at random."""
  p = np.zeros(len(items))
  for draw in itertools.product(range(len(items)), repeat=n):
    best = max(items[i] for i in draw)
    ties = [i for i in draw if items[i] == best]
    for i in ties:
      p[i] += 1 / len(ties)
  return p / len(items) ** n


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("anchor", [
  [0.1, 0.5, -2.0, 3.0], [1.0, 1.0, 0.0, 1.0], [2.0] * 4, [0.0],
])  # fmt: skip
def test_a_small_table_is_enumerated(n, anchor):
  """The reference is the anchors and the sample: all (M + 1)^n draws."""
  for reward in (-5.0, 0.0, 0.5, 1.0, 2.0, 9.0):
    items = [*anchor, reward]
    got = _ratio([reward], anchor, n)[0]
    want = np.log(_enumerated(items, n)[-1] * len(items))
    # Float32 logs of numbers down to (1 / 5)^4.
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_one_of_one_is_the_reference():
  rng = np.random.default_rng(0)
  got = _ratio(rng.normal(size=6), rng.normal(size=50), 1)
  np.testing.assert_allclose(got, 0, atol=1e-6)


@pytest.mark.parametrize("n", [2, 8, 64])
def test_many_anchors_give_the_law_of_a_table(n):
  """Counts of 5 answers, two of them tied, repeated 500 times: M = 10000."""
  reward = np.array([0.0, 1.0, 1.0, 2.0, 3.0])
  share = np.array([3, 5, 2, 6, 4]) / 20
  anchor = np.repeat(reward, (share * 10_000).astype(int))
  at_most = np.array([share[reward <= r].sum() for r in reward])
  below = np.array([share[reward < r].sum() for r in reward])
  law = (at_most**n - below**n) / (at_most - below) * share
  assert law.sum() == pytest.approx(1)
  got = _ratio(reward, anchor, n)
  # F is off by at most 1 / M, which n multiplies: 64 / (10000 * 0.15).
  np.testing.assert_allclose(got, np.log(law / share), atol=n / 1000)
  assert np.exp(got) @ share == pytest.approx(1, abs=n / 2000)


def test_without_ties_it_is_vbons_form():
  rng = np.random.default_rng(1)
  anchor = rng.normal(size=20_000)
  reward = np.quantile(anchor, [0.2, 0.5, 0.9, 0.999])
  got = _ratio(reward, anchor, 8)
  want = np.log(8) + 7 * np.log([0.2, 0.5, 0.9, 0.999])
  np.testing.assert_allclose(got, want, atol=2e-3)  # 7 / (20000 * 0.2)


def test_a_monotone_transform_changes_nothing():
  rng = np.random.default_rng(2)
  reward, anchor = rng.integers(-3, 4, 8), rng.integers(-3, 4, 16)
  base = _ratio(reward, anchor, 4)
  assert np.ptp(base) > 1
  for f in (np.exp, lambda x: 5 * x - 7, lambda x: x**3):
    np.testing.assert_array_equal(_ratio(f(reward), f(anchor), 4), base)
  # Better rewards never earn less.
  order = np.argsort(reward, kind="stable")
  assert np.all(np.diff(base[order]) >= 0)


def test_anchors_without_a_judgement_are_not_there():
  reward = np.array([0.0, 1.0, 2.0])
  anchor = np.array([0.5, np.nan, 1.5, np.inf])
  valid = jnp.array([True, False, True, False])
  got = _ratio(reward, anchor, 3, valid)
  np.testing.assert_array_equal(got, _ratio(reward, [0.5, 1.5], 3))
  none = _ratio(reward, anchor, 3, jnp.zeros(4, bool))
  np.testing.assert_allclose(none, 0, atol=1e-7)  # nothing known, no change


def test_no_gradient_and_finite_at_the_ends():
  anchor = jnp.zeros((1, 16))
  valid = jnp.ones((1, 16), bool)
  f = lambda r: best_of_n.log_ratio(r, anchor, valid, 1000).sum()
  for reward in (-1.0, 0.0, 1.0):
    value, grad = jax.value_and_grad(f)(jnp.full((1, 2), reward))
    assert np.isfinite(value) and not np.any(grad)
  # Below all of 16: (1 / 17)^999.
  assert _ratio([-1.0], np.zeros(16), 1000)[0] == pytest.approx(
    -999 * np.log(17), rel=1e-6
  )


def test_prompts_have_their_own_anchors():
  rng = np.random.default_rng(3)
  reward, anchor = rng.normal(size=(3, 4)), rng.normal(size=(3, 7))
  whole = best_of_n.log_ratio(
    jnp.asarray(reward), jnp.asarray(anchor), jnp.ones((3, 7), bool), 5
  )
  for b in range(3):
    np.testing.assert_allclose(
      whole[b], _ratio(reward[b], anchor[b], 5), rtol=1e-6
    )


def test_n_below_one_is_refused():
  with pytest.raises(ValueError, match="got 0"):
    _ratio([1.0], [0.0], 0)
