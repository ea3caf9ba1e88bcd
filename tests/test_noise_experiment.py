"""Noise: what the law predicts, its simulation, the table and the figure."""

import json

import jax
import numpy as np
import paths
import pytest

from experiments import noise
from experiments import noise_pages as pages
from rlreward.analytic import label_noise

RESULT = paths.REPO / "results" / "noise.json"
STEPS = [0.0, 10.0, 20.0, 30.0, 40.0]
CLEAN = {"step": STEPS, "accuracy": [0.5, 0.6, 0.7, 0.8, 0.9]}


def test_whole_questions_leave_a_share_of_the_time():
  for p, want in ((0.0, 0.9), (0.25, 0.7), (0.4, 0.58), (0.5, 0.5), (0.6, 0.5)):
    assert noise.predicted(CLEAN, p, "prompt", 8) == pytest.approx(want)


def test_single_answers_leave_what_the_shrinking_adds_up_to():
  assert noise.predicted(CLEAN, 0.0, "sample", 8) == pytest.approx(0.9)
  assert noise.predicted(CLEAN, 0.5, "sample", 8) == pytest.approx(0.5)
  # At q = 1/2 nothing but 1 - 2 p is lost; a clean run that stays there.
  flat = {"step": STEPS, "accuracy": [0.5, 0.5001, 0.5002, 0.5003, 0.5004]}
  got = noise.predicted(flat, 0.2, "sample", 8)
  assert got == pytest.approx(0.5 + 0.0004 * 0.6, abs=1e-6)
  # Elsewhere single flips cost more than whole ones.
  high = {"step": STEPS, "accuracy": [0.8, 0.84, 0.88, 0.92, 0.96]}
  whole, single = (noise.predicted(high, 0.2, u, 8) for u in pages.NAMES)
  assert 0.8 < single < whole - 0.002


@pytest.mark.parametrize("unit", ["prompt", "sample"])
def test_the_simulation_is_the_law(unit):
  law, clean = (label_noise.push(0.2, p, 8, unit) for p in (0.4, 0.0))
  got = noise.simulated(0.2, 0.4, unit, 8, jax.random.key(0))
  # Five errors of the noisy mean; that of the clean one is far smaller.
  error = 5 * law.sd / noise.GROUPS**0.5 / clean.mean
  assert got == pytest.approx(law.mean / clean.mean, abs=error)


def made_up():
  rows = [
    {"p": p, "seed": s, "first": 0.5, "last": 0.9 - p + s / 10,
     "predicted": 0.9 - p}
    for p in noise.RATES for s in (0, 1)
  ]  # fmt: skip
  both = {"prompt": rows, "sample": rows}
  return {"runs": both, "theory": noise.theory(4), "size": 4}


def test_table_and_figure(tmp_path):
  result = made_up()
  rows = pages.summary(result)
  assert len(rows) == 2 * len(noise.RATES)
  assert rows[1]["last"] == pytest.approx(0.75)
  text = pages.table(rows)
  assert "| whole questions | 0.2 | 0.500 | 0.750 ± 0.071 | 0.700 |" in text
  pages.draw(result, tmp_path / "x.png")
  assert (tmp_path / "x.png").stat().st_size > 10_000


@pytest.mark.skipif(not RESULT.exists(), reason="not measured yet")
def test_the_record_is_of_the_law_and_its_page():
  found = json.loads(RESULT.read_text())
  assert len(set(found["seeds"])) >= 3
  rows = pages.summary(found)
  assert RESULT.with_suffix(".md").read_text() == pages.table(rows)
  for r in found["theory"]:
    law, clean = (
      label_noise.push(r["q"], p, found["size"], r["unit"])
      for p in (r["p"], 0.0)
    )
    assert r["shrink"] == pytest.approx(law.mean / clean.mean, abs=1e-9)
  by = {(r["unit"], r["p"]): r["last"] for r in rows}
  for unit in pages.NAMES:  # more noise never helps, but for a run's spread
    line = [by[unit, p] for p in noise.RATES]
    assert np.all(np.diff(line) < 0.05) and line[0] > line[-1] + 0.1
