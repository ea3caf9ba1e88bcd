r"""Expressions of LaTeX or plain text, read and compared without sympy.

A small grammar, with limits on size and depth so that hostile text costs
little. Numbers are compared exactly as fractions; what is irrational or has
symbols is compared by its values: two sides are the same function where they
agree to 1e-9 at fixed points (identity testing of Schwartz and Zippel). What
the grammar does not know raises `UnknownError`, and is never called wrong here.

A node is a tuple: ("num", Fraction), ("sym", name), ("const", name) or
(operator, node, ...).

Reference: Schwartz, Fast probabilistic algorithms, J. ACM 27(4), 1980.
"""

from __future__ import annotations

import cmath
import functools
import math
import re
from fractions import Fraction
from typing import Any

MOST_TOKENS = 300
MOST_DEPTH = 40
MOST_DIGITS = 400
MOST_BITS = 20_000  # of an exact power
CLOSE = 1e-9

Node = tuple[Any, ...]

_CONSTANTS = {"pi": math.pi, "e": math.e, "i": 1j}
FUNCTIONS = {
  "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos",
  "arctan", "sinh", "cosh", "tanh", "ln", "lg", "log", "exp", "abs",
}  # fmt: skip
_GREEK = set(
  "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota"
  " kappa lambda mu nu xi rho sigma tau upsilon phi varphi chi psi omega ell"
  " Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega hbar".split()
)
_TOKEN = re.compile(
  r"""
  (?P<num>\d+\.\d+|\.\d+|\d+\.?)
  |(?P<cmd>\\[a-zA-Z]+)
  |(?P<word>[a-zA-Z]+)
  |(?P<sign>\*\*|[-+*/^_(){}\[\]|!'°])
  |(?P<space>\s+)
  """,
  re.VERBOSE | re.ASCII,
)
# Chosen without pattern; both signs, so that roots of squares do not cancel.
_POINTS = (0.7314, -1.3427, 2.6179, -0.4093, 1.1893, 3.4711)


class UnknownError(Exception):
  """A text that this grammar does not know, or a value out of its reach."""


@functools.lru_cache(maxsize=4096)
def parse(text: str) -> Node:
  """The node of a text.

  Args:
    text: normalised, see `forms.normal`.

  Raises:
    UnknownError: it is no expression of this grammar.
  """
  parser = _Parser(_tokens(text))
  node = parser.sum(0)
  if parser.peek() is not None:
    raise UnknownError(f"{parser.peek()!r} is left over")
  return node


def _tokens(text: str) -> list[tuple[str, str]]:
  out: list[tuple[str, str]] = []
  at = 0
  while at < len(text):
    m = _TOKEN.match(text, at)
    if m is None or len(out) > MOST_TOKENS:
      raise UnknownError(f"{text[at : at + 1]!r}")
    at = m.end()
    kind, word = str(m.lastgroup), m[0]
    if kind == "space":
      continue
    if kind == "num" and len(word) > MOST_DIGITS:
      raise UnknownError("too many digits")
    if kind == "cmd":
      out.append(("cmd", word[1:]))
    elif kind == "word":
      out += _letters(word)
    else:
      out.append((kind, word))
  return out


def _letters(word: str) -> list[tuple[str, str]]:
  """A name, or single letters side by side."""
  if word in FUNCTIONS or word == "pi":
    return [("cmd", word)]
  if len(word) > 3:
    raise UnknownError(f"the word {word!r}")
  return [("letter", letter) for letter in word]


