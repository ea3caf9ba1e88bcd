"""A learned reward on a real, tiny language model: PAR against the raw score.

Nothing here is a made-up law. For each seed the trained tiny Llama dreams about
78 openings, pairs of its dreams are labelled by the gold of examples/dreams.py
with noise, a reward model that begins with the same trunk learns from them
(Bradley-Terry), is exported, and judges the text of three runs of one KL
budget: `par` pays the chance to beat a dream of the checkpoint, `raw` the score
itself, and `noisy` the score with the judgement of one opening in five turned
around (r' = 1 - r for all of its dreams, in training alone). Gold is asked in
evaluations alone, on 18 openings that no model has seen.

As measured (seeds 0 to 2) no arm differs in a way that counts. The models order
0.62, 0.68 and 0.52 of held-out pairs right; gold rises by 0.17, 0.14 and 0.04
with PAR, by 0.15, 0.13 and 0.04 with the raw score, and by 0.14, 0.13 and 0.06
where one judgement in five is turned around. None is over-optimised so near the
checkpoint. What is learnt is mostly to end, the part of gold that pays most, at
the expense of length and of fresh words. The budget of 2 nats is not kept in 40
steps: 1.4 to 3.6 are spent, so the arms are not at equal KL.

  python -m rlreward.models.llama2c MODEL.bin.gz tok512.bin runs/dreams_hf
  python -m experiments.dreams_learned --model=runs/dreams_hf

Writes dreams_learned.json and .md. A few minutes for a seed on 2 CPU cores;
what is there is not made again.

References: PAR, arXiv 2502.18770; Learning to summarize from human feedback,
arXiv 2009.01325; flips of a question's rewards, arXiv 2505.22653.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from configs import dreams, hh_reward
from examples import dreams as gold_lib
from experiments.overoptimisation import kept
from rlreward import config as config_lib
from rlreward import runs, train

# A method, and what it changes of its own section.
ARMS: dict[str, tuple[str, str, dict[str, Any]]] = {
  "par": ("par", "shaping", {"link": "preference", "samples": 1}),
  "raw": ("par", "shaping", {"link": "sum"}),
  "noisy": ("noisy_reward", "noise", {"flip": 0.2}),
}
HELD = 13  # openings up to here train, the others are held out
TOKENS = 64
DREAMS = 8  # of each opening
PAIRS = 4  # of each opening: 312 to train on
UNIT = 0.1  # of gold, of a noisy comparison: sigmoid(gap / UNIT)
FLIP = 0.1  # share of labels turned around beside
NATS = 2.0
STEPS = 40
SHOWN = 5


# ------------------------------------------------------------ comparisons
def prompts() -> tuple[list[str], list[str]]:
  """Openings to train on, and those that are held out."""
  moments = len(gold_lib.MOMENTS)
  every = [row["prompt"] for row in gold_lib.prompts()]
  return every[: HELD * moments], every[HELD * moments :]


def gold(row: dict[str, Any]) -> float:
  """What a dream is worth, in [0, 1]."""
  return gold_lib.dream(row["completion"], row["finish"])["value"]


def compared(
  rows: Sequence[dict[str, Any]], rng: np.random.Generator, noise: bool
) -> list[dict[str, str]]:
  """Pairs of dreams of an opening, the better one chosen.

  Args:
    rows: prompt, completion, finish; dreams of an opening stand together.
    rng: of the labels.
    noise: whether annotators err; held-out labels are those of gold.
  """
  out = []
  for start in range(0, len(rows), DREAMS):
    mine = rows[start : start + DREAMS]
    for a, b in zip(mine[: 2 * PAIRS : 2], mine[1::2], strict=True):
      gap = gold(a) - gold(b)
      first = gap > 0
      if noise:
        first = rng.random() < 1 / (1 + math.exp(-gap / UNIT))
        first ^= rng.random() < FLIP
      texts = (a["completion"], b["completion"])
      told = all(text.strip() for text in texts)
      if not told or texts[0] == texts[1] or (gap == 0 and not noise):
        continue
      chosen, rejected = texts if first else texts[::-1]
      out.append(
        {"prompt": a["prompt"], "chosen": chosen, "rejected": rejected}
      )
  return out


def write(path: pathlib.Path, rows: Iterable[dict[str, Any]]) -> None:
  """A JSONL."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def drawn(model: str, openings: Sequence[str], n: int, seed: int):
  """Dreams of a checkpoint: prompt, completion, finish."""
  return runs.sample(
    run=None, model=model, prompts=openings, n=n, max_new_tokens=TOKENS,
    temperature=1.0, top_p=1.0, top_k=0, seed=seed,
  )  # fmt: skip


