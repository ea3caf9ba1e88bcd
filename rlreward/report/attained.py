"""A run against the best reward at its KL: the figure and its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlreward.report import plot, read
from rlreward.report.plot import nats, number
from rlreward.report.read import Run

ROWS = 16  # evaluations in the table
# Without a frontier the path alone is drawn, where it shows two rewards.
_NONE = {"exact": True, "kl": [], "reward": [],
         "bon": {"n": [], "kl": [], "reward": []}}  # fmt: skip
WIDE, NARROW = (1120, 460), (380, 330)


class Attained(NamedTuple):
  """What the page shows of a frontier.

  Attributes:
    svgs: the figure for wide and for narrow screens.
    legend: (text, CSS classes).
    table: a row of strings for each evaluation, under `head`.
    head: the columns with their units.
    about: how the curve was made.
  """

  svgs: list[str]
  legend: list[tuple[str, str]]
  table: list[list[str]]
  head: list[str]
  about: str


class Path(NamedTuple):
  """Where a run has been: a number or None for each evaluation."""

  steps: list[int]
  kl: list[float | None]
  reward: list[float | None]
  gold: list[float | None]


def path(run: Run) -> Path:
  """KL, the reward that is trained on, and gold where that is another."""
  steps, kl, reward, gold = [], [], [], []
  for step, found in run.evals.items():
    proxied = "proxy" in found
    steps.append(step)
    kl.append(_first(found, "exact_kl", "kl"))
    names = ("exact_reward", "proxy" if proxied else "reward")
    reward.append(_first(found, *names))
    gold.append(_first(found, "exact_gold", "reward") if proxied else None)
  return Path(steps, kl, reward, gold)


def attained(runs: Sequence[tuple[str, Run]]) -> Attained | None:
  """The frontier of the first run with the paths of all.

  None without a frontier, unless gold is another reward than what is trained
  on: then it is gold and proxy against KL.

  Args:
    runs: (label, run).
  """
  curve = runs[0][1].curve
  paths = [path(run) for _, run in runs]
  if curve is None and not any(known(p.gold) and known(p.kl) for p in paths):
    return None
  measured, curve = curve is not None, curve or _NONE
  exact = bool(curve.get("exact"))
  legend = [
    ("optimum, exact" if exact else "optimum with its 90 % band", "ink"),
    ("best of n", "c5 dash"),
  ] * measured
  if not exact and not all(curve.get("trusted", [])):
    legend.insert(1, ("optimum, too few samples to trust", "ink dash"))
  if known(curve.get("gold") or []):
    legend.append(("gold at that optimum", "c2 thin"))
  if known(curve["bon"].get("gold") or []):
    legend.append(("gold of best of n", "c5 thin"))
  for i, (label, run) in enumerate(runs):
    name = label if len(runs) > 1 else "this run"
    proxied = any("proxy" in found for found in run.evals.values())
    legend.append((f"{name}, trained reward" if proxied else name, f"c{i}"))
    if proxied:
      legend.append((f"{name}, gold reward", f"c{i} dash"))
  many = f"{curve.get('samples', '?')} answers of the reference"
  said = (
    f"{curve.get('prompts', '?')} held-out prompts, each with"
    f" {'all its answers listed' if exact else many}"
  )
  if not measured:
    said = "this run alone; frontier.samples=64 adds the best reward at each KL"
  head, table = _table(runs[0][1])
  return Attained(
    [
      _draw(curve, paths, WIDE, "wide"),
      _draw(curve, paths, NARROW, "narrow"),
    ],
    legend,
    table,
    head,
    said,
  )


def known(values: Sequence[float | None]) -> list[float]:
  """Those that are numbers."""
  return [v for v in values if v is not None]


def _first(found: Mapping[str, float | None], *names: str) -> float | None:
  return next((found[n] for n in names if found.get(n) is not None), None)


def _draw(
  curve: Mapping[str, Any], paths: list[Path], size: tuple[int, int], style: str
) -> str:
  kl, best = curve["kl"], curve["reward"]
  low, high = curve.get("low") or best, curve.get("high") or best
  bon = curve["bon"]
  reach = 1.15 * max([0.0, *(x for p in paths for x in known(p.kl))])
  reach = max([reach, 1.05 * max(bon["kl"], default=0.0)])
  most = max(known(kl), default=reach)
  reach = min(reach, most) if reach else most
  reach = max([reach, *(1.05 * x for p in paths for x in known(p.kl))])
  end = next((i for i, x in enumerate(kl) if x > reach), len(kl))
  trusted = list(curve.get("trusted") or [True] * len(kl))
  sure = max((i for i, t in enumerate(trusted) if t), default=0) + 1
  cut = min(sure, end)
  heights = known([*best[:end], *bon["reward"]])
  heights += known([*low[:cut], *high[:cut]])
  heights += [y for p in paths for y in known([*p.reward, *p.gold])]
  heights += known(bon.get("gold") or [])
  pad = 0.06 * (max(heights) - min(heights))
  left = min([0.0, *(x for p in paths for x in known(p.kl))])
  axes = plot.Axes(
    (left, reach),
    (min(heights) - pad, max(heights) + pad),
    size,
    names=("KL to the reference, nats per response", "reward"),
  )
  if not curve.get("exact"):
    axes.band(kl[:cut], low[:cut], high[:cut], "ink")
  if cut < end:
    axes.line(kl[cut - 1 : end], best[cut - 1 : end], "ink dash")
  axes.line(kl[:cut], best[:cut], "ink")
  gold = curve.get("gold")
  if gold:
    axes.line(kl[:cut], gold[:cut], "c2 thin")
  inside = [i for i, x in enumerate(bon["kl"]) if x <= reach]
  bon = {k: [v[i] for i in inside] for k, v in bon.items() if v}
  bon = {**_NONE["bon"], **bon}
  if "gold" in bon:
    axes.line(bon["kl"], bon["gold"], "c5 thin")
  axes.line(bon["kl"], bon["reward"], "c5 dash")
  axes.dots(bon["kl"], bon["reward"], "c5", 2.0)
  for i, p in enumerate(paths):
    for values, more in ((p.gold, " dash"), (p.reward, "")):
      pairs = zip(p.kl, values, strict=True)
      pairs = [(a, b) for a, b in pairs if a is not None]
      x, y = [a for a, _ in pairs], [b for _, b in pairs]
      axes.line(x, y, f"c{i % plot.COLOURS} path{more}")
      axes.dots(x, y, f"c{i % plot.COLOURS}", 3.5)
      axes.keep(x, y)
  for i, p in enumerate(paths):
    points = list(zip(p.steps, p.kl, p.reward, strict=True))
    points = [q for q in points if q[1] is not None and q[2] is not None]
    few = read.thin(points, 7)
    for step, x, y in [*few[:1], *few[:0:-1]]:
      axes.label(x, y, f"step {step}", f"c{i % plot.COLOURS}")
  for n, x, y in zip(bon["n"], bon["kl"], bon["reward"], strict=True):
    axes.label(x, y, f"n={n}", "c5")
  return axes.svg(_said(curve, paths[0]), style)


def _said(curve: Mapping[str, Any], p: Path) -> str:
  text = (
    "Reward against KL to the reference: the optimum, best of n, and the"
    " evaluations of this run."
  )
  pairs = [
    q for q in zip(p.steps, p.kl, p.reward, strict=True) if None not in q
  ]
  if pairs:
    text += " ".join(
      f" Step {s}: reward {number(y)} at {number(x)} nats."
      for s, x, y in read.thin(pairs, 5)
    )
  return text


def _table(run: Run) -> tuple[list[str], list[list[str]]]:
  p = path(run)
  proxied = any(v is not None for v in p.gold)
  head = ["step", "KL, nats per response", "reward"]
  if proxied:
    head[2:] = ["trained reward", "gold reward"]
  head += ["efficiency, share", "90 % band", "KL wasted, nats per response"]
  rows = []
  for i in read.thin(list(range(len(p.steps))), ROWS):
    found = run.evals[p.steps[i]]
    ends = [found.get(f"efficiency_{k}") for k in ("low", "high")]
    band = "-" if None in ends else " to ".join(map(number, ends))
    rows.append(
      [
        str(p.steps[i]),
        nats(p.kl[i]),
        number(p.reward[i]),
        *([number(p.gold[i])] if proxied else []),
        number(found.get("efficiency")),
        band,
        nats(found.get("kl_wasted")),
      ]
    )
  return head, rows
