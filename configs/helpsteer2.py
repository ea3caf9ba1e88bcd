"""SteerLM 2.0 reaches the posterior of what is asked; imitation does not.

Four prompts with 64 answers each, of which everything is known. The policy
starts at a first attempt, the prior tilted toward helpfulness, whose answers it
is trained on, and helpfulness of level 4 is asked for. The claim, with 200
steps of 32 groups of 10: KL(P||Q) to the posterior falls below 0.02 and the
mean rating is within 0.03 of the posterior's (`steerlm2`), while imitation of
the same answers (`sft`, the broken variant) stays above 0.2. Without the
baseline the late gradients are more than twice as large (`no_baseline`). Beside
it the reward model of five attributes: where three in ten ratings are missing
and left out (`ratings`), goodness orders held-out answers better, by 0.01, than
where they count as zeros (`filled`).
Paper: HelpSteer2: Open-source dataset for training top-performing reward
models, arXiv 2406.08673.

Run:  rlreward train --config=configs/helpsteer2.py:mini
      python -m rlreward.claims configs/helpsteer2.py:mini
About 20 seconds for an arm on 2 CPU cores, both stages.
At scale: configs/helpsteer2.py:pod, the reward model (Llama-3.1-70B-Instruct on
nvidia/HelpSteer2), and configs/helpsteer2.py:policy, SteerLM 2.0 with it.
"""

from typing import Any

import numpy as np

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod", "policy")
# The first stage moves nothing: a reward model is trained from scratch.
_RATINGS = {
  "model.outputs": 5,
  "reward_model.kind": "mse",
  "start.algorithm": "helpsteer2",
  "start.model.outputs": 5,
  "start.reward_model.kind": "mse",
  "start.steps": 12,
  "start.optimizer.learning_rate": 1e-12,
  "prompts_per_step": 128,
  "eval.prompts": 2048,
}
BROKEN = Arm("sft", {"steer.weights": "uniform"})
ARMS = (
  Arm("steerlm2", {}),
  Arm("no_baseline", {"steer.baseline": False}),
  BROKEN,
  Arm("ratings", _RATINGS),
  Arm("filled", {**_RATINGS, "task.fill": "zero"}),
)


def steered(arm):
  """Whether the policy is at the posterior: in KL and in what was asked for."""
  near = arm["last/held/posterior_kl"] < 0.02
  return bool(near and arm["last/held/asked_gap"] < 0.03)


def noise(arm):
  """Mean gradient norm over the last tenth of the steps."""
  return float(np.mean([run["train"]["grad_norm"] for run in arm["runs"]]))


def claim(r):
  """At the posterior, where imitation stays away; calmer with the baseline."""
  away = r["sft"]["last/held/posterior_kl"] > 0.2
  calm = noise(r["no_baseline"]) > 2 * noise(r["steerlm2"])
  right = [r[k]["last/held/accuracy"] for k in ("ratings", "filled")]
  rated = right[0] > right[1] + 0.01
  return bool(steered(r["steerlm2"]) and away and calm and rated)


def llama(c):
  """Llama-3.1-70B-Instruct, the successor of the paper's base, on 256 chips."""
  c.model.update(
    path="meta-llama/Llama-3.1-70B-Instruct",
    vocab=128_256,
    width=8192,
    layers=80,
    heads=64,
    kv_heads=8,
    head_dim=128,
    mlp=28_672,
    rope_theta=500_000.0,
    dtype="bfloat16",
    remat="full",
  )
  c.mesh.update(fsdp=64, tensor=4)
  return c


def pod(c):
  """The reward model: five attributes of nvidia/HelpSteer2, 2 epochs.

  A local JSONL with `prompt`, `response` and the five columns; where another
  data set has no such rating, the column is null.
  """
  c = llama(c)
  c.steps = 317
  c.prompts_per_step = 128
  c.microbatch = 32
  c.model.outputs = 5
  c.reward_model.kind = "mse"
  c.optimizer.update(learning_rate=2e-6, warmup_steps=10, weight_decay=0.0)
  c.task = c.task.__class__(
    {
      "name": "ratings",
      "train": "data/helpsteer2_train.jsonl",
      "test": "data/helpsteer2_validation.jsonl",
      "completion": "response",
      "attributes": "helpfulness,correctness,coherence,complexity,verbosity",
      "prompt_length": 3072,
      "answer_length": 1024,
    }
  )
  c.eval.update(every=50, prompts=512)
  return c


def policy(c):
  """SteerLM 2.0 on 20,000 prompts, an iteration of 2 epochs.

  `model.path` is to be the export of the SteerLM policy Q', and `teacher.path`
  that of the plain fine-tuned model, the prior. `attributes` in your file asks
  the reward model of `pod` and reports its five outputs by name. The paper
  samples at 0.7 from a nucleus of 0.9; a nucleus cannot be weighted by shares.
  """
  c = llama(c)
  c.steps = 312
  c.prompts_per_step = 128
  c.microbatch = 128
  c.sampling.update(
    max_new_tokens=1024, temperature=0.7, cache_dtype="bfloat16"
  )
  c.steer.update(
    samples=10,
    attributes=(
      "helpfulness",
      "correctness",
      "coherence",
      "complexity",
      "verbosity",
    ),
    levels=(4, 4, 4, 2, 2),
  )
  c.optimizer.update(learning_rate=1e-7, warmup_steps=10, weight_decay=0.0)
  c.model.path = "runs/steerlm/export"
  c.teacher.path = "runs/sft/export"
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": "data/helpsteer2_prompts.jsonl",
      "holdout": 0.02,
      "prompt_length": 3072,
      "rewards": "rewards/helpsteer2.py:attributes",
    }
  )
  c.eval.update(every=50, prompts=256)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and data."""
  c: Any = common.base()
  c.algorithm = "helpsteer2"
  c.samples_per_prompt = 1  # of the policy itself, to watch it
  if arg == "pod":
    return pod(c)
  if arg == "policy":
    return policy(c)
  c.steps = 200
  c.prompts_per_step = 32
  c.sampling.max_new_tokens = 2
  c.steer.update(samples=10, attributes=("helpfulness",), levels=(4,))
  c.optimizer.update(
    learning_rate=3e-3, schedule="cosine", warmup_steps=10, final_fraction=0.02
  )
  c.model.update(
    vocab=12, width=32, layers=1, heads=2, kv_heads=2, head_dim=16, mlp=64
  )
  c.task = c.task.__class__({"name": "likert", "fill": "nan", "world": 0})
  c.eval.update(every=0, prompts=64)
  c.log.update(every=50, samples_every=0)
  c.checkpoint.every = 1000
  c.start.update(
    {
      "algorithm": "sft",
      "steps": 200,
      "prompts_per_step": 256,
      "model": {"outputs": 0},
      "reward_model": {"kind": "bradley_terry"},
      "optimizer": {"learning_rate": 5e-3},
      "eval": {"every": 0},
      "log": {"every": 200},
    }
  )
  return c
