"""Worlds of token problems with a known answer: what they have in common.

A world draws a problem as text; here it becomes prompts, demonstrations, pairs
and labelled answers, split by a hash of the prompt and padded to the widest of
the levels that training goes through. All levels share one alphabet, so one
policy can go through them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import answered_rows, curriculum, draws, tokens
from rlreward.tasks.answered_rows import Draw, Sizes
from rlreward.types import Array, Outcomes, Rollout, Score, Task

FIELDS = {
  **curriculum.FIELDS,
  "holdout": 0.1,  # share of the prompts kept for the test split
  "noise": 0.0,  # share of wrong demonstrations, flipped pairs and labels
  "positive_share": 0.5,  # share of labelled answers that are right
  "pad_is_eos": False,  # pad and eos share an id, as in many tokenizers
}


class World(NamedTuple):
  """What tells one task from another.

  Attributes:
    defaults: every field, `FIELDS` among them.
    ladder: fields of each level.
    alphabet: of every level.
    check: section -> None; raises where it cannot work.
    sizes: section -> Sizes.
    draw: (section, generator) -> Item.
    guess: section -> how often a policy is right that knows the form of the
      answers and does not read the prompt.
    reward: (tokenizer, section) -> (Rollout, batch) -> Score; None is `exact`.
    gold: the same, of what is wanted; None where it is the reward.
    orders: section -> how many token sequences are right; None is 1.
  """

  defaults: Mapping[str, Any]
  ladder: curriculum.Ladder
  alphabet: str
  check: Callable[[Mapping[str, Any]], None]
  sizes: Callable[[Mapping[str, Any]], Sizes]
  draw: Draw
  guess: Callable[[Mapping[str, Any]], float]
  reward: Callable[..., Callable[..., Score]] | None = None
  gold: Callable[..., Callable[..., Score]] | None = None
  orders: Callable[[Mapping[str, Any]], int] | None = None


def task(
  world: World, config: Any, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task of a world.

  Batches hold `prompt` i32[B, P], `prompt_mask`, `answer` i32[B, A] with eos,
  `answer_mask`, `level` i32[B] and the world's columns. The test split is of
  the last stage's level.

  Args:
    world: see `World`.
    config: section with its fields, None for all defaults.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task whose reward can be compiled. `spec["chance"]`: batch -> f64[B], how
    often uniform tokens are a right answer; `spec["guess"]`: float, see
    `World`, at the last stage's level; `spec["levels"]`: the ladder.

  Raises:
    UserError: fields that cannot work.
  """
  stages, sections = curriculum.plan(config, world.defaults, world.ladder)
  for c in sections.values():
    _check(c)
    world.check(c)
  c = sections[stages[-1].level]
  tok = tokens.CharTokenizer(world.alphabet, pad_is_eos=c["pad_is_eos"])
  sizes = answered_rows.widest([world.sizes(s) for s in sections.values()])
  rows = answered_rows.Rows(world.draw, tok, sizes)

  def stream(build) -> Callable[[str, int, int], Any]:
    def opened(split: str, batch_size: int, seed: int) -> Any:
      draw = lambda level: draws.Draws(
        lambda size, rng: build(
          sections[level], rows.items(sections[level], split, size, rng), rng
        ),
        split, batch_size, seed, draws.digest(sections[level]),
        process_index, process_count,
      )  # fmt: skip
      _check_split(c, split)
      if split == "test":
        return draw(stages[-1].level)
      return curriculum.training(c, stages, draw, build == rows.prompts)

    return opened

  demonstrations = stream(rows.demonstrations)
  reward = (world.reward or _exact)(tok, c)
  orders = {
    level: world.orders(s) if world.orders else 1
    for level, s in sections.items()
  }

  def uniform(batch: Mapping[str, Any]) -> np.ndarray:
    ways = [orders[int(level)] for level in batch["level"]]
    return np.asarray(ways) * chance(batch, tok.vocab_size)

  spec = {
    "vocab_size": tok.vocab_size,
    "prompt_length": rows.sizes.prompt,
    "completion_length": rows.sizes.answer,
    "answer_length": rows.sizes.answer,
    "stop_ids": tok.eos_ids,
    "pad_id": tok.pad_id,
    "on_device": True,
    "tokenizer": tok,
    "columns": ("answer", "answer_mask", "level", *rows.sizes.columns),
    "sft_batches": demonstrations,
    "demonstrated": rows.sizes.answer,
    "levels": world.ladder,
    "guess": world.guess(c),
    "chance": uniform,
  }
  if world.orders is None:
    spec["outcomes"] = _outcomes
  return Task(
    stream(rows.prompts),
    reward,
    world.gold(tok, c) if world.gold else reward,
    spec,
    demonstrations,
    stream(rows.preferences),
    stream(rows.labelled),
  )


