"""Exact paths of gold and proxy, their laws, the table and the figure."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import overoptimisation as over
from experiments import overoptimisation_pages as pages
from rlreward.analytic import tilt
from rlreward.tasks import biased

SMALL = {**over.WORLD, "length": 3, "world": 10}


@functools.cache
def law():
  return biased.law(SMALL)


def test_shapes_by_hand():
  p = np.array([[0.5, 0.3, 0.2]])
  r = np.array([[0.0, 2.0, 1.0]])
  # In order of r the base has 0.5, 0.7 and 1: the 85th percentile is the 2.
  want = -np.log1p(np.exp(2.0 - r))
  np.testing.assert_allclose(over._log_sigmoid(r, p), want)
  s = lambda x: 1 / (1 + np.exp(-x))
  want = [
    0.5 * s(0) + 0.3 * s(-2) + 0.2 * s(-1),
    0.5 * s(2) + 0.3 * s(0) + 0.2 * s(1),
    0.5 * s(1) + 0.3 * s(-1) + 0.2 * s(0),
  ]
  np.testing.assert_allclose(over._par(r, p), [want])


def test_the_base_gains_nothing_and_costs_nothing():
  found = over.measure(law(), law().logp, law().reward)
  np.testing.assert_allclose(list(found.values()), 0, atol=1e-9)


def test_optima_spend_what_they_are_asked_to():
  proxy = law().members[..., 0]
  path = over.optimum(law(), proxy, proxy)
  np.testing.assert_allclose(path["kl"][1:4], over.KLS[:3], rtol=1e-6)
  assert np.all(np.diff(path["proxy"]) > 0)
  # No policy has more of a proxy at a KL than its optimum: best of n neither.
  best = over.best(law(), proxy)
  for kl, value in zip(best["kl"], best["proxy"], strict=True):
    if kl < path["kl"][-1]:
      at = np.interp(kl, path["kl"], path["proxy"])
      # Straight lines between the points of a concave curve lie below it.
      assert value <= at + 0.1
  assert best["kl"][0] == pytest.approx(0, abs=1e-9)
  assert best["kl"][1] <= np.log(2) - 0.5 + 1e-9


def test_an_optimum_against_the_closed_form():
  proxy = law().members[..., 0]
  path = over.optimum(law(), proxy, proxy)
  with jax.enable_x64(True):
    one = lambda x, a: tilt.tilted(
      jnp.asarray(law().logp[x]), jnp.asarray(proxy[x]), a
    )
    alphas = np.linspace(0, 6, 400)
    rows = [
      over.measure(
        law(), np.stack([np.asarray(one(x, a)) for x in range(2)]), proxy
      )
      for a in alphas
    ]
  kl = [r["kl"] for r in rows]
  for name in ("gold", "proxy"):
    got = np.interp(path["kl"][2], kl, [r[name] for r in rows])
    # Between points of a grid of 400.
    assert path[name][2] == pytest.approx(got, abs=1e-3)


def test_table_and_figure(tmp_path):
  kl = [0.0, 1.0, 4.0, 7.0]
  d = np.sqrt(kl)
  bon = {"kl": kl, "gold": list(d * (1 - 0.3 * d)), "proxy": list(d)}
  log = np.log(np.where(d > 0, d, 1))
  rl = {"kl": kl, "gold": list(d * (0.8 - 0.5 * log)), "proxy": list(2 * d)}
  paths = {"best of n raw": [bon, bon], "RL raw": [rl, rl], "PPO raw": [rl, rl]}
  forms = {"best of n raw": "best_of_n", "RL raw": "rl", "PPO raw": "rl"}
  result = {
    "paths": paths,
    "fits": {n: over.fits(p, forms[n]) for n, p in paths.items()},
  }
  rows = {r["name"]: r for r in pages.summary(result)}
  assert rows["best of n raw"]["alpha"] == pytest.approx(1)
  assert rows["best of n raw"]["beta"] == pytest.approx(0.3)
  assert rows["RL raw"]["beta"] == pytest.approx(0.5)
  assert rows["RL raw"]["r2"] == pytest.approx(1)
  assert rows["RL raw"]["peak_kl"] == 4.0
  text = pages.table(list(rows.values()))
  # 2 (0.8 - 0.5 log 2) at 4 nats, and sqrt(7) (0.8 - 0.25 log 7) at 7.
  assert "| RL raw | 0.91 ± 0.00 | 4.0 | 0.83 ± 0.00 | 5.29 | 7.0 |" in text
  assert text.count("\n") == 5
  pages.draw(result, tmp_path / "x.png")
  assert (tmp_path / "x.png").stat().st_size > 10_000
