"""A stopped run goes on as if nothing had happened, to the last bit."""

import functools
import random
import signal
import tempfile

import numpy as np
import pytest
import run_worker as worker

from rlreward import errors, train
from rlreward.config import replace


@functools.cache
def whole(kind):
  """(config, result, curve) of a run that never stopped."""
  folder = tempfile.mkdtemp(prefix="whole")
  config = {
    "arithmetic": worker.base,
    "text": lambda: worker.text(folder),
    "stages": worker.two_stages,
  }[kind]()
  result = train.run(config, f"{folder}/run")
  curve = worker.curve(f"{folder}/run")
  # Every step must move something, or all runs would be alike.
  assert min(row["grad_norm"] for row in curve if "loss" in row) > 1e-3
  return config, result, curve


def resume(kind, workdir, stops):
  """The same run, stopped at each of `stops`; compared with the whole one."""
  config, want, curve = whole(kind)
  before = 0
  for stop in (*stops, None):
    count = None if stop is None else stop - before
    result = train.run(config, workdir, stop_after=count)
    before = stop
  worker.assert_same(want.state, result.state)
  assert worker.curve(workdir) == curve
  assert result.evals == want.evals


def random_stops():
  """Seven runs with eleven stops in all."""
  rng = random.Random(0)
  sizes = (1, 1, 1, 2, 2, 2, 2)
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


def test_killed_at_random_moments(tmp_path):
  config, want, curve = whole("arithmetic")
  workdir = tmp_path / "run"
  rng = random.Random(1)
  for _ in range(3):
    process = worker.start(config, workdir)
    lines = rng.randrange(1, 5)
    metrics = workdir / "metrics.jsonl"
    seen = len(metrics.read_bytes()) if metrics.exists() else 0
    # No clock: it dies once it has written a few more steps, wherever that is.
    while process.poll() is None:
      size = len(metrics.read_bytes()) if metrics.exists() else 0
      if size < seen:
        seen = size
      if size > seen + 700 * lines:
        break
    process.send_signal(signal.SIGKILL)
    process.communicate()
  result = train.run(config, workdir)
  worker.assert_same(want.state, result.state)
  assert worker.curve(workdir) == curve


def test_sigterm_saves_and_leaves_with_0(tmp_path):
  config, workdir = worker.base(steps=2000), tmp_path / "run"
  process = worker.start(config, workdir)
  metrics = workdir / "metrics.jsonl"
  while process.poll() is None:
    if metrics.exists() and '"loss"' in metrics.read_text():
      break
  process.send_signal(signal.SIGTERM)
  out, err = process.communicate()
  assert process.returncode == 0, err
  assert "run the same command to go on" in out
  result = train.run(config, workdir, stop_after=2)
  steps = int(result.state.step)
  want = train.run(config, tmp_path / "want", stop_after=steps)
  worker.assert_same(want.state, result.state)
  assert worker.curve(workdir) == worker.curve(tmp_path / "want")


@pytest.mark.parametrize("stops", [[1], [2, 5], [4], [7]], ids=str)
def test_two_stages(tmp_path, stops):
  resume("stages", tmp_path, stops)
  first = worker.curve(tmp_path / "start")
  _, want, _ = whole("stages")
  assert first == worker.curve(want.workdir / "start")


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
  process = worker.start(config, workdir, 8)
  _, err = process.communicate()
  assert process.returncode == 0, err[-3000:]
  one = worker.base(8, **linear)
  moved = train.run(one, workdir)
  stayed = train.run(one, tmp_path / "stayed")
  want = worker.leaves(stayed.state.params)
  for name, value in worker.leaves(moved.state.params).items():
    # f32 sums in another order in half of the steps.
    np.testing.assert_allclose(value, want[name], atol=1e-5, err_msg=name)