def chance(batch: Mapping[str, Any], vocab: int) -> np.ndarray:
  """V^-n: how often n uniform tokens are the answer and its eos.

  Args:
    batch: with `answer_mask` bool[B, A].
    vocab: V.

  Returns:
    f64[B].
  """
  return float(vocab) ** -np.asarray(batch["answer_mask"]).sum(1)


def exact(
  rollout: Rollout, batch: Mapping[str, Any], action: Array
) -> tuple[Array, Array]:
  """Whether actions are the answer and eos, nothing more or less.

  Args:
    rollout: N rows.
    batch: `answer` i32[B, A], `answer_mask` bool[B, A].
    action: bool[N, L], the actions that are the answer.

  Returns:
    bool[N], and f32[N], the share of the places, of answer or actions
    whichever is longer, that hold the right token.
  """
  answer = jnp.asarray(batch["answer"])[rollout.group]
  size = jnp.sum(jnp.asarray(batch["answer_mask"])[rollout.group], 1)
  rank = jnp.cumsum(action, 1) - 1  # place of an action in its answer
  place = jnp.clip(rank, 0, answer.shape[1] - 1)
  same = rollout.tokens == jnp.take_along_axis(answer, place, 1)
  hits = jnp.sum(same & action & (rank < size[:, None]), 1)
  count = jnp.sum(action, 1)
  share = hits / jnp.maximum(jnp.maximum(count, size), 1)
  return (hits == size) & (count == size), share.astype(jnp.float32)


def scored(correct: Array, **components: Array) -> Score:
  """A valid score of 1 where `correct` bool[N], with components f32[N]."""
  value = correct.astype(jnp.float32)
  parts = {"correct": value, **components}
  return Score(value, jnp.ones(value.shape, bool), None, parts)


def whole(name: str, value: Any, low: int, high: int) -> None:
  """Checks that a field is a whole number in a range.

  Raises:
    UserError: it is not.
  """
  number = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
  if not number or not low <= value <= high:
    raise UserError(
      f"{name}={value!r}",
      "it is a size of the task",
      f"use a whole number from {low} to {high}",
    )


def other(rng: np.random.Generator, size: int, but: int) -> int:
  """A number below `size`, uniform over those that are not `but`."""
  found = int(rng.integers(size - 1))
  return found + (found >= but)


def _exact(tok: tokens.CharTokenizer, c: Mapping[str, Any]):
  del tok, c

  def score(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    correct, share = exact(rollout, batch, rollout.action)
    return scored(correct, share=share)

  return score


def _outcomes(batch: Mapping[str, Any]) -> Outcomes:
  """The right answers; all others earn nothing."""
  answer = np.asarray(batch["answer"])[:, None]
  mask = np.asarray(batch["answer_mask"])[:, None]
  return Outcomes(answer, mask, np.ones(answer.shape[:2], np.float32), 0.0)


def _check(c: Mapping[str, Any]) -> None:
  for name, top in {"holdout": 0.5, "noise": 1, "positive_share": 1}.items():
    share = c[name]
    if not isinstance(share, (int, float)) or not 0 <= share <= top:
      raise UserError(
        f"{name}={share!r}", "it is a share", f"use a number from 0 to {top}"
      )


def _check_split(c: Mapping[str, Any], split: str) -> None:
  if split == "test" and not c["holdout"]:
    raise UserError(
      f"there is no split {split!r} (holdout={c['holdout']})",
      "problems are split by a hash of their prompts",
      "use 'train', or 'test' with holdout above 0",
    )
