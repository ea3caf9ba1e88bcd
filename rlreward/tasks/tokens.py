"""Tokenizers behind one small interface, and padding.

Masks are carried from here on and never inferred from ids: pad may equal eos.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from rlreward.errors import UserError
from rlreward.rewards import values
from rlreward.tasks import words
from rlreward.tasks.chat import UNKNOWN, HfTokenizer, head, no_template

_CHARS = "char_tokenizer.json"


class Tokens(Protocol):
  """What the package needs of a tokenizer.

  Attributes:
    name: shown in messages.
    vocab_size: number of ids; every id is below it.
    pad_id: fills empty slots; may equal an eos id.
    bos_id: first id of a text, or None.
    adds_bos: True when plain text is trained with `bos_id` in front.
    eos_ids: ids that end a completion; the first one is written in training
      rows.
    has_chat: True when chat messages can be rendered.
  """

  name: str
  vocab_size: int
  pad_id: int
  bos_id: int | None
  adds_bos: bool
  eos_ids: tuple[int, ...]
  has_chat: bool

  def encode(self, text: str, bos: bool = False) -> list[int]:
    """Text to ids; `bos` puts `bos_id` in front."""
    ...

  def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
    """Ids to text; `skip_special` leaves out pad, bos, eos and the like."""
    ...

  def chat(self, messages: Any) -> list[int]:
    """Chat messages to the ids of a prompt that the model answers."""
    ...

  def chat_with_mask(self, messages: Any) -> tuple[list[int], list[bool]]:
    """A whole chat to ids and a mask of what the assistant wrote."""
    ...

  def save(self, directory: Any) -> None:
    """Writes files that `load` reads from this directory."""
    ...


class CharTokenizer:
  """One id per character, for miniatures: pad, eos, bos, then the alphabet.

  Args:
    alphabet: distinct characters.
    pad_is_eos: pad and eos share id 0, as in many real tokenizers.
    bos: reserve an id for bos and put it in front of prompts.

  Raises:
    UserError: an empty alphabet or one with a repeated character.
  """

  def __init__(
    self, alphabet: str, pad_is_eos: bool = False, bos: bool = False
  ):
    twice = sorted({c for c in alphabet if alphabet.count(c) > 1})
    if not alphabet or twice:
      raise UserError(
        f"alphabet {alphabet!r} "
        + (f"repeats {''.join(twice)!r}" if twice else "is empty"),
        "every character needs exactly one id",
        "list each character once",
      )
    self.name = f"char:{alphabet!r}"
    self.has_chat = False
    self.pad_id = 0
    self.eos_ids: tuple[int, ...] = (0,) if pad_is_eos else (1,)
    first = self.eos_ids[0] + 1
    self.bos_id = first if bos else None
    self.adds_bos = bos
    self._first = first + bos
    self.alphabet, self._pad_is_eos = alphabet, pad_is_eos
    self.vocab_size = self._first + len(alphabet)

  def encode(self, text: str, bos: bool = False) -> list[int]:
    """One id per character.

    Args:
      text: characters of the alphabet.
      bos: put bos in front.

    Raises:
      UserError: a character outside the alphabet.
    """
    ids = [self.bos_id] if bos and self.bos_id is not None else []
    for place, char in enumerate(text):
      index = self.alphabet.find(char)
      if index < 0:
        raise UserError(
          f"character {char!r} at {place} of {head(text)} has no id",
          f"the alphabet is {self.alphabet!r}",
          "write the text in these characters or extend the alphabet",
        )
      ids.append(self._first + index)
    return ids

  def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
    """The characters of ids; pad, eos and bos as `<pad>`, ... if kept.

    A model may have more rows than there are ids; such ids become U+FFFD, so
    that no reward takes them for text.

    Raises:
      UserError: a negative id.
    """
    names = {self.eos_ids[0]: "<eos>", self.bos_id: "<bos>"}
    out = []
    for i in ids:
      i = int(i)
      if i < 0:
        raise UserError(
          f"id {i} is negative",
          "ids count from 0; masked slots must be left out by their mask",
          "decode ids[mask]",
        )
      if i >= self.vocab_size:
        out.append(UNKNOWN)
      elif i >= self._first:
        out.append(self.alphabet[i - self._first])
      elif not skip_special:
        out.append(names.get(i, "<pad>"))
    return "".join(out)

  def chat(self, messages: Any) -> list[int]:
    """Always raises: characters have no chat form."""
    raise no_template(self.name)

  def chat_with_mask(self, messages: Any) -> tuple[list[int], list[bool]]:
    """Always raises: characters have no chat form."""
    raise no_template(self.name)

  def save(self, directory: Any) -> None:
    """Writes `char_tokenizer.json` for `load`."""
    folder = pathlib.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    fields = {
      "alphabet": self.alphabet,
      "pad_is_eos": self._pad_is_eos,
      "bos": self.adds_bos,
    }
    (folder / _CHARS).write_text(json.dumps(fields) + "\n")


def load(name: str) -> Tokens:
  """A tokenizer from a local directory first, else from the hub.

  Args:
    name: "char:<alphabet>", a directory (of `save` or of transformers), or a
      hub name.

  Raises:
    UserError: not found, not loadable, or a download while
      RLREWARD_OFFLINE=1.
  """
  if not name:
    raise UserError(
      "no tokenizer is named",
      "text becomes ids through one",
      "set task.tokenizer to a directory, a hub name or 'char:<alphabet>'",
    )
  if name.startswith("char:"):
    return CharTokenizer(name[len("char:") :])
  folder = pathlib.Path(name).expanduser()
  if (folder / _CHARS).is_file():
    return CharTokenizer(**json.loads((folder / _CHARS).read_text()))
  if (folder / words.FILE).is_file():
    return words.WordTokenizer(**json.loads((folder / words.FILE).read_text()))
  import transformers

  local = folder.is_dir()
  looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
  fix = "give a directory with tokenizer.json and tokenizer_config.json"
  offline = os.environ.get("RLREWARD_OFFLINE", "0") not in ("", "0")
  source = str(folder) if local else name
  if looks_local and not local:
    raise UserError(
      f"tokenizer directory {name!r} does not exist",
      "it is where ids come from",
      fix,
    )
  try:
    hf = transformers.AutoTokenizer.from_pretrained(
      source, local_files_only=True, trust_remote_code=False
    )
  except Exception as error:  # transformers raises many kinds here
    if local or offline:
      raise UserError(
        f"no tokenizer could be loaded from {name!r}: {values.said(error)}",
        "RLREWARD_OFFLINE is set, so nothing is downloaded"
        if offline and not local
        else "the files are missing or of another format",
        fix,
      ) from error
    print(f"downloading the tokenizer of {name} (some MB) from the hub")
    try:
      hf = transformers.AutoTokenizer.from_pretrained(
        source, local_files_only=False, trust_remote_code=False
      )
    except Exception as again:
      raise UserError(
        f"no tokenizer could be loaded from {name!r}: {values.said(again)}",
        "it is neither a directory here nor reachable on the hub",
        fix,
      ) from again
  extra = _generation_eos(folder) if local else ()
  return HfTokenizer(hf, name, extra)


def left_pad(
  rows: Sequence[Sequence[int]], length: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
  """Ids flush with the right edge, and the mask of real ones.

  Args:
    rows: B lists of ids.
    length: P.
    pad_id: fills the rest.

  Returns:
    (i32[B, P], bool[B, P]).

  Raises:
    UserError: a row is longer than P; nothing is cut.
  """
  return _pad(rows, length, pad_id, left=True)


def right_pad(
  rows: Sequence[Sequence[int]], length: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
  """Like `left_pad` with ids flush with the left edge."""
  return _pad(rows, length, pad_id, left=False)


def _pad(rows, length, pad_id, left):
  ids = np.full((len(rows), length), pad_id, np.int32)
  mask = np.zeros((len(rows), length), bool)
  for n, row in enumerate(rows):
    size = len(row)
    if size > length:
      raise UserError(
        f"row {n} has {size} tokens for {length} slots",
        "cutting it would change what the model is asked",
        f"use at least {size} slots, or drop longer rows",
      )
    place = slice(length - size, length) if left else slice(0, size)
    ids[n, place], mask[n, place] = row, True
  return ids, mask


def _generation_eos(folder: pathlib.Path) -> tuple[int, ...]:
  path = folder / "generation_config.json"
  if not path.is_file():
    return ()
  eos = json.loads(path.read_text()).get("eos_token_id")
  if eos is None:
    return ()
  return tuple(eos) if isinstance(eos, list) else (eos,)
