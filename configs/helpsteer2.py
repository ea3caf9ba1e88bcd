"""SteerLM 2.0 reaches the posterior of what is asked; imitation does not.

Paper: HelpSteer2: Open-source dataset for training top-performing reward
models, arXiv 2406.08673.

Run:  rlreward train --config=configs/helpsteer2.py:mini
      python -m rlreward.claims configs/helpsteer2.py:mini
About 30 seconds for an arm on 2 CPU cores, both stages.
At scale: configs/helpsteer2.py:pod.
"""

from typing import Any

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod", "pod_policy")
_RATINGS = {
  "model.outputs": 5,
  "reward_model.kind": "mse",
  "start.algorithm": "helpsteer2",
  "start.model.outputs": 5,
  "start.reward_model.kind": "mse",
  "start.steps": 1,
  "start.optimizer.learning_rate": 0.0,
  "prompts_per_step": 128,
  "steps": 200,
  "eval.prompts": 4096,
}
ARMS = (
  Arm("steerlm2", {}),
  Arm("no_baseline", {"steer.baseline": False}),
  Arm("sft", {"steer.weights": "uniform"}),
  Arm("ratings", _RATINGS),
  Arm("filled", {**_RATINGS, "task.fill": "zero"}),
)


def claim(r):
  """ """
  return False


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and data."""
  c: Any = common.base()
  c.algorithm = "helpsteer2"
  c.samples_per_prompt = 1  # of the policy itself, to watch it
  c.steps = 400
  c.prompts_per_step = 32
  c.sampling.max_new_tokens = 2
  c.steer.update(samples=10, attributes=("helpfulness",), levels=(4,))
  c.optimizer.update(
    learning_rate=3e-3, schedule="cosine", warmup_steps=10, final_fraction=0.02
  )
  c.model.update(
    vocab=8, width=32, layers=1, heads=2, kv_heads=2, head_dim=16, mlp=64
  )
  c.task = c.task.__class__({"name": "likert", "fill": "nan", "world": 0})
  c.eval.update(every=100, prompts=64)
  c.log.update(every=50, samples_every=0)
  c.checkpoint.every = 1000
  c.start.update(
    {
      "algorithm": "sft",
      "steps": 300,
      "prompts_per_step": 256,
      "model": {"outputs": 0},
      "reward_model": {"kind": "bradley_terry"},
      "optimizer": {"learning_rate": 5e-3},
      "eval": {"every": 0},
      "log": {"every": 100},
    }
  )
  return c
