"""Units after a number: which they are, and how many of another one."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
  """A product of powers of base units.

  Attributes:
    factor: of the base units in this one.
    powers: sorted (base, power); a word that is no known unit is its own base.
  """

  factor: Fraction = Fraction(1)
  powers: tuple[tuple[str, int], ...] = ()


_TABLE = """
length m 1: m meter metre
length m 1/100: cm centimeter centimetre
length m 1/1000: mm millimeter millimetre
length m 1000: km kilometer kilometre
length m 1/1000000000: nm nanometer
inch inch 1: in inch inches
inch inch 12: ft foot feet
inch inch 36: yd yard
inch inch 63360: mi mile
time s 1: s sec second
time s 60: min minute
time s 3600: h hr hour
time s 86400: day
time s 604800: week
year year 1: yr year
year year 1/12: month
mass g 1: g gram gramme
mass g 1000: kg kilogram
mass g 1/1000: mg milligram
money dollar 1: $ dollar usd buck
money dollar 1/100: cent ¢ penny pennies
money euro 1: € euro eur
money pound 1: £ gbp
mass lb 1: lb lbs
volume l 1: l L liter litre
volume l 1/1000: ml mL milliliter millilitre
angle degree 1: ° degree deg
angle rad 1: rad radian
share percent 1: % percent
force N 1: N newton
energy J 1: J joule
power W 1: W watt
voltage V 1: V volt
current A 1: A ampere amp
pressure Pa 1: Pa pascal
frequency Hz 1: Hz hertz
temperature K 1: K kelvin
temperature C 1: °C celsius
temperature F 1: °F fahrenheit
amount mol 1: mol mole
energy erg 1: erg
"""


def _read() -> dict[str, tuple[str, Fraction]]:
  out = {}
  for line in _TABLE.strip().splitlines():
    head, names = line.split(":", 1)
    _, base, factor = head.split()
    for name in names.split():
      out[name] = (base, Fraction(factor))
  return out


_KNOWN = _read()
_FOLDED = {k.lower(): v for k, v in _KNOWN.items() if len(k) > 2}
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6,
           "billion": 10**9, "trillion": 10**12, "dozen": 12}  # fmt: skip
_SKIP = {"of", "the", "a", "an", "in", "total", "each", "only", "approximately"}
_STEP = re.compile(
  r"\s*(?:(?P<op>[*/·]|\bper\b)\s*)?"
  r"(?P<name>°[CF]?|[%$€£¢]|[A-Za-z]+)"
  r"(?:\s*\^?\s*\{?(?P<power>-?\d)\}?)?"
)
_NEVER = frozenset(
  "not no is isn are was if then but else wrong right maybe perhaps because"
  " answer or and than more less about".split()
)
SINGLE = frozenset(k for k in _KNOWN if len(k) == 1 and k.isalpha())
MOST_WORDS = 6


def read(text: str) -> Unit | None:
  """The unit that a text names.

  Args:
    text: such as "m/s", "square meters", "apples" or "million dollars".

  Returns:
    None where it is none: digits, signs or a sentence.
  """
  text = text.strip().strip(".")
  if not text:
    return Unit()
  at, words = 0, 0
  factor, powers = Fraction(1), {}
  times, below = 1, False
  while at < len(text):
    m = _STEP.match(text, at)
    if m is None or words > MOST_WORDS:
      return None
    at, words = m.end(), words + 1
    name = m["name"]
    if m["op"]:
      below = m["op"] in ("/", "per")
    low = name.lower()
    if low in ("square", "sq", "squared", "cubic", "cubed"):
      times = 2 if low.startswith("sq") else 3
      continue
    if low in _SCALES:
      factor *= _SCALES[low]
      continue
    if low in _SKIP:
      continue
    if low in _NEVER:
      return None
    base, size = known(name)
    power = int(m["power"] or 1) * times * (-1 if below else 1)
    factor *= size**power
    powers[base] = powers.get(base, 0) + power
    times = 1
  return Unit(factor, tuple(sorted((b, p) for b, p in powers.items() if p)))


def known(name: str) -> tuple[str, Fraction]:
  """(base, its number in this unit); an unknown word is a base of its own."""
  low = name.lower()
  for form in (name, low if len(low) > 2 else name):
    if form in _KNOWN:
      return _KNOWN[form]
  for ending in ("", "s", "es"):
    stem = low.removesuffix(ending) if ending else low
    if stem in _FOLDED:
      return _FOLDED[stem]
  single = low.removesuffix("es") if low.endswith(("shes", "xes")) else None
  return single or low.removesuffix("s") or low, Fraction(1)
