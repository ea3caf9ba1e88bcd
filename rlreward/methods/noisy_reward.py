"""Noisy rewards: labels turned around in training, and phrases that make up.

  r' = 1 - r for a share p of the questions, r for the others
  u' = min(1, u + alpha RPR) where u < tau, u elsewhere
  RPR = max(0, min(1, hits / c) - rep20 - turns),  0 without an answer

A flip is of a question: all its answers in a batch are judged by 1 - r. As
A(1 - r) = -A(r) for a group, the mean gradient of GRPO shrinks by 1 - 2 p and
changes sign at p = 1/2. Evaluation is never noisy. `noise.aux` names what
repairs low scores (`verify:reasoning` is RPR), `noise.reward` a component that
is trained on in place of the reward (RPR alone), `noise.gate` the format that a
reward model's score is zeroed without.

Reference: The Climb Carves Wisdom Deeper Than the Summit: On the Noisy Rewards
in Learning to Reason, arXiv 2505.22653.
Differs from the paper: nothing in the transforms. Its text counts a phrase 1/40
and its code 1/20; both are there (`verify.reasoning_reward(c=20)`), the text's
is the default. PPO as there, or GRPO with `credit.baseline="group"`.
"""

from __future__ import annotations

import jax

from rlreward.algorithms import ppo
from rlreward.rewards import combine, noise, shaping
from rlreward.types import Method, Shaping, Task

_STREAM = 0x6E  # of the run's key that flips are drawn from


def make(config, task: Task) -> Method:
  """PPO, or GRPO, on the reward as `config.noise` makes it."""
  return ppo.either(config, task, shaper(config.noise, config.seed))


def shaper(c, seed: int) -> Shaping:
  """Choice of the reward, format, flips and calibration of a section `noise`.

  Args:
    c: see `configs/common.py`.
    seed: of the run.

  Raises:
    UserError: fields that cannot be.
  """
  steps = []
  if c.reward:
    steps.append(shaping.total((c.reward,)))
  if c.gate:
    steps.append(combine.gated(c.gate))
  key = jax.random.fold_in(jax.random.key(seed), _STREAM)
  steps.append(noise.flip(key, c.flip, c.unit, c.answered))
  if c.aux:
    steps.append(noise.calibrate(c.tau, c.alpha, c.aux))
  return shaping.chain(*steps)
