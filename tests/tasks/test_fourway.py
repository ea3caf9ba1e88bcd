"""Items of four, ties and pools: what is right, and what is there."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlreward import errors
from rlreward.steps import study
from rlreward.tasks import fourway, topics
from rlreward.types import Rollout

C = fourway.defaults()
TABLE = topics.worth(topics.defaults())


def held(size=60, **changes):
  task = fourway.make({"name": "fourway", **changes})
  return next(task.preferences("test", size, 0))


def test_a_batch_has_its_units():
  batch = held(65)  # 130 rows: two units of 58, and 14 rows of pairs
  assert (batch["valid"] == (np.arange(130) < 14)).all()
  item = batch["item"]
  assert (item[:14] == -1).all() and (item[-64:] == -1).all()
  assert np.bincount(item[item >= 0]).tolist() == [4] * 10 + [6] * 2
  assert (batch["pool"][-64:] == np.repeat(np.arange(4), 16)).all()
  assert (batch["pool"][:-64] == -1).all()
  right = np.bincount(item[item >= 0], batch["right"][item >= 0])
  assert right.tolist() == [1] * 10 + [3] * 2
  pairs = batch["gold"][:14].reshape(-1, 2)
  assert (pairs[:, 0] >= pairs[:, 1]).all()
  gold = TABLE[batch["tokens"][:, 2:-1]].sum(1)
  np.testing.assert_allclose(batch["gold"], gold, atol=1e-5)


def test_the_right_answer_is_the_best_alone():
  text, group = fourway.fours(C, 100, np.random.default_rng(0))
  gold = TABLE[text].sum(-1)
  assert (gold[:, :1] > gold[:, 1:] + 1e-5).all()
  assert np.bincount(group).tolist() == [20] * 5
  for place, differ in enumerate(fourway.DIFFER.values()):
    for one in text[group == place]:
      for other in one[1:]:
        shared = sum(
          min((one[0] == w).sum(), (other == w).sum()) for w in np.unique(other)
        )
        assert shared >= (4 - differ if differ else 0)


def test_right_answers_of_a_tie_are_worth_the_same():
  text = fourway.ties(C, 50, np.random.default_rng(0))
  gold = TABLE[text].sum(-1)
  assert text.shape == (50, 6, 4)
  assert np.ptp(gold[:, :3], axis=1).max() < 1e-5
  assert (gold[:, 3:] < gold[:, :1] - 1e-5).all()
  assert (text[:, 0] != text[:, 1]).any(1).mean() > 0.9


def run(score, batch):
  columns = study.items(score, batch, fourway.GROUPS)
  return study.run(columns, "rewardbench2")


def test_a_scorer_that_knows_the_gold_gets_all():
  batch = held(900)
  found = run(batch["gold"].astype(np.float64).round(4), batch)
  for name in fourway.DIFFER:
    assert found[name] == 1
  # 0.3 + 0.3 + 0.2 + 0.2, and 0.01 tanh(gap / 0 - 1) = 0.01.
  assert found["Ties"] == pytest.approx(1.01)
  assert found["total"] == pytest.approx(6.01 / 6)


def test_scorers_that_know_nothing_get_chance():
  batch = held(3000)
  found = run(np.zeros(6000), batch)
  assert all(found[name] == 0.25 for name in fourway.DIFFER)
  assert found["Ties"] == 0
  several = [
    run(np.random.default_rng(i).normal(size=6000), batch) for i in range(10)
  ]
  mean = lambda name: np.mean([f[name] for f in several])
  for name in fourway.DIFFER:  # 800 items, a deviation of 0.015
    assert mean(name) == pytest.approx(0.25, abs=0.05)
  assert mean("ties/ref") == pytest.approx(0.25, abs=0.05)
  assert mean("ties/tied") == pytest.approx(1 / 20, abs=0.03)


def test_right_answers_drawn_by_lot_are_any_of_the_four():
  batch = held(3000, right="any")
  own = (batch["item"] >= 0) & (batch["kind"] == -1)
  gold = batch["gold"][own].reshape(-1, 4)
  first = (gold[:, 0] >= gold.max(1) - 1e-6).mean()
  assert first == pytest.approx(0.25, abs=0.07)  # 3 standard errors


def test_training_pairs_are_numbered_and_the_same_in_every_epoch():
  task = fourway.make({"name": "fourway", "pairs": 8})
  stream = task.preferences("train", 8, 0)
  one, two = next(stream), next(stream)
  order = lambda b: b["tokens"][0::2][np.argsort(b["row"][0::2])]
  assert (order(one) == order(two)).all()
  assert (one["row"][0::2] == one["row"][1::2]).all()
  assert (one["tokens"][:, 1] == topics.PLAIN).all()


def test_the_reward_is_the_gold():
  task = fourway.make(None)
  batch = held(60)
  tokens = jnp.asarray(batch["tokens"])
  action = jnp.broadcast_to(jnp.arange(tokens.shape[1]) > 0, tokens.shape)
  row = jnp.zeros(len(tokens), jnp.int32)
  rollout = Rollout(
    tokens, action, action, action, action * 0.0, row, row, row[0]
  )
  value = np.asarray(task.reward(rollout, {}).value)
  np.testing.assert_allclose(value, batch["gold"], atol=1e-5)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"topics": 3}, "topics=3"),
    ({"pairs": 0.5}, "pairs=0.5"),
    ({"noise": -0.1}, "noise=-0.1"),
    ({"right": "worst"}, "right='worst'"),
    ({"bias": 1.0}, "no field 'bias'"),
  ],
)
def test_what_cannot_be_is_refused(changes, said):
  with pytest.raises(errors.UserError, match=said):
    fourway.make({"name": "fourway", **changes})
