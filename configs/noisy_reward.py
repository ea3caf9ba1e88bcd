"""Rewards that are wrong for two questions in five still teach.

A tiny transformer imitates a cipher of which three in five answers are wrong,
then GRPO trains it on the exact answer. In training a share of the questions is
judged by 1 - r, evaluation is exact and never noisy. The claim is of the gain
in held-out accuracy: with 40 % of the questions turned (`noisy`) it is at least
half of the gain without noise (`clean`), and with 50 % (`blind`), where the
mean gradient is zero, at most a quarter. The broken variant (`turned`, 60 %)
goes backwards, from 0.45 to 0.11 with seed 0: its mean gradient is that of
`noisy` with its sign changed.

Steps are plain gradients here, so that T steps at a flip rate p are worth about
(1 - 2 p) T clean ones; `experiments/noise.py` draws that law beside what is
measured, for flips of questions and of single answers. A bandit with flips and
with a calibrated judge is in tests/test_noisy_reward_method.py.
Paper: The Climb Carves Wisdom Deeper Than the Summit: On the Noisy Rewards in
Learning to Reason, arXiv 2505.22653.

Run:  rlreward train --config=configs/noisy_reward.py:mini
      python -m rlreward.claims configs/noisy_reward.py:mini
About 40 seconds for an arm on 2 CPU cores, most of them the start.
At scale: configs/noisy_reward.py:pod (Qwen2.5-7B on Open-Reasoner-Zero).
"""

from typing import Any

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
ARMS = (
  Arm("clean", {}),
  Arm("noisy", {"noise.flip": 0.4}),
  Arm("blind", {"noise.flip": 0.5}),
)
BROKEN = Arm("turned", {"noise.flip": 0.6})


def gain(arm):
  """What training adds to the exact accuracy on held-out questions."""
  return arm["last/exact_reward"] - arm["first/exact_reward"]


def claim(r):
  """40 % of flips leave half of the gain or more, 50 % a quarter or less."""
  clean = gain(r["clean"])
  kept = gain(r["noisy"]) >= 0.5 * clean
  return bool(clean >= 0.3 and kept and gain(r["blind"]) <= 0.25 * clean)


def pod(c):
  """Qwen2.5-7B on Open-Reasoner-Zero's 57 thousand questions, PPO, p = 0.4.

  `verify:answered` keeps rows without an answer from being turned, as in the
  authors' code. RPR alone is `noise.reward=reasoning`; RPR for what is judged
  wrong is `noise.aux=reasoning,noise.alpha=1.0`. The entropy bonus is the
  default of their trainer; it samples at temperature 1.
  """
  c.steps = 150
  c.prompts_per_step = 128
  c.samples_per_prompt = 4
  c.microbatch = 64
  c.sampling.update(max_new_tokens=4096, cache_dtype="bfloat16")
  c.loss.entropy = 0.001
  c.optimizer.learning_rate = 1e-6
  c.credit.update(lam=1.0, gamma=1.0)
  c.critic.update(rate=5e-6, start="policy", clip=0.5, warmup=20)
  c.noise.update(flip=0.4, answered="answered")
  c.model.update(path="Qwen/Qwen2.5-7B", dtype="bfloat16", remat="full")
  c.task = c.task.__class__(
    {
      "name": "text",
      # Open-Reasoner-Zero's orz_math_57k_collected with `prompt`, `answer`
      "train": "data/orz_math_57k.jsonl",
      "test": "data/math_500.jsonl",
      "prompt_length": 768,
      "rewards": "verify:math,verify:answered@0,verify:reasoning@0",
    }
  )
  c.mesh.update(fsdp=8)
  c.eval.update(every=5, prompts=500)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and data."""
  c: Any = common.base()
  c.algorithm = "noisy_reward"
  if arg == "pod":
    return pod(c)
  c.reference = "always"
  c.steps = 200
  c.prompts_per_step = 64
  c.samples_per_prompt = 8
  c.sampling.max_new_tokens = 3
  c.credit.baseline = "group"
  # An eps far above the gradient makes Adam linear in it, as SGD is.
  c.optimizer.update(learning_rate=60.0, eps=1e3, clip_norm=0.0)
  c.model.update(
    vocab=31, width=32, layers=2, heads=2, kv_heads=2, head_dim=16, mlp=64
  )
  c.task = c.task.__class__(
    {"name": "cipher", "letters": 6, "length": 2, "noise": 0.6, "holdout": 0.2}
  )
  c.frontier.samples = 32  # answers are listed: this turns it on
  c.eval.update(every=40, prompts=128)
  c.checkpoint.every = 1000
  c.log.update(every=50, samples_every=0, tensorboard=False)
  c.start.update(
    {
      "algorithm": "sft",
      "steps": 800,
      "prompts_per_step": 128,
      "samples_per_prompt": 1,
      "credit": {"baseline": ""},
      "optimizer": {
        "learning_rate": 5e-3,
        "eps": 1e-8,
        "clip_norm": 1.0,
        "schedule": "cosine",
        "warmup_steps": 20,
      },
      "eval": {"every": 0},
      "frontier": {"samples": 0},
    }
  )
  return c
