"""Step rewards that cannot be earned by filler: clip, and clip with delta.

A problem is solved by one token, after at most 11 tokens of filler, and a
process reward model finds filler flawless (0.9; the right token 0.8, a wrong
one 0.3). The policy has learned from demonstrations of 3.2 steps, nine of ten
right, and PPO goes on from there with a KL to it. Paper: On Designing Effective
RL Reward at Training Time for LLM Reasoning, arXiv 2410.15115. The claim: raw
scores make answers longer than 10 of the 12 steps, and with clipped ones, with
and without delta, length is within half a step of that of success alone.

It holds, with the mean of three seeds: 10.1 steps with raw scores (12.0, 7.3
and 11.1; the second is under 10), 2.8 with clip, clip-delta and success alone,
and 95 % against 99 % solved. Delta alone, the broken variant, has 5.8 (4.0,
3.5, 9.8). The laws with the largest sum of rewards at this KL have 12.0 steps
of raw scores, 4.1 of delta and 3.2 of the others
(tests/test_clip_delta_method.py). Delta can pass its own: a step's reward is
settled by the step after it, and what follows a step, which credit goes by, is
0.09 for filler against 0 for the answer, at every step.

Run:  rlreward train --config=configs/clip_delta.py:mini
      python -m rlreward.claims configs/clip_delta.py:mini
About 20 seconds for an arm on 2 CPU cores.
At scale: configs/clip_delta.py:pod (Qwen2 1.5B on MATH).
"""

from typing import Any

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
BROKEN = Arm("delta", {"process.kind": "delta"})
ARMS = (
  Arm("clip_delta", {}),
  Arm("clip", {"process.kind": "clip"}),
  Arm("raw", {"process.kind": "raw"}),
  Arm("none", {"process.kind": "none"}),
  BROKEN,
)


def claim(r):
  """Raw scores fill the answer up; clipped ones leave its length alone."""
  length = {name: found["last/length"] for name, found in r.items()}
  near = (
    abs(length[a] - length["none"]) <= 0.5 for a in ("clip", "clip_delta")
  )
  return bool(length["raw"] > 10 and all(near))


def pod(c):
  """Qwen2 1.5B Instruct on MATH, steps scored by a process reward model.

  `rewards/shepherd.py` reads peiyi9979/math-shepherd-mistral-7b-prm, which says
  good (token 648) or bad (387) after a tag that ends each step:

    found = learned.of_two_tokens(*pretrained.load(path, head="lm"), card, 648,
                                  387, max_length=2048)
    judge = process.of_model(found, encode, tag=" \u043a\u0438\n")

  A model of our own (`reward_model.kind="steps"`) is the first argument of
  `of_model` as it is loaded, with tag="". alpha, rates and KL are not verified.
  """
  c.start = c.start.__class__()
  c.steps = 220  # five epochs of 12,000 problems less 500
  c.prompts_per_step = 256
  c.samples_per_prompt = 4
  c.updates_per_step = 4
  c.microbatch = 64
  c.sampling.update(max_new_tokens=1024, cache_dtype="bfloat16")
  c.optimizer.learning_rate = 1e-5
  c.critic.rate = 5e-6
  c.kl_reward.beta = 0.1
  c.process.update(alpha=0.02, judge="rewards/shepherd.py:judge")
  c.model.update(path="Qwen/Qwen2-1.5B-Instruct", dtype="bfloat16",
                 remat="full")  # fmt: skip
  c.task = c.task.__class__(
    {
      "name": "text",
      # problems and answers of EleutherAI/hendrycks_math
      "train": "data/math_train.jsonl",
      "test": "data/math_test.jsonl",
      "prompt_length": 512,
      "rewards": "verify:math",
    }
  )
  c.mesh.update(fsdp=8)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and data."""
  c: Any = common.base()
  c.algorithm = "clip_delta"
  c.process.update(alpha=0.1, quantile=0.3)
  c.credit.update(lam=1.0)
  if arg == "pod":
    return pod(c)
  c.kl_reward.beta = 0.02
  c.steps = 200
  c.prompts_per_step = 32
  c.samples_per_prompt = 4
  c.updates_per_step = 2
  c.sampling.max_new_tokens = 12
  c.optimizer.update(learning_rate=1e-2, schedule="cosine")
  c.model.update(
    vocab=12, width=32, layers=1, heads=2, kv_heads=2, head_dim=16, mlp=64
  )
  c.task = c.task.__class__({"name": "filler", "problems": 4, "words": 4,
                             "length": 12})  # fmt: skip
  sft = {"learning_rate": 1e-2}
  c.start.update(
    {
      "algorithm": "sft",
      "steps": 150,
      "prompts_per_step": 64,
      "samples_per_prompt": 1,
      "updates_per_step": 1,
      "kl_reward": {"beta": 0.0},
      "optimizer": sft,
    }
  )
  c.eval.update(every=0, prompts=256)
  c.checkpoint.every = 1000
  c.log.update(every=50, samples_every=0, tensorboard=False)
  return c
