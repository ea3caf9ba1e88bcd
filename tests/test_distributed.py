"""Two processes on loopback train what one process trains."""

import contextlib
import io
import json
import re
import signal
import socket
from typing import Any, NamedTuple

import numpy as np
import pytest
import run_worker as worker

from rlreward import train
from rlreward.config import replace

# Sums over rows are made in two parts, then added by the collective: f32
# rounding of another order, over a few steps. A large eps keeps Adam linear in
# the gradient, so that rounding is not blown up to the size of a step.
CLOSE = {"rtol": 0, "atol": 1e-6}
LINEAR = {"optimizer__eps": 1e3, "optimizer__learning_rate": 100.0}

JUDGE = """
import os

def odd(completion, want, row):
  with open({log!r} + str(os.getpid()), "a") as file:
    file.write(str(row) + chr(10))
  share = sum(c.isdigit() for c in completion) / max(len(completion), 1)
  parts = {{"value": share, "correct": float(completion[:1] in ("0", "1"))}}
  parts["row%d" % row] = 1.0
  return parts
"""
FAILS = """
def fails(completion, row):
  if row == 3:
    raise ValueError("no judge for row 3")
  return float(len(completion))
"""


class Job(NamedTuple):
  """A run of the two processes, and the same for one."""

  config: Any
  workdir: Any
  alone: Any
  alone_dir: Any


class Ran(NamedTuple):
  """What two processes did.

  Attributes:
    jobs: by name.
    said: {name: (text of process 0, of process 1)}.
    codes: exit codes.
  """

  jobs: dict[str, Job]
  said: dict[str, tuple[str, str]]
  codes: list[int]


def free_port():
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def launch(jobs, devices):
  """Two processes with so many devices each that run the jobs together."""
  words = (devices, free_port())
  listed = [(job.config, job.workdir) for job in jobs.values()]
  return [worker.start(listed, *words, i, 2) for i in range(2)]


def ended(processes, jobs, before=""):
  """Ran; none of the processes is left behind."""
  try:
    found = [p.communicate(timeout=200) for p in processes]
  finally:
    for p in processes:
      p.kill()
  parts = []
  for out, err in found:
    texts = re.split(r"^job \d+\n", before + out, flags=re.M)[1:]
    assert len(texts) == len(jobs), err[-3000:]
    parts.append(texts)
    before = ""
  said = dict(zip(jobs, zip(*parts, strict=True), strict=True))
  return Ran(jobs, said, [p.returncode for p in processes])


