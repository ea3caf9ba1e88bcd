"""Step rewards that cannot be earned by filler: clip, and clip with delta.

A problem is solved by one token, after at most 11 tokens of filler, and a
process reward model finds filler flawless (0.9; the right token 0.8, a wrong
one 0.3). Paper: On Designing Effective RL Reward at Training Time for LLM
Reasoning, arXiv 2410.15115.

Run:  rlreward train --config=configs/clip_delta.py:mini
About 20 seconds for an arm on 2 CPU cores.
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


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and data."""
  c: Any = common.base()
  c.algorithm = "clip_delta"
  c.process.update(alpha=0.1, quantile=0.3)
  c.credit.update(lam=1.0)
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
