"""Table and figure of `experiments/noise.py`."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlreward.analytic import label_noise

NAMES = {"prompt": "whole questions", "sample": "single answers"}
COLOURS = {"prompt": "#c0392b", "sample": "#2980b9"}
SHOWN = (0.2, 0.4)  # rates in the panel of the law
STYLES = {0.2: "-", 0.4: "--"}
AT = (0.1, 0.5)  # chances of a right answer in the panel of the cost


def summary(result: dict[str, Any]) -> list[dict[str, Any]]:
  """One row for each unit and rate: means over seeds and their spread.

  Args:
    result: {"runs": {unit: [{p, seed, first, last, predicted}]}}.
  """
  out = []
  for unit, rows in result["runs"].items():
    for p in sorted({r["p"] for r in rows}):
      mine = [r for r in rows if r["p"] == p]
      last = [r["last"] for r in mine]
      out.append(
        {
          "unit": unit,
          "p": p,
          "first": float(np.mean([r["first"] for r in mine])),
          "last": float(np.mean(last)),
          "last_sd": float(np.std(last, ddof=min(1, len(last) - 1))),
          "predicted": float(np.mean([r["predicted"] for r in mine])),
        }
      )
  return out


def table(rows: Sequence[dict[str, Any]]) -> str:
  """The rows of `summary` as a Markdown table."""
  lines = [
    "| turned | flip rate | accuracy, start | after training | by the law |",
    "|---|---|---|---|---|",
  ]
  lines += [
    f"| {NAMES[r['unit']]} | {r['p']:.1f} | {r['first']:.3f} |"
    f" {r['last']:.3f} ± {r['last_sd']:.3f} | {r['predicted']:.3f} |"
    for r in rows
  ]
  return "\n".join(lines) + "\n"


def draw(result: dict[str, Any], path: pathlib.Path) -> None:
  """Accuracy, direction and cost, each beside the law.

  Args:
    result: as the experiment writes it.
    path: of the picture.
  """
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  figure, panels = pyplot.subplots(1, 3, figsize=(15, 5), layout="constrained")
  _accuracy(panels[0], result)
  _direction(panels[1], result)
  _cost(panels[2], result)
  for axes in panels:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
  figure.savefig(path, dpi=130)
  pyplot.close(figure)


def _accuracy(axes, result: dict[str, Any]) -> None:
  rows = summary(result)
  for unit, name in NAMES.items():
    mine = [r for r in rows if r["unit"] == unit]
    style = {"color": COLOURS[unit]}
    p = [r["p"] for r in mine]
    axes.errorbar(p, [r["last"] for r in mine], [r["last_sd"] for r in mine],
                  fmt="o-", capsize=3, label=name, **style)  # fmt: skip
    axes.plot(p, [r["predicted"] for r in mine], ":", lw=1.5,
              label=f"{name}, by the law", **style)  # fmt: skip
    runs = result["runs"][unit]
    axes.scatter([r["p"] for r in runs], [r["last"] for r in runs], s=10,
                 alpha=0.5, **style)  # fmt: skip
  axes.axhline(rows[0]["first"], color="black", lw=0.8, label="start")
  axes.set_title("After training with flipped rewards")
  axes.set_xlabel("flip rate p")
  axes.set_ylabel("held-out accuracy, exact")
  axes.set_ylim(0, 1.02)


def _direction(axes, result: dict[str, Any]) -> None:
  for unit, name in NAMES.items():
    for p in SHOWN:
      rows = [r for r in result["theory"] if (r["unit"], r["p"]) == (unit, p)]
      q = [r["q"] for r in rows]
      axes.plot(q, [r["shrink"] for r in rows], STYLES[p], color=COLOURS[unit],
                label=f"{name}, p = {p}")  # fmt: skip
      axes.plot(q, [r["simulated"] for r in rows], "o", ms=4,
                color=COLOURS[unit])  # fmt: skip
  axes.set_title("What is left of a group's mean push (dots: simulated)")
  axes.set_xlabel("chance q of a right answer")
  axes.set_ylabel("mean push over that without flips")
  axes.set_ylim(0, 0.8)


def _cost(axes, result: dict[str, Any]) -> None:
  rates = np.linspace(0, 0.45, 19)
  for unit, name in NAMES.items():
    for q, style in zip(AT, ("-", "--"), strict=True):
      laws = [
        label_noise.push(q, float(p), result["size"], unit) for p in rates
      ]
      axes.plot(rates, [(law.sd / law.mean) ** 2 for law in laws], style,
                color=COLOURS[unit], label=f"{name}, q = {q}")  # fmt: skip
  axes.set_yscale("log")
  axes.set_title("Groups until mean push = its error (exact)")
  axes.set_xlabel("flip rate p")
  axes.set_ylabel("groups")
