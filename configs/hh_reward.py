"""A reward model of real pairs: the tiny Llama on HH-RLHF harmless dialogues.

Bradley-Terry on 0.23 million parameters that were trained on other text, and
some 600 pairs. The claim is only that held-out pairs are ordered better than by
a coin and by the untrained start, by 0.03 on the mean of three seeds; the
record sets the model beside length and a bag of words, and says what came out:
the claim does not hold. The models learn that shorter is better, which is so in
the training pairs and not in the held-out ones; a bag of words does better. The
rate, the steps and the size are first guesses, nothing was tuned.
The broken variant is one that does not train (`steps=1`).
Paper of the loss: Learning to summarize from human feedback, arXiv 2009.01325;
of the data: arXiv 2204.05862.

  python -m rlreward.models.llama2c MODEL.bin.gz tok512.bin runs/dreams_hf
  python examples/hh.py harmless_base_test_0_1200.jsonl.gz runs/hh
  rlreward train --config=configs/hh_reward.py:mini
  python -m experiments.hh_reward

About two minutes on 2 CPU cores.
At scale: configs/hh_reward.py:pod (Qwen2.5-1.5B on all harmless pairs).
"""

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
ARMS = (Arm("bradley_terry", {}),)
BROKEN = {"bradley_terry": {"steps": 1}}


def claim(r):
  """Held-out pairs in the right order, 0.03 above a coin and above the start.

  The start has a drawn head on a trunk that knows other text; on one set of
  pairs that alone can be off a half by chance.
  """
  arm = r["bradley_terry"]
  start = max(0.5, arm["first/held/accuracy"])
  return arm["last/held/accuracy"] > start + 0.03


def pod(c):
  """Qwen2.5-1.5B on the 42,000 harmless pairs; 8 chips, files of the release.

  `data/hh-rlhf` is the data set as it is published, one .jsonl.gz for a split.
  """
  c.steps = 660  # 1 epoch
  c.prompts_per_step = 64
  c.microbatch = 32
  c.optimizer.update(
    learning_rate=1e-5, schedule="cosine", warmup_steps=20, weight_decay=0.0
  )
  c.model.update(
    path="Qwen/Qwen2.5-1.5B", outputs=1, dtype="bfloat16", remat="full"
  )
  c.task.update(
    train="hf:data/hh-rlhf/harmless-base/train",
    test="hf:data/hh-rlhf/harmless-base/test",
    prompt_length=(256, 512, 1024),
    answer_length=512,
  )
  c.eval.update(every=100, prompts=512)
  c.mesh.update(fsdp=8)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names a real model and all pairs."""
  c = common.base()
  c.algorithm = "reward_model"
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": "runs/hh/train.jsonl",
      "test": "runs/hh/test.jsonl",
      "prompt_length": (256, 512),
      "answer_length": 256,
      "on_equal": "drop",
      "window": 16,
    }
  )
  if arg == "pod":
    return pod(c)
  c.steps = 60  # one and a half passes over 620 pairs
  c.prompts_per_step = 16
  c.microbatch = 32
  c.model.update(path="runs/dreams_hf", outputs=1, remat="none")
  c.optimizer.update(
    learning_rate=5e-4, schedule="cosine", warmup_steps=10, weight_decay=0.1
  )
  c.eval.update(every=0, prompts=225)  # each held-out pair that fits, once
  c.checkpoint.every = 20
  c.log.update(every=10, tensorboard=False)
  return c
