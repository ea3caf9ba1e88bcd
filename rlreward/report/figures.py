"""The curves of a report: which metrics share a figure, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rlreward.report import facts, plot, read
from rlreward.report.read import Point, Run

MOST_PARTS = 6  # lines of a figure
OTHERS = 24  # figures of metrics that no figure below has


class Spec(NamedTuple):
  """A figure.

  Attributes:
    title: what it shows.
    unit: of y; "-" for none.
    lines: (metric, label, dashed) of each line.
    fact: metric whose "healthy" is said below it; "" for none.
    log: whether y is logarithmic.
    level: (config field, text) of a limit; None without.
    said: what healthy looks like where no metric's fact says it.
  """

  title: str
  unit: str
  lines: tuple[tuple[str, str, bool], ...]
  fact: str = ""
  log: bool = False
  level: tuple[str, str] | None = None
  said: str = ""


def both(name: str) -> tuple[tuple[str, str, bool], ...]:
  """A metric in training and held out."""
  return ((name, "training", False), (f"eval/{name}", "held out", True))


def _held(name: str) -> tuple[tuple[str, str, bool], ...]:
  return ((name, "training", False), (f"eval/held/{name}", "held out", True))


SPECS = (
  Spec("Reward", "reward",
       (*both("reward"), ("eval/proxy", "held out, what is trained on", True),
        ("eval/exact_reward", "held out, exact", True)),
       "reward"),
  Spec("Reward components", "reward", (), "reward/<part>"),
  Spec("What the reward's spread is made of", "share", (),
       "reward_share/<part>"),

  Spec("KL to the reference, per response", "nats per response",
       (("kl_sequence", "training", False), ("eval/kl", "held out", True)),
       "kl_sequence"),
  Spec("KL to the reference, per token", "nats per token",
       (("kl", "training", False),), "kl"),
  Spec("Entropy", "nats per token",
       (("entropy", "training", False),
        ("surprise", "held out, mean of -log p of the samples", True)),
       "entropy"),
  Spec("Length", "tokens", both("length"), "length",
       level=("sampling.max_new_tokens", "max_new_tokens")),
  Spec("Length since the start", "tokens", both("length_drift"),
       "length_drift"),
  Spec("Truncation", "share", both("truncated"), "truncated"),
  Spec("Finish reasons", "share", (),
       said="nearly all stop by themselves; length means that the limit cut"),
  Spec("Group collapse", "share", (("group_collapse", "training", False),),
       "group_collapse"),
  Spec("Rewards at an end of their range", "share",
       (("saturation", "training", False),), "saturation"),
  Spec("Spread of the rewards", "reward", (("reward_std", "training", False),),
       "reward_std"),
  Spec("Best of n", "reward", (), "best_of/<n>"),
  Spec("Loss", "-", _held("loss")),
  Spec("NLL", "nats per token", _held("nll"), "nll"),
  Spec("Pairs in the right order", "share", _held("accuracy"), "accuracy"),
  Spec("Implicit rewards of a pair", "nats",
       (("chosen_reward", "better answer", False),
        ("rejected_reward", "worse answer", True)), "chosen_reward"),
  Spec("Divergence to the teacher", "nats per token",
       (("divergence", "training", False),), "divergence"),
  Spec("Selected for training", "share", (("selected", "training", False),),
       "selected"),
  Spec("Critic", "share", (("explained_variance", "training", False),),
       "explained_variance"),
  Spec("Ratio error, worst action", "nats",
       (("logprob_abs_diff_max", "training", False),),
       "logprob_abs_diff_max", True),
  Spec("Clipped actions", "share", (("clip_fraction", "training", False),),
       "clip_fraction"),
  Spec("Size of a step", "nats per token", (("approx_kl", "training", False),),
       "approx_kl"),
  Spec("Gradient norm, before the clip", "-",
       (("grad_norm", "training", False),), "grad_norm",
       level=("optimizer.clip_norm", "clip_norm")),
  Spec("Rows with a judgement", "share", (("valid", "training", False),),
       "valid"),
  Spec("Speed", "tokens per second",
       (("rollout_tokens_per_second", "sampling", False),
        ("train_tokens_per_second", "training", True)),
       said="steady after the first step, which compiles"),
  Spec("Time of a step", "s",
       (("seconds/step", "whole step", False),
        ("seconds/sample", "sampling", False),
        ("seconds/score", "reward", False),
        ("seconds/update", "update", True)), log=True,
       said="steady after the first step, which compiles"),
)  # fmt: skip
# Not worth a figure: counts, what follows from others, times of compiling.
QUIET = ("compiles/", "compile_seconds/", "seconds/", "tokens_", "trained_",
         "eval/efficiency", "eval/kl_wasted", "eval/exact_")  # fmt: skip


class Figure(NamedTuple):
  """A figure as the page has it.

  Attributes:
    title: heading.
    unit: of y, "" for none.
    svg: the drawing.
    legend: (text, CSS classes) of each line.
    healthy: one sentence, or "".
    note: what was left out, or "".
  """

  title: str
  unit: str
  svg: str
  legend: list[tuple[str, str]]
  healthy: str
  note: str


def figures(runs: Sequence[tuple[str, Run]]) -> list[Figure]:
  """The figures that at least one run has numbers for.

  Args:
    runs: (label, run), the one that the page is about first. One run is
      coloured by line, several by run.
  """
  found = []
  for spec in _specs(runs):
    lines, left = _lines(spec, runs)
    figure = _figure(spec, lines, runs, left)
    if figure is not None:
      found.append(figure)
  return found


def _specs(runs: Sequence[tuple[str, Run]]) -> list[Spec]:
  """For one run all; for several, lines that differ in more than colour."""
  first, specs = runs[0][1], list(SPECS)
  loss = next(i for i, s in enumerate(specs) if s.title == "Loss")
  online = bool(first.series("reward"))
  fact = "loss" if online else "eval/held/*"
  specs[loss] = specs[loss]._replace(fact=fact)
  if not any(run.series("grad_norm") for _, run in runs):
    specs.pop(loss)  # nothing is trained
  if len(runs) == 1:
    return specs
  held = lambda i, line: i == 0 or line[0].startswith("eval/")
  out = []
  for spec in specs:
    if spec.title == "Reward components":
      pairs = parts(first)[: 2 * MOST_PARTS]
      for i in range(0, len(pairs), 2):
        title = f"Reward component: {pairs[i][1]}"
        lines = tuple(pairs[i : i + 2])
        out.append(spec._replace(title=title, lines=lines))
    elif spec.lines:
      kept = (x for i, x in enumerate(spec.lines) if held(i, x))
      out.append(spec._replace(lines=tuple(kept)))
  return out


def others(run: Run) -> tuple[list[Figure], list[str]]:
  """Figures of what `SPECS` does not know, and the names beyond the most."""
  shown = {name for spec in SPECS for name, _, _ in spec.lines}
  shown |= {name for name, _, _ in parts(run) + shares(run) + _best_of(run)}
  names = sorted(
    n for n in run.names() - shown if not n.startswith(QUIET) and n != "ratio"
  )
  held = {n for n in names if n.startswith("eval/") and n[5:] in names}
  names = [n for n in names if n not in held]
  found = []
  for name in names[:OTHERS]:
    unit = facts.FACTS[name][0] if name in facts.FACTS else "-"
    lines = ((name, "", False), (f"eval/{name}", "held out", True))
    spec = Spec(name, unit, lines, name if name in facts.FACTS else "")
    points = _points(spec.lines, run)
    figure = _figure(spec, [(0, points)] * bool(points), [("", run)], 0)
    if figure is not None:
      found.append(figure)
  return found, names[OTHERS:]


def parts(run: Run) -> list[tuple[str, str, bool]]:
  """Lines of the reward's components, in training and held out."""
  found = []
  for name in sorted(n for n in run.names() if n.startswith("reward/")):
    part = name.removeprefix("reward/")
    found.append((name, part, False))
    found.append((f"eval/{part}", f"{part}, held out", True))
  return found


