"""Items of four answers, ties, and answers to choose from: a benchmark's world.

The words of `topics`: an answer is the sum of what its words are worth. Held
out are items with one right answer of four, in five domains that differ in how
many words tell the answers apart; a domain of ties, where several answers are
equally right; and pools of answers of the policy, on which a reward model's
choice shows what the benchmark is worth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import data, draws, topics
from rlreward.tasks.draws import Batch
from rlreward.types import Task

# Domains, and the words in which the answers of an item differ; 0 stands for
# all of them.
DIFFER = {
  "Factuality": 0,
  "Precise IF": 1,
  "Math": 2,
  "Safety": 3,
  "Focus": 0,
}
GROUPS = (*DIFFER, "Ties")
ITEM, RIGHT, POOL = 4, 3, 16  # answers of an item, right ones of a tie, a pool
_UNIT = 58  # rows of 4 items, a ref and a tied item, and 2 pools
_RIGHTS = ("best", "any")


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "fourway",
    "topics": 8,
    "words": 12,  # of a topic
    "length": 4,  # words of an answer
    "pairs": 512,  # for training
    "noise": 0.5,  # scale of the logistic noise of a label
    "right": "best",  # answer of an item: best by gold | any, drawn by lot
    "world": 0,  # seed of the topics' worth and of the words' topics
  }


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task: finite pairs for training, and a benchmark with pools held out.

  Training pairs depend on the seed alone and are numbered by `row`. Columns of
  held-out rows beside those of a pair: `item`, `right`, `name`, `kind` and
  `group` as `steps.study` reads them, `pool` i32 (-1 where a row is in none),
  `gold` f32 and `valid`, false for all but the first rows, which are pairs.

  Args:
    config: section with the fields of `defaults`, None for all of them.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task whose reward is its gold.

  Raises:
    UserError: fields that cannot work.
  """
  c = _config(config)
  width, hosts = c["length"] + 2, (process_index, process_count)
  world = _world(c)

  def prompts(size, rng) -> Batch:
    del rng
    return {
      "prompt": np.zeros((size, 1), np.int32),
      "prompt_mask": np.ones((size, 1), bool),
    }

  def given(seed: int) -> draws.Finite:
    text = topics.labelled(world, np.random.default_rng([seed, 2]))
    text[..., 0] = topics.PLAIN

    def build(index: np.ndarray) -> Batch:
      row = np.repeat(index, 2).astype(np.int32)
      return {**topics.paired(text[index]), "row": row}

    return draws.Finite(len(text), build)

  def stream(build: draws.Build, finite=None):
    return lambda split, batch_size, seed: draws.Draws(
      build, split, batch_size, seed, draws.digest(c), *hosts, finite
    )

  spec: dict[str, Any] = {
    "vocab_size": topics.FIRST + c["topics"] * c["words"],
    "prompt_length": 1,
    "completion_length": width,
    "answer_length": width,
    "stop_ids": (topics.EOS,),
    "pad_id": 0,
    "on_device": True,
    "judged": False,
    "tokenizer": None,
    "groups": GROUPS,
  }
  return Task(
    stream(prompts),
    topics.verifier(world, 0.0),
    None,
    spec,
    preferences=stream(lambda size, rng: held_out(c, size, rng), given),
  )


