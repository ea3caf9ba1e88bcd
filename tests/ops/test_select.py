"""Selectors against loops and exact laws; NaN, ties and empty groups.

Frequencies come from 8192 keys: 5 standard deviations of one are at most
5 * sqrt(.25 / 8192) = .028.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.ops import select

KEY = jax.random.key(0)
KEYS = jax.random.split(jax.random.key(1), 8192)
TOL = 0.028
NAN, INF = np.nan, np.inf


def _f(*rows):
  return jnp.asarray(rows, jnp.float32)


def _b(*rows):
  return jnp.asarray(rows, bool)


def _many(f):
  """f of every key, compiled once."""
  return jax.tree.map(np.asarray, jax.jit(jax.vmap(f))(KEYS))


def _shares(index, size):
  return np.bincount(np.ravel(index), minlength=size) / np.size(index)


# Rows: plain, a NaN on top, an invalid top, all NaN, none valid, one valid,
# "dropped" by -inf, +inf is a reward.
REWARD = _f(
  [1, 4, 2, 3],
  [1, NAN, 2, 0],
  [1, 9, -2, 3],
  [NAN] * 4,
  [1, 2, 3, 4],
  [NAN, 5, 6, 7],
  [-INF, 2, 1, -INF],
  [INF, 1, 0, 2],
)
VALID = _b(
  [1, 1, 1, 1],
  [1, 1, 1, 1],
  [1, 0, 1, 1],
  [1, 1, 1, 1],
  [0, 0, 0, 0],
  [0, 1, 0, 0],
  [1, 1, 1, 1],
  [1, 1, 1, 1],
)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_best_worst_and_pair(wrap):
  best, keep = wrap(select.best_of_k)(REWARD, VALID, KEY)
  np.testing.assert_array_equal(best, [1, 2, 3, 0, 0, 1, 1, 0])
  np.testing.assert_array_equal(keep, [1, 1, 1, 0, 0, 1, 1, 1])
  worst, keep = wrap(select.worst_of_k)(REWARD, VALID, KEY)
  np.testing.assert_array_equal(worst, [0, 3, 2, 0, 0, 1, 2, 2])
  np.testing.assert_array_equal(keep, [1, 1, 1, 0, 0, 1, 1, 1])
  high, low, keep = wrap(select.best_worst_pair)(REWARD, VALID, KEY)
  np.testing.assert_array_equal(high, best)
  np.testing.assert_array_equal(low, worst)
  np.testing.assert_array_equal(keep, [1, 1, 1, 0, 0, 0, 1, 1])


def test_a_pair_of_equals_is_dropped():
  _, _, keep = select.best_worst_pair(_f([2, 2, 2]), _b([1, 1, 1]), KEY)
  assert not keep[0]


@pytest.mark.parametrize("choose", [select.best_of_k, select.worst_of_k])
def test_ties_are_uniform(choose):
  reward = _f([2, NAN, 2, 2, 2])
  index, _ = _many(lambda k: choose(reward, _b([1, 1, 0, 1, 1]), k))
  np.testing.assert_allclose(
    _shares(index, 5), [1 / 3, 0, 0, 1 / 3, 1 / 3], atol=TOL
  )


def test_integers_bools_and_bfloat16_are_rewards():
  valid = _b([1, 1, 1])
  for dtype in (jnp.int32, jnp.bool_, jnp.bfloat16):
    reward = jnp.asarray([[0, 1, 0]]).astype(dtype)
    assert select.best_of_k(reward, valid, KEY)[0][0] == 1


@pytest.mark.parametrize("fraction", [0.1, 0.2, 1 / 3, 0.5, 0.7, 1.0])
def test_top_fraction_takes_the_ceiling(fraction):
  rng = np.random.default_rng(0)
  for n in (1, 3, 10, 30):
    reward = jnp.asarray(rng.normal(size=40), jnp.float32)
    valid = jnp.asarray(rng.permutation(40) < n)
    kept = np.asarray(select.top_fraction(reward, valid, fraction, KEY))
    # Thirds apart, these products are exact in decimal.
    size = int(np.ceil(round(fraction * n, 6)))
    assert kept.sum() == size and not np.any(kept & ~np.asarray(valid))
    rest = np.asarray(valid) & ~kept
    if rest.any():
      assert np.asarray(reward)[kept].min() > np.asarray(reward)[rest].max()


def test_top_fraction_breaks_ties_by_key_and_knows_nan():
  reward = _f([3, 1, 1, 1, NAN, 0])[0]
  f = functools.partial(select.top_fraction, reward, _b([1] * 5 + [1])[0], 0.4)
  kept = _many(f)
  np.testing.assert_array_equal(kept.sum(axis=1), 2)
  np.testing.assert_allclose(
    kept.mean(axis=0), [1, 1 / 3, 1 / 3, 1 / 3, 0, 0], atol=TOL
  )


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.2])
def test_top_fraction_refuses(fraction):
  with pytest.raises(ValueError, match="fraction"):
    select.top_fraction(REWARD[0], VALID[0], fraction, KEY)


def test_threshold_is_inclusive():
  got = select.threshold(_f([1, 2, NAN, 3])[0], _b([1, 1, 1, 0])[0], 2.0)
  np.testing.assert_array_equal(got, [0, 1, 0, 0])


def test_correct_caps_distinct_right_samples():
  reward = _f([1, 1, 1, 0, 1, NAN, 1], [0] * 7, [1, 0, 0, 0, 0, 0, 0])
  valid = _b([1, 1, 1, 1, 1, 1, 0], [1] * 7, [1] * 7)
  copy = _b([0, 1, 0, 0, 0, 0, 0], [0] * 7, [0] * 7)
  kept = _many(lambda k: select.correct(reward, valid, copy, 2, k))
  np.testing.assert_array_equal(
    kept.sum(axis=2), np.tile([2, 0, 1], (len(KEYS), 1))
  )
  np.testing.assert_allclose(
    kept[:, 0].mean(axis=0), [2 / 3, 0, 2 / 3, 0, 2 / 3, 0, 0], atol=TOL
  )
  wide = select.correct(reward, valid, copy, 9, KEY, at=0.0)
  np.testing.assert_array_equal(wide[0], [1, 0, 1, 1, 1, 0, 0])


def test_duplicates_compare_what_the_mask_holds():
  tokens = jnp.asarray(
    [[[5, 6, 0], [5, 6, 9], [5, 6, 0], [5, 7, 0], [5, 6, 0]]]
  )
  mask = _b([[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]])
  got = jax.jit(select.duplicates)(tokens, mask)
  np.testing.assert_array_equal(got, [[0, 1, 0, 0, 0]])
  valid = _b([0, 1, 1, 1, 1])
  np.testing.assert_array_equal(
    select.duplicates(tokens, mask, valid), [[0, 0, 0, 0, 0]]
  )


def test_duplicates_against_a_loop():
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 2, (4, 9, 3))
  mask = np.arange(3) < rng.integers(0, 4, (4, 9, 1))
  valid = rng.uniform(size=(4, 9)) < 0.8
  want = np.zeros((4, 9), bool)
  for b in range(4):
    seen = set()
    for k in range(9):
      text = tuple(tokens[b, k][mask[b, k]])
      want[b, k] = valid[b, k] and text in seen
      seen |= {text} if valid[b, k] else set()
  np.testing.assert_array_equal(
    select.duplicates(*map(jnp.asarray, (tokens, mask, valid))), want
  )


def test_without_replacement_has_the_plackett_luce_law():
  reward, valid = _f([0, 1, NAN, 2, 9]), _b([1, 1, 1, 1, 0])
  got = _many(lambda k: select.without_replacement(reward, valid, 2, 1.5, k)[0])
  assert np.all(got[:, 0] != got[:, 1])
  w = np.exp(np.array([0, 1, -INF, 2, -INF]) / 1.5)
  w /= w.sum()
  for a in (0, 1, 3):
    for b in (0, 1, 3):
      share = np.mean((got[:, 0] == a) & (got[:, 1] == b))
      want = 0 if a == b else w[a] * w[b] / (1 - w[a])
      np.testing.assert_allclose(share, want, atol=TOL)


def test_without_replacement_runs_out_of_samples():
  got = select.without_replacement(REWARD, VALID, 3, 0.0, KEY)
  want = [
    [1, 3, 2], [2, 0, 3], [3, 0, 2], [0, 0, 0],
    [0, 0, 0], [1, 1, 1], [1, 2, 1], [0, 3, 1],
  ]  # fmt: skip
  np.testing.assert_array_equal(got, want)
  with pytest.raises(ValueError, match="k must"):
    select.without_replacement(REWARD, VALID, 5, 1.0, KEY)


@pytest.mark.parametrize("beta", [0.0, 1e-30, 0.7, INF])
def test_soft_best_of_n(beta):
  reward, valid = _f([100, 102, 102, NAN, 101, 7]), _b([1, 1, 1, 1, 1, 0])
  index = _many(lambda k: select.soft_best_of_n(reward, valid, beta, k))
  gap = np.array([-2, 0, 0, -INF, -1, -INF])
  if beta == INF:
    w = np.isfinite(gap).astype(float)
  else:
    w = np.where(gap == 0, 1, np.exp(gap / max(beta, 1e-3)))
  np.testing.assert_allclose(_shares(index, 6), w / w.sum(), atol=TOL)


def test_votes():
  answer = jnp.asarray([[7, -3, 7, -3, -3], [7, -3, 7, 1, 1], [4, 4, 4, 4, 4]])
  valid = _b([1, 1, 1, 0, 0], [1, 1, 0, 0, 1], [0, 0, 0, 0, 0])
  first = select.majority(answer, valid, None, none=-99)
  np.testing.assert_array_equal(first, [7, 7, -99])
  drawn = _many(lambda k: select.majority(answer, valid, k))
  np.testing.assert_array_equal(drawn[:, 0], 7)
  for a in (7, -3, 1):
    assert abs(np.mean(drawn[:, 1] == a) - 1 / 3) < TOL
  weight = _f([1, 5, 3, 9, 9], [-1, -2, 0, 0, NAN], [1] * 5)
  got = jax.jit(select.weighted_vote)(answer, weight, valid, KEY)
  np.testing.assert_array_equal(got, [-3, 7, -1])


def test_ties_of_votes_are_between_answers_not_samples():
  """.1 + .2 ties with .3 up to rounding, and 2 samples weigh as much as 1."""
  answer = jnp.asarray([[5, 6, 5, 8]])
  weight = _f([0.1, 0.3, 0.2, 0.29])
  valid = jnp.ones((1, 4), bool)
  got = _many(lambda k: select.weighted_vote(answer, weight, valid, k))
  assert abs(np.mean(got == 5) - 0.5) < TOL
  assert abs(np.mean(got == 6) - 0.5) < TOL
  assert select.weighted_vote(answer, weight, valid, None)[0] == 5


def test_running_best_over_chunks_equals_best_of_all():
  rng = np.random.default_rng(0)
  reward = rng.integers(0, 3, (3, 12)).astype(np.float32)
  valid = rng.uniform(size=(3, 12)) < 0.6
  valid[2] = False
  place = np.broadcast_to(np.arange(12), (3, 12))

  def run(key):
    best = select.nothing_yet({"at": jnp.full((3, 2), -1)})
    keys = jax.random.split(key, 4)
    for i, k in enumerate(keys):
      part = lambda x, i=i: jnp.asarray(x[:, 3 * i : 3 * i + 3])
      payload = {"at": jnp.stack([part(place)] * 2, axis=-1)}
      best = select.running_best(best, part(reward), payload, part(valid), k)
    return best

  best = _many(run)
  for b in range(2):
    top = reward[b][valid[b]].max()
    tied = valid[b] & (reward[b] == top)
    np.testing.assert_array_equal(best.reward[:, b], top)
    np.testing.assert_array_equal(best.count[:, b], tied.sum())
    np.testing.assert_allclose(
      _shares(best.payload["at"][:, b], 12), tied / tied.sum(), atol=TOL
    )
  assert np.all(best.reward[:, 2] == -INF) and np.all(best.count[:, 2] == 0)
  assert np.all(best.payload["at"][:, 2] == -1)


def test_rounds_of_best_of_k_follow_the_power_law():
  """K = 4 once: (.5, .3, .2) -> (.0625, .3471, .5904); ties are the point."""
  draw = lambda k: jax.random.categorical(k, jnp.log(_f([0.5, 0.3, 0.2])[0]),
                                          shape=(1, 4))  # fmt: skip

  def one(key):
    a, b = jax.random.split(key)
    sample = draw(a)
    index, _ = select.best_of_k(sample * 1.0, sample > -1, b)
    return sample[0, index[0]]

  want = [0.0625, 0.3471, 0.5904]
  np.testing.assert_allclose(_shares(_many(one), 3), want, atol=TOL)
