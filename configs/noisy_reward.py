""" """

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


def claim(r):
  return True


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and data."""
  c: Any = common.base()
  c.algorithm = "noisy_reward"
  c.reference = "always"
  c.steps = 120
  c.prompts_per_step = 64
  c.samples_per_prompt = 8
  c.sampling.max_new_tokens = 3
  c.credit.baseline = "group"
  # An eps far above the gradient makes Adam linear in it, as SGD is.
  c.optimizer.update(learning_rate=300.0, eps=1e3, clip_norm=0.0)
  c.model.update(
    vocab=31, width=32, layers=2, heads=2, kv_heads=2, head_dim=16, mlp=64
  )
  c.task = c.task.__class__(
    {"name": "cipher", "letters": 5, "length": 2, "noise": 0.5}
  )
  c.frontier.samples = 32  # answers are listed: this turns it on
  c.eval.update(every=40, prompts=128)
  c.checkpoint.every = 1000
  c.log.update(every=50, samples_every=0, tensorboard=False)
  c.start.update(
    {
      "algorithm": "sft",
      "steps": 600,
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
