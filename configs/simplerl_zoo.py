"""A price on the format keeps a base model from the answers that are right.

The base answers in a short style nine times in ten, which it boxes and which is
right 15 times in 100, or in a long one, which it seldom boxes and which is
right six times in ten (rlreward/tasks/styled.py). Three rewards train it: 1 for
a right answer, boxed or not (`correct`); -1 for whatever is not boxed, else 1
or -0.5 (`mix`); and the four values 1, 0.5, -0.5, -1 (`strict`). The claim: the
policy that is paid for correctness alone ends at least 0.3 more accurate than
that of `mix`, which boxes its short answers better and loses the long ones. The
broken variant (`fluent`) is `mix` on a base that boxes both styles alike: there
the price on the format does no harm.

As measured it does not hold: in all three seeds `mix` has lost the long answers
by step 200 (0.16 right at most), but in one it finds them again before the end,
and the mean gap is 0.296. A bandit of three logits with the same rates
(tests/test_simplerl_zoo_method.py) loses them with each of 8 seeds: 0.597
against 0.153.

What the harm hangs on: `strict` still pays a right answer more than a wrong
one whatever its form, and finds the long answers. Steps are plain gradients
(Adam with an `eps` above any of them). With Adam's usual one (the arm `adam`)
the box of the long answers, though they have become rare, is learned as fast as
that of the short ones, and `mix` turns back; so it does where both have the
same forms (`task.shared`).
Paper: SimpleRL-Zoo, arXiv 2503.18892.

Run:  rlreward train --config=configs/simplerl_zoo.py:mini
      python -m rlreward.claims configs/simplerl_zoo.py:mini
About 15 seconds for an arm on 2 CPU cores.
At scale: configs/simplerl_zoo.py:pod (Qwen2.5-Math-7B on SimpleRL-Zoo's data).
"""

from typing import Any

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod", "easy", "medium")
ADAM = {
  "optimizer.learning_rate": 1e-3,
  "optimizer.eps": 1e-8,
  "optimizer.clip_norm": 1.0,
}
ARMS = (
  Arm("correct", {}),
  Arm("mix", {"format.table": "mix"}),
  Arm("strict", {"format.table": "strict"}),
  Arm("adam", {"format.table": "mix", **ADAM}),
)
BROKEN = Arm("fluent", {"format.table": "mix", "task.boxed": (0.9, 0.9)})
# Files of hkust-nlp/SimpleRL-Zoo-Data, 8 thousand prompts each.
SETS = {
  "easy": "simplelr_abel_level1to1",  # GSM8K and level 1 of MATH
  "medium": "simplelr_abel_level1to4",  # MATH, levels 1 to 4
  "pod": "simplelr_abel_level3to5",  # hard: MATH, levels 3 to 5
}


def claim(r):
  """Paid for correctness alone, 0.3 more are right than with `mix`."""
  return r["correct"]["last/correct"] >= r["mix"]["last/correct"] + 0.3


def pod(c, data):
  """Qwen2.5-Math-7B, GRPO with the paper's numbers, on one of its sets.

  The columns of the set are `prompt` (the question in the template "simple",
  for weak base models, or "complex", a chat that asks for a box) and `answer`.
  """
  c.steps = 100
  c.prompts_per_step = 1024
  c.samples_per_prompt = 8
  c.updates_per_step = 4  # mini-batches of 256 prompts
  c.microbatch = 64
  c.sampling.update(max_new_tokens=8192, cache_dtype="bfloat16")
  c.optimizer.learning_rate = 5e-7
  c.format.update(right="math", formed="boxed")
  c.model.update(path="Qwen/Qwen2.5-Math-7B", dtype="bfloat16", remat="full")
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": f"data/{SETS[data]}.jsonl",
      "holdout": 0.02,
      "prompt_length": 1024,
      "rewards": "verify:math,verify:boxed@0",
    }
  )
  c.mesh.update(fsdp=8)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and hard data.

  `easy` and `medium` are `pod` on the other two sets.
  """
  c: Any = common.base()
  c.algorithm = "simplerl_zoo"
  c.loss.update(kl_beta=1e-4, entropy=1e-3)
  if arg != "mini":
    return pod(c, arg)
  c.steps = 300
  c.prompts_per_step = 32
  c.samples_per_prompt = 8
  c.sampling.max_new_tokens = 3
  c.format.formed = "boxed"
  # Adam with an eps above every gradient is momentum: 0.05 times the gradient.
  c.optimizer.update(
    learning_rate=0.05, warmup_steps=10, eps=1.0, clip_norm=0.0
  )
  c.model.update(
    vocab=9, width=32, layers=1, heads=2, kv_heads=2, head_dim=16, mlp=64
  )
  c.task = c.task.__class__(
    {"name": "styled", "long": 0.1, "accuracy": (0.15, 0.6),
     "boxed": (0.9, 0.15)}
  )  # fmt: skip
  c.eval.update(every=100, prompts=1024)
  c.checkpoint.every = 1000
  c.log.update(every=50, samples_every=0, tensorboard=False)
  c.start.update(
    {
      "algorithm": "sft",
      "steps": 300,
      "prompts_per_step": 256,
      "samples_per_prompt": 1,
      "loss": {"kl_beta": 0.0, "entropy": 0.0},
      "optimizer": {
        "learning_rate": 5e-3,
        "schedule": "cosine",
        "eps": 1e-8,
        "clip_norm": 1.0,
      },
      "eval": {"every": 0},
      "log": {"every": 100},
    }
  )
  return c
