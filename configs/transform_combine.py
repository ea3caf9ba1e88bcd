"""Good in both, not excellent in one: log-sigmoids add up where sums lose.

Answers have two rewards at odds: what is loud in one of them harms the other,
and rewards of hard prompts hardly move. Three ways to combine them spend the
same 2 nats of KL for a response, each at its own price: in closed form 3.836
for a sum, and 0.532 for LSC, of which 0.6 is used, since the learned policy
spends a tenth more than the optimum (seeds 10 to 12). The claim: where the
log-sigmoids over the base's 85th percentile are added (`lsc`), the share of
answers above that percentile in both rewards is at least 0.15 higher than where
the rewards are (`sum`, `centred`), and the tenth percentile over prompts of the
gain in reward is higher too: fewer prompts are left behind. The broken variant
(`shaping.reference=fixed`) compares with 0 in place of the percentile: rewards
have a shift of their own at each prompt, so there one is always good enough and
the other never.
Paper: Transforming and Combining Rewards for Aligning Large Language Models,
arXiv 2402.00742.

Run:  rlreward train --config=configs/transform_combine.py:mini
      python -m rlreward.claims configs/transform_combine.py:mini
About 40 seconds for an arm on 2 CPU cores.
At scale: configs/transform_combine.py:pod (Llama 3.2 1B on Anthropic HH).
"""

import numpy as np

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
NAMES = ("help", "harmless")
NATS, SCALES = 2.0, (0.3, 0.7, 1.4, 2.5)
PROMPTS = len(NAMES) * len(SCALES)
PRICE = {"lsc": 0.6, "sum": 3.836, "centred": 3.836, "fixed": 0.873}
ARMS = (
  Arm("lsc", {}),
  *(Arm(link, {"shaping.link": link, "kl_reward.beta": PRICE[link]})
    for link in ("sum", "centred")),
)  # fmt: skip
BROKEN = Arm(
  "fixed",
  {"shaping.reference": "fixed", "kl_reward.beta": PRICE["fixed"]},
)


def left_behind(arm):
  """Tenth percentile over prompts of the gain in reward, mean of the seeds."""
  gains = [arm[f"last/gain/{i}"] for i in range(PROMPTS)]
  return float(np.percentile(gains, 10))


def better(arm, other):
  """Whether an arm has the claimed margin over another one at equal KL."""
  equal = all(abs(a["last/kl"] / NATS - 1) <= 0.1 for a in (arm, other))
  both = arm["last/reward"] >= other["last/reward"] + 0.15
  return bool(equal and both and left_behind(arm) > left_behind(other))


def claim(r):
  """LSC beats the sum, raw or centred, by 0.15 and leaves fewer behind."""
  return better(r["lsc"], r["sum"]) and better(r["lsc"], r["centred"])


def pod(c):
  """Llama 3.2 1B on Anthropic HH; both reward models in a file of yours."""
  c.steps = 1000
  c.prompts_per_step = 128
  c.samples_per_prompt = 4
  c.microbatch = 64
  c.sampling.update(max_new_tokens=256, cache_dtype="bfloat16")
  c.optimizer.learning_rate = 1e-6
  c.kl_reward.update(beta=0.1, target=20.0, horizon=10_000.0)
  # Help has to beat most of the base's answers, harmlessness a refusal, whose
  # reward `harmless` reports as `harmless_reference`.
  c.shaping.update(
    names=("helpful", "harmless"), reference="quantile,answer", samples=8
  )
  c.model.update(
    path="meta-llama/Llama-3.2-1B-Instruct", dtype="bfloat16", remat="full"
  )
  c.task = c.task.__class__(
    {
      "name": "text",
      # prompts of Anthropic/hh-rlhf, helpful-base and harmless-base
      "train": "data/hh_prompts.jsonl",
      "holdout": 0.05,
      "prompt_length": 512,
      "rewards": "rewards/hh.py:helpful,rewards/hh.py:harmless",
    }
  )
  c.mesh.update(fsdp=8)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and data."""
  c = common.base()
  c.algorithm = "transform_combine"
  c.reference = "always"
  if arg == "pod":
    return pod(c)
  c.steps = 300
  c.prompts_per_step = 24
  c.samples_per_prompt = 16
  c.sampling.max_new_tokens = 6
  c.shaping.update(names=NAMES, samples=16)
  c.kl_reward.beta = PRICE["lsc"]
  c.optimizer.update(learning_rate=5e-3, schedule="cosine", warmup_steps=10)
  c.model.update(
    vocab=8, width=32, layers=2, heads=2, kv_heads=2, head_dim=16, mlp=64
  )
  c.task = c.task.__class__(
    {"name": "attributes", "names": NAMES, "scales": SCALES}
  )
  c.eval.update(every=100, prompts=PROMPTS * 384)
  c.checkpoint.every = 1000
  c.log.update(every=50, samples_every=0)
  c.start.update(
    {
      "algorithm": "sft",
      "steps": 400,
      "prompts_per_step": 384,
      "samples_per_prompt": 1,
      "reference": "auto",
      "kl_reward": {"beta": 0.0},
      "optimizer": {"learning_rate": 5e-3, "final_fraction": 0.01},
      "eval": {"every": 0},
      "log": {"every": 200},
    }
  )
  return c
