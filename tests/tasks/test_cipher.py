"""Cipher translation: hand values, and exact chance levels by enumeration."""

import itertools
import pathlib
import sys

import numpy as np
import pytest

from rlreward.tasks import cipher

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import worlds


def test_hand_values():
  assert cipher.translate("abba", "dacb") == "daad"
  assert cipher.translate("daad", "dacb", "decode") == "abba"
  assert cipher.shifted(3, 1) == "bca" and cipher.shifted(4, 0) == "abcd"
  assert cipher.translate("acb", cipher.shifted(3, 2)) == "cba"


@pytest.mark.parametrize("direction", ["encode", "decode"])
@pytest.mark.parametrize("key", ["shift", "substitution"])
def test_answers_against_arithmetic(key, direction):
  """Letters as numbers: a shift is addition, a key is a look-up."""
  task = cipher.make({"key": key, "letters": 5, "length": 4,
                      "direction": direction})  # fmt: skip
  for ask, answer in worlds.asked(task, worlds.first(task)):
    sign = {"encode": ">", "decode": "<"}[direction]
    table, text = ask[:-1].split(sign)
    number = lambda s: [ord(c) - ord("a") for c in s]
    if key == "shift":
      by = number(table)[0] * (1 if direction == "encode" else -1)
      want = [(x + by) % 5 for x in number(text)]
    elif direction == "encode":
      want = [number(table)[x] for x in number(text)]
    else:
      want = [number(table).index(x) for x in number(text)]
    assert number(answer) == want and sorted(set(table)) == sorted(table)


def test_chance_is_exact():
  """All V^2 answers of two tokens to a text of one letter: one is right."""
  task = cipher.make({"letters": 3, "length": 1})
  batch = worlds.first(task, size=4)
  every, worth = worlds.all_answers(task, batch, 2)
  assert len(every) == task.spec["vocab_size"] ** 2
  # f64: the same power on both sides.
  assert worth.mean() == pytest.approx(task.spec["chance"](batch)[0], rel=1e-6)
  assert worth.sum() == 1


@pytest.mark.parametrize("key", ["shift", "substitution"])
def test_a_guess_is_right_with_letters_to_the_minus_length(key):
  task = cipher.make({"key": key, "letters": 3, "length": 2})
  batch = worlds.first(task, size=16)
  every = ["".join(x) for x in itertools.product("abc", repeat=2)]
  group = np.repeat(np.arange(16), len(every))
  worth = worlds.values(task, batch, every * 16, group)
  assert (worth.reshape(16, -1).sum(1) == 1).all()
  assert worth.mean() == pytest.approx(task.spec["guess"], rel=1e-6)


def test_share_counts_right_letters():
  task = cipher.make({"letters": 4, "length": 2})
  batch = worlds.first(task, size=4)
  answer = worlds.asked(task, batch)[0][1]
  wrong = "".join(c for c in "abcd" if c not in answer)[0]
  texts = [answer, answer[0] + wrong, wrong * 2, answer + wrong, ""]
  rollout = worlds.said(task, batch, texts, np.zeros(5, int))
  share = worlds.judge(task.reward, rollout, batch).components["share"]
  # Two letters and eos; a letter too many leaves 2 of 4 places right.
  np.testing.assert_allclose(share, [1, 2 / 3, 1 / 3, 2 / 4, 0], atol=1e-6)


def test_outcomes_are_the_right_answers():
  task = cipher.make({"level": 1})
  batch = worlds.first(task, size=4)
  found = task.spec["outcomes"](batch)
  assert found.tokens.shape == (4, 1, 4) and found.rest == 0
  np.testing.assert_array_equal(found.tokens[:, 0], batch["answer"])
