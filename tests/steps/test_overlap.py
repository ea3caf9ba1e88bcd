"""Rollouts one step ahead: the overlap changes no number."""

import json

import numpy as np
import pytest
import run_worker as worker

from rlreward import errors, train
from rlreward.steps import overlap


def ahead(steps=4, **changes):
  return worker.base(steps, ahead=1, off_policy__high=2.0, **changes)


def in_turn(monkeypatch):
  """Makes every pipeline wait: the rollout of a step is made in the step."""
  made = overlap.Pipeline.__init__

  def without(self, *args, **words):
    made(self, *args, **words)
    self.close()
    self._threads = None

  monkeypatch.setattr(overlap.Pipeline, "__init__", without)


def test_a_thread_gives_the_run_without_it(tmp_path, monkeypatch):
  both = train.run(ahead(), tmp_path / "both")
  with monkeypatch.context() as patch:
    in_turn(patch)
    alone = train.run(ahead(), tmp_path / "alone")
  worker.assert_same(alone.state, both.state)
  curve = worker.curve(tmp_path / "both")
  assert curve == worker.curve(tmp_path / "alone")
  age = [row["staleness"] for row in curve if "loss" in row]
  assert age == [0, 1, 1, 1]


def test_stopped_and_resumed_is_the_same_run(tmp_path):
  whole = train.run(ahead(), tmp_path / "whole")
  for stop in (1, 2, None):
    found = train.run(ahead(), tmp_path / "parts", stop_after=stop)
  worker.assert_same(whole.state, found.state)
  assert worker.curve(tmp_path / "parts") == worker.curve(tmp_path / "whole")


def test_python_rewards_and_refills(tmp_path, monkeypatch):
  def run(name):
    folder = tmp_path / name
    folder.mkdir()
    c = worker.text(folder, 4, worker.RARE, ahead=1, refill_rounds=2)
    return train.run(c, folder / "run").state, worker.curve(folder / "run")

  state, curve = run("both")
  in_turn(monkeypatch)
  want, other = run("alone")
  worker.assert_same(want, state)
  assert curve == other


def test_devices_of_their_own(tmp_path):
  # A large eps keeps Adam linear: sums of another order stay small.
  linear = {"optimizer__eps": 1e3, "optimizer__learning_rate": 100.0}
  one = train.run(ahead(**linear), tmp_path / "one")
  two = ahead(rollout_devices=1, **linear)
  process = worker.start([(two, tmp_path / "two")], 2)
  _, err = process.communicate(timeout=200)
  assert process.returncode == 0, err[-3000:]
  want = worker.leaves(one.state.params)
  for name, value in worker.saved(tmp_path / "two", 4, 0).items():
    np.testing.assert_allclose(value, want[name], rtol=0, atol=1e-6)
  config = json.loads((tmp_path / "two" / "config.json").read_text())
  assert config["rollout_devices"] == 1


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"ahead": 0, "rollout_devices": 1}, "rollout_devices=1 with ahead=0"),
    ({"ahead": 1, "rollout_devices": 1}, "rollout_devices=1 of 1 devices"),
    ({"ahead": 2}, "ahead=2"),
  ],
)
def test_what_cannot_be(tmp_path, changes, said):
  with pytest.raises(errors.UserError, match=said):
    train.run(worker.base(2, **changes), tmp_path / "run")
