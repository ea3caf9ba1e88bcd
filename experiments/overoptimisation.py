"""Over-optimisation: what gold does while a proxy rises, and what holds it.

A world in which everything is known (task `biased`): five reward models share a
liking for a rare token that is worth less than nothing, and each has errors of
its own, in tokens and, with heavy tails, in whole answers. All answers are
listed, so these are exact, for every price of the KL:

- best of n by a proxy, n from 1 to 4096 (the order-statistic law);
- the optimum of E u - beta KL for u the proxy itself (raw), its log-sigmoid
  over the base's 85th percentile, and PAR, the mean chance to beat an answer of
  the base; and for ensembles joined by mean, min, mean minus std and UWO.

PPO with a tiny transformer is trained on the raw proxy beside them, without a
KL, each evaluation a point. To the path of each seed the laws gold = d (alpha -
beta d) (best of n) or d (alpha - beta log d) (RL), d = sqrt(KL), are fitted.

  python -m experiments.overoptimisation --seeds=0,1,2 --workdir=runs/overopt

A seed is a world: other errors of the members. Writes overoptimisation.json,
.md and .png. Exact paths take 10 seconds a seed, a PPO run about 40 on 2 CPU
cores; what is there is not made again. --ppo=0 leaves PPO out.

References: Scaling Laws for Reward Model Overoptimization, arXiv 2210.10760;
PAR, arXiv 2502.18770; reward model ensembles, arXiv 2310.02743; log-sigmoid,
arXiv 2402.00742.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import common
from experiments import overoptimisation_pages as pages
from rlreward import config as config_lib
from rlreward import train
from rlreward.analytic import best_of_n
from rlreward.evals import overoptimisation as laws
from rlreward.ops import aggregate
from rlreward.tasks import biased

WORLD: dict[str, Any] = {
  "name": "biased",
  "length": 6,
  "shares": (0.2, 0.2, 0.55, 0.05),
  "attribute_bias": 2.5,
  "own": 0.3,
  "tail": 0.15,
  "df": 2.0,
  "members": 5,
}
QUANTILE = 0.85
KLS = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
COUNTS = tuple(2**k for k in range(13))
RULES = ("mean", "min", "mean_minus_std", "uwo")
COEF = {"uwo": 1.0}
Path = dict[str, list[float]]


def scores(law: biased.Law) -> dict[str, np.ndarray]:
  """{name: f64[X, Y]}: what is optimised.

  Args:
    law: of the world, with members.
  """
  raw, p = law.members[..., 0], np.exp(law.logp)
  out = {"raw": raw, "log-sigmoid": _log_sigmoid(raw, p), "PAR": _par(raw, p)}
  for rule in RULES:
    joined = aggregate.aggregate(
      jnp.asarray(law.members), rule, coef=COEF.get(rule, 1.0)
    )
    out[rule] = np.asarray(joined, float)
  return out


def _log_sigmoid(r: np.ndarray, p: np.ndarray) -> np.ndarray:
  """log sigmoid(r - q), q the base's quantile of each topic."""
  order = np.argsort(r, 1)
  mass = np.cumsum(np.take_along_axis(p, order, 1), 1)
  place = (mass < QUANTILE).sum(1)[:, None]
  q = np.take_along_axis(r, np.take_along_axis(order, place, 1), 1)
  return -np.logaddexp(0, q - r)


def _par(r: np.ndarray, p: np.ndarray) -> np.ndarray:
  """E over answers y' of the base of sigmoid(r(y) - r(y'))."""
  out = np.empty_like(r)
  for x in range(len(r)):
    keep = p[x] > 1e-7  # the rest of the base has no weight
    at, w = r[x][keep], p[x][keep]
    gap = np.clip(r[x][:, None] - at, -500, 500)
    out[x] = (1 / (1 + np.exp(-gap))) @ w / w.sum()
  return out


def measure(law: biased.Law, q: np.ndarray, score: np.ndarray) -> dict:
  """KL, and gains of gold and proxy over the base, each in its own deviations.

  Args:
    law: of the world.
    q: f64[X, Y], log-probs of a policy.
    score: f64[X, Y], the proxy.
  """
  p, prob = np.exp(law.logp), np.exp(q)
  kl = float(np.mean(np.sum(prob * (np.where(prob > 0, q, 0) - law.logp), 1)))
  out = {"kl": max(kl, 0.0)}
  for name, r in (("gold", law.gold), ("proxy", score)):
    mean = np.sum(p * r) / len(p)
    sd = np.sqrt(np.sum(p * (r - mean) ** 2) / len(p))
    out[name] = float((np.sum(prob * r) / len(p) - mean) / sd)
  return out


def optimum(law: biased.Law, u: np.ndarray, proxy: np.ndarray) -> Path:
  """Gains of the optima of E u - beta KL at the KLs of KLS.

  Args:
    law: of the world.
    u: f64[X, Y], what is optimised.
    proxy: f64[X, Y], what is reported.
  """

  u = u - u.max(1, keepdims=True)
  p = np.exp(law.logp)

  def spent(alpha: float) -> float:
    """KL of the tilt: alpha E_q u - log E_p exp(alpha u), mean over topics."""
    weight = p * np.exp(alpha * u)
    total = weight.sum(1)
    return float(np.mean(alpha * (weight * u).sum(1) / total - np.log(total)))

  def at(alpha: float):
    q = law.logp + alpha * u
    return measure(law, q - np.logaddexp.reduce(q, 1)[:, None], proxy)

  rows, low = [at(0.0)], 0.0
  for kl in KLS:  # the KL rises with alpha
    high = max(2 * low, 1.0)
    while spent(high) < kl and high < 1e6:
      low, high = high, 2 * high
    if high >= 1e6:  # beyond what this reward can spend
      break
    for _ in range(30):
      middle = (low + high) / 2
      low, high = (middle, high) if spent(middle) < kl else (low, middle)
    rows.append(at(high))
  return _path(rows)


