"""Answers from retrieved passages in a toy language: does a scorer read them?

The world of reward models for retrieval: questions about facts that stand in
three passages of the prompt and nowhere else. Pairs are made by rule for four
scenarios (two hops, citation, abstaining, conflict) and for general quality,
which needs no passage; see `rag_rows`. A reward model trained on general pairs
alone cannot know what the scenarios ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import data, draws
from rlreward.tasks import rag_rows as rows
from rlreward.types import Rollout, Score, Task

_PAIRS = ("rag", "general")


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "rag",
    "things": 6,  # entities and values
    "relations": 3,
    "pairs": "rag",  # of training: rag | general, without passages
    "masked": False,  # passages are hidden, in training and in the benchmark
  }


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task: pairs for training, and held-out ones as a benchmark.

  Held-out pairs are of every scenario, whatever the training pairs are, with
  the columns `item`, `right` and `group`, the place in `spec["groups"]`.

  Args:
    config: section with the fields of `defaults`, None for all of them.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task of pairs alone: its reward judges nothing.

  Raises:
    UserError: fields that cannot work.
  """
  c = _config(config)

  def trained(size, rng):
    if c["pairs"] == "general":
      return rows.batch(c, rows.GENERAL, size, rng, masked=True)
    return rows.batch(c, rows.TAUGHT, size, rng, masked=c["masked"])

  def held_out(size, rng):
    return rows.batch(c, rows.KINDS, size, rng, masked=c["masked"])

  def prompts(size, rng):
    found = held_out(size, rng)["tokens"][::2, : rows.PROMPT]
    return {"prompt": found, "prompt_mask": np.ones(found.shape, bool)}

  def stream(train: draws.Build, test: draws.Build):
    build = {"train": train, "test": test}
    return lambda split, batch_size, seed: draws.Draws(
      build.get(split, test), split, batch_size, seed, draws.digest(c),
      process_index, process_count,
    )  # fmt: skip

  spec: dict[str, Any] = {
    "vocab_size": rows.vocab(c),
    "prompt_length": rows.PROMPT,
    "completion_length": rows.ANSWER,
    "answer_length": rows.ANSWER,
    "stop_ids": (rows.EOS,),
    "pad_id": rows.PAD,
    "on_device": True,
    "judged": False,
    "tokenizer": None,
    "groups": rows.KINDS,
  }
  return Task(
    stream(prompts, prompts),
    _no_reward,
    None,
    spec,
    preferences=stream(trained, held_out),
  )


def _no_reward(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
  """No judgement of any row: the task has pairs, and no reward."""
  del batch
  size = rollout.tokens.shape[0]
  return Score(jnp.zeros(size), jnp.zeros(size, bool))


def _config(config: Any) -> dict[str, Any]:
  c = data.section(config, defaults())
  for name, low in {"things": 5, "relations": 3}.items():
    if not isinstance(c[name], int) or c[name] < low:
      raise UserError(
        f"{name}={c[name]!r}",
        "those of a prompt are different from one another",
        f"use {low} or more",
      )
  if c["pairs"] not in _PAIRS:
    raise UserError(
      f"pairs={c['pairs']!r}",
      "it says what training pairs are made of",
      f"use one of: {', '.join(_PAIRS)}",
    )
  return c
