"""A step on 8 fake devices, sampling included, is the step on one device."""

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pytest

HERE = pathlib.Path(__file__).resolve().parent


@functools.cache
def step(devices, replica, fsdp, tensor, algorithm="grpo"):
  with tempfile.TemporaryDirectory() as folder:
    out = pathlib.Path(folder) / "out.npz"
    words = (devices, replica, fsdp, tensor, algorithm, out)
    env = {**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}"}
    done = subprocess.run(
      [sys.executable, str(HERE / "mesh_worker.py"), *map(str, words)],
      capture_output=True,
      text=True,
      check=False,
      env=env,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(out) as file:
      arrays = dict(file)
  return arrays, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", [(1, 4, 2), (2, 2, 2), (4, 1, 1)])
def test_a_mesh_gives_the_parameters_of_one_device(mesh):
  one, alone = step(1, 1, 1, 1)
  many, facts = step(8, *mesh)
  np.testing.assert_array_equal(one["tokens"], many["tokens"])
  for name, want in one.items():
    # f32 sums in another order, over two steps of size 1e-2.
    np.testing.assert_allclose(many[name], want, atol=1e-5, err_msg=name)
  for name, want in alone["metrics"].items():
    assert facts["metrics"][name] == pytest.approx(want, rel=1e-4, abs=1e-5)


def test_parameters_are_really_spread():
  assert step(8, 1, 4, 2)[1]["spread"] == 8
  assert step(1, 1, 1, 1)[1]["spread"] == 1


def test_collectives_stay_within_their_budget():
  _, alone = step(1, 1, 1, 1)
  assert sum(alone["counts"]["update"].values()) == 0
  assert sum(alone["counts"]["sample"].values()) == 0
  counts = step(8, 1, 4, 2)[1]["counts"]
  # Measured, with a tenth of slack: a new one is a layout that went wrong.
  assert sum(counts["update"].values()) <= BUDGET["update"], counts
  assert sum(counts["sample"].values()) <= BUDGET["sample"], counts
  data = step(8, 4, 1, 1)[1]["counts"]
  # Pure data parallelism samples without a word between devices, except to
  # agree on when to stop.
  assert sum(data["sample"].values()) <= 2, data


BUDGET = {"update": 80, "sample": 70}


ALGORITHMS = (
  "ppo", "remax", "turns", "raft", "dpo", "kto", "reward_model", "gated",
  "remodetect", "ensembles", "helpsteer2", "helpsteer2_pref", "rewardbench2",
  "summarize", "par", "par_clip", "tina",
)  # fmt: skip


@functools.cache
def algorithms():
  done = subprocess.run(
    [sys.executable, str(HERE / "mesh_algorithms.py"), *ALGORITHMS],
    capture_output=True,
    text=True,
    check=False,
    env={**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}"},
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_other_builders_give_the_parameters_of_one_device(name):
  gap, moved, loss = algorithms()[name]
  # As above; the steps themselves are two orders larger.
  assert gap < 1e-5 and loss < 1e-4
  assert moved > 1e-3
