"""Passages, questions and answers of a toy language as tokens, pairs by rule.

A passage is (entity, relation, value, mark): it says that the relation of the
entity has the value, and is cited by its mark. A question asks for one relation
of an entity, or for a relation of what that one leads to. An answer is how it
speaks (PLAIN, BOTH where passages disagree, NONE where they do not say) and up
to two claims, the last one last; a claim is a passage in its own words with the
mark that it cites. Things are entities and values alike, so that passages can
be chained, and no fact holds outside of its prompt.

In each kind of pair the two sides have the same law where passages cannot be
seen, or are exchanged in half of the prompts: without passages no scorer is
better than chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

PAD, EOS, NONE, PLAIN, BOTH, ASK, DASH, HIDDEN = range(8)
PASSAGES, FIRST = 3, 8
# Kinds of pairs as subsets of the benchmark's scenarios.
KINDS = (
  "reason/last",  # the second claim has the passage that the first leads to
  "reason/first",  # and the first one that which is asked for
  "citation/mark",
  "abstain/absent",
  "abstain/present",
  "conflict/most",  # the value that most passages give
  "conflict/told",  # says that passages disagree
  "conflict/agreed",  # and does not where they agree
  "helpful/form",
)
SCENARIOS = ("reason", "citation", "abstain", "conflict")
# Of training: the scenarios, with twice as many of the finest difference.
TAUGHT = (*KINDS[:-1], "citation/mark")
GENERAL = ("helpful/form", "helpful/answer")
PROMPT, ANSWER = 4 * PASSAGES + 4, 9
Batch = dict[str, np.ndarray]


def vocab(c: Mapping[str, Any]) -> int:
  """Tokens there are: words, marks, relations, things."""
  return FIRST + PASSAGES + c["relations"] + c["things"]


def mark(place: np.ndarray) -> np.ndarray:
  """Tokens that cite passages, by their place in the prompt."""
  return FIRST + place


def relation(r: np.ndarray) -> np.ndarray:
  """Tokens of relations."""
  return FIRST + PASSAGES + r


def thing(c: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
  """Tokens of entities and values."""
  return FIRST + PASSAGES + c["relations"] + x


class _World:
  """n prompts that are being made: different things, relations, places."""

  def __init__(self, c: Mapping[str, Any], n: int, rng: np.random.Generator):
    draw = lambda k: rng.permuted(np.tile(np.arange(k), (n, 1)), axis=1)
    self.n, self.rng = n, rng
    self.things = thing(c, draw(c["things"]))
    self.relations = relation(draw(c["relations"]))
    self.place = draw(PASSAGES)
    self.hidden = np.zeros((n, PASSAGES, 3), np.int64)

  def put(self, k: int, entity, rel, value) -> np.ndarray:
    """Writes passage k; its mark, i64[n]."""
    row = np.arange(self.n)
    self.hidden[row, self.place[:, k]] = np.stack([entity, rel, value], 1)
    return mark(self.place[:, k])

  def prompt(self, entity, first, then=None) -> np.ndarray:
    """i64[n, PROMPT]: passages in their places, and the question."""
    marks = np.broadcast_to(mark(np.arange(PASSAGES)), (self.n, PASSAGES))
    text = np.concatenate([self.hidden, marks[..., None]], 2)
    words = _wide(self.n, ASK, entity, first, DASH if then is None else then)
    return np.concatenate([text.reshape(self.n, 4 * PASSAGES), words], 1)


def _wide(n: int, *columns) -> np.ndarray:
  return np.stack([np.broadcast_to(x, n) for x in columns], 1)


_EMPTY = (DASH,) * 4


def _answer(n: int, how, claim=_EMPTY, before=_EMPTY) -> np.ndarray:
  return _wide(n, how, *before, *claim)


def _reason(w: _World, kind: str):
  """A chain of two passages, and one that is like its first or its second."""
  e, f, m, v, u = w.things[:, :5].T
  r, s = w.relations[:, :2].T
  one, two = w.put(0, e, r, m), w.put(1, m, s, v)
  first, last = (e, r, m, one), (m, s, v, two)
  good = _answer(w.n, PLAIN, last, first)
  if kind == "reason/last":
    bad = _answer(w.n, PLAIN, (m, s, u, w.put(2, f, s, u)), first)
  else:
    bad = _answer(w.n, PLAIN, last, (e, r, m, w.put(2, f, r, m)))
  return w.prompt(e, r, s), good, bad


def _single(w: _World, kind: str):
  """One passage answers; the others share its entity or its relation."""
  del kind
  e, f, v, u, x = w.things[:, :5].T
  r, s = w.relations[:, :2].T
  right = w.put(0, e, r, v)
  wrong = [w.put(1, e, s, u), w.put(2, f, r, x)]
  cite = np.where(w.rng.random(w.n) < 0.5, *wrong)
  good = _answer(w.n, PLAIN, (e, r, v, right))
  return w.prompt(e, r), good, _answer(w.n, PLAIN, (e, r, v, cite))


def _abstain(w: _World, kind: str):
  """A passage about the entity that is asked for, or none about it."""
  e, f, g, v, u = w.things[:, :5].T
  r, s, t = w.relations[:, :3].T
  there = kind == "abstain/present"
  cite = w.put(0, e if there else f, r, v)
  w.put(1, g, s, u)
  w.put(2, g, t, v)
  says = _answer(w.n, PLAIN, (e, r, v, cite))
  sides = says, _answer(w.n, NONE)
  return w.prompt(e, r), *(sides if there else sides[::-1])


def _conflict(w: _World, kind: str):
  """Two passages against one, or three that agree."""
  e, v, u = w.things[:, :3].T
  r = w.relations[:, 0]
  one, two = w.put(0, e, r, v), w.put(1, e, r, v)
  odd = w.put(2, e, r, v if kind == "conflict/agreed" else u)
  cite = np.where(w.rng.random(w.n) < 0.5, one, two)
  said = _answer(w.n, BOTH, (e, r, v, cite))
  if kind == "conflict/most":
    return w.prompt(e, r), said, _answer(w.n, BOTH, (e, r, u, odd))
  sides = said, _answer(w.n, PLAIN, (e, r, v, cite))
  return w.prompt(e, r), *(sides if kind == "conflict/told" else sides[::-1])


def _general(w: _World, kind: str):
  """A claim in its own words before a broken one, or any before none."""
  prompt, good, _ = _single(w, kind)
  if kind == "helpful/answer":
    return prompt, good, _answer(w.n, NONE)
  bad = good.copy()
  # A relation in the place of the value, or a value in that of the citation.
  cited = w.rng.random(w.n) < 0.5
  bad[:, 7] = np.where(cited, good[:, 7], w.relations[:, 0])
  bad[:, 8] = np.where(cited, good[:, 7], good[:, 8])
  return prompt, good, bad


_MAKE: dict[str, Callable[..., tuple]] = {
  "reason": _reason,
  "citation": _single,
  "abstain": _abstain,
  "conflict": _conflict,
  "helpful": _general,
}


def pairs(c: Mapping[str, Any], kind: str, n: int, rng) -> tuple:
  """n pairs of one kind.

  Args:
    c: fields `things` and `relations`.
    kind: of KINDS or GENERAL.
    n: pairs.
    rng: numpy generator.

  Returns:
    (prompt i64[n, PROMPT], chosen i64[n, ANSWER], rejected i64[n, ANSWER]).
  """
  return _MAKE[kind.partition("/")[0]](_World(c, n, rng), kind)


def batch(
  c: Mapping[str, Any], kinds, size: int, rng, *, masked: bool
) -> Batch:
  """`size` pairs, as many of each kind, one kind after another.

  Rows 2i and 2i + 1 are chosen and rejected: `tokens`, `attend`, `loss`
  [2 size, PROMPT + ANSWER] and `strength`; `item`, `right` and `group` (place
  in `kinds`) are what a benchmark reads.

  Args:
    c: fields `things` and `relations`.
    kinds: of pairs.
    size: pairs.
    rng: numpy generator.
    masked: every token of the passages is HIDDEN.
  """
  counts = [len(x) for x in np.array_split(np.arange(size), len(kinds))]
  found = [pairs(c, k, n, rng) for k, n in zip(kinds, counts, strict=True)]
  prompt, good, bad = map(np.concatenate, zip(*found, strict=True))
  if masked:
    prompt[:, : 4 * PASSAGES] = HIDDEN
  answer = np.stack([good, bad], 1).reshape(2 * size, ANSWER)
  tokens = np.concatenate([np.repeat(prompt, 2, 0), answer], 1)
  loss = np.zeros(tokens.shape, bool)
  loss[:, PROMPT:] = True
  place = np.arange(2 * size)
  return {
    "tokens": tokens.astype(np.int32),
    "attend": np.ones(tokens.shape, bool),
    "loss": loss,
    "strength": np.ones(2 * size, np.float32),
    "item": (place // 2).astype(np.int32),
    "right": place % 2 == 0,
    "group": np.repeat(np.arange(len(kinds)), np.multiply(counts, 2)).astype(
      np.int32
    ),
  }
