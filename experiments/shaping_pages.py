"""Tables and the figure of `experiments/shaping.py`."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

NATS = 1.0  # the budget of trained runs
AT = 2.0  # nats at which closed forms are tabled
WORLDS = ("heavy", "thin", "long")
GROUPS = {
  "#c0392b": ("raw", "mean-std", "min-max", "centred", "length penalty"),
  "#d68910": ("ceiling", "clip"),
  "#2980b9": ("sigmoid, no reference", "log-sigmoid, no reference", "LSC"),
  "#27ae60": (
    "PAR, M = 10", "PAR, M = 1", "tanh", "arctan", "polynomial",
  ),
  "#7f8c8d": ("slow growth",),
}  # fmt: skip
COLOURS = {name: colour for colour, names in GROUPS.items() for name in names}
LINES = ("-", "--", ":", "-.", (0, (1, 3)))
STYLES = {n: LINES[i] for names in GROUPS.values() for i, n in enumerate(names)}
Pair = tuple[float, float] | None


def spread(values: Sequence[float | None]) -> Pair:
  """(mean, deviation) over seeds; None where a seed has no value."""
  known = [v for v in values if v is not None]
  if not known or len(known) < len(values):
    return None
  return float(np.mean(known)), float(
    np.std(known, ddof=min(1, len(known) - 1))
  )


def summary(result: dict[str, Any]) -> list[dict[str, Any]]:
  """One row for each shape.

  Args:
    result: {"kls", "closed": {world: {shape: gold [seeds][K]}}, "trained":
      {tail: {shape: [{"gain", "kl", ..}]}}, "optima": {tail: {shape: gain}}}.

  Returns:
    Rows {"shape", "closed": {world: (mean, sd) or None}, "trained": {tail:
    {"gain": (mean, sd), "kl": (mean, sd)}}, "optima": {tail: gain}}.
  """
  at = list(result["kls"]).index(AT)
  rows = []
  for name in (n for n in COLOURS if n in result["closed"][WORLDS[0]]):
    closed = {
      world: spread([row[at] for row in result["closed"][world][name]])
      for world in WORLDS
    }
    trained = {
      tail: {k: spread([r[k] for r in found[name]]) for k in ("gain", "kl")}
      for tail, found in result["trained"].items()
      if name in found
    }
    optima = {
      tail: found[name]
      for tail, found in result["optima"].items()
      if name in found
    }
    rows.append({"shape": name, "closed": closed, "trained": trained,
                 "optima": optima})  # fmt: skip
  return rows


def _said(pair: Pair, digits: int = 2) -> str:
  return "-" if pair is None else f"{pair[0]:.{digits}f} ± {pair[1]:.{digits}f}"


def table(result: dict[str, Any]) -> str:
  """The result in Markdown.

  Args:
    result: with "summary" and, below "critic", "phases".
  """
  rows = result["summary"]
  lines = [
    f"Gold of each shape's optimum at {AT:.0f} nats, 20,000 answers (mean and"
    " deviation of the draws; - is beyond what the shape can spend):",
    "",
    "| shape | heavy tails | thin tails | thin, and paid by length |",
    "|---|---|---|---|",
  ]
  for r in rows:
    cells = " | ".join(_said(r["closed"][w]) for w in WORLDS)
    lines.append(f"| {r['shape']} | {cells} |")
  lines += [
    "",
    f"Trained to {NATS:.0f} nat in the world of configs/par.py, seeds"
    f" {', '.join(map(str, result['seeds']))}: exact gain of gold over the"
    " base, exact KL, and the gain of the shape's own optimum:",
    "",
    "| shape | heavy: gain | KL | optimum | thin: gain | KL | optimum |",
    "|---|---|---|---|---|---|---|",
  ]
  for r in rows:
    cells = []
    for tail in ("heavy", "thin"):
      run, best = r["trained"].get(tail, {}), r["optima"].get(tail)
      cells += [_said(run.get("gain")), _said(run.get("kl"))]
      cells.append("-" if best is None else f"{best:.2f}")
    lines.append(f"| {r['shape']} | {' | '.join(cells)} |")
  return "\n".join(lines + _critic(result["critic"]["phases"])) + "\n"


def _critic(phases: dict[str, Any]) -> list[str]:
  """Lines of the critic's loss by quarter of a run."""
  lines = [
    "",
    "Loss of the critic by quarter of the run, mean ± deviation over its steps"
    " (ours: means over the seeds of both), and deviation over mean:",
    "",
    "| run | 1st | 2nd | 3rd | 4th | sd / mean, 4th |",
    "|---|---|---|---|---|---|",
  ]
  for name in ("raw", "PAR"):
    for where, said in (("recorded", "recorded by the authors"),
                        ("ours", "ours")):  # fmt: skip
      found = phases[where][name]
      each = [found] if where == "recorded" else found
      mean = np.mean([[p["mean"] for p in run] for run in each], 0)
      sd = np.mean([[p["sd"] for p in run] for run in each], 0)
      pairs = zip(mean, sd, strict=True)
      cells = " | ".join(f"{m:.3g} ± {s:.2g}" for m, s in pairs)
      lines.append(f"| {name}, {said} | {cells} | {sd[-1] / mean[-1]:.2f} |")
  return lines


