"""Pretraining seeds err about different words, and all like the same hack.

Words belong to topics and are worth what their topic is. 25 tiny reward models
learn from the same 512 pairs, which hold half of the words; what the others are
worth they have to know from a corpus that they were pretrained on, 5 language
models on a half of it each, with 5 fine-tuning seeds each. Annotators like
lists, which are worth nothing. The claim, on the best of 64 answers: the gold
rises from single models to ensembles of one pretraining seed to ensembles of
five by 0.04 each, and the share of lists among what is chosen rises too, by
0.05 from single models to the latter: what all members like is not removed.
Beside it: other rules of joining scores (`rule/*`), what gold and scores would
give if they were Gaussian (`gaussian/*`; scores are bounded, so that the best
of 64 has less), and the parts of the scores' variance (`variance/*`). Where
labels have no bias (`fair`) hardly a list more than among all is chosen.
The broken variant (`copies`) has members of one pretraining seed under five
names: the second gain is gone.
Paper: Helping or Herding? Reward Model Ensembles Mitigate but do not Eliminate
Reward Hacking, arXiv 2312.09244.

Run:  rlreward train --config=configs/ensembles.py:mini
      python -m rlreward.claims configs/ensembles.py:mini
About 50 seconds for an arm on 2 CPU cores, both stages.
At scale: configs/ensembles.py:pod (five GPT-2 medium of five seeds on TL;DR).
"""

from typing import Any

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
BROKEN = Arm("copies", {"start.ensemble.pretrain": 1})
ARMS = (Arm("seeds", {}), BROKEN, Arm("fair", {"task.bias": 0.0}))
SEEDS = tuple(
  f"stanford-crfm/{name}"
  for name in (
    "arwen-gpt2-medium-x21",
    "beren-gpt2-medium-x49",
    "celebrimbor-gpt2-medium-x81",
    "durin-gpt2-medium-x343",
    "eowyn-gpt2-medium-x777",
  )
)


def ordered(arm):
  """Single < fine-tune < pretrain ensembles in gold, and more lists chosen."""
  gold = {k: arm[f"last/held/gold/{k}/64"] for k in ("single", "finetune",
                                                     "pretrain")}  # fmt: skip
  lists = {k: arm[f"last/held/list/{k}/64"] for k in ("single", "pretrain")}
  better = gold["finetune"] > gold["single"] + 0.04
  best = gold["pretrain"] > gold["finetune"] + 0.04
  return bool(better and best and lists["pretrain"] > lists["single"] + 0.05)


def claim(r):
  """Both kinds of seeds help, pretraining seeds more; the shared hack stays."""
  return ordered(r["seeds"])


def pod(c):
  """25 reward models, GPT-2 medium of five pretraining seeds on TL;DR.

  The paper has T5 of five seeds (base, large, XL); decoders with as many are
  those of Stanford's Mistral project. The comparisons of
  openai/summarize_from_feedback are local JSONLs with `prompt`, `chosen` and
  `rejected`. Learning rate and centring are ours; the paper states neither in
  what we read.
  """
  c.steps = 90  # 92,858 comparisons, an epoch
  c.prompts_per_step = 1024
  c.updates_per_step = 16
  c.microbatch = 64
  c.optimizer.update(learning_rate=1e-5, schedule="linear", warmup_steps=50)
  c.ensemble.update(pretrain=5, finetune=5, paths=SEEDS[1:], chunk=1)
  c.model.update(path=SEEDS[0], outputs=1, dtype="bfloat16", remat="full")
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": "data/summarize_from_feedback_train.jsonl",
      "test": "data/summarize_from_feedback_valid.jsonl",
      "prompt_length": 640,
      "answer_length": 128,
    }
  )
  c.eval.update(every=30, prompts=1024)
  c.mesh.update(fsdp=8)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real models and data."""
  c: Any = common.base()
  c.algorithm = "ensembles"
  c.samples_per_prompt = 1
  if arg == "pod":
    return pod(c)
  c.steps = 12  # epochs
  c.prompts_per_step = 512  # pairs
  c.updates_per_step = 16
  c.optimizer.update(
    learning_rate=3e-3, schedule="cosine", warmup_steps=5, weight_decay=0.1
  )
  c.model.update(
    vocab=100,
    width=32,
    layers=1,
    heads=2,
    kv_heads=2,
    head_dim=16,
    mlp=64,
    tied=True,
    outputs=1,
  )
  c.task = c.task.__class__(
    {
      "name": "topics",
      "pairs": 512,
      "sentences": 1024,
      "seen": 0.5,
      "astray": 0.2,
      "noise": 0.5,
      "bias": 1.0,
      "shuffled": 0.0,
      "world": 0,
    }
  )
  c.eval.update(every=0, prompts=4096)
  c.log.update(every=4, samples_every=0)
  c.checkpoint.every = 1000
  c.start.update(
    {
      "algorithm": "ensembles",
      "steps": 15,  # epochs of the corpus
      "prompts_per_step": 1024,
      "ensemble": {"pretrain": 5, "finetune": 1, "share": 0.5},
      "model": {"outputs": 0},
      "optimizer": {"learning_rate": 1e-2, "weight_decay": 0.0},
      "eval": {"prompts": 1024},
    }
  )
  return c
