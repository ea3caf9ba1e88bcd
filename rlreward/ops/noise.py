"""Noisy rewards: labels turned around, and low scores of a noisy judge raised.

With a share p of flips the mean reward is (1 - 2 p) r + p: the order of answers
stays up to p = 1/2. What a group makes of it depends on what is flipped. For a
whole question A(1 - r) = -A(r), so the mean advantage is (1 - 2 p) A(r); for
single answers see `analytic/label_noise.py`.
"""

from __future__ import annotations

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from rlreward.types import Array

Unit = Literal["prompt", "sample"]
UNITS = ("prompt", "sample")


def flips(
  key: Array, p: Array | float, group_N: Array, unit: Unit = "prompt"
) -> Array:
  """Which rewards are turned around: Bernoulli(p) of each question or answer.

  Args:
    key: the same key gives the same flips.
    p: in [0, 1].
    group_N: i32[N], the question of a row, below N.
    unit: "prompt": all answers to a question together; "sample": each alone.

  Returns:
    bool[N].

  Raises:
    ValueError: an unknown unit.

  Reference: The Climb Carves Wisdom Deeper Than the Summit, arXiv 2505.22653.
  """
  chex.assert_rank(group_N, 1)
  if unit not in UNITS:
    raise ValueError(f"unit={unit!r}; choose one of {', '.join(UNITS)}")
  drawn = jax.random.bernoulli(key, p, group_N.shape)
  return drawn[group_N] if unit == "prompt" else drawn


def flip(reward_N: Array, on_N: Array) -> Array:
  """1 - r where a label is turned around, r elsewhere.

  Args:
    reward_N: f32[N] in [0, 1].
    on_N: bool[N], see `flips`.

  Returns:
    f32[N].
  """
  chex.assert_equal_shape([reward_N, on_N])
  return jnp.where(on_N, 1 - reward_N, reward_N)


def calibrate(u: Array, aux: Array, tau: float = 0.5, alpha: float = 0.1):
  """Low scores get what another signal says: a judge's false negatives.

    u' = min(1, u + alpha aux)  where u < tau,  u elsewhere

  With a verifier's 0 and 1 and alpha = 1 wrong answers earn aux in place of 0.

  Args:
    u: f32[N], scores in [0, 1].
    aux: f32[N], 0 or more; not read where u >= tau.
    tau: scores from here on are trusted.
    alpha: weight of aux.

  Returns:
    f32[N].

  Reference: arXiv 2505.22653.
  """
  chex.assert_equal_shape([u, aux])
  return jnp.where(u < tau, jnp.minimum(1.0, u + alpha * aux), u)
