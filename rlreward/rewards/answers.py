r"""The final answer of a text, found by a mark that the writer has to make.

Marks, the first that is there decides:

  tag      <answer> ... </answer>, the last pair, with any mark inside it
  boxed    the last complete \boxed{...} or \fbox{...}, braces nested
  hash     #### at the start of a line (GSM8K), the last one
  says     "the answer is ..." and "Answer: ...", the last one
  choice   a last line that is a letter: "B", "(B)", "**(B)**", "option B"

What a model writes before </think> is thought, not answer. A text without a
mark has no answer: a bare number counts only where it is asked for, because a
reward that takes any number pays for listing numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rlreward.errors import UserError

MARKS = ("tag", "boxed", "hash", "says", "choice")
MOST_TEXT = 200_000  # characters from the end that are read
MOST_ANSWER = 4_000  # characters of an answer; a longer one is none

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_WORD = re.compile(r"[\w.\-/]{1,100}")
_HASH = re.compile(r"^[ \t]*####[ \t]*([^\n]*)$", re.MULTILINE)
_SAYS = re.compile(
  r"\b(?:the|my|our|so|final|correct) (?:final |correct |right )?"
  r"(?:answer|result|choice|option)(?: to the (?:question|problem))?"
  r"(?: is| are|:|=)"
  r"|^[ \t*#_]{0,8}(?:final )?(?:answer|choice):",
  re.IGNORECASE | re.MULTILINE,
)
_CHOICE = re.compile(
  r"^[ \t*_$\\]{0,8}(?:(?i:option|choice|answer)[ \t]{1,3})?"
  r"(?:\(([A-Za-z])\)|([A-Z]))[ \t*_$.):]{0,8}$"
)
_NUMBER = re.compile(
  r"(?<![\w.])[-+\u2212]?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?"
)
_EDGES = " \t\n\r*_`"
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "`": "`"}


def extract_answer(
  text: str, marks: Sequence[str] = MARKS, last_number: bool = False
) -> str | None:
  """The answer that a text gives, as it is written there.

  Args:
    text: of a model, or of a gold solution.
    marks: of MARKS, in order of precedence.
    last_number: the last number of the text where there is no mark.

  Returns:
    The answer without its mark, never empty; None where there is none.

  Raises:
    UserError: an unknown mark.
  """
  for mark in marks:
    if mark not in MARKS:
      raise UserError(
        f"marks has {mark!r}",
        "it is a way to find the answer in a text",
        f"choose of {', '.join(MARKS)}",
      )
  text = spoken(text)
  for mark in marks:
    found, answer = _FINDERS[mark](text)
    if found:
      return _clean(answer, marks if mark == "tag" else ())
  if last_number:
    numbers = [m[0] for m in _NUMBER.finditer(text)]
    return numbers[-1] if numbers else None
  return None


def spoken(text: str) -> str:
  """What is left of a text without its thought.

  A template may write <think> ahead for the model, so a lone </think> ends a
  thought. One that never ends is all there is: the text was cut inside it.

  Args:
    text: of a model.
  """
  text = text[-MOST_TEXT:]
  head, end, tail = text.rpartition("</think>")
  rest = tail if end else head + tail
  return rest.partition("<think>")[0]


def boxes(text: str) -> list[str]:
  r"""Contents of every complete \boxed and \fbox that is in no other, in order.

  Args:
    text: LaTeX.
  """
  closes = _closing(text) if "{" in text else {}
  out, at = [], 0
  while (m := _BOX.search(text, at)) is not None:
    at = m.end()
    while at < len(text) and text[at] in " \t\n":
      at += 1
    if text[at : at + 1] == "{":
      end = closes.get(at)
      if end is not None:
        out.append(text[at + 1 : end])
        at = end
      continue
    word = _WORD.match(text, at)
    if word is not None and word[0].rstrip("."):
      out.append(word[0].rstrip("."))
  return out


def _closing(text: str) -> dict[int, int]:
  """{place of a brace: place of the one that closes it}, in one pass."""
  stack: list[int] = []
  out = {}
  for m in _BRACE.finditer(text):
    if m[0] == "{":
      stack.append(m.start())
    elif m[0] == "}" and stack:
      out[stack.pop()] = m.start()
  return out


def _tag(text: str) -> tuple[bool, str]:
  head, close, _ = text.rpartition("</answer>")
  if not close:
    return False, ""
  _, opened, inside = head.rpartition("<answer>")
  return bool(opened), inside


def _boxed(text: str) -> tuple[bool, str]:
  found = boxes(text)
  if not found:
    return False, ""
  answer = found[-1]
  for _ in range(4):  # \boxed{\boxed{5}}
    inner = boxes(answer)
    if len(inner) != 1 or not _BOX.match(answer.lstrip()):
      break
    answer = inner[0]
  return True, answer


def _hash(text: str) -> tuple[bool, str]:
  found = _HASH.findall(text)
  return bool(found), found[-1] if found else ""


def _says(text: str) -> tuple[bool, str]:
  ends = [m.end() for m in _SAYS.finditer(text)]
  if not ends:
    return False, ""
  rest = text[ends[-1] :][: MOST_ANSWER + 1].lstrip(" \t:*")
  if rest.startswith("\n"):  # "Answer:" and the answer on the next line
    rest = rest.lstrip()
  if rest.startswith(("\\[", "$$")):
    end = rest.find("\\]" if rest[0] == "\\" else "$$", 2)
    return True, rest[: end + 2] if end > 0 else rest
  line = rest.partition("\n")[0]
  return True, _sentence(line)


def _choice(text: str) -> tuple[bool, str]:
  lines = text.strip().rsplit("\n", 1)
  found = _CHOICE.match(lines[-1]) if len(lines[-1]) < 60 else None
  if found is None:
    return False, ""
  return True, (found[1] or found[2]).upper()


_FINDERS = {
  "tag": _tag,
  "boxed": _boxed,
  "hash": _hash,
  "says": _says,
  "choice": _choice,
}


def _sentence(line: str) -> str:
  """A line up to the end of its first sentence, formulas kept whole."""
  depth = 0
  for i, sign in enumerate(line):
    depth += (sign in "([{") - (sign in ")]}")
    last = i + 1 == len(line)
    if sign == "." and depth <= 0 and (last or line[i + 1] in " \t"):
      if not line[:i].strip(_EDGES + "(") or line[i - 1 : i].isupper():
        # "B. 42": the letter of a choice and its text, not a sentence.
        if not last and len(line[:i].strip(_EDGES + "(")) == 1:
          continue
      return line[:i]
  return line


def cleaned(text: str) -> str | None:
  """A bare answer without the marks of a formula or of emphasis around it.

  Args:
    text: an answer.
  """
  return _clean(text, ())


def _clean(answer: str, marks: Sequence[str]) -> str | None:
  """An answer without what surrounds it; None if that is all."""
  inner = [m for m in marks if m != "tag"]
  if inner:
    nested = extract_answer(answer, inner)
    if nested is not None:
      return nested
  answer = answer.strip(_EDGES)
  for _ in range(4):
    before = answer
    for left, right in (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"),
                        ("$", "$"), *_QUOTES.items()):  # fmt: skip
      size = len(left) + len(right)
      if answer.startswith(left) and answer.endswith(right):
        middle = answer[len(left) : len(answer) - len(right)]
        if len(answer) > size and left not in middle:
          answer = middle.strip(_EDGES)
    if answer.endswith((".", ",", ";")) and not answer.endswith(("...", "\\,")):
      answer = answer[:-1].strip(_EDGES)
    if answer == before:
      break
  return answer if 0 < len(answer) <= MOST_ANSWER else None
