"""Tool calls that are paid for their parts are learnt; all-or-nothing is not.

A request names three tools, each with an argument and its value, by letters of
their own. A decoder imitates demonstrations in which each of the nine parts is
another one with a chance of 0.55: it writes calls of the right form, of which
one in a thousand answers is right. Then GRPO pays either for every name, key
and value that is right (`fine`) or for answers that are all right (`coarse`).

As measured (seeds 3 to 5) fine is right in 0.984, 0.977 and 0.965 of the
requests, coarse in none. With 200 steps in place of 300 seeds 0 to 2 had 0.938,
0.934 and 0.973, which is 0.002 short of what the claim asks of fine.

Any part will do: on seed 0 `strict` and `intermediate` come to the 0.969 that
fine has there. The broken variant (`groups`) pays whole answers alone and draws
twice as many answers to half of the requests: none is right.
Paper: ToolRL: Reward is All Tool Learning Needs, arXiv 2504.13958.

Run:  rlreward train --config=configs/toolrl.py:mini
      python -m rlreward.claims configs/toolrl.py:mini
About 50 seconds for an arm on 2 CPU cores.
At scale: configs/toolrl.py:pod (Qwen2.5-7B-Instruct on ToolACE and xLAM).
"""

from typing import Any

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
ARMS = (
  Arm("fine", {}),
  Arm("coarse", {"calls.match": "coarse"}),
)
BROKEN = Arm(
  "groups",
  {"calls.match": "coarse", "samples_per_prompt": 16, "prompts_per_step": 8},
)


def claim(r):
  """Fine beats coarse by 0.3 of the requests, and is right in 95 % of them."""
  fine, coarse = (r[name]["last/reward"] for name in ("fine", "coarse"))
  return bool(fine >= coarse + 0.3 and fine > 0.95)


def pod(c):
  """Qwen2.5-7B-Instruct on 4,000 calls of ToolACE, Hammer and xLAM."""
  c.steps = 117  # 15 epochs of 4,000 rows
  c.prompts_per_step = 512
  c.samples_per_prompt = 4
  c.updates_per_step = 4
  c.microbatch = 64
  c.sampling.update(max_new_tokens=1024, cache_dtype="bfloat16")
  c.optimizer.learning_rate = 1e-6
  c.model.update(path="Qwen/Qwen2.5-7B-Instruct", dtype="bfloat16",
                 remat="full")  # fmt: skip
  c.task = c.task.__class__(
    {
      "name": "text",
      # 2,000 rows of Team-ACE/ToolACE, 1,000 of Hammer's masked functions and
      # 1,000 of Salesforce/xlam-function-calling-60k as chats, and the gold
      # text in the column `answer`
      "train": "data/rlla_4k.parquet",
      "holdout": 0.02,
      "prompt_length": 2048,
      "rewards": "rlreward.rewards.toolrl:parts",
    }
  )
  c.mesh.update(fsdp=8)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and data."""
  c: Any = common.base()
  c.algorithm = "toolrl"
  if arg == "pod":
    return pod(c)
  c.steps = 300
  c.prompts_per_step = 16
  c.samples_per_prompt = 8
  c.sampling.max_new_tokens = 21
  c.optimizer.update(learning_rate=7e-4, schedule="cosine", warmup_steps=10)
  c.model.update(
    vocab=68, width=64, layers=2, heads=4, kv_heads=4, head_dim=16, mlp=128
  )
  c.task = c.task.__class__(
    {"name": "slots", "tools": 8, "keys": 8, "arguments": 1, "calls": 3,
     "noise": 1.0, "garble": 0.55, "reward": "toolrl"}
  )  # fmt: skip
  c.eval.update(every=0, prompts=256)
  c.checkpoint.every = 1000
  c.log.update(every=50, samples_every=0, tensorboard=False)
  c.start.update(
    {
      "algorithm": "sft",
      "steps": 400,
      "prompts_per_step": 64,
      "samples_per_prompt": 1,
      "optimizer": {"learning_rate": 3e-3, "warmup_steps": 10},
      "eval": {"every": 0},
    }
  )
  return c
