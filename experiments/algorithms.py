"""How far does each algorithm get, and at what KL? One figure, one table.

Every algorithm of `configs/algorithms.py` trains from the same imitated start
on two-digit additions. The answer is right or wrong, so what is attainable at a
KL is exact: with p(x) the start's probability of the right answer, the optimum
is p e^a / (1 - p + p e^a) for each prompt, a the same for all. The figure shows
reward against KL with that frontier and the best-of-n curve; the table adds
wall time and peak memory, each run in a process of its own.

  python -m experiments.algorithms --seeds=0,1,2 --workdir=runs/algorithms

About 25 seconds for each algorithm and seed on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
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
from rlreward import config as config_lib
from rlreward import registry, runs, train
from rlreward.analytic import best_of_n, tilt
from rlreward.models import score as score_lib


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
  begun = time.perf_counter()
  folder = workdir / name / f"seed_{seed}"
  found = train.run(c, folder)
  seconds = time.perf_counter() - begun
  steps = sorted(found.evals)
  out = {
    "seed": seed,
    "first": found.evals[steps[0]],
    "last": found.evals[steps[-1]],
    "seconds": round(seconds, 1),
    "peak_gib": round(
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2
    ),
  }
  if name == "best_of_n":
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").open()]
    curve = [r for r in rows if "chosen/reward" in r]
    out["chosen"] = float(np.mean([r["chosen/reward"] for r in curve]))
    out["n"] = int(c.samples_per_prompt)
  return out


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


def attainable(curve: dict[str, list[float]], kl: float) -> float:
  """The best mean reward at a KL, by the frontier."""
  return float(np.interp(kl, curve["kl"], curve["reward"]))


def summary(result: dict[str, Any]) -> list[dict[str, Any]]:
  """One row for each algorithm: means over seeds and their spread.

  Args:
    result: {"runs": {name: [rows of `one`]}, "frontier": [of each seed]}.
  """
  out = []
  for name, rows in result["runs"].items():
    seeds = [result["seeds"].index(r["seed"]) for r in rows]
    curves = [result["frontier"][i] for i in seeds]
    row: dict[str, Any] = {"algorithm": name}
    for field in ("seconds", "peak_gib"):
      row[field] = float(np.mean([r[field] for r in rows]))
    if name == "reward_model":
      row["accuracy"] = float(
        np.mean([r["last"]["held/accuracy"] for r in rows])
      )
      out.append(row)
      continue
    first = [r["first"]["correct"] for r in rows]
    last = [r["last"]["correct"] for r in rows]
    kl = [r["last"].get("kl", 0.0) for r in rows]
    if name == "best_of_n":
      last = [r["chosen"] for r in rows]
      at = [c["bon_n"].index(r["n"]) for c, r in zip(curves, rows, strict=True)]
      kl = [c["bon_kl"][i] for c, i in zip(curves, at, strict=True)]
    best = [attainable(c, k) for c, k in zip(curves, kl, strict=True)]
    row |= {
      "first": float(np.mean(first)),
      "last": float(np.mean(last)),
      "last_sd": float(np.std(last, ddof=min(1, len(last) - 1))),
      "kl": float(np.mean(kl)),
      "attainable": float(np.mean(best)),
      "least_gain": float(np.min(np.subtract(last, first))),
    }
    out.append(row)
  return out


def table(rows: Sequence[dict[str, Any]]) -> str:
  """The rows of `summary` as a Markdown table."""
  lines = [
    "| algorithm | accuracy | sd | KL, nats | best at it | seconds | GiB |",
    "|---|---|---|---|---|---|---|",
  ]
  for r in rows:
    if "last" in r:
      mid = (
        f"{r['first']:.3f} -> {r['last']:.3f} | {r['last_sd']:.3f} |"
        f" {r['kl']:.2f} | {r['attainable']:.3f}"
      )
    else:
      mid = f"{r['accuracy']:.3f} (of pairs) | | |"
    lines.append(
      f"| {r['algorithm']} | {mid} | {r['seconds']:.0f} | {r['peak_gib']:.1f} |"
    )
  return "\n".join(lines) + "\n"


def page(rows: Sequence[dict[str, Any]]) -> str:
  """The algorithm table of README: what, where, paper, what was measured."""
  measured = {r["algorithm"]: r for r in rows}
  lines = [
    "| algorithm | what it is | paper | accuracy, from the same start | KL |",
    "|---|---|---|---|---|",
  ]
  for name in configs.CHANGES:
    module = registry.algorithm(name)
    doc = module.__doc__ or ""
    first = doc.splitlines()[0]
    title = first.partition(":")[2].strip().rstrip(".") or first
    found = re.search(r"arXiv\s+(\d{4}\.\d{4,5})", doc)
    paper = "-"
    if found:
      paper = f"[{found[1]}](https://arxiv.org/abs/{found[1]})"
    link = f"[{name}](rlreward/algorithms/{name}.py)"
    r, result = measured.get(name), "- | -"
    if r and "last" in r:
      gap = f"{r['first']:.2f} -> {r['last']:.2f} (sd {r['last_sd']:.2f})"
      result = f"{gap} | {r['kl']:.2f}"
    elif r:
      result = f"{r['accuracy']:.2f} of held-out pairs | -"
    lines.append(f"| {link} | {title} | {paper} | {result} |")
  return "\n".join(lines) + "\n"


def insert(readme: pathlib.Path, text: str) -> None:
  """Puts the table between its two marks."""
  before, _, rest = readme.read_text().partition(MARK)
  _, _, after = rest.partition(MARK)
  readme.write_text(f"{before}{MARK}\n{text}{MARK}{after}")


MARK = "<!-- algorithms -->"


def draw(result: dict[str, Any], path: pathlib.Path) -> None:
  """Reward against KL, a point for each run, with the frontier.

  Args:
    result: as for `summary`.
    path: of the picture.
  """
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
  for i, curve in enumerate(result["frontier"]):
    said = i == 0
    axes.plot(curve["kl"], curve["reward"], color="black", lw=1, alpha=0.6,
              label="optimum (exact)" if said else None)  # fmt: skip
    axes.plot(curve["bon_kl"], curve["bon_reward"], "--|", color="grey", lw=1,
              label="best of n (exact)" if said else None)  # fmt: skip
  shown = [
    r for r in summary(result) if "last" in r and r["algorithm"] != "sft"
  ]
  colours = pyplot.get_cmap("tab20")
  marks = "osDv^<>pP*X"
  for i, row in enumerate(shown):
    rows = result["runs"][row["algorithm"]]
    style: dict[str, Any] = {"color": colours(i % 20), "marker": marks[i % 11]}
    if row["algorithm"] != "best_of_n":
      axes.scatter(
        [r["last"]["kl"] for r in rows],
        [r["last"]["correct"] for r in rows],
        s=14, alpha=0.5, **style,
      )  # fmt: skip
    axes.scatter(row["kl"], row["last"], s=60, edgecolor="black", lw=0.5,
                 label=row["algorithm"], **style)  # fmt: skip
  axes.set_xlabel("KL to the start, nats per answer")
  axes.set_ylabel("held-out accuracy")
  axes.set_xlim(left=-0.05, right=max(3.0, 1.1 * max(r["kl"] for r in shown)))
  axes.set_ylim(0, 1.02)
  axes.grid(alpha=0.3)
  axes.legend(ncols=2, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
  figure.savefig(path, dpi=150)
  pyplot.close(figure)


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
  parser.add_argument("--one", default="", help=argparse.SUPPRESS)
  args = parser.parse_args(argv)
  workdir = pathlib.Path(args.workdir).resolve()
  seeds = [int(s) for s in args.seeds.split(",")]
  if args.one:
    found = one(args.one, seeds[0], workdir)
    (workdir / f"{args.one}_{seeds[0]}.json").write_text(json.dumps(found))
    return 0
  names = args.only.split(",") if args.only else list(configs.CHANGES)
  workdir.mkdir(parents=True, exist_ok=True)
  for seed in seeds:
    base(seed, workdir / "start" / f"seed_{seed}")
  every: dict[str, list[Any]] = {}
  for name in names:
    for seed in seeds:
      path = workdir / f"{name}_{seed}.json"
      if not path.exists():
        words = ["--one", name, "--seeds", str(seed), "--workdir", str(workdir)]
        command = [sys.executable, "-m", "experiments.algorithms", *words]
        subprocess.run(command, check=True)
      every.setdefault(name, []).append(json.loads(path.read_text()))
  curves = [frontier(chances(seed, workdir)) for seed in seeds]
  result = {
    "seeds": seeds,
    "frontier": curves,
    "runs": every,
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
  }
  result["summary"] = summary(result)
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  text = json.dumps(result, indent=1, sort_keys=True)
  (out / "algorithms.json").write_text(text + "\n")
  (out / "algorithms.md").write_text(table(result["summary"]))
  if args.readme:
    insert(pathlib.Path(args.readme), page(result["summary"]))
  draw(result, out / "algorithms.png")
  print(table(result["summary"]))
  return 0


if __name__ == "__main__":
  sys.exit(main())
