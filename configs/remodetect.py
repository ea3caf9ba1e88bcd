"""A reward model finds texts of aligned models, also of those it never saw.

Texts are 24 words by people, by six models that prefer what annotators prefer
and share a direction beside (each has one of its own too), or half of both. A
tiny reward model first learns from comparisons of people's texts, which makes
it a detector already (`first` of every arm but scratch). Then it is shown texts
of one model, mixed ones and people's, and is to keep the rewards of the texts
that were compared (`replay`), or not (`no_replay`); `scratch` begins with
random parameters and has the updates of both stages, `no_mix` is not shown
mixed texts. The claim: on texts of the five unseen models the AUROC rises by
0.02 above the reward model's and is 0.01 above that from scratch, and mean
rewards are in order, models' over mixed over people's. In the record replay and
mixed texts change the mean AUROC by less than 0.01; what replay keeps is the
comparisons (`preferred`). The broken variant (`no_common`) has models that
share no direction but the preferred one: what is learned of one says nothing of
the others.
Paper: ReMoDetect: Reward Models Recognize Aligned LLM's Generations, arXiv
2405.17382.

Run:  rlreward train --config=configs/remodetect.py:mini
      python -m rlreward.claims configs/remodetect.py:mini
About 30 seconds for an arm on 2 CPU cores, both stages.
At scale: configs/remodetect.py:pod (the paper's is DeBERTa on HC3).
"""

from typing import Any

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
BROKEN = Arm("no_common", {"task.common": 0.0})
# A first stage that moves nothing: random parameters, and updates instead.
_SCRATCH = {
  "steps": 180,
  "remodetect.replay": 0.0,
  "start.optimizer.learning_rate": 1e-9,
  "start.steps": 6,
}
ARMS = (
  Arm("replay", {}),
  Arm("no_replay", {"remodetect.replay": 0.0}),
  Arm("scratch", _SCRATCH),
  Arm("no_mix", {"remodetect.weights": (0.0, 1.0, 0.0)}),
  BROKEN,
)


def detects(arm, scratch):
  """Unseen texts: above the start, above scratch, three levels in order."""
  unseen = arm["last/held/auroc/unseen"]
  first, other = arm["first/held/auroc/unseen"], scratch
  level = [arm[f"last/held/level/unseen/{i}"] for i in range(3)]
  better = unseen > first + 0.02 and unseen > other + 0.01
  return bool(better and level[0] > level[1] > level[2])


def claim(r):
  """Fine-tuning with replay finds unseen models better than both ends."""
  return detects(r["replay"], r["scratch"]["last/held/auroc/unseen"])


def pod(c):
  """A Llama-3 reward model on HC3, 3 levels and 2 texts to replay in a row.

  Rows of a local JSONL: no prompt, and the columns `machine`, `mixed`,
  `human`, `preferred`, `other` with `order` (1, 2, 3, 4, 4). Rates are the
  paper's, whose encoder of 435M parameters is not a decoder.
  """
  c.steps = 300
  c.prompts_per_step = 64
  c.microbatch = 80
  c.optimizer.update(
    learning_rate=2e-5, schedule="cosine", warmup_steps=30, weight_decay=0.01
  )
  c.model.update(
    path="Skywork/Skywork-Reward-V2-Llama-3.2-1B",
    outputs=1,
    dtype="bfloat16",
    remat="full",
  )
  c.task = c.task.__class__(
    {
      "name": "rankings",
      "train": "data/hc3_levels.jsonl",
      "holdout": 0.2,
      "prompt": "prompt",
      "answers": "machine,mixed,human,preferred,other",
      "scores": "",
      "ranks": "order",
      "prompt_length": 8,
      "answer_length": 512,
    }
  )
  c.eval.update(every=50, prompts=256)
  c.mesh.update(fsdp=8)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names a real model and data."""
  c: Any = common.base()
  c.algorithm = "remodetect"
  c.samples_per_prompt = 1
  c.remodetect.update(
    weights=(0.35, 1.0, 0.35), l2=0.01, replay=0.01, replayed=2
  )
  if arg == "pod":
    return pod(c)
  c.steps = 60
  c.prompts_per_step = 32  # groups of 5 texts
  c.optimizer.update(
    learning_rate=1e-3, schedule="cosine", warmup_steps=5, weight_decay=0.01
  )
  c.model.update(
    vocab=66,
    width=32,
    layers=1,
    heads=2,
    kv_heads=2,
    head_dim=16,
    mlp=64,
    outputs=1,
  )
  c.task = c.task.__class__(
    {
      "name": "authors",
      "texts": 256,
      "comparisons": 2048,
      "noise": 0.5,
      "preference": 0.2,
      "common": 0.3,
      "own": 0.2,
      "world": 0,
    }
  )
  c.eval.update(every=0, prompts=1536)
  c.log.update(every=20, samples_every=0)
  c.checkpoint.every = 1000
  c.start.update(
    {
      "algorithm": "reward_model",
      "steps": 120,
      "prompts_per_step": 128,
      "optimizer": {"learning_rate": 3e-3},
      "eval": {"prompts": 512},
    }
  )
  return c
