"""Two processes play turns with a tool on the host as one does."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent


def begin(folder, *words):
  return subprocess.Popen(
    [sys.executable, str(HERE / "tool_worker.py"), str(folder), *words],
    env={**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}"},
    stderr=subprocess.PIPE,
    text=True,
  )


def test_each_process_asks_for_its_own_rows(tmp_path):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
  started = [begin(tmp_path, "0", "1")]
  started += [begin(tmp_path, str(i), "2", port) for i in range(2)]
  try:
    for process in started:
      _, error = process.communicate(timeout=200)
      assert process.returncode == 0, error[-3000:]
  finally:
    for process in started:
      process.kill()
  one = np.load(tmp_path / "1_0.npz")
  assert len(one["asked"]) > 1  # of several turns
  for index in range(2):
    two = np.load(tmp_path / f"2_{index}.npz")
    np.testing.assert_array_equal(2 * two["asked"], one["asked"])
    for name in ("tokens", "attend", "held_out"):
      np.testing.assert_array_equal(two[name], one[name])
    for name in one.files:
      if name.startswith("p"):  # sums of f32 over rows in two parts
        np.testing.assert_allclose(two[name], one[name], atol=1e-6)
