"""Whether an answer equals the gold one: value and status, never a silent 0.

`decide` is our own matcher: exact, bounded, in this process. What it does not
know is asked of math-verify (the `math` extra) in worker processes that are
killed at their time limit, because sympy can run for hours on one line.

  status   value   when
  ok       1       equal
  wrong    0       not equal, or no answer was given
  timeout  None    killed at its limit: no reward, not a reward of 0
  error    None    the checker failed, or there is no gold answer
  abstain  None    the gold answer is not understood
"""

from __future__ import annotations

import functools
import importlib.util
import unicodedata
from collections.abc import Sequence
from typing import Any

from rlreward.errors import UserError
from rlreward.rewards import answers, equality, forms
from rlreward.rewards.workers import Outcome, Workers

ENGINES = ("both", "strict", "math_verify")
ASK = "rlreward.rewards.grade:ask"


class _Options:
  """What a grading shares."""

  def __init__(self, engine, tolerance, timeout, workers, marks, whole):
    self.engine, self.tolerance, self.timeout = engine, tolerance, timeout
    self.workers, self.marks, self.whole = workers, marks, whole


def grade(text: str, gold: Any, **options: Any) -> tuple[float | None, str]:
  """(value, status) of one text; see `grade_all` for the options.

  Args:
    text: of the policy.
    gold: the right answer, or a solution that marks it.
    **options: of `grade_all`.
  """
  return grade_all([text], [gold], **options)[0]


def grade_all(
  texts: Sequence[str],
  golds: Sequence[Any],
  *,
  engine: str = "both",
  tolerance: float = 0.0,
  timeout: float = 10.0,
  workers: int = 2,
  marks: Sequence[str] = answers.MARKS,
  whole: bool = False,
) -> list[tuple[float | None, str]]:
  """Grades many texts, those that need math-verify at the same time.

  Args:
    texts: of the policy.
    golds: right answers, one for each text: a text or a number; a list of them
      is a set of right answers of which one is enough.
    engine: "both" asks math-verify what our matcher leaves open; "strict" never
      asks it; "math_verify" asks it everything.
    tolerance: relative, of numbers; 0 is exact.
    timeout: seconds of a question to math-verify.
    workers: processes that run it.
    marks: see `answers.extract_answer`.
    whole: a text without a mark is itself the answer.

  Returns:
    (value, status) of each; see the module.

  Raises:
    UserError: options that cannot be, or math-verify asked for and not there.
  """
  _check(texts, golds, engine, tolerance)
  o = _Options(engine, tolerance, timeout, workers, tuple(marks), whole)
  out: list[tuple[float | None, str] | None] = []
  asked: list[tuple[int, str, str, bool]] = []
  for i, (text, gold) in enumerate(zip(texts, golds, strict=True)):
    verdict, questions = _first(text, gold, o)
    out.append(verdict)
    asked += [(i, *q) for q in questions]
  if asked:
    _ask_all(asked, out, o)
  return [v if v is not None else (None, "abstain") for v in out]


def same(answer: str, gold: Any, **options: Any) -> tuple[float | None, str]:
  """(value, status) of a bare answer, without looking for a mark.

  Args:
    answer: as `extract_answer` gives it.
    gold: the right answer.
    **options: of `grade_all`.
  """
  return grade(answer, gold, **{**options, "whole": True, "marks": ()})


def decide(answer: str, gold: str, tolerance: float = 0.0) -> bool | None:
  """Our matcher: True, False, or None where it does not know.

  Args:
    answer: of the policy.
    gold: the right answer.
    tolerance: relative, of numbers.
  """
  return equality.same(answer, gold, tolerance)


def _first(text: str, gold: Any, o: _Options):
  """(verdict or None, questions to math-verify)."""
  rights = gold_answers(gold)
  if not rights:
    return (None, "error"), []
  answer = answers.extract_answer(text, o.marks) if o.marks else None
  if answer is None and o.whole:
    answer = text.strip()[: answers.MOST_ANSWER + 1]
  if not answer or len(answer) > answers.MOST_ANSWER:
    return (0.0, "wrong"), []
  if o.engine == "math_verify":
    return None, [(answer, right, False) for right in rights]
  found = [equality.same(answer, r, o.tolerance) for r in rights]
  if any(f is True for f in found):
    return (1.0, "ok"), []
  if all(f is False for f in found):
    return (0.0, "wrong"), []
  left = [r for r, f in zip(rights, found, strict=True) if f is None]
  if o.engine == "both" and has_math_verify():
    return None, [(answer, right, forms.understood(right)) for right in left]
  # The gold is understood and the answer is not: it is not written as one.
  known = all(forms.understood(r) for r in left)
  return ((0.0, "wrong") if known else (None, "abstain")), []


