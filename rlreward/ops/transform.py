"""Rewards made comparable before they are added: log-sigmoid, centred.

A Bradley-Terry reward is known up to a shift for each prompt, so "good" needs a
reference: the chance that an answer is preferred to it is sigmoid(r - r_ref).
The log of that chance stops paying for what is good already, and the sum of
such logs over K rewards is the log-chance that an answer is good in all of
them. All of it comes before any centring or whitening over a group.

The scale of r is not free: sigmoid(r - r_ref) is a chance only where r is in
the unit of the Bradley-Terry model, so divide both by its temperature first.
"""

from __future__ import annotations

import math
from typing import Literal

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import ndtri

from rlreward.ops import masked
from rlreward.types import Array

Quantile = Literal["empirical", "gaussian"]
QUANTILES = ("empirical", "gaussian")


def lsc(
  r: Array,
  ref: Array,
  weights: Array | None = None,
  axis: int = -1,
  valid: Array | None = None,
) -> Array:
  """Log-chance that an answer beats the reference in every reward.

    u = sum_k w_k log sigmoid(r_k - ref_k) = -sum_k w_k softplus(ref_k - r_k)

  Its slope in r_k is w_k sigmoid(ref_k - r_k): 0.982, 0.5 and 0.018 at 4 below,
  at and 4 above the reference, where one reward is worth -0.6931.

  Args:
    r: rewards, K of them along `axis`, in the unit of Bradley-Terry.
    ref: reference rewards, broadcastable to r; without gradient.
    weights: f32[K]; None is 1 for each, which makes the sum a logical "and".
    axis: of the K rewards.
    valid: bool, broadcastable to r; the others are left out of the sum. None
      takes all, and an unknown (NaN) reward makes an unknown sum.

  Returns:
    r's shape without `axis`, at most 0 where weights are not negative.

  Reference: Transforming and Combining Rewards, arXiv 2402.00742.
  """
  r = jnp.asarray(r)
  known = jnp.ones((), bool) if valid is None else valid
  gap = masked.clean(r - lax.stop_gradient(ref), known)
  return total(jax.nn.log_sigmoid(gap), weights, axis, valid)


def total(
  r: Array,
  weights: Array | None = None,
  axis: int = -1,
  valid: Array | None = None,
) -> Array:
  """The weighted sum of K rewards: what LSC is compared with.

    sum_k w_k r_k

  Args:
    r: rewards, K of them along `axis`.
    weights: f32[K]; None is 1 for each.
    axis: of the K rewards.
    valid: as in `lsc`.

  Returns:
    r's shape without `axis`.
  """
  r = jnp.moveaxis(jnp.asarray(r), axis, -1)
  if weights is not None:
    weights = jnp.asarray(weights)
    chex.assert_shape(weights, r.shape[-1:])
    r = r * weights
  if valid is None:
    return jnp.sum(r, -1)
  known = jnp.broadcast_to(valid, jnp.moveaxis(r, -1, axis).shape)
  return masked.masked_sum(r, jnp.moveaxis(known, axis, -1), -1)


def quantile_reference(
  ref_BxR: Array,
  q: float,
  method: Quantile = "empirical",
  valid_BxR: Array | None = None,
) -> Array:
  """The reward that a share q of the reference's samples stay below.

    empirical: linear between order statistics, as numpy.quantile
    gaussian:  mean + ndtri(q) sd, sd with R - 1 below; mean + 1.0364 sd at 0.85

  Args:
    ref_BxR: rewards of R samples of the reference to each of B prompts; more
      leading axes are welcome.
    q: in (0, 1), e.g. 0.85: good is better than 85 of 100 samples.
    method: of QUANTILES; the Gaussian one is steadier for small R.
    valid_BxR: bool, samples that were judged; None asks which are finite.

  Returns:
    f32[B] without gradient; NaN where no sample counts.

  Raises:
    ValueError: q outside (0, 1) or an unknown method.

  Reference: arXiv 2402.00742, which takes the 85th percentile.
  """
  if not 0 < q < 1:
    raise ValueError(f"q must lie inside (0, 1), got {q}")
  if method not in QUANTILES:
    raise ValueError(f"unknown method {method!r}; choose one of {QUANTILES}")
  x, known = _samples(ref_BxR, valid_BxR)
  count = jnp.sum(known, -1)
  if method == "gaussian":
    sd = jnp.sqrt(masked.masked_var(x, known, -1, ddof=1))
    found = masked.masked_mean(x, known, -1) + ndtri(q) * sd
  else:
    ordered = jnp.sort(masked.clean(x, known, math.inf), -1)
    place = q * jnp.maximum(count - 1, 0)
    low = jnp.floor(place).astype(jnp.int32)
    high = jnp.minimum(low + 1, jnp.maximum(count - 1, 0))
    at = lambda i: jnp.take_along_axis(ordered, i[..., None], -1)[..., 0]
    below, above = at(low), at(high)
    # A row without samples is all infinite; its quantile is replaced below.
    gap = jnp.where(count > 1, above - below, 0)
    found = below + (place - low) * gap
  return lax.stop_gradient(jnp.where(count > 0, found, jnp.nan))


def mean_reference(ref_BxR: Array, valid_BxR: Array | None = None) -> Array:
  """The mean reward of the reference's samples.

  Taking it off changes no advantage that has a baseline of its own group, and
  no optimum: the sum of rewards so centred is the raw sum up to a shift.

  Args:
    ref_BxR: as in `quantile_reference`.
    valid_BxR: as in `quantile_reference`.

  Returns:
    f32[B] without gradient; NaN where no sample counts.
  """
  x, known = _samples(ref_BxR, valid_BxR)
  found = masked.masked_mean(x, known, -1)
  some = jnp.any(known, -1)
  return lax.stop_gradient(jnp.where(some, found, jnp.nan))


def preference_as_reward(
  r: Array, refs: Array, valid: Array | None = None
) -> Array:
  """Mean chance to be preferred to one of R reference answers.

    mean_j sigmoid(r - r_ref_j)

  Args:
    r: [...] rewards.
    refs: [..., R] rewards of reference answers to the same prompt.
    valid: bool[..., R], those that were judged; None asks which are finite.

  Returns:
    [...] in [0, 1]; NaN where no reference counts or r is unknown.

  Reference: Reward Shaping to Mitigate Reward Hacking, arXiv 2502.18770.
  """
  refs, known = _samples(refs, valid)
  gap = jnp.asarray(r)[..., None] - masked.clean(refs, known)
  known = jnp.broadcast_to(known, gap.shape)
  chance = masked.masked_mean(jax.nn.sigmoid(gap), known, -1)
  return jnp.where(jnp.any(known, -1), chance, jnp.nan)


def _samples(x: Array, valid: Array | None) -> tuple[Array, Array]:
  """(samples without gradient and without holes, which of them count)."""
  x = lax.stop_gradient(jnp.asarray(x))
  known = jnp.isfinite(x) if valid is None else jnp.asarray(valid)
  known = jnp.broadcast_to(known, x.shape)
  return masked.clean(x, known), known
