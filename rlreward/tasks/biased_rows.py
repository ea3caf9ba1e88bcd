"""Topics and answers of the biased world to arrays: draws, pairs, tables.

Token 0 stops and pads, 1 .. X are the topics' own, X + 1 is filler and X + 2
the spurious one. A prompt is its topic's token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlreward.tasks import draws

STOP = 0
JUDGES = ("gold", "biased")
Fields = Mapping[str, Any]


def vocab(c: Fields) -> int:
  """V: stop, a token of each topic, filler and the spurious one."""
  return c["topics"] + 3


def kinds(c: Fields) -> np.ndarray:
  """i32[X, V]: 0 on the topic, 1 off it, 2 filler, 3 spurious, -1 stop."""
  x = c["topics"]
  table = np.full((x, vocab(c)), 1, np.int32)
  table[:, STOP], table[:, x + 1], table[:, x + 2] = -1, 2, 3
  table[np.arange(x), 1 + np.arange(x)] = 0
  return table


def worth(c: Fields) -> np.ndarray:
  """f64[X, V]: the gold of a token; 0 for the stop."""
  kind = kinds(c)
  return np.where(kind < 0, 0, np.asarray(c["worth"], np.float64)[kind])


def own(c: Fields) -> np.ndarray:
  """f64[K, X, V]: each member's own error in a token's worth."""
  rng = np.random.default_rng([c["world"], 11])
  size = (c["members"], c["topics"], vocab(c))
  table = c["own"] * rng.normal(size=size)
  table[..., STOP] = 0
  return table


def chances(c: Fields) -> np.ndarray:
  """f64[X, V]: the base's law of the next token."""
  kind = kinds(c)
  many = np.where(kind == 1, c["topics"] - 1, 1)
  share = np.asarray(c["shares"], np.float64)[kind] / many
  return np.where(kind < 0, c["stop"], (1 - c["stop"]) * share)


def answers(c: Fields, topic: np.ndarray, rng) -> np.ndarray:
  """i32[n, T]: draws of the base, padded with the stop token.

  Args:
    c: all fields of `biased.defaults`.
    topic: i64[n].
    rng: numpy generator.
  """
  edges = np.cumsum(chances(c)[topic], -1)[:, None]
  u = rng.random((len(topic), c["length"], 1))
  drawn = np.minimum((u > edges).sum(-1), vocab(c) - 1)
  alive = np.cumprod(drawn != STOP, 1)
  return (drawn * alive).astype(np.int32)


def rows(topic: np.ndarray, found: np.ndarray) -> draws.Batch:
  """`tokens`, `attend`, `loss` [n, 1 + T]: prompt, answer, stop, padding."""
  tokens = np.concatenate([1 + topic[:, None], found], 1).astype(np.int32)
  size = (found != STOP).sum(1)
  attend = np.arange(tokens.shape[1]) <= 1 + size[:, None]
  loss = attend & (np.arange(tokens.shape[1]) > 0)
  return {"tokens": tokens, "attend": attend, "loss": loss}


def _topics(c: Fields, n: int, rng) -> np.ndarray:
  first = rng.integers(c["topics"])
  return rng.permutation((first + np.arange(n)) % c["topics"])


def prompts(c: Fields, split: str, n: int, rng) -> draws.Batch:
  """`prompt` i32[n, 1] and `prompt_mask`, each topic equally often."""
  del split
  topic = _topics(c, n, rng)
  return {
    "prompt": 1 + topic[:, None].astype(np.int32),
    "prompt_mask": np.ones((n, 1), bool),
  }


def demonstrations(c: Fields, split: str, n: int, rng) -> draws.Batch:
  """Draws of the base."""
  del split
  topic = _topics(c, n, rng)
  return rows(topic, answers(c, topic, rng))


def value(
  c: Fields, topic: np.ndarray, found: np.ndarray, biased: bool = False
) -> np.ndarray:
  """f64[n]: the gold of answers, with the shared biases where it is asked.

  Args:
    c: all fields of `biased.defaults`.
    topic: i64[n].
    found: i32[n, T].
    biased: what a judge sees who has the proxy's shared biases.
  """
  table = worth(c)
  if biased:
    table[:, 1:] += c["length_bias"]
    table[:, -1] += c["attribute_bias"]
  return table[topic[:, None], found].sum(1)


def _compared(c: Fields, split: str, n: int, rng):
  """(topics i64[n], pairs i32[n, 2, T] with the preferred first, bool[n])."""
  topic = _topics(c, n, rng)
  two = np.stack([answers(c, topic, rng) for _ in range(2)], 1)
  judge = c["judge"] == "biased" and split == "train"
  r = [value(c, topic, two[:, i], judge) for i in range(2)]
  lead, differ = r[0] - r[1], (two[:, 0] != two[:, 1]).any(1)
  noise, coin = rng.logistic(size=n), rng.random(n)
  if split == "train":
    first = lead + c["temperature"] * noise > 0
    first ^= coin < c["flip"]
  else:  # what is measured has no noise
    first, differ = lead > 0, differ & (np.abs(lead) > 1e-9)
  pairs = np.where(first[:, None, None], two, two[:, ::-1])
  return topic, pairs, differ


def _paired(topic, pairs, known) -> draws.Batch:
  out = rows(np.repeat(topic, 2), pairs.reshape(-1, pairs.shape[-1]))
  ones = np.ones(len(out["tokens"]), np.float32)
  return {**out, "strength": ones, "valid": np.repeat(known, 2)}


def preferences(c: Fields, split: str, n: int, rng) -> draws.Batch:
  """n pairs of draws of the base, the preferred first.

  P(A over B) = (1 - flip) p + flip (1 - p),  p = sigmoid(lead / temperature)
  """
  return _paired(*_compared(c, split, n, rng))


def finite(c: Fields, seed: int) -> draws.Finite:
  """All training pairs of a seed, without those of equal answers."""
  rng = np.random.default_rng([seed, 2])
  topic, pairs, known = _compared(c, "train", 2 * c["pairs"] + 64, rng)
  kept = np.flatnonzero(known)[: c["pairs"]]
  topic, pairs, known = topic[kept], pairs[kept], known[kept]
  return draws.Finite(
    len(kept), lambda at: _paired(topic[at], pairs[at], known[at])
  )
