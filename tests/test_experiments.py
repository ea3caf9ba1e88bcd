"""The comparison of algorithms: its exact frontier, its tables, README's."""

import json
import math

import numpy as np
import paths
import pytest

from configs import algorithms as configs
from experiments import algorithms, pages
from rlreward import config, registry

RESULT = paths.REPO / "results" / "algorithms.json"


def test_every_algorithm_has_a_preset_that_loads():
  assert set(configs.CHANGES) == set(registry.names("algorithms"))
  for name in configs.CHANGES:
    c = config.load(f"configs/algorithms.py:{name}")
    assert c.algorithm == name
    config.check_complete(c)


def test_the_frontier_is_the_closed_form():
  p = np.array([0.2, 0.5, 0.9])
  curve = algorithms.frontier(p)
  alpha = 12 * 20 / 60  # the 21st of 61 from 0 to 12
  best = p * math.exp(alpha) / (1 - p + p * math.exp(alpha))
  kl = alpha * best - np.log(1 - p + p * math.exp(alpha))
  assert curve["reward"][20] == pytest.approx(best.mean(), abs=1e-9)
  assert curve["kl"][20] == pytest.approx(kl.mean(), abs=1e-9)
  four = 1 - (1 - p) ** 4
  gap = four * np.log(four / p) + (1 - four) * np.log((1 - four) / (1 - p))
  assert curve["bon_reward"][2] == pytest.approx(four.mean(), abs=1e-9)
  assert curve["bon_kl"][2] == pytest.approx(gap.mean(), abs=1e-9)
  assert np.all(np.diff(curve["reward"]) >= 0)


def test_best_of_n_lies_below_the_frontier():
  curve = algorithms.frontier(np.random.default_rng(0).uniform(0.05, 0.9, 64))
  for kl, reward in zip(curve["bon_kl"], curve["bon_reward"], strict=True):
    assert reward <= pages.attainable(curve, kl) + 1e-4  # its grid is finite


def made_up():
  run = lambda seed, gain: {
    "seed": seed,
    "first": {"reward": 0.4, "kl": 0.0},
    "last": {"reward": 0.4 + gain, "kl": 0.5},
    "seconds": 10.0,
    "peak_gib": 1.0,
  }
  score = {**run(0, 0), "last": {"held/accuracy": 0.9}}
  return {
    "seeds": [0, 1],
    "frontier": [algorithms.frontier(np.array([0.4]))] * 2,
    "runs": {"grpo": [run(0, 0.2), run(1, 0.4)], "reward_model": [score]},
  }


def test_a_row_is_the_mean_over_seeds():
  grpo, model = pages.summary(made_up())
  assert grpo["last"] == pytest.approx(0.7)
  assert grpo["last_sd"] == pytest.approx(0.2 / math.sqrt(2))
  assert grpo["least_gain"] == pytest.approx(0.2)
  assert grpo["attainable"] > grpo["last"]
  assert model["accuracy"] == pytest.approx(0.9) and "last" not in model
  text = pages.table([grpo, model])
  assert "| grpo | 0.400 -> 0.700 | 0.141 | 0.50 |" in text


def test_readme_takes_the_table_between_its_marks(tmp_path):
  file = tmp_path / "README.md"
  file.write_text(f"above\n{pages.MARK}\nstale\n{pages.MARK}\nbelow\n")
  table = pages.page(pages.summary(made_up()))
  pages.insert(file, table)
  pages.insert(file, table)  # once more changes nothing
  text = file.read_text()
  assert text == f"above\n{pages.MARK}\n{table}{pages.MARK}\nbelow\n"
  assert "[ppo](rlreward/algorithms/ppo.py)" in text and "stale" not in text


def test_the_figure_is_drawn(tmp_path):
  pages.draw(made_up(), tmp_path / "a.png")
  assert (tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.skipif(not RESULT.exists(), reason="not measured yet")
def test_readme_and_pages_are_those_of_the_results():
  result = json.loads(RESULT.read_text())
  assert len(result["seeds"]) >= 3
  rows = pages.summary(result)
  readme = (paths.REPO / "README.md").read_text()
  assert f"{pages.MARK}\n{pages.page(rows)}{pages.MARK}" in readme
  assert RESULT.with_suffix(".md").read_text() == pages.table(rows)
  gains = {r["algorithm"]: r["least_gain"] for r in rows if "last" in r}
  assert all(gain > 0 for gain in gains.values()), gains


def test_a_table_without_a_frontier_has_no_column_for_it():
  result = {**made_up(), "frontier": []}
  text = pages.table(pages.summary(result))
  assert "best at it" not in text and "| reward |" in text
  rows = text.splitlines()
  assert len({row.count("|") for row in rows[:3]}) == 1
  assert "| grpo | 0.400 -> 0.700 | 0.141 | 0.50 | 10 | 1.0 |" in text


def test_every_online_algorithm_learns_on_the_tiny_llama():
  found = json.loads(
    (paths.REPO / "results" / "algorithms_dreams.json").read_text()
  )
  rows = {r["algorithm"]: r for r in found["summary"]}
  assert set(rows) == set(algorithms.DREAMS) and len(found["seeds"]) >= 3
  assert all(r["least_gain"] > 0 for r in rows.values()), rows
