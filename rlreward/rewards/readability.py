"""Readability of English text, by published formulas of counts.

Syllables are counted by rule (groups of vowels, silent e), not by a dictionary,
and some words are counted wrong. The formulas take counts, and work on arrays.
"""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

MOST_TEXT = 50_000
_WORD = re.compile(r"[A-Za-z]+(?:['\u2019][A-Za-z]+)*")
_END = re.compile(r"[.!?]+(?=[\s\"'\u201d)\]]|$)")
_VOWELS = re.compile(r"[aeiouy]+")


class Counts(NamedTuple):
  """What the formulas need of a text; every one at least 1 but `complex`.

  Attributes:
    sentences: ends of sentences.
    words: of letters.
    syllables: in all words.
    letters: in all words.
    complex: words of three or more syllables.
  """

  sentences: Any
  words: Any
  syllables: Any
  letters: Any
  complex: Any


def counts(text: str) -> Counts | None:
  """Counts of a text; None where it has no word.

  Args:
    text: English.
  """
  text = text[:MOST_TEXT]
  found = _WORD.findall(text)
  if not found:
    return None
  each = [syllables(w) for w in found]
  ends = [m for m in _END.finditer(text)]
  sentences = len(ends)
  tail = text[ends[-1].end() :] if ends else text
  sentences += bool(_WORD.search(tail))
  letters = sum(c.isalpha() for w in found for c in w)
  return Counts(
    max(sentences, 1), len(found), sum(each), letters, sum(n > 2 for n in each)
  )


@functools.lru_cache(maxsize=20_000)
def syllables(word: str) -> int:
  """Syllables of a word, by rule; at least 1.

  Args:
    word: English.
  """
  w = re.sub(r"[^a-z]", "", word.lower())[:60]
  if len(w) <= 3:
    return 1
  n = len(_VOWELS.findall(w))
  silent = re.search(r"[^aeiouy]e$|[^aeiouytd]ed$|[^aeiouyscxzgh]es$", w)
  if silent and not re.search(r"[^aeiouy]le$|[^aeiouy]les$", w):
    n -= 1
  # Vowels side by side that are spoken apart, and those that look so.
  n += len(re.findall(r"i[ao](?!u)|(?<![tscgx])iou|(?<!p)eo|ism$", w))
  n += len(re.findall(r"(?<![qg])ua|[aeouy]ing$|creat(?!u)|[^qg]ue(?=[nl])", w))
  n += len(re.findall(r"[aeiouy].*[^aeiouy]ea$", w))
  n -= len(re.findall(r"(?:[tscg]|ll)io(?!u)|[tc]ia|eous|eon", w))
  return max(n, 1)


def flesch(c: Counts) -> Any:
  """206.835 - 1.015 W / S - 84.6 Y / W; high is easy.

  Args:
    c: S sentences, W words, Y syllables.

  Reference: Flesch, A new readability yardstick, 1948.
  """
  return 206.835 - 1.015 * c.words / c.sentences - 84.6 * c.syllables / c.words


def fkgl(c: Counts) -> Any:
  """0.39 W / S + 11.8 Y / W - 15.59, a school grade.

  Args:
    c: see `flesch`.

  Reference: Kincaid et al., 1975.
  """
  return 0.39 * c.words / c.sentences + 11.8 * c.syllables / c.words - 15.59


def gunning_fog(c: Counts) -> Any:
  """0.4 (W / S + 100 X / W), X complex words.

  Args:
    c: see `Counts`.

  Reference: Gunning, The Technique of Clear Writing, 1952. Names and common
  endings are not left out of X.
  """
  return 0.4 * (c.words / c.sentences + 100 * c.complex / c.words)


def smog(c: Counts) -> Any:
  """1.0430 sqrt(30 X / S) + 3.1291.

  Args:
    c: see `Counts`; meant for 30 sentences or more.

  Reference: McLaughlin, SMOG grading, 1969.
  """
  return 1.0430 * (30 * c.complex / c.sentences) ** 0.5 + 3.1291


def ari(c: Counts) -> Any:
  """4.71 L / W + 0.5 W / S - 21.43, L letters.

  Args:
    c: see `Counts`.

  Reference: Smith and Senter, Automated Readability Index, 1967.
  """
  return 4.71 * c.letters / c.words + 0.5 * c.words / c.sentences - 21.43


def coleman_liau(c: Counts) -> Any:
  """0.0588 (100 L / W) - 0.296 (100 S / W) - 15.8.

  Args:
    c: see `Counts`.

  Reference: Coleman and Liau, 1975.
  """
  return 5.88 * c.letters / c.words - 29.6 * c.sentences / c.words - 15.8


FORMULAS = {
  "flesch": flesch,
  "fkgl": fkgl,
  "gunning_fog": gunning_fog,
  "smog": smog,
  "ari": ari,
  "coleman_liau": coleman_liau,
}
