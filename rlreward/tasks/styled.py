"""Two ways to answer: the one that is right more often is seldom boxed.

A world in which a price on the format can stop a policy from looking further.
An answer is a style, a form and the stop token: "s" short, then "." plain or
"#" boxed, or "l" long, then "," plain or "@" boxed. Whether it is right is a
coin that the style alone weighs, so what there is to learn is which style to
use:

  P(right | style) = accuracy[style]; at first P(boxed | style) = boxed[style]

With the defaults short answers are boxed nine times in ten and right 15 times
in 100, long ones boxed 15 times in 100 and right six times in ten. A policy
that learns to box short answers has learned nothing about long ones, unless
both have the same forms (`shared`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import data, draws, tokens
from rlreward.types import Array, Rollout, Score, Task

ALPHABET = "?sl.#,@"  # the prompt, the styles, the forms of each
COINS = 64  # samples of a prompt that have a coin of their own


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "styled",
    "accuracy": (0.15, 0.6),  # chance of a short and of a long answer
    "boxed": (0.9, 0.15),  # share of either that is boxed in demonstrations
    "long": 0.1,  # share of demonstrations that are long
    "shared": False,  # long answers have the forms of short ones
  }


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task: paid by the coin, wanted is the chance that it shows.

  Batches hold `prompt` i32[B, 1], the token "?", its mask and `luck`
  f32[B, 64], a uniform number for each sample of a prompt: it is right where
  that is below the accuracy of its style. Components of the reward are
  `correct`, which is the value, and `boxed`; gold's value is the chance to be
  right, its components `correct` (the same), `boxed` and `long`. An answer of
  any other form is wrong and not boxed.

  Args:
    config: section with the fields of `defaults`, None for all of them.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task whose rewards can be compiled; demonstrations are draws of the base.

  Raises:
    UserError: fields that are no shares.
  """
  c = _config(config)
  tok = tokens.CharTokenizer(ALPHABET)
  ask, short, long, *forms = (tok.encode(x)[0] for x in ALPHABET)
  forms = np.reshape(forms, (2, 2))  # of a style: plain, boxed
  forms = forms[[0, 0]] if c["shared"] else forms
  stop = tok.eos_ids[0]

  def read(rollout: Rollout) -> tuple[Array, Array, Array]:
    """(well formed, long, boxed), each bool[N]; the prompt is one slot."""
    said = jnp.where(rollout.action, rollout.tokens, -1)[:, 1:4]
    said = jnp.pad(said, ((0, 0), (0, 3 - said.shape[1])), constant_values=-1)
    style, form, end = said.T
    is_long = style == long
    plain, box = jnp.asarray(forms)[is_long.astype(int)].T
    formed = (is_long | (style == short)) & (end == stop)
    formed &= (form == plain) | (form == box)
    return formed, formed & is_long, formed & (form == box)

  def chance(formed: Array, is_long: Array) -> Array:
    low, high = c["accuracy"]
    return jnp.where(formed, jnp.where(is_long, high, low), 0.0)

  def reward(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    formed, is_long, boxed = read(rollout)
    luck, n = jnp.asarray(batch["luck"]), len(formed)
    own = jnp.arange(n) % (n // len(luck)) % COINS
    value = luck[rollout.group, own] < chance(formed, is_long)
    return _score(value, boxed=boxed)

  def gold(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    del batch
    formed, is_long, boxed = read(rollout)
    return _score(chance(formed, is_long), boxed=boxed, long=is_long)

  def prompts(size: int, generator: np.random.Generator) -> draws.Batch:
    return {
      "prompt": np.full((size, 1), ask, np.int32),
      "prompt_mask": np.ones((size, 1), bool),
      "luck": generator.random((size, COINS), np.float32),
    }

  def demonstrations(size: int, generator: np.random.Generator) -> draws.Batch:
    is_long = (generator.random(size) < c["long"]).astype(int)
    boxed = generator.random(size) < np.asarray(c["boxed"])[is_long]
    style = np.where(is_long, long, short)
    form = forms[is_long, boxed.astype(int)]
    columns = (np.full(size, ask), style, form, np.full(size, stop))
    written = np.stack(columns, 1).astype(np.int32)
    attend = np.ones(written.shape, bool)
    loss = attend.copy()
    loss[:, 0] = False
    return {"tokens": written, "attend": attend, "loss": loss}

  def stream(build: draws.Build):
    return lambda split, batch_size, seed: draws.Draws(
      build, split, batch_size, seed, draws.digest(c), process_index,
      process_count,
    )  # fmt: skip

  spec = {
    "vocab_size": tok.vocab_size,
    "prompt_length": 1,
    "completion_length": 3,
    "stop_ids": tok.eos_ids,
    "pad_id": tok.pad_id,
    "on_device": True,
    "tokenizer": tok,
  }
  return Task(stream(prompts), reward, gold, spec, stream(demonstrations))


def _score(value: Array, **parts: Array) -> Score:
  value = value.astype(jnp.float32)
  named = {"correct": value} | {
    k: v.astype(jnp.float32) for k, v in parts.items()
  }
  return Score(value, jnp.ones(value.shape, bool), None, named)


def _config(config: Any) -> dict[str, Any]:
  c = data.section(config, defaults())
  for name in ("accuracy", "boxed"):
    if len(c[name]) != 2 or not all(0 <= x <= 1 for x in c[name]):
      raise UserError(
        f"{name}={c[name]!r}",
        "short and long answers have a share each",
        "use two numbers from 0 to 1",
      )
  if not 0 < c["long"] < 1:
    raise UserError(
      f"long={c['long']!r}",
      "a style that the base never uses is never found",
      "use a share between 0 and 1, such as 0.1",
    )
  return c
