"""A run that measures itself against the best reward at its KL."""

import json

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import attainable, config, errors, train
from rlreward.analytic import tilt
from rlreward.evals import frontier
from rlreward.steps import roles
from rlreward.types import State

M, R = 3, (0.0, 1.0, 2.0)


def made(**changes):
  fields = {
    "model__vocab": 3,
    "sampling__max_new_tokens": M,
    "reference": "always",
    "frontier__samples": 8,
    "eval__prompts": 8,
    "eval__every": 2,
    "steps": 4,
    "checkpoint__every": 2,
    "log__tensorboard": False,
    "optimizer__learning_rate": 0.05,
    "optimizer__eps": 1e-8,
    **changes,
  }
  c = nano.config(**fields)
  c.task = c.task.__class__({"name": "memoryless", "length": M, "r": R})
  return config.freeze(c.to_dict())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  return train.run(made(), folder), folder


def test_the_curve_is_the_exact_optimum(run):
  _, folder = run
  curve = json.loads((folder / "frontier" / "curve.json").read_text())
  pool = np.load(folder / "frontier" / "pool.npz")
  assert curve["exact"] and all(curve["trusted"])
  assert pool["logp"].shape == (1, 3**M)
  with jax.enable_x64(True):
    logp, r = jnp.asarray(pool["logp"][0]), jnp.asarray(pool["reward"][0])
    r = r.astype(float)
    for i in range(0, frontier.POINTS, 9):
      alpha = tilt.solve_alpha(logp, r, curve["kl"][i])
      best = float(tilt.mean_reward(logp, r, alpha))
      # The law of the pool is float32; so are the tables.
      assert curve["reward"][i] == pytest.approx(best, abs=1e-4)
  assert curve["base"]["reward"] == pytest.approx(
    float(np.exp(pool["logp"][0]) @ pool["reward"][0]), rel=1e-5
  )


def test_every_evaluation_is_measured(run):
  found, folder = run
  rows = [
    json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()
  ]
  evals = {r["step"]: r for r in rows if "eval/reward" in r}
  assert sorted(evals) == [0, 2, 4]
  start, end = evals[0], evals[4]
  assert start["eval/exact_kl"] == pytest.approx(0, abs=1e-6)
  assert "eval/efficiency" not in start  # nothing has been spent
  assert end["eval/exact_kl"] > 0.05
  # No policy beats the optimum; both are exact up to float32.
  assert end["eval/efficiency"] <= 1 + 1e-3
  assert end["eval/kl_wasted"] >= -1e-3
  assert found.evals[4]["exact_reward"] == end["eval/exact_reward"]
  assert (folder / "frontier" / "frontier.png").stat().st_size > 5000


def test_efficiency_is_that_of_the_definition(run):
  found, folder = run
  curve = json.loads((folder / "frontier" / "curve.json").read_text())
  pool, last = np.load(folder / "frontier" / "pool.npz"), found.evals[4]
  with jax.enable_x64(True):
    logp = jnp.asarray(pool["logp"][0])
    r = jnp.asarray(pool["reward"][0]).astype(float)
    alpha = tilt.solve_alpha(logp, r, last["exact_kl"])
    best = float(tilt.mean_reward(logp, r, alpha))
  base = curve["base"]["reward"]
  wanted = (last["exact_reward"] - base) / (best - base)
  assert last["efficiency"] == pytest.approx(wanted, abs=2e-3)


def test_a_resumed_run_reads_its_curve(run, monkeypatch):
  _, folder = run
  monkeypatch.setattr(
    frontier, "curve", lambda pool: pytest.fail("surveyed again")
  )
  again = train.run(made(steps=6), folder)
  assert sorted(again.evals) == [0, 2, 4, 6]
  assert "efficiency" in again.evals[6]


def test_a_run_without_a_reference_is_refused(tmp_path):
  with pytest.raises(errors.UserError, match="reference=always"):
    train.run(made(reference="auto"), tmp_path / "a")


def test_without_samples_nothing_is_measured(tmp_path):
  c = made(frontier__samples=0)
  tracker = attainable.Tracker(c, nano.task(), roles.policy(c.model), tmp_path)
  state = State(jnp.zeros(()), {}, {}, (), jax.random.key(0))
  assert tracker(state, {}, {}, {"reward": 1.0, "kl": 1.0}) == {}
  assert not list(tmp_path.iterdir())
