r"""Tina's rewards: of the text on the host, of its length on the device.

  tina:format           1 where "\n</think>\n" stands there exactly once
  tina:tag_count        1/2 for each of "<think>\n" and "\n</think>\n"
  tina:reasoning_steps  min(1, signs of a step / 3)

are names for `task.rewards`, beside verify:math. `recipe` weighs them, and adds
the rewards that need no text: `length` (Kimi's), `l1_exact`, `l1_max`, `cosine`
and `repetition`, of the tokens that the policy chose.

Reference: Tina: Tiny Reasoning Models via LoRA, arXiv 2504.15777.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import jax.numpy as jnp

from rlreward.errors import UserError
from rlreward.ops import aggregate, lengths, masked
from rlreward.ops import repetition as repeats
from rlreward.rewards import shaping
from rlreward.rewards.function import reward
from rlreward.types import Array, Rollout, Score, Shaping

OPENS, CLOSES = "<think>\n", "\n</think>\n"
# Numbered steps, list items, and words that go on to the next step.
_STEP = re.compile(r"Step \d+:|^\d+\.|\n[-*]|(?:First|Second|Next|Finally),")
ENOUGH = 3
# What is paid by the number of tokens, and needs to know what is right.
PAID = ("length", "l1_exact", "l1_max", "cosine")
DEVICE = (*PAID, "repetition")


def thought_ends(text: str) -> float:
  """1 where the end of the thought stands on a line of its own, once.

  Args:
    text: of the policy.
  """
  return float(text.count(CLOSES) == 1)


def tags(text: str, prompt_tail: str = "") -> float:
  """Half for the opening tag and half for the closing one, each once.

  Args:
    text: of the policy.
    prompt_tail: of the prompt. Templates of R1's distilled models write the
      opening tag ahead; it counts, as one that the text may not repeat.
  """
  opens = text.count(OPENS) + prompt_tail.endswith(OPENS)
  return 0.5 * (opens == 1) + 0.5 * (text.count(CLOSES) == 1)


def steps(text: str) -> float:
  """min(1, signs of a step / 3).

  A number counts at the start of the text alone, as in the authors' pattern.

  Args:
    text: of the policy.
  """
  return min(1.0, len(_STEP.findall(text)) / ENOUGH)


@reward(name="format")
def format(completion: str) -> float:
  """See `thought_ends`."""
  return thought_ends(completion)


@reward
def tag_count(completion: str, prompt_tail: str) -> float:
  """See `tags`."""
  return tags(completion, prompt_tail)


@reward
def reasoning_steps(completion: str) -> float:
  """See `steps`."""
  return steps(completion)


def recipe(
  weights: Mapping[str, float],
  accuracy: str,
  *,
  target: int = 0,
  longest: int = 0,
  names: Mapping[str, str] | None = None,
) -> Shaping:
  """value = sum_k w_k r_k over rewards of the text and of its length.

  A row is judged where all of its weighted rewards are known; the authors' code
  adds up those that are.

  Args:
    weights: of components of the score, or of a name in `DEVICE`.
    accuracy: component that is above 1/2 where an answer is right.
    target: tokens that l1_exact and l1_max ask for.
    longest: tokens at which the cosine ends.
    names: {name of a weight: component}, where they differ.

  Raises:
    UserError: no weights, or a curve without the length that it needs.
  """
  check(weights, target, longest)
  curves: dict[str, Callable[..., Array]] = {
    "length": lengths.kimi,
    "l1_exact": lambda n, right, group: lengths.l1_exact(n, right, target),
    "l1_max": lambda n, right, group: lengths.l1_max(n, right, target),
    "cosine": lambda n, right, group: lengths.cosine(n, right, longest),
  }
  named = {k: k for k in weights} | dict(names or {})
  read = [named[k] for k in weights if k not in DEVICE]
  if any(k in PAID for k in weights):
    read.append(accuracy)

  def run(score: Score, rollout: Rollout) -> Score:
    n = jnp.sum(rollout.action, -1, dtype=jnp.float32)
    made = {}
    for name in weights:
      if name == "repetition":
        made[name] = repeats.penalty(rollout.tokens, rollout.action)
      elif name in PAID:
        right = shaping.part(score, accuracy)
        paid = curves[name](n, right > 0.5, rollout.group)
        made[name] = jnp.where(jnp.isfinite(right), paid, jnp.nan)
      else:
        made[name] = shaping.part(score, named[name])
    r_NxK = jnp.stack(list(made.values()), -1)
    known = score.valid & jnp.all(jnp.isfinite(r_NxK), -1)
    w = jnp.asarray(list(weights.values()), jnp.float32)
    value = aggregate.aggregate(r_NxK, "sum", jnp.isfinite(r_NxK), w)
    added = {k: v for k, v in made.items() if k in DEVICE}
    return score._replace(
      value=masked.clean(value, known),
      valid=known,
      components={**score.components, **added},
    )

  return shaping.stateless(run, reads=tuple(dict.fromkeys(read)))


def check(weights: Mapping[str, float], target: int, longest: int) -> None:
  """Refuses a recipe that cannot be weighed.

  Raises:
    UserError: see the messages.
  """
  if not any(weights.values()):
    raise UserError(
      f"a recipe with the weights {dict(weights)}",
      "the reward is their weighted sum",
      "give at least one reward a weight other than 0",
    )
  for field, least, users in (
    ("tina.target", target, ("l1_exact", "l1_max")),
    ("tina.longest", longest, ("cosine",)),
  ):
    wanting = [k for k in users if k in weights]
    if wanting and least < 1:
      raise UserError(
        f"{field}={least} with the reward {wanting[0]}",
        "its curve is one of the number of tokens, and goes by this one",
        f"set {field} to a number of tokens",
      )


def parse(text: str, known: Mapping[str, Mapping[str, float]]):
  """Weights of a recipe: a known name, or such as "format@1,accuracy@2".

  Args:
    text: of a config.
    known: {name: {reward: weight}}.

  Returns:
    {reward: weight}, in order.

  Raises:
    UserError: neither.
  """
  if text in known:
    return dict(known[text])
  out: dict[str, float] = {}
  for part in text.split(","):
    name, at, weight = part.strip().partition("@")
    try:
      value = float(weight)
    except ValueError:
      value = float("nan")
    if not (at and name) or name in out or not abs(value) < float("inf"):
      raise UserError(
        f"tina.recipe={text!r} cannot be read at {part.strip()!r}",
        "it is the name of a recipe, or rewards with their weights",
        f"use one of {', '.join(known)}, or write 'format@1,accuracy@2'",
      )
    out[name] = value
  return out
