"""Ratings first, then preferences scaled by their strength: each adds its own.

400 prompts with two answers of words, rated and compared. Ratings 0 to 4 move
together from prompt to prompt; preferences see the difference alone, in three
strengths or none. The claim, on pairs that were never seen: a reward model of
ratings that goes on with scaled Bradley-Terry (`regression_scaled`) is more
accurate by 0.01 than either stage alone (`regression`, `scaled`), and by 0.003
than one that goes on with regular Bradley-Terry (`regression_bt`). `bt` is the
latter alone. In the record both stages lead `scaled` and `regression_bt` with
every seed; their lead over ratings alone is about a standard error over seeds,
and one of three seeds has it the other way round. Weights beyond the second
stage (ExPO, `accuracy/expo/*`) are not better here, those short of it are.
The broken variant has ratings without an offset (`even`): there ratings alone
(`even_regression`) are as good as what follows, and nothing is left to add.
Paper: HelpSteer2-Preference: Complementing Ratings with Preferences, arXiv
2410.01257.

Run:  rlreward train --config=configs/helpsteer2_pref.py:mini
      python -m rlreward.claims configs/helpsteer2_pref.py:mini
About 10 seconds for an arm on 2 CPU cores, both stages.
At scale: configs/helpsteer2_pref.py:pod (Llama-3.1-70B-Instruct on
nvidia/HelpSteer2), after configs/helpsteer2_pref.py:ratings.
"""

from typing import Any

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "ratings", "pod")
# Steps that move nothing in place of the earlier stage; a whole training then.
ALONE = {
  "start.steps": 12,
  "start.optimizer.learning_rate": 1e-12,
  "reward_model.expo": (),
  "steps": 60,
  "optimizer.learning_rate": 3e-3,
}
REGRESSION = {
  **ALONE,
  "reward_model.kind": "mse",
  "steps": 80,
  "optimizer.weight_decay": 3.0,
  "eval.prompts": 8192,  # ratings, of as many pairs
}
REGULAR = {"preference.strength": False}
EVEN = {"task.offset": 0.0}
BROKEN = Arm("even", EVEN)
ARMS = (
  Arm("regression", REGRESSION),
  Arm("bt", {**ALONE, **REGULAR}),
  Arm("scaled", ALONE),
  Arm("regression_bt", REGULAR),
  Arm("regression_scaled", {}),
  Arm("even_regression", {**EVEN, **REGRESSION}),
  BROKEN,
)
ACCURACY = "last/held/accuracy"


def best(both, alone, scaled, regular):
  """Whether both stages lead each stage alone, and strengths lead signs."""
  lead = [both[ACCURACY] - other[ACCURACY] for other in (alone, scaled)]
  return bool(min(lead) > 0.01 and both[ACCURACY] > regular[ACCURACY] + 0.003)


def claim(r):
  """Regression, then scaled pairs, leads each alone, and regular pairs."""
  own = r["regression_scaled"], r["regression"], r["scaled"]
  return best(*own, r["regression_bt"])


def pod(c):
  """Llama-3.1-70B-Instruct on the preferences of nvidia/HelpSteer2.

  The earlier stage is another run, on the ratings of the same data: `ratings`,
  whose checkpoint `rlreward export` writes to model.path. Rates and batches are
  the authors' (NeMo-Aligner's guide). Both local files are HelpSteer2's: rows
  with `prompt`, `response` and ratings, and pairs of them with the size of
  `preference_strength`, the preferred answer as `chosen`.
  """
  c.steps = 105  # an epoch
  c.prompts_per_step = 64  # pairs
  c.microbatch = 16
  c.optimizer.update(learning_rate=1e-6, warmup_steps=10, weight_decay=0.0)
  c.reward_model.centering = 0.0
  c.preference.strength = True
  c.model.update(
    path="runs/helpsteer2_ratings/export",
    vocab=128_256,
    width=8192,
    layers=80,
    heads=64,
    kv_heads=8,
    head_dim=128,
    mlp=28_672,
    rope_theta=500_000.0,
    outputs=1,
    dtype="bfloat16",
    remat="full",
  )
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": "data/helpsteer2_preference_train.jsonl",
      "test": "data/helpsteer2_preference_validation.jsonl",
      "strength": "strength",
      "prompt_length": 3072,
      "answer_length": 1024,
    }
  )
  c.eval.update(every=50, prompts=512)
  c.mesh.update(fsdp=64, tensor=4)
  return c


def ratings(c):
  """The earlier stage of `pod`: helpfulness alone, 2 epochs of its ratings."""
  c = pod(c)
  c.steps = 317
  c.prompts_per_step = 128
  c.optimizer.learning_rate = 2e-6
  c.reward_model.kind = "mse"
  c.preference.strength = False
  c.model.path = "meta-llama/Llama-3.1-70B-Instruct"
  c.task = c.task.__class__(
    {
      "name": "ratings",
      "train": "data/helpsteer2_train.jsonl",
      "test": "data/helpsteer2_validation.jsonl",
      "completion": "response",
      "attributes": "helpfulness",
      "prompt_length": 3072,
      "answer_length": 1024,
    }
  )
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and data."""
  c: Any = common.base()
  c.algorithm = "helpsteer2_pref"
  c.samples_per_prompt = 1
  if arg == "pod":
    return pod(c)
  if arg == "ratings":
    return ratings(c)
  c.steps = 20
  c.prompts_per_step = 100  # pairs, or ratings
  c.optimizer.update(
    learning_rate=1e-3, schedule="cosine", warmup_steps=5, weight_decay=10.0
  )
  c.reward_model.update(centering=0.0, expo=(0.75, 1.25, 1.5))
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
      "steps": 80,
      "optimizer": {"learning_rate": 3e-3, "weight_decay": 3.0},
      "reward_model": {"kind": "mse", "expo": ()},
      "preference": {"strength": False},
    }
  )
  return c
