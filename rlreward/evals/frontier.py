"""Where a run stands against the best reward at its KL.

The optimum's curve and that of best-of-n come from what the reference could
earn on a fixed set of prompts (a `Pool`): from samples with a bootstrap band,
or exactly where the answers are listed. Of a policy two numbers matter:

  efficiency = (reward - base) / (best reward at its KL - base)
  KL wasted  = KL - the least KL that buys its reward

Reference: Asymptotics of Language Model Alignment, arXiv 2404.01730.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlreward.analytic import best_of_n, frontier, tilt
from rlreward.types import Array

POINTS = 64  # of a curve
SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256]  # n of best-of-n
_SPACED = np.linspace(0, 1, POINTS) ** 2  # denser where the curve bends
LEAST = 0.01  # nats; below it there is no gain to compare with


class Pool(NamedTuple):
  """What the reference could earn: B prompts, N answers of each.

  Attributes:
    reward: f32[B, N], what is trained on.
    gold: f32[B, N], what is wanted, NaN without judgement; None where it is
      the reward.
    valid: bool[B, N].
    logp: [B, N], log-probs of the answers under the reference.
    exact: the answers are all there are (the last may stand for the rest), and
      `logp` is their law; else they are samples.
  """

  reward: np.ndarray
  gold: np.ndarray | None
  valid: np.ndarray
  logp: np.ndarray
  exact: bool


def curve(pool: Pool) -> dict[str, Any]:
  """The optimum and best-of-n, as plain numbers.

  Args:
    pool: of the reference.

  Returns:
    {"exact", "prompts", "samples", "base": {"reward", "gold"}, "kl",
    "reward", "alpha", "low", "high", "gain_low", "gain_high", "ess",
    "trusted": each POINTS numbers, "gold": those or None, "bon": {"n", "kl",
    "reward", "gold"}}. KL in nats of a response, mean over prompts; low and
    high are a 90 % band; a null in "alpha" is infinite.
  """
  b, n = pool.reward.shape
  if pool.exact:
    logp, r = jnp.asarray(pool.logp), jnp.asarray(pool.reward)
    most = float(jnp.mean(jax.vmap(tilt.kl_max)(logp, r)))
    gold = None if pool.gold is None else jnp.asarray(pool.gold)
    found = frontier.exact(logp, r, jnp.asarray(most * _SPACED), gold=gold)
    bon = _law_of_best(logp, r, gold)
  else:
    valid = jnp.asarray(pool.valid)
    found = frontier.from_samples(
      jnp.asarray(pool.reward),
      jnp.asarray(math.log(n) * _SPACED),
      gold=None if pool.gold is None else jnp.asarray(pool.gold),
      valid=valid,
    )
    best = frontier.best_of_n_curve(
      jnp.asarray(pool.reward),
      jnp.asarray([k for k in SIZES if k <= n]),
      None if pool.gold is None else jnp.asarray(pool.gold),
      valid,
    )
    bon = {k: _plain(getattr(best, k)) for k in ("n", "kl", "reward", "gold")}
  fields = {k: _plain(v) for k, v in found._asdict().items()}
  base = {"reward": fields.pop("base"), "gold": None}
  if pool.gold is not None:
    base["gold"] = _base_gold(pool)
  bon["n"] = [int(k) for k in bon["n"]]
  return {"exact": pool.exact, "prompts": b, "samples": n, "base": base,
          **fields, "bon": bon}  # fmt: skip


def _base_gold(pool: Pool) -> float:
  assert pool.gold is not None
  if pool.exact:
    return float(np.mean(np.sum(np.exp(pool.logp) * pool.gold, 1)))
  return float(np.nanmean(np.where(pool.valid, pool.gold, np.nan)))


def _law_of_best(logp: Array, r: Array, gold: Array | None) -> dict[str, Any]:
  """Best-of-n's exact KL, reward and gold, means over prompts."""
  chance = jnp.exp(logp)
  mean = lambda fn, n: float(
    jnp.mean(jax.vmap(lambda p, x: fn(p, x, n))(chance, r))
  )
  found: dict[str, Any] = {
    "n": SIZES,
    "kl": [mean(best_of_n.kl, n) for n in SIZES],
    "reward": [mean(best_of_n.mean_reward, n) for n in SIZES],
    "gold": None,
  }
  if gold is not None:
    pi = lambda n: jax.vmap(lambda p, x: best_of_n.pmf(p, x, n))(chance, r)
    found["gold"] = [float(jnp.mean(jnp.sum(pi(n) * gold, 1))) for n in SIZES]
  return found


def measure(
  curve: Mapping[str, Any], reward: float, kl: float
) -> dict[str, float]:
  """Efficiency and wasted KL of a policy.

  Args:
    curve: of `curve`.
    reward: mean reward of the policy on the curve's prompts.
    kl: its KL, nats of a response.

  Returns:
    {"efficiency", "efficiency_low", "efficiency_high", "kl_wasted"}. The band
    is that of the curve alone. Below 0.01 nats nothing can be compared and only
    the last is there; beyond the KL up to which the curve can be trusted none
    is, for any number would be a guess; `kl_wasted` is left out where the
    reward is above all that the curve knows.
  """
  known = _curve(curve)
  sure = np.asarray(curve["trusted"], bool)
  end = max(np.asarray(curve["kl"])[sure], default=0.0)
  if kl > end and not curve["exact"]:
    return {}
  base = float(known.base)
  wasted = float(frontier.wasted(known, reward, kl))
  found = {"kl_wasted": wasted} if math.isfinite(wasted) else {}
  if kl < LEAST:
    return found
  found["efficiency"] = float(frontier.efficiency(known, base, reward, kl))
  if not curve["exact"]:
    best = float(frontier.attainable(known, kl)) - base
    for name, side in (("low", "gain_high"), ("high", "gain_low")):
      edge = float(np.interp(kl, curve["kl"], curve[side]))
      found[f"efficiency_{name}"] = found["efficiency"] * best / edge
  return {k: v for k, v in found.items() if math.isfinite(v)}


