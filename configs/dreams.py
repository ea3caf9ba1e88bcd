"""GRPO on a real checkpoint: a tiny trained Llama learns to dream calmly.

The checkpoint is in the llama2.c layout (github.com/mc9625/ai-dreamer-esp32,
about 230k parameters, 512 pieces). Convert it once to the Hugging Face layout;
it is then loaded like any other:

  python -m rlreward.models.llama2c MODEL.bin.gz tok512.bin runs/dreams_hf
  rlreward train --config=configs/dreams.py

The prompts and the reward are plain functions in examples/dreams.py. The reward
rises while the KL to the checkpoint stays within `kl_budget`, in nats for each
response. About 3 minutes on 2 CPU cores.
"""

from configs import common
from rlreward.types import Arm

PRESETS = ("mini",)
ARMS = (Arm("kl", {}),)
KL_BUDGET = 8.0  # nats per response, on held-out prompts


def claim(r):
  """The held-out reward rises by 0.2 within the KL budget."""
  kl = r["kl"]
  return (
    kl["last/reward"] > kl["first/reward"] + 0.2 and kl["last/kl"] < KL_BUDGET
  )


def get_config(arg="mini"):
  """One size: the checkpoint decides it."""
  del arg
  c = common.base()
  c.algorithm = "grpo"
  c.steps = 120
  c.prompts_per_step = 16
  c.samples_per_prompt = 8
  c.sampling.max_new_tokens = 64
  c.model.path = "runs/dreams_hf"
  c.optimizer.update(learning_rate=2e-4, warmup_steps=5)
  c.loss.update(kl_beta=0.2, kl="reverse")
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": "examples/dreams.py:prompts",
      "holdout": 0.17,
      "prompt_length": 16,
      "rewards": "examples/dreams.py:dream",
    }
  )
  c.eval.update(every=40, prompts=64)
  c.checkpoint.every = 40
  c.log.update(every=10, samples_every=20)
  return c
