"""Gold at equal KL, for every shape of a reward that papers propose.

The proxy is the gold plus an error for each answer, of Student's t: with two
degrees of freedom the answers that it likes best are its mistakes (heavy), with
30 they are not (thin). What is optimised is the proxy as `shaping.link` and its
neighbours shape it (configs/par.py names them), and policies are compared at
the KL that they spend:

- closed: 20,000 answers, gold N(0, 1), proxy gold + 0.7 t; the optimum of each
  shape, exp(s / beta), by the exact tilt, for KLs of 0.25 to 4 nats. Lengths
  are drawn apart from both; in a third world (long) the error is thin and the
  proxy pays for tokens.
- trained: the world of configs/par.py, GRPO with a tiny transformer that spends
  one nat; gold and KL are exact, as all answers are listed. Beside it stands
  the gold of the shape's own optimum, which no training can be blamed for.
- critic: PPO with a critic there, raw and PAR, beside the losses that the
  authors of PAR recorded (Gemma 2 2B on UltraFeedback, 807 steps).

  python -m experiments.shaping --curves=DIR --workdir=runs/shaping

As measured: with heavy tails at 2 nats every affine map of the raw score keeps
its 0.16 of gold, PAR and its relatives have 0.77 to 0.88, and a plain ceiling
(0.98) or clip (0.94) more than any of them, up to the KL that they can spend.
With thin tails bounded shapes lose up to 0.17 of the raw score's 1.59. Only the
price of length repairs a bias to length. Trained, bounded shapes gain 0.53 to
0.57, where their optima have 0.60 to 0.68, apart from the running clip, whose
limits a single outlier moves (0.41, and 0.25 from seed to seed); the raw score
gains more than its own optimum, as a policy that samples misses the rarest
mistakes. In the last quarter the critic loses 100 times less under PAR (66
recorded), most of it scale: deviation over mean falls from 0.26 to 0.14 (0.85
to 0.51 recorded).

DIR holds ppo_gemma2-2b_ultrafb_bin_critic_loss.csv of PorUna-byte/PAR
(figures/). Writes shaping.json, .md and .png. The closed forms take a minute or
two, a trained run 5 seconds on 2 CPU cores and its first compilation 15; what
is there is not made again.

References: PAR, arXiv 2502.18770; log-sigmoid, arXiv 2402.00742.
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import shaping_pages as pages
from experiments.overoptimisation import kept
from rlreward import config as config_lib
from rlreward import train
from rlreward.analytic import frontier
from rlreward.methods import par
from rlreward.rewards import applied
from rlreward.tasks import biased

SPEC = "configs/par.py:mini"
SHAPES: dict[str, dict[str, Any]] = {
  "raw": {"link": "sum"},
  "mean-std": {"link": "mean_std"},
  "min-max": {"link": "minmax"},
  "centred": {"link": "centred"},
  "ceiling": {"link": "sum", "ceiling": 2.0},
  "clip": {"link": "clip"},
  "length penalty": {"link": "sum", "long_price": 0.01},
  "sigmoid, no reference": {"link": "bounded"},
  "log-sigmoid, no reference": {"link": "log_sigmoid"},
  "tanh": {"shape": "tanh"},
  "arctan": {"shape": "arctan"},
  "polynomial": {"shape": "polynomial"},
  "slow growth": {"shift": 3.0},
  "PAR, M = 1": {"samples": 1},
  "PAR, M = 10": {},
  "LSC": {"link": "lsc", "method": "gaussian"},
}
WORLDS: dict[str, dict[str, Any]] = {
  "heavy": {"df": 2.0, "bias": 0.0, "draws": 10},
  "thin": {"df": 30.0, "bias": 0.0, "draws": 3},
  "long": {"df": 30.0, "bias": 0.005, "draws": 3},
}
ANSWERS, SCALE, MEDIAN = 20_000, 0.7, 250.0
KLS = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
# In the trained world answers have two tokens, and gold is -1.1 on average.
SMALL = {
  "ceiling": {"shaping.ceiling": 1.0},
  "length penalty": {"shaping.long": 1, "shaping.long_price": 0.5},
}
FEW = ("raw", "PAR, M = 10")
TAILS = {"heavy": tuple(SHAPES), "thin": FEW}  # that are trained
PHASES = 4


# ------------------------------------------------------------ closed form
def answers(seed: int, df: float, bias: float = 0.0) -> dict[str, np.ndarray]:
  """Answers of the reference: gold, proxy and length, f64[20000] each.

  Args:
    seed: of the draw.
    df: of the proxy's error.
    bias: what the proxy pays for a token.
  """
  rng = np.random.default_rng(seed)
  gold = rng.normal(size=ANSWERS)
  proxy = gold + SCALE * rng.standard_t(df, ANSWERS)
  refs = rng.choice(ANSWERS, 10)
  length = np.minimum(MEDIAN * np.exp(rng.normal(0, 0.5, ANSWERS)), 1024)
  length = np.round(length).astype(int)
  proxy += bias * length
  return {"gold": gold, "proxy": proxy, "length": length, "refs": proxy[refs]}


def shaped(name: str, world: dict[str, np.ndarray]) -> np.ndarray:
  """f64[Y]: what a shape pays for the answers of `answers`."""
  c = section(SHAPES[name])
  refs = world["refs"][: c.samples]
  found = applied.values(par.shaper(c), world["proxy"], refs, world["length"])
  return np.asarray(found, float)


def section(changes: dict[str, Any]) -> Any:
  """The section `shaping` of configs/par.py with some fields changed."""
  fields = {f"shaping.{k}": v for k, v in changes.items()}
  loaded: Any = config_lib.load(SPEC, fields)
  return loaded.shaping


def at_equal_kl(
  logp: np.ndarray, s: np.ndarray, gold: np.ndarray, kls: Sequence[float]
) -> list[float | None]:
  """Gold of the optimum of s at each KL, None beyond what s can spend.

  Args:
    logp: f64[X, Y], the base.
    s: f64[X, Y], what is optimised.
    gold: f64[X, Y].
    kls: K nats, mean over X.
  """
  with jax.enable_x64(True):
    wanted = jnp.asarray(kls)
    curve = _exact(*map(jnp.asarray, (logp, s)), wanted, jnp.asarray(gold))
    known = np.asarray(curve.kl) > 0.99 * np.asarray(kls)
    found = zip(np.asarray(curve.gold), known, strict=True)
    return [float(x) if ok else None for x, ok in found]


@jax.jit
def _exact(logp, s, kls, gold):
  return frontier.exact(logp, s, kls, gold=gold)


def closed(df: float, bias: float, seeds: Sequence[int]) -> dict[str, Any]:
  """{shape: gold [seeds][KLS]} of the optima of 20,000 answers.

  Args:
    df: see `answers`.
    bias: see `answers`.
    seeds: of the draws.
  """
  found: dict[str, Any] = {name: [] for name in SHAPES}
  base = np.full((1, ANSWERS), -np.log(ANSWERS))
  for seed in seeds:
    world = answers(seed, df, bias)
    for name in SHAPES:
      s = shaped(name, world)[None]
      found[name].append(at_equal_kl(base, s, world["gold"][None], KLS))
  return found


# ------------------------------------------------------------ trained
def config(name: str, tail: str, seed: int, **fields: Any) -> Any:
  """A run of configs/par.py with the shape of a name.

  Args:
    name: of SHAPES.
    tail: of TAILS, whose degrees of freedom the error gets.
    seed: of the run.
    **fields: of the config, dots as two underscores.
  """
  changes = {f"shaping.{k}": v for k, v in SHAPES[name].items()}
  changes |= SMALL.get(name, {})
  changes |= {"task.df": WORLDS[tail]["df"], "seed": seed}
  changes |= {k.replace("__", "."): v for k, v in fields.items()}
  return config_lib.load(SPEC, changes)


def one(c: Any, workdir: pathlib.Path) -> dict[str, Any]:
  """A trained run: exact gold and KL, how far gold rose, what the critic lost.

  Args:
    c: of `config`.
    workdir: of the run.
  """
  found = train.run(c, workdir).evals
  first, last = found[0], found[c.steps]
  rows = [json.loads(x) for x in (workdir / "metrics.jsonl").open()]
  return {
    "gold": last["exact_gold"],
    "gain": last["exact_gold"] - first["exact_gold"],
    "reward": last["exact_reward"],
    "kl": last["exact_kl"],
    "value_loss": [r["value_loss"] for r in rows if "value_loss" in r],
    "explained": [
      r["explained_variance"] for r in rows if "explained_variance" in r
    ],
  }


def optima(tail: str) -> dict[str, float]:
  """{shape: gain of gold} of the exact optima of the trained world.

  References are 1000 answers of the base. A running clip knows the base alone
  here; the moments of a run are those of its policy.

  Args:
    tail: of TAILS.
  """
  law = biased.law(config("raw", tail, 0).task)
  p, out = np.exp(law.logp), {}
  rng = np.random.default_rng(0)
  refs = np.stack([
    rng.choice(r, 1000, p=w / w.sum())
    for r, w in zip(law.reward, p, strict=True)
  ])  # fmt: skip
  rows = np.repeat(refs, law.reward.shape[1], 0)
  length = np.tile(law.mask.sum(1), len(p))
  mean = float(np.sum(p * law.reward) / p.sum())
  sd = float(np.sqrt(np.sum(p * (law.reward - mean) ** 2) / p.sum()))
  for name in SHAPES:
    c = config(name, tail, 0, shaping__samples=1000).shaping
    flat = law.reward.ravel()
    s = applied.values(par.shaper(c), flat, rows, length)
    s = np.asarray(s, float).reshape(law.reward.shape)
    if name == "clip":
      s = np.clip(law.reward, mean - sd, mean + sd)
    found = at_equal_kl(law.logp, s, law.gold, [pages.NATS])[0]
    if found is not None:
      out[name] = found - float(np.sum(p * law.gold) / p.sum())
  return out


# ------------------------------------------------------------ the critic
def recorded(path: pathlib.Path) -> dict[str, list[float]]:
  """{"raw": losses, "PAR": losses} of a CSV with a column of each.

  Args:
    path: of the authors' figure: Step, loss of the vanilla run, of PAR's.
  """
  with path.open() as file:
    rows = list(csv.DictReader(file))
  names = {"raw": "vanilla", "PAR": "_par "}
  column = lambda word: next(k for k in rows[0] if word in k)
  return {k: [float(r[column(w)]) for r in rows] for k, w in names.items()}


def phases(values: Sequence[float]) -> list[dict[str, float]]:
  """Mean and deviation in each quarter of a run.

  Args:
    values: one for each step.
  """
  parts = np.array_split(np.asarray(values, float), PHASES)
  return [{"mean": float(x.mean()), "sd": float(x.std())} for x in parts]


def critic(curves: pathlib.Path, workdir: pathlib.Path, seeds: Sequence[int]):
  """Losses of the critic, recorded and ours, raw and PAR.

  Args:
    curves: directory of the CSV.
    workdir: for our runs.
    seeds: of them.
  """
  found: dict[str, Any] = {"recorded": recorded(curves / RECORDED), "ours": {}}
  for name in ("raw", "PAR"):
    shape = name if name == "raw" else "PAR, M = 10"
    runs = []
    for seed in seeds:
      c = config(shape, "heavy", seed, credit__baseline="critic",
                 credit__target="return")  # fmt: skip
      folder = workdir / f"critic/{name}/seed_{seed}"
      runs.append(kept(folder / "found.json", lambda c=c, f=folder: one(c, f)))
      jax.clear_caches()
    found["ours"][name] = runs
  return found


RECORDED = "ppo_gemma2-2b_ultrafb_bin_critic_loss.csv"


def trained(workdir: pathlib.Path, seeds: Sequence[int]) -> dict[str, Any]:
  """{tail: {shape: [a run of each seed]}}."""
  found: dict[str, Any] = {}
  for tail, names in TAILS.items():
    for name in names:
      for seed in seeds:
        folder = workdir / tail / name.replace(" ", "_") / f"seed_{seed}"
        c = config(name, tail, seed)
        row = kept(folder / "found.json", lambda c=c, f=folder: one(c, f))
        row = {k: v for k, v in row.items() if not isinstance(v, list)}
        found.setdefault(tail, {}).setdefault(name, []).append(row)
        jax.clear_caches()
  return found


def main(argv: Sequence[str] | None = None) -> int:
  """Computes and runs what is missing, then writes all three files."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--seeds", default="0,1,2", help="of trained runs")
  parser.add_argument("--curves", required=True, help="the authors' figures")
  parser.add_argument("--workdir", default="runs/shaping")
  parser.add_argument("--out", default="results")
  args = parser.parse_args(argv)
  workdir = pathlib.Path(args.workdir).resolve()
  seeds = [int(s) for s in args.seeds.split(",")]
  make = lambda w: closed(w["df"], w["bias"], range(w["draws"]))
  result: dict[str, Any] = {
    "seeds": seeds,
    "kls": KLS,
    "closed": {
      name: kept(workdir / f"closed/{name}.json", lambda w=w: make(w))
      for name, w in WORLDS.items()
    },
    "optima": {tail: optima(tail) for tail in TAILS},
    "trained": trained(workdir, seeds),
    "critic": critic(pathlib.Path(args.curves), workdir, seeds),
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
  }
  result["summary"] = pages.summary(result)
  result["critic"]["phases"] = {
    "recorded": {k: phases(v) for k, v in result["critic"]["recorded"].items()},
    "ours": {
      k: [phases(run["value_loss"]) for run in v]
      for k, v in result["critic"]["ours"].items()
    },
  }
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  table = pages.table(result)
  pages.draw(result, out / "shaping.png")
  result["critic"].pop("recorded")  # the authors' own numbers
  text = json.dumps(result, indent=1, sort_keys=True)
  (out / "shaping.json").write_text(text + "\n")
  (out / "shaping.md").write_text(table)
  print(table)
  return 0


if __name__ == "__main__":
  sys.exit(main())
