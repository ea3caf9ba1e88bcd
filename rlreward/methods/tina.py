"""GRPO in which only low-rank adapters learn: format comes, knowledge stays.

  W' = W + (alpha / r) A B,   A ~ N(0, 1 / d_in), B = 0, and W is never moved
  R = sum_k w_k R_k,   A_i = (R_i - mean R) / (sd R + eps)

With `model.lora_rank` the policy is the base beside an adapter, the reference
is the base beside the adapter of the start, which is 0, and there is one copy
of the base; the optimiser knows the adapter alone. `tina.recipe` weighs the
rewards; a row whose gold answer cannot be read is left out. The control trains
every weight (`model.lora_rank=0`); `tina.scale_rewards=False` is Dr. GRPO's
advantage.

Reference: Tina: Tiny Reasoning Models via LoRA, arXiv 2504.15777.
Differs from the paper: lengths are tokens, and Kimi's are compared within a
prompt; the authors count characters, and compare within a device's batch.
Dropout on the adapter's input is in the gradient alone (`steps/thin.py`), and
log-probs are those of the whole adapter. One length is asked of all prompts by
the L1 rewards.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from rlreward.algorithms import grpo
from rlreward.ops import advantage, policy
from rlreward.rewards import tina as rewards
from rlreward.steps import checks, credit, online
from rlreward.types import Method, Shaping, Task

_MAIN = {"format": 1.0, "accuracy": 2.0}
_ALL: dict[str, float] = dict.fromkeys(
  ("accuracy", "format", "tag_count", "length", "reasoning_steps", "cosine",
   "repetition"),
  1.0,
)  # fmt: skip
# Rewards of the authors' runs, by the data that they train on.
RECIPES: dict[str, dict[str, float]] = {
  "open_rs1": _MAIN,
  "open_rs2": _MAIN,
  "open_rs3": {"format": 1.0, "cosine": 2.0},
  "limr": _MAIN,
  "deepscaler": _MAIN,
  "still": {"length": 1.0, "accuracy": 2.0},
  "open_r1": _ALL,
  "open_thoughts": _ALL,
}


def make(config, task: Task) -> Method:
  """GRPO on the rewards of `config.tina`, of an adapter or of all weights."""
  grpo.check(config)
  c = config.loss
  loss = policy.clipped(*grpo.clip(c, 0.2, 0.2), c.dual_clip)
  relative = functools.partial(
    advantage.group_advantage,
    center="mean",
    scale="group" if config.tina.scale_rewards else "none",
  )
  method = online.make(
    config,
    task,
    loss=grpo.regularised(loss, config),
    credit=credit.group(relative, grpo.penalty(config)),
    aggregate="seq_mean_token_mean",
    shaping=shaper(config),
  )
  return counted(method)


def shaper(config) -> Shaping | None:
  """The weighted sum of `config.tina`; None without a recipe.

  Args:
    config: its `tina` and `sampling` are read.

  Raises:
    UserError: an unknown recipe, or lengths that cannot be.
  """
  c = config.tina
  checks.ranges(
    "tina",
    (
      ("target", c.target, c.target >= 0, "0 or more", "it counts tokens"),
      ("longest", c.longest, c.longest >= 0, "0 or more", "it counts tokens"),
    ),
  )
  if not c.recipe:
    return None
  return rewards.recipe(
    rewards.parse(c.recipe, RECIPES),
    c.accuracy,
    target=c.target,
    longest=c.longest or config.sampling.max_new_tokens,
    names={"accuracy": c.accuracy, "format": c.format},
  )


def counted(method: Method) -> Method:
  """The method, whose evaluations also say which share of it is trained."""
  judged: Any = method.evaluate

  def evaluate(state, batch, key, whole=None):
    found = judged(state, batch, key, whole)
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    own = state.params["policy"]
    share = size(own) / size(state.frozen.get("base", own))
    found["metrics"]["trained_share"] = (jnp.float32(share), jnp.int32(1))
    return found

  return method._replace(evaluate=evaluate)
