"""Words of hidden topics: worth, labels, corpus, positions, refusals."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from rlreward import errors
from rlreward.tasks import topics
from rlreward.types import Rollout

SMALL = {"topics": 4, "words": 6, "length": 3, "pairs": 64, "sentences": 48}
C = {**topics.defaults(), **SMALL}


@functools.cache
def task():
  return topics.make({"name": "topics", **SMALL})


def test_worth_is_of_topics_and_has_unit_variance():
  table, words = topics.worth(C), topics.vocabulary(C)
  assert sorted(words.ravel()) == list(range(4, 4 + 24))
  assert (table[:4] == 0).all()
  for own in words:
    assert len(set(table[own].tolist())) == 1
  assert table[words].mean() == pytest.approx(0, abs=1e-6)
  text = topics.answers(C, 40_000, words, np.random.default_rng(0))
  gold = table[text].sum(1)
  assert gold.mean() == pytest.approx(0, abs=0.03)  # 6 standard errors
  assert gold.std() == pytest.approx(1, abs=0.03)
  assert (text[:, 0] == topics.LIST).mean() == pytest.approx(0.1, abs=0.01)


def test_ids_say_nothing_of_topics():
  words = topics.vocabulary(C)
  assert any((np.diff(np.sort(own)) != 1).any() for own in words)
  other = topics.vocabulary({**C, "world": 1})
  assert (words != other).any()


def test_sentences_keep_to_a_topic_but_for_words_astray():
  words = topics.vocabulary(C)
  topic = np.zeros(words.max() + 1, int)
  topic[words] = np.arange(4)[:, None]
  rng = np.random.default_rng(0)
  pure = topics.corpus({**C, "astray": 0.0}, 200, rng)
  assert (np.ptp(topic[pure[:, 1:]], axis=1) == 0).all()
  some = topics.corpus({**C, "astray": 0.2}, 4000, rng)[:, 1:]
  # Two words of a sentence have one topic: both on it, or by chance.
  equal = (topic[some[:, 0]] == topic[some[:, 1]]).mean()
  assert equal == pytest.approx(0.8**2 + (1 - 0.8**2) / 4, abs=0.03)


def test_labels_are_of_gold_and_bias_on_known_words():
  rng = np.random.default_rng(0)
  c = {**C, "noise": 0.0, "bias": 2.0, "pairs": 500}
  pairs = topics.labelled(c, rng)
  says = topics.worth(c)[pairs].sum(-1) + 2.0 * (pairs[..., 0] == topics.LIST)
  assert (says[:, 0] >= says[:, 1]).all()
  known = set(topics.known(c).ravel().tolist())
  assert set(pairs[..., 1:].ravel().tolist()) == known and len(known) == 12
  lists = pairs[..., 0] == topics.LIST
  assert lists[:, 0].mean() > 0.65 and lists.mean() == pytest.approx(
    0.5, abs=0.1
  )
  fair = topics.labelled({**c, "bias": 0.0}, np.random.default_rng(0))
  lists = fair[..., 0] == topics.LIST
  assert lists[:, 0].mean() == pytest.approx(0.5, abs=0.1)


def test_noise_and_coins_spoil_labels():
  table = topics.worth(C)

  def right(**changes):
    c = {**C, "bias": 0.0, "pairs": 2000, **changes}
    pairs = topics.labelled(c, np.random.default_rng(0))
    gold = table[pairs].sum(-1)
    tie = gold[:, 0] == gold[:, 1]
    return (gold[:, 0] > gold[:, 1])[~tie].mean()

  assert right(noise=0.0) == 1
  assert 0.7 < right(noise=1.0) < 0.9
  assert right(shuffled=1.0) == pytest.approx(0.5, abs=0.05)


def test_held_out_rows_are_pairs_and_then_answers():
  batch = next(task().preferences("test", 40, 0))
  assert batch["tokens"].shape == (80, 6) and batch["answer"].sum() == 40
  assert (batch["valid"] == ~batch["answer"]).all()
  assert not batch["answer"][:40].any()
  gold = batch["gold"].reshape(-1, 2)[:20]
  assert (gold[:, 0] >= gold[:, 1]).all()
  assert (batch["list"] == (batch["tokens"][:, 1] == topics.LIST)).all()
  want = topics.worth(C)[batch["tokens"]].sum(1)
  np.testing.assert_allclose(batch["gold"], want, atol=1e-6)
  assert (batch["tokens"][:, -1] == topics.EOS).all()
  assert (batch["loss"].sum(1) == 5).all() and not batch["loss"][:, 0].any()


@pytest.mark.parametrize(
  ("source", "count", "rows"),
  [("demonstrations", 48, 1), ("preferences", 64, 2)],
)
def test_epochs_go_through_the_same_numbered_rows(source, count, rows):
  stream = getattr(task(), source)("train", 16, 3)
  seen: dict[int, list[str]] = {}
  for _ in range(2 * count // 16):
    batch = next(stream)
    assert batch["row"].shape == (16 * rows,) and batch["row"].dtype == np.int32
    for i, tokens in zip(batch["row"], batch["tokens"], strict=True):
      seen.setdefault(int(i), []).append(str(tokens))
  assert sorted(seen) == list(range(count))
  for texts in seen.values():
    assert texts[:rows] == texts[rows:]  # chosen and rejected, twice
  other = next(getattr(task(), source)("train", 16, 4))
  first = next(getattr(task(), source)("train", 16, 3))
  assert (other["tokens"] != first["tokens"]).any()


def test_a_position_goes_on_where_it_was():
  one, two = (task().preferences("train", 16, 0) for _ in range(2))
  for _ in range(3):
    next(one)
  two.set_state(one.get_state())
  a, b = next(one), next(two)
  assert all((a[k] == b[k]).all() for k in a)
  with pytest.raises(errors.UserError):
    task().preferences("train", 16, 1).set_state(one.get_state())


def test_processes_share_a_batch():
  whole = next(task().preferences("train", 16, 0))
  parts = [
    next(
      topics.make(SMALL, process_index=i, process_count=2).preferences(
        "train", 16, 0
      )
    )
    for i in range(2)
  ]
  for name, column in whole.items():
    joined = np.concatenate([p[name] for p in parts])
    np.testing.assert_array_equal(joined, column)


def test_reward_is_what_annotators_say_and_gold_is_not():
  batch = next(task().preferences("test", 40, 0))
  action = jnp.asarray(batch["loss"])
  n = len(action)
  rollout = Rollout(
    jnp.asarray(batch["tokens"]), jnp.asarray(batch["attend"]), action, action,
    jnp.zeros(action.shape), jnp.arange(n), jnp.ones(n), jnp.asarray(0),
  )  # fmt: skip
  gold, reward = task().gold(rollout, {}), task().reward(rollout, {})
  np.testing.assert_allclose(gold.value, batch["gold"], atol=1e-6)
  lists = batch["list"].astype(np.float32)
  np.testing.assert_allclose(reward.value, batch["gold"] + lists, atol=1e-6)
  np.testing.assert_array_equal(reward.components["list"], lists)
  # A word beyond the T-th earns nothing, and neither does one in the form's
  # place.
  word = int(topics.vocabulary(C)[0, 0])
  long = jnp.full((1, 8), word).at[0, 0].set(0)
  mask = jnp.arange(8)[None] > 0
  more = Rollout(long, mask, mask, mask, jnp.zeros((1, 8)), jnp.zeros(1),
                 jnp.ones(1), jnp.asarray(0))  # fmt: skip
  each = topics.worth(C)[word]
  assert float(task().gold(more, {}).value[0]) == pytest.approx(
    3 * each, rel=1e-5
  )


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"topics": 1}, "topics=1"),
    ({"words": 0}, "words=0"),
    ({"length": 0}, "length=0"),
    ({"pairs": 0}, "pairs=0"),
    ({"sentences": 2.5}, "sentences=2.5"),
    ({"world": -1}, "world=-1"),
    ({"seen": 1.5}, "seen=1.5"),
    ({"astray": -0.1}, "astray=-0.1"),
    ({"lists": 2.0}, "lists=2.0"),
    ({"noise": -1.0}, "noise=-1.0"),
    ({"bias": float("inf")}, "bias=inf"),
    ({"lenght": 3}, "lenght"),
  ],
)
def test_what_cannot_be_is_refused(changes, said):
  with pytest.raises(errors.UserError, match=said):
    topics.make({**SMALL, **changes})


def test_another_split_is_refused():
  with pytest.raises(errors.UserError, match="no split 'dev'"):
    task().preferences("dev", 4, 0)
