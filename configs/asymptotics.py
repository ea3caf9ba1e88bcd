"""What training reaches at a KL budget is the tilt, token by token.

Tokens of a memoryless source, a reward that adds up over them and a budget of
0.1 nats for each: theory says the law of every token at the optimum (the tilt
of one token) and the KL of the answer (m times that of a token). A tiny decoder
imitates the source and is then trained at the price that the budget implies,
solved for from samples (`budget`) or in closed form (`price`). The claim: the
learned shares of the tokens are within 0.02 of the tilt and the KL, computed
over all 6,561 answers, within 5 %. The broken variant (`spread`) divides
rewards by their spread in the group, which is another alpha: it fails both.
Paper: Asymptotics of Language Model Alignment, arXiv 2404.01730.

Run:  rlreward train --config=configs/asymptotics.py:mini
      python -m rlreward.claims configs/asymptotics.py:mini
About 40 seconds for an arm on 2 CPU cores.
At scale: configs/asymptotics.py:pod (GPT-2 on TL;DR prompts, 20 nats).
"""

import numpy as np

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
P, R, LENGTH, DELTA = (0.5, 0.3, 0.2), (0.0, 1.0, 2.0), 8, 0.1
# The root of KL(tilt || p) = 0.1 nats, and what it implies for a token.
ALPHA = 0.546514
PHI = np.multiply(P, np.exp(np.multiply(ALPHA, R)))
PHI = tuple(PHI / PHI.sum())
ARMS = (
  Arm("budget", {}),
  Arm("price", {"kl_reward.budget": 0.0, "kl_reward.beta": 1 / ALPHA}),
  Arm(
    "spread",
    {"algorithm": "grpo", "kl_reward.budget": 0.0, "loss.kl_beta": 1 / ALPHA,
     "loss.kl": "reverse"},
  ),
)  # fmt: skip


def reached(arm):
  """Whether the shares of tokens and the KL are those of the tilt."""
  shares = [arm[f"last/token/{i}"] for i in range(len(P))]
  near = np.max(np.abs(np.subtract(shares, PHI))) < 0.02
  return bool(near and abs(arm["last/exact_kl"] / (LENGTH * DELTA) - 1) < 0.05)


def claim(r):
  """Both ways to the tilt arrive at it; another unit of reward does not."""
  arrived = reached(r["budget"]) and reached(r["price"])
  return arrived and not reached(r["spread"])


def pod(c):
  """GPT-2 on TL;DR prompts with a length reward of your own; 20 nats.

  The prompts of trl-lib/tldr are a local JSONL with a column `prompt`.
  """
  c.steps = 500
  c.prompts_per_step = 64
  c.samples_per_prompt = 8
  c.microbatch = 64
  c.sampling.update(max_new_tokens=64, cache_dtype="bfloat16")
  c.optimizer.learning_rate = 3e-6
  c.kl_reward.budget = 20.0
  c.frontier.samples = 256
  c.model.update(path="openai-community/gpt2", dtype="bfloat16")
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": "data/tldr.jsonl",
      "holdout": 0.05,
      "prompt_length": 512,
      "rewards": "rewards/summary.py:score",
    }
  )
  c.mesh.update(fsdp=8)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names a real model and data."""
  c = common.base()
  c.algorithm = "asymptotics"
  c.reference = "always"
  if arg == "pod":
    return pod(c)
  c.steps = 150
  c.prompts_per_step = 32
  c.samples_per_prompt = 16
  c.sampling.max_new_tokens = LENGTH
  c.kl_reward.budget = LENGTH * DELTA
  c.optimizer.update(learning_rate=3e-3, schedule="cosine", warmup_steps=10)
  c.model.update(
    vocab=3, width=16, layers=1, heads=2, kv_heads=2, head_dim=8, mlp=32
  )
  c.task = c.task.__class__(
    {"name": "memoryless", "p": P, "r": R, "length": LENGTH}
  )
  c.frontier.samples = 64  # answers are listed, so this only turns it on
  c.eval.update(every=50, prompts=8192)
  c.checkpoint.every = 1000
  c.log.update(every=50, samples_every=0)
  c.start.update(
    {
      "algorithm": "sft",
      "steps": 400,
      "prompts_per_step": 512,
      "samples_per_prompt": 1,
      "reference": "auto",
      "kl_reward": {"budget": 0.0},
      "frontier": {"samples": 0},
      "optimizer": {
        "learning_rate": 1e-2,
        "schedule": "cosine",
        "final_fraction": 0.01,
      },
      "eval": {"every": 0},
      "log": {"every": 200},
    }
  )
  return c
