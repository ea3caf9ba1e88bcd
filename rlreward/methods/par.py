"""Preference as reward: paid for beating the reference, not for how far.

  r'(x, y) = mean_m sigmoid((r(x, y) - r(x, y_m)) / temperature),  y_m ~ pi_ref
  R = r' - beta log (pi(y | x) / pi_ref(y | x))

r' is an unbiased estimate of the chance to beat a random answer of the
reference. It lies in [0, 1], so that the optimum moves no log-prob by more than
1 / beta whatever the reward model says, and it is flat where answers are far
above what the reward model has seen. `shaping.link` also names what PAR is
compared with: the raw reward (sum), less the reference's mean (centred), a
bounded `shape` of it without references (bounded), the run's mean and deviation
(mean_std), extremes (minmax) or both as limits (clip), LSC (lsc) and the same
without references (log_sigmoid). `shape` and `shift` change PAR itself; a
`ceiling` and the price of long answers come before any of them.

Reference: Reward Shaping to Mitigate Reward Hacking in RLHF, arXiv 2502.18770.
Differs from the paper: the M answers of the reference are drawn anew in every
step, and a polynomial shape is held inside [0, 1]. PPO as there, or GRPO with
`credit.baseline="group"`; the replay buffer is passes over one rollout.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from rlreward.algorithms import ppo
from rlreward.ops import bounded, lengths, transform
from rlreward.rewards import combine, running, shaping
from rlreward.steps import checks
from rlreward.types import Method, Shaping, Task

LINKS = (
  "preference", "sum", "centred", "bounded", "mean_std", "minmax", "clip",
  "lsc", "log_sigmoid",
)  # fmt: skip


def make(config, task: Task) -> Method:
  """PPO, or GRPO, on the reward as `config.shaping` shapes it."""
  return ppo.either(config, task, shaper(config.shaping))


def shaper(c) -> Shaping:
  """Ceiling, price of length, and the link of a section `shaping`.

  Args:
    c: see `configs/common.py`.

  Raises:
    UserError: fields that cannot be.
  """
  check(c)
  first = []
  if c.ceiling is not None:
    first.append(shaping.clip((), -math.inf, c.ceiling))
  if c.long_price:
    curve = lambda n: lengths.over_limit(n, c.long, c.long_price)
    first.append(combine.paid_by_length(curve))
  slope, m = 1 / c.temperature, c.samples
  plain = shaping.affine((), 1.0, -c.shift)
  shape = combine.bounded((), c.shape, slope)
  links: dict[str, Callable[[], Shaping]] = {
    "preference": lambda: combine.relative((), m, c.shape, slope, c.shift),
    "sum": lambda: shaping.total(()),
    "centred": lambda: shaping.centre((), shaping.mean(m)),
    "bounded": lambda: shaping.chain(plain, shape),
    "mean_std": running.standardise,
    "minmax": running.minmax,
    "clip": running.clip,
    "lsc": lambda: shaping.lsc(
      (), shaping.quantile(c.quantile, m, c.method), None, c.temperature
    ),
    "log_sigmoid": lambda: shaping.lsc(
      (), shaping.fixed(c.shift), None, c.temperature
    ),
  }
  return shaping.chain(*first, links[c.link]())


def check(c) -> None:
  """Refuses unknown words and numbers out of their range with a UserError."""
  why = "it says what becomes of the reward before it is trained on"
  checks.choice("shaping.link", c.link, LINKS, why)
  checks.choice("shaping.shape", c.shape, tuple(bounded.SHAPES), why)
  checks.choice("shaping.method", c.method, transform.QUANTILES, why)
  top = math.inf if c.ceiling is None else c.ceiling
  checks.ranges(
    "shaping",
    (
      ("samples", c.samples, c.samples >= 1, "1 or more", "they are drawn"),
      ("quantile", c.quantile, 0 < c.quantile < 1, "inside (0, 1)",
       "it is a share of the reference's answers"),
      ("temperature", c.temperature, 0 < c.temperature < math.inf, "above 0",
       "rewards are divided by it"),
      ("shift", c.shift, abs(c.shift) < math.inf, "a finite number",
       "it is taken off rewards"),
      ("ceiling", c.ceiling, top > -math.inf, "a number, or None (off)",
       "rewards are cut there"),
      ("long", c.long, c.long >= 0, "0 or more", "it is a number of tokens"),
      ("long_price", c.long_price, 0 <= c.long_price < math.inf, "0 or more",
       "long answers would be paid for"),
    ),
  )  # fmt: skip
