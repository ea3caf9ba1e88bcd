"""Problems to arrays: prompts, demonstrations, pairs, labels, judgements.

Wrong answers are off by 1 to 9 and within the range of the operation, so that
their form does not give them away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rlreward.tasks import tokens

ALPHABET = "0123456789+-*="
Batch = dict[str, np.ndarray]
Build = Callable[[Mapping[str, Any], np.ndarray, np.random.Generator], Batch]


def prompts(c, problems: np.ndarray, generator) -> Batch:
  """Prompts and right answers.

  Args:
    c: all fields of `arithmetic.defaults`.
    problems: i64[b, 3], index in "+-*", a, b.
    generator: unused.

  Returns:
    `prompt` i32[b, P], `prompt_mask`, `answer` i32[b, A], `answer_mask`; with
    `hint_share` also `hint` i32[b, A - 1 + P], `hint_mask`: "85=37+48=".
  """
  del generator
  batch = _encode(c, problems, _values(problems))
  return {**batch, **(_hints(c, batch) if c["hint_share"] else {})}


def demonstrations(c, problems: np.ndarray, generator) -> Batch:
  """Prompts, right answers, and rows that show an answer, wrong or right.

  A share of `judge_share` rows asks whether an answer is right, "37+48=85="
  answered by "1", "37+48=86=" by "0"; half of these answers are wrong, all
  verdicts are right whatever the noise. They have no eos between, as the
  answer of a rollout without its eos. All rows are 2 wider then. A share of
  `hint_share` rows has the right answer before the problem, "85=37+48=85", and
  shows it whatever the noise; all rows are A wider then, on the left.

  Args:
    c: all fields of `arithmetic.defaults`.
    problems: i64[b, 3].
    generator: of the noise.

  Returns:
    The arrays of `prompts`, `tokens`, `attend`, `loss` [b, P + A] and `wrong`
    bool[b]; with judge rows [b, P + A + 2] and `judge` bool[b].
  """
  value = _values(problems)
  other = _wrong(c, problems, value, generator)
  wrong = generator.random(len(value)) < c["noise"]
  batch = _encode(c, problems, value)
  shown = _join(_encode(c, problems, np.where(wrong, other, value)))
  if c["hint_share"]:
    hinted = generator.random(len(value)) < c["hint_share"]
    told = _hints(c, batch)
    told = {**batch, "prompt": told["hint"], "prompt_mask": told["hint_mask"]}
    shown = _choose(hinted, _join(told), _wider(c, shown, left=True))
    wrong &= ~hinted
  if not c["judge_share"]:
    return {**batch, **shown, "wrong": wrong}
  judged = generator.random(len(value)) < c["judge_share"]
  right = generator.random(len(value)) < 0.5
  rated = _rate(c, problems, np.where(right, value, other), right)
  if c["hint_share"]:
    rated = _wider(c, rated, left=True)
  shown = _choose(judged, rated, _wider(c, shown, slots=2))
  return {**batch, **shown, "wrong": wrong & ~judged, "judge": judged}


def preferences(c, problems: np.ndarray, generator) -> Batch:
  """Pairs: the right answer is chosen, a wrong one rejected.

  With probability `noise` the two change places.

  Args:
    c: all fields of `arithmetic.defaults`.
    problems: i64[b, 3].
    generator: of the wrong answers and the noise.

  Returns:
    `tokens`, `attend`, `loss` [2b, P + A], `strength` f32[2b] of ones and
    `flipped` bool[2b]; row 2i is chosen, row 2i + 1 rejected.
  """
  value = _values(problems)
  other = _wrong(c, problems, value, generator)
  flipped = generator.random(len(value)) < c["noise"]
  chosen, rejected = np.where(flipped, [other, value], [value, other])
  said = np.stack([chosen, rejected], 1).reshape(-1)
  return {
    **_join(_encode(c, np.repeat(problems, 2, 0), said)),
    "strength": np.ones(len(said), np.float32),
    "flipped": np.repeat(flipped, 2),
  }


def labelled(c, problems: np.ndarray, generator) -> Batch:
  """Answers with a label: `positive_share` of them are right.

  With probability `noise` a label is turned round.

  Args:
    c: all fields of `arithmetic.defaults`.
    problems: i64[b, 3].
    generator: of the answers and the noise.

  Returns:
    `tokens`, `attend`, `loss` [b, P + A], `label` and `flipped` bool[b].
  """
  value = _values(problems)
  other = _wrong(c, problems, value, generator)
  right = generator.random(len(value)) < c["positive_share"]
  flipped = generator.random(len(value)) < c["noise"]
  said = _join(_encode(c, problems, np.where(right, value, other)))
  return {**said, "label": right ^ flipped, "flipped": flipped}


def judge(tok: tokens.CharTokenizer) -> dict[str, tuple]:
  """How a policy rates an answer: ids behind it, ids of ratings, their values.

  Args:
    tok: of `tokenizer`.
  """
  no, yes, suffix = tok.encode("01=")
  return {"suffix": (suffix,), "ratings": (no, yes), "values": (0.0, 1.0)}


def tokenizer(c) -> tokens.CharTokenizer:
  """Pad, eos, digits, operations and "=" as a config's section has them."""
  return tokens.CharTokenizer(ALPHABET, pad_is_eos=c["pad_is_eos"])


