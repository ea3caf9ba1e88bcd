"""Trees of answers against loops, and pairs against their exact law."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.ops import prefix_tree


def spell(key, prefix, level):
  """Two tokens: the level and a draw; a real sampler reads the prefix too."""
  del prefix
  return jnp.stack([jnp.asarray(level), jax.random.randint(key, (), 0, 10**6)])


def grown(depth=3, branch=2, seed=0):
  prompt = jnp.asarray([7, 8], jnp.int32)
  return prefix_tree.prefix_tree_sample(
    jax.random.key(seed), spell, prompt, depth, branch, 2
  )


@pytest.mark.parametrize(("depth", "branch"), [(1, 1), (1, 4), (3, 2), (2, 3)])
def test_leaves_share_the_segments_of_their_common_ancestors(depth, branch):
  leaves, parents = map(np.asarray, grown(depth, branch))
  assert leaves.shape == (branch**depth, 2 * depth)
  assert (leaves[:, ::2] == np.arange(depth)).all()
  # Walk up from each leaf: two of them share a segment where the paths meet.
  count = len(parents)

  def path(node):
    steps = [node]
    while parents[steps[-1]] >= 0:
      steps.append(parents[steps[-1]])
    return steps[::-1][1:]  # without the root

  paths = [path(count - branch**depth + i) for i in range(branch**depth)]
  assert {len(p) for p in paths} == {depth}
  for i, j in itertools.combinations(range(branch**depth), 2):
    same = [a == b for a, b in zip(paths[i], paths[j], strict=True)]
    drawn = leaves[i, 1::2] == leaves[j, 1::2]
    assert drawn.tolist() == same  # draws of 10**6 do not meet by chance


def test_parents_of_a_small_tree_by_hand():
  _, parents = grown(2, 2)
  assert parents.tolist() == [-1, 0, 0, 1, 1, 2, 2]


def test_a_step_sees_the_prompt_and_what_was_said():
  def total(key, prefix, level):
    del key, level
    return jnp.sum(prefix)[None]

  leaves, _ = prefix_tree.prefix_tree_sample(
    jax.random.key(0), total, jnp.asarray([1, 2]), 3, 1, 1
  )
  assert leaves.tolist() == [[3, 6, 12]]


def test_a_tree_compiles_and_is_a_function_of_its_key():
  run = jax.jit(
    lambda k: prefix_tree.prefix_tree_sample(
      k, spell, jnp.zeros(0, jnp.int32), 3, 2, 2
    )[0]
  )
  a, b, other = (
    run(jax.random.key(0)),
    run(jax.random.key(0)),
    run(jax.random.key(1)),
  )
  assert (a == b).all() and (a[:, 1] != other[:, 1]).all()


@pytest.mark.parametrize("sizes", [(0, 2, 2), (2, 0, 2), (2, 2, 0)])
def test_sizes_below_one_are_refused(sizes):
  with pytest.raises(ValueError, match="at least 1"):
    prefix_tree.prefix_tree_sample(
      jax.random.key(0), spell, jnp.zeros(0, jnp.int32), *sizes
    )


def test_a_step_of_another_length_is_refused():
  with pytest.raises(AssertionError):
    prefix_tree.prefix_tree_sample(
      jax.random.key(0), spell, jnp.zeros(0, jnp.int32), 2, 2, 3
    )


def test_pairs_are_different_leaves_of_one_tree_and_never_twice():
  leaves = jnp.arange(12)[:, None]
  tree = jnp.asarray([0] * 4 + [1] * 8)
  pairs = np.asarray(
    prefix_tree.leaf_pairs(jax.random.key(0), leaves, 40, tree)
  )
  some = pairs[pairs[:, 0] >= 0]
  assert len(some) == 6 + 28 and (pairs[34:] == -1).all()
  assert (tree[some[:, 0]] == tree[some[:, 1]]).all()
  assert len({frozenset(p) for p in some.tolist()}) == 34
  assert 0 < (some[:, 0] < some[:, 1]).mean() < 1  # either may be the first


def test_leaves_with_the_same_tokens_are_no_pair():
  leaves = jnp.asarray([[1, 2], [1, 2], [1, 3]])
  pairs = prefix_tree.leaf_pairs(jax.random.key(0), leaves, 3, jnp.zeros(3))
  found = {frozenset(p) for p in pairs.tolist() if p[0] >= 0}
  assert found == {frozenset({0, 2}), frozenset({1, 2})}


def test_pairs_are_uniform_over_the_tree():
  leaves = jnp.arange(6)[:, None]
  draw = lambda k: prefix_tree.leaf_pairs(k, leaves, 2, jnp.zeros(6))
  pairs = jax.vmap(draw)(jax.random.split(jax.random.key(1), 6000))
  count = collections.Counter(map(tuple, np.asarray(pairs).reshape(-1, 2)))
  assert len(count) == 30  # 15 pairs in two orders
  # 400 expected each; five standard deviations of a count.
  assert max(abs(v - 400) for v in count.values()) < 5 * 20


def test_common_prefix_against_a_loop():
  rng = np.random.default_rng(0)
  a, b = rng.integers(0, 2, (2, 50, 6))
  want = [
    next((t for t in range(6) if x[t] != y[t]), 6)
    for x, y in zip(a, b, strict=True)
  ]
  assert prefix_tree.lcp(jnp.asarray(a), jnp.asarray(b)).tolist() == want
  assert int(prefix_tree.lcp(jnp.ones(4), jnp.ones(4))) == 4


def test_differing_segments_by_hand():
  a = jnp.asarray([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]])
  b = jnp.asarray([[1, 2, 9, 9, 5, 6], [1, 9, 3, 4, 9, 6]])
  count = lambda s: prefix_tree.differing_segments(a, b, s).tolist()
  assert count(2) == [1, 2] and count(3) == [2, 2] and count(1) == [2, 2]
  with pytest.raises(ValueError, match="no segments of 4"):
    count(4)
