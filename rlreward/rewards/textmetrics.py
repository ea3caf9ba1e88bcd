"""Text against references: ROUGE, SARI, and BLEU and chrF through sacrebleu.

Every value is in [0, 1]. ROUGE and SARI are our own, from their papers; BLEU
and chrF are sacrebleu's (the `text` extra), so that a number means what it
means elsewhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlreward.errors import UserError
from rlreward.rewards import irregular, stem

MOST_WORDS = 4000  # of a text; the LCS is quadratic
_WORD = re.compile(r"[a-z0-9]+")
Stemmed = bool | Mapping[str, str]


class Prf(NamedTuple):
  """Precision, recall and their harmonic mean."""

  precision: float
  recall: float
  f1: float


def words(text: str, stemmed: Stemmed = False) -> list[str]:
  """Words as ROUGE counts them: lower case, letters and digits.

  Args:
    text: any.
    stemmed: as ROUGE 1.5.5 does words of more than three letters: irregular
      forms to their base, the others by its stemmer. A mapping has the
      irregular forms, see `irregular.read`; True takes the common ones.
  """
  found = _WORD.findall(text.lower())[:MOST_WORDS]
  if stemmed is False:
    return found
  listed = None if stemmed is True else stemmed
  base = lambda w: irregular.base(w, listed) or stem.perl(w)
  return [base(w) if len(w) > 3 else w for w in found]


def grams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
  """Counts of n-grams.

  Args:
    tokens: of a text.
    n: size.
  """
  return Counter(zip(*(tokens[k:] for k in range(n)), strict=False))


def _prf(shared: float, candidate: float, reference: float) -> Prf:
  p = shared / candidate if candidate else 0.0
  r = shared / reference if reference else 0.0
  return Prf(p, r, 2 * p * r / (p + r) if p + r else 0.0)


def rouge_n(
  candidate: str, reference: str, n: int = 1, stemmed: Stemmed = False
) -> Prf:
  """Overlap of n-grams.

    recall = |C n R| / |R|, precision = |C n R| / |C|, as multisets

  Args:
    candidate: text that is judged.
    reference: right one.
    n: size of the n-grams.
    stemmed: see `words`.

  Reference: Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004.
  """
  c, r = (
    grams(words(candidate, stemmed), n),
    grams(words(reference, stemmed), n),
  )
  return _prf((c & r).total(), c.total(), r.total())


def rouge_l(
  candidate: str | Sequence[str],
  reference: str | Sequence[str],
  stemmed: Stemmed = False,
) -> Prf:
  """Longest common subsequence, over sentences where lists are given.

  With lists, the subsequences of each reference sentence with all candidate
  sentences are united, and no word of the candidate counts more often than it
  stands there (as in ROUGE 1.5.5).

  Args:
    candidate: a text, or its sentences.
    reference: a text, or its sentences.
    stemmed: see `words`.

  Reference: Lin, 2004, sections 3.1 and 3.2.
  """
  listed = lambda x: [x] if isinstance(x, str) else list(x)
  cs = [words(s, stemmed) for s in listed(candidate)]
  rs = [words(s, stemmed) for s in listed(reference)]
  size = lambda rows: sum(map(len, rows))
  if size(cs) * size(rs) > MOST_WORDS**2:
    raise UserError(
      f"texts of {size(cs)} and {size(rs)} words",
      "the longest common subsequence takes their product",
      "cut them, or use rouge_n",
    )
  left_c, left_r = Counter(w for s in cs for w in s), Counter()
  left_r.update(w for s in rs for w in s)
  hits = 0
  for r in rs:
    union: set[int] = set()
    for c in cs:
      union |= _lcs(r, c)
    for i in sorted(union):
      if left_c[r[i]] > 0 and left_r[r[i]] > 0:
        hits += 1
        left_c[r[i]] -= 1
        left_r[r[i]] -= 1
  return _prf(hits, size(cs), size(rs))


def _lcs(a: Sequence[str], b: Sequence[str]) -> set[int]:
  """Places in `a` of one longest common subsequence with `b`."""
  table = [[0] * (len(b) + 1)]
  for x in a:
    last, row = table[-1], [0]
    for j, y in enumerate(b):
      row.append(last[j] + 1 if x == y else max(last[j + 1], row[j]))
    table.append(row)
  out, i, j = set(), len(a), len(b)
  while i and j:
    if a[i - 1] == b[j - 1]:
      out.add(i - 1)
      i, j = i - 1, j - 1
    elif table[i - 1][j] >= table[i][j - 1]:
      i -= 1
    else:
      j -= 1
  return out


class Sari(NamedTuple):
  """SARI and the three scores that it is the mean of."""

  sari: float
  keep: float
  add: float
  delete: float


def sari(
  source: str, candidate: str, references: Sequence[str], most: int = 4
) -> Sari:
  """Words kept, added and deleted as the references do.

    SARI = (F_keep + F_add + P_delete) / 3, each the mean over n = 1 ... 4

  Counts of the source and the candidate are taken once for each reference, so
  that an n-gram kept by half of them is half right.

  Args:
    source: text that was simplified.
    candidate: what the policy made of it.
    references: right simplifications, one or more.
    most: largest n.

  Raises:
    UserError: no references.

  Reference: Xu et al., Optimizing Statistical Machine Translation for Text
  Simplification, TACL 2016. Recall of what is kept is over all kept n-grams,
  as in the corrected public implementations. Where nothing was deleted the
  score of deletion is 1 if no reference deletes either, else 0.
  """
  if not references:
    raise UserError(
      "SARI without references",
      "it compares what was kept, added and deleted with theirs",
      "give at least one reference",
    )
  spread = [tokens(t) for t in (source, candidate, *references)]
  parts = [_sari_n(spread[0], spread[1], spread[2:], n)
           for n in range(1, most + 1)]  # fmt: skip
  keep, add, delete = (sum(p) / most for p in zip(*parts, strict=True))
  return Sari((keep + add + delete) / 3, keep, add, delete)


def tokens(text: str) -> list[str]:
  """Words and punctuation signs, lower case."""
  return re.findall(r"\w+(?:[.,]\d+)*|[^\w\s]", text.lower())[:MOST_WORDS]


def _sari_n(source, candidate, references, n) -> tuple[float, float, float]:
  size = len(references)
  times = lambda c: Counter({g: k * size for g, k in c.items()})
  s, c = grams(source, n), grams(candidate, n)
  r: Counter = Counter()
  for reference in references:
    r.update(grams(reference, n))
  big_s, big_c = times(s), times(c)
  kept, right = big_s & big_c, big_s & r
  good = kept & r
  p = _mean(good[g] / kept[g] for g in kept)
  q = good.total() / right.total() if right else 1.0
  keep = 2 * p * q / (p + q) if p + q else 0.0
  gone = big_s - big_c
  # Public implementations give 1 where nothing was deleted, and so pay for a
  # copy of the source; here that is right only if no reference deletes either.
  delete = _mean((gone - r)[g] / gone[g] for g in gone)
  if not gone:
    delete = float(not big_s - r)
  new, wanted = set(c) - set(s), set(r) - set(s)
  found = len(new & set(r))
  p = found / len(new) if new else 1.0
  q = found / len(wanted) if wanted else 1.0
  add = 2 * p * q / (p + q) if p + q else 0.0
  return keep, add, delete


def _mean(values) -> float:
  found = list(values)
  return sum(found) / len(found) if found else 1.0


def bleu(candidate: str, references: Sequence[str], most: int = 4) -> float:
  """Sentence BLEU of sacrebleu, with exponential smoothing.

  Args:
    candidate: text that is judged.
    references: right ones.
    most: largest n; 1 is BLEU-1.

  Raises:
    UserError: sacrebleu is not installed.
  """
  metric = _sacrebleu().BLEU(effective_order=True, max_ngram_order=most)
  return _share(metric.sentence_score(candidate, list(references)).score)


def chrf(
  candidate: str, references: Sequence[str], word_order: int = 0
) -> float:
  """chrF of sacrebleu; chrF++ with word_order=2.

  Args:
    candidate: text that is judged.
    references: right ones.
    word_order: largest n of words beside those of letters.

  Raises:
    UserError: sacrebleu is not installed.
  """
  metric = _sacrebleu().CHRF(word_order=word_order)
  return _share(metric.sentence_score(candidate, list(references)).score)


def _share(percent: float) -> float:
  return min(max(percent / 100, 0.0), 1.0)


def _sacrebleu() -> Any:
  try:
    from sacrebleu import metrics
  except ImportError as error:
    raise UserError(
      "sacrebleu is not installed",
      "BLEU and chrF are its numbers",
      "pip install 'rlreward[text]'",
    ) from error
  return metrics