def shares(run: Run) -> list[tuple[str, str, bool]]:
  """Lines of what each component carries of the reward's spread."""
  names = sorted(n for n in run.names() if n.startswith("reward_share/"))
  lines = [(n, n.removeprefix("reward_share/"), False) for n in names]
  return lines if len(lines) > 1 else []


def _best_of(run: Run) -> list[tuple[str, str, bool]]:
  names = [n for n in run.names() if n.startswith("best_of/")]
  names.sort(key=lambda n: int(n[8:]) if n[8:].isdigit() else 0)
  lines = [(n, f"best of {n[8:]}", False) for n in names]
  return [*lines, ("chosen/reward", "chosen", True)] if lines else []


Line = tuple[str, bool, list[Point]]


def _points(lines, run: Run) -> list[Line]:
  out = []
  for name, label, dash in lines:
    points = read.surprise(run) if name == "surprise" else run.series(name)
    if any(y is not None for _, y in points):
      out.append((label, dash, points))
  return out


def _lines(
  spec: Spec, runs: Sequence[tuple[str, Run]]
) -> tuple[list[tuple[int, list[Line]]], int]:
  """Lines of each run that has some, and how many are not shown."""
  found, left = [], 0
  for i, (_, run) in enumerate(runs):
    if spec.title == "Finish reasons":
      ways = read.finish_shares(run)
      lines: list[Line] = [(w, False, points) for w, points in ways.items()]
      lines = lines if any(len(points) > 1 for _, _, points in lines) else []
    elif spec.title == "Reward components":
      lines = _points(parts(run), run)
      lines = lines if len({x[0].split(",")[0] for x in lines}) > 1 else []
    elif spec.fact == "reward_share/<part>":
      lines = _points(shares(run), run)
    elif spec.title == "Best of n":
      lines = _points(_best_of(run), run)
    else:
      lines = _points(spec.lines, run)
    left += max(0, len(lines) - 2 * MOST_PARTS)
    if lines:
      found.append((i, lines[: 2 * MOST_PARTS]))
  return found, left


