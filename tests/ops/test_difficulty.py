"""Pass rates and the intervals of difficulty that they lie in, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.ops import difficulty


def test_pass_rates_are_of_the_judged_samples():
  correct = jnp.asarray(
    [[1, 0, 1, 1], [0, 0, 0, 0], [1, jnp.nan, 0, 1], [1] * 4]
  )
  valid = jnp.asarray([[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 1, 0], [0] * 4], bool)
  found = difficulty.pass_rate(correct, valid)
  np.testing.assert_allclose(found, [0.75, 0, 0.5, np.nan])


def test_buckets_against_numpy():
  rate = np.random.default_rng(0).uniform(size=(20, 5)).astype(np.float32)
  edges = (0.1, 0.25, 0.9)
  found = jax.jit(lambda x: difficulty.difficulty_bucket(x, edges))(rate)
  np.testing.assert_array_equal(found, np.digitize(rate, np.float32(edges)))
  assert found.dtype == jnp.int32


def test_edges_belong_to_the_easier_side_and_the_unknown_to_none():
  rate = jnp.asarray([0.0, 0.125, 0.2, 0.5, 0.8, 1.0, jnp.nan])
  found = difficulty.difficulty_bucket(rate, (0.2, 0.8))
  np.testing.assert_array_equal(found, [0, 0, 1, 1, 2, 2, -1])


@pytest.mark.parametrize("edges", [(), (0.5, 0.5), (0.8, 0.2), (-0.1,), (1.1,)])
def test_edges_must_rise_within_shares(edges):
  with pytest.raises(ValueError, match="edges"):
    difficulty.difficulty_bucket(jnp.zeros(2), edges)
