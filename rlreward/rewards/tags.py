"""Formats of tagged blocks: one automaton for text and for token ids.

  form = tags.compile("think answer")          # <think>..</think><answer>..
  form.accepts(text)                           # on the host
  form.device(ways, spaces)(ids, mask)         # f32[N], inside a compiled step

A format is a row of names. `name?` may be left out and `name*` may come any
number of times; `think(observe?)` is a block with text and blocks inside. Every
tag comes in order and nothing but white space stands between blocks; a block
may be empty only where `empty` allows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.ops import patterns
from rlreward.types import Array

_PART = re.compile(r"([a-z_][a-z0-9_]*)([?*]?)|([()])|(\s+)", re.IGNORECASE)


class Block(NamedTuple):
  """A block of a format.

  Attributes:
    name: of its tags.
    many: "", "?" or "*".
    inside: blocks; none means text.
  """

  name: str
  many: str
  inside: tuple[Block, ...] = ()


class Format:
  """A compiled format.

  Attributes:
    spec: the text that it was made of.
    tags: ("<think>", "</think>", ...), in the order of the symbols.
    table: i32[S, 2 + tags], next states; the last state refuses.
    good: bool[S], states in which a row may end.
  """

  def __init__(self, spec, tags, table, good, opened):
    self.spec, self.tags = spec, tags
    self.table, self.good = table, good
    self._opened = opened
    known = "|".join(re.escape(t) for t in tags)
    self._split = re.compile(f"({known})" if tags else r"(\b\B)")
    self._symbol = {t: patterns.FIRST + k for k, t in enumerate(tags)}

  def start(self, prefilled: bool = False) -> int:
    """The state before the first token.

    Args:
      prefilled: the template has written the first tag ahead for the model.
    """
    return self._opened if prefilled else 0

  def accepts(self, text: str, prefilled: bool = False) -> bool:
    """Whether a text has this format.

    Args:
      text: of the policy.
      prefilled: see `start`.
    """
    state = self.start(prefilled)
    for part in self._split.split(text):
      if part:
        kind = patterns.OTHER if part.strip() else patterns.SPACE
        state = self.table[state, self._symbol.get(part, kind)]
    return bool(self.good[state])

  def share(self, text: str) -> float:
    """Share of the tags that occur exactly once.

    Args:
      text: of the policy.
    """
    return sum(text.count(t) == 1 for t in self.tags) / len(self.tags)

  def device(
    self,
    ways: Mapping[str, Sequence[Sequence[int]]],
    spaces: Sequence[int] = (),
    prefilled: bool = False,
  ) -> Callable[[Array, Array], Array]:
    """The check on token ids, to be used inside a compiled step.

    Args:
      ways: {tag: the id sequences that write it}, for every tag.
      spaces: ids that are white space only.
      prefilled: see `start`.

    Returns:
      (ids i32[N, L], mask bool[N, L]) -> f32[N], 1 where the format holds. The
      mask is the action mask without the stop token.

    Raises:
      UserError: a tag without ids.
    """
    for tag in self.tags:
      if not ways.get(tag) or not all(len(w) for w in ways[tag]):
        raise UserError(
          f"the format {self.spec!r} has no token ids for {tag}",
          "on the device a tag is a sequence of ids",
          f"give ways={{{tag!r}: [tokenizer.encode({tag!r})], ...}}",
        )
    order = [list(map(list, ways[tag])) for tag in self.tags]
    start = self.start(prefilled)

    def check(ids: Array, mask: Array) -> Array:
      symbol, free = patterns.symbols(ids, mask, order, spaces)
      end = patterns.run(symbol, free, jnp.asarray(self.table), start)
      return jnp.asarray(self.good)[end].astype(jnp.float32)

    return check


def compile(spec: str, empty: bool = False) -> Format:
  """A format of its words, see the module.

  Args:
    spec: such as "think answer", "think tool_call? response?".
    empty: whether blocks may hold nothing but white space.

  Raises:
    UserError: a spec that cannot be read, or a name that stands twice.
  """
  blocks = _blocks(spec)
  names = list(_names(blocks))
  if not names or len(set(names)) < len(names):
    raise UserError(
      f"the format {spec!r} has the blocks {names}",
      "each tag has one place in a format",
      "name at least one block, and each of them once",
    )
  tags = [t for n in names for t in (f"<{n}>", f"</{n}>")]
  build = _Builder(tags, empty)
  end = build.sequence(blocks, 0, False)
  build.good.add(end)
  table, good = build.finish()
  return Format(spec, tuple(tags), table, good, int(table[0, patterns.FIRST]))


class _Builder:
  """Makes the table block by block."""

  def __init__(self, tags: list[str], empty: bool):
    self.tags, self.empty = tags, empty
    self.rows: list[dict[int, int]] = []
    self.good: set[int] = set()
    # What a state may do because the blocks ahead of it may be left out.
    self.skips: dict[int, list[int]] = {}
    self.between()

  def between(self) -> int:
    """A state outside of text: white space stays."""
    self.rows.append({patterns.SPACE: len(self.rows)})
    return len(self.rows) - 1

  def symbol(self, tag: str) -> int:
    return patterns.FIRST + self.tags.index(tag)

  def sequence(self, blocks: tuple[Block, ...], state: int, text: bool) -> int:
    """States of blocks in a row; returns the state behind them.

    Args:
      blocks: in order.
      state: before them.
      text: whether text may stand between them.
    """
    if text:
      self.rows[state][patterns.OTHER] = state
    for block in blocks:
      after = self.between()
      if text:
        self.rows[after][patterns.OTHER] = after
      self.block(block, state, after)
      if block.many:
        self.skips.setdefault(state, []).append(after)
      if block.many == "*":
        self.block(block, after, after)
      state = after
    return state

  def block(self, block: Block, state: int, after: int) -> None:
    opened = self.between()
    self.rows[state][self.symbol(f"<{block.name}>")] = opened
    close = self.symbol(f"</{block.name}>")
    if block.inside:
      self.rows[self.sequence(block.inside, opened, True)][close] = after
      return
    text = self.between()
    self.rows[opened][patterns.OTHER] = text
    self.rows[text][patterns.OTHER] = text
    self.rows[text][close] = after
    if self.empty:
      self.rows[opened][close] = after

  def finish(self) -> tuple[np.ndarray, np.ndarray]:
    """The table, with skips followed and a state that refuses all."""
    size = len(self.rows)
    for state in reversed(range(size)):
      for target in self.skips.get(state, ()):
        for symbol, to in self.rows[target].items():
          if symbol != patterns.SPACE:
            self.rows[state].setdefault(symbol, to)
        if target in self.good:
          self.good.add(state)
    table = np.full((size + 1, patterns.FIRST + len(self.tags)), size, np.int32)
    for state, row in enumerate(self.rows):
      for symbol, to in row.items():
        table[state, symbol] = to
    good = np.zeros(size + 1, bool)
    good[list(self.good)] = True
    return table, good


def _names(blocks: tuple[Block, ...]):
  for block in blocks:
    yield block.name
    yield from _names(block.inside)


def _blocks(spec: str) -> tuple[Block, ...]:
  """Reads a spec.

  Raises:
    UserError: signs that are no part of one.
  """
  stack: list[list[Block]] = [[]]
  at = 0
  while at < len(spec):
    m = _PART.match(spec, at)
    if m is None or len(stack) > 8:
      raise _unread(spec, spec[at : at + 1])
    at = m.end()
    name, many, bracket, _ = m.groups()
    if name:
      stack[-1].append(Block(name, many))
    elif bracket == "(":
      if not stack[-1]:
        raise _unread(spec, "(")
      stack.append([])
    elif bracket == ")":
      if len(stack) < 2:
        raise _unread(spec, ")")
      inside = tuple(stack.pop())
      stack[-1][-1] = stack[-1][-1]._replace(inside=inside)
      more = re.match(r"[?*]", spec[at:])
      if more is not None:
        stack[-1][-1] = stack[-1][-1]._replace(many=more[0])
        at += 1
  if len(stack) > 1:
    raise _unread(spec, "(")
  return tuple(stack[0])


def _unread(spec: str, sign: str) -> UserError:
  return UserError(
    f"the format {spec!r} cannot be read at {sign!r}",
    "a format is a row of block names with ?, * and ( )",
    "write such as 'think answer' or 'think tool_call? response?'",
  )
