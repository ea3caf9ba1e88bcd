"""Table and figure of `experiments/overoptimisation.py`."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlreward.evals import overoptimisation as laws

COLOURS = {
  "raw": "#c0392b",
  "log-sigmoid": "#2980b9",
  "PAR": "#27ae60",
  "mean": "#8e44ad",
  "min": "#d68910",
  "mean_minus_std": "#2980b9",
  "uwo": "#27ae60",
}
NAMES = {"mean_minus_std": "mean - std", "uwo": "UWO", "raw": "one model"}
PANELS = (
  ("One reward model", ("best of n raw", "RL raw", "PPO raw"), True),
  ("Bounded shapes of it, RL optimum",
   ("RL raw", "RL log-sigmoid", "RL PAR"), False),
  ("Five of them joined, RL optimum",
   ("RL raw", "RL mean", "RL min", "RL mean_minus_std", "RL uwo"), False),
)  # fmt: skip
WIDEST = 7.2  # nats


def summary(result: dict[str, Any]) -> list[dict[str, Any]]:
  """One row for each path: peak and end of gold, what the law fitted says.

  Args:
    result: {"paths": {name: [path of each seed]}, "fits": {name: ...}}.
  """
  out = []
  for name, paths in sorted(result["paths"].items()):
    peaks = [int(np.argmax(p["gold"])) for p in paths]
    ends = [p["gold"][-1] for p in paths]
    tops = [p["gold"][i] for p, i in zip(paths, peaks, strict=True)]
    fit = {
      k: float(np.mean([f[k] for f in result["fits"][name]]))
      for k in ("alpha", "beta", "r2")
    }
    out.append(
      {
        "name": name,
        "peak": float(np.mean(tops)),
        "peak_sd": float(np.std(tops, ddof=min(1, len(tops) - 1))),
        "peak_kl": float(
          np.mean([p["kl"][i] for p, i in zip(paths, peaks, strict=True)])
        ),
        "end": float(np.mean(ends)),
        "end_sd": float(np.std(ends, ddof=min(1, len(ends) - 1))),
        "end_kl": float(np.mean([p["kl"][-1] for p in paths])),
        "end_proxy": float(np.mean([p["proxy"][-1] for p in paths])),
        **fit,
      }
    )
  return out


def table(rows: Sequence[dict[str, Any]]) -> str:
  """The rows of `summary` as a Markdown table; gains in deviations."""
  lines = [
    "| path | gold, most | at KL | gold, end | proxy, end | KL, end | alpha"
    " | beta | R2 |",
    "|---|---|---|---|---|---|---|---|---|",
  ]
  for r in rows:
    lines.append(
      f"| {r['name']} | {r['peak']:.2f} ± {r['peak_sd']:.2f} |"
      f" {r['peak_kl']:.1f} | {r['end']:.2f} ± {r['end_sd']:.2f} |"
      f" {r['end_proxy']:.2f} | {r['end_kl']:.1f} | {r['alpha']:.2f} |"
      f" {r['beta']:.2f} | {r['r2']:.2f} |"
    )
  return "\n".join(lines) + "\n"


def draw(result: dict[str, Any], path: pathlib.Path) -> None:
  """Gold (and, for one model, proxy) against KL, thin for each seed."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  figure, panels = pyplot.subplots(
    1, len(PANELS), figsize=(15, 5), layout="constrained"
  )
  for axes, (title, names, both) in zip(panels, PANELS, strict=True):
    for name in (n for n in names if n in result["paths"]):
      _line(axes, result, name, both)
    axes.axhline(0, color="black", lw=0.6)
    axes.set_title(title)
    axes.set_xlabel("KL to the base, nats per answer")
    axes.set_xlim(0, WIDEST)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left" if both else "lower center")
  low, high = zip(*(a.get_ylim() for a in panels[1:]), strict=True)
  for axes in panels[1:]:
    axes.set_ylim(min(low), max(high))
  panels[0].set_ylabel("gain over the base, in its deviations")
  figure.savefig(path, dpi=130)
  pyplot.close(figure)


def _line(axes, result: dict[str, Any], name: str, both: bool) -> None:
  paths, kind = result["paths"][name], name.rpartition(" ")[2]
  way = name.removesuffix(f" {kind}")
  if both:
    colour = {"RL": "#c0392b", "best of n": "#7f8c8d"}.get(way, "#2c3e50")
    label = {"RL": "RL optimum", "PPO": "PPO"}.get(way, way)
  else:
    colour, label = COLOURS[kind], NAMES.get(kind, kind)
  grid = np.linspace(0, min(WIDEST, min(max(p["kl"]) for p in paths)), 60)
  if way == "PPO":  # its path turns back in KL, so points and their law
    for i, p in enumerate(paths):
      axes.plot(p["kl"], p["gold"], "o", ms=3, alpha=0.6, color=colour,
                label=f"{label}, gold" if not i else None)  # fmt: skip
      axes.plot(p["kl"], p["proxy"], "x", ms=3, alpha=0.6, color=colour,
                label=f"{label}, proxy" if not i else None)  # fmt: skip
    return
  read = lambda key: np.stack([np.interp(grid, p["kl"], p[key]) for p in paths])
  gold = read("gold")
  said = f"{label}, gold" if both else label
  axes.plot(grid, gold.mean(0), color=colour, lw=2, label=said)
  for one in gold:
    axes.plot(grid, one, color=colour, lw=0.7, alpha=0.35)
  if both:
    axes.plot(grid, read("proxy").mean(0), "--", color=colour,
              label=f"{label}, proxy")  # fmt: skip
    law = np.mean([_law(f, grid) for f in result["fits"][name]], 0)
    axes.plot(grid, law, ":", color="black", lw=1.2,
              label="laws fitted" if way == "RL" else None)  # fmt: skip


def _law(fit: dict[str, Any], kl: np.ndarray) -> np.ndarray:
  found = laws.Fit(*(fit[k] for k in ("form", "alpha", "beta", "r2")))
  return laws.predict(found, kl)
