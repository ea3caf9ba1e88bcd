"""A process reward model's scores as rewards of tokens.

A reward that judges steps puts the score of each step in `Score.tokens` at the
token that ends it, and NaN everywhere else. `shaped` makes rewards of them,
with 0 between the ends; `value`, the reward of the whole answer, stays.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.ops import process
from rlreward.rewards import learned, loader, view
from rlreward.types import Array, Rollout, Score, Shaping, Task

# (prompts, the steps of each answer) -> a score of each step.
Judge = Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[Any]]

KINDS = ("none", *process.KINDS)


def shaped(
  kind: str, alpha: float, eta: float = 0.0, quantile: float = 0.0
) -> Shaping:
  """Rewards of tokens from the scores of steps.

  Args:
    kind: see `ops.process.step_reward`; "none" forgets the scores.
    alpha: weight beside the reward of the answer.
    eta: the threshold of clip, or the first score of progress.
    quantile: above 0 the threshold is the score that this share of steps stay
      below, in the first rollout that has any. A run samples it from the
      policy that it starts with, so these are scores of the reference; the
      threshold is kept from then on.

  Raises:
    UserError: fields that cannot be, or a reward without scores of steps (when
      it is first shaped).
  """
  _check(kind, alpha, eta, quantile)
  if kind == "none":
    return Shaping(
      lambda: (), lambda score, s, _: (score._replace(tokens=None), s)
    )

  known_kind = cast(process.Kind, kind)

  def update(score: Score, state, rollout: Rollout):
    if score.tokens is None:
      raise UserError(
        f"process.kind={kind!r}, and the reward scores no steps",
        "there is nothing to clip or to take differences of",
        "use a task whose reward sets Score.tokens, or process.kind='none'",
      )
    end = ends(score, rollout)
    known = jnp.any(end)
    state = dict(state)
    if quantile:
      scores = jnp.where(end, score.tokens, jnp.nan)
      # Of what is there; jnp.nanquantile would be NaN without any.
      first = jnp.nanquantile(jnp.where(known, scores, 0.0), quantile)
      state["eta"] = jnp.where(state["held"] > 0, state["eta"], first)
      state["held"] = jnp.maximum(state["held"], known.astype(jnp.float32))
    reward = process.step_reward(
      score.tokens, end, known_kind, alpha, state["eta"]
    )
    return score._replace(tokens=reward), state

  def init():
    state = {"eta": jnp.asarray(eta, jnp.float32)}
    return {**state, "held": jnp.zeros(())} if quantile else state

  return Shaping(init, update)


def ends(score: Score, rollout: Rollout) -> Array:
  """bool[N, L]: tokens that end a step of a row with a judgement.

  Args:
    score: with scores of steps in `tokens`.
    rollout: the policy's own tokens alone are steps.
  """
  assert score.tokens is not None
  return rollout.action & jnp.isfinite(score.tokens) & score.valid[:, None]


def at_ends(scores: Array, end: Array, length: int) -> Array:
  """Scores of steps, side by side, as `Score.tokens` wants them.

  Args:
    scores: f32[N, S]; anything where there is no step.
    end: i32[N, S], slots of the tokens that end steps; below 0 where there is
      none.
    length: L, slots of a row.

  Returns:
    f32[N, L], NaN where no step ends.
  """
  real = (end >= 0) & (end < length)
  there = process.scatter_steps(real.astype(jnp.float32), end, length) > 0
  return jnp.where(there, process.scatter_steps(scores, end, length), jnp.nan)


# ------------------------------------------------------------------- of text
def judged(task: Task, path: str, separator: str) -> Task:
  """A text task whose reward scores steps too.

  Args:
    task: its own reward stays the value of an answer.
    path: "file.py:f" or "package.module:f", a `Judge`; "" leaves the task.
    separator: what ends a step; what has no letters is no step of its own.

  Raises:
    UserError: a task without text, or an empty separator.
  """
  if not path:
    return task
  tokenizer = task.spec.get("tokenizer")
  if task.spec["on_device"] or tokenizer is None or not separator:
    raise UserError(
      f"process.judge={path!r} with separator {separator!r} on a task that is"
      f" judged {'by its tokens' if task.spec['on_device'] else 'on the host'}",
      "a judge of steps reads the text of each of them",
      "use task.name='text' and a separator such as a newline",
    )
  judge: Judge = loader.load(path)
  skip = task.spec.get("skip_special", True)

  def reward(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    found = task.reward(rollout, batch)
    rows = view.samples(rollout, batch, tokenizer, skip)
    decode = lambda ids: tokenizer.decode(ids, skip_special=skip)
    parts = [split(r.completion_ids, decode, separator) for r in rows]
    steps = [texts for texts, _ in parts]
    said = judge([r.prompt for r in rows], steps)
    tokens = np.full(np.shape(rollout.tokens), np.nan, np.float32)
    action = np.asarray(rollout.action)
    for n, ((texts, last), scores) in enumerate(zip(parts, said, strict=True)):
      if len(scores) != len(texts):
        raise UserError(
          f"{path} gave {len(scores)} scores for the {len(texts)} steps of"
          f" row {n}",
          "each step has one score",
          "return a list as long as the row's list of steps; NaN is no score",
        )
      tokens[n, np.flatnonzero(action[n])[last]] = scores
    fields: Any = {"tokens": tokens}
    return found._replace(**fields)

  return task._replace(reward=reward)


def split(
  ids: Sequence[int], decode: Callable[[Sequence[int]], str], separator: str
) -> tuple[list[str], list[int]]:
  """(texts of the steps of an answer, places of the tokens that end them).

  A token that holds a separator and the beginning of the next step ends the
  first of them. The last step ends at the last token; of several steps that
  end at one token the last one is kept, with all their text.

  Args:
    ids: of the answer, the stop token included.
    decode: ids -> text.
    separator: what ends a step.
  """
  text, steps, ends, start = decode(ids), [], [], 0
  while start < len(text) and ids:
    cut = text.find(separator, start)
    stop = len(text) if cut < 0 else cut + len(separator)
    own = text[start:stop]
    if not text[stop:].strip():
      own, stop = text[start:], len(text)
    size = lambda k: len(decode(ids[: k + 1]))
    last = bisect.bisect_left(range(len(ids)), stop, key=size)
    last = len(ids) - 1 if stop == len(text) else min(last, len(ids) - 1)
    if steps and (not own.strip() or ends[-1] == last):
      steps[-1], ends[-1] = steps[-1] + own, last
    else:
      steps.append(own)
      ends.append(last)
    start = stop
  return steps, ends


def of_model(
  model: learned.Learned,
  encode: Callable[[str], Sequence[int]],
  tag: str = "",
  first: Sequence[int] = (),
) -> Judge:
  """A judge of steps from a process reward model: sigmoid of its score.

  Args:
    model: scores rows at every token; for a language model that says good or
      bad by a token see `learned.of_two_tokens`.
    encode: text -> ids of the model.
    tag: written after each step; the score is read at its last token.
    first: ids before the prompt, such as bos.
  """

  def judge(prompts, steps):
    rows, ends = [], []
    for prompt, texts in zip(prompts, steps, strict=True):
      ids, last = [*first, *encode(prompt)], []
      for text in texts:
        ids += encode(text + tag)
        last.append(len(ids) - 1)
      rows.append(ids)
      ends.append(last)
    traces = model.traces(rows)
    return [1 / (1 + np.exp(-trace[last])) if last else []
            for trace, last in zip(traces, ends, strict=True)]  # fmt: skip

  return judge


def _check(kind: str, alpha: float, eta: float, quantile: float) -> None:
  if kind not in KINDS:
    raise UserError(
      f"process.kind={kind!r} is unknown",
      "it says what becomes of the scores of steps",
      f"set process.kind to one of {', '.join(KINDS)}",
    )
  for name, value, good, fix in (
    ("alpha", alpha, 0 <= alpha < math.inf, "0 or more"),
    ("eta", eta, math.isfinite(eta), "a finite number"),
    ("quantile", quantile, 0 <= quantile < 1, "0 (eta is given) or a share"),
  ):
    if not good:
      raise UserError(
        f"process.{name}={value}", "rewards of steps are made of it",
        f"use {fix}",
      )  # fmt: skip
