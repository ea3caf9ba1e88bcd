"""How N = B * G rows are cut into updates and microbatches, and put back.

Cuts are strided over prompts, so that each data shard of the mesh keeps a part
of every piece and no row moves between devices.
"""

from __future__ import annotations

from typing import NamedTuple

import jax

from rlreward import errors

Array = jax.Array


class Plan(NamedTuple):
  """N rows as `pieces` equal pieces; rows of one prompt stay in succession.

  Attributes:
    prompts: B.
    group: G.
    prompt_cuts: pieces along prompts.
    group_cuts: pieces along the samples of a prompt.
  """

  prompts: int
  group: int
  prompt_cuts: int = 1
  group_cuts: int = 1

  @property
  def pieces(self) -> int:
    """Number of pieces."""
    return self.prompt_cuts * self.group_cuts

  @property
  def share(self) -> int:
    """Rows in succession with the same prompt inside a piece."""
    return self.group // self.group_cuts

  @property
  def rows(self) -> int:
    """Rows of a piece."""
    return self.prompts * self.group // self.pieces

  def split(self, x: Array) -> Array:
    """[N, ...] -> [pieces, rows, ...]."""
    tail = x.shape[1:]
    b, g = self.prompts // self.prompt_cuts, self.share
    x = x.reshape(b, self.prompt_cuts, self.group_cuts, g, *tail)
    x = x.transpose(1, 2, 0, 3, *range(4, x.ndim))
    return x.reshape(self.pieces, b * g, *tail)

  def join(self, x: Array) -> Array:
    """The inverse of `split`."""
    tail = x.shape[2:]
    b, g = self.prompts // self.prompt_cuts, self.share
    x = x.reshape(self.prompt_cuts, self.group_cuts, b, g, *tail)
    x = x.transpose(2, 0, 1, 3, *range(4, x.ndim))
    return x.reshape(self.prompts * self.group, *tail)


def plan(
  prompts: int, group: int, microbatch: int, shards: int = 1, together: int = 1
) -> Plan:
  """Cuts B * G rows into pieces of `microbatch` rows.

  Whole groups are kept together where they fit, since rows of a piece that
  share a prompt compute it once.

  Args:
    prompts: B, of one update.
    group: G.
    microbatch: rows of a piece over all devices; 0 for one piece.
    shards: data shards of the mesh; each gets whole prompts of every piece.
    together: rows of a prompt that stay in one piece, 2 for pairs.

  Raises:
    UserError: no such cut exists; proposes the nearest that does.
  """
  total = prompts * group
  legal = _legal(prompts, group, shards, together)
  rows = microbatch or total
  if rows not in legal:
    near = min(legal, key=lambda r: (abs(r - rows), r))
    raise errors.UserError(
      f"microbatch={microbatch} does not cut {prompts} prompts x {group}"
      f" = {total} rows on {shards} data shards",
      "pieces must be equal and hold whole prompts of every shard",
      f"set microbatch={near} (legal: {sorted(legal)}), or 0 for one piece",
    )
  return legal[rows]


def within(
  prompts: int, group: int, microbatch: int, shards: int = 1, together: int = 1
) -> Plan:
  """The cut into the largest pieces of at most `microbatch` rows.

  For rows whose number is not the config's: those that a round selects, those
  held out. Where every piece is larger, the smallest.

  Args, Raises: as `plan`; any microbatch has a cut.
  """
  legal = _legal(prompts, group, shards, together)
  most = microbatch or max(legal)
  return legal[max((r for r in legal if r <= most), default=min(legal))]


def _legal(
  prompts: int, group: int, shards: int, together: int
) -> dict[int, Plan]:
  """{rows of a piece: its cut}."""
  if prompts % shards:
    near = max(shards, prompts - prompts % shards)
    raise errors.UserError(
      f"{prompts} prompts per update on {shards} data shards",
      "each shard takes whole prompts, so that a group stays together",
      f"set prompts_per_step to a multiple of {shards}, e.g. {near}",
    )
  return {
    (prompts // i) * (group // j): Plan(prompts, group, i, j)
    for j in range(group, 0, -1)
    if group % j == 0 and (group // j) % together == 0
    for i in range(1, prompts + 1)
    if prompts % i == 0 and (prompts // i) % shards == 0
  }
