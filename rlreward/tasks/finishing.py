"""Answers that must be finished: enough words, a box, and a stop in time.

A world for rewards that do not see the answer. The base knows how to solve its
problems and finishes badly: it seldom boxes an answer and often runs into the
limit. A finished answer that is long enough is right with a fixed chance that
nothing the policy does can raise, so that all there is to learn is to finish.
With `counts="words"` only the words before its box make it long.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import data, draws
from rlreward.types import STOP, Array, Rollout, Score, Task

ASK, WORD, OPEN, CLOSE, BOX, EOS = range(6)
TRIES = 64  # answers to one prompt whose luck differs


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "finishing",
    "budget": 64,  # most tokens of a demonstration, as of a sampled answer
    "needs": 12,  # tokens of an answer that can be right
    "counts": "all",  # of them: all | words (those before the box)
    "skill": 0.8,  # share of those that are
    "boxes": 0.2,  # share of the demonstrations that box, of those that end
    "thinks": 0.5,  # share that begins a thought
    "ends": 0.018,  # chance of a demonstration to end at a word
  }


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task: `[<think>] words </think> [box] stop`.

  Whether to end the words and whether to box an answer are two choices.

  Batches hold `prompt` i32[B, 1], always ASK, its mask, and `solved`
  bool[B, 64], whether the g-th answer to a prompt would be right. Components of
  the score are `thought` (a thought is opened and then closed), `answered` (a
  box, and an end before the limit), and `correct`.

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

  def prompts(size, rng):
    return {
      "prompt": np.full((size, 1), ASK, np.int32),
      "prompt_mask": np.ones((size, 1), bool),
      "solved": rng.random((size, TRIES)) < c["skill"],
    }

  def demonstrations(size, rng):
    rows = [_answer(c, rng) for _ in range(size)]
    tokens = np.full((size, 1 + c["budget"]), ASK, np.int32)
    attend = np.zeros(tokens.shape, bool)
    for n, row in enumerate(rows):
      tokens[n, 1 : 1 + len(row)] = row
      attend[n, : 1 + len(row)] = True
    loss = attend.copy()
    loss[:, 0] = False
    return {"tokens": tokens, "attend": attend, "loss": loss}

  def stream(build):
    return lambda split, batch_size, seed: draws.Draws(
      build, split, batch_size, seed, draws.digest(c), process_index,
      process_count,
    )  # fmt: skip

  spec = {
    "vocab_size": 6,
    "prompt_length": 1,
    "completion_length": c["budget"],
    "demonstrated": c["budget"],
    "stop_ids": (EOS,),
    "pad_id": ASK,
    "on_device": True,
    "tokenizer": None,
  }
  reward = verifier(c)
  return Task(stream(prompts), reward, reward, spec, stream(demonstrations))


def verifier(c: Mapping[str, Any]):
  """(Rollout, batch) -> Score: 1 for a right answer.

  Args:
    c: all fields of `defaults`.
  """

  by_words = c["counts"] == "words"

  def score(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    is_a = lambda token: (rollout.tokens == token) & rollout.action
    box = is_a(BOX)
    unboxed = jnp.cumsum(box, 1) == 0
    counted = is_a(WORD) & unboxed if by_words else rollout.action
    size = jnp.sum(counted, 1)
    answered = jnp.any(box, 1) & (rollout.finish == STOP)
    n = rollout.group.shape[0]
    solved = jnp.asarray(batch["solved"])
    place = jnp.arange(n) % max(n // solved.shape[0], 1) % TRIES
    right = answered & (size >= c["needs"]) & solved[rollout.group, place]
    parts: dict[str, Array] = {
      "thought": _after(is_a(OPEN), is_a(CLOSE)),
      "answered": answered,
      "correct": right,
    }
    parts = {name: x.astype(jnp.float32) for name, x in parts.items()}
    return Score(parts["correct"], jnp.ones(n, bool), None, parts)

  return score


def _after(first: Array, then: Array) -> Array:
  """bool[N]: one of `then` stands behind one of `first`."""
  return jnp.any(then & (jnp.cumsum(first, 1) > 0), 1)


def _answer(c: Mapping[str, Any], rng: np.random.Generator) -> list[int]:
  thinks, boxes = (int(rng.random() < c[k]) for k in ("thinks", "boxes"))
  words = int(rng.geometric(c["ends"]))
  row = [OPEN] * thinks + [WORD] * min(words, c["budget"])
  row += [CLOSE] + [BOX] * boxes + [EOS]
  return row[: c["budget"]]


def _config(config: Any) -> dict[str, Any]:
  c = data.section(config, defaults())
  for name, low in {"budget": 2, "needs": 0}.items():
    if not isinstance(c[name], int) or c[name] < low:
      raise UserError(
        f"{name}={c[name]!r}", "it counts tokens", f"use {low} or more"
      )
  if c["counts"] not in ("all", "words"):
    raise UserError(
      f"counts={c['counts']!r}",
      "it says which tokens make an answer long enough",
      "use 'all' or 'words'",
    )
  for name in ("skill", "boxes", "thinks", "ends"):
    if not 0 <= c[name] <= 1 or (name == "ends" and not c[name]):
      raise UserError(
        f"{name}={c[name]!r}", "it is a chance", "use a number from 0 to 1"
      )
  if c["needs"] + 2 > c["budget"]:
    raise UserError(
      f"needs={c['needs']} with budget={c['budget']}",
      "words, a box and a stop would not fit: no answer could be right",
      f"use a budget of {c['needs'] + 2} or more",
    )
  return c
