"""Best-of-4 accuracy ranks reward models as their best of 16 does.

40 tiny reward models learn from the same 512 pairs, each of annotators of its
own who get between none and half of the labels wrong. The benchmark is 400
items of one right answer in four and 100 of ties; 200 pools of 16 answers show
what each model's choice is worth. The claim: over the models, the correlation
of the benchmark's total with the mean gold of the best of 16 is above 0.9,
random scores get a fourth of the items within 0.05, and all right answers of a
tie above all wrong ones in 1 / C(6, 3) = 0.05 of the cases, within 0.05.
`alike` has models of equally careful annotators: they differ less, and the
correlation is below 0.9. The broken variant (`any`) has right answers drawn by
lot in the five domains, which are at chance; the ties, left as they are, are
all that still tells models apart, and the claim fails.
Paper: RewardBench 2: Advancing Reward Model Evaluation, arXiv 2506.01937.

Run:  rlreward train --config=configs/rewardbench2.py:mini
      python -m rlreward.claims configs/rewardbench2.py:mini
About a minute for an arm on 2 CPU cores.
At scale: configs/rewardbench2.py:pod (Tulu 3 8B); real models and data:
docs/reward_benchmarks.md.
"""

from typing import Any

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
DOMAINS = ("Factuality", "Precise IF", "Math", "Safety", "Focus")
BROKEN = Arm("any", {"task.right": "any"})
ARMS = (Arm("models", {}), Arm("alike", {"ensemble.flip": 0.0}), BROKEN)


def tells(arm):
  """Whether the benchmark's total predicts the best of 16."""
  return bool(arm["last/held/bench/pearson"] > 0.9)


def chance(arm):
  """Whether random scores get what they should, in items and in ties."""
  each = [arm[f"last/held/random/{name}"] for name in DOMAINS]
  ties = arm["last/held/random/ties/tied"]
  fourth = abs(sum(each) / len(each) - 0.25) < 0.05
  return bool(fourth and abs(ties - 0.05) < 0.05)


def claim(r):
  """The total predicts the best of 16; random scores are at chance."""
  return tells(r["models"]) and chance(r["models"])


def pod(c):
  """Eight reward models on Tulu 3 8B and Skywork's pairs, two epochs.

  They differ in their heads and in the order of their rows. The data are local
  copies of Skywork/Skywork-Reward-Preference-80K-v0.2 and, as pairs of the
  right answer with each wrong one, of allenai/reward-bench-2, for a look while
  training; the benchmark proper is best-of-4, see docs/reward_benchmarks.md.
  """
  c.steps = 75  # 2 epochs of 77,000 pairs
  c.prompts_per_step = 2048
  c.updates_per_step = 16
  c.microbatch = 32
  c.optimizer.update(learning_rate=3e-6, schedule="linear", warmup_steps=36)
  c.ensemble.update(pretrain=1, finetune=8, chunk=1, flip=0.0)
  c.model.update(
    path="allenai/Llama-3.1-Tulu-3-8B-SFT",
    outputs=1,
    dtype="bfloat16",
    remat="full",
  )
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": "data/Skywork-Reward-Preference-80K-v0.2.parquet",
      "test": "data/reward-bench-2_pairs.jsonl",
      "prompt_length": 1024,
      "answer_length": 1024,
    }
  )
  c.eval.update(every=25, prompts=512)
  c.mesh.update(fsdp=8)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real models and data."""
  c: Any = common.base()
  c.algorithm = "rewardbench2"
  c.samples_per_prompt = 1
  if arg == "pod":
    return pod(c)
  c.steps = 10  # epochs
  c.prompts_per_step = 512  # pairs
  c.updates_per_step = 8
  c.optimizer.update(
    learning_rate=2e-2, schedule="cosine", warmup_steps=5, weight_decay=0.1
  )
  c.ensemble.update(pretrain=1, finetune=40, flip=0.5)
  c.model.update(
    vocab=52,
    width=16,
    layers=1,
    heads=2,
    kv_heads=2,
    head_dim=8,
    mlp=32,
    outputs=1,
  )
  c.task = c.task.__class__(
    {
      "name": "fourway",
      "words": 6,
      "pairs": 512,
      "noise": 0.3,
      "right": "best",
      "world": 0,
    }
  )
  c.eval.update(every=0, prompts=3000)  # 400 items, 100 ties, 200 pools
  c.log.update(every=2, samples_every=0)
  c.checkpoint.every = 1000
  return c
