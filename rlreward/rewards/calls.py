"""Tool calls: read from text, and compared with the right ones.

A call is a name and arguments. It is read from <tool_call> blocks (one JSON
object a line, or one for each block), from bare JSON, or from Python call
syntax such as `[f(a=1)]`; nothing is evaluated. Comparisons know no order of
calls or of arguments; 1 and 1.0 are equal, True and 1 are not.

Reference: ToolRL, arXiv 2504.13958; BFCL, the Berkeley Function-Calling
Leaderboard (AST matching).
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from rlreward.rewards.answers import spoken

MOST_TEXT = 50_000
MOST_CALLS = 32

_BLOCK = "<tool_call>", "</tool_call>"


class Call(NamedTuple):
  """One call of a tool."""

  name: str
  arguments: Mapping[str, Any]


class BadCallError(ValueError):
  """A text that holds no calls in any known form."""


def parse(text: str) -> list[Call]:
  """The calls of a text.

  Args:
    text: of the policy, or a gold text.

  Returns:
    Calls in order; none where the text has no <tool_call> block and is not
    itself JSON or Python calls.

  Raises:
    BadCallError: a block or a bare list that cannot be read as calls.
  """
  if len(text) > MOST_TEXT:
    raise BadCallError(f"more than {MOST_TEXT} characters")
  text = spoken(text)  # a thought may speak of calls without making one
  opened, closed = (text.count(t) for t in _BLOCK)
  if opened != closed:
    raise BadCallError(f"{opened} <tool_call> and {closed} </tool_call>")
  if opened:
    found: list[Call] = []
    for part in text.split(_BLOCK[0])[1:]:
      body, end, rest = part.partition(_BLOCK[1])
      if not end or _BLOCK[1] in rest:
        raise BadCallError("blocks are not in order")
      found += _body(body)
      if len(found) > MOST_CALLS:
        raise BadCallError(f"more than {MOST_CALLS} calls")
    return found
  bare = text.strip()
  if bare.startswith(("{", "[{")) or bare == "[]":
    return _limited(_calls(loads(bare)))
  if bare.startswith("[") or re.match(r"[\w.]+\(", bare):
    return _limited(_python(bare))
  return []


def _limited(calls: list[Call]) -> list[Call]:
  if len(calls) > MOST_CALLS:
    raise BadCallError(f"more than {MOST_CALLS} calls")
  return calls


def _body(text: str) -> list[Call]:
  """Calls of one block: a JSON object or list, or one object a line."""
  text = text.strip()
  if not text:
    raise BadCallError("an empty block")
  try:
    return _calls(loads(text))
  except BadCallError:
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
      raise
    return [c for line in lines for c in _calls(loads(line))]


def loads(text: str) -> Any:
  """Strict JSON: no NaN, and no key twice.

  Args:
    text: one JSON value.

  Raises:
    BadCallError: it is none.
  """
  try:
    return json.loads(
      text, parse_constant=_no_constant, object_pairs_hook=_unique
    )
  except (ValueError, RecursionError) as error:
    raise BadCallError(f"no JSON: {error}") from None


def _no_constant(word: str) -> Any:
  raise BadCallError(f"{word} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  out = dict(pairs)
  if len(out) < len(pairs):
    raise BadCallError("a key stands twice")
  return out


def _calls(found: Any) -> list[Call]:
  if isinstance(found, list):
    return [c for item in found for c in _calls_of(item)]
  return _calls_of(found)


def _calls_of(found: Any) -> list[Call]:
  """A call of {"name", "parameters" | "arguments"}, or OpenAI's nesting."""
  if not isinstance(found, dict):
    raise BadCallError(f"a {type(found).__name__} is no call")
  inner = found.get("function")
  if isinstance(inner, dict):
    found = inner
  name = found.get("name")
  given = [k for k in ("parameters", "arguments") if k in found]
  if not isinstance(name, str) or not name or len(given) > 1:
    raise BadCallError("a call has a name and one object of arguments")
  arguments = found[given[0]] if given else {}
  if isinstance(arguments, str):
    arguments = loads(arguments)
  if not isinstance(arguments, dict):
    raise BadCallError("the arguments of a call are an object")
  return [Call(name, arguments)]


