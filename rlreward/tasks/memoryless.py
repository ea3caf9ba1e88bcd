"""A memoryless source: m tokens drawn alike, a reward that adds up over them.

The world of which everything is known (see `analytic/large_deviation.py`): the
base p(y) = prod p1(y_i), the optimum at any KL, and, the alphabet being small,
every answer there is, so that the law of a policy can be listed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import data, draws
from rlreward.types import Outcomes, Rollout, Score, Task

_MOST = 20_000  # answers that are listed


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "memoryless",
    "p": (0.5, 0.3, 0.2),  # law of a token in the demonstrations
    "r": (0.0, 1.0, 2.0),  # reward of a token; an answer's is their sum
    "length": 8,  # m, tokens of an answer; no token ends it earlier
  }


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task: one prompt, answers of exactly m tokens, an additive reward.

  Batches hold `prompt` i32[B, 1], always token 0, and its mask;
  demonstrations are draws of the source. `spec["outcomes"]` lists all answers
  where there are at most 20,000. Components of the score are `token/<i>`, the
  share of each token in the answer.

  Args:
    config: section with the fields of `defaults`, None for all of them.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task whose reward is its gold and can be compiled.

  Raises:
    UserError: fields that cannot work.
  """
  c = _config(config)
  p, m = np.asarray(c["p"], np.float64), int(c["length"])
  each = jnp.asarray(c["r"], jnp.float32)

  def reward(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    del batch
    action = rollout.action
    value = jnp.sum(jnp.where(action, each[rollout.tokens], 0), 1)
    count = jnp.maximum(jnp.sum(action, 1), 1)
    parts = {
      f"token/{i}": jnp.sum((rollout.tokens == i) & action, 1) / count
      for i in range(len(p))
    }
    return Score(value, jnp.ones(value.shape, bool), None, parts)

  def stream(build):
    digest = f"{tuple(c['p'])}{c['length']}"
    return lambda split, batch_size, seed: draws.Draws(
      build, split, batch_size, seed, digest, process_index, process_count
    )

  def prompts(size, generator):
    del generator
    return {
      "prompt": np.zeros((size, 1), np.int32),
      "prompt_mask": np.ones((size, 1), bool),
    }

  def demonstrations(size, generator):
    drawn = generator.choice(len(p), (size, m), p=p)
    tokens = np.concatenate([np.zeros((size, 1)), drawn], 1).astype(np.int32)
    attend = np.ones(tokens.shape, bool)
    loss = attend.copy()
    loss[:, 0] = False
    return {"tokens": tokens, "attend": attend, "loss": loss}

  spec: dict[str, Any] = {
    "vocab_size": len(p),
    "prompt_length": 1,
    "completion_length": m,
    "stop_ids": (),
    "pad_id": 0,
    "on_device": True,
    "tokenizer": None,
  }
  if len(p) ** m <= _MOST:
    spec["outcomes"] = lambda batch: outcomes(c, len(batch["prompt"]))
  return Task(stream(prompts), reward, reward, spec, stream(demonstrations))


def outcomes(c: Mapping[str, Any], size: int) -> Outcomes:
  """All answers, the same for each of `size` prompts."""
  letters, m = range(len(c["p"])), int(c["length"])
  every = np.asarray(list(itertools.product(letters, repeat=m)), np.int32)
  value = np.asarray(c["r"], np.float32)[every].sum(1)
  wide = lambda x: np.broadcast_to(x, (size, *x.shape))
  return Outcomes(
    wide(every), wide(np.ones(every.shape, bool)), wide(value), None
  )


def _config(config: Any) -> dict[str, Any]:
  c = data.section(config, defaults())
  p, r, m = c["p"], c["r"], c["length"]
  fine = len(p) > 1 and all(x > 0 for x in p) and math.isclose(sum(p), 1)
  if not fine:
    raise UserError(
      f"p={tuple(p)!r}",
      "it is the law of a token, of which all happen",
      "use two or more positive numbers that add up to 1",
    )
  if len(r) != len(p) or not all(math.isfinite(x) for x in r):
    raise UserError(
      f"r={tuple(r)!r} beside {len(p)} tokens",
      "each token earns something",
      f"use {len(p)} finite numbers",
    )
  if not isinstance(m, int) or m < 1:
    raise UserError(
      f"length={m!r}", "it is a number of tokens", "use 1 or more"
    )
  return c
