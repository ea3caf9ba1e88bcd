"""The memoryless source: its draws, its reward, and the list of its answers."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlreward import errors
from rlreward.tasks import memoryless
from rlreward.types import LENGTH, Rollout

P, R = (0.5, 0.3, 0.2), (0.0, 1.0, 2.5)


def made(**changes):
  return memoryless.make({"p": P, "r": R, "length": 4, **changes})


def rollout(tokens):
  tokens = jnp.asarray(tokens, jnp.int32)
  action = jnp.ones(tokens.shape, bool).at[:, 0].set(False)
  n = tokens.shape[0]
  return Rollout(
    tokens=tokens,
    attend=jnp.ones(tokens.shape, bool),
    action=action,
    loss=action,
    logp=jnp.zeros(tokens.shape),
    group=jnp.arange(n),
    finish=jnp.full(n, LENGTH),
    version=jnp.zeros((), jnp.int32),
  )


def test_demonstrations_are_draws_of_the_source():
  rows = next(made().demonstrations("train", 4000, 0))
  assert rows["tokens"].shape == (4000, 5)
  assert not rows["tokens"][:, 0].any() and not rows["loss"][:, 0].any()
  assert rows["attend"].all() and rows["loss"][:, 1:].all()
  share = np.bincount(rows["tokens"][:, 1:].ravel(), minlength=3) / 16_000
  # Five standard errors of a share of 16,000 draws.
  np.testing.assert_allclose(share, P, atol=5 * 0.5 / 16_000**0.5)


def test_the_reward_is_the_sum_over_actions_alone():
  score = made().reward(rollout([[2, 0, 1, 2, 2], [0, 0, 0, 0, 0]]), {})
  np.testing.assert_allclose(score.value, [6.0, 0.0])
  np.testing.assert_allclose(score.components["token/2"], [0.5, 0.0])
  assert score.valid.all()


def test_the_list_of_answers_is_complete():
  task = made()
  batch = next(task.batches("test", 2, 0))
  found = task.spec["outcomes"](batch)
  assert found.tokens.shape == (2, 81, 4) and found.rest is None
  assert len(np.unique(found.tokens[0], axis=0)) == 81
  chance = np.asarray(P)[found.tokens].prod(-1)
  np.testing.assert_allclose(chance.sum(1), 1, rtol=1e-6)
  np.testing.assert_allclose(
    (chance * found.reward).sum(1), 4 * np.dot(P, R), rtol=1e-6
  )


def test_long_answers_are_not_listed():
  assert "outcomes" not in made(length=12).spec
  assert "outcomes" in made(length=9).spec  # 19,683


def test_the_iterator_resumes_and_processes_share_a_batch():
  task = made()
  stream = task.demonstrations("train", 6, 3)
  next(stream)
  place = stream.get_state()
  wanted = next(stream)
  again = task.demonstrations("train", 6, 3)
  again.set_state(place)
  np.testing.assert_array_equal(next(again)["tokens"], wanted["tokens"])
  halves = [
    memoryless.make(
      {"p": P, "r": R, "length": 4}, process_index=i, process_count=2
    ).demonstrations("train", 6, 3)
    for i in range(2)
  ]
  first = np.concatenate([next(h)["tokens"] for h in halves])
  np.testing.assert_array_equal(
    first, next(task.demonstrations("train", 6, 3))["tokens"]
  )
  other = made(length=5).demonstrations("train", 6, 3)
  with pytest.raises(errors.UserError, match="digest"):
    other.set_state(place)


def test_splits_differ():
  draws = [next(made().demonstrations(s, 50, 0)) for s in ("train", "test")]
  assert (draws[0]["tokens"] != draws[1]["tokens"]).any()


@pytest.mark.parametrize(
  "changes",
  [
    {"p": (0.5, 0.6), "r": (0.0, 1.0)},
    {"p": (1.0, 0.0), "r": (0.0, 1.0)},
    {"p": (1.0,), "r": (1.0,)},
    {"r": (0.0, 1.0)},
    {"r": (0.0, 1.0, float("nan"))},
    {"length": 0},
    {"length": 2.5},
    {"size": 3},
  ],
)
def test_fields_that_cannot_work_are_refused(changes):
  with pytest.raises(errors.UserError):
    made(**changes)


def test_an_unknown_split_is_refused():
  with pytest.raises(errors.UserError, match="validation"):
    made().batches("validation", 2, 0)