def gold_answers(gold: Any) -> list[str]:
  """Right answers: of a text with marks what they mark, else all of it.

  Args:
    gold: text, number, or a list of them.
  """
  if isinstance(gold, list | tuple | set | frozenset):
    return [a for g in gold for a in gold_answers(g)]
  if gold is None or gold != gold or isinstance(gold, bytes):
    return []
  text = str(gold).strip()
  marked = answers.extract_answer(text, ("tag", "boxed", "hash"))
  emptied = marked is None and ("\\boxed" in text or "####" in text)
  found = None if emptied else marked or answers.cleaned(text)
  return [found] if found else []


def ask(answer: str, gold: str, tolerance: float = 0.0) -> bool | None:
  """What math-verify says; runs in a worker.

  Args:
    answer: of the policy.
    gold: the right answer.
    tolerance: relative; above 0 numbers are compared by it.

  Returns:
    None where it does not understand the gold.
  """
  from math_verify import parse, verify

  # No time limits of its own: they need signals, and the worker is killed.
  limits: dict[str, Any] = {"parsing_timeout": None, "raise_on_error": True}
  read = functools.partial(parse, **limits)
  right = read(f"\\boxed{{{gold}}}")
  if not right:
    return None
  given = read(f"\\boxed{{{unicodedata.normalize('NFKC', answer)}}}")
  if not given:
    return False
  if tolerance:
    near = _near(given, right, tolerance)
    if near is not None:
      return near
  found = verify(right, given, timeout_seconds=None, raise_on_error=True)
  return bool(found)


def _near(given: list, right: list, tolerance: float) -> bool | None:
  try:
    x, y = float(given[0]), float(right[0])
  except (TypeError, ValueError, IndexError):
    return None
  return abs(x - y) <= tolerance * abs(y)


def _ask_all(asked, out: list, o: _Options) -> None:
  """Asks math-verify; the best verdict of a text's right answers counts."""
  jobs = [(answer, gold, o.tolerance) for _, answer, gold, _ in asked]
  outcomes = pool(o.workers, o.timeout).map(ASK, jobs)
  for (i, _, _, known), outcome in zip(asked, outcomes, strict=True):
    verdict = _verdict(outcome, known)
    if out[i] is None or _RANK[verdict[1]] > _RANK[out[i][1]]:
      out[i] = verdict


_RANK = {"wrong": 0, "abstain": 1, "error": 2, "timeout": 3, "ok": 4}


def _verdict(outcome: Outcome, known: bool) -> tuple[float | None, str]:
  """The verdict of one answer by math-verify.

  A gold that our matcher reads is a fair one, so an answer on which
  math-verify only fails to parse is wrong.
  """
  if outcome.status in ("ok", "wrong"):
    return float(outcome.status == "ok"), outcome.status
  if outcome.status == "abstain" and known:
    return 0.0, "wrong"
  return None, outcome.status


@functools.lru_cache(maxsize=4)
def pool(count: int, timeout: float, memory_mb: int = 2048) -> Workers:
  """The processes that run math-verify, shared by all with these limits.

  Args:
    count: processes.
    timeout: seconds of a question.
    memory_mb: address space of a process.
  """
  return Workers(count, timeout, memory_mb)


@functools.cache
def has_math_verify() -> bool:
  """Whether the `math` extra is installed."""
  return importlib.util.find_spec("math_verify") is not None


def _check(texts, golds, engine, tolerance) -> None:
  if len(texts) != len(golds):
    raise UserError(
      f"{len(texts)} texts and {len(golds)} gold answers",
      "each text is compared with its own",
      "give one gold answer for each text",
    )
  if engine not in ENGINES:
    raise UserError(
      f"engine={engine!r}",
      "it is what decides whether two answers are equal",
      f"choose one of {', '.join(ENGINES)}",
    )
  if engine == "math_verify" and not has_math_verify():
    raise UserError(
      "engine='math_verify', and math_verify is not installed",
      "it compares what our own matcher does not know",
      "pip install 'rlreward[math]', or use engine='strict'",
    )
  if not 0 <= tolerance < 1:
    raise UserError(
      f"tolerance={tolerance!r}",
      "it is a share of the gold number",
      "use 0 for exact equality, or a number such as 0.01",
    )
