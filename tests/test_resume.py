"""A stopped run goes on as if nothing had happened, to the last bit."""

import functools
import os
import random
import shutil
import signal
import tempfile
import time
import types

import numpy as np
import pytest
import run_worker as worker

from rlreward import errors, registry, train
from rlreward.checkpoint import Checkpointer
from rlreward.config import replace, to_json

METHODS = {}
# An untrained decoder is never right, but it writes a number now and then.
RATES = {
  "filter_on": "well_formed",
  "task": {"name": "arithmetic", "stages": "0,1,2", "advance": 0.03,
           "patience": 2},
}  # fmt: skip


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
  """Runs of one config in this process share a Method and its programs.

  Were anything of a run kept in it, the next run would differ. Those that are
  really killed begin in a new process.
  """
  found = registry.algorithm

  def algorithm(name):
    module = found(name)

    def make(config, task):
      key = name, to_json(config)
      if key not in METHODS:
        METHODS[key] = module.make(config, task)
      return METHODS[key]

    return types.SimpleNamespace(**{**vars(module), "make": make})

  monkeypatch.setattr(registry, "algorithm", algorithm)


@functools.cache
def whole(kind):
  """(config, result, curve) of a run that never stopped."""
  folder = tempfile.mkdtemp(prefix="whole")
  config = {
    "arithmetic": worker.base,
    "text": lambda: worker.text(folder),
    "refill": lambda: worker.text(folder, 6, worker.RARE, refill_rounds=2),
    "stages": worker.two_stages,
    "rates": lambda: worker.base(**RATES),
    "rates ahead": lambda: worker.base(**RATES, ahead=1),
  }[kind]()
  result = train.run(config, f"{folder}/run")
  curve = worker.curve(f"{folder}/run")
  # Every step must move something, or all runs would be alike.
  assert min(row["grad_norm"] for row in curve if "loss" in row) > 1e-3
  return config, result, curve


def resume(kind, workdir, stops):
  """The same run, stopped at each of `stops`; compared with the whole one."""
  config, want, _ = whole(kind)
  before = 0
  for stop in (*stops, None):
    count = None if stop is None else stop - before
    result = train.run(config, workdir, stop_after=count)
    before = stop
  assert result.evals == want.evals
  assert_same_run(kind, result.state, workdir)


def assert_same_run(kind, state, workdir):
  """Every leaf, every number of the curve and every sample of the whole one."""
  _, want, curve = whole(kind)
  worker.assert_same(want.state, state)
  assert worker.curve(workdir) == curve
  assert worker.samples(workdir) == worker.samples(want.workdir)


def random_stops():
  """Nine runs with sixteen stops in all; three more are killed below."""
  rng = random.Random(0)
  sizes = (1, 1, 1, 2, 2, 2, 2, 2, 3)
  return [sorted(rng.sample(range(1, 12), n)) for n in sizes]


@pytest.mark.parametrize("stops", random_stops(), ids=str)
def test_stopped_at_random_steps(tmp_path, stops):
  resume("arithmetic", tmp_path, stops)


# Five prompts, two a step: the second epoch begins inside step 3, the third
# exactly after step 5.
@pytest.mark.parametrize("stops", [[2, 4], [3, 5], [6]], ids=str)
def test_stopped_at_the_edge_of_an_epoch(tmp_path, stops):
  resume("text", tmp_path, stops)


def test_every_epoch_shows_each_prompt_once(tmp_path):
  _, result, _ = whole("text")
  stream = result.task.batches("train", 2, 0)
  seen = [int(i) for _ in range(5) for i in next(stream)["row"]]
  assert sorted(seen[:5]) == sorted(seen[5:]) == list(range(5))


def test_metrics_hold_each_step_once():
  _, _, curve = whole("arithmetic")
  steps = [row["step"] for row in curve if "reward" in row]
  assert steps == list(range(1, 13))
  held_out = [row["step"] for row in curve if "eval/reward" in row]
  assert held_out == [0, 4, 8, 12]


@pytest.mark.parametrize("stops", [[2], [1, 4]], ids=str)
def test_stopped_where_steps_draw_several_batches(tmp_path, stops):
  _, _, curve = whole("refill")
  assert len({row["refill/drawn"] for row in curve if "loss" in row}) > 1
  resume("refill", tmp_path, stops)


def test_killed_at_random_moments(tmp_path):
  config, workdir = whole("arithmetic")[0], tmp_path / "run"
  rng = random.Random(1)
  # At 6 and 9 a checkpoint is being written.
  for step in (rng.choice((2, 4)), 6, rng.choice((8, 9))):
    process = worker.start([(replace(config, {"log.every": 1}), workdir)])
    assert worker.said(process, f"step {step}/12")
    time.sleep(0.02 * rng.random())
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
  result = train.run(config, workdir)
  assert_same_run("arithmetic", result.state, workdir)


def test_sigterm_saves_and_leaves_with_0(tmp_path):
  config, workdir = worker.base(2000, log__every=1), tmp_path / "run"
  process = worker.start([(config, workdir)])
  assert worker.said(process, "step 1/2000")
  process.send_signal(signal.SIGTERM)
  out, err = process.communicate()
  assert process.returncode == 0, err
  assert "run the same command to go on" in out
  result = train.run(config, workdir, stop_after=2)
  steps = int(result.state.step)
  want = train.run(config, tmp_path / "want", stop_after=steps)
  worker.assert_same(want.state, result.state)
  assert worker.curve(workdir) == worker.curve(tmp_path / "want")


