"""The record of an ensemble: its members, and how their scores are joined.

`ensemble.json` lies above K directories, each a reward model of its own with
its own card, that any of the tools for single models reads.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from rlreward.errors import UserError
from rlreward.ops import aggregate

NAME = "ensemble.json"
FORMAT = 1
# What joins guesses of one quantity; the others join attributes.
RULES = ("mean", "median", "min", "mean_minus_std", "uwo")


class Member(NamedTuple):
  """A member: its directory, and the seeds that made it (-1 if unknown)."""

  path: str
  pretrain: int = -1
  finetune: int = -1


class EnsembleCard(NamedTuple):
  """An ensemble on disk.

  Attributes:
    members: K, in the order of their scores.
    rule: of RULES, how scores are joined.
    coef: of the spread, for `mean_minus_std` and `uwo`.
  """

  members: Sequence[Member]
  rule: aggregate.Rule = "mean"
  coef: float = 1.0


def write(folder: pathlib.Path, card: EnsembleCard) -> None:
  """Writes the record; it appears when it is complete."""
  about = {
    "format": FORMAT,
    "rule": card.rule,
    "coef": card.coef,
    "members": [m._asdict() for m in card.members],
  }
  path = folder / NAME
  partial = path.with_name(NAME + ".partial")
  partial.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
  os.replace(partial, path)


def read(folder: pathlib.Path) -> EnsembleCard | None:
  """The record of a directory, None where there is none.

  Raises:
    UserError: not a record that this version reads.
  """
  path = folder / NAME
  if not path.is_file():
    return None
  why = "it names the members and how their scores are joined"
  fix = "export the ensemble again, or correct the file"
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["format"] != FORMAT:
      raise UserError(f"{path} is of another format than {FORMAT}", why, fix)
    members = tuple(Member(**m) for m in found["members"])
    card = EnsembleCard(members, found["rule"], float(found["coef"]))
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(f"{path} is no record: {error}", why, fix) from None
  check(card, str(path))
  return card


def check(card: EnsembleCard, where: str) -> None:
  """Refuses an ensemble that cannot be.

  Args:
    card: the ensemble.
    where: its file or field, for the message.

  Raises:
    UserError: see the messages.
  """
  if not card.members:
    raise UserError(
      f"{where} names no member", "scores are theirs", "name one at least"
    )
  if card.rule not in RULES:
    raise UserError(
      f"{where}: rule={card.rule!r}",
      "it joins the members' scores",
      f"use one of {', '.join(RULES)}",
    )
  if not 0 <= card.coef < math.inf:
    raise UserError(
      f"{where}: coef={card.coef}",
      "it is what a deviation of the members costs",
      "use 0 or more",
    )