# ------------------------------------------------------------ runs
def reward_config(model: str, folder: pathlib.Path, seed: int) -> Any:
  """Bradley-Terry on the comparisons, from the checkpoint's trunk."""
  c: Any = hh_reward.get_config("mini")
  c.seed, c.steps = seed, 60
  c.model.path = model
  c.task.update(
    train=str(folder / "train.jsonl"), test=str(folder / "test.jsonl"),
    prompt_length=(24,), answer_length=96, window=0,
  )  # fmt: skip
  held = len((folder / "test.jsonl").read_text().splitlines())
  c.eval.update(every=0, prompts=held)
  return config_lib.freeze(c.to_dict())


def policy_config(
  model: str, folder: pathlib.Path, seed: int, name: str
) -> Any:
  """An arm at the budget; judged by the exported model."""
  c: Any = dreams.get_config("mini")
  c.algorithm, section, changes = ARMS[name]
  c.seed, c.steps, c.reference = seed, STEPS, "always"
  c.model.path = model
  c.sampling.max_new_tokens = TOKENS
  c.loss.kl_beta = 0.0
  c.kl_reward.budget = NATS
  c.credit.baseline = "group"
  c[section].update(changes)
  c.reward.update(path=str(folder / "model"), batch=64)
  c.optimizer.update(learning_rate=2e-4, schedule="cosine", warmup_steps=5)
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": str(folder / "prompts_train.jsonl"),
      "test": str(folder / "prompts_test.jsonl"),
      "prompt_length": 24,
    }
  )
  c.eval.update(every=20, prompts=72, gold="examples/dreams.py:dream")
  c.checkpoint.every = 1000
  c.log.update(every=20, samples_every=0, tensorboard=False)
  return config_lib.freeze(c.to_dict())


def learnt(model: str, folder: pathlib.Path, seed: int) -> dict[str, Any]:
  """Draws dreams, has them compared, trains and exports the reward model."""
  rng = np.random.default_rng(seed)
  for split, openings in zip(("train", "test"), prompts(), strict=True):
    write(folder / f"prompts_{split}.jsonl", ({"prompt": p} for p in openings))
    rows = drawn(model, openings, DREAMS, 2 * seed + (split == "test"))
    write(folder / f"{split}.jsonl", compared(rows, rng, split == "train"))
  found = train.run(reward_config(model, folder, seed), folder / "reward")
  if not (folder / "model").exists():
    runs.export(folder / "reward", folder / "model")
  last = found.evals[max(found.evals)]
  count = lambda s: len((folder / f"{s}.jsonl").read_text().splitlines())
  return {
    "pairs": {s: count(s) for s in ("train", "test")},
    "held": {k: v for k, v in last.items() if k.startswith("held/")},
  }


def arm(
  model: str, folder: pathlib.Path, seed: int, name: str
) -> dict[str, Any]:
  """Trains an arm: its evaluations."""
  c = policy_config(model, folder, seed, name)
  found = train.run(c, folder / name)
  return {"evals": {str(k): v for k, v in found.evals.items()}}


def shown(folder: pathlib.Path, name: str) -> list[dict[str, Any]]:
  """Dreams of five held-out openings, with their gold.

  Args:
    folder: of a seed.
    name: an arm, at its end; "base" is the checkpoint that both begin with.
  """
  arm, step = ("par", 0) if name == "base" else (name, STEPS)
  found: dict[str, dict[str, Any]] = {}
  for line in (folder / arm / f"samples/eval_{step}.jsonl").open():
    row = json.loads(line)
    text = {"prompt": row["prompt"], "completion": row["completion"]}
    found.setdefault(row["prompt"], {**text, "gold": row["reward"]})
  return list(found.values())[:SHOWN]


