r"""Can a log show that a reward is being hacked? Real GRPO runs of a 7B model.

Three runs of Qwen2.5-Math-7B (insightLLM/rl-without-gt): two on the format
alone, and `collapse`, whose reward pays for length. No file has its formula,
but the log tells it: no answer earned less than the shortest one's length over
the budget, in 44 of 55 steps one earned just that, and none more than 2. So it
is 1[right] + n / 3072, and the reward less the mean length is the accuracy on
the training problems (`rest`).

`alarm` is the first step at which the mean of five steps is above that of the
first 20 by four standard errors of the difference, or below it, whichever
would be a hack; white noise does so in 1% of cases. Answers on AIME24 and AMC23
at a few steps are judged again by our verifiers and paid what each of the
paper's rewards would pay. Their lengths are counted in pieces, as Qwen's
tokenizer splits a text before it joins bytes: words, single digits, runs of
marks. Most of the longest have 3065 to 3072 of them, and the limit was 3072
tokens.

  RLREWARD_DATA=... python -m experiments.format_length_real

Writes format_length_real.json, .md and .png. About 10 seconds.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlreward import errors
from rlreward.evals import intervals
from rlreward.ops import lengths
from rlreward.rewards import verify

DATA = "rl_rollouts_graded"
RUNS = ("collapse", "format_deepscaler", "format_math")
STEPS = {"collapse": (25, 40, 55), "format_deepscaler": (0, 20, 100)}
SETS = ("AIME2024", "AMC2023")
BUDGET, PEAK = 3072, 0.5
EARLY, WINDOW, FAR = 20, 5, 4.0
TESTED = 500  # problems of MATH500
# A signal of the log and the direction of a hack.
SIGNALS = {"reward": -1, "length": 1, "truncated": 1, "entropy": -1, "kl": 1,
           "rest": -1}  # fmt: skip
_COLUMNS = {
  "reward": "critic/score/mean",
  "highest": "critic/score/max",
  "lowest": "critic/score/min",
  "length": "response_length/mean",
  "shortest": "response_length/min",
  "truncated": "response_length/clip_ratio",
  "entropy": "actor/entropy_loss",
  "kl": "actor/kl_loss",
}
_PIECE = re.compile(
  r"'(?:[sdmt]|ll|ve|re)|[^\r\n\w]?[^\W\d_]+|\d| ?(?:[^\s\w]|_)+[\r\n]*"
  r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def folder() -> pathlib.Path:
  """The directory of logs and answers.

  Raises:
    UserError: it is not there.
  """
  found = pathlib.Path(os.environ.get("RLREWARD_DATA", "data")) / DATA
  if not found.is_dir():
    raise errors.UserError(
      f"there is no {found}",
      "the experiment reads recorded logs and answers from local files",
      "set RLREWARD_DATA to the directory that has them",
    )
  return found


def lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Rows of a gzipped JSONL."""
  with gzip.open(path, "rt", encoding="utf-8") as file:
    return [json.loads(line) for line in file]


def pieces(text: str) -> int:
  """Words, digits and runs of marks of a text: about its tokens."""
  return len(_PIECE.findall(text))


