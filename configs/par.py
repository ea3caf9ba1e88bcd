"""A reward model with heavy tails: the chance to beat the reference is safer.

The proxy is the gold plus an error for each answer, of Student's t with two
degrees of freedom: the answers that it likes best are its mistakes. Three
shapes of it spend the same nat of KL (the price is solved for in every step):
PAR, the raw reward and PAR that begins to pay late (`slow`, its control), and
all answers are listed, so that KL and gold of each policy are exact. The claim:
PAR's gold is at least 0.15 above that of the raw reward and 0.1 above the slow
one's. The broken variant (`mean_std`) divides the reward by its spread over the
run: an affine map is the same optimum at another price, and nothing is won.

As measured it does not hold: PAR is 0.29 above the raw reward, but 0.09 above
the slow one (seeds 0 to 2), and as much in 600 steps (seeds 10 to 12). The
optima are 0.31 and 0.18 apart: the slow policy reaches all of its own, a gain
of 0.41, and PAR's 0.54 of 0.59.

In closed form, of 20,000 answers with gold N(0, 1) and an error of 0.7 t(2), at
2 nats (experiments/shaping.py): PAR 0.8, raw 0.2, slow 0.4, and where the
error has thin tails PAR loses 0.05 of 1.59: a shape is almost free there.
Paper: Reward Shaping to Mitigate Reward Hacking in RLHF, arXiv 2502.18770.

Run:  rlreward train --config=configs/par.py:mini
      python -m rlreward.claims configs/par.py:mini
About 10 seconds for an arm on 2 CPU cores.
At scale: configs/par.py:pod (Gemma 2 2B on UltraFeedback).
"""

from typing import Any

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
NATS = 1.0
ARMS = (
  Arm("par", {}),
  Arm("raw", {"shaping.link": "sum"}),
  Arm("slow", {"shaping.shift": 3.0}),
)
BROKEN = Arm("mean_std", {"shaping.link": "mean_std"})


def better(arm, other, margin):
  """Whether an arm has more gold by a margin, both at the budget of KL."""
  kept = all(abs(a["last/exact_kl"] / NATS - 1) <= 0.1 for a in (arm, other))
  return bool(
    kept and arm["last/exact_gold"] >= other["last/exact_gold"] + margin
  )


def claim(r):
  """At equal KL PAR has 0.15 more gold than raw, and 0.1 more than slow."""
  return better(r["par"], r["raw"], 0.15) and better(r["par"], r["slow"], 0.1)


def pod(c):
  """Gemma 2 2B on UltraFeedback, PPO with the paper's numbers.

  The paper keeps a replay of 4 batches of 40; here a rollout of 160 prompts is
  cut into 4 updates. It samples with top-p 0.9 and top-k 50 at temperature 0.9;
  training on a truncated law is refused here, so the temperature alone is
  kept.
  """
  c.steps = 760  # two epochs of 61 thousand prompts
  c.prompts_per_step = 160
  c.samples_per_prompt = 1
  c.updates_per_step = 4
  c.microbatch = 40
  c.sampling.update(max_new_tokens=512, temperature=0.9, cache_dtype="bfloat16")
  c.optimizer.learning_rate = 3e-7
  c.critic.update(rate=5e-6, start="policy")
  c.credit.update(lam=0.95, target="return")
  c.kl_reward.beta = 0.005
  c.shaping.update(samples=10, long=300, long_price=0.01)
  c.model.update(path="google/gemma-2-2b", dtype="bfloat16", remat="full")
  c.task = c.task.__class__(
    {
      "name": "text",
      # prompts of HuggingFaceH4/ultrafeedback_binarized, train_prefs
      "train": "data/ultrafeedback_prompts.jsonl",
      "holdout": 0.02,
      "prompt_length": 512,
      # a reward model that was fitted to its pairs, see configs/hh_reward.py
      "rewards": "rewards/ultrafeedback.py:reward",
    }
  )
  c.mesh.update(fsdp=8)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and data."""
  c: Any = common.base()
  c.algorithm = "par"
  c.reference = "always"
  c.shaping.link = "preference"
  if arg == "pod":
    return pod(c)
  c.steps = 200
  c.prompts_per_step = 32
  c.samples_per_prompt = 16
  c.sampling.max_new_tokens = 2
  c.credit.baseline = "group"
  c.kl_reward.budget = NATS
  c.shaping.samples = 10
  c.optimizer.update(learning_rate=1e-2, schedule="cosine", warmup_steps=10)
  c.model.update(
    vocab=11, width=32, layers=1, heads=2, kv_heads=2, head_dim=16, mlp=64
  )
  # The base is the network as it was drawn, near a uniform law.
  c.task = c.task.__class__(
    {
      "name": "biased",
      "topics": 8,
      "length": 2,
      "stop": 1 / 11,
      "shares": (0.1, 0.7, 0.1, 0.1),
      "attribute_bias": 0.0,
      "tail": 1.0,
      "df": 2.0,
      "world": 0,
    }
  )
  c.frontier.samples = 32  # answers are listed: this turns it on
  c.eval.update(every=0, prompts=8)
  c.checkpoint.every = 1000
  c.log.update(every=50, samples_every=0, tensorboard=False)
  return c
