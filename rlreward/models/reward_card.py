"""The record of a reward model: what its scores depend on, and proof of it.

`reward_model.json` lies beside the weights. It holds the chat template and its
hash, hashes of the tokenizer's files, how rows are rendered and where the score
is read, dtypes, mean and scale of scores, and golden texts with their tokens
and scores. A model that is loaded must give the same tokens and scores again.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from rlreward.errors import UserError

NAME = "reward_model.json"
FORMAT = 1
# |score - golden| may be this times (1 + |golden|): other kernels of the same
# arithmetic, not another arithmetic (bfloat16 has 8 bits).
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
READS = ("answer_end", "last")
STRINGS = ("plain", "chat")
SIDES = ("right", "left")
_FILES = (
  "tokenizer.json",
  "tokenizer.model",
  "spiece.model",
  "vocab.json",
  "vocab.txt",
  "merges.txt",
  "added_tokens.json",
  "char_tokenizer.json",
)


class Tokenizer(Protocol):
  """What a card records of a tokenizer."""

  name: str
  pad_id: int
  bos_id: int | None
  adds_bos: bool
  eos_ids: tuple[int, ...]


class Golden(NamedTuple):
  """A row whose score is known.

  Attributes:
    row: {"prompt", "completion"}, or {"tokens"} where there is no text.
    tokens: ids that are read; the score is that of the last one.
    score: raw.
  """

  row: Mapping[str, Any]
  tokens: list[int]
  score: float


class Card(NamedTuple):
  """What the scores of a reward model depend on.

  Attributes:
    template: text of the chat template, or None.
    tokenizer: {file: sha256}.
    ids: pad, bos, eos ids and whether bos is put in front.
    strings: a row of strings is encoded as it is ("plain"), or as a user's
      and an assistant's message ("chat").
    read: where the score is read: "answer_end", the last token that the
      assistant wrote, its stop token; or "last", the last token of the
      rendered chat.
    pad_side: side that is padded; scores do not depend on it.
    dtype: type that is computed in.
    param_dtype: type of the weights.
    output: index of the output that is the score.
    max_length: tokens of the longest row that was trained on; 0 if unknown.
    mean: of the scores of `texts` held-out answers.
    scale: their standard deviation.
    texts: how many.
    golden: rows with known scores; none if nothing is known.
    source: where the model is from.
  """

  template: str | None
  tokenizer: Mapping[str, str]
  ids: Mapping[str, Any]
  strings: str = "plain"
  read: str = "answer_end"
  pad_side: str = "right"
  dtype: str = "float32"
  param_dtype: str = "float32"
  output: int = 0
  max_length: int = 0
  mean: float = 0.0
  scale: float = 1.0
  texts: int = 0
  golden: Sequence[Golden] = ()
  source: Mapping[str, Any] = {}


def template_of(tokenizer: Any) -> str | None:
  """The chat template of a tokenizer, None where it has none."""
  return getattr(tokenizer, "template", None)


def describe(tokenizer: Tokenizer, folder: pathlib.Path) -> Card:
  """A card of a tokenizer, with defaults elsewhere.

  Args:
    tokenizer: as loaded from the folder.
    folder: that its files are in.
  """
  return Card(template_of(tokenizer), hashes(folder), _ids(tokenizer))


def hashes(folder: pathlib.Path) -> dict[str, str]:
  """{file: sha256} of the files that decide which ids a text has."""
  return {
    name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
    for name in _FILES
    if (folder / name).is_file()
  }


def write(folder: pathlib.Path, card: Card) -> None:
  """Writes the card; it appears when it is complete."""
  about = {
    "format": FORMAT,
    **card._asdict(),
    "template_sha256": _sha(card.template),
    "golden": [g._asdict() for g in card.golden],
  }
  path = folder / NAME
  partial = path.with_name(NAME + ".partial")
  partial.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
  os.replace(partial, path)


def read(folder: pathlib.Path) -> Card | None:
  """The card of a directory, None where there is none.

  Raises:
    UserError: not a card that this version reads.
  """
  path = folder / NAME
  if not path.is_file():
    return None
  fix = "export the model again, or remove the file to load it unchecked"
  why = "it says what the scores depend on"
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
    if found.pop("format") != FORMAT:
      raise UserError(f"{path} is of another format than {FORMAT}", why, fix)
    sha = found.pop("template_sha256")
    golden = tuple(Golden(**g) for g in found.pop("golden"))
    card = Card(**found, golden=golden)
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(f"{path} is no card: {error}", why, fix) from None
  if sha != _sha(card.template):
    raise UserError(
      f"{path}: the template has not the hash {str(sha)[:12]}",
      "one of the two was edited, and it is not known which is right",
      fix,
    )
  for name, known in (("strings", STRINGS), ("read", READS),
                      ("pad_side", SIDES), ("dtype", TOLERANCE)):  # fmt: skip
    if found[name] not in known:
      raise UserError(f"{path}: {name}={found[name]!r}", why,
                      f"use one of {', '.join(known)}")  # fmt: skip
  return card


def check_tokenizer(card: Card, tokenizer: Tokenizer, folder: pathlib.Path):
  """Refuses another template or tokenizer than the card's.

  Raises:
    UserError: says which of them changed.
  """
  why = "the model would read other tokens than it was trained on"
  fix = f"restore the files of {folder} as they were exported"
  now = template_of(tokenizer)
  if now != card.template:
    raise UserError(
      f"the chat template of {folder} changed: sha256 {_short(_sha(now))}, and"
      f" the model was saved with {_short(_sha(card.template))}"
      f" ({_differs(card.template or '', now or '')})",
      why,
      fix + f"; {NAME} holds the template's text",
    )
  found = hashes(folder)
  for name in sorted({*found, *card.tokenizer}):
    if found.get(name) != card.tokenizer.get(name):
      raise UserError(
        f"tokenizer file {name} of {folder} changed: sha256"
        f" {_short(found.get(name))}, and the model was saved with"
        f" {_short(card.tokenizer.get(name))}",
        why,
        fix,
      )
  if _ids(tokenizer) != dict(card.ids):
    raise UserError(
      f"the tokenizer of {folder} has {_ids(tokenizer)}, and the model was"
      f" saved with {dict(card.ids)}",
      why,
      fix,
    )


def check_tokens(card: Card, found: Sequence[Sequence[int]]) -> None:
  """Refuses where golden rows have other tokens than they had.

  Args:
    card: with its golden rows.
    found: ids of each golden row now, up to where the score is read.

  Raises:
    UserError: says which row and token.
  """
  for i, (golden, ids) in enumerate(zip(card.golden, found, strict=True)):
    old = list(golden.tokens)
    if list(ids) == old:
      continue
    small = min(len(ids), len(old))
    if list(ids[:small]) == old[:small]:
      raise UserError(
        f"the read position changed: golden row {i} is read at token"
        f" {len(ids) - 1}, and it was read at token {len(old) - 1}",
        "a score at another token is another number",
        f"restore read={card.read!r} and strings={card.strings!r} of {NAME} as"
        " they were saved",
      )
    at = next(k for k in range(small) if ids[k] != old[k])
    raise UserError(
      f"golden row {i} has other tokens: {ids[at]} at place {at}, and it was"
      f" {old[at]}",
      "tokenizer, template or the way that rows are rendered changed",
      f"restore the directory and {NAME} as they were saved",
    )


def off(card: Card, scores: Any) -> np.ndarray:
  """bool[G], golden rows whose scores are beyond the tolerance."""
  old = np.asarray([g.score for g in card.golden])
  gap = np.abs(np.asarray(scores, np.float64) - old)
  return ~(gap <= TOLERANCE[card.dtype] * (1 + np.abs(old)))


def check_scores(
  card: Card, scores: Any, others: Mapping[str, Any], where: str
) -> None:
  """Refuses a model that gives golden rows other scores.

  Args:
    card: with its golden rows.
    scores: f32[G], scores now.
    others: {what would have to be different: () -> f32[G]}, tried in turn to
      say what the golden scores agree with.
    where: the model, for messages.

  Raises:
    UserError: says which row moved by how much, and what explains it.
  """
  bad = off(card, scores)
  if not bad.any():
    return
  old = np.asarray([g.score for g in card.golden])
  gap = np.asarray(scores, np.float64) - old
  worst = int(np.nanargmax(np.where(bad, np.nan_to_num(np.abs(gap), nan=1e30),
                                    -1)))  # fmt: skip
  row = card.golden[worst].row
  text = json.dumps(row.get("completion", row.get("tokens")))
  cause = next((k for k, f in others.items() if not off(card, f()).any()), None)
  raise UserError(
    f"{where} does not reproduce: golden row {worst} ({text[:40]}) has score"
    f" {float(np.asarray(scores)[worst]):.6g}, saved {old[worst]:.6g}, moved by"
    f" {gap[worst]:+.3g} (tolerance {TOLERANCE[card.dtype]:g} in {card.dtype});"
    f" {int(bad.sum())} of {len(old)} moved",
    f"the saved scores are those of {cause}"
    if cause
    else "no read position, pad side or dtype explains it: the weights differ",
    "restore the directory as it was exported, or export the model again",
  )


def _ids(tokenizer: Tokenizer) -> dict[str, Any]:
  return {
    "pad": tokenizer.pad_id,
    "bos": tokenizer.bos_id,
    "eos": list(tokenizer.eos_ids),
    "adds_bos": bool(tokenizer.adds_bos),
  }


def _sha(text: str | None) -> str | None:
  return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def _short(sha: str | None) -> str:
  return sha[:12] if sha else "none"


def _differs(a: str, b: str) -> str:
  same = [x == y for x, y in zip(a, b, strict=False)]
  at = same.index(False) if False in same else len(same)
  return f"from character {at}: {b[at : at + 20]!r}, not {a[at : at + 20]!r}"
