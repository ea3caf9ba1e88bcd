"""What pairs tell without a model of language: length, and a bag of words.

A reward model on real pairs should be set beside both. The rule of length says
"the longer" or "the shorter", whichever is right more often in training. The
bag of words is a logistic regression on differences of log counts, its penalty
chosen by cross-validation; it is convex, so there is no seed in it:

  min_w sum_i log(1 + exp(-w . (x_c - x_r)_i)) + l2/2 |w|^2
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlreward.evals import intervals

L2 = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
LEAST = 3  # training pairs that a word must occur in
FOLDS = 5


class Pair(NamedTuple):
  """A dialogue with two answers."""

  prompt: str
  chosen: str
  rejected: str


def length(train: Sequence[Pair], test: Sequence[Pair]) -> dict[str, Any]:
  """The rule of length.

  Args:
    train: decides between longer and shorter.
    test: pairs to order.

  Returns:
    {"margin": f64[N], "rule": in words}.
  """
  gap = lambda pairs: np.asarray(
    [float(len(p.chosen) - len(p.rejected)) for p in pairs]
  )
  sign = 1.0 if accuracy(gap(train)) >= 0.5 else -1.0
  rule = "the longer answer" if sign > 0 else "the shorter answer"
  return {"margin": sign * gap(test), "rule": rule}


def bag_of_words(train: Sequence[Pair], test: Sequence[Pair]) -> dict[str, Any]:
  """Logistic regression on words.

  Args:
    train: pairs to fit.
    test: pairs to order.

  Returns:
    {"margin": f64[N], "l2", "words": how many, "best", "worst": ten words
    each, by weight}.
  """
  words = vocabulary(train)
  x_NxW, y_MxW = features(train, words), features(test, words)
  fold = np.arange(len(train)) % FOLDS
  scores = []
  for l2 in L2:
    held = np.zeros(len(train))
    for k in range(FOLDS):
      held[fold == k] = x_NxW[fold == k] @ fit(x_NxW[fold != k], l2)
    scores.append(np.mean(np.logaddexp(0, -held)))
  l2 = L2[int(np.argmin(scores))]
  w = fit(x_NxW, l2)
  order = np.argsort(w)
  return {
    "margin": y_MxW @ w,
    "l2": l2,
    "words": len(words),
    "best": [words[i] for i in order[::-1][:10]],
    "worst": [words[i] for i in order[:10]],
  }


def split(text: str) -> list[str]:
  """Lower-case words and the marks that end sentences."""
  return re.findall(r"[a-z]+(?:['\u2019][a-z]+)?|[.?!]", text.lower())


def vocabulary(pairs: Sequence[Pair]) -> list[str]:
  """Words of at least LEAST pairs, sorted."""
  seen: Counter[str] = Counter()
  for p in pairs:
    seen.update({*split(p.chosen), *split(p.rejected)})
  return sorted(w for w, n in seen.items() if n >= LEAST)


def features(pairs: Sequence[Pair], words: Sequence[str]) -> np.ndarray:
  """f64[N, W], log(1 + count in chosen) - log(1 + count in rejected)."""
  place = {w: i for i, w in enumerate(words)}
  out = np.zeros((len(pairs), len(words)))
  for n, p in enumerate(pairs):
    for sign, text in ((1.0, p.chosen), (-1.0, p.rejected)):
      for word, count in Counter(split(text)).items():
        if word in place:
          out[n, place[word]] += sign * np.log1p(count)
  return out


def fit(x_NxW: np.ndarray, l2: float, steps: int = 50) -> np.ndarray:
  """The weights of a logistic regression on differences, by Newton's method.

  With fewer pairs than words the step is solved in the space of the pairs:
  w = X' a, (X' D X + l2 I)^-1 X' = X' (D X X' + l2 I)^-1.

  Args:
    x_NxW: features of the chosen answers less those of the rejected.
    l2: penalty, above 0.
    steps: most Newton steps.

  Returns:
    f64[W].
  """
  gram = x_NxW @ x_NxW.T
  a = np.zeros(len(x_NxW))
  for _ in range(steps):
    p = 1 / (1 + np.exp(gram @ a))  # chance that the pair is ordered wrongly
    # The gradient is X' (l2 a - p); the optimum has a = p / l2.
    left = (p * (1 - p))[:, None] * gram + l2 * np.eye(len(a))
    change = np.linalg.solve(left, p - l2 * a)
    a += change
    if np.max(np.abs(change)) < 1e-10:
      break
  return x_NxW.T @ a


def accuracy(margin: np.ndarray) -> float:
  """Share of pairs with a positive margin, ties half."""
  return float(np.mean((np.sign(margin) + 1) / 2))


def measured(margin: np.ndarray, clusters: Sequence[str]) -> dict[str, Any]:
  """Accuracy with two intervals of 95 %.

  Args:
    margin: f[N], of the chosen answer over the rejected.
    clusters: [N], the dialogue; what shares one is drawn together.

  Returns:
    {"accuracy", "wilson", "bootstrap", "pairs"}.
  """
  won = (np.sign(margin) + 1) / 2
  mean = lambda n: {"accuracy": float(np.sum(n * won) / np.sum(n))}
  strata = np.zeros(len(won))
  band = intervals.bootstrap(mean, strata, clusters)["accuracy"]
  return {
    "accuracy": float(np.mean(won)),
    "wilson": list(intervals.wilson(float(np.sum(won)), len(won))),
    "bootstrap": list(band),
    "pairs": len(won),
  }


def lead(
  margin: np.ndarray, other: np.ndarray, clusters: Sequence[str]
) -> dict[str, Any]:
  """How much more accurate one is than another on the same pairs.

  Args:
    margin: f[N].
    other: f[N].
    clusters: [N], as of `measured`.

  Returns:
    {"lead", "bootstrap"}.
  """
  gap = (np.sign(margin) - np.sign(other)) / 2
  mean = lambda n: {"lead": float(np.sum(n * gap) / np.sum(n))}
  band = intervals.bootstrap(mean, np.zeros(len(gap)), clusters)["lead"]
  return {"lead": float(np.mean(gap)), "bootstrap": list(band)}
