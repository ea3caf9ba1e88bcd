"""Rewards that cannot run away: bounded, monotone shapes of how good is good.

A KL penalty holds a policy back only as long as the reward does not outgrow it.
With a reward in [a, b] the optimum of reward - beta KL moves no log-prob by
more than (b - a) / beta. What bounds it decides the rest: a shape that is steep
near the reference and flat above it (PAR) pays for being better than the
reference and not for the tail, where a reward model is least to be trusted.

Affine maps (mean and deviation, minimum and maximum) are here as well, as what
the shapes are compared with: alone, they are the same optimum at another beta.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax

from rlreward.ops import masked
from rlreward.types import Array

# Least squares to sigmoid at 100 even points of [-5, 5]; even powers vanish.
_POLY = (0.22878851178, -0.010130912056, 2.0266916983e-4)
_FLAT = 1e-6  # a deviation this small against the mean is rounding


def sigmoid(x: Array) -> Array:
  """1 / (1 + exp(-x)), in (0, 1); slope 1/4 at 0.

  Args:
    x: how far a reward lies above its reference, in units of Bradley-Terry.
  """
  return jax.nn.sigmoid(jnp.asarray(x))


def tanh(x: Array) -> Array:
  """tanh(x) = 2 sigmoid(2 x) - 1, in (-1, 1); slope 1 at 0.

  Args:
    x: as in `sigmoid`.
  """
  return jnp.tanh(x)


def arctan(x: Array) -> Array:
  """arctan(x), in (-pi/2, pi/2); slope 1 at 0, and a tail of 1/x.

  Args:
    x: as in `sigmoid`.
  """
  return jnp.arctan(x)


def polynomial(x: Array) -> Array:
  """The quintic that fits the sigmoid on [-5, 5], held inside [0, 1].

    1/2 + 0.22879 x - 0.010131 x^3 + 0.00020267 x^5

  The fit passes 1 before it ends; left as it is, a reward of 4.9 would pay more
  than one of 5.1.

  Args:
    x: as in `sigmoid`.

  Reference: arXiv 2502.18770, whose code leaves the fit unclipped inside.
  """
  x = jnp.clip(jnp.asarray(x), -5, 5)
  a, b, c = _POLY
  return jnp.clip(0.5 + x * (a + x * x * (b + x * x * c)), 0, 1)


SHAPES: Mapping[str, Callable[[Array], Array]] = {
  "sigmoid": sigmoid,
  "tanh": tanh,
  "arctan": arctan,
  "polynomial": polynomial,
}
RANGES = {
  "sigmoid": (0.0, 1.0),
  "tanh": (-1.0, 1.0),
  "arctan": (-math.pi / 2, math.pi / 2),
  "polynomial": (0.0, 1.0),
}


def relative(
  r: Array,
  refs: Array,
  shape: str = "sigmoid",
  slope: float = 1.0,
  shift: float = 0.0,
  valid: Array | None = None,
) -> Array:
  """Preference as reward (PAR), and its relatives with another shape.

    mean_m f(slope (r - shift - ref_m))

  With the sigmoid this is the Bradley-Terry chance that an answer beats one of
  M reference answers, an unbiased estimate of the chance to beat a random one;
  a shift of all rewards of a prompt changes nothing.

  Args:
    r: [...] rewards.
    refs: [..., M] rewards of reference answers to the same prompt; without
      gradient.
    shape: of SHAPES.
    slope: 1 / temperature of Bradley-Terry; 1 in the paper.
    shift: 0 in the paper; 3 is its control that starts to pay slowly.
    valid: bool[..., M], references that were judged; None asks which are
      finite.

  Returns:
    f32[...] in RANGES[shape]; NaN where no reference counts or r is unknown.

  Raises:
    ValueError: an unknown shape.

  Reference: Reward Shaping to Mitigate Reward Hacking, arXiv 2502.18770.
  """
  if shape not in SHAPES:
    raise ValueError(f"unknown shape {shape!r}; choose one of {tuple(SHAPES)}")
  refs = lax.stop_gradient(jnp.asarray(refs))
  known = jnp.isfinite(refs) if valid is None else jnp.asarray(valid)
  gap = jnp.asarray(r)[..., None] - shift - masked.clean(refs, known)
  known = jnp.broadcast_to(known, gap.shape)
  found = masked.masked_mean(SHAPES[shape](slope * gap), known, -1)
  return jnp.where(jnp.any(known, -1), found, jnp.nan)


def unit(mean: Array, sd: Array) -> Array:
  """What rewards are divided by: sd, and 1 where it is no spread.

  Args:
    mean: of the rewards.
    sd: of the rewards; below 1e-6 of the mean it is rounding, and dividing by
      it would turn a constant reward into noise.
  """
  return jnp.where(sd > _FLAT * jnp.abs(mean), sd, 1)


def standardise(r: Array, mean: Array, sd: Array) -> Array:
  """(r - mean) / sd, and r - mean where there is no spread.

  Args:
    r: rewards.
    mean: broadcastable to r.
    sd: broadcastable to r; see `unit`.
  """
  return (r - mean) / unit(mean, sd)


def minmax(r: Array, low: Array, high: Array) -> Array:
  """(r - low) / (high - low) in [0, 1], and 0 where high is not above low.

  Args:
    r: rewards; what lies outside is clipped.
    low: broadcastable to r; becomes 0.
    high: broadcastable to r; becomes 1.
  """
  some = high > low
  low = jnp.where(some, low, 0)  # both may be infinite before any reward
  width = jnp.where(some, high, 1) - low
  x = jnp.clip((r - low) / width, 0, 1)
  return jnp.where(some | jnp.isnan(x), x, 0)


def clip(r: Array, mean: Array, sd: Array, width: float = 1.0) -> Array:
  """r held inside mean +- width sd.

  Args:
    r: rewards.
    mean: broadcastable to r.
    sd: broadcastable to r.
    width: in standard deviations; 1 in the controls of arXiv 2502.18770.
  """
  return jnp.clip(r, mean - width * sd, mean + width * sd)
