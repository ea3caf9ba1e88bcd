"""Notebooks: short, equal to their scripts, and run to their assertion."""

import json
import os
import subprocess
import sys

import paths
import pytest

FOLDER = paths.REPO / "colab"
SCRIPTS = sorted(FOLDER.glob("*.py"))
each = pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)


def cells(text):
  """[(kind, source)] of a script in jupytext's percent format."""
  out = []
  for block in text.split("\n# %%")[1:]:
    head, _, body = block.partition("\n")
    lines = body.strip("\n").split("\n")
    if "[markdown]" in head:
      lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
    kind = "markdown" if "[markdown]" in head else "code"
    out.append((kind, "\n".join(lines)))
  return out


def test_there_are_notebooks():
  assert SCRIPTS


@each
def test_the_notebook_is_the_script(script):
  found = json.loads(script.with_suffix(".ipynb").read_text())["cells"]
  shown = [(c["cell_type"], "".join(c["source"])) for c in found]
  assert shown == cells(script.read_text())
  assert not any(c.get("outputs") for c in found)


@each
def test_it_is_short_and_asserts(script):
  code = [s for kind, s in cells(script.read_text()) if kind == "code"]
  lines = [x for s in code for x in s.split("\n") if x.strip(" #")]
  assert len(lines) < 90
  assert any(line.startswith("assert ") for line in lines)


@each
def test_it_runs(script, tmp_path):
  env = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(paths.REPO)}
  done = subprocess.run(
    [sys.executable, "-W", "ignore", str(script)],
    cwd=tmp_path,
    env=env,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert done.stdout
