"""Texts of people, of language models and of both to arrays.

Token 0 is the prompt and the padding, 1 the stop token, 2 .. 1 + V words. An
author writes a Markov chain: author 0 is a person, 1 .. K are models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlreward.tasks import draws

STOP, FIRST, HUMAN = 1, 2, 0
LEVELS = 3  # a model's text, a mixed one, a person's
REPLAYED = 2  # a preferred and another text, from the comparisons
GROUP = LEVELS + REPLAYED
Fields = Mapping[str, Any]


def worth(c: Fields) -> np.ndarray:
  """f64[V]: what annotators think of each word, N(0, 1)."""
  return np.random.default_rng([c["world"], 21]).normal(size=c["words"])


def chains(c: Fields) -> np.ndarray:
  """f64[1 + K, V, V]: each author's law of the next word.

    log P_k(j | i) = base[i, j] + preference w[j] + common m[j] + own o_k[j]

  up to a constant; a person has the base alone.

  Args:
    c: all fields of `authors.defaults`.
  """
  rng = np.random.default_rng([c["world"], 22])
  v, k = c["words"], c["models"]
  base = c["spread"] * rng.normal(size=(v, v))
  machine, own = rng.normal(size=v), rng.normal(size=(k, v))
  tilt = c["preference"] * worth(c) + c["common"] * machine + c["own"] * own
  z = base + np.concatenate([np.zeros((1, v)), tilt])[:, None]
  p = np.exp(z - z.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


def write(
  chain: np.ndarray,
  author: np.ndarray,
  rng,
  given: np.ndarray | int,
  own: np.ndarray | None = None,
) -> np.ndarray:
  """i64[n, T]: texts, where some words are those of a given text.

  Args:
    chain: of `chains`.
    author: i64[n].
    rng: numpy generator.
    given: i64[n, T], a text to rewrite, or its length T.
    own: bool[n, T], words that the author writes; None for all.
  """
  n = len(author)
  text = np.zeros((n, given), int) if isinstance(given, int) else given.copy()
  edges = np.cumsum(chain, -1)
  # The first word follows one that is drawn and not written.
  last = rng.integers(0, chain.shape[-1], n)
  for t in range(text.shape[1]):
    u = rng.random((n, 1))
    new = np.minimum((u > edges[author, last]).sum(-1), chain.shape[-1] - 1)
    text[:, t] = new if own is None else np.where(own[:, t], new, text[:, t])
    last = text[:, t]
  return text


def rewritten(c: Fields, n: int, rng) -> np.ndarray:
  """bool[n, T]: half of the spans of a text, which a model rewrites."""
  spans = c["length"] // c["span"]
  order = rng.permuted(np.tile(np.arange(spans), (n, 1)), axis=1)
  return np.repeat(order < (spans + 1) // 2, c["span"], 1)


def compared(c: Fields, n: int, rng, noise: float) -> np.ndarray:
  """i64[n, 2, T]: pairs of people's texts, the preferred one first.

    A is preferred where g(A) - g(B) + Logistic(0, noise) > 0, with g the mean
    worth of the words times sqrt(T)

  Args:
    c: all fields of `authors.defaults`.
    n: pairs.
    rng: numpy generator.
    noise: scale of an annotator's error.
  """
  author = np.zeros(2 * n, int)
  two = write(chains(c), author, rng, c["length"]).reshape(n, 2, -1)
  says = worth(c)[two].sum(-1) / np.sqrt(c["length"])
  first = says[:, 0] - says[:, 1] + noise * rng.logistic(size=n) > 0
  return np.where(first[:, None, None], two, two[:, ::-1])


def groups(c: Fields, author: np.ndarray, rng) -> np.ndarray:
  """i64[n, GROUP, T]: texts of a model, mixed, of a person; two to replay.

  Args:
    c: all fields of `authors.defaults`.
    author: i64[n], of 1 .. K.
    rng: numpy generator.
  """
  n, chain, t = len(author), chains(c), c["length"]
  machine = write(chain, author, rng, t)
  human = write(chain, np.full(n, HUMAN), rng, t)
  start = write(chain, np.full(n, HUMAN), rng, t)
  mixed = write(chain, author, rng, start, rewritten(c, n, rng))
  pair = compared(c, n, rng, c["noise"])
  return np.concatenate([np.stack([machine, mixed, human], 1), pair], 1)


def rows(text: np.ndarray) -> draws.Batch:
  """`tokens`, `attend`, `loss` [n, 1 + T + 1]: prompt, words, stop."""
  n = len(text)
  tokens = np.full((n, text.shape[1] + 2), STOP, np.int32)
  tokens[:, 0], tokens[:, 1:-1] = 0, FIRST + text
  loss = np.ones(tokens.shape, bool)
  loss[:, 0] = False
  return {"tokens": tokens, "attend": np.ones(tokens.shape, bool), "loss": loss}


def paired(pairs: np.ndarray) -> draws.Batch:
  """Rows of n pairs, the preferred first, and `strength` f32[2n]."""
  out = rows(pairs.reshape(-1, pairs.shape[-1]))
  return {**out, "strength": np.ones(len(out["tokens"]), np.float32)}


def judged(text: np.ndarray, author: np.ndarray) -> draws.Batch:
  """Rows of n groups with `rank` f32, `label` bool and `author` i32.

  Args:
    text: i64[n, GROUP, T].
    author: i64[n]; the column counts models from 0.
  """
  n = len(text)
  rank = np.tile(np.arange(1, GROUP + 1, dtype=np.float32), n)
  return {
    **rows(text.reshape(n * GROUP, -1)),
    "rank": rank,
    "label": rank == 1,
    "author": np.repeat(author - 1, GROUP).astype(np.int32),
  }
