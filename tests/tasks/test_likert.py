"""Likert: listed answers, their laws, and ratings with holes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from rlreward import errors
from rlreward.tasks import likert
from rlreward.types import LENGTH, Rollout


def section(**changes):
  return {**likert.defaults(), **changes}


def test_attributes_are_spread_evenly():
  table = likert.attributes(section())
  assert table.shape == (4, 64, 5)
  even = 4 * (np.arange(64) + 0.5) / 64
  np.testing.assert_allclose(
    np.sort(table, 1), np.broadcast_to(even[:, None], table.shape)
  )
  np.testing.assert_array_equal(table, likert.attributes(section()))
  assert not np.array_equal(table, likert.attributes(section(world=1)))


def test_letters_explain_attributes_unless_they_interact():
  def explained(c):
    table = likert.attributes(c).reshape(-1, 8, 8, 5)
    mean = lambda axis: table.mean(axis, keepdims=True)
    fit = mean(1) + mean(2) - mean((1, 2))
    return 1 - np.var(table - fit) / np.var(table)

  alone, mixed = (explained(section(interaction=x)) for x in (0.0, 3.0))
  assert alone > 0.9 and mixed < 0.5


def test_the_prior_is_a_law():
  prior = likert.log_prior(section())
  np.testing.assert_allclose(np.exp(prior).sum(1), 1)
  assert prior.shape == (4, 64) and np.exp(prior).max() < 0.5


def test_demonstrations_are_of_the_tilted_prior():
  c = section(prompts=1)
  task = likert.make(c)
  assert task.demonstrations is not None
  batch = next(task.demonstrations("train", 40_000, 0))
  place = batch["tokens"][:, 1] * 8 + batch["tokens"][:, 2]
  found = np.bincount(place, minlength=64) / 40_000
  want = special.softmax(likert.tilted(c)[0])
  # Five standard errors of the largest share.
  np.testing.assert_allclose(found, want, atol=0.01)
  assert not batch["loss"][:, 0].any() and batch["loss"][:, 1:].all()


def test_ratings_are_whole_with_holes():
  c = section(ratings=4000)
  task = likert.make(c)
  assert task.labelled is not None
  target = next(task.labelled("train", 4000, 0))["target"]
  gone = np.isnan(target)
  assert abs(gone.mean() - 0.3) < 0.02
  assert set(np.unique(target[~gone])) == {0.0, 1.0, 2.0, 3.0, 4.0}
  filled = likert.make({**c, "fill": "zero"})
  assert filled.labelled is not None
  other = next(filled.labelled("train", 4000, 0))["target"]
  assert not np.isnan(other).any()
  np.testing.assert_array_equal(other[~gone], target[~gone])
  assert (other[gone] == 0).all()


def test_training_ratings_are_the_same_in_every_epoch():
  task = likert.make(section(ratings=64))
  assert task.labelled is not None
  stream = task.labelled("train", 64, 3)
  key = lambda b: sorted(
    map(str, np.concatenate([b["tokens"], b["target"]], 1).tolist())
  )
  assert key(next(stream)) == key(next(stream))


def test_held_out_answers_are_pairs_without_noise():
  task = likert.make(section())
  assert task.labelled is not None
  batch = next(task.labelled("test", 256, 0))
  assert (batch["tokens"][0::2, 0] == batch["tokens"][1::2, 0]).all()
  np.testing.assert_array_equal(batch["target"], batch["gold"])
  place = batch["tokens"][:, 1] * 8 + batch["tokens"][:, 2]
  table = likert.attributes(section())
  kind = batch["tokens"][:, 0] - 8
  np.testing.assert_allclose(batch["gold"], table[kind, place], rtol=1e-6)


def test_the_reward_reads_the_table():
  c = section()
  task = likert.make(c)
  tokens = jnp.asarray([[10, 3, 4], [8, 7, 7], [9, 8, 0]], jnp.int32)
  action = jnp.ones((3, 3), bool).at[:, 0].set(False)
  rollout = Rollout(
    tokens=tokens,
    attend=jnp.ones((3, 3), bool),
    action=action,
    loss=action,
    logp=jnp.zeros((3, 3)),
    group=jnp.arange(3),
    finish=jnp.full(3, LENGTH),
    version=jnp.zeros((), jnp.int32),
  )
  batch = {"kind": jnp.asarray([2, 0, 1])}
  score = jax.jit(task.reward)(rollout, batch)
  table, prior = likert.attributes(c), likert.log_prior(c)
  for row, (kind, place) in enumerate([(2, 28), (0, 63)]):
    own = table[kind, place]
    want = 0.65 * own[0] + 0.8 * own[1] + 0.45 * own[2]
    assert float(score.value[row]) == pytest.approx(want, rel=1e-5)
    got = [float(score.components[n][row]) for n in likert.NAMES]
    np.testing.assert_allclose(got, own, rtol=1e-5)
    logp = float(score.components["prior_logp"][row])
    assert logp == pytest.approx(prior[kind, place], rel=1e-5)
  # Letter 8 does not exist.
  assert float(score.value[2]) == 0
  assert float(score.components["prior_logp"][2]) == -100


def test_prompts_are_even_and_hosts_get_their_slices():
  task = likert.make(section())
  batch = next(task.batches("test", 64, 0))
  assert (np.bincount(batch["kind"]) == 16).all()
  np.testing.assert_array_equal(batch["prompt"][:, 0], 8 + batch["kind"])
  half = likert.make(section(), process_index=1, process_count=2)
  part = next(half.batches("test", 64, 0))
  np.testing.assert_array_equal(part["kind"], batch["kind"][32:])


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("prompts", 0),
    ("letters", 1),
    ("letters", 100),
    ("ratings", 2.5),
    ("noise", -1.0),
    ("missing", 1.0),
    ("interaction", float("inf")),
    ("tilt", float("nan")),
    ("fill", "mean"),
  ],
)
def test_bad_fields_are_refused(field, value):
  with pytest.raises(errors.UserError, match=field):
    likert.make(section(**{field: value}))