def _python(text: str) -> list[Call]:
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      tree = ast.parse(text, mode="eval").body
  except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
    raise BadCallError(f"no calls: {error}") from None
  items = tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]
  return [_python_call(item) for item in items]


def _python_call(node: ast.AST) -> Call:
  if not isinstance(node, ast.Call) or node.args:
    raise BadCallError("a call is written name(argument=value, ...)")
  name = ast.unparse(node.func)
  if not re.fullmatch(r"[\w.]+", name):
    raise BadCallError("a call is of a name")
  arguments: dict[str, Any] = {}
  for word in node.keywords:
    if word.arg is None or word.arg in arguments:
      raise BadCallError("arguments have names, each of them one")
    try:
      arguments[word.arg] = ast.literal_eval(word.value)
    except (ValueError, TypeError, MemoryError, RecursionError):
      raise BadCallError(f"the value of {word.arg} is no literal") from None
  return Call(name, arguments)


def frozen(value: Any) -> Hashable:
  """A value to compare by: numbers by value, bools apart, objects unordered.

  Args:
    value: of JSON, or a Python literal.
  """
  if isinstance(value, bool):
    return ("bool", value)
  if isinstance(value, int | float):
    return ("number", value)
  if isinstance(value, Mapping):
    pairs = ((str(k), frozen(v)) for k, v in value.items())
    return ("object", frozenset(pairs))
  if isinstance(value, list | tuple):
    return ("list", tuple(map(frozen, value)))
  if isinstance(value, set | frozenset):
    return ("set", frozenset(map(frozen, value)))
  return (type(value).__name__, value)


def _key(call: Call) -> Hashable:
  return (call.name, frozen(call.arguments))


def same(calls: Sequence[Call], gold: Sequence[Call]) -> bool:
  """Whether two lists hold the same calls, in any order.

  Args:
    calls: of the policy.
    gold: right ones.
  """
  return Counter(map(_key, calls)) == Counter(map(_key, gold))


