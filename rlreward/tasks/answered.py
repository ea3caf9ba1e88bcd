"""Worlds of token problems with a known answer: what they have in common.

A world draws a problem as text; here it becomes prompts, demonstrations, pairs
and labelled answers, split by a hash of the prompt and padded to the widest of
the levels that training goes through. All levels share one alphabet, so one
policy can go through them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import curriculum, data, draws, tokens
from rlreward.types import Array, Outcomes, Rollout, Score, Task

_TRIES = 20_000  # draws in a row without a problem of the split
Batch = dict[str, np.ndarray]
FIELDS = {
  **curriculum.FIELDS,
  "holdout": 0.1,  # share of the prompts kept for the test split
  "noise": 0.0,  # share of wrong demonstrations, flipped pairs and labels
  "positive_share": 0.5,  # share of labelled answers that are right
  "pad_is_eos": False,  # pad and eos share an id, as in many tokenizers
}


class Item(NamedTuple):
  """One problem as text.

  Attributes:
    ask: the prompt.
    answer: right, without eos.
    wrong: another answer of the same form.
    turns: (query, observation) before the answer; observations are not the
      policy's.
    columns: arrays that travel with the batch.
  """

  ask: str
  answer: str
  wrong: str
  turns: Sequence[tuple[str, str]] = ()
  columns: Mapping[str, np.ndarray] = {}


class Sizes(NamedTuple):
  """Slots of a level.

  Attributes:
    prompt: of the longest prompt.
    answer: of the longest answer and eos.
    turns: of all queries, their eos, and observations.
    columns: {name: shape of a row}.
  """

  prompt: int
  answer: int
  turns: int = 0
  columns: Mapping[str, tuple[int, ...]] = {}


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
  draw: Callable[[Mapping[str, Any], np.random.Generator], Item]
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
    `World`; `spec["levels"]`: the ladder.

  Raises:
    UserError: fields that cannot work.
  """
  stages, sections = curriculum.plan(config, world.defaults, world.ladder)
  for c in sections.values():
    _check(c)
    world.check(c)
  c = sections[stages[-1].level]
  tok = tokens.CharTokenizer(world.alphabet, pad_is_eos=c["pad_is_eos"])
  rows = _Rows(world, tok, _widest([world.sizes(s) for s in sections.values()]))

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
      if split == "test" or len(stages) == 1:
        return draw(stages[-1].level)
      return curriculum.Staged(stages, draw)

    return opened

  demonstrations = stream(rows.demonstrations)
  reward = (world.reward or _exact)(tok, c)
  orders = (world.orders or (lambda c: 1))(c)
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
    "chance": lambda batch: orders * chance(batch, tok.vocab_size),
  }
  if orders == 1:
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