def seed_of(model: str, workdir: pathlib.Path, seed: int) -> dict[str, Any]:
  """Everything of a seed; what is there is not made again."""
  folder = workdir / f"seed_{seed}"
  make: Any = lambda: learnt(model, folder, seed)
  out = {"seed": seed, "reward_model": kept(folder / "learnt.json", make)}
  for name in ARMS:
    make = lambda name=name: arm(model, folder, seed, name)
    out[name] = {"evals": kept(folder / f"{name}.json", make)["evals"]}
    jax.clear_caches()
  return out


# ------------------------------------------------------------ the record
def ends(seed: dict[str, Any], name: str) -> dict[str, float]:
  """First and last gold and proxy, the gold at its most, and the KL of an arm.

  Args:
    seed: of `seed_of`.
    name: of ARMS.
  """
  evals = seed[name]["evals"]
  steps = sorted(evals, key=int)
  first, last = evals[steps[0]], evals[steps[-1]]
  return {
    "gold_first": first["reward"],
    "gold": last["reward"],
    "gold_most": max(evals[s]["reward"] for s in steps),
    "proxy_first": first["proxy"],
    "proxy": last["proxy"],
    "kl": last["kl"],
  }


def summary(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """{arm: {number: [of each seed]}}, and the held-out accuracies."""
  out: dict[str, Any] = {}
  for name in ARMS:
    rows = [ends(seed, name) for seed in seeds]
    out[name] = {k: [row[k] for row in rows] for k in rows[0]}
  held = [seed["reward_model"]["held"]["held/accuracy"] for seed in seeds]
  return {"arms": out, "accuracy": held}


def table(result: dict[str, Any]) -> str:
  """The result in Markdown: numbers of each seed, five dreams of each arm.

  Args:
    result: {"seeds": of `seed_of`, "summary", "samples": {name: rows of
      `shown`}}.
  """
  each = lambda values, f: ", ".join(f.format(x) for x in values)
  found = result["summary"]
  pairs = result["seeds"][0]["reward_model"]["pairs"]
  lines = [
    f"Seeds {each([s['seed'] for s in result['seeds']], '{}')}. A reward model"
    f" of {pairs['train']} noisy comparisons orders"
    f" {each(found['accuracy'], '{:.2f}')} of the held-out pairs as gold does"
    f" ({pairs['test']} pairs in the first seed). Then {STEPS} steps with a"
    f" budget of {NATS:.0f} nats for a dream, on held-out openings:",
    "",
    "| arm | gold, start | gold, end | gold, most | score, end | KL |",
    "|---|---|---|---|---|---|",
  ]
  for name in ARMS:
    row = found["arms"][name]
    cells = [each(row[k], "{:.3f}")
             for k in ("gold_first", "gold", "gold_most")]  # fmt: skip
    cells += [each(row["proxy"], "{:.2f}"), each(row["kl"], "{:.1f}")]
    lines.append(f"| {name} | {' | '.join(cells)} |")
  said = {"base": "the checkpoint", **{name: f"`{name}`" for name in ARMS}}
  for name, rows in result["samples"].items():
    number = result["seeds"][0]["seed"]
    lines += ["", f"Dreams of {said[name]}, seed {number}, with gold:", ""]
    for row in rows:
      text = " ".join(f"{row['prompt']} {row['completion']}".split())
      lines.append(f"- {row['gold']:.2f} {text}")
  return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
  """Runs what is missing, then writes both files."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--model", default="runs/dreams_hf")
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--workdir", default="runs/dreams_learned")
  parser.add_argument("--out", default="results")
  args = parser.parse_args(argv)
  model = str(pathlib.Path(args.model).resolve())
  workdir = pathlib.Path(args.workdir).resolve()
  seeds = [seed_of(model, workdir, int(s)) for s in args.seeds.split(",")]
  first = workdir / f"seed_{seeds[0]['seed']}"
  result = {
    "seeds": seeds,
    "samples": {name: shown(first, name) for name in ("base", *ARMS)},
    "summary": summary(seeds),
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
  }
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  text = json.dumps(result, indent=1, sort_keys=True)
  (out / "dreams_learned.json").write_text(text + "\n")
  (out / "dreams_learned.md").write_text(table(result))
  print(table(result))
  return 0


if __name__ == "__main__":
  sys.exit(main())
