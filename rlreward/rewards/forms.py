r"""Kinds of an answer: number, list, tuple, interval, set, matrix, words, ...

`read` brings an answer to a Form; what it does not know has kind "unknown", so
that nothing is called wrong because it was not understood.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any, NamedTuple

from rlreward.rewards import expressions, units
from rlreward.rewards.expressions import Node, UnknownError

MOST_PARTS = 16


class Form(NamedTuple):
  """An answer of a kind.

  Attributes:
    kind: "number" (any expression), "list", "tuple", "set", "union", "matrix",
      "equation", "choice", "words" or "unknown".
    items: forms of the parts; of a number its node, of a matrix rows of nodes,
      of an equation both its sides.
    mark: of a number its Unit; of a tuple its brackets; of a choice its
      letter; of words the text; of an equation the symbol that it names.
  """

  kind: str
  items: tuple[Any, ...] = ()
  mark: Any = None


_UNKNOWN = Form("unknown")
_SIGNS = {
  "\u2212": "-", "\u2013": "-", "\u2014": "-", "\u00d7": "*", "\u00b7": "*",
  "\u22c5": "*", "\u00f7": "/", "\u2044": "/", "\u2264": "\\le ",
  "\u2265": "\\ge ", "\u221a": "\\sqrt ", "\u03c0": "\\pi ",
  "\u221e": "\\infty ", "\u222a": "\\cup ", "\u03b8": "\\theta ",
  "\u03b1": "\\alpha ", "\u03b2": "\\beta ", "\u03bb": "\\lambda ",
  "\u00b1": "\\pm ", "\u2205": "\\emptyset ", "\u2208": "\\in ",
}  # fmt: skip
_RAISED = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
_ABOVE = {s: d for d, s in enumerate(_RAISED)}
_WORDED = re.compile(
  r"\\(?:text|mathrm|textrm|textbf|mathbf|textit|mbox|operatorname|rm|bf"
  r"|emph|mathit|textsf|texttt)\s*\{([^{}]*)\}"
)
_DROPPED = re.compile(
  r"\\(?:left|right|bigl|bigr|Bigl|Bigr|big|Big|displaystyle|textstyle|limits"
  r"|mathstrut|nolimits|quad|qquad)(?![a-zA-Z])\.?|\\[!;:]|(?<!\\)~"
)
_SPACES = re.compile(r"\\[, ]|\\\s")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?")
_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?:\\,\d{3})+(?!\d)")
_EXPONENT = re.compile(
  r"(?<![A-Za-z\d.])(\d+(?:\.\d+)?)[eE]([-+]?\d{1,3})(?!\d)"
)
_CHOICE = re.compile(r"\(([A-Z])\)|([A-Z])\)?")
_LED = re.compile(r"(?:\(([A-J])\)|([A-J])[.):])\s*\S")
_OTHER = re.compile(r"\b(?:or|and|not|maybe)\b|\([A-J]\)|\b[A-J][.)]")
_DATE = re.compile(r"\d{1,2}[/-]\d{1,2}[/-]\d{2,4}|\d{1,2}:\d{2}(?::\d{2})?")
_WORDS = re.compile(r"[^\W\d_]+(?:[ '\-][^\W\d_]+)*[.!]?")
_ASSIGNED = re.compile(
  r"\s*(\\?[A-Za-z]+(?:_\{?\w{1,8}\}?)?'?(?:\(\s*[a-z]\s*\))?)\s*"
)
_NAMES = re.compile(r"\(\s*[a-z]\s*(?:,\s*[a-z]\s*){1,3}\)")
_MATRIX = re.compile(
  r"\\begin\{([pbvBV]?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}"
)
_TURN = re.compile(r"sin|cos|tan|cot|sec|csc")
_AND = re.compile(r"\s(?:and|or)\s|\\(?:land|lor)\b|\\text\{\s*(?:and|or)\s*\}")
_ORDER = re.compile(r"\\[lg]eq?(?:slant)?(?![a-z])|<=|>=|<|>|\\lt|\\gt")


def normal(text: str) -> str:
  """A text with one way to write each sign, digits and spaces narrow.

  Args:
    text: LaTeX or plain.
  """
  raised = re.sub(
    f"[{''.join(_ABOVE)}]+",
    lambda m: "^{" + "".join(str(_ABOVE[c]) for c in m[0]) + "}",
    text,
  )
  spaced = re.sub("([\u00bc-\u00be\u2150-\u215e])", r" \1 ", raised)
  for sign, plain in _SIGNS.items():
    spaced = spaced.replace(sign, plain)
  out = unicodedata.normalize("NFKC", spaced)
  for sign, plain in _SIGNS.items():  # NFKC makes some of them
    out = out.replace(sign, plain)
  out = out.replace("\\\\", " \u21b5 ")  # of a matrix
  out = _SPACED.sub(lambda m: m[0].replace("\\,", ""), out)
  out = out.replace("{,}", ",").replace(",\\!", ",").replace("\\%", "%")
  out = _DROPPED.sub(" ", out)
  if out.count("$") - out.count("\\$") >= 2:
    out = re.sub(r"(?<!\\)\$", " ", out)
  out = out.replace("\\$", "$").replace("\\&", "&")
  out = re.sub(r"\\[dtc]frac(?![a-z])", r"\\frac", out)
  out = re.sub(r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree", "\u00b0", out)
  out = re.sub(
    r"\\[{}]", lambda m: {"{": "\u27e8", "}": "\u27e9"}[m[0][1]], out
  )
  out = re.sub(r"\\l(?:brace|angle)(?![a-z])", "\u27e8", out)
  out = re.sub(r"\\r(?:brace|angle)(?![a-z])", "\u27e9", out)
  return " ".join(_SPACES.sub(" ", out).split())


def squeezed(text: str) -> str:
  """A text without anything that only sets it: for equality as text."""
  out = normal(text)
  for _ in range(4):
    out, before = _WORDED.sub(r"\1", out), out
    if out == before:
      break
  out = re.sub(r"(?<=\d)\s+(?=[\d.])", "\u2423", out)  # 1 2 is not 12
  return re.sub(r"[\s$]|\\(?=[A-Za-z])", "", out).rstrip(".")


@functools.lru_cache(maxsize=4096)
def read(text: str) -> Form:
  """The form of an answer.

  Args:
    text: an answer, see `answers`.
  """
  try:
    return _read(normal(text))
  except (UnknownError, RecursionError):
    return _UNKNOWN


def letter(text: str) -> str | None:
  """The letter of a choice: "B", "(B)", "B. 42" and the like, else None."""
  plain = _worded(normal(text)).strip("*_$ .\u27e8\u27e9{}")
  found = _CHOICE.fullmatch(plain)
  led = _LED.match(plain)
  if led is not None and _OTHER.search(plain, led.end() - 1):
    return None  # "(B) or (C)"
  m = found or led
  return None if m is None else m[1] or m[2]


def _worded(text: str) -> str:
  for _ in range(4):
    text, before = _WORDED.sub(r" \1 ", text), text
    if text == before:
      break
  return " ".join(text.split())


def _read(text: str) -> Form:
  plain = _worded(text)
  if re.fullmatch(r"\(([A-Z])\)", plain):
    return Form("choice", mark=plain[1])
  if _DATE.fullmatch(plain):
    return Form("words", mark=plain)
  known = plain.lower() in ("pi", "e", "i", "infinity")
  if _WORDS.fullmatch(plain) and len(plain.rstrip(".!")) > 1 and not known:
    if len(plain) > 3 or text != plain or plain.lower() in _SHORT:
      return Form("words", mark=plain.rstrip(".!").casefold())
  matrix = _MATRIX.fullmatch(text.strip())
  if matrix is not None:
    return _matrix(matrix[2])
  return _compound(text)


_SHORT = {"yes", "no", "odd", "up", "red", "one", "two", "six", "ten"}


def _compound(text: str) -> Form:
  text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
  text = _EXPONENT.sub(r"(\1*10^{\2})", text)
  parts = _split(_AND.sub(" , ", text), ",")
  if len(parts) > 1:
    return Form("list", tuple(_compound(p) for p in parts if p.strip()))
  text = text.strip()
  if text.count("\\pm") == 1:
    both = [_compound(text.replace("\\pm", s)) for s in "+-"]
    return Form("list", tuple(both))
  unions = [p for p in _split(text.replace("\\cup", "\u222a"), "\u222a")]
  if len(unions) > 1:
    return Form("union", tuple(_compound(p) for p in unions))
  bracketed = _bracketed(text)
  return bracketed if bracketed is not None else _simple(text)


def _bracketed(text: str) -> Form | None:
  """A set, tuple or interval where brackets hold all of the text."""
  if text in ("\\emptyset", "\\varnothing", "\u27e8\u27e9"):
    return Form("set")
  if len(text) < 2 or text[0] not in "([\u27e8" or text[-1] not in ")]\u27e9":
    return None
  if not _closes_at_end(text):
    return None
  ends, inside = text[0] + text[-1], text[1:-1]
  if ends == "\u27e8\u27e9":
    if "|" in inside or ":" in inside or "\\mid" in inside:
      return _builder(inside)
    return Form("set", tuple(_compound(p) for p in _split(inside, ",")))
  parts = _split(inside, ",")
  if len(parts) == 1:
    return _compound(inside) if ends in ("()", "[]") else None
  if ends in ("(\u27e9", "\u27e8)", "[\u27e9", "\u27e8]"):
    return None
  if len(parts) != 2 and ends in ("(]", "[)"):
    return None
  return Form("tuple", tuple(_compound(p) for p in parts), ends)


def _builder(inside: str) -> Form:
  """{x | -2 <= x < 1} as an interval."""
  for bar in ("\\mid", "|", ":"):
    name, found, rest = inside.partition(bar)
    if found and len(name.strip().split("\\in")[0].strip()) <= 2:
      form = _ordered(rest)
      return form if form is not None else _UNKNOWN
  return _UNKNOWN


def _ordered(text: str) -> Form | None:
  """Inequalities of one symbol as an interval."""
  signs = _ORDER.findall(text)
  sides = _ORDER.split(text)
  if not 1 <= len(signs) <= 2:
    return None
  up = ["g" not in s and ">" not in s for s in signs]
  tight = ["=" in s or "e" in s for s in signs]
  if len(set(up)) != 1:
    return None
  nodes = [expressions.parse(s.strip()) for s in sides]
  if not up[0]:
    nodes, tight = nodes[::-1], tight[::-1]
  low: Node = ("neg", ("const", "inf"))
  high: Node = ("const", "inf")
  brackets = ["(", ")"]
  middle = 1 if len(nodes) == 3 else int(nodes[1][0] == "sym")
  if nodes[middle][0] != "sym":
    raise UnknownError("no single symbol between")
  if middle == 1:
    low, brackets[0] = nodes[0], "[" if tight[0] else "("
  if len(nodes) == 3 or middle == 0:
    high, brackets[1] = nodes[-1], "]" if tight[-1] else ")"
  ends = tuple(Form("number", (n,), units.Unit()) for n in (low, high))
  return Form("tuple", ends, "".join(brackets))


def _simple(text: str) -> Form:
  """One number, inequality or equation."""
  if _ORDER.search(text):
    form = _ordered(text)
    return _UNKNOWN if form is None else form
  if "\\in" in text and "\\infty" not in text.split("\\in", 1)[0]:
    name, _, rest = text.partition("\\in")
    if _ASSIGNED.fullmatch(name) and not rest.startswith("f"):
      return _compound(rest.strip())
  sides = _split(text, "=")
  if len(sides) == 2:
    name = _ASSIGNED.fullmatch(sides[0])
    right = _compound(sides[1].strip())
    named = name[1] if name is not None else None
    if named is None and _NAMES.fullmatch(sides[0].strip()):
      named = sides[0]  # (x, y) = (3, 4)
    if named is not None:
      return Form("equation", (right,), named.replace(" ", ""))
    left = expressions.parse(sides[0].strip())
    if right.kind != "number" or right.mark != units.Unit():
      return _UNKNOWN
    whole = Form("number", (("-", left, right.items[0]),), units.Unit())
    return Form("equation", (whole,), "")
  if len(sides) > 2:
    # A chain of steps: what it ends in is the answer.
    return _compound(sides[-1].strip())
  return _number(text)


def _number(text: str) -> Form:
  """An expression with a unit before or behind it."""
  lead = re.match(r"[-+]?\s*[$\u20ac\u00a3]\s*(?=[\d.(\\])", text)
  front = ""
  if lead is not None:
    front = lead[0].strip(" -+")
    text = ("-" if "-" in lead[0] else "") + text[lead.end() :]
  if not re.search(r"[\d\w\\]", text):
    raise UnknownError("empty")
  body, tail = _tail(text)
  unit = units.read(f"{front} {tail}")
  if unit is None:
    raise UnknownError("no unit")
  return Form("number", (expressions.parse(body.strip()),), unit)


def _tail(text: str) -> tuple[str, str]:
  r"""(expression, unit): \text{..}, words after a number, %, degrees."""
  m = _WORDED.search(text)
  if m is not None and m.start() > 0:
    rest = _worded(text[m.start() :])
    return text[: m.start()].rstrip(" *").removesuffix("\\cdot"), rest
  m = re.search(r"(?<=[\d.)}])\s*([%\u00b0\u20ac\u00a3\u00a2][CF]?)$", text)
  if m is not None and not (m[1] == "\u00b0" and _TURN.search(text)):
    return text[: m.start()], m[1]
  m = re.search(
    r"(?<=[\d.)}])(\s+|(?=[a-z]{4}))([A-Za-z$%\u00b0][^\d+=\\(){}_]*"
    r"(?:\^\{?-?\d\}?)?)$",
    text,
  )
  if m is not None and not _mathematical(m[2]):
    return text[: m.start()], m[2]
  return text, ""


def _mathematical(word: str) -> bool:
  """Whether letters after a number are part of the expression."""
  names = word.split()
  if any(n in expressions.FUNCTIONS or n == "pi" for n in names):
    return True
  single = len(word.strip()) == 1 and word.strip().isalpha()
  return single and word.strip() not in units.SINGLE


def _matrix(body: str) -> Form:
  rows = [r for r in re.split("\u21b5", body) if r.strip()]
  cells = [
    [c.strip() for c in r.replace("\\hline", "").split("&")] for r in rows
  ]
  if not cells or len({len(r) for r in cells}) != 1:
    raise UnknownError("rows of unlike length")
  if len(cells) * len(cells[0]) > 4 * MOST_PARTS:
    raise UnknownError("too large")
  grid = tuple(tuple(expressions.parse(c) for c in row) for row in cells)
  return Form("matrix", grid)


def _split(text: str, sign: str) -> list[str]:
  """A text cut where the sign stands outside all brackets."""
  out, depth, start = [], 0, 0
  for i, c in enumerate(text):
    depth += (c in "([{\u27e8") - (c in ")]}\u27e9")
    if c == sign and depth <= 0:
      out.append(text[start:i])
      start = i + 1
  out.append(text[start:])
  if len(out) > MOST_PARTS:
    raise UnknownError("too many parts")
  return out


def _closes_at_end(text: str) -> bool:
  depth = 0
  for i, c in enumerate(text):
    depth += (c in "([{\u27e8") - (c in ")]}\u27e9")
    if depth == 0:
      return i + 1 == len(text)
  return False


def understood(text: str) -> bool:
  """Whether an answer is of a kind that this matcher knows."""
  return letter(text) is not None or read(text).kind != "unknown"
