"""Wrong answers above right ones: by hand and against a loop over pairs."""

import jax.numpy as jnp
import numpy as np

from rlreward.ops.outrank import outranked


def test_by_hand():
  reward = jnp.asarray([[4.0, 6.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
  right = jnp.asarray([[True, False, False, True], [True] * 4])
  found = np.asarray(outranked(reward, right, jnp.ones((2, 4), bool)))
  # One of two wrong ones is above each right one; a tie is not above.
  np.testing.assert_array_equal(found[0], [0.5, np.nan, np.nan, 0.5])
  assert np.isnan(found[1]).all()  # no wrong answer, nothing to be said
  tie = outranked(jnp.ones((1, 2)), right[:1, :2], jnp.ones((1, 2), bool))
  assert float(tie[0, 0]) == 0


def test_against_a_loop_over_pairs():
  rng = np.random.default_rng(0)
  reward = rng.integers(0, 5, (30, 6)).astype(np.float32)
  right, valid = rng.random((2, 30, 6)) < 0.6
  reward[~valid] = np.nan
  found = np.asarray(outranked(*map(jnp.asarray, (reward, right, valid))))
  for b in range(30):
    wrong = [j for j in range(6) if valid[b, j] and not right[b, j]]
    for i in range(6):
      if not (valid[b, i] and right[b, i] and wrong):
        assert np.isnan(found[b, i])
        continue
      share = np.mean([reward[b, j] > reward[b, i] for j in wrong])
      np.testing.assert_allclose(found[b, i], share, rtol=1e-6)