class _Parser:
  """Recursive descent over tokens."""

  def __init__(self, tokens: list[tuple[str, str]]):
    self._tokens, self._at = tokens, 0

  def peek(self) -> tuple[str, str] | None:
    return self._tokens[self._at] if self._at < len(self._tokens) else None

  def sees(self, *words: str) -> bool:
    token = self.peek()
    return token is not None and token[1] in words and token[0] != "letter"

  def take(self) -> tuple[str, str]:
    token = self.peek()
    if token is None:
      raise UnknownError("it ends early")
    self._at += 1
    return token

  def want(self, word: str) -> None:
    if not self.sees(word):
      raise UnknownError(f"no {word!r}")
    self.take()

  def sum(self, depth: int) -> Node:
    node = self.product(depth)
    while self.sees("+", "-"):
      sign = self.take()[1]
      node = (sign, node, self.product(depth))
    return node

  def product(self, depth: int) -> Node:
    node = self.signed(depth)
    while self.peek() is not None:
      if self.sees("*", "/", "cdot", "times", "div"):
        over = self.take()[1] in ("/", "div")
        node = ("/" if over else "*", node, self.signed(depth))
      elif self.starts():
        node = ("*", node, self.power(depth))
      else:
        break
    return node

  def starts(self) -> bool:
    """Whether a factor follows that needs no sign before it."""
    token = self.peek()
    if token is None:
      return False
    kind, word = token
    closing = word in ("rfloor", "rceil", "rvert")
    signs = word in ("*", "cdot", "times", "div")
    return (
      kind == "letter"
      or (kind == "num" and self._tokens[self._at - 1][0] != "num")
      or (kind == "cmd" and not closing and not signs)
      or word in ("(", "{", "[")
    )

  def signed(self, depth: int) -> Node:
    negative = False
    while self.sees("+", "-"):
      negative ^= self.take()[1] == "-"
    node = self.power(depth)
    return ("neg", node) if negative else node

  def power(self, depth: int) -> Node:
    if depth > MOST_DEPTH:
      raise UnknownError("nested too deep")
    mixed = self._mixed()
    node = self.atom(depth + 1) if mixed is None else mixed
    while self.sees("!", "^", "**", "°"):
      sign = self.take()[1]
      if sign in "!°":
        node = ("fact" if sign == "!" else "deg", node)
      else:
        node = ("^", node, self.exponent(depth + 1))
    return node

  def exponent(self, depth: int) -> Node:
    if self.sees("{", "("):
      return self.group(depth)
    if self.sees("-", "+"):
      return self.signed(depth)
    return self.power(depth)

  def _mixed(self) -> Node | None:
    r"""2\frac{1}{2} and 2 1/2: a whole number and a fraction of numbers."""
    ahead = self._tokens[self._at : self._at + 8]
    if not ahead or ahead[0][0] != "num" or "." in ahead[0][1]:
      return None
    kinds = [t[0] for t in ahead]
    words = [t[1] for t in ahead]
    latex = words[1:3] == ["frac", "{"] and words[4:6] == ["}", "{"]
    if latex and kinds[3::3] == ["num", "num"] and words[7:8] == ["}"]:
      top, bottom, size = words[3], words[6], 8
    elif words[1:2] == ["frac"] and len(words[2:3] and words[2]) == 2:
      top, bottom, size = words[2][0], words[2][1], 3
    elif kinds[1:4] == ["num", "sign", "num"] and words[2] == "/":
      top, bottom, size = words[1], words[3], 4
    else:
      return None
    if not (top + bottom).isdigit() or int(bottom) == 0:
      return None
    self._at += size
    return ("num", int(words[0]) + Fraction(int(top), int(bottom)))

  def group(self, depth: int) -> Node:
    if depth > MOST_DEPTH:
      raise UnknownError("nested too deep")
    close = {"{": "}", "(": ")", "[": "]"}[self.take()[1]]
    node = self.sum(depth + 1)
    self.want(close)
    return node

  def atom(self, depth: int) -> Node:
    if self.sees("(", "{", "["):
      return self.group(depth)
    if self.sees("|"):
      self.take()
      node = self.sum(depth + 1)
      self.want("|")
      return ("abs", node)
    kind, word = self.take()
    if kind == "num":
      return ("num", Fraction(word.removesuffix(".")))
    if kind == "letter":
      return self.symbol(word)
    if kind != "cmd":
      raise UnknownError(f"{word!r}")
    return self.command(word, depth)

  def symbol(self, word: str) -> Node:
    if self.sees("_"):
      self.take()
      below = [self.take()]
      if below[0][1] == "{":
        while not self.sees("}"):
          below.append(self.take())
        below.append(self.take())
      word += "_" + "".join(t[1] for t in below if t[1] not in "{}")
    while self.sees("'"):
      word += self.take()[1]
    return ("const" if word in _CONSTANTS else "sym", word)

  def command(self, word: str, depth: int) -> Node:
    if word == "pi":
      return ("const", "pi")
    if word in ("infty", "infinity"):
      return ("const", "inf")
    if word in _GREEK:
      return self.symbol("\\" + word)
    if word in ("frac", "binom"):
      top, bottom = self.short(depth), self.short(depth)
      return ("/" if word == "frac" else "binom", top, bottom)
    if word in ("lfloor", "lceil", "lvert"):
      node = self.sum(depth + 1)
      self.want({"lfloor": "rfloor", "lceil": "rceil", "lvert": "rvert"}[word])
      return (word[1:] if word != "lvert" else "abs", node)
    if word == "sqrt":
      root: Node = ("num", Fraction(2))
      if self.sees("["):
        root = self.group(depth)
      return ("root", self.argument(depth), root)
    if word in FUNCTIONS:
      return self.function(word, depth)
    raise UnknownError(f"the command {word!r}")

  def short(self, depth: int) -> Node:
    r"""An argument in braces, or the one digit of \frac12."""
    if self.sees("{"):
      return self.group(depth)
    kind, word = self.take()
    if kind == "num" and len(word) == 1:
      return ("num", Fraction(word))
    if kind == "num" and word.isdigit():
      self._at -= 1
      self._tokens = [
        *self._tokens[: self._at + 1],
        ("num", word[1:]),
        *self._tokens[self._at + 1 :],
      ]
      self._at += 1
      return ("num", Fraction(word[0]))
    if kind == "letter":
      return self.symbol(word)
    raise UnknownError(f"{word!r} as an argument")

  def argument(self, depth: int) -> Node:
    r"""sqrt(x), \sqrt{x}, \sqrt 2 and \sqrt2."""
    if self.sees("{", "("):
      return self.group(depth)
    kind, word = self.take()
    if kind == "num":
      return ("num", Fraction(word.removesuffix(".")))
    if kind == "letter":
      return self.symbol(word)
    if (kind, word) == ("cmd", "pi"):
      return ("const", "pi")
    raise UnknownError(f"{word!r} as an argument")

  def function(self, name: str, depth: int) -> Node:
    r"""\sin^2 x, \log_2 8, \ln(x) and cos 2x."""
    base: Node | None = None
    power: Node | None = None
    while self.sees("^", "_"):
      if self.take()[1] == "^":
        power = self.exponent(depth + 1)
      else:
        base = self.short(depth + 1)
    if self.sees("(", "{"):
      node = self.group(depth + 1)
    else:
      node = self.power(depth + 1)
      while self.starts() and not self.sees(*FUNCTIONS, "("):
        node = ("*", node, self.power(depth + 1))
    if name == "log" and base is not None:
      node = ("/", ("ln", node), ("ln", base))
    elif base is not None:
      raise UnknownError(f"{name} with an index")
    else:
      node = (name, node)
    if power is None:
      return node
    if power == ("neg", ("num", Fraction(1))):
      raise UnknownError("an inverse function")
    return ("^", node, power)


