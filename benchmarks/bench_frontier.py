"""Seconds to estimate a frontier from samples, with its bootstrap band.

usage: python benchmarks/bench_frontier.py [--repeats 7] [--out FILE]

The law: 1,000 prompts of 1,024 samples in float32, 64 budgets, 200 resamples,
under 1 s after compilation. Prints one JSON object and writes it to
results/bench/frontier.json. CPU seconds are those of this process on all cores:
on a busy machine they are the number to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import sys
import time
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
OUT = ROOT / "results" / "bench" / "frontier.json"
sys.path[:0] = [str(ROOT)]

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import run
from rlreward.analytic import frontier

LAW = 1.0  # seconds


def rewards(prompts: int, samples: int) -> np.ndarray:
  """f32[B, N]: normal, each prompt with its own mean and deviation."""
  rng = np.random.default_rng(0)
  mean, log_sd = 0.3 * rng.standard_normal((2, prompts, 1))
  noise = rng.standard_normal((prompts, samples))
  return np.float32(mean + np.exp(log_sd) * noise)


def error(r: np.ndarray, curve: frontier.Curve) -> float:
  """Largest relative error of the gain at 4 budgets, in NumPy's float64."""
  x = r.astype(float)
  fall = x - x.max(axis=1, keepdims=True)
  worst = 0.0
  for i in np.linspace(0, curve.kl.size - 1, 4).astype(int):
    low, high = -10.0, 10.0
    reward = x.mean()
    for _ in range(50):
      alpha = np.exp((low + high) / 2)
      w = np.exp(alpha * fall)
      w /= w.sum(axis=1, keepdims=True)
      log_z = np.log(np.exp(alpha * fall).mean(axis=1))
      kl = np.mean(alpha * (w * fall).sum(axis=1) - log_z)
      reward = np.mean((w * x).sum(axis=1))
      under = kl < float(curve.kl[i])
      low, high = (np.log(alpha), high) if under else (low, np.log(alpha))
    gain = reward - x.mean()
    found = float(curve.reward[i]) - float(curve.base)
    worst = max(worst, abs(found / gain - 1))
  return worst


def measure(
  prompts: int = 1000, samples: int = 1024, points: int = 64, repeats: int = 7
) -> dict[str, Any]:
  """Compiles, then times `repeats` calls.

  Args:
    prompts, samples: of the pool.
    points: budgets, from 0.02 nats to half of log N.
    repeats: timed calls, at least 1.

  Returns:
    Medians and all rows, seconds of wall and of CPU; the error of the gain.
  """
  r = rewards(prompts, samples)
  kls = jnp.linspace(0.02, np.log(samples) / 2, points, dtype=jnp.float32)
  pool = jnp.asarray(r)
  begun = time.perf_counter()
  call = jax.jit(frontier.from_samples).lower(pool, kls).compile()
  compiled = time.perf_counter() - begun
  curve = jax.block_until_ready(call(pool, kls))
  wall, cpu = [], []
  for _ in range(repeats):
    start, used = time.perf_counter(), time.process_time()
    jax.block_until_ready(call(pool, kls))
    wall.append(time.perf_counter() - start)
    cpu.append(time.process_time() - used)
  return {
    "prompts": prompts,
    "samples": samples,
    "points": points,
    "median_s": statistics.median(wall),
    "cpu_median_s": statistics.median(cpu),
    "wall_s": wall,
    "cpu_s": cpu,
    "compile_s": compiled,
    "gain_error": error(r, curve),
    "trusted": int(np.sum(curve.trusted)),
  }


def main() -> None:
  """Prints and writes the report."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--repeats", type=int, default=7)
  parser.add_argument("--out", default=str(OUT))
  args = parser.parse_args()
  load = os.getloadavg()[0]
  found = measure(repeats=args.repeats)
  report = {
    "machine": {**run.machine(), "load": load},
    "jax": jax.__version__,
    "law_s": LAW,
    "reached": found["median_s"] < LAW,
    **found,
  }
  path = pathlib.Path(args.out)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(report, indent=1) + "\n")
  print(json.dumps(report))


if __name__ == "__main__":
  main()
