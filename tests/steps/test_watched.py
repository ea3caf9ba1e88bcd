"""What a run watches for hacking, by hand: shares, collapse, drift, ends."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlreward import metrics
from rlreward.rewards import saturation
from rlreward.steps import rollouts
from rlreward.types import LENGTH, STOP, Rollout, Score


def rollout(lengths, finish):
  n, slots = len(lengths), 4
  action = np.arange(slots) < np.asarray(lengths)[:, None]
  return Rollout(
    tokens=jnp.ones((n, slots), jnp.int32),
    attend=jnp.asarray(action),
    action=jnp.asarray(action),
    loss=jnp.asarray(action),
    logp=jnp.zeros((n, slots)),
    group=jnp.arange(n) // 2,
    finish=jnp.asarray(finish),
    version=jnp.zeros((), jnp.int32),
  )


def test_shares_of_parts_and_groups_without_a_gradient():
  gold = np.array([0.0, 2.0, 1.0, 1.0, 9.0, 3.0], np.float32)
  bias = np.array([1.0, 3.0, 2.0, 2.0, 9.0, np.nan], np.float32)
  total = np.where(np.isnan(bias), 3.0, gold + bias)
  valid = np.array([True, True, True, True, False, True])
  score = Score(
    jnp.asarray(total),
    jnp.asarray(valid),
    None,
    {"gold": jnp.asarray(gold), "bias": jnp.asarray(bias)},
  )
  rows = rollout([1, 2, 3, 4, 4, 4], [STOP] * 4 + [LENGTH] * 2)
  found = rollouts.describe(rows, score, 2)
  # Of groups of two the first varies, the second does not, the third has one
  # row that is judged.
  assert float(found["group_collapse"]) == pytest.approx(2 / 3)
  assert float(found["truncated"]) == pytest.approx(2 / 6)
  assert float(found["length"]) == pytest.approx(3.0)
  cov = np.cov(gold[valid], total[valid], ddof=0)
  want = cov[0, 1] / cov[1, 1]
  assert float(found["reward_share/gold"]) == pytest.approx(want, abs=1e-6)
  # A part is read over the rows that have it.
  known = valid & ~np.isnan(bias)
  cov = np.cov(bias[known], total[known], ddof=0)
  want = cov[0, 1] / cov[1, 1]
  assert float(found["reward_share/bias"]) == pytest.approx(want, abs=1e-6)
  assert float(found["reward/bias"]) == pytest.approx(2.0)


def test_shares_of_a_sum_add_up_to_one():
  rng = np.random.default_rng(0)
  parts = {k: jnp.asarray(rng.normal(size=8), jnp.float32) for k in "abc"}
  score = Score(sum(parts.values()), jnp.ones(8, bool), None, parts)
  found = rollouts.describe(rollout([2] * 8, [STOP] * 8), score, 4)
  total = sum(float(found[f"reward_share/{k}"]) for k in parts)
  assert total == pytest.approx(1, abs=1e-5)
  even = score._replace(value=jnp.ones(8))
  found = rollouts.describe(rollout([2] * 8, [STOP] * 8), even, 4)
  assert float(found["reward_share/a"]) == 0.0
  assert float(found["group_collapse"]) == 1.0


def test_rewards_at_an_end_of_their_range():
  score = Score(jnp.zeros(4), jnp.ones(4, bool))
  r = jnp.asarray([0.0, 0.009, 0.5, 0.995])
  got = saturation.mark(score, [r], (0.0, 1.0))
  want = [1, 1, 0, 1]
  np.testing.assert_array_equal(got.components[saturation.NAME], want)
  # An open end has no edge; what was saturated before stays so.
  above = saturation.mark(got, [r], (-np.inf, 0.5))
  want = [1, 1, 1, 1]
  np.testing.assert_array_equal(above.components[saturation.NAME], want)
  assert saturation.mark(score, [r], None) is score


def test_length_drift_counts_from_the_first_step_of_the_run(tmp_path):
  def writer(step):
    return metrics.Writer(
      tmp_path, 10, resume_step=step, tensorboard=False, log_every=100
    )

  first = writer(None)
  assert first.drift("length", 3.0) == 0.0
  first.scalars(1, {"length": 3.0})
  assert first.drift("length", 5.0) == 2.0
  first.scalars(2, {"length": 5.0})
  first.close()
  again = writer(2)
  assert again.drift("length", 4.5) == 1.5
  again.close()
