"""Rewards become log-chances to be good enough before they are added.

  u(x, y) = sum_k w_k log sigmoid((r_k(x, y) - ref_k(x)) / temperature)
  A_i = U_i - mean_{j != i} U_j,  U = u - beta sum_t log pi / pi_ref

The optimum is pi_ref(y|x) p(good in all K)^(1 / beta): u pays for what is below
its reference and hardly for what is above it, so no reward is bought with
another. `shaping.reference` is what "good" means: a quantile of rewards of the
reference's own answers, drawn beside each step (quantile), the reward of a
given answer, which the task reports as `<name>_reference` (answer), or a number
(fixed); one word for all rewards or one for each. `shaping.link` also names
what LSC is compared with: the sum, the sum of rewards over the reference's mean
(centred), and the mean chance to beat one of its answers (preference).

Reference: Transforming and Combining Rewards for Aligning Large Language
Models, arXiv 2402.00742.
Differs from the paper: RLOO in place of PPO with a value model. Its baseline
cancels any shift of a prompt, which makes `centred` the same as `sum`, and it
divides by no spread, which would change beta for each prompt.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from rlreward import errors
from rlreward.algorithms import grpo, rloo
from rlreward.ops import advantage, transform
from rlreward.rewards import shaping
from rlreward.steps import checks, credit, online
from rlreward.types import Method, Shaping, Task

LINKS = ("lsc", "sum", "centred", "preference")
REFERENCES = ("quantile", "answer", "fixed")


def make(config, task: Task) -> Method:
  """RLOO on the rewards that `config.shaping` transforms and adds up."""
  grpo.check(config)
  return online.make(
    config,
    task,
    loss=grpo.regularised(rloo.surrogate(config), config),
    credit=credit.group(
      functools.partial(advantage.group_advantage, center="loo", scale="none"),
      grpo.penalty(config),
    ),
    aggregate="seq_mean_token_sum",
    shaping=shaper(config.shaping),
  )


def shaper(c) -> Shaping:
  """The shaping that a config's section `shaping` describes.

  Args:
    c: see `configs/common.py`.

  Raises:
    UserError: fields that cannot be.
  """
  check(c)
  names, weights = tuple(c.names), tuple(c.weights) or None
  links: dict[str, Callable[[], Shaping]] = {
    "lsc": lambda: shaping.lsc(names, references(c), weights, c.temperature),
    "sum": lambda: shaping.total(names, weights),
    "centred": lambda: shaping.chain(
      shaping.centre(names, shaping.mean(c.samples)),
      shaping.total(names, weights),
    ),
    "preference": lambda: shaping.chain(
      shaping.preference(names, c.samples, c.temperature),
      shaping.total(names, weights),
    ),
  }
  return links[c.link]()


def references(c) -> list[shaping.Reference]:
  """What each named reward is compared with."""
  made = {
    "quantile": lambda: shaping.quantile(c.quantile, c.samples, c.method),
    "answer": shaping.answer,
    "fixed": lambda: shaping.fixed(c.at),
  }
  words = c.reference.split(",")
  if len(words) == 1:
    words *= max(len(c.names), 1)
  return [made[word]() for word in words]


def check(c) -> None:
  """Refuses unknown words and numbers out of their range with a UserError."""
  why = "it says what becomes of rewards before they are added"
  words = c.reference.split(",")
  checks.choice("shaping.link", c.link, LINKS, why)
  checks.choice("shaping.method", c.method, transform.QUANTILES, why)
  for word in words:
    checks.choice("shaping.reference", word, REFERENCES, why)
  k, n = max(len(c.names), 1), len(c.weights)
  for what, count, least in (("reference", len(words), 1), ("weights", n, 0)):
    if count not in (k, least):
      raise errors.UserError(
        f"shaping.{what} has {count} entries for {k} rewards",
        "each reward has its own",
        f"give {k} of them, one for each of shaping.names",
      )
  checks.ranges(
    "shaping",
    (
      ("samples", c.samples, c.samples >= 1, "1 or more", "they are drawn"),
      ("quantile", c.quantile, 0 < c.quantile < 1, "inside (0, 1)",
       "it is a share of the reference's answers"),
      ("temperature", c.temperature, 0 < c.temperature < math.inf, "above 0",
       "rewards are divided by it"),
    ),
  )  # fmt: skip
