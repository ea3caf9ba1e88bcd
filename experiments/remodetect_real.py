"""Does a tiny reward model tell GPT-4's texts from people's? On real texts.

150 texts of XSum and 150 answers of PubMed by people, each with GPT-4's text of
the same opening. A Llama of 230k parameters (`tiny_llama_dreams`) becomes a
reward model on HH-RLHF comparisons, and then by `remodetect` a detector, on one
half of the pairs; it is judged on the other half, for three halvings. A mixed
text is the first half of a person's words and the second half of GPT-4's. Texts
are cut to 126 tokens, and no prompt is read. Beside it: the reward model before
(`reward model`), the detector straight from the Llama, without comparisons and
replay (`no comparisons`), the Llama's mean log-likelihood without training, and
the number of words of the uncut texts. Intervals are bootstraps over pairs.

  RLREWARD_DATA=... python -m experiments.remodetect_real --seeds=0,1,2

Writes remodetect_real.json and .md. About 2 minutes for a seed on 2 CPU cores;
what is there is not trained again.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import common
from rlreward import config as config_lib
from rlreward import errors, runs, train
from rlreward.evals import calibration, intervals
from rlreward.models import heads, llama2c, pretrained, transformer
from rlreward.tasks import tokens as tokens_lib

SETS = ("xsum", "pubmed")
MOST = 126  # tokens of a text: with bos and eos what the Llama was trained on
# AUROC of all 150 pairs of each set by the mean log-likelihood under GPT-Neo
# 2.7B, as recorded in baoguangsheng/fast-detect-gpt, exp_gpt3to4/results.
RECORDED = {"xsum": 0.7980, "pubmed": 0.8104}
PARTS = ("auroc", "tpr_at_1_percent")


def folder_of(name: str) -> pathlib.Path:
  """A folder of the data that the experiment reads.

  Raises:
    UserError: it is not there.
  """
  found = pathlib.Path(os.environ.get("RLREWARD_DATA", "data")) / name
  if not found.is_dir():
    raise errors.UserError(
      f"there is no {found}",
      "the experiment reads texts and a checkpoint from local files",
      "set RLREWARD_DATA to the directory that has them",
    )
  return found


def lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Rows of a gzipped JSONL."""
  with gzip.open(path, "rt", encoding="utf-8") as file:
    return [json.loads(line) for line in file]


def cut(tok: tokens_lib.Tokens, text: str, most: int = MOST) -> str:
  """The most words from the front that are at most `most` tokens."""
  words = text.split()
  low, high = 0, len(words)
  while low < high:
    middle = (low + high + 1) // 2
    fits = len(tok.encode(" ".join(words[:middle]))) <= most
    low, high = (middle, high) if fits else (low, middle - 1)
  return " ".join(words[:low])