def python_job(folder, rounds):
  """Rewards in Python that keep a log of the rows each process judges."""

  def prepare(name):
    inside = folder / f"{name}{rounds}"
    inside.mkdir()
    judge = JUDGE.format(log=str(inside / "log"))
    changes = {"refill_rounds": rounds, "filter_on": "odd/correct", **LINEAR}
    config = worker.text(inside, 3, judge, log__samples_every=1, eval__every=0,
                         **changes)  # fmt: skip
    path = f"{inside}/reward.py:odd"
    return replace(config, {"task.rewards": path}), inside / "run"

  return Job(*prepare("two"), *prepare("one"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
  """Everything that two processes of one device do, in one go."""
  folder = tmp_path_factory.mktemp("pair")
  base = worker.base(3, eval__every=2, log__samples_every=1,
                     checkpoint__every=2, log__tensorboard=True,
                     **LINEAR)  # fmt: skip
  both = lambda config, name: Job(config, folder / name, config, folder / "one")
  stages = worker.two_stages(**LINEAR)
  broken = worker.text(folder, 5, FAILS)
  broken = replace(broken, {"task.rewards": f"{folder}/reward.py:fails"})
  jobs = {
    "first": both(base, "two"),
    "resumed": both(replace(base, {"steps": 6}), "two"),
    "refused": both(replace(base, {"seed": 7}), "two"),
    "tensor": both(replace(base, {"mesh.tensor": 2, "mesh.fsdp": 1}), "tensor"),
    "stages": Job(stages, folder / "stages", stages, folder / "stages1"),
    "python": python_job(folder, 0),
    "refill": python_job(folder, 2),
    "broken": Job(broken, folder / "broken", None, None),
  }
  return ended(launch(jobs, 1), jobs)


def alone(job):
  """The same run on one process, without words."""
  with contextlib.redirect_stdout(io.StringIO()):
    return train.run(job.alone, job.alone_dir)


def assert_close(result, workdir):
  """Parameters of one process and those that two have saved."""
  curve = worker.curve(workdir)
  assert min(row["grad_norm"] for row in curve if "loss" in row) > 1e-3
  want = worker.leaves(result.state.params)
  found, other = (worker.saved(workdir, result.state.step, i) for i in (0, 1))
  assert set(found) == set(want)
  for name, value in want.items():
    np.testing.assert_allclose(found[name], value, **CLOSE, err_msg=name)
    np.testing.assert_array_equal(found[name], other[name], err_msg=name)


def assert_same_curve(one, two):
  for a, b in zip(worker.curve(one), worker.curve(two), strict=True):
    assert a.keys() == b.keys()
    for name, value in a.items():
      assert b[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def assert_same_samples(one, two):
  one, two = worker.samples(one), worker.samples(two)
  assert one.keys() == two.keys()
  for name, rows in one.items():
    for a, b in zip(rows, two[name], strict=True):
      assert a["completion_ids"] == b["completion_ids"]
      assert a["reward"] == pytest.approx(b["reward"], abs=1e-6)
      assert a["logp"] == pytest.approx(b["logp"], abs=2e-5)
      assert a.keys() == b.keys()


def test_two_processes_give_the_parameters_of_one(pair):
  first, resumed = pair.jobs["first"], pair.jobs["resumed"]
  assert_close(alone(first), first.workdir)
  # The same command again: three further steps on two processes and on one.
  assert "resumes from the checkpoint of step 3" in pair.said["resumed"][0]
  assert_close(alone(resumed), first.workdir)
  assert_same_curve(first.alone_dir, first.workdir)
  assert_same_samples(first.alone_dir, first.workdir)


def test_only_process_0_speaks_and_writes(pair):
  said, silent = pair.said["first"]
  assert "1 process" not in said and "2 processes" in said
  assert "step 3/3" in said and "held out, step 2" in said
  lines = [x for x in silent.splitlines() if not x.startswith("[Gloo]")]
  assert lines == []
  workdir = pair.jobs["first"].workdir
  # One file for each of the two runs in it; each step is there once, above.
  assert len(list((workdir / "tensorboard").iterdir())) == 2
  assert {p.name for p in workdir.iterdir()} <= {
    "config.json", "metrics.jsonl", "samples", "tensorboard", "checkpoints",
  }  # fmt: skip


def test_another_config_is_refused_by_both(pair):
  for text in pair.said["refused"]:
    assert text.startswith("refused: ") and "seed: 0 -> 7" in text


def test_a_tensor_axis_across_processes(pair):
  # Both processes hold all rows and half of every matrix.
  job = pair.jobs["tensor"]
  assert "replica=1 fsdp=1 tensor=2" in pair.said["tensor"][0]
  one = train.run(pair.jobs["first"].config, job.workdir.with_name("tensor1"))
  assert_close(one, job.workdir)


def test_both_stages_of_a_run(pair):
  job = pair.jobs["stages"]
  assert_close(alone(job), job.workdir)
  assert_same_curve(job.alone_dir / "start", job.workdir / "start")


@pytest.mark.parametrize("name", ["python", "refill"])
def test_each_row_is_judged_once_where_rewards_are_python(pair, name):
  job = pair.jobs[name]
  assert_close(alone(job), job.workdir)

  def judged(workdir):
    logs = workdir.parent.glob("log*")
    return [sorted(path.read_text().split()) for path in logs]

  (every,) = judged(job.alone_dir)
  some, others = judged(job.workdir)
  assert sorted(some + others) == every
  assert len(some) == len(others)
  assert_same_samples(job.alone_dir, job.workdir)
  drawn = {row.get("refill/drawn") for row in worker.curve(job.workdir)}
  assert name == "python" or len(drawn - {None}) > 1


def test_a_reward_that_fails_on_one_process_stops_both(pair):
  said = pair.said["broken"]
  assert all("no judge for row 3" in text for text in said)
  assert sum("the reward failed on process" in text for text in said) == 1
  assert pair.codes == [1, 1]


def test_two_devices_each_and_a_signal_to_one(pair, tmp_path):
  job = pair.jobs["resumed"]
  longer = replace(job.config, {"steps": 8})
  moved = replace(longer, {"mesh.fsdp": 2, "mesh.tensor": 2})
  endless = worker.base(2000, log__every=1)
  jobs = {
    "moved": Job(moved, job.workdir, longer, tmp_path / "one"),
    "signal": Job(endless, tmp_path / "run", None, None),
  }
  processes = launch(jobs, 2)
  heard = ""
  for line in processes[0].stdout:
    heard += line
    if line.startswith("step 1/2000"):
      break
  processes[1].send_signal(signal.SIGTERM)
  ran = ended(processes, jobs, heard)
  assert ran.codes == [0, 0]
  assert "resumes from the checkpoint of step 6" in ran.said["moved"][0]
  assert "fsdp=2 tensor=2 on 4 cpu devices, 2 proc" in ran.said["moved"][0]
  assert_close(alone(jobs["moved"]), job.workdir)
  assert "run the same command to go on" in ran.said["signal"][0]
  workdir = jobs["signal"].workdir
  last = max(row["step"] for row in worker.curve(workdir))
  assert last < 2000
  assert (workdir / "checkpoints" / str(last)).is_dir()
  assert json.loads((workdir / "config.json").read_text())["steps"] == 2000