def symbols(node: Node) -> frozenset[str]:
  """Names of the symbols in a node."""
  if node[0] == "sym":
    return frozenset((node[1],))
  parts = [symbols(n) for n in node[1:] if isinstance(n, tuple)]
  return frozenset().union(*parts)


def infinite(node: Node) -> int:
  """1 and -1 for plus and minus infinity, 0 for everything else."""
  sign = 1
  while node[0] == "neg":
    sign, node = -sign, node[1]
  return sign if node == ("const", "inf") else 0


def exact(node: Node) -> Fraction | None:
  """The rational number that a node is, or None."""
  from rlreward.rewards import exact_values

  return exact_values.exact(node)


def value(node: Node, at: dict[str, float]) -> complex:
  """The number that a node is.

  Args:
    node: see the module.
    at: {symbol: its value}.

  Raises:
    UnknownError: it is not finite there.
  """
  from rlreward.rewards import exact_values

  try:
    out = complex(exact_values.number(node, at))
  except (ArithmeticError, ValueError, TypeError) as error:
    raise UnknownError(type(error).__name__) from None
  if not cmath.isfinite(out):
    raise UnknownError("it is not finite")
  return out


def points(names: frozenset[str]) -> list[dict[str, float]]:
  """Where functions of these symbols are compared."""
  if not names:
    return [{}]
  ordered = sorted(names)
  return [
    {name: p + 0.1373 * k - 0.0719 * j * k for k, name in enumerate(ordered)}
    for j, p in enumerate(_POINTS)
  ]


def near(a: complex, b: complex, tolerance: float = CLOSE) -> bool:
  """|a - b| <= tolerance max(|a|, |b|), and 1e-12 about zero."""
  return abs(a - b) <= max(tolerance * max(abs(a), abs(b)), 1e-12)
