"""ToolRL's reward of one answer: format, and graded correctness of its calls.

Which tags the format asks for is read from the gold text, as in the paper.

Reference: ToolRL, arXiv 2504.13958.
"""

from __future__ import annotations

import re

from rlreward.rewards import calls

LOW, HIGH = -3.0, 3.0

_THINK = r"<think>.*?</think>"
_FORMS = {
  (False, False): _THINK,
  (True, False): rf"{_THINK}\n<tool_call>\n.*?\n</tool_call>",
  (False, True): rf"{_THINK}\n<response>.*?</response>",
  (True, True): rf"{_THINK}\n<tool_call>\n.*?\n</tool_call>\n"
                r"<response>.*?</response>",
}  # fmt: skip
_TAGS = ("think", "tool_call", "response")


def format_score(text: str, gold: str) -> float:
  """1 where a text has the fields of the gold one, each tag once, and no more.

  Args:
    text: of the policy.
    gold: <think> with <tool_call> or <response> or both.
  """
  wanted = ("<tool_call>" in gold, "<response>" in gold)
  for tag, there in zip(_TAGS, (True, *wanted), strict=True):
    for mark in (f"<{tag}>", f"</{tag}>"):
      if text.count(mark) != int(there):
        return 0.0
  # Each tag stands once, so the lazy groups have one way to match.
  found = re.fullmatch(_FORMS[wanted], text.strip(), re.DOTALL)
  return float(found is not None)


def correctness(
  text: str,
  gold: str,
  low: float = LOW,
  high: float = HIGH,
  optimal: bool = False,
) -> float:
  """The graded match of the calls; 0 where the gold text has none.

  Args:
    text: of the policy.
    gold: see `format_score`.
    low: reward of text without calls that can be read.
    high: of the right calls.
    optimal: see `calls.graded`.

  Raises:
    BadCallError: the gold calls cannot be read.
  """
  if "<tool_call>" not in gold:
    return 0.0
  right = calls.parse(gold)
  if "<tool_call>" not in text:
    return low
  try:
    found = calls.parse(text)
  except calls.BadCallError:
    return low
  return calls.graded(found, right, low, high, optimal)
