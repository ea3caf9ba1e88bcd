"""Tables and the figure of `experiments/algorithms.py`."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from configs import algorithms as configs
from rlreward import registry


def attainable(curve: dict[str, list[float]], kl: float) -> float:
  """The best mean reward at a KL, by the frontier."""
  return float(np.interp(kl, curve["kl"], curve["reward"]))


def summary(result: dict[str, Any]) -> list[dict[str, Any]]:
  """One row for each algorithm: means over seeds and their spread.

  Args:
    result: {"runs": {name: [rows of `one`]}, "frontier": [of each seed]}.
  """
  out = []
  for name in (n for n in configs.CHANGES if n in result["runs"]):
    rows = result["runs"][name]
    curves = []
    if result["frontier"]:
      places = [result["seeds"].index(r["seed"]) for r in rows]
      curves = [result["frontier"][i] for i in places]
    row: dict[str, Any] = {"algorithm": name}
    for field in ("seconds", "peak_gib"):
      row[field] = float(np.mean([r[field] for r in rows]))
    if name == "reward_model":
      row["accuracy"] = float(
        np.mean([r["last"]["held/accuracy"] for r in rows])
      )
      out.append(row)
      continue
    first = [r["first"]["reward"] for r in rows]
    last = [r["last"]["reward"] for r in rows]
    kl = [r["last"].get("kl", 0.0) for r in rows]
    if name == "best_of_n":
      # Exact on the held-out prompts; what was measured is of other prompts.
      at = [c["bon_n"].index(r["n"]) for c, r in zip(curves, rows, strict=True)]
      last = [c["bon_reward"][i] for c, i in zip(curves, at, strict=True)]
      kl = [c["bon_kl"][i] for c, i in zip(curves, at, strict=True)]
      row["measured"] = float(np.mean([r["chosen"] for r in rows]))
    if curves:
      best = [attainable(c, k) for c, k in zip(curves, kl, strict=True)]
      row["attainable"] = float(np.mean(best))
    row |= {
      "first": float(np.mean(first)),
      "last": float(np.mean(last)),
      "last_sd": float(np.std(last, ddof=min(1, len(last) - 1))),
      "kl": float(np.mean(kl)),
      "least_gain": float(np.min(np.subtract(last, first))),
    }
    out.append(row)
  return out


def table(rows: Sequence[dict[str, Any]]) -> str:
  """The rows of `summary` as a Markdown table."""
  exact = any("attainable" in r for r in rows)
  lines = [
    "| algorithm | accuracy | sd | KL, nats | best at it | seconds | GiB |"
    if exact
    else "| algorithm | reward | sd | KL, nats | seconds | GiB |",
    "|---|---|---|---|---|---|" + "---|" * exact,
  ]
  for r in rows:
    if "last" in r:
      mid = (
        f"{r['first']:.3f} -> {r['last']:.3f} | {r['last_sd']:.3f} |"
        f" {r['kl']:.2f}"
      )
      if exact:
        mid += f" | {r.get('attainable', float('nan')):.3f}"
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
WIDEST = 2.0  # nats; what lies beyond is named at the edge


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
        [r["last"]["reward"] for r in rows],
        s=14, alpha=0.5, **style,
      )  # fmt: skip
    axes.scatter(row["kl"], row["last"], s=60, edgecolor="black", lw=0.5,
                 label=row["algorithm"], **style)  # fmt: skip
  axes.set_xlabel("KL to the start, nats per answer")
  axes.set_ylabel("held-out accuracy")
  edge = min(WIDEST, 1.1 * max(r["kl"] for r in shown))
  axes.set_xlim(left=-0.03, right=max(edge, 0.5))
  low = min(min(r["first"], r["last"]) for r in shown)
  axes.set_ylim(max(0.0, low - 0.05), 1.02)
  for row in shown:
    if row["kl"] > edge:
      axes.annotate(
        f"{row['algorithm']}: KL {row['kl']:.1f}",
        (edge, row["last"]),
        ha="right",
        va="bottom",
        fontsize=8,
      )
  axes.grid(alpha=0.3)
  axes.legend(ncols=2, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
  figure.savefig(path, dpi=150)
  pyplot.close(figure)
