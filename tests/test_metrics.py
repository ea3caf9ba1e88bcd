"""The writer and the compile counter."""

import io
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward import metrics
from rlreward.errors import UserError


class Terminal(io.StringIO):
  """A stream that says it is a terminal."""

  def isatty(self) -> bool:
    return True


def writer(path: pathlib.Path, total: int = 10, **settings) -> metrics.Writer:
  settings = {"stream": io.StringIO(), "tensorboard": False, **settings}
  return metrics.Writer(path, total, **settings)


def rows(path: pathlib.Path) -> list[dict]:
  text = (path / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_each_step_is_on_disk_at_once(tmp_path):
  w = writer(tmp_path)
  out = w.scalars(1, {"loss": jnp.float32(0.5), "n": 3, "m": np.ones((1,))})
  assert out == {"loss": 0.5, "n": 3.0, "m": 1.0}
  (row,) = rows(tmp_path)  # not closed yet
  assert {k: row[k] for k in ("step", "loss", "n")} == {
    "step": 1,
    "loss": 0.5,
    "n": 3.0,
  }
  w.scalars(1, {"reward": 2.0}, prefix="eval/")
  assert rows(tmp_path)[1]["eval/reward"] == 2.0
  with pytest.raises(ValueError, match=r"metric 'v' has shape \(2,\)"):
    w.scalars(2, {"v": jnp.zeros(2)})
  w.close()


def test_resume_rewrites_nothing_twice(tmp_path):
  w = writer(tmp_path)
  for step in range(1, 8):
    w.scalars(step, {"loss": 10.0 - step})
    w.samples(step, [{"prompt": str(step)}])
  w.close()
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 8, "lo')  # a kill in the middle of a line
  w = writer(tmp_path, resume_step=5)
  for step in range(6, 11):
    w.scalars(step, {"loss": 10.0 - step})
  stream = io.StringIO()
  w._stream = stream
  w.summary()
  w.close()
  assert [row["step"] for row in rows(tmp_path)] == list(range(1, 11))
  names = {p.name for p in (tmp_path / "samples").iterdir()}
  assert names == {f"step_{n}.jsonl" for n in range(1, 6)}
  # The table knows the first value from before the resume.
  line = next(s for s in stream.getvalue().splitlines() if "loss" in s)
  assert "9" in line and "-9" in line
  writer(tmp_path).close()
  assert rows(tmp_path) == [] and not list((tmp_path / "samples").iterdir())


def test_numbers_that_are_not_finite_are_null_and_counted(tmp_path):
  stream = io.StringIO()
  w = writer(tmp_path, stream=stream)
  for step in (1, 2):
    out = w.scalars(step, {"kl": jnp.nan, "loss": jnp.inf, "ok": 1})
  assert math.isnan(out["kl"])
  assert w.nonfinite == {"kl": 2, "loss": 2}
  for row in rows(tmp_path):
    assert row["kl"] is None and row["loss"] is None and row["ok"] == 1
  assert stream.getvalue().count("RLR-W003: kl is nan at step 1") == 1
  w.summary()
  assert "kl was not finite 2 times" in stream.getvalue()
  w.close()


def test_samples_are_plain_json(tmp_path):
  w = writer(tmp_path)
  row = {
    "prompt": "1+1=é",
    "reward": jnp.float32(1.0),
    "parts": {"a": np.float64(np.nan)},
    "ids": np.arange(3),
  }
  w.samples(4, [row, {"prompt": "x"}])
  text = (tmp_path / "samples" / "step_4.jsonl").read_text(encoding="utf-8")
  first, second = map(json.loads, text.splitlines())
  assert first == {
    "prompt": "1+1=é",
    "reward": 1.0,
    "parts": {"a": None},
    "ids": [0, 1, 2],
  }
  assert second == {"prompt": "x"} and "é" in text
  w.close()


def test_tensorboard_events_hold_scalars_and_text(tmp_path):
  w = writer(tmp_path, tensorboard=True)
  w.scalars(1, {"reward": 0.25})
  w.samples(1, [{"prompt": "hello"}])
  w.close()
  (file,) = (tmp_path / "tensorboard").iterdir()
  data = file.read_bytes()
  assert b"reward" in data and b"hello" in data


def test_progress_in_a_log_file(tmp_path, monkeypatch):
  clock = iter([0.0, 1.0, 10.0, 19.0, 20.0])
  monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
  stream = io.StringIO()
  w = writer(tmp_path, total=300, stream=stream, log_every=2)
  values = {"reward": 0.5, "kl": 0.01, "rollout_tokens_per_second": 1234.0}
  w.progress(1, values)
  w.progress(2, values)
  w.progress(11, values)
  w.progress(20, values)
  w.progress(300, values)
  w.close()
  lines = stream.getvalue().splitlines()
  assert lines == [
    "step 2/300  eta 4m58s  reward 0.500  kl 0.01  rollout 1.2k tok/s",
    "step 20/300  eta 4m40s  reward 0.500  kl 0.01  rollout 1.2k tok/s",
    "step 300/300  done  reward 0.500  kl 0.01  rollout 1.2k tok/s",
  ]


def test_progress_on_a_terminal_is_rewritten_in_place(tmp_path):
  stream = Terminal()
  w = writer(tmp_path, stream=stream)
  w.banner(["rlreward grpo", "mesh"])
  w.progress(1, {"loss": 1.0})
  w.progress(2, {"loss": 0.5})
  w.line("a warning")
  w.close()
  text = stream.getvalue()
  assert text.startswith("-------------\nrlreward grpo\nmesh\n-------------\n")
  assert text.count("\r") == 2
  assert text.endswith("\na warning\n")


def test_other_processes_are_silent(tmp_path, monkeypatch):
  monkeypatch.setattr(metrics.jax, "process_index", lambda: 1)
  stream = io.StringIO()
  w = writer(tmp_path / "run", stream=stream)
  assert w.scalars(1, {"loss": 1.0}) == {"loss": 1.0}
  w.samples(1, [{}])
  w.progress(1, {"loss": 1.0})
  w.banner(["x"])
  w.summary()
  w.close()
  assert stream.getvalue() == "" and not (tmp_path / "run").exists()


def test_a_bucket_is_refused():
  with pytest.raises(UserError, match="cannot be appended to in gs://b/run"):
    metrics.Writer("gs://b/run", 1)


def test_words():
  assert [metrics.seconds(s) for s in (9, 200, 7500)] == [
    "9s",
    "3m20s",
    "2h05m",
  ]
  assert [metrics.human(n) for n in (950, 1234, 3.4e6)] == [
    "950",
    "1.2k",
    "3.4M",
  ]


def test_a_second_compile_of_a_phase_warns_once():
  said: list[str] = []
  f = jax.jit(lambda x: jnp.sin(x) @ x.T)
  g = jax.jit(lambda x: jnp.cos(x).sum())
  inputs = [jnp.ones((n, 3)) for n in (2, 2, 4, 5)]
  with metrics.CompileCounter(said.append, min_seconds=0.0) as counter:
    g(inputs[0])  # outside a phase: not counted
    for x in inputs:
      with counter.phase("update"):
        f(x)
    with counter.phase("eval"):
      f(inputs[3][:, :2])
  assert counter.compiles == {"update": 3, "eval": 1}
  assert counter.compile_seconds["update"] > 0
  assert set(counter.scalars()) == {
    "compiles/update",
    "compiles/eval",
    "compile_seconds/update",
    "compile_seconds/eval",
  }
  (text,) = said
  assert text.startswith("RLR-W002: phase 'update' compiled again (jit(")
  with metrics.CompileCounter(said.append) as patient, patient.phase("a"):
    jnp.ones((3, 5)) + 1
  assert patient.compiles["a"] == 0 or patient.compile_seconds["a"] >= 0.1
