"""Rows to items, the runner's numbers, and a method that is judged by them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.steps import study
from rlreward.types import Method, State

# Two pairs, a row that is none, and an item with two right answers of three.
ROWS = {
  "item": np.asarray([7, 7, -1, 3, 3, 3, 9, 9]),
  "right": np.asarray([1, 0, 0, 1, 1, 0, 1, 0], bool),
  "group": np.asarray([0, 0, 0, 1, 1, 1, 0, 0]),
  "name": np.asarray([5, 5, -1, 6, 6, 6, 6, 6]),
  "tokens": np.zeros((8, 2), np.int32),
  "attend": np.ones((8, 2), bool),
}
SCORE = np.asarray([2.0, 1.0, 99.0, 3.0, 5.0, 4.0, 0.0, 0.0])
NAMES = ("chat", "other")


def test_items_by_hand():
  found = study.items(SCORE, ROWS, NAMES)
  nan = np.nan
  np.testing.assert_array_equal(
    found["scores"], [[2, 1, nan], [3, 5, 4], [0, 0, nan]]
  )
  assert found["valid"].sum(1).tolist() == [2, 3, 2]
  assert found["num_correct"].tolist() == [1, 2, 1]
  assert found["group"].tolist() == ["chat", "other", "chat"]
  assert found["ids"] == ["5", "6", "6"] and "language" not in found


def test_items_of_ties_and_languages_by_hand():
  kind = np.asarray([-1, -1, -1, 0, 0, 0, 1, 1])
  tongue = np.asarray([0, 0, 0, 1, 1, 1, 0, 0])
  rows = {**ROWS, "kind": kind, "language": tongue}
  found = study.items(SCORE, rows, NAMES, ("en", "de"))
  assert found["ids"] == ["5", "ref:6", "tied:6"]
  assert found["language"].tolist() == ["en", "de", "en"]


def test_a_run_by_hand():
  found = study.run(study.items(SCORE, ROWS, NAMES), "pairs")
  # Pairs: one won and one tied; of the three, one of two right ones is above.
  assert found["chat"] == pytest.approx(0.75)
  assert found["other"] == 0.5
  assert found["total"] == pytest.approx((0.75 + 0.5) / 2)


def test_what_nothing_judged_is_is_left_out():
  score = np.where(ROWS["group"] == 1, np.nan, SCORE)
  found = study.run(study.items(score, ROWS, NAMES), "pairs")
  assert np.isnan(found["other"]) and found["total"] == 0.75


def method():
  """A method whose scores are a fixed row of numbers."""
  plain = Method(
    lambda key: key,
    lambda state, batch, key: (state, {}),
    None,
    held=lambda state, batch: {"loss": (jnp.ones(()), jnp.ones(()))},
  )
  report = lambda score, rows: {
    **study.run(study.items(score, rows, NAMES), "pairs"), "none": np.nan
  }  # fmt: skip
  return study.make(plain, lambda state, rows: state.extra, report)


def state(score, seed=0):
  key = jax.random.key(seed)
  return State(jnp.zeros((), int), {}, {}, (), key, jnp.asarray(score))


def test_held_out_numbers_are_those_of_the_runner_and_of_chance():
  batch = {k: jnp.asarray(v) for k, v in ROWS.items()}
  found = method().held(state(SCORE), batch)
  assert found["loss"] == (1.0, 1.0)
  assert float(found["bench/chat"][0]) == 0.75
  assert "bench/none" not in found and "random/none" not in found
  other = method().held(state(-SCORE), batch)
  assert other["random/total"] == found["random/total"]
  assert float(other["bench/chat"][0]) == 0.25
  draws = [
    float(method().held(state(SCORE, seed), batch)["random/total"][0])
    for seed in range(8)
  ]
  assert len(set(draws)) > 1  # each run has its own


def test_rows_without_items_are_judged_as_before():
  batch = {"tokens": jnp.zeros((2, 2)), "attend": jnp.ones((2, 2))}
  assert set(method().held(state(np.zeros(2)), batch)) == {"loss"}
