"""ToolRL's reward of one answer: format, and graded correctness of its calls.

Which tags the format asks for is read from the gold text, as in the paper. In a
config, `task.rewards = "rlreward.rewards.toolrl:parts"` gives what the method
`toolrl` weighs; `verify:toolrl` is their sum with the paper's weights.

Reference: ToolRL, arXiv 2504.13958.
"""

from __future__ import annotations

import re
from typing import Any

from rlreward.ops.calls import MATCHES
from rlreward.rewards import calls, values
from rlreward.rewards.function import reward
from rlreward.rewards.values import Unjudged

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
  match: str = "fine",
) -> float:
  """The graded match of the calls; 0 where the gold text has none.

  Args:
    text: of the policy.
    gold: see `format_score`.
    low: reward of text without calls that can be read.
    high: of the right calls.
    optimal: see `calls.graded`.
    match: see `calls.graded`.

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
  return calls.graded(found, right, low, high, optimal, match)


def words(text: str) -> int:
  """Words of the thought, 0 where there is not one.

  Args:
    text: of the policy.
  """
  _, opened, rest = text.partition("<think>")
  inside, closed, _ = rest.partition("</think>")
  return len(inside.split()) if opened and closed else 0


@reward(on_error="abstain", name="toolrl")
def parts(completion: str, answer: str) -> Any:
  """The format, the words of the thought, and each match in [-1, 1].

  The components of the matches are those of `ops.calls.MATCHES` and `optimal`,
  the fine one by the best assignment. Their common scale is 3 in the paper; 0
  is an answer that was to make no call.

  Args:
    completion: of the policy.
    answer: the gold text.
  """
  form = format_score(completion, answer)
  grade = lambda match, best=False: correctness(
    completion, answer, -1.0, 1.0, best, match
  )
  try:
    match = {m: grade(m) for m in MATCHES}
    match["optimal"] = grade("fine", True)
  except calls.BadCallError as error:
    return Unjudged(values.ERROR, f"the gold calls: {error}")
  said = {"format": form, "words": float(words(completion))}
  return {"value": form + HIGH * match["fine"], **said, **match}
