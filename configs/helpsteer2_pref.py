"""Ratings first, then preferences scaled by their strength: each adds its own.

400 prompts with two answers of words, rated and compared. Ratings 0 to 4 move
together from prompt to prompt; preferences see the difference alone, in three
strengths.

Paper: HelpSteer2-Preference: Complementing Ratings with Preferences, arXiv
2410.01257.

Run:  rlreward train --config=configs/helpsteer2_pref.py:mini
      python -m rlreward.claims configs/helpsteer2_pref.py:mini
About 10 seconds for an arm on 2 CPU cores, both stages.
At scale: configs/helpsteer2_pref.py:pod (Llama-3.1-70B-Instruct, HelpSteer2).
"""

from typing import Any

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
# One step at rate 0 in place of the earlier stage.
ALONE = {"start.steps": 1, "start.optimizer.learning_rate": 0.0}
REGRESSION = {**ALONE, "reward_model.kind": "mse", "steps": 120}
REGULAR = {"preference.strength": False}
MARGIN = {**REGULAR, "reward_model.margin": True}
ARMS = (
  Arm("regression", REGRESSION),
  Arm("bt", {**ALONE, **REGULAR}),
  Arm("margin", {**ALONE, **MARGIN}),
  Arm("scaled", ALONE),
  Arm("regression_bt", REGULAR),
  Arm("regression_margin", MARGIN),
  Arm("regression_scaled", {}),
)


def claim(r):
  """ """
  return False


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and data."""
  c: Any = common.base()
  c.algorithm = "helpsteer2_pref"
  c.samples_per_prompt = 1
  c.steps = 60
  c.prompts_per_step = 100  # pairs, or ratings
  c.optimizer.update(
    learning_rate=3e-3, schedule="cosine", warmup_steps=5, weight_decay=1.0
  )
  c.reward_model.update(centering=0.0, expo=(1.25, 1.5, 2.0))
  c.preference.strength = True
  c.model.update(
    vocab=50,
    width=32,
    layers=1,
    heads=2,
    kv_heads=2,
    head_dim=16,
    mlp=32,
    outputs=1,
  )
  c.task = c.task.__class__(
    {
      "name": "rated_pairs",
      "prompts": 400,
      "offset": 1.0,
      "rating_noise": 0.5,
      "preference_noise": 1.0,
      "world": 0,
    }
  )
  c.eval.update(every=0, prompts=4096)
  c.log.update(every=20, samples_every=0)
  c.checkpoint.every = 1000
  c.start.update(
    {
      "steps": 120,
      "reward_model": {"kind": "mse", "expo": ()},
      "preference": {"strength": False},
    }
  )
  return c
