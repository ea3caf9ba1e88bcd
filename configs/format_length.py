"""Form and length in place of the answer: formed as asked, and not solved.

The base knows how to solve its problems (0.8 of the answers of 12 tokens or
more are right) and finishes badly: of 64 tokens it uses 40, a
third of its answers is cut, and of the others one in five has a box. Three
rewards train it: a thought, a readable answer and a length near half the budget
(format_length), the first two (format_only), and a thought and a right answer
(correctness). The claim: with format_length the mean length is within 10% of
half the budget, more than 0.95 of the answers are finished, and as many are
right as 0.95 of those with the correctness reward; format_only lies between the
base and format_length. The broken variant (`short`) has its peak at a tenth of
the budget, below what solving needs: nothing is right.

As measured (seeds 0 to 2): right 0.79 with format_length and 0.78 with the
correctness reward, from 0.08. Format alone comes to 0.43 on average, and to
0.09, 0.48 and 0.71 by seed: nothing but the price of being cut sets its length,
which ends at 8, 13 and 20 tokens.

What surrogates leave open: in a world in which only the words before the box
count as work (`task.counts="words"`, measured first, at a higher rate) the
policy boxes first and fills up with boxes, as one run of the paper's authors
did (results/format_length_real.md): 32 tokens, all finished, none right.
Paper: Surrogate Signals from Format and Length, arXiv 2505.19439.

Run:  rlreward train --config=configs/format_length.py:mini
      python -m rlreward.claims configs/format_length.py:mini
About 30 seconds for an arm on 2 CPU cores.
At scale: configs/format_length.py:pod (Qwen2.5-Math-7B on DeepScaleR).
"""

from typing import Any

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
BUDGET, PEAK = 64, 0.5
ARMS = (
  Arm("format_length", {}),
  Arm("format_only", {"shaping.link": "format_only"}),
  Arm("correctness", {"shaping.link": "correctness"}),
)
BROKEN = Arm("short", {"shaping.peak": 0.1})


def finished(arm, other):
  """Whether an arm's answers are finished, and as right as the other's."""
  length = arm["last/length"] / BUDGET
  formed = abs(length / PEAK - 1) <= 0.1 and arm["last/answered"] > 0.95
  return bool(formed and arm["last/correct"] >= 0.95 * other["last/correct"])


def claim(r):
  """As right as with gold answers, and format alone lies between."""
  own, only = r["format_length"], r["format_only"]
  between = own["first/correct"] < only["last/correct"] < own["last/correct"]
  return finished(own, r["correctness"]) and bool(between)


def pod(c):
  """Qwen2.5-Math-7B on DeepScaleR with the numbers of the released script."""
  c.steps = 100
  c.prompts_per_step = 128
  c.samples_per_prompt = 8
  c.microbatch = 64
  c.sampling.update(
    max_new_tokens=3072, temperature=0.6, cache_dtype="bfloat16"
  )
  c.loss.kl_beta = 1e-3
  c.optimizer.learning_rate = 1e-6
  c.shaping.names = ("thought", "readable")
  c.model.update(path="Qwen/Qwen2.5-Math-7B", dtype="bfloat16", remat="full")
  c.task = c.task.__class__(
    {
      "name": "text",
      # prompts of agentica-org/DeepScaleR-Preview-Dataset, 17 thousand
      "train": "data/deepscaler_prompts.jsonl",
      "holdout": 0.01,
      "prompt_length": 1024,
      "rewards": "verify:thought,verify:readable",
    }
  )
  c.mesh.update(fsdp=16)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and data."""
  c: Any = common.base()
  c.algorithm = "format_length"
  c.shaping.update(link="format_length", peak=PEAK)
  if arg == "pod":
    return pod(c)
  c.steps = 100
  c.prompts_per_step = 8
  c.samples_per_prompt = 8
  c.sampling.max_new_tokens = BUDGET
  c.optimizer.update(learning_rate=1e-3, schedule="cosine", warmup_steps=10)
  c.model.update(
    vocab=6, width=32, layers=2, heads=2, kv_heads=2, head_dim=16, mlp=64
  )
  c.task = c.task.__class__({"name": "finishing", "budget": BUDGET})
  c.eval.update(every=0, prompts=512)
  c.checkpoint.every = 1000
  c.log.update(every=50, samples_every=0, tensorboard=False)
  c.start.update(
    {
      "algorithm": "sft",
      "steps": 120,
      "prompts_per_step": 64,
      "samples_per_prompt": 1,
      "optimizer": {"learning_rate": 5e-3},
      "eval": {"every": 0},
      "log": {"every": 50},
    }
  )
  return c
