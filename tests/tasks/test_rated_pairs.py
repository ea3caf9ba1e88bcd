"""Rated pairs: what ratings and preferences each leave out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward import errors
from rlreward.tasks import rated_pairs
from rlreward.types import LENGTH, Rollout


def section(**changes):
  return {**rated_pairs.defaults(), **changes}


def streams(c, split, size, seed=0):
  task = rated_pairs.make(c)
  assert task.labelled is not None and task.preferences is not None
  return (
    next(task.labelled(split, size, seed)),
    next(task.preferences(split, size, seed)),
  )


def test_worth_of_an_answer_has_deviation_one():
  c = section()
  text = rated_pairs.words(c, (20_000,), np.random.default_rng(0))
  gold = rated_pairs.worth(c)[text].sum(-1)
  assert abs(gold.mean()) < 0.03 and abs(gold.std() - 1) < 0.03


def test_the_offset_is_shared_by_the_answers_of_a_prompt():
  def correlation(offset):
    c = section(offset=offset, prompts=20_000, rating_noise=0.0)
    _, rating, _ = rated_pairs.judged(c, np.random.default_rng(0))
    return np.corrcoef(rating.T)[0, 1]

  # Shares of variance 1 of the offset and 1 of the worth; clipping takes some.
  assert abs(correlation(1.0) - 0.5) < 0.05
  assert abs(correlation(0.0)) < 0.03


def test_preferences_are_blind_to_the_offset():
  rng = lambda: np.random.default_rng(0)
  a = rated_pairs.judged(section(), rng())
  b = rated_pairs.judged(section(offset=0.0), rng())
  np.testing.assert_array_equal(a[0], b[0])
  np.testing.assert_array_equal(a[2], b[2])
  assert not np.array_equal(a[1], b[1])


def test_strengths_by_hand():
  lead = np.asarray([0.1, -0.1, 0.25, -0.9, 1.0, -1.99, 2.0, -7.0])
  found = rated_pairs.strength(section(), lead)
  assert found.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_both_sources_are_of_the_same_answers():
  rated, pairs = streams(section(), "train", 800)[0], None
  pairs = streams(section(), "train", 400)[1]
  key = lambda tokens: sorted(map(tuple, tokens.tolist()))
  assert key(rated["tokens"]) == key(pairs["tokens"])
  assert rated["target"].shape == (800, 1)
  assert set(np.unique(rated["target"])) <= {0.0, 1.0, 2.0, 3.0, 4.0}
  np.testing.assert_array_equal(
    pairs["strength"][0::2], pairs["strength"][1::2]
  )
  assert set(np.unique(pairs["strength"])) == {0.0, 1.0, 2.0, 3.0}


def test_without_noise_the_preferred_is_the_better():
  c = section(preference_noise=0.0)
  _, pairs = streams(c, "train", 400)
  gold = rated_pairs.worth(c)[pairs["tokens"]].sum(1)
  assert (gold[0::2] >= gold[1::2]).all()
  strong = pairs["strength"][0::2] == 3
  assert ((gold[0::2] - gold[1::2])[strong] >= 2).all() and strong.any()


def test_held_out_rows_are_pairs_by_gold():
  rated, pairs = streams(section(), "test", 128)
  for batch in (rated, pairs):
    gold = rated_pairs.worth(section())[batch["tokens"]].sum(1)
    np.testing.assert_allclose(batch["gold"], gold, rtol=1e-5, atol=1e-6)
    assert (gold[0::2] >= gold[1::2]).all()
  np.testing.assert_allclose(rated["target"][:, 0], 2 + rated["gold"])
  assert (pairs["strength"] == 1).all() and len(rated["gold"]) == 128
  # A batch of 2 B ratings is of the same answers as one of B pairs.
  twice = streams(section(), "test", 256)[0]
  np.testing.assert_array_equal(twice["tokens"], pairs["tokens"])


def test_the_reward_is_the_worth():
  c = section()
  batch = rated_pairs.held_out(c, 4, np.random.default_rng(0))
  tokens = jnp.asarray(batch["tokens"])
  action = jnp.asarray(batch["loss"])
  rollout = Rollout(
    tokens=tokens,
    attend=jnp.ones(tokens.shape, bool),
    action=action,
    loss=action,
    logp=jnp.zeros(tokens.shape),
    group=jnp.arange(8),
    finish=jnp.full(8, LENGTH),
    version=jnp.zeros((), jnp.int32),
  )
  score = jax.jit(rated_pairs.make(c).reward)(rollout, {})
  np.testing.assert_allclose(score.value, batch["gold"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("words", 1),
    ("prompts", 0),
    ("length", 1.5),
    ("offset", -1.0),
    ("rating_noise", float("inf")),
    ("preference_noise", float("nan")),
    ("grades", (1.0, 2.0)),
    ("grades", (1.0, 0.5, 2.0)),
  ],
)
def test_bad_fields_are_refused(field, value):
  with pytest.raises(errors.UserError, match=field):
    rated_pairs.make(section(**{field: value}))
