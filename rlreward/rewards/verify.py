r"""Rewards that check an answer: the names for `task.rewards`.

  verify:math           the marked answer equals the column `answer`
  verify:math_strict    the same without math-verify
  verify:boxed          there is an answer in \boxed{}, right or wrong
  verify:choice         the letter of the choice
  verify:exact          the marked answer is the same text
  verify:think_answer   <think>..</think> and <answer>..</answer>, and no more
  verify:tags           share of these four tags that stand there once
  verify:thought        a <think> that is closed stands somewhere in it
  verify:readable       a tag or box marks an answer that can be read
  verify:tool_call      the calls are those of `answer`, in any order
  verify:toolrl         ToolRL's format and graded correctness, in [-3, 4]
  verify:bfcl           the calls are among BFCL's accepted ones
  verify:json           the answer is JSON
  verify:repetition     -(1 - distinct trigrams / trigrams)
  verify:reasoning      distinct phrases of reasoning over 40 (RPR), 0 without
                        a marked answer; verify:answered is whether there is one
  verify:rouge_l, verify:bleu, verify:chrf, verify:sari      against references
  verify:fkgl           minus the school grade, and `flesch`

`answer` is the right answer of a row; text metrics take a text or a list of
them, and `sari` the column `source` too. Other options: `math_reward(...)`,
`format_reward(...)` and `text_reward(...)` in a file of your own. What could
not be judged has no reward; it is never a reward of 0.
"""

from __future__ import annotations

import json as jsons
from collections.abc import Mapping, Sequence
from typing import Any

from rlreward.errors import UserError
from rlreward.rewards import (
  answers,
  calls,
  forms,
  phrases,
  readability,
  textmetrics,
  values,
)
from rlreward.rewards import (
  grade as grading,
)
from rlreward.rewards import (
  tags as formats,
)
from rlreward.rewards.answers import extract_answer
from rlreward.rewards.function import RewardFunction, reward
from rlreward.rewards.grade import grade, grade_all, same
from rlreward.rewards.values import Unjudged

__all__ = ["extract_answer", "grade", "grade_all", "same"]


def judgement(
  verdict: tuple[float | None, str], late: float | None = None
) -> Any:
  """What a reward function returns for a verdict of `grade`.

  Args:
    verdict: (value, status).
    late: reward of a sample that ran out of time; None leaves it out.
  """
  value, status = verdict
  if status == "timeout":
    return (
      Unjudged(values.TIMEOUT, "killed at its time limit")
      if (late is None)
      else late
    )
  if status == "error":
    return Unjudged(values.ERROR, "the checker failed, or no gold answer")
  return value


def math_reward(
  *, name: str = "math", late: float | None = None, **options: Any
) -> RewardFunction:
  """A reward of 1 for the right answer; see `grade.grade_all` for options.

  Args:
    name: of the component.
    late: see `judgement`.
    **options: engine, tolerance, timeout, workers, marks, whole.

  Raises:
    UserError: options that cannot be.
  """
  grading.grade_all([], [], **options)

  def judge(completion: Sequence[str], answer: Sequence[Any]) -> list[Any]:
    found = grading.grade_all(completion, answer, **options)
    return [judgement(v, late) for v in found]

  judge.__qualname__ = judge.__name__ = name
  return reward(judge, batched=True, name=name, on_error="abstain")


def format_reward(
  spec: str,
  *,
  name: str = "format",
  prefilled: bool = False,
  empty: bool = False,
  share: bool = False,
) -> RewardFunction:
  """A reward of 1 for text of a format, see `tags.compile`.

  Args:
    spec: such as "think answer".
    name: of the component.
    prefilled: the chat template has written the first tag for the model. None
      of the rewards guesses it: see `Sample.prompt_tail`.
    empty: whether blocks may be empty.
    share: partial credit, the share of the tags that stand there once.

  Raises:
    UserError: a spec that cannot be read.
  """
  form = formats.compile(spec, empty)

  def judge(completion: str) -> float:
    if share:
      return form.share(completion)
    return float(form.accepts(completion, prefilled))

  judge.__qualname__ = judge.__name__ = name
  return reward(judge, name=name)


def _listed(answer: Any) -> list[str]:
  return [answer] if isinstance(answer, str) else [str(a) for a in answer]


def _gold_calls(answer: Any) -> list[calls.Call] | Unjudged:
  """The right calls of a row, or why there are none."""
  if not isinstance(answer, str):
    answer = jsons.dumps(answer)
  try:
    return calls.parse(answer)
  except calls.BadCallError as error:
    return Unjudged(values.ERROR, f"the gold calls: {error}")


math = math_reward()
math_strict = math_reward(name="math_strict", engine="strict")
think_answer = format_reward("think answer", name="think_answer")
tags = format_reward("think answer", name="tags", share=True)


@reward
def boxed(completion: str) -> float:
  """1 where the text ends its thought and has an answer in a box."""
  return float(extract_answer(completion, ("boxed",)) is not None)


@reward
def thought(completion: str) -> float:
  """1 where a <think> is closed by a </think>, wherever they stand."""
  begun = completion.find("<think>")
  return float(begun >= 0 and "</think>" in completion[begun:])


@reward
def readable(completion: str) -> float:
  """1 where an answer is marked that our matcher can read, right or wrong."""
  found = extract_answer(completion, ("tag", "boxed"))
  return float(bool(found) and forms.understood(found or ""))


