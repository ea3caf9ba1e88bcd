"""Selections of a round: which answers are imitated, which are compared."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from rlreward import errors
from rlreward.ops import select
from rlreward.steps import checks, iterate
from rlreward.types import Array, Task

ANSWERS = ("best", "top", "threshold", "correct", "draw")


def answers(config, kind: str) -> iterate.Select:
  """Answers to imitate, with `weight` 0 where nothing is kept.

    best       the best of each prompt's samples
    top        the best `fraction` of all samples, whatever the prompt
    threshold  samples with a reward of at least `at`
    correct    the same, but different ones, at most `cap` of each prompt
    draw       `cap` of each prompt without replacement, by softmax of
               reward / `temperature`

  Args:
    config: section `rounds`.
    kind: one of ANSWERS.

  Raises:
    UserError: a field that cannot be.
  """
  c = config.rounds
  checks.choice("rounds.select", kind, ANSWERS, "it says what is imitated")
  checks.ranges(
    "rounds",
    (
      ("fraction", c.fraction, 0 < c.fraction <= 1, "above 0, at most 1",
       "it is the share that is kept"),
      ("cap", c.cap, c.cap >= 1, "1 or more", "it is a number of answers"),
      ("temperature", c.temperature, c.temperature >= 0, "0 or more",
       "rewards are divided by it; 0 takes the best"),
      ("kl", c.kl, c.kl >= 0, "0 or more",
       "a negative one ranks what is far from the reference first"),
    ),
  )  # fmt: skip

  if c.kl and kind == "correct":
    raise errors.UserError(
      f"rounds.kl={c.kl} with rounds.select='correct'",
      "an answer that the policy has learned would count as wrong for it",
      "set rounds.kl=0, or rounds.select to best or top",
    )

  def best(r: iterate.Round, reward, valid):
    place, keep = select.best_of_k(r.grouped(reward), r.grouped(valid), r.key)
    return r.rows(r.at(place)), keep

  def top(r: iterate.Round, reward, valid):
    keep = select.top_fraction(reward, valid, c.fraction, r.key)
    return r.rows(jnp.arange(reward.shape[0])), keep

  def threshold(r: iterate.Round, reward, valid):
    keep = select.threshold(reward, valid, c.at)
    return r.rows(jnp.arange(reward.shape[0])), keep

  def correct(r: iterate.Round, reward, valid):
    tokens, action = r.rollout.tokens, r.rollout.action
    keep = select.correct(
      r.grouped(reward),
      r.grouped(valid),
      select.duplicates(r.grouped(tokens), r.grouped(action), r.grouped(valid)),
      c.cap,
      r.key,
      c.at,
    )
    # The kept ones first, so that `cap` rows of each prompt are enough.
    order = jnp.argsort(~keep, axis=1, stable=True)[:, : min(c.cap, r.group)]
    kept = jnp.take_along_axis(keep, order, 1)
    return r.rows(r.at(order)), kept.reshape(-1)

  def draw(r: iterate.Round, reward, valid):
    grouped, known = r.grouped(reward), r.grouped(valid)
    k = min(c.cap, r.group)
    place = select.without_replacement(grouped, known, k, c.temperature, r.key)
    # Beyond the samples that count the first draw is repeated.
    count = jnp.sum(select.usable(grouped, known), 1, keepdims=True)
    keep = jnp.arange(k) < count
    return r.rows(r.at(place)), keep.reshape(-1)

  pick = {
    "draw": draw,
    "best": best,
    "top": top,
    "threshold": threshold,
    "correct": correct,
  }[kind]

  def chosen(r: iterate.Round) -> Mapping[str, Array]:
    reward = r.score.value
    if c.kl:
      assert r.log_ratio is not None
      reward -= c.kl * r.log_ratio
    rows, keep = pick(r, reward, r.score.valid)
    return {**rows, "valid": keep}

  return chosen


def count(config, kind: str, group: int) -> int:
  """Rows that `answers` gives for each round."""
  few = min(config.rounds.cap, group)
  each = {"best": 1, "correct": few, "draw": few}
  return config.prompts_per_step * each.get(kind, group)


def best_and_worst(r: iterate.Round) -> Mapping[str, Array]:
  """The best and the worst sample of each prompt; equal ones do not count."""
  best, worst, keep = select.best_worst_pair(
    r.grouped(r.score.value), r.grouped(r.score.valid), r.key
  )
  return _pair(r, best, worst, keep)


def first_two(other: int) -> iterate.Select:
  """The first sample of each prompt and another row, the better one chosen.

  `second_chosen` says whether that is the other row.

  Args:
    other: place of the other row in the group.
  """

  def chosen(r: iterate.Round) -> Mapping[str, Array]:
    reward, valid = r.grouped(r.score.value), r.grouped(r.score.valid)
    reward = jnp.where(valid, reward, 0)
    gap = reward[:, 0] - reward[:, other]
    keep = valid[:, 0] & valid[:, other] & (gap != 0)
    second = gap < 0
    place = jnp.where(second, other, 0)
    rows = _pair(r, place, other - place, keep)
    return {**rows, "second_chosen": jnp.repeat(second, 2)}

  return chosen


def _pair(r: iterate.Round, chosen, rejected, keep) -> dict[str, Array]:
  rows = r.rows(r.at(jnp.stack([chosen, rejected], 1)))
  return {**rows, "valid": jnp.repeat(keep, 2)}


def demonstrated(r: iterate.Round) -> dict[str, Array]:
  """The demonstrated answer of each prompt, as rows in the layout of samples.

  The demonstration is the column `answer` i32[B, A] with `answer_mask`, A at
  most the slots of an answer.
  """
  first = lambda x: r.grouped(x)[:, 0]
  p = r.rollout.tokens.shape[1] - r.slots
  answer, mask = (first(r.rollout.extras[k]) for k in ANSWER)
  pad = [(0, 0), (0, r.slots - answer.shape[1])]
  answer, mask = jnp.pad(answer, pad), jnp.pad(mask, pad)
  put = lambda x, y: jnp.concatenate([first(x)[:, :p], y], 1)
  return {
    "tokens": put(r.rollout.tokens, answer),
    "attend": put(r.rollout.attend, mask),
    "loss": put(jnp.zeros_like(r.rollout.action), mask),
  }


ANSWER = ("answer", "answer_mask")


def check_demonstrated(config, task: Task) -> None:
  """Refuses a task whose batches have no demonstrated answer that fits.

  Raises:
    UserError: see the messages.
  """
  size, t = task.spec.get("demonstrated", 0), config.sampling.max_new_tokens
  if not size:
    raise errors.UserError(
      f"{config.algorithm} on task {config.task.name!r}",
      "its batches hold no demonstrated answers beside the prompts",
      "use data with a completion column, or the arithmetic task",
    )
  if size > t:
    raise errors.UserError(
      f"demonstrated answers of {size} tokens, max_new_tokens={t}",
      "they are compared with samples of the same number of slots",
      f"set sampling.max_new_tokens={size} or more",
    )


def shown_and_sampled(r: iterate.Round) -> Mapping[str, Array]:
  """The demonstration as chosen, the prompt's first sample as rejected.

  Pairs in which the sample is the demonstration do not count.
  """
  shown = demonstrated(r)
  b = shown["tokens"].shape[0]
  sample = r.rows(r.at(jnp.zeros(b, jnp.int32)))
  ids = lambda rows: jnp.where(rows["loss"], rows["tokens"], -1)
  differ = jnp.any(ids(shown) != ids(sample), 1)
  both = {
    k: jnp.stack([shown[k], v], 1).reshape(2 * b, *v.shape[1:])
    for k, v in sample.items()
  }
  return {**both, "valid": jnp.repeat(differ, 2)}


def mixed(share: float) -> iterate.Select:
  """All samples, or the demonstration in their place for some prompts.

  Args:
    share: of the prompts whose own samples are kept.
  """

  def rows(r: iterate.Round) -> Mapping[str, Array]:
    n = r.score.value.shape[0]
    own = r.rows(jnp.arange(n))
    if share >= 1:
      return own
    shown = demonstrated(r)
    b = n // r.group
    keep = jnp.repeat(jax.random.uniform(r.key, (b,)) < share, r.group)
    wide = {k: jnp.repeat(v, r.group, 0) for k, v in shown.items()}
    return {k: jnp.where(keep[:, None], v, wide[k]) for k, v in own.items()}

  return rows
