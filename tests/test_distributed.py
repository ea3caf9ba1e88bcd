"""Two processes on loopback train what one process trains."""

import json
import pathlib
import signal
import socket

import numpy as np
import pytest
import run_worker as worker

from rlreward import train
from rlreward.config import replace

# Sums over rows are made in two parts, then added by the collective: f32
# rounding of another order, over three Adam steps of size 3e-3. A large eps
# keeps Adam linear in the gradient, so that rounding is not blown up.
CLOSE = {"rtol": 0, "atol": 1e-6}
LINEAR = {"optimizer__eps": 1e3, "optimizer__learning_rate": 100.0}


def free_port():
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def launch(config, workdir):
  """Two processes that run the config together."""
  words = (1, free_port())
  return [worker.start(config, workdir, *words, i, 2) for i in range(2)]


def ended(processes):
  """What each printed: [(out, err)]; none is left behind."""
  try:
    return [p.communicate(timeout=200) for p in processes]
  finally:
    for p in processes:
      p.kill()


def wait(processes):
  """Their outputs; all must have ended well."""
  found = ended(processes)
  for p, (_, err) in zip(processes, found, strict=True):
    assert p.returncode == 0, err[-3000:]
  return [out for out, _ in found]


def assert_close(result, workdir):
  """Parameters of one process and those that two have saved."""
  curve = worker.curve(workdir)
  assert min(row["grad_norm"] for row in curve if "loss" in row) > 1e-3
  want = worker.leaves(result.state.params)
  with np.load(f"{workdir}.npz") as file:
    assert set(file) == set(want)
    for name, value in want.items():
      np.testing.assert_allclose(file[name], value, **CLOSE, err_msg=name)


def sample_rows(workdir, step):
  path = pathlib.Path(workdir) / "samples" / f"step_{step}.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_processes_give_the_parameters_of_one(tmp_path):
  config = worker.base(
    3, eval__every=2, log__samples_every=1, checkpoint__every=2, **LINEAR
  )
  one, two = tmp_path / "one", tmp_path / "two"
  alone = train.run(config, one)
  first, second = wait(launch(config, two))
  assert_close(alone, two)
  assert "step 3/3" in first
  assert "step" not in second and "held out" not in second
  names = sorted(str(p.relative_to(two)) for p in two.rglob("*.json*"))
  assert sum(n == "metrics.jsonl" for n in names) == 1
  for a, b in zip(worker.curve(one), worker.curve(two), strict=True):
    assert a.keys() == b.keys()
    for name, value in a.items():
      assert b[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
  for a, b in zip(sample_rows(one, 3), sample_rows(two, 3), strict=True):
    assert a["completion"] == b["completion"]
  # The same command again: three further steps on two processes and on one.
  longer = replace(config, {"steps": 6})
  outputs = wait(launch(longer, two))
  assert "resumes from the checkpoint of step 3" in outputs[0]
  assert_close(train.run(longer, one), two)
  # Another config: refused by both.
  processes = launch(replace(config, {"seed": 7}), two)
  errors = [err for _, err in ended(processes)]
  assert all(p.returncode for p in processes)
  assert all("seed: 0 -> 7" in text for text in errors)


REWARD = """
import os

def odd(completion, want, row):
  with open({log!r} + str(os.getpid()), "a") as file:
    file.write(str(row) + chr(10))
  share = sum(c.isdigit() for c in completion) / max(len(completion), 1)
  parts = {{"value": share}}
  parts["row%d" % row] = 1.0
  return parts
"""


@pytest.mark.parametrize("rounds", [0, 2])
def test_each_row_is_judged_once_where_rewards_are_python(tmp_path, rounds):
  def prepare(name):
    folder = tmp_path / name
    folder.mkdir()
    changes = {"log__samples_every": 1, "eval__every": 0, **LINEAR}
    config = worker.text(folder, 3, refill_rounds=rounds, **changes)
    text = REWARD.format(log=str(folder / "log"))
    (folder / "reward.py").write_text(text)
    config = replace(config, {"task.rewards": f"{folder}/reward.py:odd"})
    return config, folder / "run"

  def judged(name):
    logs = (tmp_path / name).glob("log*")
    return [sorted(path.read_text().split()) for path in logs]

  config, one = prepare("one")
  alone = train.run(config, one)
  config, two = prepare("two")
  wait(launch(config, two))
  assert_close(alone, two)
  (every,), (some, others) = judged("one"), judged("two")
  assert sorted(some + others) == every
  assert len(some) == len(others)
  for step in (1, 2, 3):
    a, b = sample_rows(one, step), sample_rows(two, step)
    for x, y in zip(a, b, strict=True):
      assert x["completion"] == y["completion"]
      assert x["reward/odd"] == pytest.approx(y["reward/odd"], abs=1e-6)
      assert {k for k in x if "row" in k} == {k for k in y if "row" in k}


FAILS = """
def fails(completion, row):
  if row == 3:
    raise ValueError("no judge for row 3")
  return float(len(completion))
"""


def test_a_reward_that_fails_on_one_process_stops_both(tmp_path):
  config = worker.text(tmp_path, 5)
  (tmp_path / "reward.py").write_text(FAILS)
  path = f"{tmp_path}/reward.py:fails"
  config = replace(config, {"task.rewards": path})
  processes = launch(config, tmp_path / "run")
  errors = [err for _, err in ended(processes)]
  assert all(p.returncode for p in processes)
  assert all("no judge for row 3" in text for text in errors)
  assert sum("the reward failed on process" in text for text in errors) == 1


def test_sigterm_to_one_process_stops_both_at_one_step(tmp_path):
  config, workdir = worker.base(2000), tmp_path / "run"
  processes = launch(config, workdir)
  metrics = workdir / "metrics.jsonl"
  while all(p.poll() is None for p in processes):
    if metrics.exists() and '"loss"' in metrics.read_text():
      break
  processes[1].send_signal(signal.SIGTERM)
  outputs = wait(processes)
  assert "run the same command to go on" in outputs[0]
  last = max(row["step"] for row in worker.curve(workdir))
  assert (workdir / "checkpoints" / str(last)).is_dir()
