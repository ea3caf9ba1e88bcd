"""Text-to-SQL with partial rewards learns what execution alone does not.

Questions about three tables of three columns, in 40 words: a decoder that was
shown a few gold queries writes one that finds the right rows in about one of
seven cases. Then GRPO pays for execution alone, or for the parts of a query
too: that it runs, its tables and columns, its bigrams, its format. Queries run
in SQLite, in the worker pool.

The broken variant pays queries that run, whatever they find (`runs`).
Paper: Reasoning-SQL: Reinforcement Learning with SQL Tailored Partial Rewards
for Reasoning-Enhanced Text-to-SQL, arXiv 2503.23157.

Run:  rlreward train --config=configs/reasoning_sql.py:mini
      python -m rlreward.claims configs/reasoning_sql.py:mini
About 40 seconds for an arm on 2 CPU cores.
At scale: configs/reasoning_sql.py:pod (Qwen2.5-Coder-7B-Instruct on BIRD).
"""

from typing import Any

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
NONE = {f"sql.{k}": 0.0 for k in ("syntax", "schema", "ngram", "format")}
ARMS = (
  Arm("partial", {}),
  Arm("execution", NONE),
)
BROKEN = Arm("runs", {"sql.execution": 0.0, "sql.schema": 0.0,
                      "sql.ngram": 0.0, "sql.ranks": "watch"})  # fmt: skip


def claim(r):
  """Partial rewards find the right rows in 0.1 more cases than execution."""
  return bool(
    r["partial"]["last/reward"] >= r["execution"]["last/reward"] + 0.1
  )


def pod(c):
  """Qwen2.5-Coder-7B-Instruct on BIRD, with the paper's weights.

  They let a wrong query outrank a right one, which `sql.ranks` watches. The
  rate, the KL and the group are GRPO's usual ones: the paper's are not known.
  """
  c.steps = 1100  # three epochs of 9,428 questions
  c.prompts_per_step = 32
  c.samples_per_prompt = 6
  c.microbatch = 48
  c.sampling.update(max_new_tokens=1024, cache_dtype="bfloat16")
  c.loss.kl_beta = 1e-3
  c.optimizer.learning_rate = 1e-6
  c.sql.update(judge=2.0, ranks="watch")
  c.model.update(path="Qwen/Qwen2.5-Coder-7B-Instruct", dtype="bfloat16",
                 remat="full")  # fmt: skip
  c.task = c.task.__class__(
    {
      "name": "text",
      # BIRD's training questions as chats with the schema, and the columns
      # `database` (path of a SQLite file) and `gold`
      "train": "data/bird_train.jsonl",
      "test": "data/bird_dev.jsonl",
      "prompt_length": 4096,
      # rewards/bird.py is yours: the language model that judges
      "rewards": "rlreward.rewards.execute:sql_partial,rewards/bird.py:judge",
    }
  )
  c.mesh.update(fsdp=8)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and data."""
  c: Any = common.base()
  c.algorithm = "reasoning_sql"
  if arg == "pod":
    return pod(c)
  c.steps = 200
  c.prompts_per_step = 16
  c.samples_per_prompt = 8
  c.sampling.max_new_tokens = 21
  c.optimizer.update(learning_rate=5e-4, schedule="cosine", warmup_steps=10)
  c.model.update(
    vocab=42, width=64, layers=2, heads=4, kv_heads=4, head_dim=16, mlp=128
  )
  c.task = c.task.__class__(
    {"name": "toy_sql", "reward": "parts", "shown": 1, "garble": 0.75}
  )
  c.eval.update(every=0, prompts=240)
  c.checkpoint.every = 1000
  c.log.update(every=50, samples_every=0, tensorboard=False)
  c.start.update(
    {
      "algorithm": "sft",
      "steps": 300,
      "prompts_per_step": 64,
      "samples_per_prompt": 1,
      "optimizer": {
        "learning_rate": 2e-3,
        "warmup_steps": 10,
        "schedule": "constant",
      },
      "eval": {"every": 0},
    }
  )
  return c