def draw(result: dict[str, Any], path: pathlib.Path) -> None:
  """Closed forms of two tails, trained gains, and the critic's losses.

  Args:
    result: with "summary"; "critic" holds the recorded losses.
    path: of the picture.
  """
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(2, 2, figsize=(14, 11), layout="constrained")
  for panel, world in zip(axes[0], ("heavy", "thin"), strict=True):
    _closed(panel, result, world)
  axes[0][0].set_ylabel("gold of the optimum, base deviations")
  handles, names = axes[0][0].get_legend_handles_labels()
  axes[0][1].legend(handles, names, fontsize=8, loc="lower right", ncols=2)
  _gains(axes[1][0], result["summary"])
  _losses(axes[1][1], result["critic"])
  figure.savefig(path, dpi=110)
  pyplot.close(figure)


def _closed(axes, result: dict[str, Any], world: str) -> None:
  kls = np.asarray(result["kls"])
  every = result["closed"][world]
  for name in (n for n in COLOURS if n in every):
    found = every[name]
    pairs = [spread([row[i] for row in found]) for i in range(len(kls))]
    known = [i for i, pair in enumerate(pairs) if pair is not None]
    mean = [pairs[i][0] for i in known]  # pyright: ignore[reportOptionalSubscript]
    wide = name in ("raw", "PAR, M = 10")
    axes.plot(kls[known], mean, ls=STYLES[name], color=COLOURS[name],
              lw=2.4 if wide else 1.3, label=name)  # fmt: skip
    if wide:
      sd = [pairs[i][1] for i in known]  # pyright: ignore[reportOptionalSubscript]
      axes.fill_between(kls[known], np.subtract(mean, sd), np.add(mean, sd),
                        color=COLOURS[name], alpha=0.12, lw=0)  # fmt: skip
  axes.axhline(0, color="black", lw=0.6)
  axes.set_title(f"20,000 answers, {world} tails of the proxy's error")
  axes.set_xlabel("KL to the base, nats per answer")
  axes.grid(alpha=0.3)


def _gains(axes, rows: Sequence[dict[str, Any]]) -> None:
  """Trained gains (dots with deviations) and those of the optima (bars)."""
  shown = [r for r in rows if "heavy" in r["trained"]][::-1]
  for y, r in enumerate(shown):
    for tail, shift, fill in (("heavy", 0.0, True), ("thin", 0.24, False)):
      pair = r["trained"].get(tail, {}).get("gain")
      if pair is None:
        continue
      colour = COLOURS[r["shape"]]
      axes.errorbar(pair[0], y + shift, xerr=pair[1], fmt="o", color=colour,
                    mfc=colour if fill else "w", ms=6, capsize=2)  # fmt: skip
      best = r["optima"].get(tail)
      if best is not None:
        axes.plot([best], [y + shift], "|", ms=13, mew=2, color=colour)
  axes.set_yticks(range(len(shown)), [r["shape"] for r in shown])
  axes.axvline(0, color="black", lw=0.6)
  axes.set_xlabel("gain of gold over the base")
  axes.set_title(
    f"trained to {NATS:.0f} nat: filled heavy, open thin tails; | the optimum"
  )
  axes.grid(alpha=0.3)


def _losses(axes, critic: dict[str, Any]) -> None:
  colours = {"raw": "#c0392b", "PAR": "#27ae60"}
  for name, colour in colours.items():
    runs = np.asarray([r["value_loss"] for r in critic["ours"][name]])
    whole = np.asarray(critic["recorded"][name])
    for values, style, said in (
      (runs.mean(0), "-", f"{name}, ours"),
      (whole, ":", f"{name}, recorded"),
    ):
      at = (np.arange(len(values)) + 0.5) / len(values)
      axes.plot(at, values, style, lw=1, color=colour, label=said)
  axes.set_yscale("log")
  axes.set_xlabel("share of the run")
  axes.set_ylabel("loss of the critic, reward squared")
  axes.set_title("the critic: 200 steps of ours, 807 recorded")
  axes.grid(alpha=0.3)
  axes.legend(fontsize=8)