def _curve(known: Mapping[str, Any]) -> frontier.Curve:
  """The curve that `curve` made plain."""
  inf = lambda row: [np.inf if x is None else x for x in row]
  names = (k for k in frontier.Curve._fields if k not in ("base", "gold"))
  fields = {k: jnp.asarray(inf(known[k])) for k in names}
  return frontier.Curve(
    **fields, gold=None, base=jnp.asarray(known["base"]["reward"])
  )


def _plain(x: Any) -> Any:
  """Lists and numbers; what is not finite is None, for JSON has no word."""
  if x is None:
    return None
  values = np.asarray(x)
  if values.dtype == bool or not values.ndim:
    return values.tolist()
  return [float(v) if math.isfinite(v) else None for v in values]


def write(folder: pathlib.Path, pool: Pool, curve: Mapping[str, Any]) -> None:
  """Writes `pool.npz` and, last, `curve.json`.

  Args:
    folder: created if absent.
    pool: what the reference could earn.
    curve: of `curve`.
  """
  folder.mkdir(parents=True, exist_ok=True)
  arrays = {k: v for k, v in pool._asdict().items() if v is not None}
  np.savez_compressed(folder / "pool.npz", **arrays)
  part = folder / "curve.json.partial"
  part.write_text(json.dumps(curve, indent=1) + "\n")
  part.replace(folder / "curve.json")


def read(folder: pathlib.Path) -> dict[str, Any] | None:
  """The curve in a folder that `write` wrote; None where there is none."""
  path = folder / "curve.json"
  return json.loads(path.read_text()) if path.is_file() else None


def draw(
  curve: Mapping[str, Any],
  path: Mapping[int, Mapping[str, float]],
  file: pathlib.Path,
) -> None:
  """The frontier, best-of-n and where a run has been.

  Args:
    curve: of `curve`.
    path: {step: metrics of its evaluation}.
    file: of the picture.
  """
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(figsize=(7, 5), layout="constrained")
  show(axes, curve, path)
  figure.savefig(file, dpi=120)
  pyplot.close(figure)


def show(
  axes: Any, curve: Mapping[str, Any], path: Mapping[int, Mapping[str, float]]
) -> None:
  """Draws on axes of matplotlib; see `draw`."""
  column = lambda name: np.asarray(curve[name], float)
  kl, reward = column("kl"), column("reward")
  sure = np.asarray(curve["trusted"], bool)
  end = int(np.max(np.flatnonzero(sure), initial=0)) + 1
  said = "optimum (exact)" if curve["exact"] else "optimum, 90 % band"
  axes.plot(kl[:end], reward[:end], color="black", lw=1.5, label=said)
  if not curve["exact"]:
    axes.plot(kl[end - 1 :], reward[end - 1 :], ":", color="black", lw=1,
              label="optimum, too few samples")  # fmt: skip
    axes.fill_between(kl[:end], column("low")[:end], column("high")[:end],
                      color="black", alpha=0.12, lw=0)  # fmt: skip
  if curve.get("gold") is not None:
    axes.plot(kl[:end], column("gold")[:end], color="tab:green", lw=1,
              label="gold at that optimum")  # fmt: skip
  bon = curve["bon"]
  axes.plot(bon["kl"], bon["reward"], "--|", color="tab:gray", lw=1,
            label="best of n")  # fmt: skip
  for n, x, y in zip(bon["n"], bon["kl"], bon["reward"], strict=True):
    axes.annotate(str(n), (x, y), fontsize=7, xytext=(2, -9),
                  textcoords="offset points", color="tab:gray")  # fmt: skip
  steps = sorted(path)
  where = [_first(path[s], ("exact_kl", "kl")) for s in steps]
  for name, label, colour in (
    ("gold", "this run, gold", "tab:green"),
    ("reward", "this run", "tab:blue"),
  ):
    proxy = "proxy" in path[steps[0]] if steps else False
    if name == "gold" and not proxy:
      continue
    key = "reward" if name == "gold" else "proxy" if proxy else "reward"
    keys = (key,) if name == "gold" else ("exact_reward", key)
    height = [_first(path[s], keys) for s in steps]
    axes.plot(where, height, "-o", color=colour, ms=4, label=label)
    if name == "reward":
      for s, x, y in zip(steps, where, height, strict=True):
        axes.annotate(f"step {s}", (x, y), fontsize=7, xytext=(4, -8),
                      textcoords="offset points", color=colour)  # fmt: skip
  axes.set_xlabel("KL to the reference, nats per response")
  axes.set_ylabel("reward, held-out prompts")
  axes.grid(alpha=0.3)
  axes.legend(fontsize=8, loc="lower right")


def _first(found: Mapping[str, float], names: tuple[str, ...]) -> float:
  return next((found[n] for n in names if n in found), np.nan)
