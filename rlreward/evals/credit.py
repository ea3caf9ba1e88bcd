"""What an item of a reward benchmark earns: right answers against wrong ones.

An item has K candidates, the right ones first. A rule gives it a credit in
[0, 1]. Equal scores are told apart from won ones, and an item with a score that
is missing (NaN or infinite) earns nothing and loses nothing: it is an
abstention, and is counted as one.

All of it runs on the host in float64: published totals come out exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlreward.errors import UserError


class Items(NamedTuple):
  """N scored items of up to K candidates, the right ones first.

  Attributes:
    scores: f64[N, K].
    valid: bool[N, K], candidates that exist; the rest is padding. The score of
      one that exists may still be missing: NaN or infinite.
    num_correct: i64[N], candidates from the left that are right.
    group: str[N], the subset.
    weight: f64[N].
    id: str[N], the prompt; items of one prompt are drawn together.
    language: str[N], "" where none is said.
    style: str[N], "" where none is said.
    cell: i64[N], place in `cells`.
    cells: (language, subset) of each cell, in the order first seen.
  """

  scores: np.ndarray
  valid: np.ndarray
  num_correct: np.ndarray
  group: np.ndarray
  weight: np.ndarray
  id: np.ndarray
  language: np.ndarray
  style: np.ndarray
  cell: np.ndarray
  cells: tuple[tuple[str, str], ...]

  def take(self, rows: np.ndarray) -> Items:
    """The items of these rows."""
    columns = (x[rows] for x in self[:-1])
    return Items(*columns, self.cells)  # pyright: ignore[reportCallIssue]


def make(
  scores: np.ndarray,
  valid: np.ndarray,
  num_correct: Sequence[int] | np.ndarray,
  group: Sequence[str] | np.ndarray,
  weight: Sequence[float] | np.ndarray | None = None,
  ids: Sequence[str] | np.ndarray | None = None,
  language: Sequence[str] | np.ndarray | None = None,
  style: Sequence[str] | np.ndarray | None = None,
) -> Items:
  """Items from plain columns, checked.

  Args:
    scores, valid, num_correct, group, weight, ids, language, style: as of
      `preference.evaluate`.

  Returns:
    N items.

  Raises:
    UserError: see `check`.
  """
  s = np.atleast_2d(np.asarray(scores, float))
  n = len(s)
  text = lambda x, default: np.asarray(
    default if x is None else [str(v) for v in x]
  )
  group, language = text(group, [""] * n), text(language, [""] * n)
  both = list(zip(map(str, language), map(str, group), strict=False))
  cells = {cell: i for i, cell in enumerate(dict.fromkeys(both))}
  items = Items(
    s,
    np.asarray(valid, bool),
    np.asarray(num_correct, int),
    group,
    np.ones(n) if weight is None else np.asarray(weight, float),
    text(ids, [f"#{i}" for i in range(n)]),
    language,
    text(style, [""] * n),
    np.asarray([cells[b] for b in both], int),
    tuple(cells),
  )
  check(items)
  return items


class Credit(NamedTuple):
  """What each item earned.

  Attributes:
    value: f64[N] in [0, 1]; NaN where abstained.
    tied: bool[N], a right and a wrong candidate had equal scores and it
      mattered to the rule.
    judged: bool[N], every candidate has a finite score.
  """

  value: np.ndarray
  tied: np.ndarray
  judged: np.ndarray


def judged(items: Items) -> np.ndarray:
  """bool[N], items in which each candidate has a finite score."""
  return np.all(np.isfinite(items.scores) | ~items.valid, axis=1)


def right(items: Items) -> np.ndarray:
  """bool[N, K], candidates that exist and are right."""
  place = np.arange(items.scores.shape[1])
  return items.valid & (place < items.num_correct[:, None])


def check(items: Items) -> None:
  """Refuses items that have nothing to compare.

  Args:
    items: of one benchmark.

  Raises:
    UserError: arrays that do not fit, no right or no wrong candidate, a weight
      that is negative or not finite.
  """
  n = len(items.scores)
  columns = zip(Items._fields[:-2], items, strict=False)
  shapes = {k: np.shape(v) for k, v in columns}
  odd = [k for k, v in shapes.items() if v[:1] != (n,)]
  if odd or shapes["valid"] != shapes["scores"]:
    raise UserError(
      f"the shapes of the items do not fit: {shapes}",
      "each row is one item",
      "give scores and valid as [N, K], and all else as [N]",
    )
  good = right(items)
  count = good.sum(axis=1)
  wrong = (items.valid & ~good).sum(axis=1)
  for row in np.flatnonzero((count < 1) | (wrong < 1))[:1]:
    raise UserError(
      f"item {row} of {str(items.group[row])!r} has {count[row]} right and"
      f" {wrong[row]} wrong candidates",
      "there is nothing to compare",
      "give at least one of each, the right ones first, and num_correct",
    )
  bad = ~np.isfinite(items.weight) | (items.weight < 0)
  for row in np.flatnonzero(bad)[:1]:
    raise UserError(
      f"item {row} has weight {items.weight[row]}",
      "means are weighted by it",
      "give finite weights of at least 0, or none",
    )


def _matrix(items: Items) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(s_i - s_j [N, K, K], pairs of a right i and a wrong j, judged)."""
  known = judged(items)
  good = right(items) & known[:, None]
  bad = items.valid & ~good & known[:, None]
  s = np.where(items.valid & known[:, None], items.scores, 0)
  return s[:, :, None] - s[:, None], good[:, :, None] & bad[:, None], known


