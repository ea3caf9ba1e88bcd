"""Reasoning-SQL: queries are paid for parts too, so that training can begin.

  r = w_exec R_exec + w_judge R_judge [R_exec = 0] + w_syntax R_syntax
      + w_schema R_schema + w_ngram R_ngram + w_format R_format

then GRPO. R_exec is 1 where the rows are those of the gold query, R_syntax
where a query runs, R_schema and R_ngram are Jaccard indices with the tables and
columns and with the bigrams of the gold query, R_format is 1 for a thought and
an answer in their tags; a judge in [0, 1] counts only where R_exec is 0. The
task reports these as components. `reward/outranked` is the share of a group's
wrong answers that earn more than a right one, over the right ones.

With the paper's weights a wrong query can earn 6 and a right one 4, so the
config must say what it wants: `sql.ranks = "refuse"` takes only weights with
which no wrong query outranks a right one, "watch" takes all and logs how often.

Reference: Reasoning-SQL: Reinforcement Learning with SQL Tailored Partial
Rewards for Reasoning-Enhanced Text-to-SQL, arXiv 2503.23157.
Differs from the paper: weights that can reward the wrong query are refused
unless they are watched; no KL unless `loss.kl_beta` asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp

from rlreward import errors
from rlreward.algorithms import grpo
from rlreward.ops import outrank
from rlreward.rewards import shaping, sql_parts
from rlreward.steps import checks
from rlreward.types import Array, Method, Score, Task

RANKS = ("refuse", "watch")


def make(config, task: Task) -> Method:
  """GRPO on the parts of a query that `config.sql` weighs."""
  weights = check(config.sql)
  return grpo.make(config, task._replace(reward=weighed(task.reward, weights)))


def weighed(
  reward: Callable[..., Score], weights: dict[str, float]
) -> Callable[..., Score]:
  """The weighted sum of a reward's parts, and `outranked`.

  Args:
    reward: reports the parts as components.
    weights: {part of `sql_parts.PARTS`: weight}, no zeros.
  """

  def paid(rollout, batch) -> Score:
    score = reward(rollout, batch)
    execution = shaping.part(score, "execution")
    value = total({k: shaping.part(score, k) for k in weights}, weights,
                  execution)  # fmt: skip
    known = jnp.asarray(score.valid) & jnp.isfinite(value + execution)
    value = jnp.where(known, value, 0)
    grouped = lambda x: jnp.reshape(x, (len(batch["prompt"]), -1))
    above = outrank.outranked(
      *map(grouped, (value, jnp.asarray(execution) > 0, known))
    )
    parts = {**score.components, "outranked": above.reshape(value.shape)}
    return score._replace(value=value, valid=known, components=parts)

  return paid


def total(
  parts: dict[str, Array], weights: dict[str, float], execution: Array
) -> Array:
  """f32[N]: the weighted sum, the judge's part where execution is 0.

  Args:
    parts: {part: f32[N]}.
    weights: one for each part.
    execution: f32[N].
  """
  gate = jnp.asarray(execution) == 0
  worth = lambda k, v: jnp.where(gate, v, 0.0) if k == "judge" else v
  terms = [w * worth(k, parts[k]) for k, w in weights.items()]
  return jnp.sum(jnp.stack([jnp.asarray(t, jnp.float32) for t in terms]), 0)


def check(c) -> dict[str, float]:
  """{part: weight} of a section `sql`, without zeros.

  Raises:
    UserError: weights that cannot be, or with which a wrong query can outrank a
      right one while `ranks` refuses that.
  """
  why = "it says what becomes of weights that reward the wrong query"
  checks.choice("sql.ranks", c.ranks, RANKS, why)
  checks.ranges(
    "sql",
    [(k, c[k], 0 <= c[k] < math.inf, "0 or more", "it is a weight")
     for k in sql_parts.PARTS],
  )  # fmt: skip
  weights = {k: float(c[k]) for k in sql_parts.PARTS if c[k]}
  if not weights:
    raise errors.UserError(
      "all weights of the section sql are 0",
      "nothing would be trained on",
      "set sql.execution=3",
    )
  excess = sql_parts.hazard(weights, "judge" in weights)
  if excess > 0 and c.ranks == "refuse":
    least = excess + weights.get("execution", 0.0)
    raise errors.UserError(
      f"with the weights {weights} a wrong query can earn {excess:g} more than"
      " a right one",
      "what is trained on would then lead away from right queries",
      f"set sql.execution={least:g} or more, or sql.ranks='watch' to train and"
      " to look at reward/outranked, which should stay below 0.01",
    )
  return weights
