"""A tokenizer of whole words, for worlds with a small vocabulary."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from rlreward.errors import UserError
from rlreward.tasks.chat import UNKNOWN, head, no_template

FILE = "word_tokenizer.json"


class WordTokenizer:
  """One id per word: pad, eos, then the words; blanks stand between them.

  Args:
    words: distinct, none empty or with a blank inside.

  Raises:
    UserError: words that cannot be told apart.
  """

  def __init__(self, words: Sequence[str]):
    self.words = tuple(words)
    bad = [w for w in self.words if w.split() != [w]]
    twice = sorted({w for w in self.words if self.words.count(w) > 1})
    if not self.words or bad or twice:
      raise UserError(
        f"a vocabulary of {len(self.words)} words, of them {bad} with a blank"
        f" or empty and {twice} twice",
        "text is split at blanks, and every word needs exactly one id",
        "list each word once, without blanks",
      )
    self.name = f"words:{head(' '.join(self.words))}"
    self.has_chat = self.adds_bos = False
    self.pad_id = 0
    self.eos_ids: tuple[int, ...] = (1,)
    self.bos_id: int | None = None
    self._ids = {w: i for i, w in enumerate(self.words, 2)}
    self.vocab_size = 2 + len(self.words)

  def encode(self, text: str, bos: bool = False) -> list[int]:
    """One id per word.

    Args:
      text: words of the vocabulary with blanks between them.
      bos: there is none.

    Raises:
      UserError: another word.
    """
    del bos
    ids = []
    for place, word in enumerate(text.split()):
      if word not in self._ids:
        raise UserError(
          f"word {word!r} at {place} of {head(text)} has no id",
          f"the vocabulary is {' '.join(self.words)!r}",
          "write the text in these words or extend the vocabulary",
        )
      ids.append(self._ids[word])
    return ids

  def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
    """The words of ids; ids past the vocabulary become U+FFFD.

    Raises:
      UserError: a negative id.
    """
    out = []
    for i in map(int, ids):
      if i < 0:
        raise UserError(
          f"id {i} is negative",
          "ids count from 0; masked slots must be left out by their mask",
          "decode ids[mask]",
        )
      if i >= self.vocab_size:
        out.append(UNKNOWN)
      elif i >= 2:
        out.append(self.words[i - 2])
      elif not skip_special:
        out.append(("<pad>", "<eos>")[i])
    return " ".join(out)

  def chat(self, messages: Any) -> list[int]:
    """Always raises: words have no chat form."""
    raise no_template(self.name)

  def chat_with_mask(self, messages: Any) -> tuple[list[int], list[bool]]:
    """Always raises: words have no chat form."""
    raise no_template(self.name)

  def save(self, directory: Any) -> None:
    """Writes `word_tokenizer.json` for `tokens.load`."""
    folder = pathlib.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps({"words": self.words}) + "\n")