def _figure(spec: Spec, found: Any, runs, left: int) -> Figure | None:
  if not found:
    return None
  series, legend = [], []
  first = runs[0][1]
  for i, lines in found:
    pairs: dict[str, int] = {}
    for label, dash, points in lines:
      of = label.removesuffix(", held out")
      colour = i if len(runs) > 1 else pairs.setdefault(of, len(pairs))
      name = label if len(runs) == 1 else f"{runs[i][0]}, {label}"
      series.append(
        plot.Series(
          name or spec.title,
          [x for x, _ in points],
          [y for _, y in points],
          colour,
          dash,
          len(points) <= 40 and (dash or len(points) < 12),
        )
      )
      style = f"c{colour % plot.COLOURS}" + " dash" * series[-1].dash
      if name:
        legend.append((name, style))
    if len(runs) > 1:
      own = [f"c{i % plot.COLOURS}"]
      legend[len(legend) - len(lines) :] = [(runs[i][0], *own)]
  if len(runs) > 1 and any(line.dash for line in series):
    legend.append(("held out", "ink dash"))
  unit = "" if spec.unit == "-" else spec.unit
  level = None
  if spec.level and first.get(spec.level[0]):
    value = float(first.get(spec.level[0]))
    level = (value, f"{spec.level[1]} {plot.number(value)}")
  healthy = facts.healthy(spec.fact) if spec.fact else spec.said
  if [text for text, _ in legend] == ["training"]:
    legend = []
  svg = plot.curves(
    series, alt=spec.title, unit=unit, log=spec.log, level=level
  )
  note = f"{left} more lines are in metrics.jsonl" if left else ""
  return Figure(spec.title, unit, svg, legend, healthy, note)