def test_partial_checkpoints_are_ignored(tmp_path, capsys):
  config, _, _ = whole("arithmetic")
  train.run(config, tmp_path, stop_after=4)
  folder = tmp_path / "checkpoints"
  assert Checkpointer(folder).steps() == [3, 4]
  # Cut while writing: files missing, files short, names not final.
  shutil.copytree(folder / "4", folder / "6")
  shutil.copytree(folder / "4", folder / "9.orbax-checkpoint-tmp-1")
  for step in (4, 6):
    (folder / str(step) / "commit_success.txt").unlink()
  for path in (folder / "6" / "state").iterdir():
    if path.is_file():
      path.write_bytes(path.read_bytes()[:10])
  capsys.readouterr()
  result = train.run(config, tmp_path)
  assert "resumes from the checkpoint of step 3" in capsys.readouterr().out
  assert_same_run("arithmetic", result.state, tmp_path)
  assert Checkpointer(folder).steps() == [9, 12]


@pytest.mark.parametrize("stops", [[1], [2, 5], [4], [7]], ids=str)
def test_two_stages(tmp_path, stops):
  resume("stages", tmp_path, stops)
  first = worker.curve(tmp_path / "start")
  _, want, _ = whole("stages")
  assert first == worker.curve(want.workdir / "start")


@pytest.mark.parametrize("kind", ["rates", "rates ahead"])
def test_levels_that_end_by_their_rate(tmp_path, kind):
  """Stopped at each change: the rates so far are part of the checkpoint."""
  _, _, curve = whole(kind)
  levels = [row["curriculum/level"] for row in curve if "loss" in row]
  assert len(set(levels)) > 1 and levels == sorted(levels)
  ends = [levels.index(level) for level in set(levels) - {0}]
  resume(kind, tmp_path, sorted({1, *ends}))


def test_sigterm_in_the_last_step_of_stage_1_waits_for_stage_2(
  tmp_path, monkeypatch, capsys
):
  config, _, _ = whole("stages")
  advance = train.advance

  def warned(*args):
    found = advance(*args)
    if int(found[0].step) == 4:
      os.kill(os.getpid(), signal.SIGTERM)
    return found

  with monkeypatch.context() as patch:
    patch.setattr(train, "advance", warned)
    result = train.run(config, tmp_path)
  assert result.stopped and not (tmp_path / "metrics.jsonl").exists()
  out = capsys.readouterr().out
  assert "stopped at step 4; run the same command to go on" in out
  result = train.run(config, tmp_path)
  assert not result.stopped
  assert_same_run("stages", result.state, tmp_path)


def test_another_config_is_refused_with_the_diff(tmp_path):
  config, _, _ = whole("arithmetic")
  train.run(config, tmp_path, stop_after=1)
  other = replace(config, {"optimizer.learning_rate": 5e-3, "seed": 1})
  with pytest.raises(errors.UserError) as caught:
    train.run(other, tmp_path)
  assert "optimizer.learning_rate: 0.003 -> 0.005" in caught.value.what
  assert "seed: 0 -> 1" in caught.value.what
  assert "--overwrite" in caught.value.fix
  train.run(other, tmp_path, overwrite=True, stop_after=2)
  assert [r["step"] for r in worker.curve(tmp_path) if "loss" in r] == [1, 2]


def test_fewer_steps_than_done_are_refused(tmp_path):
  config, _, _ = whole("arithmetic")
  train.run(config, tmp_path, stop_after=4)
  kept = (tmp_path / "config.json").read_text()
  with pytest.raises(errors.UserError, match="steps: 12 -> 3"):
    train.run(replace(config, {"steps": 3}), tmp_path)
  assert (tmp_path / "config.json").read_text() == kept


def test_a_finished_run_only_says_so_again(tmp_path, capsys):
  config, want, _ = whole("arithmetic")
  train.run(config, tmp_path)
  capsys.readouterr()
  again = train.run(config, tmp_path)
  assert again.evals == want.evals
  assert_same_run("arithmetic", again.state, tmp_path)
  out = capsys.readouterr().out
  assert "resumes from the checkpoint of step 12" in out
  assert "the same prompts at step 0 and at step 12" in out


def test_more_steps_extend_a_run(tmp_path, capsys):
  config, want, _ = whole("arithmetic")
  train.run(replace(config, {"steps": 7}), tmp_path)
  capsys.readouterr()
  result = train.run(config, tmp_path)
  assert "resumes from the checkpoint of step 7" in capsys.readouterr().out
  worker.assert_same(want.state, result.state)
  # The end of the short run was evaluated too.
  assert sorted(result.evals) == [0, 4, 7, 8, 12]


def test_saved_on_8_devices_and_continued_on_1(tmp_path):
  # A large eps keeps Adam linear: rounding is not blown up to a whole step.
  linear = {"optimizer__eps": 1e3, "optimizer__learning_rate": 100.0}
  config = worker.base(4, mesh__fsdp=4, mesh__tensor=2, **linear)
  workdir = tmp_path / "run"
  process = worker.start([(config, workdir)], 8)
  _, err = process.communicate()
  assert process.returncode == 0, err[-3000:]
  one = worker.base(8, **linear)
  moved = train.run(one, workdir)
  stayed = train.run(one, tmp_path / "stayed")
  want = worker.leaves(stayed.state.params)
  for name, value in worker.leaves(moved.state.params).items():
    # f32 sums in another order in half of the steps.
    np.testing.assert_allclose(value, want[name], atol=1e-5, err_msg=name)
