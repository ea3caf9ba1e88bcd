"""Answers of a few segments with hidden rewards: pairs from trees or a chain.

The world of the question how pairs are to be sampled. An answer is D segments,
each of one of K types, and earns what each type is worth at its place. The
number of pairs is finite and they are the same in every epoch; an annotator
errs more where more segments differ. Reward models are judged on answers that
differ in the last segment alone, on independent answers, and by the gold of the
best that they find among answers that share beginnings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import data, draws
from rlreward.tasks import segments_rows as rows
from rlreward.types import Rollout, Score, Task

_CHOICES = {"pairs": ("tree", "chain"), "text": ("full", "partial")}


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "segments",
    "depth": 4,  # D, segments of an answer
    "types": 32,  # K, of segments; each place has its own
    "prompts": 200,  # of the training pairs
    "pairs_per_prompt": 4,
    "pairs": "tree",  # tree: leaves of one tree a prompt | chain: independent
    "branch": 2,  # of the training trees
    "text": "full",  # partial: both answers are cut after some segment
    "load": 0.5,  # noise of a label (scale of a logistic), per segment that
    "noise": 0.0,  # differs; and of every label
    "shuffled": 0.0,  # share of the labels that are a coin
    "world": 0,  # seed of the hidden rewards
  }


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task; see `segments_rows` for its arrays.

  Training pairs depend on the seed alone, which shuffles them anew in every
  epoch. Held-out pairs have the columns `split`, `gold` and `valid`;
  `spec["splits"]` names the splits of pairs and `spec["pools"]` = {name: size}
  those of answers to choose from.

  Args:
    config: section with the fields of `defaults`, None for all of them.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task whose reward is its gold and can be compiled; demonstrations are draws
    of the policy that answers were sampled from, uniform over segments.

  Raises:
    UserError: fields that cannot work.
  """
  c = _config(config)
  width = c["depth"] + 1

  def prompts(size, rng):
    del rng
    return {
      "prompt": np.zeros((size, 1), np.int32),
      "prompt_mask": np.ones((size, 1), bool),
    }

  def given(seed: int) -> draws.Finite:
    rng = np.random.default_rng([seed, 2])
    pairs = rows.labelled(c, rows.sampled(c, rng), rng)
    return draws.Finite(len(pairs), lambda index: rows.paired(pairs[index]))

  def stream(build: draws.Build, finite=None):
    digest = draws.digest(c)
    return lambda split, batch_size, seed: draws.Draws(
      build, split, batch_size, seed, digest, process_index, process_count,
      finite,
    )  # fmt: skip

  spec: dict[str, Any] = {
    "vocab_size": rows.FIRST + c["depth"] * c["types"],
    "prompt_length": 1,
    "completion_length": width,
    "answer_length": width,
    "demonstrated": width,
    "stop_ids": (rows.EOS,),
    "pad_id": 0,
    "on_device": True,
    "tokenizer": None,
    "splits": rows.SPLITS,
    "pools": {name: rows.POOL for name in rows.POOLS},
  }
  reward = verifier(c)
  return Task(
    stream(prompts),
    reward,
    reward,
    spec,
    stream(lambda size, rng: rows.rows(rows.uniform(c, (size,), rng))),
    stream(lambda size, rng: rows.held_out(c, size, rng), given),
  )


def verifier(c: Mapping[str, Any]) -> Callable[..., Score]:
  """(Rollout, batch) -> Score: the gold of segments at their own place.

  Args:
    c: all fields of `defaults`.
  """
  types, depth = c["types"], c["depth"]
  table = jnp.asarray(rows.gold(c))

  def score(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    del batch
    token, action = rollout.tokens, rollout.action
    rank = jnp.cumsum(action, 1) - 1
    kind = token - rows.FIRST - rank * types
    own = action & (kind >= 0) & (kind < types) & (rank < depth)
    worth = table[jnp.clip(rank, 0, depth - 1), jnp.clip(kind, 0, types - 1)]
    value = jnp.sum(jnp.where(own, worth, 0), 1)
    whole = (jnp.sum(own, 1) == depth).astype(jnp.float32)
    parts = {"well_formed": whole}
    return Score(value, jnp.ones(value.shape, bool), None, parts)

  return score


def _config(config: Any) -> dict[str, Any]:
  c = data.section(config, defaults())
  for name, choices in _CHOICES.items():
    if c[name] not in choices:
      raise UserError(
        f"{name}={c[name]!r}",
        "it says what training pairs are made of",
        f"use one of: {', '.join(choices)}",
      )
  least = {"depth": 2, "types": 2, "branch": 2, "prompts": 1, "world": 0}
  for name, low in {**least, "pairs_per_prompt": 1}.items():
    if not isinstance(c[name], int) or c[name] < low:
      raise UserError(
        f"{name}={c[name]!r}", "it is a number of things", f"use {low} or more"
      )
  for name, top in {"load": math.inf, "noise": math.inf, "shuffled": 1}.items():
    if not 0 <= c[name] <= top or math.isinf(c[name]):
      raise UserError(
        f"{name}={c[name]!r}",
        "it is the noise of labels",
        f"use a finite number from 0 to {top}",
      )
  if c["depth"] > 8:
    raise UserError(
      f"depth={c['depth']}",
      "a full tree has as many answers as a number to the power of it",
      "use 2 to 8",
    )
  leaves = c["branch"] ** c["depth"]
  if c["pairs"] == "tree" and (
    leaves > 4096 or c["pairs_per_prompt"] > leaves * (leaves - 1) // 2
  ):
    raise UserError(
      f"{c['pairs_per_prompt']} pairs of a tree with {leaves} leaves",
      "pairs are drawn without replacement from one table of them",
      "use fewer pairs, or a tree of up to 4096 leaves",
    )
  return c
