"""Phrases and repetition of text on the host; `ops` has both on token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rlreward.rewards import textmetrics

# Those that the paper's text quotes, of its list of 40.
REASONING = (
  "we need to",
  "wait",
  "alternatively",
  "let me check",
  "first, ",
  "therefore",
  "since we ",
  "for example ",
)


def hits(text: str, phrases: Sequence[str] = REASONING) -> int:
  """How many different phrases occur, without case.

  Args:
    text: of the policy.
    phrases: in lower case.
  """
  low = text.lower()
  return sum(p in low for p in phrases)


def reward(
  text: str, phrases: Sequence[str] = REASONING, each: float = 0.05
) -> float:
  """RPR: min(1, each * hits) less repeated 20-grams and invented turns.

    max(0, min(1, each h) - rep20 - count("user: "))

  Args:
    text: the reasoning of the policy.
    phrases: see `hits`.
    each: 0.05 in the authors' code, 1 / 40 in the paper's text.

  Reference: The Climb Carves Wisdom Deeper Than the Summit, arXiv 2505.22653.
  """
  score = min(1.0, each * hits(text, phrases))
  score -= repeated(text, 20) + text.lower().count("user: ")
  return max(score, 0.0)


def repetition(text: str, n: int = 3) -> float:
  """Different n-grams of words over all; 1 in texts too short to have one.

  Args:
    text: any.
    n: size.
  """
  found = _grams(text, n)
  return len(found) / found.total() if found else 1.0


def repeated(text: str, n: int = 20) -> float:
  """Different n-grams that occur again over all n-grams.

  Args:
    text: any.
    n: size.
  """
  found = _grams(text, n)
  again = sum(k > 1 for k in found.values())
  return again / found.total() if found else 0.0


def _grams(text: str, n: int) -> Counter[tuple[str, ...]]:
  return textmetrics.grams(text.lower().split()[: textmetrics.MOST_WORDS], n)
