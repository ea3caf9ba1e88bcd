"""How far does each algorithm get, and at what KL? One figure, one table.

Every algorithm of `configs/algorithms.py` trains from the same imitated start
on two-digit additions. The answer is right or wrong, so what is attainable at a
KL is exact: with p(x) the start's probability of the right answer, the optimum
is p e^a / (1 - p + p e^a) for each prompt, a the same for all. The figure shows
reward against KL with that frontier and the best-of-n curve; the table adds
wall time and peak memory, each run in a process of its own.

  python -m experiments.algorithms --seeds=0,1,2 --workdir=runs/algorithms

`--world=dreams` trains those that need a reward alone on the trained tiny Llama
of `configs/dreams.py` instead (its checkpoint must be converted first); there
is no exact frontier there, so it writes the table alone.

About 25 seconds for each algorithm and seed on 2 CPU cores, a minute for
dreams.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import algorithms as configs
from experiments import pages
from rlreward import config as config_lib
from rlreward import runs, train
from rlreward.analytic import best_of_n, tilt
from rlreward.models import score as score_lib

# Fields of an algorithm on the tiny Llama; the others of configs/dreams.py.
DREAMS: dict[str, dict[str, Any]] = {
  **{n: {} for n in ("grpo", "dr_grpo", "dapo", "gspo", "cispo")},
  "ppo": {"epochs": 2, "loss.kl_stop": 0.1, "critic.coefficient": 1.0},
  **{n: {} for n in ("reinforce", "rloo", "reinforce_pp")},
  "remax": {"samples_per_prompt": 7},
  "bond": {"best_of_n.n": 8, "loss.kl_beta": 0.0},
  # Its preferences are within a half of zero: the KL is to weigh less.
  "nash_md": {"samples_per_prompt": 7, "loss.kl_beta": 0.02},
  "raft": {"loss.kl_beta": 0.0, "prompts_per_step": 64, "steps": 12,
           "updates_per_step": 2, "epochs": 2, "optimizer.warmup_steps": 0},
  "rest_em": {"loss.kl_beta": 0.0, "prompts_per_step": 64, "steps": 4,
              "updates_per_step": 4, "epochs": 4, "rounds.at": 0.6,
              "optimizer.warmup_steps": 0},
  "online_dpo": {"loss.kl_beta": 0.0},
  "xpo": {"loss.kl_beta": 0.0, "samples_per_prompt": 1,
          "prompts_per_step": 64},
}  # fmt: skip


def dream(name: str, seed: int, workdir: pathlib.Path) -> dict[str, Any]:
  """Trains one algorithm on the tiny Llama; what `one` returns.

  Args:
    name: of DREAMS.
    seed: of the run.
    workdir: everything goes below it.
  """
  c = config_lib.load("configs/dreams.py")
  changes = {
    "algorithm": name,
    "seed": seed,
    "steps": 40,
    "reference": "always",
    "eval.every": 0,
    "log.tensorboard": False,
    **DREAMS[name],
  }
  return measured(config_lib.replace(c, changes), seed, workdir / name)


def base(seed: int, folder: pathlib.Path) -> pathlib.Path:
  """Trains the common start of a seed and exports it; done once.

  Args:
    seed: of the run.
    folder: where the run goes.

  Returns:
    A checkpoint directory.
  """
  out = folder / "checkpoint"
  if not out.exists():
    plain = config_lib.freeze(configs.base().to_dict())
    fields = dict(config_lib.flatten(configs.start()))
    changes = {**fields, "seed": seed, "log.tensorboard": False}
    c = config_lib.replace(plain, changes)
    train.run(c, folder / "run")
    runs.export(folder / "run", out)
  return out


def one(name: str, seed: int, workdir: pathlib.Path) -> dict[str, Any]:
  """Trains one algorithm from the start and measures the policy.

  Args:
    name: preset of `configs/algorithms.py`.
    seed: of start and run.
    workdir: everything goes below it.

  Returns:
    first and last evaluations, the exact reward, seconds and peak memory.
  """
  start = base(seed, workdir / "start" / f"seed_{seed}")
  changes = {
    "model.path": str(start),
    "seed": seed,
    "log.tensorboard": False,
  }
  if name == "distill":  # from the start towards what GRPO has become
    changes["teacher.path"] = str(_teacher(seed, workdir))
  c = config_lib.load(f"configs/algorithms.py:{name}")
  plain = config_lib.freeze({**c.to_dict(), "start": {}})
  c = config_lib.replace(plain, changes)
  out = measured(c, seed, workdir / name)
  if name == "best_of_n":
    text = (workdir / name / f"seed_{seed}" / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    curve = [r["chosen/reward"] for r in rows if "chosen/reward" in r]
    out["chosen"] = float(np.mean(curve))
    out["n"] = int(c.samples_per_prompt)
  return out


def measured(c, seed: int, folder: pathlib.Path) -> dict[str, Any]:
  """Trains a config; first and last evaluations, seconds, peak memory.

  Args:
    c: the config.
    seed: for the record.
    folder: the run goes to `folder/seed_<n>`.
  """
  begun = time.perf_counter()
  found = train.run(c, folder / f"seed_{seed}")
  seconds = time.perf_counter() - begun
  steps = sorted(found.evals)
  return {
    "seed": seed,
    "first": found.evals[steps[0]],
    "last": found.evals[steps[-1]],
    "seconds": round(seconds, 1),
    "peak_gib": round(
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2
    ),
  }


def _teacher(seed: int, workdir: pathlib.Path) -> pathlib.Path:
  """GRPO's policy of the same seed as a checkpoint directory."""
  out = workdir / "teacher" / f"seed_{seed}"
  if not out.exists():
    runs.export(workdir / "grpo" / f"seed_{seed}", out)
  return out


