"""The world of filler: its scores, its demonstrations, what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlreward import errors
from rlreward.tasks import filler
from rlreward.types import LENGTH, Rollout

NAN = np.nan


def made(**changes):
  return filler.make({"problems": 3, "words": 2, "length": 4, **changes})


def rollout(tokens, action):
  tokens = jnp.asarray(tokens, jnp.int32)
  action = jnp.asarray(action, bool)
  n = tokens.shape[0]
  return Rollout(tokens, action, action, action, jnp.zeros(tokens.shape),
                 jnp.arange(n), jnp.full(n, LENGTH), jnp.zeros(()))  # fmt: skip


def test_scores_by_hand():
  # Problem 1 is asked; 4 answers it, 3 and 5 are wrong, 6 and 7 are words.
  rows = rollout(
    [[1, 6, 0, 4, 0], [1, 5, 0, 0, 0], [1, 7, 7, 7, 7], [1, 4, 4, 4, 4]],
    [[0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]],
  )
  score = made().reward(rows, {})
  np.testing.assert_allclose(score.value, [1, 0, 0, 0])
  np.testing.assert_allclose(score.components["solved"], [1, 1, 0, 0])
  want = [[NAN, 0.9, 0.9, 0.8, NAN], [NAN, 0.3, NAN, NAN, NAN],
          [NAN, 0.9, 0.9, 0.9, 0.9], [NAN] * 5]  # fmt: skip
  np.testing.assert_allclose(score.tokens, want, atol=1e-7)
  np.testing.assert_allclose(
    score.components["score"], [2.6 / 3, 0.3, 0.9, 0.0], atol=1e-6
  )
  assert score.valid.all()


def test_demonstrations_stop_as_they_should():
  task = made(stop=0.5, wrong=0.25)
  batch = next(task.demonstrations("train", 4000, 0))
  answers = (batch["tokens"] >= 3) & (batch["tokens"] < 6) & batch["loss"]
  assert (answers.sum(1) == 1).all()  # the last token, and none before it
  last = batch["attend"].sum(1) - 1
  assert answers[np.arange(4000), last].all()
  # 1/2, 1/4, 1/8 and the rest; three standard errors of 4,000 draws.
  share = np.bincount(last, minlength=5)[1:] / 4000
  np.testing.assert_allclose(share, [0.5, 0.25, 0.125, 0.125], atol=0.024)
  right = batch["tokens"][np.arange(4000), last] == batch["tokens"][:, 0] + 3
  assert right.mean() == pytest.approx(0.75, abs=0.021)
  assert task.spec["stop_ids"] == (3, 4, 5) and task.spec["vocab_size"] == 8


def test_batches_are_the_same_again():
  a, b = (next(made().batches("test", 8, 3)) for _ in range(2))
  np.testing.assert_array_equal(a["prompt"], b["prompt"])
  assert a["prompt"].max() < 3


@pytest.mark.parametrize(
  ("changes", "word"),
  [
    ({"problems": 0}, "problems"),
    ({"words": 0.5}, "words"),
    ({"length": 0}, "length"),
    ({"scores": (0.9, 0.8)}, "scores"),
    ({"scores": (0.9, 0.8, NAN)}, "scores"),
    ({"stop": 0.0}, "stop"),
    ({"wrong": 1.5}, "wrong"),
  ],
)
def test_fields_that_cannot_be_are_refused(changes, word):
  with pytest.raises(errors.UserError, match=word):
    made(**changes)
