"""T rounds of RAFT with K answers are best-of-K^T.

Three answers of chances 0.5, 0.3 and 0.2 and rewards 0, 1 and 2, K = 4. A tiny
decoder imitates their law, and each round imitates the best of 4 of its own
answers to 16,384 prompts. If a round's fine-tuning is exact, the policy after T
rounds is the law of the best of 4^T answers (ties alike): 0.0625, 0.347, 0.590
after one. The claim: after rounds 1, 2 and 3 the policy is within 0.02 of that
law in total variation, and its KL, exact over the answers, within 5 %. So is it
when every round starts from the base (`base`). The broken variant (`hurried`)
takes 4 updates a round and lags behind; keeping a quarter of the whole batch
instead of one of each four (`top`) is another law, that of a cut at a quantile,
which has only the best answer left after one round.
Paper: RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment,
arXiv 2304.06767.

Run:  rlreward train --config=configs/raft.py:mini
      python -m rlreward.claims configs/raft.py:mini
About 20 seconds for an arm on 2 CPU cores.
At scale: configs/raft.py:pod (LLaMA-7B on HH, K = 8).
"""

import jax.numpy as jnp
import numpy as np

from configs import common
from rlreward.analytic import best_of_n
from rlreward.types import Arm

PRESETS = ("mini", "pod")
P, R, K, ROUNDS = (0.5, 0.3, 0.2), (0.0, 1.0, 2.0), 4, 3
BROKEN = Arm("hurried", {"updates_per_step": 4, "epochs": 1})
ARMS = (
  Arm("local", {}),
  Arm("base", {"rounds.start": "base"}),
  Arm("top", {"rounds.select": "top", "rounds.fraction": 1 / K}),
  BROKEN,
)


def law(rounds):
  """(shares of the answers, KL in nats) of the best of K^rounds of them."""
  p, r, n = jnp.asarray(P), jnp.asarray(R), K**rounds
  return np.asarray(best_of_n.pmf(p, r, n)), float(best_of_n.kl(p, r, n))


def follows(arm):
  """Whether every run is at the law after each round."""
  for run in arm["runs"]:
    for t in range(1, ROUNDS + 1):
      (shares, kl), found = law(t), run["evals"][str(t)]
      seen = [found[f"token/{i}"] for i in range(len(P))]
      if np.abs(np.subtract(seen, shares)).sum() / 2 > 0.02:
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
  c.sampling.max_new_tokens = 1
  c.optimizer.update(learning_rate=5e-3, schedule="cosine", final_fraction=0.01)
  c.model.update(
    vocab=3, width=16, layers=1, heads=2, kv_heads=2, head_dim=8, mlp=32
  )
  c.task = c.task.__class__({"name": "memoryless", "p": P, "r": R, "length": 1})
  c.frontier.samples = 64  # answers are listed, so this only turns it on
  c.eval.update(every=1, prompts=8192)
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
