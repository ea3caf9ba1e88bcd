"""Counting in a grid: counts, their distribution, and exact chance levels."""

import pathlib
import sys

import numpy as np
import pytest

from rlreward.tasks import grid

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import worlds


@pytest.mark.parametrize("level", range(5))
def test_answers_are_counts(level):
  task = grid.make({"level": level})
  c = grid.levels()[level]
  marks = set()
  for ask, answer in worlds.asked(task, worlds.first(task)):
    mark, cells = ask[:-1].split(":")
    assert ask[-1] == "=" and int(answer) == cells.count(mark)
    assert answer == str(int(answer))
    rows = cells.split("/")
    assert [len(r) for r in rows] == [c["width"]] * c["height"]
    marks |= set(cells) - {"/", "."}
  assert marks == set(grid.MARKS[: c["kinds"]])


def test_by_hand():
  """The one full grid of a mark, and the one empty grid."""
  task = grid.make({"height": 1, "width": 2, "holdout": 0.0})
  assert task.spec["prompt_length"] == len("#:##=")
  seen = dict(worlds.asked(task, worlds.first(task, size=200)))
  assert seen == {"#:##=": "2", "#:#.=": "1", "#:.#=": "1", "#:..=": "0"}


def test_chance_is_exact():
  """All V^2 sequences of two tokens: a digit and eos, one of them right."""
  task = grid.make()
  batch = worlds.first(task, size=1)
  every, worth = worlds.all_answers(task, batch, 2)
  assert len(every) == task.spec["vocab_size"] ** 2 and worth.sum() == 1
  assert worth.mean() == pytest.approx(task.spec["chance"](batch)[0], rel=1e-6)


def test_a_guess_and_the_best_constant_answer():
  """Each prompt has 1 right count in 5, and counts are uniform."""
  task = grid.make({"holdout": 0.0})
  batch = worlds.first(task, size=2000)
  group = np.repeat(np.arange(2000), 5)
  worth = worlds.values(task, batch, [*"01234"] * 2000, group)
  worth = worth.reshape(2000, 5)
  assert (worth.sum(1) == 1).all() and task.spec["guess"] == 1 / 5
  # 400 of each count: sd 18, five of them.
  assert np.abs(worth.sum(0) - 400).max() < 5 * 18


def test_a_grid_of_one_cell():
  task = grid.make({"height": 1, "width": 1, "kinds": 4, "holdout": 0.0})
  seen = {worlds.asked(task, worlds.first(task, size=200))[i]
          for i in range(200)}  # fmt: skip
  assert {a for _, a in seen} == {"0", "1"}
