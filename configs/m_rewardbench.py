"""The less a language was seen, the worse, and the less like English.

Four languages with words of their own for the same meanings. A tiny reward
model is trained on 4,096 pairs: as many in `de` as in `en`, a fourth of that in
`id` and a sixteenth in `sw`. Each of 800 held-out pairs is judged in every
language, translated by a system that gets a word in 20 wrong and by one that
gets a fourth wrong. The claim: scores fall with how often a language was seen,
by more than 0.05 from English to the rarest; Cohen's kappa between the choices
in English and in a language has the same order; the better translations give
the higher score in every language; and the kappa of random scores is within
0.05 of 0. `even` has as many pairs of each language: the fall is gone. The
broken variant (`shuffled`) has coins for labels: its scores have no order.
Paper: M-RewardBench, arXiv 2410.15522.

Run:  rlreward train --config=configs/m_rewardbench.py:mini
      python -m rlreward.claims configs/m_rewardbench.py:mini
About 20 seconds for an arm on 2 CPU cores.
At scale: configs/m_rewardbench.py:pod (Llama 3.1 8B); real models and data:
docs/reward_benchmarks.md.
"""

from typing import Any

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
CODES = ("en", "de", "id", "sw")  # from seen often to seen hardly
BROKEN = Arm("shuffled", {"task.shuffled": 1.0})
ARMS = (
  Arm("seen", {}),
  Arm("even", {"task.seen": (1.0, 1.0, 1.0, 1.0)}),
  BROKEN,
)


def scores(arm, system="good"):
  """The score in each language, in the order of CODES."""
  return [arm[f"last/held/bench/{system}/language/{c}"] for c in CODES]


def falls(arm):
  """Scores and kappas fall with resources, by 0.05 from the first score."""
  good, poor = scores(arm), scores(arm, "poor")
  kappa = [arm[f"last/held/bench/good/kappa/{c}"] for c in CODES[1:]]
  order = good[1] > good[2] > good[3] and kappa[0] > kappa[1] > kappa[2]
  better = all(a > b for a, b in zip(good[1:], poor[1:], strict=True))
  return bool(order and better and good[0] - good[3] > 0.05)


def claim(r):
  """Scores fall with resources, kappa with scores; random ones agree never."""
  chance = r["seen"]["last/held/random/good/kappa"]
  return falls(r["seen"]) and abs(chance) < 0.05


def pod(c):
  """Llama 3.1 8B on Skywork's pairs, judged on pairs of all languages.

  The data are local copies of Skywork/Skywork-Reward-Preference-80K-v0.2 and of
  C4AI-Community/multilingual-reward-bench, all languages in one JSONL with
  `prompt`, `chosen` and `rejected`, for a look while training. Scores of each
  language, with kappa: see docs/reward_benchmarks.md.
  """
  c.steps = 1200  # 2 epochs of 77,000 pairs
  c.prompts_per_step = 128
  c.microbatch = 32
  c.optimizer.update(learning_rate=2e-6, schedule="linear", warmup_steps=36)
  c.model.update(
    path="meta-llama/Llama-3.1-8B-Instruct",
    outputs=1,
    dtype="bfloat16",
    remat="full",
  )
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": "data/Skywork-Reward-Preference-80K-v0.2.parquet",
      "test": "data/multilingual-reward-bench.jsonl",
      "prompt_length": 1024,
      "answer_length": 1024,
    }
  )
  c.eval.update(every=100, prompts=512)
  c.mesh.update(fsdp=8)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and data."""
  c: Any = common.base()
  c.algorithm = "m_rewardbench"
  c.samples_per_prompt = 1
  if arg == "pod":
    return pod(c)
  c.steps = 192  # 6 epochs
  c.prompts_per_step = 128  # pairs
  c.optimizer.update(
    learning_rate=1e-2, schedule="cosine", warmup_steps=5, weight_decay=0.1
  )
  c.model.update(
    vocab=388,
    width=32,
    layers=1,
    heads=2,
    kv_heads=2,
    head_dim=16,
    mlp=64,
    outputs=1,
  )
  c.task = c.task.__class__(
    {
      "name": "languages",
      "seen": (1.0, 1.0, 0.25, 0.0625),
      "astray": (0.05, 0.25),
      "pairs": 4096,
      "noise": 0.5,
      "bias": 1.0,
      "shuffled": 0.0,
      "world": 0,
    }
  )
  c.eval.update(every=0, prompts=5600)  # 800 instances in 7 versions
  c.log.update(every=50, samples_every=0)
  c.checkpoint.every = 1000
  return c
