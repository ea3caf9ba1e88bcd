"""People, aligned language models, and texts of both: who wrote it?

The world of reward models as detectors. Aligned models have moved from how
people write towards what annotators prefer, in a direction that all of them
share, and in one of their own. A reward model knows the first direction from
comparisons of people's texts. To find the second one it is shown texts of one
model; texts of the others are for tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import authors_rows as rows
from rlreward.tasks import data, draws
from rlreward.types import Rollout, Score, Task


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "authors",
    "words": 64,  # V
    "length": 24,  # T, words of a text
    "span": 4,  # words of a span of a mixed text; half of them are a model's
    "models": 6,  # K; texts for training are all of the first one
    "texts": 256,  # groups for training: a model's, a mixed, a person's text
    "comparisons": 2048,  # pairs of people's texts, for training
    "noise": 0.5,  # scale of the logistic noise of a comparison
    "spread": 1.0,  # of the people's own law of the next word, nats
    "preference": 0.2,  # how far models go to what annotators prefer, nats
    "common": 0.2,  # and in the direction that all models share
    "own": 0.2,  # and in one of their own
    "world": 0,  # seed of the laws
  }


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task: an answer is T words and the stop token, the prompt one token.

  `labelled` are groups of 5 rows: a model's text, a mixed one, a person's
  (`rank` f32 1, 2, 3), and a comparison, the preferred text first (4, 5), whose
  rewards are to be kept; `author` i32 is the model, of 0 .. K - 1, and `label`
  bool the first row. For training the model is 0; held out, each is as frequent
  as the others. `preferences` are comparisons, without noise where held out.

  Args:
    config: section with the fields of `defaults`, None for all of them.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task whose reward is the worth of the words; demonstrations are people's.

  Raises:
    UserError: fields that cannot work.
  """
  c = _config(config)
  digest = draws.digest(c)

  def stream(build: draws.Build, finite=None):
    return lambda split, batch_size, seed: draws.Draws(
      build, split, batch_size, seed, digest, process_index, process_count,
      finite,
    )  # fmt: skip

  def prompts(size, rng) -> draws.Batch:
    del rng
    return {
      "prompt": np.zeros((size, 1), np.int32),
      "prompt_mask": np.ones((size, 1), bool),
    }

  def human(size, rng) -> draws.Batch:
    author = np.full(size, rows.HUMAN)
    return rows.rows(rows.write(rows.chains(c), author, rng, c["length"]))

  def group(size, rng) -> draws.Batch:
    author = 1 + np.arange(size) % c["models"]
    return rows.judged(rows.groups(c, author, rng), author)

  def given_groups(seed: int) -> draws.Finite:
    author = np.ones(c["texts"], int)
    text = rows.groups(c, author, np.random.default_rng([seed, 4]))
    build = lambda at: rows.judged(text[at], author[at])
    return draws.Finite(len(text), build)

  def compared(size, rng) -> draws.Batch:
    return rows.paired(rows.compared(c, size, rng, 0.0))

  def given_pairs(seed: int) -> draws.Finite:
    rng = np.random.default_rng([seed, 2])
    text = rows.compared(c, c["comparisons"], rng, c["noise"])
    return draws.Finite(len(text), lambda at: rows.paired(text[at]))

  width = c["length"] + 1
  spec: dict[str, Any] = {
    "vocab_size": rows.FIRST + c["words"],
    "prompt_length": 1,
    "completion_length": width,
    "answer_length": width,
    "demonstrated": width,
    "stop_ids": (rows.STOP,),
    "pad_id": 0,
    "on_device": True,
    "judged": False,
    "tokenizer": None,
    "answers": rows.GROUP,
    "authors": c["models"],
  }
  reward = verifier(c)
  return Task(
    stream(prompts),
    reward,
    reward,
    spec,
    stream(human),
    stream(compared, given_pairs),
    stream(group, given_groups),
  )


def verifier(c: Mapping[str, Any]):
  """(Rollout, batch) -> Score: what annotators think of the words.

  Args:
    c: all fields of `defaults`.
  """
  v, size = c["words"], math.sqrt(c["length"])
  table = jnp.asarray(np.concatenate([np.zeros(rows.FIRST), rows.worth(c)]))

  def score(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    del batch
    each = table[jnp.minimum(rollout.tokens, rows.FIRST + v - 1)]
    value = jnp.sum(jnp.where(rollout.action, each, 0), 1) / size
    value = value.astype(jnp.float32)
    return Score(value, jnp.ones(value.shape, bool))

  return score


def _config(config: Any) -> dict[str, Any]:
  c = data.section(config, defaults())
  least = {"words": 2, "length": 1, "span": 1, "models": 1, "texts": 1}
  for name, low in {**least, "comparisons": 1, "world": 0}.items():
    if not isinstance(c[name], int) or c[name] < low:
      raise UserError(
        f"{name}={c[name]!r}", "it is a number of things", f"use {low} or more"
      )
  if c["length"] % c["span"]:
    raise UserError(
      f"span={c['span']} and length={c['length']}",
      "a mixed text is whole spans",
      "use a span that divides the length",
    )
  for name in ("noise", "spread", "preference", "common", "own"):
    if not 0 <= c[name] < math.inf:
      raise UserError(
        f"{name}={c[name]!r}", "it is a scale", "use a finite number from 0"
      )
  return c
