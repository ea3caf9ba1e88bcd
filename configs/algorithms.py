"""Every algorithm on one task: two-digit additions from one imitated start.

The preset is the algorithm's name: a small decoder is trained by SFT on
additions of which two in five are wrong (some rows judge an answer, some are
told it), and then by the algorithm. `experiments/algorithms.py` runs them all
and draws reward against KL with the exact frontier of the task.

Run:  rlreward train --config=configs/algorithms.py:ppo
      rlreward train --config=configs/algorithms.py:dpo,preference.kind=robust
About 3 minutes on 2 CPU cores, most of them the common start.
"""

from typing import Any

from configs import common

# What differs from `base` below; the rest is the paper's own default.
CHANGES = {
  "grpo": {},
  "dr_grpo": {},
  "dapo": {"refill_rounds": 1},
  "gspo": {},
  "cispo": {},
  "ppo": {
    "updates_per_step": 2,
    "epochs": 2,
    "loss.kl_stop": 0.1,
    "critic.coefficient": 1.0,
    "optimizer.learning_rate": 5e-4,
  },
  "reinforce": {},
  "rloo": {},
  "remax": {"samples_per_prompt": 7},  # and one greedy answer
  "reinforce_pp": {"samples_per_prompt": 1, "prompts_per_step": 256},
  "bond": {"best_of_n.n": 8},
  "nash_md": {"samples_per_prompt": 7},  # and one of the mixture
  "raft": {"steps": 20, "updates_per_step": 2, "epochs": 2},
  "rest_em": {"steps": 4, "updates_per_step": 8, "epochs": 8},
  "star": {"steps": 4, "updates_per_step": 8, "epochs": 8},
  "online_dpo": {},
  "xpo": {"samples_per_prompt": 1, "prompts_per_step": 128},
  "spin": {"steps": 20, "updates_per_step": 4},
  "self_rewarding": {
    "steps": 10,
    "updates_per_step": 4,
    "optimizer.learning_rate": 1e-4,
  },
  "best_of_n": {"steps": 10},
  "sft": {},
  "dpo": {},
  "ipo": {},
  "simpo": {},
  "cpo": {},
  "orpo": {},
  "kto": {},
  "bco": {},
  "distill": {},
  "reward_model": {
    "model.outputs": 1,
    "steps": 400,
    "optimizer.learning_rate": 1e-3,
  },
}
# Rounds are large: what is selected is cut into updates.
ROUNDS = ("raft", "rest_em", "star", "spin", "self_rewarding")
OFFLINE = ("sft", "dpo", "ipo", "simpo", "cpo", "orpo", "kto", "bco",
           "reward_model")  # fmt: skip
NOISE = 0.4  # share of wrong answers among those that the start imitates
PRESETS = ("mini", *CHANGES)


def base():
  """The model, the task and the budget that all of them share."""
  c: Any = common.base()
  c.steps = 80
  c.prompts_per_step = 32
  c.samples_per_prompt = 8
  c.sampling.max_new_tokens = 4
  c.reference = "always"  # its KL is on the axis of the figure
  c.optimizer.learning_rate = 1e-3
  c.model.update(width=64, layers=2, heads=4, kv_heads=4, head_dim=16, mlp=192)
  c.task.update(
    name="arithmetic",
    digits=2,
    operations="+",
    noise=NOISE,
    judge_share=0.5,
    hint_share=0.1,
  )
  c.eval.update(every=0, prompts=512)
  c.checkpoint.every = 1000
  c.log.every = 10
  return c


def start():
  """Fields of the imitated start."""
  return {
    "algorithm": "sft",
    "steps": 2500,
    "prompts_per_step": 256,
    "samples_per_prompt": 1,
    "updates_per_step": 1,
    "epochs": 1,
    "reference": "auto",
    "refill_rounds": 0,
    "task": {"noise": NOISE},
    "optimizer": {
      "learning_rate": 3e-3,
      "warmup_steps": 50,
      "schedule": "cosine",
    },
    "loss": {"kl_beta": 0.0, "kl_stop": 0.0},
    "eval": {"every": 0},
    "checkpoint": {"every": 1000},
    "log": {"every": 250},
  }


def get_config(arg="mini"):
  """`mini` is GRPO; any other preset is the algorithm of that name."""
  name = "grpo" if arg == "mini" else arg
  c = base()
  c.algorithm = name
  if name in ROUNDS:
    c.prompts_per_step = 256
  if name in OFFLINE:
    c.prompts_per_step = 64
    c.samples_per_prompt = 1
    c.steps = 100
    c.optimizer.learning_rate = 3e-4
    c.task.noise = 0.1  # pairs and labels are better than the start's answers
  for field, value in CHANGES[name].items():
    node: Any = c
    *path, last = field.split(".")
    for part in path:
      node = node[part]
    node[last] = value
  if name not in ("distill", "reward_model"):
    c.start.update(start())
  return c