class _Rows:
  """Problems to arrays, at the sizes of the widest level."""

  def __init__(self, world: World, tok: tokens.CharTokenizer, sizes: Sizes):
    self.world, self.tok, self.sizes = world, tok, sizes

  def items(self, c, split: str, size: int, rng) -> list[Item]:
    """So many problems of a split."""
    out: list[Item] = []
    missed = 0
    while len(out) < size:
      item = self.world.draw(c, rng)
      held = bool(c["holdout"]) and data.held_out(item.ask, c["holdout"])
      if held == (split == "test"):
        out.append(item)
        missed = 0
      elif (missed := missed + 1) > _TRIES:
        raise UserError(
          f"{_TRIES} draws in a row have no prompt of split {split!r}"
          f" with holdout={c['holdout']}",
          "a batch of them could not be drawn",
          "use a harder level, or a holdout between 0.05 and 0.5",
        )
    return out

  def prompts(self, c, items: Sequence[Item], rng) -> Batch:
    """Prompts, right answers and columns."""
    del rng
    tok, n = self.tok, len(items)
    ask = [tok.encode(i.ask) for i in items]
    say = [[*tok.encode(i.answer), tok.eos_ids[0]] for i in items]
    prompt, prompt_mask = tokens.left_pad(ask, self.sizes.prompt, tok.pad_id)
    answer, answer_mask = tokens.right_pad(say, self.sizes.answer, tok.pad_id)
    columns = {
      name: np.stack([_fit(i.columns[name], shape) for i in items])
      for name, shape in self.sizes.columns.items()
    }
    return {
      "prompt": prompt,
      "prompt_mask": prompt_mask,
      "answer": answer,
      "answer_mask": answer_mask,
      "level": np.full(n, c["level"], np.int32),
      **columns,
    }

  def demonstrations(self, c, items: Sequence[Item], rng) -> Batch:
    """Rows to imitate: `tokens`, `attend`, `loss`; a share is `wrong`."""
    wrong = rng.random(len(items)) < c["noise"]
    said = [
      i.wrong if w else i.answer for i, w in zip(items, wrong, strict=True)
    ]
    batch = self.prompts(c, items, rng)
    return {**batch, **self._written(items, said), "wrong": wrong}

  def preferences(self, c, items: Sequence[Item], rng) -> Batch:
    """Pairs: right over wrong; a share is `flipped`."""
    flipped = rng.random(len(items)) < c["noise"]
    said: list[str] = []
    for item, turned in zip(items, flipped, strict=True):
      pair = [item.answer, item.wrong]
      said += pair[::-1] if turned else pair
    twice = [i for i in items for _ in range(2)]
    return {
      **self._written(twice, said),
      "strength": np.ones(len(said), np.float32),
      "flipped": np.repeat(flipped, 2),
    }

  def labelled(self, c, items: Sequence[Item], rng) -> Batch:
    """Answers with a `label`; a share of the labels is `flipped`."""
    right = rng.random(len(items)) < c["positive_share"]
    flipped = rng.random(len(items)) < c["noise"]
    said = [
      i.answer if r else i.wrong for i, r in zip(items, right, strict=True)
    ]
    written = self._written(items, said)
    return {**written, "label": right ^ flipped, "flipped": flipped}

  def _written(self, items: Sequence[Item], said: Sequence[str]) -> Batch:
    """Prompt, turns and answer in one row; the loss is the policy's tokens."""
    tok, sizes = self.tok, self.sizes
    rows, own = [], []
    for item, words in zip(items, said, strict=True):
      ids: list[int] = []
      mine: list[int] = []
      for text, by_policy in _parts(item, words):
        more = tok.encode(text) + [tok.eos_ids[0]] * by_policy
        ids += more
        mine += [by_policy] * len(more)
      rows.append(ids)
      own.append(mine)
    width = sizes.turns + sizes.answer
    ask = [tok.encode(i.ask) for i in items]
    prompt, prompt_mask = tokens.left_pad(ask, sizes.prompt, tok.pad_id)
    written, mask = tokens.right_pad(rows, width, tok.pad_id)
    loss = tokens.right_pad(own, width, 0)[0].astype(bool)
    return {
      "tokens": np.concatenate([prompt, written], 1),
      "attend": np.concatenate([prompt_mask, mask], 1),
      "loss": np.concatenate([np.zeros_like(prompt_mask), loss], 1),
    }


def _parts(item: Item, said: str) -> list[tuple[str, bool]]:
  """(text, whether the policy wrote it and ends it with eos) after a prompt."""
  out: list[tuple[str, bool]] = []
  for query, observation in item.turns:
    out += [(query, True), (observation, False)]
  return [*out, (said, True)]


def _fit(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """A row of a column, with -1 up to the widest level."""
  gaps = [(0, s - n) for s, n in zip(shape, value.shape, strict=True)]
  return np.pad(value, gaps, constant_values=-1)


def _widest(sizes: Sequence[Sizes]) -> Sizes:
  shapes = {
    name: tuple(max(s.columns[name][i] for s in sizes) for i in range(len(own)))
    for name, own in sizes[0].columns.items()
  }
  return Sizes(
    max(s.prompt for s in sizes),
    max(s.answer for s in sizes),
    max(s.turns for s in sizes),
    shapes,
  )


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
