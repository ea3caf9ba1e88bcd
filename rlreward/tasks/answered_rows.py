"""Problems as text to arrays: prompts, demonstrations, pairs, labelled answers.

Rows are split by a hash of the prompt and padded to the sizes they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import data, tokens

_TRIES = 20_000  # draws in a row without a problem of the split
Batch = dict[str, np.ndarray]


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


Draw = Callable[[Mapping[str, Any], np.random.Generator], Item]


class Rows:
  """Problems to arrays, at the sizes of the widest level."""

  def __init__(self, draw: Draw, tok: tokens.CharTokenizer, sizes: Sizes):
    self.draw, self.tok, self.sizes = draw, tok, sizes

  def items(self, c, split: str, size: int, rng) -> list[Item]:
    """So many problems of a split."""
    out: list[Item] = []
    missed = 0
    while len(out) < size:
      item = self.draw(c, rng)
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


def widest(sizes: Sequence[Sizes]) -> Sizes:
  """Slots that are enough for each of several levels."""
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
