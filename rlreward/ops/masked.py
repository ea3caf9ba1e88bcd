"""Reductions over slots that count, blind to whatever the other slots hold.

Every function replaces the masked-out slots before it computes anything (the
double-where rule), so a NaN or an infinity there changes neither the value nor
the gradient. `x * mask` would not do: NaN * 0 is NaN.
"""

from __future__ import annotations

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from rlreward.types import Array

Axis = int | tuple[int, ...] | None
Mode = Literal[
  "token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "const", "sum"
]
MODES = (
  "token_mean",
  "seq_mean_token_mean",
  "seq_mean_token_sum",
  "const",
  "sum",
)
_VAR_EPS = 1e-8  # as in verl and OpenRLHF: sd = sqrt(var + 1e-8)


def clean(x: Array, mask: Array, fill: float = 0.0) -> Array:
  """x as float32 (float64 stays) with `fill` where the mask is false.

  Args:
    x: any shape.
    mask: bool, broadcastable to x.
    fill: what the other slots become.

  Returns:
    Array of x's shape; no gradient reaches the filled slots.

  Raises:
    TypeError: the mask is not boolean (a float mask would be a weight, and a
      weight cannot protect from NaN).
  """
  mask = jnp.asarray(mask)
  if mask.dtype != jnp.bool_:
    raise TypeError(f"mask must be bool, got {mask.dtype}; pass mask > 0")
  x = jnp.asarray(x)
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  return jnp.where(jnp.broadcast_to(mask, x.shape), x, fill)


def _count(x: Array, mask: Array, axis: Axis) -> Array:
  mask = jnp.broadcast_to(mask, jnp.shape(x))
  return jnp.sum(mask, axis=axis, dtype=jnp.promote_types(x.dtype, "float32"))


def _divide(total: Array, weight: Array) -> Array:
  """total / weight, and 0 (with a finite gradient) where the weight is 0."""
  alive = weight > 0
  return jnp.where(alive, total / jnp.where(alive, weight, 1), 0)


def masked_sum(x: Array, mask: Array, axis: Axis = None) -> Array:
  """Sum of the slots that count.

  Args:
    x: any shape.
    mask: bool, broadcastable to x.
    axis: axis or axes to sum over; None sums all.

  Returns:
    f32, 0 where no slot counts.
  """
  return jnp.sum(clean(x, mask), axis=axis)


def masked_mean(x: Array, mask: Array, axis: Axis = None) -> Array:
  """Mean of the slots that count.

  Args:
    x: any shape.
    mask: bool, broadcastable to x.
    axis: axis or axes to average over; None averages all.

  Returns:
    f32, 0 where no slot counts.
  """
  x = clean(x, mask)
  return _divide(jnp.sum(x, axis=axis), _count(x, mask, axis))


def masked_var(
  x: Array, mask: Array, axis: Axis = None, ddof: int = 0
) -> Array:
  """Variance of the slots that count: sum (x - mean)^2 / (n - ddof).

  Args:
    x: any shape.
    mask: bool, broadcastable to x.
    axis: axis or axes to reduce; None reduces all.
    ddof: 0 for the population variance, 1 for the unbiased one.

  Returns:
    f32, 0 where at most `ddof` slots count.
  """
  x = clean(x, mask)
  count = _count(x, mask, axis)
  mean = _divide(jnp.sum(x, axis=axis), count)
  axes = tuple(range(x.ndim)) if axis is None else axis
  gap = clean(x - jnp.expand_dims(mean, axes), mask)
  return _divide(jnp.sum(gap * gap, axis=axis), count - ddof)


def share_of_variance(part: Array, total: Array, mask: Array) -> Array:
  """Cov(part, total) / Var(total): how much of a sum's spread a part carries.

  Shares of parts that add up to the total add up to 1. One below 0 works
  against the total; one above 1 is held back by the others.

  Args:
    part: f[N].
    total: f[N].
    mask: bool[N], what counts.

  Returns:
    f32[]; 0 where the total does not vary.
  """
  x, y = clean(part, mask), clean(total, mask)
  x = clean(x - masked_mean(x, mask), mask)
  y = clean(y - masked_mean(y, mask), mask)
  spread = jnp.sum(y * y)
  some = spread > 0
  return jnp.where(some, jnp.sum(x * y) / jnp.where(some, spread, 1), 0)