def mixed(human: str, machine: str) -> str:
  """The first half of one text's words, then the second half of the other's."""
  a, b = human.split(), machine.split()
  return " ".join([*a[: len(a) // 2], *b[len(b) // 2 :]])


def halves(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """i64: pairs to train on and pairs to judge, none in both."""
  order = np.random.default_rng([seed, 5]).permutation(n)
  return order[: n // 2], order[n // 2 :]


def reply(text: str) -> str:
  """The last turn of an HH-RLHF dialogue."""
  return text.rsplit("\n\nAssistant:", 1)[-1].strip()


def write(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> pathlib.Path:
  """A JSONL file of rows."""
  path.parent.mkdir(parents=True, exist_ok=True)
  text = "".join(json.dumps(r) + "\n" for r in rows)
  path.write_text(text, encoding="utf-8")
  return path


def settings(algorithm: str, path: pathlib.Path, task: dict[str, Any], seed):
  """A config that trains the checkpoint at `path`."""
  c = common.base()
  c.algorithm, c.seed, c.samples_per_prompt = algorithm, seed, 1
  c.model.update(path=str(path), outputs=1)
  c.optimizer.update(schedule="cosine", warmup_steps=5, weight_decay=0.01)
  c.task = c.task.__class__(
    {"prompt_length": 2, "answer_length": MOST + 1, **task}
  )
  c.eval.every = 0
  c.log.update(every=20, samples_every=0, tensorboard=False)
  c.checkpoint.every = 1000
  return c


def reward_model(
  tok, llama: pathlib.Path, seed: int, work: pathlib.Path
) -> tuple[pathlib.Path, list[dict[str, str]], dict[str, float]]:
  """(checkpoint, its comparisons, last evaluation) of a reward model."""
  data = folder_of("hh_rlhf") / "harmless_base_test_0_1200.jsonl.gz"
  each = [{k: cut(tok, reply(r[k])) for k in ("chosen", "rejected")}
          for r in lines(data)]  # fmt: skip
  rows = [{"prompt": "", **r} for r in each if all(r.values())]
  rows = [r for r in rows if r["chosen"] != r["rejected"]]
  # Rows are told apart by their prompts, which all are empty: two files.
  place = np.arange(len(rows)) % 10 == 0
  parts = {
    name: write(
      work / f"comparisons_{name}.jsonl",
      [r for r, out in zip(rows, place, strict=True) if out == held],
    )
    for name, held in (("train", False), ("test", True))
  }
  task = {"name": "text", **{k: str(v) for k, v in parts.items()}}
  c = settings("reward_model", llama, task, seed)
  c.steps, c.prompts_per_step = 60, 16
  c.optimizer.learning_rate = 3e-4
  c.eval.prompts = 64
  found = train.run(config_lib.freeze(c.to_dict()), work / "reward_model")
  out = work / "reward_model_hf"
  if not out.exists():
    runs.export(work / "reward_model", out)
  return out, rows, found.evals[c.steps]


def detector(
  path: pathlib.Path, rows, replayed: int, seed: int, work: pathlib.Path
) -> tuple[Any, Any]:
  """(model, variables) after `remodetect` on rows of 3 or 5 texts.

  Args:
    path: the checkpoint to begin with.
    rows: `machine`, `mixed`, `human`, and `preferred`, `other` to replay.
    replayed: 2 where those are there, else 0.
    seed: of the run.
    work: the run's directory.
  """
  names = ["machine", "mixed", "human", "preferred", "other"][: 3 + replayed]
  order = [1, 2, 3, 4, 5][: len(names)]
  kept = [{"prompt": "", "order": order, **{k: r[k] for k in names}}
          for r in rows]  # fmt: skip
  source = write(work.with_suffix(".jsonl"), kept)
  task = {
    "name": "rankings",
    "train": str(source),
    "test": str(source),
    "answers": ",".join(names),
    "scores": "",
    "ranks": "order",
    "on_equal": "keep",
  }
  c = settings("remodetect", path, task, seed)
  c.steps, c.prompts_per_step = 40, 15
  c.optimizer.learning_rate = 1e-3
  c.remodetect.update(weights=(0.35, 1.0, 0.35), replayed=replayed)
  c.eval.prompts = 30
  found = train.run(config_lib.freeze(c.to_dict()), work)
  variables = found.state.params["policy"]
  return transformer.build(found.model), variables


def scores(model, variables, tok, texts: Sequence[str], read) -> np.ndarray:
  """f64[N] of `read(model, variables, tokens, attend)` on texts."""
  ids = [[*tok.encode("", bos=True), *tok.encode(t), tok.eos_ids[0]]
         for t in texts]  # fmt: skip
  width = MOST + 2
  tokens = np.full((len(ids), width), tok.pad_id, np.int32)
  attend = np.zeros((len(ids), width), bool)
  for n, row in enumerate(ids):
    tokens[n, : len(row)], attend[n, : len(row)] = row, True
  run = jax.jit(functools.partial(read, model))
  parts = [run(variables, tokens[i : i + 50], attend[i : i + 50])
           for i in range(0, len(ids), 50)]  # fmt: skip
  return np.concatenate([np.asarray(p, np.float64) for p in parts])


def at_end(model, variables, tokens, attend):
  """f32[N]: the reward of each text."""
  return heads.last_value(model, variables, tokens, attend)[:, 0]


def likelihood(model, variables, tokens, attend):
  """f32[N]: mean log-likelihood of the tokens after the first."""
  logp = jax.nn.log_softmax(model.logits(variables, tokens, attend)[:, :-1])
  own = jnp.take_along_axis(logp, tokens[:, 1:, None], 2)[..., 0]
  there = attend[:, 1:]
  return jnp.sum(jnp.where(there, own, 0), 1) / jnp.sum(there, 1)


def one(seed: int, workdir: pathlib.Path) -> dict[str, Any]:
  """Trains a seed's detectors and scores its held-out pairs.

  Args:
    seed: of the halves and of the runs.
    workdir: everything goes below it.

  Returns:
    {"scores": {detector: {set: [machine's, human's]}}, "accuracy": of the
    reward model on held-out comparisons}.
  """
  tiny = folder_of("tiny_llama_dreams")
  llama = workdir / "llama_hf"
  if not llama.exists():
    llama2c.convert(tiny / "aidreams260K.bin.gz", tiny / "tok512.bin", llama)
  tok = tokens_lib.load(str(llama))
  work = workdir / f"seed_{seed}"
  base, compared, last = reward_model(tok, llama, seed, work)
  train_rows, held, words, lead = [], {}, {}, []
  for name in SETS:
    rows = lines(folder_of("aligned_text_detection") / f"{name}_gpt-4.jsonl.gz")
    texts = [[cut(tok, r[k]) for k in ("sampled", "original")] for r in rows]
    size = np.array([[len(r[k].split()) for k in ("sampled", "original")]
                     for r in rows])  # fmt: skip
    own, other = halves(len(rows), seed)
    held[name] = [texts[i] for i in other]
    words[name] = size[other]
    lead += list(size[own, 0] - size[own, 1])
    for i in own:
      machine, human = texts[i]
      both = mixed(rows[i]["original"], rows[i]["sampled"])
      u = compared[len(train_rows)]
      train_rows.append({"machine": machine, "mixed": cut(tok, both),
                         "human": human, "preferred": u["chosen"],
                         "other": u["rejected"]})  # fmt: skip
  load = lambda path, head: pretrained.load(path, head=head)
  plain, trunk = load(llama, "lm")
  old, first = load(base, "score")
  models = {
    "remodetect": (*detector(base, train_rows, 2, seed, work / "replay"),
                   at_end),
    "no comparisons": (*detector(llama, train_rows, 0, seed, work / "direct"),
                       at_end),
    "reward model": (transformer.build(old), first, at_end),
    "tiny Llama, likelihood": (transformer.build(plain), trunk, likelihood),
  }  # fmt: skip
  found: dict[str, Any] = {}
  for label, (model, variables, read) in models.items():
    found[label] = {
      name: [scores(model, variables, tok, side, read).tolist()
             for side in zip(*pairs, strict=True)]
      for name, pairs in held.items()
    }  # fmt: skip
  sign = 1 if np.mean(lead) >= 0 else -1  # by the training half
  found["length"] = {
    name: (sign * n.T).astype(float).tolist() for name, n in words.items()
  }
  return {"scores": found, "accuracy": last["held/accuracy"]}


def judged(rows: Sequence[dict[str, Any]], label: str, sets: Sequence[str]):
  """{part: (mean over seeds, low, high)} of a detector on held-out pairs.

  Args:
    rows: of `one`.
    label: of the detector.
    sets: those whose pairs are judged together.
  """
  each = []
  for row in rows:
    own = [np.asarray(row["scores"][label][s]) for s in sets]
    strata = np.repeat(sets, [x.shape[1] for x in own])
    each.append((np.concatenate(own, 1), strata))

  def measure(times: Sequence[np.ndarray]) -> dict[str, float]:
    parts = [
      calibration.detection(*(np.repeat(x, t.astype(int)) for x in score))
      for (score, _), t in zip(each, times, strict=True)
    ]
    return {p: float(np.mean([x[p] for x in parts])) for p in PARTS}

  draws = [
    intervals.draws(strata, np.arange(score.shape[1]), 1000, seed)
    for seed, (score, strata) in enumerate(each)
  ]
  at = measure([np.ones(score.shape[1]) for score, _ in each])
  drawn = [measure(times) for times in zip(*draws, strict=True)]
  return {p: (at[p], *intervals.band([d[p] for d in drawn])) for p in PARTS}


def table(result: dict[str, Any]) -> str:
  """The page: AUROC and TPR at 1% FPR of each detector."""
  say = lambda x: f"{x[0]:.3f} ({x[1]:.3f} to {x[2]:.3f})"
  out = [
    "| detector | " + " | ".join(
      f"{name}, {part}" for name in (*SETS, "both") for part in ("AUROC", "TPR")
    ) + " |",
    "|---" * 7 + "|",
  ]  # fmt: skip
  for label, found in sorted(result["summary"].items()):
    cells = [say(found[n][p]) for n in (*SETS, "both") for p in PARTS]
    out.append(f"| {label} | " + " | ".join(cells) + " |")
  known = " | ".join(f"{RECORDED[s]:.3f} | -" for s in SETS)
  out.append(f"| GPT-Neo 2.7B, likelihood (recorded, all pairs) | {known} |"
             " - | - |")  # fmt: skip
  said = np.mean(result["accuracy"])
  return "\n".join(
    [
      *out,
      "",
      f"TPR is at 1% FPR. Means over {len(result['seeds'])} halvings, with 95%"
      " bootstrap intervals over the pairs held out.",
      f"The reward model is right about {said:.3f} of held-out comparisons.",
      "",
    ]
  )


def main(argv: Sequence[str] | None = None) -> int:
  """Runs what is missing below the workdir, then writes both files."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--workdir", default="runs/remodetect_real")
  parser.add_argument("--out", default="results")
  args = parser.parse_args(argv)
  workdir = pathlib.Path(args.workdir).resolve()
  seeds = [int(s) for s in args.seeds.split(",")]
  rows = [one(seed, workdir) for seed in seeds]
  groups = {**{name: [name] for name in SETS}, "both": list(SETS)}
  summary = {
    label: {name: judged(rows, label, own) for name, own in groups.items()}
    for label in rows[0]["scores"]
  }
  result = {
    "seeds": seeds,
    "accuracy": [r["accuracy"] for r in rows],
    "summary": summary,
    "recorded": RECORDED,
    "jax": jax.__version__,
  }
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  text = json.dumps(result, indent=1, sort_keys=True)
  (out / "remodetect_real.json").write_text(text + "\n")
  (out / "remodetect_real.md").write_text(table(result))
  print(table(result))
  return 0


if __name__ == "__main__":
  sys.exit(main())
