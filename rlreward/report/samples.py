"""The answers of a report: best, worst, most changed; hostile text is tame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rlreward.report.plot import number, visible
from rlreward.report.read import Run

SHOWN = 4  # rows of each kind
LONGEST = 1200  # characters of a text; the middle of a longer one is left out
# What a row holds besides the parts of its reward.
PLAIN = (
  "group", "prompt", "completion", "transcript", "valid", "length", "finish",
  "logp", "prompt_ids", "completion_ids", "chosen", "reward",
)  # fmt: skip


class Answer(NamedTuple):
  """One answer.

  Attributes:
    when: e.g. "step 200".
    text: safe to show.
    reward: as text.
    parts: (name, number) of its components.
    facts: length and finish.
  """

  when: str
  text: str
  reward: str
  parts: list[tuple[str, str]]
  facts: str


class Sample(NamedTuple):
  """A prompt with its answers, the older first."""

  prompt: str
  answers: list[Answer]


class Group(NamedTuple):
  """Samples of one kind, and what kind."""

  title: str
  samples: list[Sample]


def groups(run: Run) -> tuple[str, list[Group]]:
  """What is shown, in words, and the groups; none without samples."""
  steps = run.sampled("eval")
  if steps:
    first, last = steps[0], steps[-1]
    new = run.samples(f"eval_{last}")
    old = run.samples(f"eval_{first}") if first != last else []
    if not _paired(old, new):
      old = []
    about = f"held-out prompts, step {last}"
    if old:
      about = f"the same held-out prompts at step {first} and at step {last}"
    return about, _groups(new, old, f"step {last}", f"step {first}")
  for kind, name in (("chosen", "chosen answers"), ("step", "training rows")):
    steps = run.sampled(kind)
    if steps:
      rows = run.samples(f"{kind}_{steps[-1]}")
      return f"{name} of step {steps[-1]}", _groups(
        rows, [], f"step {steps[-1]}", ""
      )
  return "", []


def tame(text: Any) -> str:
  """Text with what could hide or reorder it made visible, and not too long.

  Control characters and marks of direction become their code in brackets;
  HTML is escaped by the page.

  Args:
    text: what a model said.
  """
  text = text if isinstance(text, str) else str(text)
  if len(text) > LONGEST:
    half = LONGEST // 2
    left = len(text) - 2 * half
    text = f"{text[:half]}\n[{left} characters left out]\n{text[-half:]}"
  return visible(text)


def _paired(old: list[dict], new: list[dict]) -> bool:
  same = [a.get("prompt") == b.get("prompt") for a, b in zip(old, new)]  # noqa: B905
  return bool(same) and all(same)


def _reward(row: Mapping[str, Any]) -> float | None:
  value = row.get("reward")
  if isinstance(value, int | float) and row.get("valid", True):
    return float(value)
  return None


def _groups(
  new: list[dict], old: list[dict], now: str, before: str
) -> list[Group]:
  order = range(len(new))
  judged = [i for i in order if _reward(new[i]) is not None]
  down = sorted(judged, key=lambda i: -(_reward(new[i]) or 0.0))

  def show(i: int) -> Sample:
    answers = [_answer(old[i], before)] if i < len(old) else []
    answers.append(_answer(new[i], now))
    return Sample(tame(new[i].get("prompt", "")), answers)

  def change(i: int) -> float:
    a, b = _reward(old[i]), _reward(new[i])
    return 0.0 if a is None or b is None else b - a

  best = down[:SHOWN]
  worst = [i for i in down[::-1] if i not in best][:SHOWN]
  picked = [("Best", best), ("Worst", worst)]
  if judged and _reward(new[down[0]]) == _reward(new[down[-1]]):
    picked = [("All have the same reward", best)]
  if old:
    both = [i for i in judged if i < len(old)]
    gains = sorted(both, key=lambda i: -change(i))
    gains = [i for i in gains if change(i) > 0][:SHOWN]
    losses = sorted(both, key=change)
    losses = [i for i in losses if change(i) < 0][:SHOWN]
    picked = [
      ("Most improved", gains),
      ("Most worsened", losses),
      *picked,
    ]
  if not judged:
    picked = [("First rows, none of them judged", list(order)[:SHOWN])]
  return [Group(t, [show(i) for i in chosen]) for t, chosen in picked if chosen]


def _answer(row: Mapping[str, Any], when: str) -> Answer:
  value = _reward(row)
  parts = [
    (name.removeprefix("reward/"), number(v) if v is not None else "none")
    for name, v in row.items()
    if name not in PLAIN
    and (v is None or (isinstance(v, int | float) and type(v) is not bool))
  ]
  length, finish = row.get("length"), row.get("finish")
  facts = [f"{length} tokens"] if length is not None else []
  facts += {"stop": ["stopped"], "length": ["cut at the limit"]}.get(
    str(finish), [str(finish)] if finish else []
  )
  return Answer(
    when,
    tame(row.get("transcript", row.get("completion", ""))),
    "no judgement" if value is None else number(value),
    parts,
    ", ".join(facts),
  )
