"""The one place that decides to which static length a length is padded."""

from __future__ import annotations

from collections.abc import Sequence

from rlreward.errors import UserError


def bucket(length: int, buckets: Sequence[int]) -> int:
  """The smallest bucket that holds a length.

  Every bucket is one compiled shape; a length is never cut to fit.

  Args:
    length: tokens, at least 0.
    buckets: allowed lengths in any order.

  Returns:
    min(b for b in buckets if b >= length).

  Raises:
    UserError: no bucket is large enough, or the buckets are not lengths.
  """
  sizes = sorted(buckets)
  if not sizes or any(b < 1 for b in sizes):
    raise UserError(
      f"buckets {tuple(buckets)!r} are not lengths",
      "each bucket is a compiled shape and holds at least one token",
      "give one or more positive lengths, such as (128, 256, 512)",
    )
  for size in sizes:
    if size >= length:
      return size
  raise UserError(
    f"{length} tokens do not fit into the buckets {tuple(sizes)}",
    "padding never cuts tokens, so the row has no shape to go to",
    f"add a bucket of at least {length}, or drop longer rows",
  )
