"""A policy learns to look things up: GRPO on answers in turns with a search.

"Aab=" asks for relation b of what is relation a of A, and the facts lie in a
store of that problem alone: the policy asks "?Aa", reads ">C;", asks "?Cb",
reads ">B;" and answers "B". It starts from demonstrations in which two of three
answers are wrong, so that it knows how to search and does not trust what it
reads. The claim: answers that are right, held out, rise by 0.25; `turn` gives
each turn the credit of the same turn in other rows and does so too. In the
broken variant the last query has no answer (`task.spare=-1`), and half of what
the answer needs stays unknown.

Run:  rlreward train --config=configs/search.py:mini
      python -m rlreward.claims configs/search.py:mini
About half a minute for an arm on 2 CPU cores.
At scale: configs/search.py:pod (Qwen2.5-3B, SQL over Chinook).
"""

from typing import Any

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
ARMS = (Arm("grpo", {}), Arm("turn", {"credit.baseline": "turn"}))
BROKEN = Arm("no_answer", {"task.spare": -1})


def rise(arm):
  """How much the share of right answers held out rose."""
  return arm["last/correct"] - arm["first/correct"]


def claim(r):
  """Both credits add 0.25 to the right answers, and searches go on."""
  return all(
    rise(r[name]) >= 0.25 and r[name]["last/calls"] >= 1.5
    for name in ("grpo", "turn")
  )


def pod(c):
  """Qwen2.5-3B-Instruct asks the Chinook database before its last query."""
  c.steps = 500
  c.prompts_per_step = 64
  c.microbatch = 64
  c.sampling.update(max_new_tokens=1024, cache_dtype="bfloat16")
  c.optimizer.learning_rate = 1e-6
  c.loss.kl_beta = 1e-3
  c.model.update(
    path="Qwen/Qwen2.5-3B-Instruct", dtype="bfloat16", remat="full"
  )
  c.task = c.task.__class__(
    {
      "name": "chinook",
      "level": 5,
      "schema": True,
      "turns": 3,
      "observation": 128,
      "tokenizer": "Qwen/Qwen2.5-3B-Instruct",
    }
  )
  c.mesh.update(fsdp=8)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and data."""
  c: Any = common.base()
  c.algorithm = "grpo"
  c.reference = "always"
  if arg == "pod":
    return pod(c)
  c.steps = 60
  c.prompts_per_step = 32
  c.samples_per_prompt = 8
  c.sampling.max_new_tokens = 16  # two queries and facts, an answer
  c.optimizer.learning_rate = 1e-3
  c.model.update(
    vocab=61, width=64, layers=2, heads=4, kv_heads=4, head_dim=16, mlp=192
  )
  c.task = c.task.__class__(
    {"name": "search_world", "hops": 2, "noise": 0.66, "spare": 0}
  )
  c.eval.update(every=0, prompts=256)
  c.checkpoint.every = 1000
  c.log.update(every=25, samples_every=0, tensorboard=False)
  c.start.update(
    {
      "algorithm": "sft",
      "steps": 250,
      "prompts_per_step": 64,
      "optimizer": {
        "learning_rate": 3e-3,
        "warmup_steps": 50,
        "schedule": "cosine",
      },
      "checkpoint": {"every": 1000},
      "log": {"every": 100},
    }
  )
  return c