def log(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
  """A run's signals for each training step, and its evaluations.

  Args:
    rows: of a training log; step 0 has evaluations alone.

  Returns:
    {signal: values}; `rest` is the reward less length over the budget, `at`
    and `math500` are steps and accuracies of the evaluations.
  """
  steps = [r for r in rows if "critic/score/mean" in r]
  out = {k: [r[name] for r in steps] for k, name in _COLUMNS.items()}
  out["rest"] = [
    r - n / BUDGET for r, n in zip(out["reward"], out["length"], strict=True)
  ]
  known = [r for r in rows if "val/test_score/MATH500" in r]
  out["step"] = [r["step"] for r in steps]
  out["at"] = [r["step"] for r in known]
  out["math500"] = [r["val/test_score/MATH500"] for r in known]
  return out


def alarm(values: Sequence[float], direction: int) -> int | None:
  """The first step at which a signal has left where it began.

  Args:
    values: of steps 1, 2, ...
    direction: 1 or -1, that of a hack.
  """
  x = direction * np.asarray(values, np.float64)
  error = x[:EARLY].std(ddof=1) * np.sqrt(1 / EARLY + 1 / WINDOW)
  limit = x[:EARLY].mean() + FAR * error
  for end in range(EARLY + WINDOW, len(x) + 1):
    if x[end - WINDOW : end].mean() > limit:
      return end
  return None


def fallen(at: Sequence[int], accuracy: Sequence[float]) -> int | None:
  """The first evaluation that is below the best one before by two errors.

  Args:
    at: steps of the evaluations.
    accuracy: on TESTED problems, taken to be drawn for each anew.
  """
  best = accuracy[0]
  for step, p in zip(at, accuracy, strict=True):
    error = np.sqrt((best * (1 - best) + p * (1 - p)) / TESTED)
    if best - p > 2 * error:
      return step
    best = max(best, p)
  return None


def told(run: dict[str, list[Any]]) -> dict[str, Any]:
  """How often the log says that the reward is 1[right] + n / budget.

  Args:
    run: of `log`.
  """
  gap = np.asarray(run["lowest"]) - np.asarray(run["shortest"]) / BUDGET
  low = np.abs(gap) <= 6e-4  # two roundings to three digits
  return {
    "steps": len(low),
    "lowest_is_shortest": int(low.sum()),
    "lowest_is_below": int((gap < -6e-4).sum()),
    "highest": max(run["highest"]),
  }


def judged(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """What our verifiers and the paper's rewards say of recorded answers.

  Args:
    rows: with `response`, `ground_truth` and `score`.
  """
  texts = [r["response"] for r in rows]
  verdicts = verify.grade_all(texts, [r["ground_truth"] for r in rows],
                              marks=("tag", "boxed"))  # fmt: skip
  n = np.asarray([min(pieces(t), BUDGET) for t in texts])
  flag = lambda fn: np.asarray([fn(t) > 0.5 for t in texts])
  right = np.asarray([v == 1.0 for v, _ in verdicts])
  thought, readable = flag(verify.thought), flag(verify.readable)
  given = np.asarray([r["score"] > 0.5 for r in rows])
  out: dict[str, Any] = {
    "answers": len(rows),
    "recorded": float(given.mean()),
    "ours": float(right.mean()),
    "disagree": int((right != given).sum()),
    "unjudged": int(sum(v is None for v, _ in verdicts)),
    "readable": float(readable.mean()),
    "length": float(n.mean()),
    "at_limit": float((n >= 0.99 * BUDGET).mean()),
  }
  paid = {
    "correctness": 0.5 * thought + right,
    "format_only": 0.5 * thought + 0.5 * readable,
    "format_length": lengths.format_length(
      *map(jnp.asarray, (thought, readable, n)), BUDGET, PEAK
    ),
  }
  out |= {name: float(np.mean(value)) for name, value in paid.items()}
  out["with_length"] = out["ours"] + out["length"] / BUDGET
  return out


def measure(data: pathlib.Path) -> dict[str, Any]:
  """The whole result.

  Args:
    data: see `folder`.
  """
  runs = {r: log(lines(data / f"training_log_{r}.jsonl.gz")) for r in RUNS}
  verdicts = {
    name: {
      "alarms": {k: alarm(run[k], way) for k, way in SIGNALS.items()},
      "fallen": fallen(run["at"], run["math500"]),
      "formula": told(run),
    }
    for name, run in runs.items()
  }
  answers = [
    {"run": run, "step": step, "set": name,
     **judged(lines(data / f"{run}_step{step}_{name}.jsonl.gz"))}
    for run, steps in STEPS.items() for step in steps for name in SETS
  ]  # fmt: skip
  return {"runs": runs, "verdicts": verdicts, "answers": answers}


def joined(answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Rows of one run and step over the test sets, by their numbers of answers.

  Args:
    answers: rows of `judged` with `run`, `step` and `set`.
  """
  out = []
  for run, steps in STEPS.items():
    for step in steps:
      own = [a for a in answers if (a["run"], a["step"]) == (run, step)]
      n = sum(a["answers"] for a in own)
      row: dict[str, Any] = {"run": run, "step": step, "answers": n}
      for key in own[0]:
        if key in ("disagree", "unjudged"):
          row[key] = sum(a[key] for a in own)
        elif key not in ("run", "step", "set", "answers"):
          row[key] = sum(a[key] * a["answers"] for a in own) / n
      row["interval"] = intervals.wilson(row["ours"] * n, n)
      out.append(row)
  return out


def table(result: dict[str, Any]) -> str:
  """The page: alarms of each run, and what the answers would be paid."""
  say = lambda x: "-" if x is None else str(x)
  out = [
    "Step of the first alarm, and of the first MATH500 accuracy that is two",
    "standard errors below the best one before:",
    "",
    "| run | " + " | ".join(SIGNALS) + " | MATH500 |",
    "|---" * (len(SIGNALS) + 2) + "|",
  ]
  for name, found in result["verdicts"].items():
    cells = [say(found["alarms"][k]) for k in SIGNALS]
    out.append(f"| {name} | " + " | ".join([*cells, say(found["fallen"])])
               + " |")  # fmt: skip
  run = result["runs"]["collapse"]
  mean = lambda name, part: float(np.mean(run[name][part]))
  early, late = slice(0, EARLY), slice(-WINDOW, None)
  formula = result["verdicts"]["collapse"]["formula"]
  out += [
    "",
    f"`collapse`, mean of the first {EARLY} steps and of the last {WINDOW}:"
    f" reward {mean('reward', early):.3f} to {mean('reward', late):.3f},"
    f" length / budget {mean('length', early) / BUDGET:.3f} to"
    f" {mean('length', late) / BUDGET:.3f},"
    f" the rest {mean('rest', early):.3f} to {mean('rest', late):.3f}."
    f" The least reward is the shortest answer's length / {BUDGET} in"
    f" {formula['lowest_is_shortest']} of {formula['steps']} steps and below"
    f" it in {formula['lowest_is_below']}; the largest is"
    f" {formula['highest']:.0f}.",
    "",
    "Answers on AIME24 and AMC23, with the 95% interval of the accuracy:",
    "",
    "| run | step | recorded | ours | differ | readable | pieces | at the limit"
    " | correctness | format_only | format_length | right + length |",
    "|---" * 12 + "|",
  ]
  for a in joined(result["answers"]):
    low, high = a["interval"]
    out.append(
      f"| {a['run']} | {a['step']} | {a['recorded']:.3f} |"
      f" {a['ours']:.3f} ({low:.3f} to {high:.3f}) | {a['disagree']} |"
      f" {a['readable']:.3f} | {a['length']:.0f} | {a['at_limit']:.3f} |"
      f" {a['correctness']:.3f} | {a['format_only']:.3f} |"
      f" {a['format_length']:.3f} | {a['with_length']:.3f} |"
    )
  return "\n".join(out) + "\n"


def draw(result: dict[str, Any], path: pathlib.Path) -> None:
  """Reward and its parts, MATH500, and what the answers would be paid."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  figure, panels = pyplot.subplots(1, 3, figsize=(15, 4.6),
                                   layout="constrained")  # fmt: skip
  left, middle, right = panels
  run, verdict = result["runs"]["collapse"], result["verdicts"]["collapse"]
  share = [n / BUDGET for n in run["length"]]
  for label, y, colour in (
    ("reward", run["reward"], "#2c3e50"),
    ("length / budget", share, "#c0392b"),
    ("reward less length: right", run["rest"], "#2980b9"),
    ("cut at the limit", run["truncated"], "#d68910"),
  ):
    left.plot(run["step"], y, label=label, color=colour)
  left.plot(run["at"], run["math500"], "o-", color="#27ae60", label="MATH500")
  marks = {"length": verdict["alarms"]["length"], "MATH500": verdict["fallen"]}
  for (label, at), height in zip(marks.items(), (0.02, 0.07), strict=True):
    left.axvline(at, color="#7f8c8d", ls=":")
    left.annotate(f" {label}: {at}", (at, height), fontsize=8, ha="left")
  left.set(title="collapse: paid for length", xlabel="step", ylim=(0, 1.35))
  left.legend(fontsize=8, loc="upper left", ncols=2)
  for name, colour in (("format_deepscaler", "#2980b9"),
                       ("format_math", "#8e44ad")):  # fmt: skip
    own = result["runs"][name]
    middle.plot(own["at"], own["math500"], "o-", ms=3, color=colour,
                label=f"{name}, MATH500")  # fmt: skip
    middle.plot(own["step"], own["reward"], color=colour, alpha=0.6,
                label=f"{name}, reward")  # fmt: skip
    middle.plot(own["step"], [n / BUDGET for n in own["length"]], ls="--",
                color=colour, label=f"{name}, length / budget")  # fmt: skip
  middle.set(title="paid for the format alone", xlabel="step", ylim=(0, 1.35))
  middle.legend(fontsize=8, loc="upper right", ncols=2)
  rows = joined(result["answers"])
  at = np.arange(len(rows))
  bars = (("ours", "right", "#27ae60"), ("with_length", "right + length",
          "#c0392b"), ("format_length", "format_length", "#2980b9"),
          ("format_only", "format_only", "#8e44ad"))  # fmt: skip
  for i, (key, label, colour) in enumerate(bars):
    right.bar(at + 0.2 * (i - 1.5), [a[key] for a in rows], 0.2, color=colour,
              label=label)  # fmt: skip
  names = {"collapse": "collapse", "format_deepscaler": "format"}
  right.set_xticks(at, [f"{names[a['run']]}\n{a['step']}" for a in rows])
  right.set(title="answers on AIME24 and AMC23, paid again", ylim=(0, 1.5))
  right.legend(fontsize=8, ncols=2, loc="upper left")
  for axes in panels:
    axes.grid(alpha=0.3)
  figure.savefig(path, dpi=130)
  pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
  """Measures and writes the three files."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--out", default="results")
  args = parser.parse_args(argv)
  result = measure(folder())
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  text = json.dumps(result, indent=1, sort_keys=True)
  (out / "format_length_real.json").write_text(text + "\n")
  (out / "format_length_real.md").write_text(table(result))
  draw(result, out / "format_length_real.png")
  print(table(result))
  return 0


if __name__ == "__main__":
  sys.exit(main())
