"""A reward model knows what retrieval asks for only if it was taught to read.

Questions about facts that stand in three passages and nowhere else. A tiny
reward model of two layers is trained on pairs of the four scenarios (`rag`), or
on general pairs without passages (`general`): well-formed answers against
broken ones, and any answer against none. The claim: the first is right in more
than 0.9 of the held-out pairs about citation and about abstaining, and in more
than 0.8 of those about two hops; the second knows a good form (above 0.9) and
is within 0.07 of a half in abstaining and conflict, which it cannot know. The
broken variant (`blind`) is trained and judged with the passages hidden: it is
within 0.07 of a half in all four scenarios, so the runner does feed them.
Paper: RAG-RewardBench, arXiv 2412.13746.

Run:  rlreward train --config=configs/rag_rewardbench.py:mini
      python -m rlreward.claims configs/rag_rewardbench.py:mini
About 3 minutes for an arm on 2 CPU cores.
At scale: configs/rag_rewardbench.py:pod (Gemma 2 27B); real models and data:
docs/reward_benchmarks.md.
"""

from typing import Any

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
SCENARIOS = ("reason", "citation", "abstain", "conflict")
# Forms are learned in 100 steps, and without passages nothing is: fewer steps.
BROKEN = Arm("blind", {"task.masked": True, "steps": 600})
ARMS = (
  Arm("rag", {}),
  Arm("general", {"task.pairs": "general", "steps": 200}),
  BROKEN,
)


def score(arm, name):
  """The score of a scenario at the end."""
  return arm[f"last/held/bench/{name}"]


def chance(arm, names=SCENARIOS):
  """Whether these scenarios are within 0.07 of a half."""
  return all(abs(score(arm, name) - 0.5) < 0.07 for name in names)


def reads(arm):
  """Whether an arm knows what its passages say."""
  sure = all(score(arm, name) > 0.9 for name in ("citation", "abstain"))
  return bool(sure and score(arm, "reason") > 0.8)


def claim(r):
  """Taught with passages it reads them; general pairs teach a form alone."""
  general = r["general"]
  form = score(general, "helpful") > 0.9
  unknown = chance(general, ("abstain", "conflict"))
  return bool(reads(r["rag"]) and form and unknown and chance(r["blind"]))


def pod(c):
  """Gemma 2 27B, the trunk of Skywork-Reward-Gemma-2-27B-v0.2, on RAG pairs.

  The data are local: training pairs with passages in `prompt`, of your own, and
  a copy of jinzhuoran/RAG-RewardBench as pairs, for a look while training; its
  scores by scenario: see docs/reward_benchmarks.md. The paper trains nothing,
  so rate and steps are ours.
  """
  c.steps = 600
  c.prompts_per_step = 128
  c.microbatch = 16
  c.optimizer.update(learning_rate=2e-6, schedule="cosine", warmup_steps=18)
  c.model.update(
    path="google/gemma-2-27b-it",
    outputs=1,
    dtype="bfloat16",
    remat="full",
  )
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": "data/rag_pairs.jsonl",
      "test": "data/rag-rewardbench_pairs.jsonl",
      "prompt_length": 3072,
      "answer_length": 1024,
    }
  )
  c.eval.update(every=100, prompts=512)
  c.mesh.update(fsdp=16, tensor=4)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and data."""
  c: Any = common.base()
  c.algorithm = "rag_rewardbench"
  c.samples_per_prompt = 1
  if arg == "pod":
    return pod(c)
  c.steps = 1500
  c.prompts_per_step = 64  # pairs
  c.optimizer.update(learning_rate=5e-3, schedule="cosine", warmup_steps=20)
  c.model.update(
    vocab=20,
    width=64,
    layers=2,
    heads=4,
    kv_heads=4,
    head_dim=16,
    mlp=128,
    qk_norm=True,
    outputs=1,
    remat="none",
  )
  c.task = c.task.__class__(
    {
      "name": "rag",
      "things": 6,
      "relations": 3,
      "pairs": "rag",
      "masked": False,
    }
  )
  c.eval.update(every=0, prompts=1800)  # 200 of each kind
  c.log.update(every=100, samples_every=0)
  c.checkpoint.every = 1000
  return c
