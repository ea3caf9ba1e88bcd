"""Equality of two answers by their forms: True, False, or None for unknown."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from rlreward.rewards import exact_values, expressions, forms, units
from rlreward.rewards.forms import Form

_NO_UNIT = units.Unit()
_DOUBT = re.compile(r"\b(?:not|wrong|incorrect|maybe|perhaps|isn)\b")
_PERCENT = (("percent", 1),)


def same(answer: str, gold: str, tolerance: float = 0.0) -> bool | None:
  """Whether two answers are the same.

  Args:
    answer: of the policy.
    gold: the right answer.
    tolerance: relative to the gold, of numbers.

  Returns:
    None where it is not known; that is not False.
  """
  if len(answer) > 4000 or len(gold) > 4000:
    return None
  if answer == gold:
    return True
  plain = forms.squeezed(answer)
  if plain and plain == forms.squeezed(gold):
    return True
  if _doubts(answer) - _doubts(gold):
    return False  # "5 is wrong" is no way to write 5
  b = forms.read(gold)
  if b.kind == "choice" or (len(gold.strip()) == 1 and gold.strip().isupper()):
    return forms.letter(answer) == forms.letter(gold)
  a = forms.read(answer)
  try:
    return _same(a, b, tolerance)
  except RecursionError:
    return None


def _doubts(text: str) -> set[str]:
  return set(_DOUBT.findall(text.lower()))


def _same(a: Form, b: Form, tol: float) -> bool | None:
  if "unknown" in (a.kind, b.kind):
    return None
  if a.kind == "equation" or b.kind == "equation":
    return _equations(a, b, tol)
  if a.kind == b.kind == "list" or {a.kind, b.kind} == {"list", "set"}:
    return _unordered(a.items, b.items, tol)
  if {a.kind, b.kind} == {"list", "tuple"}:
    return _ordered(a.items, b.items, tol)
  if a.kind != b.kind:
    # {5} and 5 name the same answer; nothing else of unlike kind does.
    one = [f for f in (a, b) if f.kind == "set" and len(f.items) == 1]
    other = [f for f in (a, b) if f.kind == "number"]
    return _same(one[0].items[0], other[0], tol) if one and other else False
  return _KINDS[a.kind](a, b, tol)


def _words(a: Form, b: Form, tol: float) -> bool:
  del tol
  return a.mark == b.mark


def _numbers(a: Form, b: Form, tol: float) -> bool | None:
  x, y = a.items[0], b.items[0]
  left, right = a.mark, b.mark
  if left == right:
    return exact_values.same(x, y, tol)
  if left.powers and right.powers:
    if _PERCENT in (left.powers, right.powers) or left.powers != right.powers:
      return False
    return exact_values.same(_times(x, left), _times(y, right), tol)
  percent = _PERCENT in (left.powers, right.powers)
  if percent and _percents(x, y, left, right, tol):
    return True
  if percent and left.powers == _PERCENT and not _shows_percent(y):
    return False
  # One of them leaves the unit out; a scale such as "million" still counts.
  scale = [u if not u.powers else _NO_UNIT for u in (left, right)]
  if not left.powers and not right.powers:
    return exact_values.same(_times(x, left), _times(y, right), tol)
  bare = exact_values.same(_times(x, scale[0]), _times(y, scale[1]), tol)
  if bare is not False or percent:
    return bare
  scaled = any(_word_scale(u) for u in (left, right))
  if scaled:
    return exact_values.same(_times(x, left), _times(y, right), tol)
  return bare


def _word_scale(unit: units.Unit) -> bool:
  """Whether a unit of an unknown base carries a factor: "5 million people"."""
  return unit.factor >= 12 and unit.factor.denominator == 1


def _percents(x, y, left, right, tol) -> bool:
  """50% and 0.5: the same number."""
  hundredth = Fraction(1, 100)
  parts = []
  for node, unit in ((x, left), (y, right)):
    share = unit.powers == _PERCENT
    parts.append(("*", node, ("num", hundredth)) if share else node)
  return exact_values.same(parts[0], parts[1], tol) is True


def _shows_percent(gold: Any) -> bool:
  """A gold number of 1 or more may be a percentage without its sign."""
  found = exact_values.exact(gold)
  return found is not None and abs(found) >= 1


def _times(node: Any, unit: units.Unit) -> Any:
  if unit.factor == 1:
    return node
  return ("*", node, ("num", unit.factor))


def _all(found: list[bool | None]) -> bool | None:
  if any(f is False for f in found):
    return False
  return None if any(f is None for f in found) else True


def _ordered(a: tuple, b: tuple, tol: float) -> bool | None:
  if len(a) != len(b):
    return False
  return _all([_same(x, y, tol) for x, y in zip(a, b, strict=True)])


def _unordered(a: tuple, b: tuple, tol: float) -> bool | None:
  """Each of a has its own equal in b."""
  if len(a) != len(b):
    return False
  left = list(b)
  open_question = False
  for x in a:
    found = [_same(x, y, tol) for y in left]
    if True in found:
      left.pop(found.index(True))
    elif None in found:
      open_question = True
    else:
      return False
  return None if open_question else True


def _sets(a: Form, b: Form, tol: float) -> bool | None:
  return _unordered(_distinct(a.items, tol), _distinct(b.items, tol), tol)


def _distinct(items: tuple, tol: float) -> tuple:
  out: list[Form] = []
  for item in items:
    if not any(_same(item, o, tol) is True for o in out):
      out.append(item)
  return tuple(out)


def _tuples(a: Form, b: Form, tol: float) -> bool | None:
  if a.mark != b.mark:
    return False
  return _ordered(a.items, b.items, tol)


def _unions(a: Form, b: Form, tol: float) -> bool | None:
  return _unordered(a.items, b.items, tol)


def _matrices(a: Form, b: Form, tol: float) -> bool | None:
  if [len(r) for r in a.items] != [len(r) for r in b.items]:
    return False
  pairs = [
    exact_values.same(x, y, tol)
    for r, s in zip(a.items, b.items, strict=True)
    for x, y in zip(r, s, strict=True)
  ]
  return _all(pairs)


def _equations(a: Form, b: Form, tol: float) -> bool | None:
  """x = 5 and 5 are the same; x = 5 and y = 5 are not."""
  if a.kind == b.kind:
    if bool(a.mark) != bool(b.mark):
      return None
    if a.mark != b.mark:
      return False
    if a.mark:
      return _same(a.items[0], b.items[0], tol)
    return _proportional(a, b)
  equation, other = (a, b) if a.kind == "equation" else (b, a)
  if not equation.mark:
    return None
  right = equation.items[0]
  pair = (right, other) if equation is a else (other, right)
  return _same(pair[0], pair[1], tol)


def _proportional(a: Form, b: Form) -> bool | None:
  """Both sides are brought to f = 0: equal where f / g is a constant."""
  f, g = a.items[0].items[0], b.items[0].items[0]
  names = expressions.symbols(f) | expressions.symbols(g)
  ratios = []
  for point in expressions.points(names):
    try:
      x, y = expressions.value(f, point), expressions.value(g, point)
    except expressions.UnknownError:
      return None
    if abs(y) < 1e-9 or abs(x) < 1e-9:
      return None
    ratios.append(x / y)
  return all(expressions.near(r, ratios[0], 1e-8) for r in ratios) or None


_KINDS: dict[str, Callable[[Form, Form, float], bool | None]] = {
  "number": _numbers,
  "words": _words,
  "choice": _words,
  "set": _sets,
  "tuple": _tuples,
  "union": _unions,
  "matrix": _matrices,
}
