"""Texts of people and of models: laws, mixtures, comparisons, refusals."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlreward import errors
from rlreward.tasks import authors
from rlreward.tasks import authors_rows as rows
from rlreward.types import Rollout

C = {**authors.defaults(), "words": 8, "models": 3}


def test_models_are_the_human_chain_tilted_three_ways():
  """log P_k / P_0 is the same for every previous word, up to a constant."""
  chain = rows.chains(C)
  np.testing.assert_allclose(chain.sum(-1), 1)
  tilt = np.log(chain[1:]) - np.log(chain[:1])
  tilt -= tilt.mean(-1, keepdims=True)
  np.testing.assert_allclose(tilt, tilt[:, :1] + 0 * tilt, atol=1e-9)
  plain = rows.chains({**C, "preference": 0.5, "common": 0.0, "own": 0.0})
  tilt = np.log(plain[1:]) - np.log(plain[:1])
  tilt -= tilt.mean(-1, keepdims=True)
  want = 0.5 * (rows.worth(C) - rows.worth(C).mean())
  np.testing.assert_allclose(tilt, np.broadcast_to(want, tilt.shape), atol=1e-9)


def test_the_common_direction_is_what_models_share():
  own = lambda c: (np.log(c[1:]) - np.log(c[0]))[:, 0]
  tilt = own(rows.chains({**C, "preference": 0.0, "own": 0.0}))
  np.testing.assert_allclose(tilt[0], tilt[1], atol=1e-9)
  tilt = own(rows.chains({**C, "preference": 0.0, "common": 0.0}))
  assert np.abs(tilt[0] - tilt[1]).max() > 0.1


def test_texts_follow_their_chain():
  """Shares of 40,000 words after each word: deviations of 0.01 at most."""
  chain = rows.chains(C)
  author = np.full(10_000, 2)
  text = rows.write(chain, author, np.random.default_rng(0), 6)
  for i in range(8):
    after = text[:, 1:][text[:, :-1] == i]
    share = np.bincount(after, minlength=8) / len(after)
    assert np.abs(share - chain[2, i]).max() < 0.03


def test_half_of_the_spans_of_a_mixed_text_are_rewritten():
  rng = np.random.default_rng(0)
  own = rows.rewritten(C, 500, rng)
  assert (own.sum(1) == 12).all()  # 3 of 6 spans of 4 words
  spans = own.reshape(500, 6, 4)
  assert (spans.all(-1) | ~spans.any(-1)).all()
  assert 0.4 < spans[:, :, 0].mean(0).min()  # any of them
  chain = rows.chains(C)
  given = rows.write(chain, np.zeros(500, int), rng, 24)
  mixed = rows.write(chain, np.ones(500, int), rng, given, own)
  assert (mixed == given)[~own].all() and (mixed != given)[own].mean() > 0.5


def test_comparisons_are_by_worth():
  rng = np.random.default_rng(0)
  pairs = rows.compared(C, 400, rng, 0.0)
  says = rows.worth(C)[pairs].sum(-1)
  assert (says[:, 0] >= says[:, 1]).all()
  noisy = rows.worth(C)[rows.compared(C, 4000, rng, 1.0)].sum(-1)
  right = np.mean(noisy[:, 0] > noisy[:, 1])
  assert 0.6 < right < 0.95


def test_groups_of_five_rows():
  task = authors.make(C)
  train = next(task.labelled("train", 4, 0))
  assert train["tokens"].shape == (20, 26) and not train["author"].any()
  np.testing.assert_array_equal(train["rank"], np.tile([1, 2, 3, 4, 5], 4))
  np.testing.assert_array_equal(train["label"], train["rank"] == 1)
  assert (train["tokens"][:, 0] == 0).all()
  assert (train["tokens"][:, -1] == rows.STOP).all()
  assert not train["loss"][:, 0].any() and train["loss"][:, 1:].all()
  held = next(task.labelled("test", 6, 0))
  np.testing.assert_array_equal(held["author"][::5], [0, 1, 2, 0, 1, 2])


def test_data_are_finite_the_same_and_of_their_seed():
  task = authors.make({**C, "texts": 8, "comparisons": 8})
  for source, rows_of in (("labelled", 5), ("preferences", 2)):
    stream = getattr(task, source)("train", 8, 3)
    epochs = [next(stream)["tokens"].reshape(8, rows_of, -1) for _ in range(2)]
    texts = [{x.tobytes() for x in e} for e in epochs]
    assert texts[0] == texts[1] and (epochs[0] != epochs[1]).any()
    other = next(getattr(task, source)("train", 8, 4))["tokens"]
    assert {x.tobytes() for x in other.reshape(8, rows_of, -1)} != texts[0]


def test_the_reward_is_the_worth_of_the_words():
  task = authors.make(C)
  batch = next(task.labelled("test", 2, 0))
  action = jnp.asarray(batch["loss"])
  zero = jnp.zeros(action.shape)
  one = jnp.zeros(len(zero), jnp.int32)
  rollout = Rollout(
    jnp.asarray(batch["tokens"]), jnp.asarray(batch["attend"]), action, action,
    zero, one, one, jnp.zeros((), jnp.int32),
  )  # fmt: skip
  text = batch["tokens"][:, 1:-1] - rows.FIRST
  want = rows.worth(C)[text].sum(1) / np.sqrt(24)
  got = task.reward(rollout, batch)
  np.testing.assert_allclose(got.value, want, rtol=1e-4, atol=1e-5)  # f32 sums
  assert got.valid.all()


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"words": 1}, "words=1"),
    ({"span": 5}, "span=5 and length=24"),
    ({"common": -0.1}, "common=-0.1"),
    ({"noise": float("inf")}, "noise=inf"),
    ({"texts": 0.5}, "texts=0.5"),
  ],
)
def test_fields_that_cannot_be_are_refused(changes, said):
  with pytest.raises(errors.UserError, match=said):
    authors.make({**C, **changes})
