"""Demonstrations of answers in turns with a tool of texts.

A row is the prompt, then each call, its stop token and what the tool shows,
then the answer and its stop token. The loss is of what the policy writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlreward.errors import UserError
from rlreward.sampling.tools import Tool
from rlreward.tasks import data, draws, tokens

Row = Mapping[str, Any]


class Shown:
  """Rows of a table as demonstrations; the tool is asked once for each.

  Args:
    table: rows with a `prompt` and the columns that the tool reads.
    tok: of the policy.
    tool: runs on the host.
    turns: row -> texts of its turns, the answer last.
    holdout: share of the prompts that the test split keeps.

  Raises:
    UserError: a turn before the last that is no call, or a last one that is.
  """

  def __init__(
    self,
    table: Sequence[Row],
    tok: tokens.Tokens,
    tool: Tool,
    turns: Callable[[Row], Sequence[str]],
    holdout: float = 0.0,
  ):
    self._tok, self._tool = tok, tool
    self._asked = [tok.encode(r["prompt"], bos=tok.adds_bos) for r in table]
    parts = [[(t, True) for t in self._ids(turns(r))] for r in table]
    self._written = self._observed(table, parts)
    held = [data.held_out(r["prompt"], holdout) for r in table]
    self._split = {
      name: [i for i, h in enumerate(held) if h == (name == "test")]
      for name in draws.SPLITS
    }

  @property
  def width(self) -> int:
    """Slots of the longest row behind its prompt."""
    return max(sum(len(ids) for ids, _ in row) for row in self._written)

  def stream(
    self,
    prompt: int,
    width: int,
    digest: str,
    process_index: int = 0,
    process_count: int = 1,
  ) -> Callable[[str, int, int], draws.Draws]:
    """(split, batch_size, seed) -> batches of `tokens`, `attend` and `loss`.

    Args:
      prompt: slots of a prompt.
      width: slots behind it.
      digest: what the rows depend on.
      process_index: this host.
      process_count: hosts.
    """

    def opened(split: str, batch_size: int, seed: int) -> draws.Draws:
      places = self._split.get(split, [])
      if split in self._split and not places:
        raise UserError(
          f"split {split!r} of {len(self._asked)} prompts is empty",
          "there is nothing to draw from it",
          "use another holdout, or more prompts",
        )

      def build(size: int, rng: np.random.Generator):
        rows = [places[i] for i in rng.integers(len(places), size=size)]
        return self._arrays(rows, prompt, width)

      return draws.Draws(
        build, split, batch_size, seed, digest, process_index, process_count
      )

    return opened

  def _ids(self, texts: Sequence[str]) -> list[list[int]]:
    return [[*self._tok.encode(t), self._tok.eos_ids[0]] for t in texts]

  def _observed(self, table, parts):
    """The parts with what the tool shows after each call."""
    out: list[list[tuple[list[int], bool]]] = [[] for _ in parts]
    for k in range(max(map(len, parts))):
      rows = [i for i, p in enumerate(parts) if len(p) > k]
      ids, mask = tokens.right_pad(
        [parts[i][k][0] for i in rows],
        max(len(parts[i][k][0]) for i in rows),
        self._tok.pad_id,
      )
      own = {c: [table[i][c] for i in rows] for c in self._tool.columns}
      seen, inside, called = self._tool.observe(ids, mask, own)
      for n, i in enumerate(rows):
        last = len(parts[i]) == k + 1
        if bool(called[n]) == last:
          said = self._tok.decode(parts[i][k][0])
          raise UserError(
            f"turn {k + 1} of {len(parts[i])}, {said[:60]!r}, is "
            + ("a call" if last else "no call"),
            "a demonstration ends with its answer, and calls before it",
            "give texts that fit the marks of the tool",
          )
        out[i].append(parts[i][k])
        if not last:
          out[i].append((seen[n][inside[n]].tolist(), False))
    return out

  def _arrays(self, rows: Sequence[int], prompt: int, width: int):
    pad = self._tok.pad_id
    flat = [[t for ids, _ in self._written[i] for t in ids] for i in rows]
    mine = [[by for ids, by in self._written[i] for _ in ids] for i in rows]
    asked, ask_mask = tokens.left_pad(
      [self._asked[i] for i in rows], prompt, pad
    )
    said, mask = tokens.right_pad(flat, width, pad)
    loss = tokens.right_pad(mine, width, 0)[0].astype(bool)
    return {
      "tokens": np.concatenate([asked, said], 1),
      "attend": np.concatenate([ask_mask, mask], 1),
      "loss": np.concatenate([np.zeros_like(ask_mask), loss], 1),
    }
