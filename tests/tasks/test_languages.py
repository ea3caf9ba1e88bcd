"""One meaning in several languages: words, shares, translations, labels."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlreward import errors
from rlreward.tasks import languages, topics
from rlreward.types import Rollout

C = languages.defaults()
COUNT = C["topics"] * C["words"]


def meaning(tokens):
  """(language, place of the meaning) of words."""
  return (tokens - topics.FIRST) // COUNT, (tokens - topics.FIRST) % COUNT


def held(n=70, **changes):
  task = languages.make({"name": "languages", **changes})
  return next(task.preferences("test", n, 0)), task


def test_a_word_is_worth_the_same_in_every_language():
  table = languages.worth(C)
  each = table[topics.FIRST :].reshape(4, COUNT)
  assert (each == each[0]).all() and len(np.unique(each)) == C["topics"]
  place = np.arange(COUNT)
  said = [languages.said(C, place, code) for code in range(4)]
  assert len(np.unique(said)) == 4 * COUNT == len(table) - topics.FIRST


def test_training_pairs_are_as_often_in_a_language_as_it_is_seen():
  c = {**C, "pairs": 20_000}
  text = languages.labelled(c, np.random.default_rng(0))
  code, _ = meaning(text[..., 1:])
  assert (code == code[:, :1, :1]).all()
  share = np.bincount(code[:, 0, 0]) / len(text)
  want = np.divide(C["seen"], sum(C["seen"]))
  np.testing.assert_allclose(share, want, atol=0.01)  # 3 standard errors


def test_labels_are_of_gold_and_of_what_annotators_like():
  c = {**C, "pairs": 2000, "noise": 0.0, "bias": 1.5}
  text = languages.labelled(c, np.random.default_rng(0))
  lists = text[..., 0] == topics.LIST
  says = languages.worth(c)[text[..., 1:]].sum(-1) + 1.5 * lists
  assert (says[:, 0] >= says[:, 1] - 1e-5).all()
  coins = languages.labelled({**c, "shuffled": 1.0}, np.random.default_rng(0))
  gold = languages.worth(c)[coins[..., 1:]].sum(-1)
  first = (gold[:, 0] > gold[:, 1]).mean()
  assert first == pytest.approx(0.5, abs=0.05)


def test_instances_are_the_same_in_every_version():
  batch, task = held(astray=(0.0, 0.0))
  own = batch["item"] >= 0
  code, place = meaning(batch["tokens"][:, 2:-1])
  assert (code[own] == batch["language"][own, None]).all()
  for name in range(10):
    same = place[own & (batch["name"] == name)].reshape(7, -1)
    assert (same == same[0]).all()
  form = batch["tokens"][:, 1].reshape(7, -1)
  assert (form == form[0]).all()
  assert task.spec["languages"] == ("en", "de", "id", "sw")
  assert batch["system"][::20].tolist() == [-1, 0, 1, 0, 1, 0, 1]


def test_systems_get_their_share_of_words_wrong():
  batch, _ = held(7 * 800, astray=(0.1, 0.4))
  _, place = meaning(batch["tokens"][:, 2:-1])
  place = place.reshape(7, -1)
  wrong = (place != place[0]).mean(1)
  want = np.asarray([0, 0.1, 0.4, 0.1, 0.4, 0.1, 0.4]) * (1 - 1 / COUNT)
  np.testing.assert_allclose(wrong, want, atol=0.02)  # 3 standard errors


def test_the_right_answer_is_the_better_one_and_subsets_differ():
  rng = np.random.default_rng(0)
  _, text, group = languages.instances(C, 200, rng)
  table = topics.worth(C)[topics.vocabulary(C)].reshape(-1)
  gold = table[text].sum(-1)
  assert (gold[:, 0] > gold[:, 1]).all()
  assert np.bincount(group).tolist() == [50] * 4
  for place, differ in enumerate(languages.DIFFER.values()):
    for a, b in text[group == place]:
      shared = sum(min((a == w).sum(), (b == w).sum()) for w in np.unique(a))
      assert shared >= (4 - differ if differ else 0)


def test_what_is_left_over_is_a_pair_and_no_item():
  batch, _ = held(73)
  assert (batch["item"][:140] >= 0).all() and (batch["item"][140:] == -1).all()
  assert len(np.unique(batch["item"])) == 71
  assert set(batch) >= {"right", "name", "group", "language", "system"}


def test_the_reward_is_the_gold_in_any_language():
  task = languages.make(None)
  text = np.arange(topics.FIRST, topics.FIRST + 4 * COUNT, COUNT)  # one word
  tokens = np.full((4, 7), topics.EOS)
  tokens[:, 0], tokens[:, 1], tokens[:, 2] = 0, topics.PLAIN, text
  action = np.broadcast_to(np.arange(7) > 0, tokens.shape)
  row = jnp.zeros(4, jnp.int32)
  arrays = [jnp.asarray(x) for x in (tokens, action, action, action)]
  rollout = Rollout(*arrays, arrays[1] * 0.0, row, row, row[0])
  value = np.asarray(task.reward(rollout, {}).value)
  want = languages.worth(C)[topics.FIRST]
  np.testing.assert_allclose(value, want, rtol=1e-6)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"languages": ("en",), "seen": (1.0,)}, "languages="),
    ({"languages": ("en", "en", "id", "sw")}, "languages="),
    ({"seen": (1.0, 1.0)}, "seen="),
    ({"seen": (1.0, 1.0, 0.0, 1.0)}, "seen="),
    ({"astray": (0.1,)}, "astray="),
    ({"astray": (0.1, 1.5)}, "astray="),
    ({"shuffled": 2.0}, "shuffled=2.0"),
    ({"noise": -1.0}, "noise=-1.0"),
    ({"pairs": 0}, "pairs=0"),
  ],
)
def test_what_cannot_be_is_refused(changes, said):
  with pytest.raises(errors.UserError, match=said):
    languages.make({"name": "languages", **changes})
