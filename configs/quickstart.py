"""GRPO on arithmetic: a small base model learns from a verifiable reward.

A 2-layer decoder is trained by SFT on additions of two-digit numbers, two in
five of whose demonstrations are wrong, and then by GRPO on the exact answer.
Held-out accuracy (sampled at temperature 1) rises by more than 0.25 over SFT.
Paper of the method: DeepSeekMath, arXiv 2402.03300.

Run:  rlreward train --config=configs/quickstart.py:mini
About 90 seconds on 2 CPU cores.
At scale: configs/quickstart.py:pod (Qwen2.5-Math-1.5B on MATH levels 3-5).
"""

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
ARMS = (Arm("grpo", {}),)


def claim(r):
  """GRPO adds at least 0.25 held-out accuracy to its SFT start."""
  return r["grpo"]["last/correct"] > r["grpo"]["first/correct"] + 0.25


def pod(c):
  """Qwen2.5-Math-1.5B on MATH levels 3-5; 8 chips, data from a local JSONL."""
  c.algorithm = "dr_grpo"
  c.steps = 1000
  c.prompts_per_step = 128
  c.samples_per_prompt = 8
  c.microbatch = 64
  c.sampling.update(max_new_tokens=3000, cache_dtype="bfloat16")
  c.optimizer.learning_rate = 1e-6
  c.model.update(path="Qwen/Qwen2.5-Math-1.5B", dtype="bfloat16", remat="full")
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": "data/math_level3to5.jsonl",
      "holdout": 0.05,
      "prompt_length": 1024,
      "rewards": "rewards/math.py:correct",
    }
  )
  c.mesh.update(fsdp=8)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and data."""
  c = common.base()
  if arg == "pod":
    return pod(c)
  c.algorithm = "grpo"
  c.steps = 200
  c.prompts_per_step = 32
  c.samples_per_prompt = 8
  c.sampling.max_new_tokens = 4
  c.optimizer.learning_rate = 1e-3
  c.loss.kl_beta = 0.0
  c.reference = "always"
  c.model.update(width=64, layers=2, heads=4, kv_heads=4, head_dim=16, mlp=192)
  c.task.update(name="arithmetic", digits=2, operations="+", noise=0.4)
  c.eval.update(every=50, prompts=512)
  c.frontier.samples = 64  # its answers are listed: this turns it on
  c.checkpoint.every = 50
  c.log.every = 10
  c.start.update(
    {
      "algorithm": "sft",
      "steps": 2000,
      "prompts_per_step": 128,
      "optimizer": {
        "learning_rate": 3e-3,
        "warmup_steps": 50,
        "schedule": "cosine",
      },
      "eval": {"every": 0},
      "frontier": {"samples": 0},
      "checkpoint": {"every": 1000},
      "log": {"every": 250},
    }
  )
  return c
