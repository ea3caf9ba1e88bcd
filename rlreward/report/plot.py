"""Figures as inline SVG: their colours follow the page, dark or light."""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

COLOURS = 6  # classes c0 to c5 of the page
MOST = 240  # points of a line; more are drawn as mean and range
_HIDDEN = ("Cc", "Cf", "Cs")
Values = Sequence[float | None]


class Series(NamedTuple):
  """One line of a figure.

  Attributes:
    label: for the legend; "" for none.
    x: ascending, in units of the figure.
    y: None leaves a gap.
    colour: number of its colour.
    dash: whether it is dashed.
    dots: whether points are marked.
    low: the range's lower end at each x; None without a range.
    high: its upper end.
  """

  label: str
  x: Sequence[float]
  y: Values
  colour: int = 0
  dash: bool = False
  dots: bool = False
  low: Values | None = None
  high: Values | None = None


def visible(text: str) -> str:
  """Text whose control characters and marks of direction are codes."""
  hidden = lambda c: c not in "\n\t" and unicodedata.category(c) in _HIDDEN
  return "".join(f"[U+{ord(c):04X}]" if hidden(c) else c for c in text)


def thinned(series: Series, most: int = MOST) -> Series:
  """A long line as means of neighbours with their range, so no spike is lost.

  Args:
    series: without a range of its own.
    most: points left.
  """
  n = len(series.x)
  if n <= most:
    return series
  x, y, low, high = [], [], [], []
  for i in range(most):
    part = slice(i * n // most, (i + 1) * n // most)
    known = [v for v in series.y[part] if v is not None]
    x.append(series.x[part.start])
    y.append(sum(known) / len(known) if known else None)
    low.append(min(known, default=None))
    high.append(max(known, default=None))
  x[-1] = series.x[-1]
  return series._replace(x=x, y=y, low=low, high=high)


def number(value: float | None) -> str:
  """A number for people: 4 digits, thousands as k."""
  if value is None or not math.isfinite(value):
    return "-"
  size = abs(value)
  for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
    if size >= limit:
      scale = 1e3 if unit == "k" else limit
      return f"{value / scale:.3g}{unit}"
  if size and size < 1e-3:
    return f"{value:.2g}"
  if size >= 1000:
    return f"{value:.0f}"
  text = f"{value:.3f}" if size < 10 else f"{value:.1f}"
  text = text.rstrip("0").rstrip(".") if "." in text else text
  return "0" if text == "-0" else text


def nats(value: float | None) -> str:
  """A KL; what is only rounding of a sum is 0."""
  return "0" if value is not None and abs(value) < 1e-5 else number(value)


def ticks(low: float, high: float, most: int) -> list[float]:
  """Round numbers from `low` to `high`, at most `most` and one more."""
  if not high > low:
    return [low]
  raw = (high - low) / most
  power = 10.0 ** math.floor(math.log10(raw))
  step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
  first = math.ceil(low / step - 1e-9)
  last = math.floor(high / step + 1e-9)
  return [round(i * step, 12) for i in range(first, last + 1)]


class Axes:
  """A rectangle with two scales, filled part by part.

  Args:
    x: (low, high) in data units.
    y: the same; both above 0 where `log`.
    size: (width, height), pixels.
    log: whether y is logarithmic.
    names: what is on x and on y, with units.
    whole: whether x counts, so that its ticks are whole.
  """

  def __init__(
    self,
    x: tuple[float, float],
    y: tuple[float, float],
    size: tuple[int, int],
    *,
    log: bool = False,
    names: tuple[str, str] = ("", ""),
    whole: bool = False,
  ):
    self.size, self.log, self.names, self.whole = size, log, names, whole
    f = math.log10 if log else float
    self._x, self._y = _widen(x), _widen((f(y[0]), f(y[1])))
    self._left, self._top = 52, 10
    self._right = size[0] - 12
    self._bottom = size[1] - (36 if names[0] else 22)
    self._parts: list[str] = []
    self._taken: list[tuple[float, float, float, float]] = []
    self._grid()

  def at(self, x: float, y: float) -> tuple[float, float]:
    """Data to pixels."""
    if self.log:
      y = math.log10(y) if y > 0 else self._y[0]
    share = (x - self._x[0]) / (self._x[1] - self._x[0])
    rise = (y - self._y[0]) / (self._y[1] - self._y[0])
    return (
      round(self._left + share * (self._right - self._left), 1),
      round(self._bottom - rise * (self._bottom - self._top), 1),
    )

  def line(self, x: Sequence[float], y: Values, style: str) -> None:
    """A line of CSS classes `style`; a lone point is a dot."""
    for run in _runs(x, y):
      if len(run) == 1:
        self.dots([run[0][0]], [run[0][1]], style)
      else:
        path = "L".join(f"{a:g} {b:g}" for a, b in (self.at(*p) for p in run))
        self._parts.append(f'<path class="line {style}" d="M{path}"/>')

  def band(self, x: Sequence[float], low: Values, high: Values, style: str):
    """What lies between two lines, where both are known."""
    known = [
      (a, (b, c)) if b is not None and c is not None else (a, None)
      for a, b, c in zip(x, low, high, strict=True)
    ]
    for run in _runs([a for a, _ in known], [b for _, b in known]):
      if len(run) > 1:
        over = [self.at(a, c) for a, (_, c) in run]
        under = [self.at(a, b) for a, (b, _) in reversed(run)]
        path = "L".join(f"{a:g} {b:g}" for a, b in over + under)
        self._parts.append(f'<path class="band {style}" d="M{path}Z"/>')

  def dots(self, x: Sequence[float], y: Values, style: str, r: float = 2.5):
    """A dot at every known point."""
    for a, b in zip(x, y, strict=True):
      if b is not None:
        p, q = self.at(a, b)
        self._parts.append(
          f'<circle class="dot {style}" cx="{p:g}" cy="{q:g}" r="{r:g}"/>'
        )

  def level(self, y: float, text: str) -> None:
    """A horizontal line with its meaning."""
    a, b = self.at(self._x[0], y)
    self._parts.append(
      f'<path class="line level" d="M{a:g} {b:g}H{self._right}"/>'
    )
    self._write(self._right - 2, b - 4, text, "end")

  def label(self, x: float, y: float, text: str, style: str = "") -> bool:
    """Text beside a point, where no other label is; else nothing."""
    a, b = self.at(x, y)
    wide = 6.2 * len(text)
    for dx, dy in ((5, -5), (5, 13), (-5 - wide, -5), (-5 - wide, 13)):
      box = (a + dx, b + dy - 10, a + dx + wide, b + dy + 2)
      inside = box[0] >= self._left and box[2] <= self._right
      inside &= box[1] >= self._top - 6 and box[3] <= self._bottom
      if inside and not any(_overlap(box, other) for other in self._taken):
        self._taken.append(box)
        self._write(a + dx, b + dy, text, "start", style)
        return True
    return False

  def keep(self, x: Sequence[float], y: Values) -> None:
    """No label may cover these points."""
    for a, b in zip(x, y, strict=True):
      if b is not None:
        p, q = self.at(a, b)
        self._taken.append((p - 3, q - 3, p + 3, q + 3))

  def svg(self, alt: str, style: str = "") -> str:
    """The figure; `alt` says what a reader sees in it."""
    w, h = self.size
    inside, alt = "".join(self._parts), html.escape(visible(alt))
    return (
      f'<svg class="plot {style}" viewBox="0 0 {w} {h}" role="img"'
      f' aria-label="{alt}">{inside}</svg>'
    )

  def _grid(self) -> None:
    rows = max(2, (self._bottom - self._top) // 40)
    cells = max(3, (self._right - self._left) // 70)
    for value in self._levels(rows):
      a, b = self.at(self._x[0], value)
      self._parts.append(f'<path class="grid" d="M{a:g} {b:g}H{self._right}"/>')
      self._write(a - 6, b + 4, number(value), "end")
    for value in ticks(*self._x, cells):
      if self.whole and value != int(value):
        continue
      a, _ = self.at(value, 1.0)
      self._parts.append(
        f'<path class="grid" d="M{a:g} {self._top}V{self._bottom}"/>'
      )
      self._write(a, self._bottom + 14, number(value), "middle")
    if self.names[0]:
      middle = (self._left + self._right) / 2
      self._write(middle, self.size[1] - 6, self.names[0], "middle", "name")

  def _levels(self, most: int) -> list[float]:
    if not self.log:
      return ticks(*self._y, most)
    low, high = math.ceil(self._y[0] - 1e-9), math.floor(self._y[1] + 1e-9)
    if high - low < 1:
      return [10.0**v for v in ticks(*self._y, most)]
    every = max(1, math.ceil((high - low) / most))
    return [10.0**p for p in range(low, high + 1, every)]

  def _write(
    self, x: float, y: float, text: str, anchor: str, style: str = ""
  ) -> None:
    kind = f' class="{style}"' if style else ""
    self._parts.append(
      f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
      f"{html.escape(visible(text))}</text>"
    )


def curves(
  lines: Sequence[Series],
  *,
  alt: str,
  unit: str = "",
  log: bool = False,
  level: tuple[float, str] | None = None,
  size: tuple[int, int] = (400, 210),
) -> str:
  """Lines over steps.

  Args:
    lines: at least one with a known point.
    alt: begins the text alternative; first and last values are added.
    unit: of y.
    log: a logarithmic y, where all is above 0.
    level: (y, text) of a limit worth seeing, drawn where it is in range.
    size: pixels.

  Returns:
    SVG.
  """
  said = "; ".join(_said(line, unit) for line in lines)
  lines = [thinned(line) for line in lines]
  known = [
    v
    for line in lines
    for part in (line.y, line.low or (), line.high or ())
    for v in part
    if v is not None
  ]
  log = log and min(known) > 0
  low, high = min(known), max(known)
  if low == high == 0:
    high = 1.0
  if unit == "share":
    low, high = min(low, 0.0), max(high, 0.05)
  if level and level[0] <= high + 0.5 * (high - low):
    high = max(high, level[0])
  else:
    level = None
  if not log:
    pad = 0.06 * (high - low)
    low, high = low - pad * (low != 0), high + pad
  steps = [x for line in lines for x in line.x]
  axes = Axes((min(steps), max(steps)), (low, high), size, log=log, whole=True)
  if level:
    axes.level(*level)
  for line in lines:
    style = f"c{line.colour % COLOURS}" + " dash" * line.dash
    if line.low is not None and line.high is not None:
      axes.band(line.x, line.low, line.high, style)
    axes.line(line.x, line.y, style)
    if line.dots:
      axes.dots(line.x, line.y, style)
  return axes.svg(f"{alt} over steps. {said}.")


def _said(line: Series, unit: str) -> str:
  known = [v for v in line.y if v is not None]
  if not known:
    return f"{line.label}: no finite value"
  return (
    f"{line.label}: first {number(known[0])}, last {number(known[-1])},"
    f" lowest {number(min(known))}, highest {number(max(known))} {unit}"
  ).rstrip()


def _runs(x, y) -> list[list]:
  """Points without gaps between them."""
  runs: list[list] = [[]]
  for a, b in zip(x, y, strict=True):
    if b is None:
      runs.append([])
    else:
      runs[-1].append((a, b))
  return [run for run in runs if run]


def _widen(ends: tuple[float, float]) -> tuple[float, float]:
  low, high = ends
  if high > low:
    return low, high
  half = max(abs(low) * 0.1, 0.5)
  return low - half, high + half


def _overlap(a, b) -> bool:
  return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
