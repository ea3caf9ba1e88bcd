"""Requests and calls of the slots task: how they are drawn, written and read.

calls = call ("," call)*        call = TOOL "(" pair ("," pair)* ")"
pair  = key "=" digit           an answer is calls and the stop token
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlreward.ops.calls import Calls
from rlreward.tasks import answered, tokens
from rlreward.tasks.answered_rows import Item, Sizes
from rlreward.types import Array

TOOLS, INTENTS = "ABCDEFGH", "IJKLMNOPQRSTUVWX"
KEYS, CUES = "abcdefgh", "ijklmnopqrstuvwx"
FILLERS, DIGITS = "yz", "0123456789"
ALPHABET = TOOLS + INTENTS + KEYS + CUES + FILLERS + DIGITS + "(),=;>"
MOST_CALLS = 4  # that an answer can hold; more of them are not well formed
# What may come next, and the state that it leads to; all else fails.
_STATES = {
  "tool": {"tool": "open"},
  "open": {"(": "key"},
  "key": {"key": "equals"},
  "equals": {"=": "value"},
  "value": {"digit": "next"},
  "next": {",": "key", ")": "after"},
  "after": {",": "tool", "eos": "done"},
  "done": {},
  "failed": {},
}
_KINDS = ("tool", "key", "digit", "(", ")", ",", "=", "eos", "else")


class Spoken(NamedTuple):
  """A call of a request: a tool and (key, digit) pairs, places in the lists."""

  tool: int
  pairs: Sequence[tuple[int, int]]


def write(calls: Sequence[Spoken]) -> str:
  """Calls as an answer: "A(a=7,b=3),C(a=1)"."""
  return ",".join(
    f"{TOOLS[c.tool]}({','.join(f'{KEYS[k]}={v}' for k, v in c.pairs)})"
    for c in calls
  )


def sizes(c: Mapping[str, Any]) -> Sizes:
  """Slots of requests and answers."""
  n, calls = c["arguments"], c["calls"]
  prompt = calls * (1 + 2 * n) + calls - 1 + c["fillers"] + 1
  return Sizes(prompt, calls * (4 * n + 2) + calls - 1 + 1)


def draw(c: Mapping[str, Any], rng: np.random.Generator) -> Item:
  """A request of calls to tools that differ, and the calls in its order."""
  calls = [
    Spoken(int(tool), [(int(k), int(rng.integers(10))) for k in keys])
    for tool, keys in (
      (t, rng.permutation(c["keys"])[: c["arguments"]])
      for t in rng.permutation(c["tools"])[: c["calls"]]
    )
  ]
  said: list[str] = []
  for i, call in enumerate(calls):
    said += [";"] * (i > 0) + [_synonym(INTENTS, call.tool, c, rng)]
    said += [f"{_synonym(CUES, k, c, rng)}{v}" for k, v in call.pairs]
  for _ in range(c["fillers"]):
    said.insert(int(rng.integers(len(said) + 1)), FILLERS[rng.integers(2)])
  wrong = _changed(c, calls, rng)
  return Item("".join(said) + ">", write(calls), write(wrong))


def reader(
  tok: tokens.CharTokenizer,
) -> Callable[[Array, Array], tuple[Calls, Array]]:
  """Reads calls from tokens, inside a compiled function.

  Args:
    tok: of `ALPHABET`.

  Returns:
    (tokens i32[N, L], mask bool[N, L], those that count) -> Calls of N rows,
    and bool[N], whether they are well formed: calls as in the module, no key
    twice in one, no more than MOST_CALLS, and the stop token at the end.
  """
  kind_of, step_of, names = _tables(tok)
  start, done = names.index("tool"), names.index("done")

  def read(ids: Array, mask: Array) -> tuple[Calls, Array]:
    ids, mask = jnp.asarray(ids), jnp.asarray(mask)
    kinds = jnp.asarray(kind_of)[ids]  # ids past the alphabet are "else"

    def step(state: Array, column: tuple[Array, Array]):
      kind, counts = column
      return jnp.where(counts, jnp.asarray(step_of)[state, kind], state), state

    first = jnp.full(ids.shape[0], start)
    last, before = jax.lax.scan(step, first, (kinds.T, mask.T))
    at = lambda name: mask & (before.T == names.index(name))
    call, key, value = at("tool"), at("key"), at("value")
    which = jnp.cumsum(call, 1) - 1
    fits = (last == done) & (jnp.sum(call, 1) <= MOST_CALLS)
    in_call = jax.nn.one_hot(which, MOST_CALLS, dtype=jnp.int32)  # [N, L, C]
    rank = jnp.cumsum(in_call * key[..., None], 1)  # of a key in its call
    place = jnp.sum(rank * in_call, -1) - 1
    in_pair = jax.nn.one_hot(place, len(KEYS), dtype=jnp.int32)
    put = lambda x: jnp.einsum("nlc,nlp,nl->ncp", in_call, in_pair, x)
    keys, values = put(key * ids), put(value * ids)
    there, filled = jnp.einsum("nlc,nl->nc", in_call, 1 * call), put(1 * key)
    twice = jnp.sum(
      (keys[..., None] == keys[..., None, :])
      & (filled[..., None] * filled[..., None, :] > 0), (-1, -2)
    ) > jnp.sum(filled, -1)  # fmt: skip
    count = jnp.einsum("nlc,nl->nc", in_call, 1 * key)
    # A key past the last place is no place at all, so it would be lost.
    fits &= ~jnp.any(twice | (count > len(KEYS)), 1)
    name = jnp.einsum("nlc,nl->nc", in_call, call * ids)
    found = Calls(name, keys, values, there > 0, filled > 0)
    return found, fits

  return read


def _tables(tok) -> tuple[np.ndarray, np.ndarray, list[str]]:
  """Kind of each id, next state of a state and a kind, names of the states."""
  names = list(_STATES)
  kind_of = np.full(tok.vocab_size + 1, _KINDS.index("else"))
  for kind, letters in {"tool": TOOLS, "key": KEYS, "digit": DIGITS}.items():
    kind_of[tok.encode(letters)] = _KINDS.index(kind)
  for sign in "(),=":
    kind_of[tok.encode(sign)] = _KINDS.index(sign)
  kind_of[tok.eos_ids[0]] = _KINDS.index("eos")
  step_of = np.full((len(names), len(_KINDS)), names.index("failed"))
  for name, steps in _STATES.items():
    for kind, then in steps.items():
      step_of[names.index(name), _KINDS.index(kind)] = names.index(then)
  return kind_of, step_of, names


def _synonym(letters: str, place: int, c, rng) -> str:
  return letters[2 * place + int(rng.integers(c["synonyms"]))]


def _changed(c, calls: Sequence[Spoken], rng) -> list[Spoken]:
  """The calls with one part changed, or each with the chance `garble`."""
  if c["garble"]:
    out = _garbled(c, calls, rng)
    if out != list(calls):
      return out
  out = list(calls)
  i = int(rng.integers(len(out)))
  tool, pairs = out[i].tool, list(out[i].pairs)
  unused = sorted(set(range(c["tools"])) - {call.tool for call in calls})
  if unused and rng.random() < 0.5:
    tool = int(rng.choice(unused))
  else:
    j = int(rng.integers(len(pairs)))
    pairs[j] = (pairs[j][0], answered.other(rng, 10, pairs[j][1]))
  out[i] = Spoken(tool, pairs)
  return out


def _garbled(c, calls: Sequence[Spoken], rng) -> list[Spoken]:
  """Calls of which tools, keys and values are others, each for itself."""
  hit = lambda: bool(rng.random() < c["garble"])
  tools = _others([call.tool for call in calls], c["tools"], hit, rng)
  out = []
  for call, tool in zip(calls, tools, strict=True):
    keys = _others([k for k, _ in call.pairs], c["keys"], hit, rng)
    digits = [answered.other(rng, 10, v) if hit() else v for _, v in call.pairs]
    out.append(Spoken(tool, list(zip(keys, digits, strict=True))))
  return out


def _others(own: list[int], size: int, hit: Callable[[], bool], rng):
  """Places that differ, some of them changed to ones that were not there."""
  left = list(rng.permutation(sorted(set(range(size)) - set(own))))
  return [int(left.pop()) if left and hit() else x for x in own]
