"""A small reward model of real pairs beside length and a bag of words.

Trains configs/hh_reward.py with three seeds, exports each model, scores every
held-out pair with it as `rlreward score` does, and sets its accuracy beside
what length alone and a bag of words reach on the same pairs, each with its
interval; then asks whether sigma(margin) is the chance to be right, and audits
the model of the first seed on labelled answers and probes.

  python -m rlreward.models.llama2c MODEL.bin.gz tok512.bin runs/dreams_hf
  python examples/hh.py harmless_base_test_0_1200.jsonl.gz runs/hh
  python -m experiments.hh_reward --seeds=0,1,2

Writes hh_reward.json, .md and .png. About two minutes for a seed on 2 CPU
cores; what is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import pair_baselines
from experiments.pair_baselines import Pair
from rlreward import audit, claims, reward_models, runs, scoring
from rlreward import config as config_lib
from rlreward.errors import UserError
from rlreward.evals import agreement, calibration
from rlreward.tasks import columns, pairs, sources, text, tokens

SPEC = "configs/hh_reward.py:mini"
FIXTURES = "runs/hh/fixtures.jsonl"


def readable(config: Any, split: str) -> tuple[list[Pair], list[int]]:
  """The pairs of a split that fit the model's slots, and their places.

  Args:
    config: of the runs.
    split: "train" or "test".
  """
  section = {**config.task.to_dict(), "tokenizer": config.model.path}
  c: dict[str, Any] = {**text.defaults(), **section}
  tok = tokens.load(config.model.path)
  rows = sources.open_source(c[split])
  reader = pairs.preferred(c, tok, "", rows[0])
  limits = [columns.lengths(c[f"{k}_length"])[-1] for k in ("prompt", "answer")]
  found, places = [], []
  for i in range(len(rows)):
    item = reader.encode(rows[i])
    longest = max(len(a[0]) for a in item.answers)
    if len(item.prompt) <= limits[0] and longest <= limits[1]:
      found.append(Pair(*columns.pair_values(c, "", rows[i])))
      places.append(i)
  return found, places


def scored(
  run: pathlib.Path, test: str, places: Sequence[int]
) -> tuple[np.ndarray, pathlib.Path]:
  """Scores [N, 2] of chosen and rejected by the model of a run.

  Args:
    run: its directory; the model is exported into it.
    test: a JSONL of pairs.
    places: of the rows that are wanted.

  Returns:
    (scores, the directory of the model).
  """
  folder, out = run / "exported", run / "scores.jsonl"
  if not folder.exists():
    runs.export(run, folder)
  if not out.exists():
    scoring.run(reward_models.load(folder), test, out)
  rows = [json.loads(x) for x in out.read_text().splitlines()]
  return np.asarray([rows[i]["scores"] for i in places], float), folder


def compare(
  train: Sequence[Pair], test: Sequence[Pair], each: Sequence[np.ndarray]
) -> dict[str, Any]:
  """Accuracies on the same held-out pairs, with intervals.

  Args:
    train: what the baselines are fitted to.
    test: N pairs.
    each: scores f64[N, 2] of the model of each seed.

  Returns:
    {"models", "mean", "baselines", "leads", "calibration", "length"}.
  """
  clusters = [p.prompt.split("\n\nAssistant:")[0] for p in test]
  margins = [s[:, 0] - s[:, 1] for s in each]
  together = np.mean([m / np.std(m) for m in margins], 0)
  known = {
    "length": pair_baselines.length(train, test),
    "bag of words": pair_baselines.bag_of_words(train, test),
  }
  measure = lambda m: pair_baselines.measured(m, clusters)
  longer = np.asarray([float(len(p.chosen) - len(p.rejected)) for p in test])
  return {
    "models": [measure(m) for m in margins],
    "mean": measure(together),
    "baselines": {
      k: {**measure(v["margin"]), **{a: b for a, b in v.items()
                                     if a != "margin"}}
      for k, v in known.items()
    },
    "leads": {
      k: [pair_baselines.lead(m, v["margin"], clusters) for m in margins]
      for k, v in known.items()
    },
    "calibration": [
      calibration.pair_calibration(s[:, 0], s[:, 1]) for s in each
    ],
    "length": [agreement.length_correlation(m, longer, np.ones(len(m)))
               ["spearman"] for m in margins],
    "margins": [m.tolist() for m in margins],
    "longer": longer.tolist(),
  }  # fmt: skip


def table(result: dict[str, Any]) -> str:
  """The result in Markdown."""
  c, band = result["compared"], lambda b: f"[{b[0]:.3f}, {b[1]:.3f}]"
  counts = result["pairs"]
  lines = [
    f"Held-out accuracy on {counts['test']} pairs of HH-RLHF harmless"
    f" (trained on {counts['train']}; over-long ones are left out on both"
    " sides), with Wilson's and the bootstrap's 95 % interval:",
    "",
    "| what orders the pairs | accuracy | Wilson | bootstrap |",
    "|---|---|---|---|",
  ]
  rows = [
    (f"reward model, seed {s}", m)
    for s, m in zip(result["seeds"], c["models"], strict=True)
  ]
  rows += [("the three reward models, mean margin", c["mean"])]
  rows += [
    (f"{k}: {v['rule']}" if "rule" in v else f"{k}, {v['words']} words", v)
    for k, v in c["baselines"].items()
  ]
  for name, m in rows:
    lines.append(
      f"| {name} | {m['accuracy']:.3f} | {band(m['wilson'])} |"
      f" {band(m['bootstrap'])} |"
    )
  lines += ["", f"The claim of the config holds: {result['holds']}.", ""]
  for name, found in c["leads"].items():
    each = "; ".join(f"{x['lead']:+.3f} {band(x['bootstrap'])}" for x in found)
    lines.append(f"Lead of each seed over {name}: {each}.")
  calibrated = ", ".join(
    f"{x['ece']:.3f} (overconfident by {x['overconfidence']:+.3f})"
    for x in c["calibration"]
  )
  corr = ", ".join("none" if r is None else f"{r:+.2f}" for r in c["length"])
  lines += [
    "",
    f"Calibration error of sigma(margin): {calibrated}.",
    f"Spearman of the margin with the lead in length: {corr}.",
    "",
    "Audit of the first seed's model on labelled answers and probes:",
    "",
    "```text",
    *_headline(result["audit"]),
    "```",
  ]
  return "\n".join(lines) + "\n"


def _headline(report: dict[str, Any]) -> list[str]:
  return [
    f"{'pass' if s['passed'] else 'FAIL'}  {s['name']:18} {s['says']}"
    for s in report["sections"]
  ]


def draw(result: dict[str, Any], path: pathlib.Path) -> None:
  """Accuracies, calibration, and margin against length."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  from rlreward.evals import intervals

  c = result["compared"]
  figure, (left, middle, right) = pyplot.subplots(
    1, 3, figsize=(14, 4.4), layout="constrained"
  )
  named = [
    (f"seed {s}", m, "C0")
    for s, m in zip(result["seeds"], c["models"], strict=True)
  ]
  named += [("mean of seeds", c["mean"], "C0")]
  named += [(k, v, "C1") for k, v in c["baselines"].items()]
  for y, (_, m, colour) in enumerate(named[::-1]):
    low, high = m["wilson"]
    left.plot([low, high], [y, y], color=colour, lw=2)
    left.plot(m["accuracy"], y, "o", color=colour)
  left.set_yticks(range(len(named)), [n for n, *_ in named[::-1]])
  left.axvline(0.5, color="gray", ls="--", lw=1)
  left.set_xlabel("held-out accuracy, Wilson's 95 %")
  left.set_title("reward model (blue) and baselines")
  middle.plot([0.5, 1], [0.5, 1], color="gray", ls="--", lw=1)
  shift = 0.004
  for k, (seed, found) in enumerate(
    zip(result["seeds"], c["calibration"], strict=True)
  ):
    for b in found["bins"]:
      low, high = intervals.wilson(b["frequency"] * b["count"], b["count"])
      x = b["probability"] + (k - 1) * shift
      middle.plot([x, x], [low, high], color=f"C{k}", lw=1, alpha=0.6)
    xs = [b["probability"] + (k - 1) * shift for b in found["bins"]]
    ys = [b["frequency"] for b in found["bins"]]
    middle.plot(xs, ys, "o-", ms=4, color=f"C{k}",
                label=f"seed {seed}, ECE {found['ece']:.2f}")  # fmt: skip
  middle.set_xlabel("sigma(|margin|), what the model says")
  middle.set_ylabel("share that people agree with")
  middle.set_ylim(0, 1)
  middle.legend(fontsize=8)
  middle.set_title("calibration on held-out pairs")
  for k, (seed, margin) in enumerate(
    zip(result["seeds"], c["margins"], strict=True)
  ):
    said = f"seed {seed}, Spearman {c['length'][k] or 0:+.2f}"
    right.plot(
      c["longer"], margin, ".", ms=3, color=f"C{k}", alpha=0.6, label=said
    )
  right.axhline(0, color="gray", lw=1)
  right.axvline(0, color="gray", lw=1)
  right.set_xscale("symlog", linthresh=100)
  ticks = (-500, -100, 0, 100, 500)
  right.set_xticks(ticks, [f"{x:+d}" if x else "0" for x in ticks])
  right.minorticks_off()
  right.set_xlabel("chosen is longer by, characters")
  right.set_ylabel("margin, nats")
  right.legend(fontsize=8)
  right.set_title("does it judge by length?")
  figure.savefig(path, dpi=130)
  pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
  """Trains what is missing below the workdir, then writes the three files."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--workdir", default="runs/hh_claim")
  parser.add_argument("--out", default="results")
  args = parser.parse_args(argv)
  seeds = [int(s) for s in args.seeds.split(",")]
  out = pathlib.Path(args.out)
  config = config_lib.load(SPEC)
  try:
    (train, _), (test, places) = (
      readable(config, s) for s in ("train", "test")
    )
    result = claims.run(SPEC, seeds, args.workdir, out)
    arm = pathlib.Path(args.workdir) / "hh_reward" / "bradley_terry"
    found = [scored(arm / f"seed_{s}", config.task.test, places) for s in seeds]
    report = audit.run(str(found[0][1]), FIXTURES)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  result["pairs"] = {"train": len(train), "test": len(test)}
  result["compared"] = compare(train, test, [s for s, _ in found])
  kept = ("rows", "passed", "sections", "confusion", "length")
  result["audit"] = {k: report[k] for k in kept}
  result["audit"]["confusion"].pop("wrong")  # texts that offend
  text_out = json.dumps(result, indent=1, sort_keys=True)
  (out / "hh_reward.json").write_text(text_out + "\n")
  (out / "hh_reward.md").write_text(table(result))
  draw(result, out / "hh_reward.png")
  print(table(result))
  return 0


if __name__ == "__main__":
  sys.exit(main())