def chances(seed: int, workdir: pathlib.Path) -> np.ndarray:
  """P(right answer | x) of the start on the held-out prompts, f32[prompts]."""
  folder = workdir / "start" / f"seed_{seed}" / "run"
  found = runs.load(folder)
  rows = next(found.task.batches("test", configs.base().eval.prompts, 0))
  tokens = jnp.concatenate([rows["prompt"], rows["answer"]], 1)
  attend = jnp.concatenate([rows["prompt_mask"], rows["answer_mask"]], 1)
  logp, _ = score_lib.completion_logprob(
    found.model, found.variables, tokens, attend, rows["prompt"].shape[1]
  )
  each = jnp.where(rows["answer_mask"], logp, 0).sum(1)
  return np.exp(np.asarray(each, np.float64))


def frontier(p: np.ndarray) -> dict[str, list[float]]:
  """The optimum at each KL and the best of n, means over prompts.

  Args:
    p: f64[prompts], probability of the right answer.

  Returns:
    kl, reward of the tilt; bon_kl, bon_reward for n = 1, 2, 4, ... 64.
  """
  with jax.enable_x64(True):
    p = np.clip(p, 1e-12, 1 - 1e-12)
    logp = jnp.log(jnp.stack([1 - p, p], 1))
    reward = jnp.array([0.0, 1.0])
    wide = jnp.broadcast_to(reward, logp.shape)
    alphas = jnp.linspace(0, 12, 61)
    at = lambda a: (
      jnp.mean(tilt.kl(logp, wide, a)),
      jnp.mean(tilt.mean_reward(logp, wide, a)),
    )
    kl, mean = jax.vmap(at)(alphas)
    pmf = jnp.stack([1 - p, p], 1)
    sizes = (1, 2, 4, 8, 16, 32, 64)
    of = lambda fn, n: float(
      jnp.mean(jax.vmap(lambda q: fn(q, reward, n))(pmf))
    )
    return {
      "kl": np.asarray(kl).tolist(),
      "reward": np.asarray(mean).tolist(),
      "bon_n": list(sizes),
      "bon_kl": [of(best_of_n.kl, n) for n in sizes],
      "bon_reward": [of(best_of_n.mean_reward, n) for n in sizes],
    }


def main(argv: Sequence[str] | None = None) -> int:
  """Runs what is missing below the workdir, then writes table and figure."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--only", default="", help="names, with commas")
  parser.add_argument("--workdir", default="runs/algorithms")
  parser.add_argument("--out", default="results")
  parser.add_argument("--readme", default="", help="its table is replaced")
  parser.add_argument(
    "--world", default="arithmetic", choices=("arithmetic", "dreams")
  )
  parser.add_argument("--one", default="", help=argparse.SUPPRESS)
  args = parser.parse_args(argv)
  workdir = pathlib.Path(args.workdir).resolve()
  seeds = [int(s) for s in args.seeds.split(",")]
  dreams = args.world == "dreams"
  if args.one:
    run = dream if dreams else one
    found = run(args.one, seeds[0], workdir)
    (workdir / f"{args.one}_{seeds[0]}.json").write_text(json.dumps(found))
    return 0
  every_name = DREAMS if dreams else configs.CHANGES
  names = args.only.split(",") if args.only else list(every_name)
  workdir.mkdir(parents=True, exist_ok=True)
  for seed in seeds if not dreams else ():
    base(seed, workdir / "start" / f"seed_{seed}")
  every: dict[str, list[Any]] = {}
  for name in names:
    for seed in seeds:
      path = workdir / f"{name}_{seed}.json"
      if not path.exists():
        words = ["--one", name, "--seeds", str(seed), "--workdir", str(workdir),
                 "--world", args.world]  # fmt: skip
        command = [sys.executable, "-m", "experiments.algorithms", *words]
        subprocess.run(command, check=True)
      every.setdefault(name, []).append(json.loads(path.read_text()))
  curves = []
  if not dreams:
    curves = [frontier(chances(seed, workdir)) for seed in seeds]
  result = {
    "seeds": seeds,
    "frontier": curves,
    "runs": every,
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
  }
  result["summary"] = pages.summary(result)
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  text = json.dumps(result, indent=1, sort_keys=True)
  stem = "algorithms_dreams" if dreams else "algorithms"
  (out / f"{stem}.json").write_text(text + "\n")
  (out / f"{stem}.md").write_text(pages.table(result["summary"]))
  if args.readme:
    pages.insert(pathlib.Path(args.readme), pages.page(result["summary"]))
  if not dreams:
    pages.draw(result, out / f"{stem}.png")
  print(pages.table(result["summary"]))
  return 0


if __name__ == "__main__":
  sys.exit(main())
