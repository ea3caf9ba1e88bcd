"""Group advantages: hand tables, identities, torch, unbiasedness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlreward.ops import advantage
from rlreward.ops.advantage import group_advantage


def _valid(reward):
  return np.ones(np.shape(reward), bool)


def _adv(reward, valid=None, **settings):
  reward = np.asarray(reward, np.float32)
  valid = _valid(reward) if valid is None else np.asarray(valid)
  return np.asarray(group_advantage(reward, valid, **settings))


@pytest.mark.parametrize("k,right,wrong", [
  (1, 2.475, -0.354), (2, 1.620, -0.540), (4, 0.935, -0.935), (7, 0.354, -2.475)
])  # fmt: skip
@pytest.mark.parametrize("jit", [False, True])
def test_binary_group_table(k, right, wrong, jit):
  reward = np.array([[1.0] * k + [0.0] * (8 - k)])
  f = jax.jit(group_advantage) if jit else group_advantage
  got = np.asarray(f(reward, _valid(reward)))
  np.testing.assert_allclose(got[0, 0], right, atol=6e-4)
  np.testing.assert_allclose(got[0, -1], wrong, atol=6e-4)


def test_ddof_zero_is_another_number():
  reward = [[1.0, 0, 0, 0]]
  ratio = _adv(reward, ddof=0) / _adv(reward)
  np.testing.assert_allclose(ratio, np.sqrt(4 / 3), rtol=1e-5)


@pytest.mark.parametrize("center", advantage.CENTERS)
@pytest.mark.parametrize("scale", advantage.SCALES)
@pytest.mark.parametrize("ddof", [0, 1])
def test_equals_a_float64_loop(center, scale, ddof):
  rng = np.random.default_rng(1)
  reward = rng.normal(size=(6, 5)) * 2 + 3
  valid = rng.random((6, 5)) > 0.3
  valid[0] = False
  valid[1] = [True, False, False, False, False]
  reward[2] = 1.25  # no spread
  grouped = center != "none" or scale == "group"
  want, counted = np.zeros((6, 5)), np.zeros((6, 5), bool)
  dead = np.zeros((6, 1), bool)
  for b in range(6):
    r = reward[b, valid[b]]
    if grouped and len(r) < 2:
      continue
    if center == "none":
      a = r
    elif center == "mean":
      a = r - r.mean()
    else:
      a = np.array([x - (r.sum() - x) / (len(r) - 1) for x in r])
    dead[b] = grouped and np.ptp(r) == 0
    a = a * (not dead[b])
    if scale == "group":
      a = a / (r.std(ddof=ddof) + 1e-6)
    want[b, valid[b]], counted[b] = a, valid[b]
  if scale == "batch":
    sd = want[counted].std(ddof=ddof)
    want = np.where(counted, (want - want[counted].mean()) / (sd + 1e-6), 0)
    want = np.where(dead, 0, want)
  dirty = np.where(valid, reward, np.nan)
  got = _adv(dirty, valid, center=center, scale=scale, ddof=ddof)
  # float32 input of size 5: 3e-7 each, divided by spreads of order 1.
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_grpo_equals_torch():
  torch = pytest.importorskip("torch")
  reward = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
  r = torch.tensor(reward)
  want = (r - r.mean(1, keepdim=True)) / (r.std(1, keepdim=True) + 1e-4)
  np.testing.assert_allclose(_adv(reward, eps=1e-4), want, atol=1e-5)
  want = r - r.mean(1, keepdim=True)
  np.testing.assert_allclose(_adv(reward, scale="none"), want, atol=1e-6)


def test_invalid_samples_leave_the_group():
  """A group of four with one invalid is the group of the other three."""
  reward = [[1.0, 0.0, np.nan, 3.0]]
  valid = [[True, True, False, True]]
  for center in ("mean", "loo"):
    for scale in ("group", "none"):
      kwargs = {"center": center, "scale": scale}
      got = _adv(reward, valid, **kwargs)
      want = _adv([[1.0, 0.0, 3.0]], **kwargs)
      np.testing.assert_allclose(got[0, [0, 1, 3]], want[0], rtol=1e-6)
      assert got[0, 2] == 0
  as_zero = _adv([[1.0, 0.0, 0.0, 3.0]])
  assert np.abs(as_zero - _adv(reward, valid)).max() > 0.1


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, -3.7, 1e6])
@pytest.mark.parametrize("center", ["mean", "loo"])
@pytest.mark.parametrize("scale", advantage.SCALES)
@pytest.mark.parametrize("size", [7, 1001])
def test_zero_variance_is_exactly_zero(value, center, scale, size):
  """The mean of many equal float32 numbers is often not that number."""
  flat = np.full((1, size), value, np.float32)
  reward = np.concatenate([flat, np.arange(size, dtype=np.float32)[None]])
  got = _adv(reward, center=center, scale=scale)
  assert not got[0].any() and got[1].any()


def test_rounding_is_not_a_signal():
  """0.1 + 0.2 against 0.3, one unit in the last place apart."""
  reward = np.full((1, 8), 0.3, np.float32)
  reward[0, 0] = np.nextafter(reward[0, 0], np.float32(1))
  assert not _adv(reward).any()
  assert not np.any(advantage.informative(reward, _valid(reward)))
  naive = (reward - reward.mean()) / (reward.std(ddof=1) + 1e-6)
  assert np.abs(naive).max() > 1e-3


def test_fewer_than_two_valid_give_zero():
  valid = [[True, False, False], [False] * 3, [True, True, False]]
  got = _adv([[5.0, np.nan, 1], [np.nan] * 3, [1, 2, np.inf]], valid)
  assert not got[:2].any() and got[2, :2].all() and got[2, 2] == 0
  for scale in ("batch", "none"):
    got = _adv(np.full((3, 3), 5.0), valid, center="none", scale=scale)
    assert np.all(np.isfinite(got))


def test_groups_of_one_are_an_error_where_a_group_is_needed():
  with pytest.raises(ValueError, match="at least 2 per prompt"):
    _adv([[1.0], [2.0]])
  got = _adv([[1.0], [2.0]], center="none", scale="none")
  np.testing.assert_array_equal(got, [[1], [2]])
  got = _adv([[1.0], [2.0]], center="none", scale="batch")
  np.testing.assert_allclose(got, [[-(0.5**0.5)], [0.5**0.5]], rtol=1e-5)
  with pytest.raises(ValueError, match="scale='median'"):
    _adv([[1.0, 2.0]], scale="median")


def test_batch_scale_keeps_noise_small_and_the_floor_keeps_it_so():
  """Spread 0.01 and 1: GRPO treats the two alike, a batch scale does not."""
  rng = np.random.default_rng(0)
  noise = rng.choice([0, 0.01], (1, 64))
  signal = rng.choice([0, 1.0], (1, 64))
  reward = np.concatenate([noise, signal])

  def size(a):
    return np.abs(a).mean(1)

  ratio = size(_adv(reward, scale="batch"))
  assert 70 < ratio[1] / ratio[0] < 130
  ratio = size(_adv(reward))
  assert 0.9 < ratio[1] / ratio[0] < 1.1
  solved = np.concatenate([noise, np.ones_like(signal)])
  assert size(_adv(solved, scale="batch"))[0] > 0.5
  assert size(_adv(solved, scale="batch", sd_min=0.1))[0] < 0.1


def test_informative():
  reward = [[0, 0, 0], [1, 1, 1], [0, 1, 1], [0, 1, 0.0]]
  valid = np.ones((4, 3), bool)
  valid[3, 1] = False
  got = advantage.informative(np.array(reward, np.float32), valid)
  np.testing.assert_array_equal(got, [False, False, True, False])
  none = advantage.informative(np.full((1, 3), np.nan), np.zeros((1, 3), bool))
  assert not none[0]


def test_no_gradient_and_no_nan_even_at_zero_spread():
  def f(reward):
    return group_advantage(reward, jnp.ones((1, 4), bool)).sum()

  assert not np.any(jax.grad(f)(jnp.ones((1, 4))))


def test_rloo_is_unbiased_and_std_only_rescales():
  """5-action bandit, rewards in [1, 2], G 4, 20k groups."""
  rng = np.random.default_rng(0)
  logits, payoff = rng.normal(size=5), rng.uniform(1, 2, 5)
  pi = np.exp(logits) / np.exp(logits).sum()
  exact = pi * (payoff - pi @ payoff)
  action = rng.choice(5, (20_000, 4), p=pi)
  score = np.eye(5)[action] - pi
  reward = payoff[action]

  def estimate(a):
    each = np.mean(a[..., None] * score, axis=1)
    return each.mean(0), each.var(0).sum()

  loo, loo_var = estimate(_adv(reward, center="loo", scale="none"))
  _, plain_var = estimate(_adv(reward, center="none", scale="none"))
  std, _ = estimate(_adv(reward))
  # Standard error: sqrt(var / 20000), about 0.6 % of the gradient.
  error = np.linalg.norm(loo - exact) / np.linalg.norm(exact)
  assert error < 0.02
  assert loo_var < 0.2 * plain_var
  cosine = std @ exact / np.linalg.norm(std) / np.linalg.norm(exact)
  assert cosine > 0.99
  mean, _ = estimate(_adv(reward, scale="none"))  # biased by (G - 1) / G
  np.testing.assert_allclose(mean, 0.75 * loo, rtol=1e-4)


rewards = st.lists(st.integers(-50, 50), min_size=12, max_size=12).map(
  lambda x: np.float32(x).reshape(3, 4) / 4
)


@settings(max_examples=40, deadline=None)
@given(rewards, st.integers(1, 20), st.integers(-20, 20))
def test_invariances(reward, factor, offset):
  base = _adv(reward)
  np.testing.assert_allclose(_adv(reward + offset), base, atol=1e-4)
  np.testing.assert_allclose(_adv(-reward), -base, atol=1e-5)
  scaled = _adv(reward * factor)
  np.testing.assert_allclose(scaled, base, atol=1e-4)
  np.testing.assert_allclose(base.sum(1), 0, atol=1e-5)
  loo = _adv(reward, center="loo", scale="none")
  mean = _adv(reward, scale="none")
  np.testing.assert_allclose(loo, mean * 4 / 3, rtol=1e-5, atol=1e-6)
  alive = np.asarray(advantage.informative(reward, _valid(reward)))
  np.testing.assert_array_equal(alive, np.ptp(reward, axis=1) > 0)
  np.testing.assert_array_equal(alive, base.any(1))


# ------------------------------------------------------------ other baselines
REWARD = np.array([[1.0, 0.0, 4.0], [2.0, 2.0, 2.0], [5.0, 7.0, 9.0]])
VALID = np.array([[1, 1, 1], [1, 1, 1], [1, 0, 0]], bool)
DIRTY = np.where(VALID, REWARD, np.nan).astype(np.float32)


def test_the_mean_of_a_batch_by_hand():
  # Known: 1 0 4 2 2 2 5, a mean of 16 / 7.
  got = advantage.minus_mean(DIRTY.reshape(-1), VALID.reshape(-1))
  want = np.where(VALID, REWARD - 16 / 7, 0).reshape(-1)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_other_answers_of_the_prompt_by_hand():
  other = np.float32([[2.0, np.nan], [1.0, 4.0], [np.nan, np.inf]])
  known = np.array([[1, 0], [1, 1], [0, 0]], bool)
  got = advantage.minus(DIRTY, VALID, other, known)
  want = [[-1, -2, 2], [-0.5, -0.5, -0.5], [0, 0, 0]]
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_the_length_weighted_baseline_is_the_minimiser():
  """Of sum_g L_g (r_g - b)^2, found in float64 without its derivative."""
  optimize = pytest.importorskip("scipy.optimize")
  rng = np.random.default_rng(0)
  reward = rng.normal(size=(4, 5)) + 3
  length = rng.integers(1, 50, (4, 5))
  valid = rng.random((4, 5)) > 0.3
  valid[0] = [False, False, True, False, False]
  got = advantage.minus_length_weighted(
    np.where(valid, reward, np.nan).astype(np.float32), valid, length
  )
  assert not np.any(got[0]) and not np.any(np.asarray(got)[~valid])
  for b in range(1, 4):
    r, weight = reward[b, valid[b]], length[b, valid[b]]
    cost = lambda x, r=r, w=weight: w @ (r - x) ** 2
    best = optimize.minimize_scalar(cost).x
    # The minimiser is found to the root of the float64 rounding.
    np.testing.assert_allclose(
      np.asarray(got)[b, valid[b]], r - best, atol=1e-5
    )
    assert abs(best - r.mean()) > 1e-3


def test_equal_lengths_weigh_as_the_group_mean():
  got = advantage.minus_length_weighted(DIRTY, VALID, np.full((3, 3), 7))
  want = _adv(DIRTY, VALID, center="mean", scale="none")
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_the_length_weighted_baseline_has_the_least_variance():
  """Bernoulli tokens with independent scores; rewards fall with length."""
  rng = np.random.default_rng(0)
  length = rng.choice([1, 4, 16], (4000, 8))
  reward = np.float32(rng.normal(size=length.shape) + 8.0 / length)
  # The score of an answer is a sum of `length` random unit vectors.
  score = np.sqrt(length)[..., None] * rng.normal(size=(*length.shape, 8))

  def variance(a):
    return np.mean(np.square(np.asarray(a)[..., None] * score))

  valid = _valid(reward)
  ours = variance(advantage.minus_length_weighted(reward, valid, length))
  assert ours < 0.85 * variance(_adv(reward, scale="none"))


def test_rescaled_mean_by_hand():
  # One prompt of three varies: 3 x (r - 5 / 3).
  got = advantage.rescaled_mean(DIRTY, VALID)
  np.testing.assert_allclose(got, [[-2, -5, 7], [0] * 3, [0] * 3], atol=1e-5)
  two = np.float32([[1.0, 0.0], [3.0, 5.0], [1.0, 1.0], [0.0, 0.0]])
  got = advantage.rescaled_mean(two, _valid(two))
  want = [[1, -1], [-2, 2], [0, 0], [0, 0]]
  np.testing.assert_allclose(got, want, atol=1e-6)
  assert not np.any(advantage.rescaled_mean(two[2:], _valid(two[2:])))


@pytest.mark.parametrize("run", [
  lambda r: advantage.minus_mean(r[0], jnp.ones(3, bool)),
  lambda r: advantage.minus(r, VALID, r[:, :1], VALID[:, :1]),
  lambda r: advantage.minus_length_weighted(r, VALID, jnp.ones((3, 3))),
  lambda r: advantage.rescaled_mean(r, VALID),
])  # fmt: skip
def test_other_baselines_carry_no_gradient(run):
  assert not np.any(jax.grad(lambda r: run(r).sum())(jnp.asarray(REWARD)))
