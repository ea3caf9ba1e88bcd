"""Phrases and repetition of text on the host; `ops` has both on token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rlreward.rewards import textmetrics

# The 40 phrases of the authors' code (trestad/Noisy-Rewards-in-Learning-to-
# Reason, verl/utils/reward_score/math_score.py), in its order. "makes sence" is
# misspelt there, so that the right spelling earns nothing. A phrase counts
# inside longer words too ("await"), and blanks at its end belong to it.
REASONING = (
  "i need to", "we need to", "wait", "alternatively", "let me check",
  "let me see", "let's focus on", "we know that", "we can observe ",
  "we can see ", "let me try", "let's try", "let us try", "first, ",
  "firstly, ", "next, ", "finally, ", "let us first", "let's first",
  "let me first", "try again", "still not", "not working", "not correct",
  "does not work", "doesn't work", "makes sence", "since we ", "because we ",
  "consequently", "as a result", "thus", "therefore", "hence", "so that",
  "thereby", "if we", "given there ", "for instance ", "for example ",
)  # fmt: skip
TURN = "user: "  # what a policy writes that asks itself the next question


def hits(text: str, phrases: Sequence[str] = REASONING) -> int:
  """How many different phrases occur, without case.

  Args:
    text: of the policy.
    phrases: in lower case.
  """
  low = text.lower()
  return sum(p in low for p in phrases)


def reward(
  text: str,
  phrases: Sequence[str] = REASONING,
  c: float = 40,
  answered: bool = True,
) -> float:
  """RPR: distinct phrases over c, less repeated 20-grams and invented turns.

    max(0, min(1, hits / c) - rep20 - count("user: "))

  Args:
    text: the reasoning of the policy.
    phrases: see `hits`.
    c: 40 in the paper's text, 20 in the authors' code.
    answered: whether an answer could be extracted; without one there is no
      reward.

  Reference: The Climb Carves Wisdom Deeper Than the Summit, arXiv 2505.22653.
  """
  if not answered:
    return 0.0
  score = min(1.0, hits(text, phrases) / c)
  score -= repeated(text, 20) + text.lower().count(TURN)
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