def whiten(
  x: Array, mask: Array, shift_mean: bool = True, sd_min: float = 0.0
) -> Array:
  """Unit variance (and zero mean) over all slots that count.

  (x - mean) / max(sqrt(var + 1e-8), sd_min), var with ddof 1; the mean is added
  back when `shift_mean` is false. The floor `sd_min` keeps a batch whose signal
  has died from blowing its noise up to unit size.

  Args:
    x: any shape.
    mask: bool, broadcastable to x.
    shift_mean: false keeps the mean (reward whitening in PPO for text).
    sd_min: smallest standard deviation to divide by.

  Returns:
    f32 of x's shape, 0 in the other slots.

  Reference: OpenAI lm-human-preferences (1909.08593); verl `masked_whiten`.
  """
  x = clean(x, mask)
  mean = masked_mean(x, mask)
  sd = jnp.sqrt(masked_var(x, mask, ddof=1) + _VAR_EPS)
  white = (x - mean) / jnp.maximum(sd, sd_min)
  return clean(white if shift_mean else white + mean, mask)


def last_index(mask_NxT: Array) -> Array:
  """Index of the last slot that counts in each row.

  Args:
    mask_NxT: bool.

  Returns:
    i32[N]; 0 for a row without any slot (what is put there is masked anyway).
  """
  chex.assert_rank(mask_NxT, 2)
  slots = jnp.arange(mask_NxT.shape[1], dtype=jnp.int32)
  return jnp.max(jnp.where(mask_NxT, slots, 0), axis=1)


def safe_exp(d: Array, limit: float = 20.0) -> Array:
  """exp(clip(d, -limit, limit)): no overflow, no gradient beyond the limit.

  Args:
    d: log-ratio, nats.
    limit: largest size of the exponent; exp(20) is 4.9e8.

  Returns:
    Array of d's shape.
  """
  return jnp.exp(jnp.clip(d, -limit, limit))


def weight(mask_NxT: Array, mode: Mode, const: float | None = None) -> Array:
  """What the sum of `reduce` is to be divided by; see `reduce`.

  Args:
    mask_NxT: bool.
    mode: one of MODES.
    const: tokens per row, for mode "const" only.

  Returns:
    f32[].

  Raises:
    ValueError: unknown mode, or `const` missing where it is needed.
  """
  chex.assert_rank(mask_NxT, 2)
  if mode not in MODES:
    raise ValueError(f"unknown reduction {mode!r}; choose one of {MODES}")
  if mode == "const":
    if const is None:
      raise ValueError("mode 'const' needs const, e.g. the generation limit")
    return jnp.asarray(mask_NxT.shape[0] * const, jnp.float32)
  if mode == "sum":
    return jnp.ones((), jnp.float32)
  if mode == "token_mean":
    return jnp.sum(mask_NxT, dtype=jnp.float32)
  return jnp.sum(jnp.any(mask_NxT, axis=1), dtype=jnp.float32)


def reduce(
  x_NxT: Array, mask_NxT: Array, mode: Mode, const: float | None = None
) -> tuple[Array, Array]:
  """(sum, weight) of a per-token quantity; divide once, after adding up parts.

  Sums and weights of microbatches and devices add, means do not: dividing only
  at the end makes 1 x 8 and 8 x 1 rows give the same gradient.

    mode                 sum                             weight
    token_mean           all tokens                      number of tokens
    seq_mean_token_mean  rows' means over their tokens   rows with a token
    seq_mean_token_sum   all tokens                      rows with a token
    const                all tokens                      N * const
    sum                  all tokens                      1

  seq_mean_token_mean is GRPO's, and a hidden length reward: it divides by a
  length that the policy controls. const is Dr. GRPO's cure and counts all N
  rows, empty ones too, because its weight must not depend on the sample.

  Args:
    x_NxT: per-token values.
    mask_NxT: bool.
    mode: one of MODES.
    const: tokens per row (the generation limit), for mode "const" only.

  Returns:
    (f32[], f32[]); the weight carries no gradient.

  Raises:
    ValueError: unknown mode, or `const` missing where it is needed.

  Reference: DeepSeekMath 2402.03300; DAPO 2503.14476; Dr. GRPO 2503.20783.
  """
  chex.assert_equal_shape([x_NxT, mask_NxT])
  denominator = jax.lax.stop_gradient(weight(mask_NxT, mode, const))
  if mode == "seq_mean_token_mean":
    return jnp.sum(masked_mean(x_NxT, mask_NxT, axis=1)), denominator
  return masked_sum(x_NxT, mask_NxT), denominator
