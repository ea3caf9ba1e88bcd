"""T rounds of RAFT with K answers are best-of-K^T, to the last decimal of it.

Answers of up to three tokens on one of two topics, a reward that adds up, K =
4. A tiny decoder imitates the source, and each round imitates the best of 4 of
its own answers to 16,384 prompts. If a round's fine-tuning is exact, the policy
after T rounds is the law of the best of 4^T answers of the source (ties alike),
whose reward and KL are known. The claim: after rounds 1, 2 and 3 the reward,
exact over all answers, is within 0.05 of the law's, and the KL within 5 %. So
are they when every round starts from the base (`base`). The broken variant
(`hurried`) takes 4 updates a round and lags behind; keeping a quarter of the
whole batch instead of one of each four (`top`) is another law, that of a cut at
a quantile, and earns more in the first round.
Paper: RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment,
arXiv 2304.06767.

Run:  rlreward train --config=configs/raft.py:mini
      python -m rlreward.claims configs/raft.py:mini
About 20 seconds for an arm on 2 CPU cores.
At scale: configs/raft.py:pod (LLaMA-7B on HH, K = 8).
"""

import functools

import jax.numpy as jnp

from configs import common
from rlreward.analytic import best_of_n
from rlreward.tasks import biased
from rlreward.types import Arm

PRESETS = ("mini", "pod")
K, ROUNDS = 4, 3
WORLD = {"topics": 2, "length": 3, "attribute_bias": 0.0}
BROKEN = Arm("hurried", {"updates_per_step": 4, "epochs": 1})
ARMS = (
  Arm("local", {}),
  Arm("base", {"rounds.start": "base"}),
  Arm("top", {"rounds.select": "top", "rounds.fraction": 1 / K}),
  BROKEN,
)


@functools.cache
def law(rounds):
  """(mean reward, KL in nats) of the best of K^rounds answers of the source."""
  known, n = biased.law(WORLD), K**rounds
  rows = [
    (jnp.exp(jnp.asarray(p)), jnp.asarray(r))
    for p, r in zip(known.logp, known.reward, strict=True)
  ]
  reward = [float(best_of_n.pmf(p, r, n) @ r) for p, r in rows]
  kl = [float(best_of_n.kl(p, r, n)) for p, r in rows]
  return sum(reward) / len(rows), sum(kl) / len(rows)


def follows(arm):
  """Whether every run is at the law after each round."""
  for run in arm["runs"]:
    for t in range(1, ROUNDS + 1):
      reward, kl = law(t)
      found = run["evals"][str(t)]
      if abs(found["exact_reward"] - reward) > 0.05:
        return False
      if abs(found["exact_kl"] / kl - 1) > 0.05:
        return False
  return True


def claim(r):
  """From the last policy or from the base: rounds compose as the law says."""
  return follows(r["local"]) and follows(r["base"])


def pod(c):
  """The paper's HH run: LLaMA-7B, best of 8, 20 rounds of 1,024 prompts.

  The reward is a model of your own (`task.rewards`); the paper's is GPT-Neo
  2.7B on the comparisons of HH.
  """
  c.steps = 20
  c.prompts_per_step = 1024
  c.samples_per_prompt = 8
  c.updates_per_step = 16
  c.epochs = 4
  c.microbatch = 64
  c.sampling.update(max_new_tokens=128, cache_dtype="bfloat16")
  c.optimizer.learning_rate = 2e-5
  c.model.update(path="huggyllama/llama-7b", dtype="bfloat16", remat="full")
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": "data/full_hh_rlhf_train.jsonl",
      "test": "data/full_hh_rlhf_test.jsonl",
      "prompt_length": 512,
      "rewards": "rewards/hh.py:score",
    }
  )
  c.mesh.update(fsdp=8)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the paper's model and data."""
  c = common.base()
  c.algorithm = "raft"
  c.reference = "always"
  if arg == "pod":
    return pod(c)
  c.steps = ROUNDS
  c.prompts_per_step = 16384
  c.samples_per_prompt = K
  c.updates_per_step = 16
  c.epochs = 8
  c.sampling.max_new_tokens = WORLD["length"]
  c.optimizer.update(learning_rate=5e-3, schedule="cosine", final_fraction=0.01)
  c.model.update(
    vocab=5, width=32, layers=2, heads=2, kv_heads=2, head_dim=16, mlp=64
  )
  c.task = c.task.__class__({"name": "biased", **WORLD})
  c.frontier.samples = 64  # answers are listed, so this only turns it on
  c.eval.update(every=1, prompts=1024)
  c.checkpoint.every = 1000
  c.log.update(every=1, samples_every=0)
  c.start.update(
    {
      "algorithm": "sft",
      "steps": 400,
      "prompts_per_step": 512,
      "samples_per_prompt": 1,
      "updates_per_step": 1,
      "epochs": 1,
      "reference": "auto",
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