def pairs(items: Items, tie: float = 0.5) -> Credit:
  """The share of pairs of a right and a wrong candidate that are won.

    value = mean_{i right, j wrong} [s_i > s_j] + tie * [s_i = s_j]

  Args:
    items: N of them.
    tie: credit of a pair with equal scores.

  Returns:
    A Credit; with K = 2 the pair accuracy.
  """
  gap, pair, known = _matrix(items)
  won = np.where(gap > 0, 1.0, np.where(gap == 0, tie, 0.0))
  count = np.maximum(pair.sum(axis=(1, 2)), 1)
  value = np.where(pair, won, 0).sum(axis=(1, 2)) / count
  tied = np.any(pair & (gap == 0), axis=(1, 2))
  return Credit(np.where(known, value, np.nan), tied, known)


def strict_pairs(items: Items) -> Credit:
  """`pairs` in which a tie is lost: r_c > r_r or nothing."""
  return pairs(items, 0.0)


def best(items: Items) -> Credit:
  """Best of K: the chance that a maximum, drawn at random, is right.

    value = #{i right: s_i = max} / #{i: s_i = max}

  With one right candidate 1 / (joint winners) if it is among them: a constant
  scorer gets chance.

  Args:
    items: N of them.

  Returns:
    A Credit.

  Reference: RewardBench 2, arXiv 2506.01937.
  """
  known, good = judged(items), right(items)
  use = items.valid & known[:, None]
  s = np.where(use, items.scores, -np.inf)
  top = use & (s == np.max(s, axis=1, keepdims=True))
  hits, all_ = (top & good).sum(axis=1), top.sum(axis=1)
  value = hits / np.maximum(all_, 1)
  return Credit(
    np.where(known, value, np.nan), known & (hits > 0) & (hits < all_), known
  )


def beats_all(items: Items) -> Credit:
  """1 where every right candidate scores above every wrong one, else 0.

    value = [min_{i right} s_i > max_{j wrong} s_j]

  Args:
    items: N of them.

  Returns:
    A Credit; a tie between the two is lost.

  Reference: RMB, arXiv 2410.09893.
  """
  gap = margin(items)
  known = ~np.isnan(gap)
  return Credit(np.where(known, gap > 0, np.nan), gap == 0, known)


def margin(items: Items) -> np.ndarray:
  """min right - max wrong, f64[N]; NaN where abstained."""
  known, good = judged(items), right(items)
  low = np.min(np.where(good, items.scores, np.inf), axis=1)
  high = np.max(np.where(items.valid & ~good, items.scores, -np.inf), axis=1)
  return np.where(known, low, np.nan) - np.where(known, high, np.nan)


def spread(items: Items) -> np.ndarray:
  """max right - min right, f64[N]; NaN where abstained."""
  known, good = judged(items), right(items)
  high = np.max(np.where(good, items.scores, -np.inf), axis=1)
  low = np.min(np.where(good, items.scores, np.inf), axis=1)
  return np.where(known, high, np.nan) - np.where(known, low, np.nan)


def mean(value: np.ndarray, weight: np.ndarray) -> float:
  """Weighted mean of what is not NaN; NaN where nothing has weight."""
  w = np.where(np.isnan(value), 0, weight)
  total = float(np.sum(w))
  return float(np.nan_to_num(value) @ w) / total if total else float("nan")
