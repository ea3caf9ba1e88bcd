"""Noise: accuracy against the share of rewards that are turned around.

A tiny transformer imitates a cipher of which three in five answers are wrong,
and GRPO trains it on the exact answer, but a share p of the rewards is 1 - r:
of whole questions, or of single answers. Nothing is noisy in evaluation, and
the accuracy is exact (all right answers are listed).

Beside it stands what the law of a group says (`analytic/label_noise.py`),
without a free number: the mean reward is (1 - 2 p) r + p, and the mean push of
a group shrinks by s. As steps are plain gradients here (Adam's eps is far above
them), T noisy steps are as good as s T clean ones, as far as noise does no harm
of its own: s = 1 - 2 p for whole questions; for single answers s also falls
where right answers are rare, and time is integrated, dt_0 = s(q(t_0), p) dt.

  python -m experiments.noise --seeds=0,1,2 --workdir=runs/noise

Writes noise.json, noise.md and noise.png. What is there is not trained again;
about 25 seconds for a run on 2 CPU cores, and a start for each seed before.

Reference: The Climb Carves Wisdom Deeper Than the Summit, arXiv 2505.22653.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import noise_pages as pages
from rlreward import config as config_lib
from rlreward import runs, train
from rlreward.analytic import label_noise
from rlreward.ops import advantage, noise

SPEC = "configs/noisy_reward.py:mini"
RATES = (0.0, 0.2, 0.4, 0.5)
QS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
GROUPS = 40_000  # of the simulation at each q


def clean(seed: int, workdir: pathlib.Path) -> dict[str, list[float]]:
  """Trains the imitated start and, from it, without flips; what `one` returns.

  Args:
    seed: of both.
    workdir: everything goes below it; `start/seed_<n>` is the start.
  """
  folder = workdir / "clean" / f"seed_{seed}"
  c = config_lib.replace(config_lib.load(SPEC), {"seed": seed})
  found = train.run(c, folder).evals
  out = workdir / "start" / f"seed_{seed}"
  if not out.exists():
    runs.export(folder / "start", out)
  return _curve(found)


def one(
  seed: int, p: float, unit: str, workdir: pathlib.Path
) -> dict[str, list[float]]:
  """Trains with flips; held-out accuracy at the steps that are evaluated.

  Args:
    seed: of start and run, which `clean` has trained before.
    p: chance of a flip.
    unit: "prompt" or "sample".
    workdir: everything goes below it.
  """
  c = config_lib.load(SPEC)
  changes = {
    "seed": seed, "noise.flip": p, "noise.unit": unit,
    "model.path": str(workdir / "start" / f"seed_{seed}"),
  }  # fmt: skip
  plain = config_lib.freeze({**c.to_dict(), "start": {}})
  folder = workdir / f"{unit}_{p}" / f"seed_{seed}"
  return _curve(train.run(config_lib.replace(plain, changes), folder).evals)


def _curve(evals) -> dict[str, list[float]]:
  steps = sorted(evals)
  return {
    "step": [float(s) for s in steps],
    "accuracy": [float(evals[s]["exact_reward"]) for s in steps],
  }


def predicted(
  plain: dict[str, list[float]], p: float, unit: str, size: int
) -> float:
  """Accuracy after the clean run's time that noise leaves.

  Args:
    plain: of `clean`.
    p: chance of a flip.
    unit: "prompt" or "sample".
    size: answers of a group.
  """
  steps, accuracy = (np.asarray(plain[k]) for k in ("step", "accuracy"))
  at = lambda t: float(np.interp(t, steps, accuracy))
  if unit == "prompt":
    return at(max(1 - 2 * p, 0) * steps[-1])
  grid = np.linspace(1e-3, 1 - 1e-3, 101)
  shrink = [label_noise.shrink(float(q), p, size) for q in grid]
  time = 0.0
  for _ in range(int(steps[-1])):
    time += float(np.interp(at(time), grid, shrink))
  return at(time)


def simulated(q: float, p: float, unit: noise.Unit, size: int, key) -> float:
  """The push of groups by the package's own ops, over that without flips."""
  turned, plain = _pushes(key, q, p, unit, size)
  return float(turned / plain)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _pushes(key, q, p, unit: noise.Unit, size: int):
  a, b = jax.random.split(key)
  right = jax.random.bernoulli(a, q, (GROUPS, size)).astype(jnp.float32)
  group = jnp.repeat(jnp.arange(GROUPS), size)
  on = noise.flips(b, p, group, unit)
  turned = noise.flip(right.reshape(-1), on).reshape(right.shape)
  valid = jnp.ones(right.shape, bool)
  push = lambda r: jnp.mean(advantage.group_advantage(r, valid) * right)
  return push(turned), push(right)


def theory(size: int) -> list[dict[str, Any]]:
  """The law of a group and its simulation, for each unit, p and q."""
  rows = []
  for unit in noise.UNITS:
    for p in RATES[1:]:
      for i, q in enumerate(QS):
        law, free = (label_noise.push(q, x, size, unit) for x in (p, 0.0))
        row = {
          "unit": unit, "p": p, "q": q, "shrink": law.mean / free.mean,
        }  # fmt: skip
        if p in pages.SHOWN:
          key = jax.random.key(i)
          row["simulated"] = simulated(q, p, unit, size, key)
        rows.append(row)
  return rows


def main(argv: Sequence[str] | None = None) -> int:
  """Runs what is missing and writes all three files."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--workdir", default="runs/noise")
  parser.add_argument("--out", default="results")
  args = parser.parse_args(argv)
  workdir = pathlib.Path(args.workdir).resolve()
  seeds = [int(s) for s in args.seeds.split(",")]
  size = int(config_lib.load(SPEC).samples_per_prompt)
  found: dict[str, list[dict[str, Any]]] = {u: [] for u in noise.UNITS}
  plain = [clean(seed, workdir) for seed in seeds]
  for unit in noise.UNITS:
    for p in RATES:
      for seed, first in zip(seeds, plain, strict=True):
        run = one(seed, p, unit, workdir) if p else first
        said = predicted(first, p, unit, size)
        found[unit].append(
          {"p": p, "seed": seed, "first": run["accuracy"][0],
           "last": run["accuracy"][-1], "predicted": said}
        )  # fmt: skip
  result = {
    "seeds": seeds,
    "clean": plain,
    "runs": found,
    "theory": theory(size),
    "size": size,
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
  }
  result["summary"] = pages.summary(result)
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  text = json.dumps(result, indent=1, sort_keys=True)
  (out / "noise.json").write_text(text + "\n")
  table = pages.table(result["summary"])
  (out / "noise.md").write_text(table)
  pages.draw(result, out / "noise.png")
  print(table)
  return 0


if __name__ == "__main__":
  sys.exit(main())
