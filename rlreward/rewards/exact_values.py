"""Values of expressions: exact fractions where possible, else complex."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from rlreward.rewards import expressions
from rlreward.rewards.expressions import MOST_BITS, Node, UnknownError

_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
  "sin": cmath.sin,
  "cos": cmath.cos,
  "tan": cmath.tan,
  "cot": lambda z: 1 / cmath.tan(z),
  "sec": lambda z: 1 / cmath.cos(z),
  "csc": lambda z: 1 / cmath.sin(z),
  "arcsin": cmath.asin,
  "arccos": cmath.acos,
  "arctan": cmath.atan,
  "sinh": cmath.sinh,
  "cosh": cmath.cosh,
  "tanh": cmath.tanh,
  "ln": cmath.log,
  "lg": cmath.log10,
  "exp": cmath.exp,
  "abs": abs,
}
# A function that is not analytic, or has branches: unlike values at some
# points do not settle that two forms differ where they are meant.
BRANCHED = frozenset({"root", "abs", "ln", "lg", "log", "fact", "floor", "ceil",
                      "arcsin", "arccos", "binom"})  # fmt: skip


def exact(node: Node) -> Fraction | None:
  """The rational number that a node is; None if it is none or too large.

  Args:
    node: see `expressions`.
  """
  try:
    return _exact(node)
  except (ArithmeticError, ValueError, UnknownError):
    return None


def number(node: Node, at: dict[str, float]) -> Any:
  """The number that a node is, a fraction where every part is.

  Args:
    node: see `expressions`.
    at: {symbol: its value}.

  Raises:
    UnknownError, ArithmeticError, ValueError: it has none.
  """
  kind = node[0]
  if kind == "num":
    return float(node[1])
  if kind == "sym":
    return at[node[1]]
  if kind == "const":
    if node[1] == "inf":
      raise UnknownError("infinity")
    return {"pi": math.pi, "e": math.e, "i": 1j}[node[1]]
  parts = [number(n, at) for n in node[1:]]
  if kind in ("fact", "binom", "floor", "ceil"):
    return _real(kind, [_real_part(p) for p in parts])
  return _apply(kind, parts)


def _apply(kind: str, p: list[Any]) -> Any:
  if kind == "+":
    return p[0] + p[1]
  if kind == "-":
    return p[0] - p[1]
  if kind == "*":
    return p[0] * p[1]
  if kind == "/":
    return p[0] / p[1]
  if kind == "neg":
    return -p[0]
  if kind == "deg":
    return p[0] * math.pi / 180
  if kind == "root":
    return _root(p[0], p[1])
  if kind == "^":
    return complex(p[0]) ** p[1] if p[0] else _zero_to(p[1])
  if kind == "log":  # base ten or e: which one is not said
    raise UnknownError("a log without its base")
  return _FUNCTIONS[kind](p[0])


def _real_part(x: Any) -> float:
  z = complex(x)
  if z.imag:
    raise UnknownError("of a complex number")
  return z.real


def _real(kind: str, p: list[float]) -> float:
  """Functions of real numbers only; the factorial is the gamma function."""
  if kind == "floor":
    return float(math.floor(p[0]))
  if kind == "ceil":
    return float(math.ceil(p[0]))
  if kind == "fact":
    return math.gamma(p[0] + 1)
  below = math.gamma(p[1] + 1) * math.gamma(p[0] - p[1] + 1)
  return math.gamma(p[0] + 1) / below


def _zero_to(power: Any) -> float:
  if complex(power).real <= 0:
    raise UnknownError("a power of zero")
  return 0.0


def _root(x: Any, n: Any) -> complex:
  """The real root where there is one."""
  z, n = complex(x), complex(n)
  odd = n.imag == 0 and n.real % 2 == 1
  if z.imag == 0 and z.real < 0 and odd:
    return -((-z.real) ** (1 / n.real))
  return z ** (1 / n) if z else 0.0


def _exact(node: Node) -> Fraction:
  kind = node[0]
  if kind == "num":
    return node[1]
  if kind not in ("+", "-", "*", "/", "neg", "^", "root", "fact", "binom",
                  "abs", "floor", "ceil"):  # fmt: skip
    raise UnknownError("irrational")
  parts = [_exact(n) for n in node[1:]]
  out = _combine(kind, parts)
  if out.numerator.bit_length() + out.denominator.bit_length() > MOST_BITS:
    raise UnknownError("too large")
  return out


def _combine(kind: str, p: list[Fraction]) -> Fraction:
  a = p[0]
  if kind in ("+", "-", "*", "/"):
    b = p[1]
    return {"+": a.__add__, "-": a.__sub__, "*": a.__mul__,
            "/": a.__truediv__}[kind](b)  # fmt: skip
  if kind == "neg":
    return -a
  if kind == "abs":
    return abs(a)
  if kind in ("floor", "ceil"):
    return Fraction(math.floor(a) if kind == "floor" else math.ceil(a))
  if kind == "^":
    return _power(a, p[1])
  if kind == "root":
    return _exact_root(a, p[1])
  if a.denominator != 1 or not 0 <= a <= 1000:
    raise UnknownError("no whole number")
  if kind == "fact":
    return Fraction(math.factorial(int(a)))
  if p[1].denominator != 1 or not 0 <= p[1] <= 1000:
    raise UnknownError("no whole number")
  return Fraction(math.comb(int(a), int(p[1])))


def _power(a: Fraction, n: Fraction) -> Fraction:
  if n.denominator != 1:
    return _power(
      _exact_root(a, Fraction(n.denominator)), Fraction(n.numerator)
    )
  bits = a.numerator.bit_length() + a.denominator.bit_length()
  if abs(n) * bits > MOST_BITS or (a == 0 and n <= 0):
    raise UnknownError("too large a power")
  return a ** int(n)


def _exact_root(a: Fraction, n: Fraction) -> Fraction:
  if n.denominator != 1 or not 1 <= n <= 64:
    raise UnknownError("such a root")
  sign = 1
  if a < 0:
    if n % 2 == 0:
      raise UnknownError("imaginary")
    sign, a = -1, -a
  parts = [_whole_root(v, int(n)) for v in (a.numerator, a.denominator)]
  return sign * Fraction(parts[0], parts[1])


def _whole_root(v: int, n: int) -> int:
  if n == 1:
    return v
  r = math.isqrt(v) if n == 2 else round(v ** (1 / n))
  if r**n != v:
    raise UnknownError("irrational")
  return r


def branched(node: Node) -> bool:
  """Whether a node has a root, a log or the like of something with symbols."""
  if not expressions.symbols(node):
    return False
  if node[0] in BRANCHED:
    return True
  if node[0] == "^" and exact(node[2]) is None:
    return True
  power = exact(node[2]) if node[0] == "^" else None
  if power is not None and power.denominator != 1:
    return True
  return any(branched(n) for n in node[1:] if isinstance(n, tuple))


def same(a: Node, b: Node, tolerance: float = 0.0) -> bool | None:
  """Whether two nodes are the same number or function.

  Args:
    a: of the answer.
    b: of the gold.
    tolerance: relative to the gold, of numbers; 0 is exact.

  Returns:
    None where values do not settle it.
  """
  inf_a, inf_b = expressions.infinite(a), expressions.infinite(b)
  if inf_a or inf_b:
    return inf_a == inf_b
  names = expressions.symbols(a) | expressions.symbols(b)
  if not names:
    x, y = exact(a), exact(b)
    if x is not None and y is not None:
      gap = abs(x - y)
      return x == y or (tolerance > 0 and gap <= Fraction(tolerance) * abs(y))
  settled = 0
  for at in expressions.points(names):
    try:
      x, y = expressions.value(a, at), expressions.value(b, at)
    except UnknownError:
      continue
    limit = max(tolerance, expressions.CLOSE) if not names else None
    if not expressions.near(x, y, limit or expressions.CLOSE):
      return None if branched(a) or branched(b) else False
    settled += 1
  return True if settled >= (3 if names else 1) else None
