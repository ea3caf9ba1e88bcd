"""The world of rewards at odds: its law by brute force, draws and rewards."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from rlreward import errors
from rlreward.tasks import attributes
from rlreward.types import LENGTH, Rollout

SMALL = {"vocab": 5, "length": 3, "scales": (0.5, 2.0), "shift": 1.5}


def made(**changes):
  return attributes.make({**SMALL, **changes})


def rollout(answers):
  answers = np.asarray(answers, np.int32)
  n, t = answers.shape
  tokens = jnp.asarray(np.concatenate([np.zeros((n, 2), int), answers], 1))
  action = jnp.asarray(np.arange(t + 2)[None] >= 2).repeat(n, 0)
  return Rollout(
    tokens=tokens.astype(jnp.int32),
    attend=jnp.ones(tokens.shape, bool),
    action=action,
    loss=action,
    logp=jnp.zeros(tokens.shape),
    group=jnp.arange(n),
    finish=jnp.full(n, LENGTH),
    version=jnp.zeros((), jnp.int32),
  )


def every():
  return np.asarray(list(itertools.product(range(5), repeat=3)))


def test_the_law_of_counts_is_that_of_all_answers():
  found = attributes.law(SMALL)
  p, w = attributes.shares(SMALL), attributes.weights(SMALL)
  np.testing.assert_allclose(p.sum(1), 1)
  np.testing.assert_allclose(np.exp(found.logp).sum(1), 1, rtol=1e-12)
  for kind in range(4):
    chance = p[kind // 2][every()].prod(1)
    scale = (0.5, 2.0)[kind % 2]
    shift = 1.5 * (-1.0) ** (kind % 2 + np.arange(2))
    r = scale * w[every()].sum(1) + shift
    np.testing.assert_allclose(found.mean[kind], chance @ r, rtol=1e-12)
    square = np.exp(found.logp[kind]) @ found.reward[kind] ** 2
    np.testing.assert_allclose(square, chance @ r**2, rtol=1e-12)
    for k in range(2):
      at = found.quantile[kind, k]
      assert chance[r[:, k] <= at + 1e-9].sum() >= 0.85
      assert chance[r[:, k] < at - 1e-9].sum() < 0.85
    dull = r[(every() > 2).all(1)]
    np.testing.assert_allclose(found.neutral[kind], dull[0], rtol=1e-12)


def test_the_sum_and_each_reward_pull_apart():
  # What the world is for: the best answer for the sum is the favoured
  # attribute's loud token, which harms the other; the shared one lifts both.
  w = attributes.weights()
  assert w[0].sum() > w[2].sum() and w[0, 1] < 0 and w[1, 0] < 0
  assert (w[2] > 0).all() and (w[3:] < 0).all()


def test_rewards_and_references_by_hand():
  task = made()
  batch = {"kind": np.asarray([1, 2], np.int32)}  # scales 2 and 0.5
  score = task.reward(rollout([[0, 2, 4], [1, 1, 2]]), batch)
  w = attributes.weights(SMALL)
  first = 2 * (w[0] + w[2] + w[4]) + [-1.5, 1.5]
  want = np.stack([first, 0.5 * (2 * w[1] + w[2]) + [1.5, -1.5]])
  law = attributes.law(SMALL)
  for k, name in enumerate(("help", "harmless")):
    np.testing.assert_allclose(score.components[name], want[:, k], rtol=1e-6)
    for suffix, table in (
      ("reference", law.neutral),
      ("quantile", law.quantile),
    ):
      got = score.components[f"{name}_{suffix}"]
      np.testing.assert_allclose(got, table[[1, 2], k], rtol=1e-6)
  np.testing.assert_allclose(score.value, want.sum(1), rtol=1e-6)
  assert score.valid.all()


def test_gold_is_to_be_above_the_quantile_in_both():
  # All answers to one prompt, weighed by their chance: the base's own numbers.
  task, law = made(), attributes.law(SMALL)
  kind = 3
  batch = {"kind": np.full(125, kind, np.int32)}
  score = task.gold(rollout(every()), batch)
  chance = attributes.shares(SMALL)[kind // 2][every()].prod(1)
  above = (law.reward[kind] > law.quantile[kind] + 1e-9).all(-1)
  want = np.exp(law.logp[kind]) @ above
  np.testing.assert_allclose(chance @ np.asarray(score.value), want, atol=1e-6)
  mean = chance @ np.asarray(score.components["gain"])
  assert abs(mean) < 1e-5
  np.testing.assert_array_equal(
    score.components[f"gain/{kind}"], score.components["gain"]
  )
  assert np.isnan(score.components["gain/0"]).all()
  for name in ("help", "harmless"):
    share = chance @ np.asarray(score.components[f"above/{name}"])
    assert share <= 0.15 + 1e-6


def test_demonstrations_are_draws_of_the_base():
  rows = next(made().demonstrations("train", 8000, 0))
  assert rows["tokens"].shape == (8000, 5)
  assert not rows["loss"][:, :2].any() and rows["loss"][:, 2:].all()
  for favoured in (0, 1):
    drawn = rows["tokens"][rows["tokens"][:, 0] == favoured][:, 2:]
    share = np.bincount(drawn.ravel(), minlength=5) / drawn.size
    # Five standard errors of a share of 12,000 draws.
    want = attributes.shares(SMALL)[favoured]
    np.testing.assert_allclose(share, want, atol=5 * 0.5 / 12_000**0.5)


def test_batches_balance_the_prompts_and_resume():
  task = made()
  batches = task.batches("train", 8, 3)
  first = next(batches)
  assert (np.bincount(first["kind"], minlength=4) == 2).all()
  np.testing.assert_array_equal(first["prompt"][:, 0], first["kind"] // 2)
  np.testing.assert_array_equal(first["prompt"][:, 1], first["kind"] % 2)
  state = batches.get_state()
  second = next(batches)
  other = task.batches("train", 8, 3)
  other.set_state(state)
  np.testing.assert_array_equal(next(other)["kind"], second["kind"])
  test = next(task.batches("test", 8, 3))
  assert not np.array_equal(test["kind"], first["kind"])
  with pytest.raises(errors.UserError):
    task.batches("train", 8, 4).set_state(state)


def test_hosts_read_slices_of_one_batch():
  whole = next(made().batches("train", 8, 0))["kind"]
  parts = [
    next(attributes.make(SMALL, process_index=i, process_count=2)
         .batches("train", 8, 0))["kind"]
    for i in range(2)
  ]  # fmt: skip
  np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_three_rewards_are_as_well():
  names = ("help", "harmless", "honest")
  c = {**SMALL, "names": names}
  score = attributes.make(c).reward(
    rollout([[0, 1, 2]]), {"kind": np.asarray([0], np.int32)}
  )
  assert set(names) <= set(score.components)
  np.testing.assert_allclose(np.exp(attributes.law(c).logp).sum(1), 1)


@pytest.mark.parametrize(
  ("changes", "word"),
  [
    ({"names": ()}, "names"),
    ({"vocab": 3}, "vocab"),
    ({"length": 0}, "length"),
    ({"scales": (1.0, 0.0)}, "scales"),
    ({"shared_share": 0.95}, "shared_share"),
    ({"quantile": 1.0}, "quantile"),
  ],
)
def test_worlds_that_cannot_be_are_refused(changes, word):
  with pytest.raises(errors.UserError, match=word):
    made(**changes)


def test_an_unknown_split_is_refused():
  with pytest.raises(errors.UserError, match="valid"):
    made().batches("valid", 8, 0)
