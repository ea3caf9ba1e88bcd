"""Problems that one token solves, after as many steps of filler as one likes.

A prompt is a problem. An answer is up to T tokens, each of them a step: the
token that answers a problem ends it, every other one is filler. Success is the
right token; an answer without one fails. Beside it the reward scores each step,
as a process reward model would that finds filler flawless:

  p = 0.9 for filler, 0.8 for the right token, 0.3 for a wrong one

so that rewards which add up pay for filler without end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.ops import masked
from rlreward.tasks import data, draws
from rlreward.types import Rollout, Score, Task


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "filler",
    "problems": 4,  # prompts, each with a token that asks and one that answers
    "words": 4,  # further tokens, which say nothing
    "length": 12,  # T, most steps of an answer
    "scores": (0.9, 0.8, 0.3),  # of filler, the right and a wrong token
    "stop": 0.3125,  # chance of each step of a demonstration to be its last
    "wrong": 0.1,  # share of demonstrations that end in a wrong token
  }


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task: 1 for the right token, with scores of steps beside it.

  Batches hold `prompt` i32[B, 1], the problem, and its mask. Ids are the
  problems', then their answers', which end an answer, then the words'. The
  score's `tokens` are those of steps, NaN elsewhere; components are `correct`,
  `solved`, whether an answer was given, and `score`, the mean of the steps.

  Args:
    config: section with the fields of `defaults`, None for all of them.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task whose reward is its gold and can be compiled; demonstrations are words
    and then an answer, at the latest as the T-th token.

  Raises:
    UserError: fields that cannot work.
  """
  c = _config(config)
  x = c["problems"]
  filler, right, wrong = (float(s) for s in c["scores"])

  def reward(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    del batch
    action, tokens = rollout.action, rollout.tokens
    wanted = tokens[:, :1] + x  # the prompt is the first slot of all
    given = (tokens >= x) & (tokens < 2 * x) & action
    correct = given & (tokens == wanted)
    scores = jnp.where(given, jnp.where(correct, right, wrong), filler)
    value = jnp.any(correct, 1).astype(jnp.float32)
    parts = {
      "correct": value,
      "solved": jnp.any(given, 1).astype(jnp.float32),
      "score": masked.masked_mean(scores, action, 1),
    }
    steps = jnp.where(action, scores, jnp.nan).astype(jnp.float32)
    return Score(value, jnp.ones(value.shape, bool), steps, parts)

  def stream(build):
    return lambda split, batch_size, seed: draws.Draws(
      build, split, batch_size, seed, draws.digest(c), process_index,
      process_count,
    )  # fmt: skip

  def prompts(size, generator):
    asked = generator.integers(x, size=(size, 1)).astype(np.int32)
    return {"prompt": asked, "prompt_mask": np.ones((size, 1), bool)}

  def demonstrations(size, generator):
    asked = prompts(size, generator)["prompt"]
    before = generator.geometric(c["stop"], size=(size, 1)) - 1  # words
    count = np.minimum(before, c["length"] - 1)
    other = generator.integers(1, max(x, 2), size=(size, 1))
    other *= generator.random((size, 1)) < c["wrong"]
    answer = x + (asked + other) % x
    words = generator.integers(2 * x, vocab(c), (size, c["length"]))
    place = np.arange(c["length"])
    said = np.where(place < count, words, answer)
    tokens = np.concatenate([asked, said], 1).astype(np.int32)
    attend = np.concatenate([asked >= 0, place <= count], 1)
    loss = attend.copy()
    loss[:, 0] = False
    return {"tokens": tokens, "attend": attend, "loss": loss}

  spec: dict[str, Any] = {
    "vocab_size": vocab(c),
    "prompt_length": 1,
    "completion_length": c["length"],
    "answer_length": c["length"],
    "demonstrated": c["length"],
    "stop_ids": tuple(range(x, 2 * x)),
    "pad_id": 0,
    "on_device": True,
    "tokenizer": None,
  }
  return Task(stream(prompts), reward, reward, spec, stream(demonstrations))


def vocab(c: Mapping[str, Any]) -> int:
  """Number of tokens.

  Args:
    c: section with the fields of `defaults`.
  """
  return 2 * c["problems"] + c["words"]


def _config(config: Any) -> dict[str, Any]:
  c = data.section(config, defaults())
  for name, low in {"problems": 1, "words": 1, "length": 1}.items():
    if not isinstance(c[name], int) or c[name] < low:
      raise UserError(
        f"{name}={c[name]!r}", "it is a number of things", f"use {low} or more"
      )
  for name, good, want in (
    ("stop", 0 < c["stop"] <= 1, "above 0 and up to 1"),
    ("wrong", 0 <= c["wrong"] <= 1, "from 0 to 1"),
  ):
    if not good:
      raise UserError(
        f"{name}={c[name]}", "it is a share of demonstrations", f"use {want}"
      )
  scores = tuple(c["scores"])
  if len(scores) != 3 or not all(math.isfinite(s) for s in scores):
    raise UserError(
      f"scores={scores!r}",
      "filler, the right token and a wrong one are scored",
      "use 3 finite numbers",
    )
  return c