def _world(c: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of `topics`: every word is seen, and nobody likes lists."""
  own = {k: v for k, v in c.items() if k not in ("name", "right")}
  return {
    **topics.defaults(), **own, "seen": 1.0, "bias": 0.0, "lists": 0.0
  }  # fmt: skip


def fours(c: Mapping[str, Any], n: int, rng) -> tuple:
  """n items of four answers, the best one first, evenly over the domains.

  Args:
    c: all fields of `defaults`.
    n: items.
    rng: numpy generator.

  Returns:
    (words i64[n, 4, T], i64[n] place in DIFFER).
  """
  t, words = c["length"], topics.vocabulary(_world(c)).reshape(-1)
  table = topics.worth(_world(c))
  group = np.sort(np.arange(n) % len(DIFFER))
  differ = np.asarray([min(d or t, t) for d in DIFFER.values()])[group]
  out, left = np.zeros((n, ITEM, t), np.int64), np.arange(n)
  while left.size:  # drawn again where two are the best
    text = rng.choice(words, (left.size, ITEM, t))
    same = np.arange(t) >= differ[left, None, None]
    text = rng.permuted(np.where(same, text[:, :1], text), axis=2)
    gold = table[text].sum(-1)
    order = np.argsort(-gold, 1)
    out[left] = np.take_along_axis(text, order[..., None], 1)
    best = np.take_along_axis(gold, order[:, :2], 1)
    left = left[best[:, 0] - best[:, 1] < 1e-4]
  return out, group


def ties(c: Mapping[str, Any], n: int, rng) -> np.ndarray:
  """i64[n, RIGHT + 3, T]: equally good answers of the same topics, then worse.

  Args:
    c: all fields of `defaults`.
    n: prompts.
    rng: numpy generator.
  """
  vocabulary = topics.vocabulary(_world(c))
  topic = np.zeros(vocabulary.max() + 1, np.int64)
  topic[vocabulary] = np.arange(c["topics"])[:, None]
  found = np.zeros((0, ITEM, c["length"]), np.int64)
  while len(found) < n:
    text, group = fours(c, 5 * n, rng)
    found = np.concatenate([found, text[group == 0]])
  found = found[:n]
  own = np.repeat(topic[found[:, :1]], RIGHT, 1)
  place = rng.integers(0, c["words"], own.shape)
  right = rng.permuted(vocabulary[own, place], axis=2)
  return np.concatenate([right, found[:, 1:]], 1)


def held_out(c: Mapping[str, Any], size: int, rng) -> Batch:
  """2 `size` rows: pairs, items of four, ties, pools; for `make`.

  Of u = 2 size / 60 units each has 4 items, a prompt of ties and 2 pools.

  Args:
    c: all fields of `defaults`.
    size: pairs, 2 rows each.
    rng: numpy generator.
  """
  u = 2 * size // (_UNIT + 2)
  table = topics.worth(_world(c))
  words = topics.vocabulary(_world(c)).reshape(-1)
  draw = lambda *shape: rng.choice(words, (*shape, c["length"]))
  rest = 2 * size - _UNIT * u
  first = draw(rest // 2, 2)
  gold = table[first].sum(-1)
  better = gold[:, 0] > gold[:, 1]
  first = np.where(better[:, None, None], first, first[:, ::-1])
  items, group = fours(c, 4 * u, rng)
  if c["right"] == "any":
    order = rng.permuted(np.tile(np.arange(ITEM), (len(items), 1)), axis=1)
    items = np.take_along_axis(items, order[..., None], 1)
  tied = ties(c, u, rng)
  ref = tied[:, [0, *range(RIGHT, RIGHT + 3)]]
  blocks = [first, items, ref, tied, draw(2 * u, POOL)]
  text = np.concatenate([b.reshape(-1, c["length"]) for b in blocks])
  counts = [b.shape[0] * b.shape[1] for b in blocks]

  def column(*values, none=-1):
    """A value for each of items, ref and tied items, repeated over rows."""
    each = [np.repeat(v, b.shape[1]) for v, b in zip(values, blocks[1:4],
                                                     strict=True)]  # fmt: skip
    fill = lambda k: np.full(k, none)
    whole = [fill(counts[0]), *each, fill(counts[4])]
    return np.concatenate(whole).astype(np.int32)

  n, part = np.arange(4 * u), np.arange(u)
  last = np.full(u, len(DIFFER))
  right = [
    np.tile(np.arange(b.shape[1]) < k, len(b))
    for b, k in zip(blocks[1:4], (1, 1, RIGHT), strict=True)
  ]
  pool = np.full(len(text), -1, np.int32)
  pool[len(text) - counts[4] :] = np.repeat(np.arange(2 * u), POOL)
  form = np.full((len(text), 1), topics.PLAIN)
  rows = np.concatenate([form, text], 1).astype(np.int32)
  return {
    **topics.paired(rows.reshape(size, 2, -1)),
    "item": column(n, 4 * u + part, 5 * u + part),
    "right": np.concatenate(
      [np.zeros(counts[0], bool), *right, np.zeros(counts[4], bool)]
    ),
    "name": column(n, part, part),
    "kind": column(np.full(4 * u, -1), 0 * part, 0 * part + 1),
    "group": column(group, last, last),
    "pool": pool,
    "gold": table[text].sum(-1).astype(np.float32),
    "valid": np.arange(2 * size) < rest,
  }


def _config(config: Any) -> dict[str, Any]:
  c = data.section(config, defaults())
  least = {"topics": 4, "words": 2, "length": 1, "pairs": 1, "world": 0}
  for name, low in least.items():
    if not isinstance(c[name], int) or c[name] < low:
      raise UserError(
        f"{name}={c[name]!r}", "it is a number of things", f"use {low} or more"
      )
  if not 0 <= c["noise"] < math.inf:
    raise UserError(
      f"noise={c['noise']!r}",
      "it is in units of the gold, whose deviation is 1",
      "use a finite number of 0 or more",
    )
  if c["right"] not in _RIGHTS:
    raise UserError(
      f"right={c['right']!r}",
      "it says which answer of an item is the right one",
      f"use one of: {', '.join(_RIGHTS)}",
    )
  return c
