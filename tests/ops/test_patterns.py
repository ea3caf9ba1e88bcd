"""Patterns, repetition and overlap of ids, against plain Python on rows."""

import collections
import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.ops import overlap, patterns, repetition


def rows(seed=0, n=40, length=14, most=3):
  rng = np.random.default_rng(seed)
  ids = rng.integers(0, most, (n, length)).astype(np.int32)
  first = rng.integers(0, 4, n)[:, None]
  last = rng.integers(4, length + 1, n)[:, None]
  slot = np.arange(length)[None]
  return ids, (slot >= first) & (slot < last)


def kept(ids, mask):
  return [list(map(int, r[m])) for r, m in zip(ids, mask, strict=True)]


def slices(row, n):
  return [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]


@pytest.mark.parametrize("pattern", [(1,), (1, 2), (0, 0), (2, 1, 2)])
def test_where_a_pattern_begins(pattern):
  ids, mask = rows()
  found = patterns.count(jnp.asarray(ids), jnp.asarray(mask), pattern)
  want = [slices(r, len(pattern)).count(pattern) for r in kept(ids, mask)]
  np.testing.assert_array_equal(found, want)
  # What stands in slots that do not count is not looked at.
  other = np.where(mask, ids, 1)
  again = patterns.count(jnp.asarray(other), jnp.asarray(mask), pattern)
  np.testing.assert_array_equal(again, want)


def test_phrases_in_any_of_their_ways():
  ids = jnp.asarray([[1, 2, 3, 0], [4, 5, 0, 0], [3, 2, 1, 0]])
  mask = jnp.ones_like(ids, bool).at[1, 1].set(False)
  found = patterns.hits(ids, mask, [[[1, 2], [4]], [[4, 5]], [[2]]])
  np.testing.assert_array_equal(found, [[1, 0, 1], [1, 0, 0], [0, 0, 1]])
  reward = patterns.phrase_reward(found, c=2.5)
  np.testing.assert_allclose(reward, [0.8, 0.4, 0.4])
  np.testing.assert_allclose(
    patterns.phrase_reward(found, 5 / 3), [1, 0.6, 0.6]
  )


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_ngrams_are_those_of_a_counter(n):
  ids, mask = rows(n)
  found = jax.jit(repetition.ngrams, static_argnums=2)(ids, mask, n)
  for i, row in enumerate(kept(ids, mask)):
    c = collections.Counter(slices(row, n))
    again = sum(k > 1 for k in c.values())
    want = (c.total(), len(c), again)
    assert tuple(int(x[i]) for x in found) == want


def test_shares_of_repetition():
  ids, mask = rows(3)
  share = repetition.distinct_share(ids, mask, 3)
  for i, row in enumerate(kept(ids, mask)):
    grams = slices(row, 3)
    want = len(set(grams)) / len(grams) if grams else 1.0
    assert float(share[i]) == pytest.approx(want)
  np.testing.assert_allclose(
    repetition.penalty(ids, mask, 3, 2.0), 2 * (share - 1), atol=1e-6
  )
  one = jnp.zeros((1, 50), jnp.int32)
  full = jnp.ones((1, 50), bool)
  assert float(repetition.distinct_share(one, full, 3)[0]) == pytest.approx(
    1 / 48
  )
  assert float(repetition.repeated_share(one, full, 20)[0]) == pytest.approx(
    1 / 31
  )
  assert float(repetition.repeated_share(one[:, :10], full[:, :10])[0]) == 0
  with pytest.raises(ValueError, match="size 0"):
    repetition.ngrams(ids, mask, 0)


def test_the_same_gram_without_a_gap():
  loop = jnp.asarray([[1, 2, 1, 2, 1, 2], [1, 2, 3, 1, 2, 3]])
  full = jnp.ones_like(loop, bool)
  # [1 2][1 2], [2 1][2 1] and [1 2][1 2] of three pairs; none in the other.
  np.testing.assert_allclose(repetition.adjacent_share(loop, full, 2), [1, 0])
  np.testing.assert_allclose(repetition.adjacent_share(loop, full, 4), [0, 0])


def test_overlap_is_that_of_counters():
  rng = random.Random(0)
  for size in itertools.product(range(4), range(5)):
    a = [rng.randrange(3) for _ in range(size[0])]
    b = [rng.randrange(3) for _ in range(size[1])]
    pad = lambda x: jnp.asarray([[*x, *[7] * (5 - len(x))]])
    there = lambda x: jnp.arange(5)[None] < len(x)
    o = overlap.overlap(pad(a), pad(b), there(a), there(b))
    shared = (collections.Counter(a) & collections.Counter(b)).total()
    assert [float(v[0]) for v in o] == [shared, len(a), len(b)]
    union = len(a) + len(b) - shared
    both = not a and not b
    assert float(overlap.jaccard(o)[0]) == pytest.approx(
      shared / union if union else 1
    )
    assert float(overlap.precision(o)[0]) == pytest.approx(
      shared / len(a) if a else float(both)
    )
    assert float(overlap.recall(o)[0]) == pytest.approx(
      shared / len(b) if b else float(both)
    )
    assert float(overlap.f1(o)[0]) == pytest.approx(
      2 * shared / (len(a) + len(b)) if not both else 1
    )