@reward
def choice(completion: str, answer: str) -> float | None:
  """1 where the marked answer is the right letter; see `answers`."""
  gold = forms.letter(str(answer))
  if gold is None:
    return None
  found = extract_answer(completion)
  letter = forms.letter(found) if found else None
  return float(letter == gold)


@reward
def exact(completion: str, answer: Any) -> float:
  """1 where the marked answer is the same text, but for setting and case."""
  found = extract_answer(completion)
  if not found:
    return 0.0
  squeeze = lambda text: forms.squeezed(text).casefold()
  return float(any(squeeze(found) == squeeze(a) for a in _listed(answer)))


@reward(on_error="abstain")
def tool_call(completion: str, answer: Any) -> Any:
  """1 where the calls are the right ones, in any order, else 0."""
  gold = _gold_calls(answer)
  if isinstance(gold, Unjudged):
    return gold
  try:
    return float(calls.same(calls.parse(completion), gold))
  except calls.BadCallError:
    return 0.0


@reward(on_error="abstain")
def toolrl(completion: str, answer: str) -> Any:
  """ToolRL's reward: a format of 0 or 1 and a correctness in [-3, 3]."""
  from rlreward.rewards import toolrl as paper

  gold = _gold_calls(answer)
  if isinstance(gold, Unjudged):
    return gold
  form = paper.format_score(completion, answer)
  return {"format": form, "correct": paper.correctness(completion, answer)}


@reward(on_error="abstain")
def bfcl(completion: str, answer: Any) -> Any:
  """1 where each call is one of the accepted ones, in any order, else 0."""
  gold = jsons.loads(answer) if isinstance(answer, str) else answer
  if not isinstance(gold, list) or not all(
    isinstance(g, Mapping) and len(g) == 1 for g in gold
  ):
    return Unjudged(values.ERROR, "the gold is no list of accepted calls")
  try:
    return float(calls.accepted(calls.parse(completion), gold))
  except calls.BadCallError:
    return 0.0


@reward
def json(completion: str) -> float:
  """1 where what stands in <answer>, or all of the text, is one JSON value."""
  text = answers.spoken(completion)
  if "</answer>" in text:
    text = text.rpartition("</answer>")[0].rpartition("<answer>")[2]
  if len(text) > calls.MOST_TEXT:
    return 0.0
  try:
    calls.loads(text)
  except calls.BadCallError:
    return 0.0
  return 1.0


@reward
def repetition(completion: str) -> float:
  """-(1 - distinct trigrams / trigrams) of words; 0 where none is repeated."""
  return phrases.repetition(completion) - 1.0


@reward
def answered(completion: str) -> float:
  """1 where an answer is marked, right or wrong."""
  return float(bool(extract_answer(completion)))


def reasoning_reward(
  *, c: float = 40.0, name: str = "reasoning"
) -> RewardFunction:
  """RPR of all that the policy wrote, see `phrases.reward`.

  Args:
    c: 40 in the paper's text, 20 in its authors' code.
    name: of the component.

  Raises:
    UserError: c that cannot be.
  """
  if not c > 0:
    raise UserError(
      f"c={c} of the reasoning reward",
      "phrases are counted as shares of it",
      "use c=40, the paper's, or c=20, its code's",
    )

  def judge(completion: str) -> float:
    marked = bool(extract_answer(completion))
    return phrases.reward(completion, c=c, answered=marked)

  judge.__qualname__ = judge.__name__ = name
  return reward(judge, name=name)


reasoning = reasoning_reward()


def text_reward(
  metric: str, *, name: str | None = None, scale: float = 1.0
) -> RewardFunction:
  """A reward of a text metric against the column `answer`.

  Args:
    metric: "rouge_1", "rouge_2", "rouge_l", "bleu", "bleu_1", "chrf"; the
      best of several references counts for ROUGE.
    name: of the component; the metric's if None.
    scale: of the value, which is in [0, 1].

  Raises:
    UserError: an unknown metric.
  """
  if metric not in _METRICS:
    raise UserError(
      f"text metric {metric!r}",
      "it compares an answer with references",
      f"choose one of {', '.join(_METRICS)}",
    )

  def judge(completion: str, answer: Any) -> float | None:
    references = _listed(answer)
    if not references:
      return None
    return scale * _METRICS[metric](completion, references)

  judge.__qualname__ = judge.__name__ = name or metric
  return reward(judge, name=name or metric)


def _best(score):
  return lambda text, references: max(score(text, r).f1 for r in references)


_METRICS = {
  "rouge_1": _best(lambda t, r: textmetrics.rouge_n(t, r, 1)),
  "rouge_2": _best(lambda t, r: textmetrics.rouge_n(t, r, 2)),
  "rouge_l": _best(textmetrics.rouge_l),
  "bleu": textmetrics.bleu,
  "bleu_1": lambda t, r: textmetrics.bleu(t, r, 1),
  "chrf": textmetrics.chrf,
}
rouge_l = text_reward("rouge_l")
bleu = text_reward("bleu")
chrf = text_reward("chrf")


@reward
def sari(completion: str, source: str, answer: Any) -> float | None:
  """SARI of a simplification of `source`, against the references `answer`."""
  references = _listed(answer)
  if not references:
    return None
  return textmetrics.sari(source, completion, references).sari


@reward
def fkgl(completion: str) -> float | None:
  """Minus the school grade that a text asks for; None without a word."""
  c = readability.counts(completion)
  return None if c is None else -readability.fkgl(c)


@reward
def flesch(completion: str) -> float | None:
  """Reading ease; None without a word."""
  c = readability.counts(completion)
  return None if c is None else readability.flesch(c)