def best(law: biased.Law, proxy: np.ndarray) -> Path:
  """Gains of the best of n by a proxy, exact, n in COUNTS."""
  with jax.enable_x64(True):
    logs = jax.jit(jax.vmap(best_of_n.log_pmf, (0, 0, None)))
    found = [
      np.asarray(logs(jnp.asarray(law.logp), jnp.asarray(proxy), float(n)))
      for n in COUNTS
    ]
  return _path([measure(law, q, proxy) for q in found])


def _path(rows: Sequence[dict[str, float]]) -> Path:
  return {k: [row[k] for row in rows] for k in ("kl", "gold", "proxy")}


def exact(seed: int) -> dict[str, Path]:
  """Every exact path of the world of a seed, by name."""
  law = biased.law({**WORLD, "world": seed})
  u = scores(law)
  out = {}
  for name, score in u.items():
    proxy = u["raw"] if name in ("log-sigmoid", "PAR") else score
    out[f"RL {name}"] = optimum(law, score, proxy)
    if proxy is score:
      out[f"best of n {name}"] = best(law, score)
  return out


def kept(path: pathlib.Path, make: Callable[[], Any]) -> Any:
  """What a JSON file holds; made and written where there is none."""
  if not path.is_file():
    found = json.dumps(make(), sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(found)
  return json.loads(path.read_text())


def ppo(seed: int, workdir: pathlib.Path) -> Path:
  """PPO on the raw proxy of a seed's world: its held-out evaluations."""
  law = biased.law({**WORLD, "members": 1, "world": seed})
  p = np.exp(law.logp) / len(law.logp)
  found = train.run(config(seed), workdir / "ppo" / f"seed_{seed}")
  rows = [found.evals[step] for step in sorted(found.evals)]
  out = {"kl": [max(r["kl"], 0.0) for r in rows]}
  for name, key, r in (
    ("gold", "reward", law.gold),
    ("proxy", "proxy", law.reward),
  ):
    mean = np.sum(p * r)
    sd = np.sqrt(np.sum(p * (r - mean) ** 2))
    out[name] = [float((row[key] - mean) / sd) for row in rows]
  return out


def config(seed: int) -> Any:
  """PPO after an imitated start, on the first member alone."""
  c = common.base()
  c.algorithm, c.seed, c.steps, c.reference = "ppo", seed, 60, "always"
  c.prompts_per_step, c.samples_per_prompt = 16, 8
  c.sampling.max_new_tokens = WORLD["length"]
  c.optimizer.learning_rate = 2e-3
  c.model.update(
    vocab=8, width=32, layers=1, heads=2, kv_heads=2, head_dim=16, mlp=64
  )
  c.task = c.task.__class__({**WORLD, "members": 1, "world": seed})
  c.eval.update(every=4, prompts=1024)
  c.checkpoint.every = 1000
  c.log.update(every=100, samples_every=0, tensorboard=False)
  c.start.update(
    {
      "algorithm": "sft",
      "steps": 150,
      "prompts_per_step": 256,
      "samples_per_prompt": 1,
      "reference": "auto",
      "optimizer": {
        "learning_rate": 5e-3,
        "schedule": "cosine",
        "final_fraction": 0.01,
      },
      "eval": {"every": 0},
    }
  )
  return config_lib.freeze(c.to_dict())


def fits(paths: Sequence[Path], form: str) -> list[dict[str, Any]]:
  """The law of `form` through each seed's path, as plain numbers."""
  out = []
  for path in paths:
    found = laws.fit(np.asarray(path["kl"]), np.asarray(path["gold"]), form)
    kl, gold = (float(x) if np.isfinite(x) else None for x in laws.peak(found))
    row = {k: getattr(found, k) for k in ("form", "alpha", "beta", "r2")}
    out.append({**row, "peak_kl": kl, "peak_gold": gold})
  return out


def main(argv: Sequence[str] | None = None) -> int:
  """Computes the paths, runs what is missing of PPO, writes all three files."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--ppo", type=int, default=1, help="0: without training")
  parser.add_argument("--workdir", default="runs/overopt")
  parser.add_argument("--out", default="results")
  args = parser.parse_args(argv)
  workdir = pathlib.Path(args.workdir).resolve()
  seeds = [int(s) for s in args.seeds.split(",")]
  found: dict[str, list[Path]] = {}
  for seed in seeds:
    listed = kept(workdir / f"exact/{seed}.json", lambda s=seed: exact(s))
    for name, path in listed.items():
      found.setdefault(name, []).append(path)
    if args.ppo:
      found.setdefault("PPO raw", []).append(ppo(seed, workdir))
      jax.clear_caches()
  form: Callable[[str], str] = lambda n: (
    "best_of_n" if n.startswith("best") else "rl"
  )
  result = {
    "seeds": seeds,
    "world": WORLD,
    "paths": found,
    "fits": {name: fits(p, form(name)) for name, p in found.items()},
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
  }
  result["summary"] = pages.summary(result)
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  text = json.dumps(result, indent=1, sort_keys=True)
  (out / "overoptimisation.json").write_text(text + "\n")
  table = pages.table(result["summary"])
  (out / "overoptimisation.md").write_text(table)
  pages.draw(result, out / "overoptimisation.png")
  print(table)
  return 0


if __name__ == "__main__":
  sys.exit(main())