def prompt_length(c) -> int:
  """P: slots of the longest prompt."""
  return 2 * c.get("widest", c["digits"]) + 2


def answer_length(c) -> int:
  """A: slots of the longest answer and eos."""
  digits = c.get("widest", c["digits"])
  sizes = {"+": digits + 1, "-": digits + 1, "*": 2 * digits}
  return max(sizes[o] for o in c["operations"]) + 1


def _values(problems: np.ndarray) -> np.ndarray:
  op, a, b = problems.T
  return np.select([op == 0, op == 1, op == 2], [a + b, a - b, a * b])


def _wrong(c, problems, value, generator) -> np.ndarray:
  """Answers off by 1 to 9 that are within the range of the operation."""
  top = 10 ** c["digits"] - 1
  op = problems[:, 0]
  high = np.select([op == 0, op == 1, op == 2], [2 * top, top, top * top])
  low = np.where(op == 1, -top, 0)
  shift = generator.integers(1, 10, len(value))
  shift *= generator.choice([-1, 1], len(value))
  inside = (value + shift >= low) & (value + shift <= high)
  return value + np.where(inside, shift, -shift)


def _encode(c, problems, values) -> Batch:
  tok = tokenizer(c)
  ask = [tok.encode(f"{a}{'+-*'[o]}{b}=") for o, a, b in problems.tolist()]
  say = [[*tok.encode(str(v)), tok.eos_ids[0]] for v in values.tolist()]
  prompt, prompt_mask = tokens.left_pad(ask, prompt_length(c), tok.pad_id)
  answer, answer_mask = tokens.right_pad(say, answer_length(c), tok.pad_id)
  return {
    "prompt": prompt,
    "prompt_mask": prompt_mask,
    "answer": answer,
    "answer_mask": answer_mask,
  }


def _hints(c, batch: Batch) -> Batch:
  """The right answer without its eos, "=", and the prompt."""
  tok = tokenizer(c)
  rows = [
    [*answer[mask][:-1], *tok.encode("="), *prompt[own]]
    for answer, mask, prompt, own in zip(
      *(batch[k] for k in ("answer", "answer_mask", "prompt", "prompt_mask")),
      strict=True,
    )
  ]
  width = prompt_length(c) + answer_length(c)
  hint, mask = tokens.left_pad(rows, width, tok.pad_id)
  return {"hint": hint, "hint_mask": mask}


def _wider(c, rows: Batch, slots: int = 0, left: bool = False) -> Batch:
  """Rows with empty slots on the right, or those of a hint on the left."""
  sides = (answer_length(c), 0) if left else (0, slots)
  fill = {"tokens": tokenizer(c).pad_id}
  return {
    k: np.pad(v, ((0, 0), sides), constant_values=fill.get(k, False))
    for k, v in rows.items()
  }


def _choose(first: np.ndarray, a: Batch, b: Batch) -> Batch:
  """Rows of `a` where `first` bool[b] is true, else of `b`."""
  return {k: np.where(first[:, None], a[k], b[k]) for k in b}


def _join(batch: Batch) -> Batch:
  """Prompt and answer in one row; the loss is the answer's."""
  mask, said = batch["prompt_mask"], batch["answer_mask"]
  return {
    "tokens": np.concatenate([batch["prompt"], batch["answer"]], 1),
    "attend": np.concatenate([mask, said], 1),
    "loss": np.concatenate([np.zeros_like(mask), said], 1),
  }


def _rate(c, problems, said, right) -> Batch:
  """Rows that judge: prompt, answer, suffix, verdict and eos."""
  tok = tokenizer(c)
  how = judge(tok)
  rows = [
    [*tok.encode(str(v)), *how["suffix"], how["ratings"][r], tok.eos_ids[0]]
    for v, r in zip(said.tolist(), right.astype(int).tolist(), strict=True)
  ]
  batch = _encode(c, problems, said)
  answer, mask = tokens.right_pad(rows, answer_length(c) + 2, tok.pad_id)
  joined = _join({**batch, "answer": answer, "answer_mask": mask})
  last = np.cumsum(joined["loss"], 1) > joined["loss"].sum(1)[:, None] - 2
  return {**joined, "loss": joined["loss"] & last}
