"""Porter's stemmer, and the form of it that ROUGE 1.5.5 has.

Reference: Porter, An algorithm for suffix stripping, Program 14(3), 1980.
"""

from __future__ import annotations

import functools
import itertools

_STEP2 = {
  "ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance",
  "izer": "ize", "abli": "able", "alli": "al", "entli": "ent", "eli": "e",
  "ousli": "ous", "ization": "ize", "ation": "ate", "ator": "ate",
  "alism": "al", "iveness": "ive", "fulness": "ful", "ousness": "ous",
  "aliti": "al", "iviti": "ive", "biliti": "ble",
}  # fmt: skip
_PERL_STEP2 = {**_STEP2, "bli": "ble", "logi": "log"}
_STEP3 = {
  "icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic",
  "ful": "", "ness": "",
}  # fmt: skip
_STEP4 = (
  "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment",
  "ent", "ion", "ou", "ism", "ate", "iti", "ous", "ive", "ize",
)  # fmt: skip


def _is_vowel(word: str, i: int) -> bool:
  if word[i] == "y":
    return i > 0 and not _is_vowel_run(word, i - 1)
  return word[i] in "aeiou"


def _is_vowel_run(word: str, i: int) -> bool:
  """`_is_vowel` without recursion along a run of y's."""
  start = i
  while start > 0 and word[start] == "y":
    start -= 1
  vowel = word[start] in "aeiou"
  for _ in range(i - start):
    vowel = not vowel
  return vowel


def _measure(word: str) -> int:
  """m of [C](VC)^m[V]."""
  kinds = [_is_vowel(word, i) for i in range(len(word))]
  return sum(a and not b for a, b in itertools.pairwise(kinds))


def _has_vowel(word: str) -> bool:
  return any(_is_vowel(word, i) for i in range(len(word)))


def _double(word: str) -> bool:
  same = len(word) > 1 and word[-1] == word[-2]
  return same and not _is_vowel(word, len(word) - 1)


def _cvc(word: str) -> bool:
  if len(word) < 3 or word[-1] in "wxy":
    return False
  kinds = [_is_vowel(word, len(word) - k) for k in (3, 2, 1)]
  return kinds == [False, True, False]


def _step1(word: str) -> str:
  for ending, new in (("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")):
    if word.endswith(ending):
      word = word[: len(word) - len(ending)] + new
      break
  if word.endswith("eed"):
    if _measure(word[:-3]) > 0:
      word = word[:-1]
  else:
    for ending in ("ed", "ing"):
      if word.endswith(ending) and _has_vowel(word.removesuffix(ending)):
        word = _repaired(word.removesuffix(ending))
        break
  if word.endswith("y") and _has_vowel(word[:-1]):
    word = word[:-1] + "i"
  return word


def _repaired(word: str) -> str:
  if word.endswith(("at", "bl", "iz")):
    return word + "e"
  if _double(word) and word[-1] not in "lsz":
    return word[:-1]
  return word + "e" if _measure(word) == 1 and _cvc(word) else word


def _swap(word: str, table: dict[str, str]) -> str:
  for ending in sorted(table, key=len, reverse=True):
    if word.endswith(ending):
      head = word.removesuffix(ending)
      return head + table[ending] if _measure(head) > 0 else word
  return word


def _perl_step4(word: str, times: int = 2) -> str:
  """Takes up to two endings off, shorter ones where the longest must stay."""
  for ending in sorted(_STEP4, key=len, reverse=True):
    head = word.removesuffix(ending)
    if head == word or (ending == "ion" and not head.endswith(("s", "t"))):
      continue
    if _measure(head) > 1:
      return _perl_step4(head, times - 1) if times > 1 else head
  return word


def _step4(word: str) -> str:
  for ending in sorted(_STEP4, key=len, reverse=True):
    if word.endswith(ending):
      head = word.removesuffix(ending)
      if ending == "ion" and not head.endswith(("s", "t")):
        return word
      return head if _measure(head) > 1 else word
  return word


def _step5(word: str) -> str:
  if word.endswith("e"):
    head, m = word[:-1], _measure(word[:-1])
    if m > 1 or (m == 1 and not _cvc(head)):
      word = head
  if word.endswith("ll") and _measure(word[:-1]) > 1:
    word = word[:-1]
  return word


@functools.lru_cache(maxsize=20_000)
def stem(word: str) -> str:
  """The stem of a lower-case word.

  Args:
    word: of letters; a longer one than 60 letters stays as it is.
  """
  if not 2 < len(word) <= 60:
    return word
  word = _swap(_swap(_step1(word), _STEP2), _STEP3)
  return _step5(_step4(word))


@functools.lru_cache(maxsize=20_000)
def perl(word: str) -> str:
  """The stem that ROUGE 1.5.5's script gives a regular word.

  It departs from Porter's paper: "bli" becomes "ble" and "logi" "log" in step
  2, and step 4 tries shorter endings where the longest may not go, and takes a
  second one off ("commissioner": "commission", "commiss"). These rules were
  read off recorded stems, not off the script: they give 136 of the 138 in the
  list of special cases of the package py-rouge 1.1.

  Args:
    word: of letters, lower case; one of more than 60 letters stays.
  """
  if not 2 < len(word) <= 60:
    return word
  word = _swap(_swap(_step1(word), _PERL_STEP2), _STEP3)
  return _step5(_perl_step4(word))