def jaccard(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
  """Size of the intersection over the union of two multisets; 1 if both empty.

  Args:
    a: items.
    b: items.
  """
  x, y = Counter(a), Counter(b)
  shared = sum((x & y).values())
  union = len(a) + len(b) - shared
  return shared / union if union else 1.0


def pair_score(call: Call, gold: Call, match: str = "fine") -> float:
  """match(keys) + number of equal values; ToolRL's score of one gold call.

  Args:
    call: of the policy, of the same name.
    gold: the right one.
    match: see `graded`.
  """
  if match == "intermediate":
    return float(_key(call) == _key(gold))
  equal = sum(
    k in call.arguments and frozen(call.arguments[k]) == frozen(v)
    for k, v in gold.arguments.items()
  )
  keys = jaccard(list(call.arguments), list(gold.arguments))
  return (float(keys == 1) if match == "strict" else keys) + equal


def graded(
  calls: Sequence[Call],
  gold: Sequence[Call],
  low: float = -3.0,
  high: float = 3.0,
  optimal: bool = False,
  match: str = "fine",
) -> float:
  """ToolRL's correctness: low + (high - low) S / S_max.

    S = match(names) + sum over gold calls of the best unused pair_score
    S_max = 1 + sum over gold calls (1 + number of arguments)

  Args:
    calls: of the policy.
    gold: right ones.
    low: reward of nothing right.
    high: of everything.
    optimal: pair calls by the best assignment; the paper's rule goes through
      the gold calls in order and takes the best one left.
    match: fine; strict, names and keys count all or nothing; intermediate, a
      call is worth 1 if it is right as a whole; coarse, all or nothing.

  Reference: ToolRL, arXiv 2504.13958.
  """
  if same(calls, gold):
    return high
  if match == "coarse":
    return low
  names = jaccard([c.name for c in calls], [g.name for g in gold])
  names = float(names == 1) if match == "strict" else names
  score = lambda c, g: pair_score(c, g, match) if c.name == g.name else 0.0
  table = [[score(c, g) for c in calls] for g in gold]
  total = names + (_best(table) if optimal else _greedy(table))
  worth = lambda g: 1 + len(g.arguments) * (match != "intermediate")
  most = 1 + sum(map(worth, gold))
  return low + (high - low) * total / most


def _greedy(table: list[list[float]]) -> float:
  total, used = 0.0, set()
  for row in table:
    left = [(s, -j) for j, s in enumerate(row) if j not in used]
    best, j = max(left, default=(0.0, 0))
    if best > 0:
      used.add(-j)
      total += best
  return total


def _best(table: list[list[float]]) -> float:
  """The largest sum with each column used once: Hungarian, O(n^3)."""
  if not table or not table[0]:
    return 0.0
  n, m = len(table), max(len(table), len(table[0]))
  cost = [[-row[j] if j < len(row) else 0.0 for j in range(m)] for row in table]
  u, v, match = [0.0] * (n + 1), [0.0] * (m + 1), [0] * (m + 1)
  for i in range(1, n + 1):
    match[0], j0 = i, 0
    low, used, way = [math.inf] * (m + 1), [False] * (m + 1), [0] * (m + 1)
    while True:
      used[j0] = True
      i0, delta, j1 = match[j0], math.inf, 0
      for j in range(1, m + 1):
        if not used[j]:
          gap = cost[i0 - 1][j - 1] - u[i0] - v[j]
          if gap < low[j]:
            low[j], way[j] = gap, j0
          if low[j] < delta:
            delta, j1 = low[j], j
      for j in range(m + 1):
        if used[j]:
          u[match[j]] += delta
          v[j] -= delta
        else:
          low[j] -= delta
      j0 = j1
      if match[j0] == 0:
        break
    while j0:
      match[j0], j0 = match[way[j0]], way[j0]
  return -sum(cost[match[j] - 1][j - 1] for j in range(1, m + 1) if match[j])


_IGNORED = re.compile(r"[ ,./\-_*^]")


def standard(text: str) -> str:
  """A text as BFCL compares it: no case, blanks or separators."""
  return _IGNORED.sub("", text).lower().replace("'", '"')


def accepts(call: Call, gold: Mapping[str, Any]) -> bool:
  """Whether a call is one of BFCL's accepted ones.

  Args:
    call: of the policy.
    gold: {function: {argument: [accepted values]}}; "" among the values means
      that the argument may be left out.
  """
  ((name, values),) = gold.items()
  if call.name != name or not set(call.arguments) <= set(values):
    return False
  for key, accepted in values.items():
    if key not in call.arguments:
      if "" not in accepted:
        return False
    elif not any(_accepted(call.arguments[key], a) for a in accepted):
      return False
  return True


def _accepted(value: Any, right: Any) -> bool:
  if isinstance(value, str) and isinstance(right, str):
    return standard(value) == standard(right)
  if isinstance(value, list | tuple) and isinstance(right, list | tuple):
    return len(value) == len(right) and all(map(_accepted, value, right))
  if isinstance(value, Mapping) and isinstance(right, Mapping):
    # Values of an accepted object are lists of accepted values themselves.
    if not set(value) <= set(right):
      return False
    return all(
      any(_accepted(value[k], a) for a in _options(options))
      if k in value
      else "" in _options(options)
      for k, options in right.items()
    )
  return frozen(value) == frozen(right)


def _options(found: Any) -> Sequence[Any]:
  return found if isinstance(found, list) else [found]


def accepted(calls: Sequence[Call], gold: Sequence[Mapping[str, Any]]) -> bool:
  """Whether calls are accepted one by one, in any order.

  Args:
    calls: of the policy.
    gold: see `accepts`; none means that no call is right.
  """
  if len(calls) != len(gold):
    return False
  if not gold:
    return True
  table = [[float(accepts(c, g)) for c in calls] for g in gold]
  return _best(table) == len(gold)
