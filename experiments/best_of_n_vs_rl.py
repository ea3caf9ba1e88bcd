"""Best-of-n or RL: who gets how much reward for the KL that it spends?

One task on which everything is exact: two-digit additions after an imitated
start, right or wrong. The optimum at each KL and the law of best-of-n are
computed from the start's own probabilities on the held-out prompts; RAFT, GRPO
with several prices of the KL, PPO with the KL in its reward, and policy
gradient at a KL budget (`asymptotics`) are trained, each from the same start,
and measured against them at every evaluation: reward by the probability of the
right answer, KL by samples.

  python -m experiments.best_of_n_vs_rl --seeds=0,1,2 --workdir=runs/bon_vs_rl

Writes best_of_n_vs_rl.json, .md and .png. About 40 seconds for each run on 2
CPU cores; what is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments import algorithms
from rlreward import config as config_lib
from rlreward import train

# Name -> (preset of configs/algorithms.py, fields that differ).
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
  "RAFT": ("raft", {"eval.every": 5}),
  "GRPO": ("grpo", {}),
  "GRPO, KL 0.1": ("grpo", {"loss.kl_beta": 0.1, "loss.kl": "reverse"}),
  "GRPO, KL 0.4": ("grpo", {"loss.kl_beta": 0.4, "loss.kl": "reverse"}),
  "PPO, KL 0.1": ("ppo", {"kl_reward.beta": 0.1}),
  "PPO, KL 0.3": ("ppo", {"kl_reward.beta": 0.3}),
  "budget 0.3": ("rloo", {"algorithm": "asymptotics", "kl_reward.budget": 0.3}),
}


def one(name: str, seed: int, workdir: pathlib.Path) -> dict[str, Any]:
  """Trains one run from the start of its seed; its evaluations and frontier.

  Args:
    name: of RUNS.
    seed: of start and run.
    workdir: everything goes below it.
  """
  preset, changes = RUNS[name]
  start = algorithms.base(seed, workdir / "start" / f"seed_{seed}")
  c = config_lib.load(f"configs/algorithms.py:{preset}")
  plain = config_lib.freeze({**c.to_dict(), "start": {}})
  fields = {
    "model.path": str(start),
    "seed": seed,
    "eval.every": 20,
    "frontier.samples": 64,  # its answers are listed: this turns it on
    "log.tensorboard": False,
    "log.every": 40,
    **changes,
  }
  slug = "".join(x if x.isalnum() else "_" for x in name.lower())
  folder = workdir / slug / f"seed_{seed}"
  found = train.run(config_lib.replace(plain, fields), folder)
  curve = json.loads((folder / "frontier" / "curve.json").read_text())
  return {"seed": seed, "evals": found.evals, "frontier": curve}


def summary(result: dict[str, Any]) -> list[dict[str, Any]]:
  """One row for each method: means over seeds of its last evaluation."""
  out = []
  for name, rows in result["runs"].items():
    last = [r["evals"][max(r["evals"], key=int)] for r in rows]
    mean = lambda k, last=last: float(np.mean([x.get(k, np.nan) for x in last]))
    sd = float(np.std([x["exact_reward"] for x in last], ddof=1))
    out.append(
      {
        "name": name,
        "reward": mean("exact_reward"),
        "reward_sd": sd,
        "kl": mean("kl"),
        "efficiency": mean("efficiency"),
        "kl_wasted": mean("kl_wasted"),
      }
    )
  curves = [r["frontier"] for r in next(iter(result["runs"].values()))]
  for place, n in enumerate(curves[0]["bon"]["n"]):
    kl = [c["bon"]["kl"][place] for c in curves]
    reward = [c["bon"]["reward"][place] for c in curves]
    if n in (2, 4, 8, 16):
      out.append(_best_of(n, kl, reward, curves))
  return out


def _best_of(n: int, kl, reward, curves) -> dict[str, Any]:
  from rlreward.evals import frontier

  found = [
    frontier.measure(c, r, k)
    for c, r, k in zip(curves, reward, kl, strict=True)
  ]
  return {
    "name": f"best of {n} (exact)",
    "reward": float(np.mean(reward)),
    "reward_sd": float(np.std(reward, ddof=1)),
    "kl": float(np.mean(kl)),
    "efficiency": float(np.mean([f["efficiency"] for f in found])),
    "kl_wasted": float(np.mean([f["kl_wasted"] for f in found])),
  }


def table(rows: Sequence[dict[str, Any]]) -> str:
  """The rows of `summary` as a Markdown table."""
  lines = [
    "| method | accuracy | sd | KL, nats | efficiency | KL wasted, nats |",
    "|---|---|---|---|---|---|",
  ]
  for r in rows:
    lines.append(
      f"| {r['name']} | {r['reward']:.3f} | {r['reward_sd']:.3f} |"
      f" {r['kl']:.3f} | {r['efficiency']:.2f} | {r['kl_wasted']:.3f} |"
    )
  return "\n".join(lines) + "\n"


def draw(result: dict[str, Any], path: pathlib.Path) -> None:
  """Every run's path against the optimum and best-of-n, a panel for a seed."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  seeds = result["seeds"]
  figure, panels = pyplot.subplots(
    1, len(seeds), figsize=(5 * len(seeds), 5), layout="constrained",
    sharey=True, squeeze=False,
  )  # fmt: skip
  colours = pyplot.get_cmap("tab10")
  for axes, seed in zip(panels[0], seeds, strict=True):
    for i, (name, rows) in enumerate(result["runs"].items()):
      row = next(r for r in rows if r["seed"] == seed)
      curve = row["frontier"]
      if not i:
        axes.plot(curve["kl"], curve["reward"], color="black", lw=1.5,
                  label="optimum (exact)")  # fmt: skip
        bon = curve["bon"]
        axes.plot(bon["kl"], bon["reward"], "--|", color="gray",
                  label="best of n (exact)")  # fmt: skip
        for n, x, y in zip(bon["n"], bon["kl"], bon["reward"], strict=True):
          if n <= 16:
            axes.annotate(
              f"n={n}", (x, y), fontsize=7, color="gray",
              xytext=(3, -9), textcoords="offset points",
            )  # fmt: skip
      evals = [row["evals"][s] for s in sorted(row["evals"], key=int)]
      axes.plot(
        [e["kl"] for e in evals], [e["exact_reward"] for e in evals], "-o",
        ms=3, lw=1, color=colours(i % 10), label=name,
      )  # fmt: skip
    axes.set_title(f"seed {seed}")
    axes.set_xlabel("KL to the start, nats per answer")
    axes.set_xlim(-0.03, 1.5)
    axes.grid(alpha=0.3)
  panels[0][0].set_ylabel("held-out accuracy, exact")
  figure.legend(*panels[0][0].get_legend_handles_labels(), ncols=5,
                loc="outside lower center", fontsize=8)  # fmt: skip
  figure.savefig(path, dpi=130)
  pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs what is missing below the workdir, then writes table and figure."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--only", default="", help="names of RUNS, with ;")
  parser.add_argument("--workdir", default="runs/bon_vs_rl")
  parser.add_argument("--out", default="results")
  args = parser.parse_args(argv)
  workdir = pathlib.Path(args.workdir).resolve()
  workdir.mkdir(parents=True, exist_ok=True)
  seeds = [int(s) for s in args.seeds.split(",")]
  runs: dict[str, list[Any]] = {}
  for name in args.only.split(";") if args.only else RUNS:
    for seed in seeds:
      found = one(name, seed, workdir)
      runs.setdefault(name, []).append(json.loads(json.dumps(found)))
      jax.clear_caches()
  result = {
    "seeds": seeds,
    "runs": runs,
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
  }
  result["summary"] = summary(result)
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  text = json.dumps(result, indent=1, sort_keys=True)
  (out / "best_of_n_vs_rl.json").write_text(text + "\n")
  (out / "best_of_n_vs_rl.md").write_text(table(result["summary"]))
  draw(result, out / "best_of_n_vs_rl.png")
  print(table(result["summary"]))
  return 0


if __name__ == "__main__":
  sys.exit(main())
