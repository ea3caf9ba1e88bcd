"""K opinions of one answer made one: ensembles of rewards, and attributes.

Members of an ensemble guess the same quantity, so they are averaged, or judged
by the worst of them where they disagree; attributes are different quantities,
which a product, a harmonic mean or a log-sigmoid sum joins so that one cannot
be bought with another. Whatever the rule, a member that is masked or has weight
0 is not there: a NaN in its place changes neither the value nor the gradient.

Reward models know their scores up to a shift of each prompt. The median and the
minimum of members mean nothing until the shift is taken off each of them.
"""

from __future__ import annotations

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from rlreward.ops import masked
from rlreward.types import Array

Rule = Literal[
  "mean",
  "median",
  "min",
  "mean_minus_std",
  "uwo",
  "sum",
  "product",
  "geometric",
  "harmonic",
  "log_sigmoid",
]
RULES = (
  "mean",
  "median",
  "min",
  "mean_minus_std",
  "uwo",
  "sum",
  "product",
  "geometric",
  "harmonic",
  "log_sigmoid",
)
UNWEIGHTED = ("median", "min")
FLOORS = {"product": 0.0, "geometric": 1e-8, "harmonic": 1e-8}
Normalise = Literal["none", "zscore", "minmax"]
NORMALISE = ("none", "zscore", "minmax")


def aggregate(
  r: Array,
  rule: Rule,
  member_mask: Array | None = None,
  weight: Array | None = None,
  *,
  coef: float | Array = 1.0,
  floor: float | None = None,
) -> Array:
  """One number for K.

    mean            m = sum w r / sum w
    median          the middle one; of an even number the mean of the middle two
    min             the worst case (WCO); ties share the gradient
    mean_minus_std  m - coef sqrt(v),  v = sum w (r - m)^2 / sum w
    uwo             m - coef v         (uncertainty-weighted optimisation)
    sum             sum w r
    product         prod r^w           of r no smaller than the floor
    geometric       exp(sum w log r / sum w)        the same
    harmonic        sum w / sum (w / r)             the same
    log_sigmoid     sum w log sigmoid(r)

  Sums are over the members that count. With one member every rule but the last
  gives that member (times or to the power of its weight in `sum` and
  `product`), if it lies above the floor.

  Args:
    r: [..., K], K members.
    rule: of RULES.
    member_mask: bool, broadcastable to r; the others are left out. None takes
      all, and an unknown (NaN) member makes an unknown value.
    weight: broadcastable to r; None is 1 for each. Not negative, except in
      `sum`; a member of weight 0 is left out. Not for UNWEIGHTED rules.
    coef: of the spread; used by `mean_minus_std` (in standard deviations) and
      `uwo` (in 1 / units of the reward).
    floor: what smaller members become; None is FLOORS[rule]. A product needs
      one because two bad rewards must not make a good one.

  Returns:
    f32[...]; NaN, without gradient, where no member counts.

  Raises:
    ValueError: an unknown rule, weights that the rule has no use for, or a
      floor at which it is not defined.

  Reference: Helping or Herding? arXiv 2312.09244 (mean, median, min, mean minus
  std of the population); Reward Model Ensembles Help Mitigate Overoptimization,
  arXiv 2310.02743 (WCO, UWO); lambda-harmonic, arXiv 2407.12164; sums of log
  sigmoids, arXiv 2402.00742.
  """
  if rule not in RULES:
    raise ValueError(f"unknown rule {rule!r}; choose one of {RULES}")
  if rule in UNWEIGHTED and weight is not None:
    raise ValueError(f"rule {rule!r} has no use for weights")
  least = FLOORS.get(rule, 0.0) if floor is None else floor
  if rule in ("geometric", "harmonic") and least <= 0:
    raise ValueError(f"rule {rule!r} needs a floor above 0, got {least}")
  if rule == "product" and weight is not None and least < 0:
    raise ValueError(f"a product of powers needs a floor of 0, got {least}")
  r = jnp.asarray(r)
  known = jnp.ones((), bool) if member_mask is None else member_mask
  if weight is not None:
    known = jnp.asarray(known) & (jnp.asarray(weight) != 0)
  x = masked.clean(r, known)
  known = jnp.broadcast_to(known, x.shape)
  w = jnp.where(known, jnp.ones((), x.dtype) if weight is None else weight, 0)
  if rule == "product":
    value = _product(x, known, None if weight is None else w, least)
  elif rule in ("median", "min"):
    value = (_median if rule == "median" else _min)(x, known)
  elif rule in ("mean_minus_std", "uwo"):
    mean, var = _moments(x, known, w)
    value = mean - coef * (_sqrt(var) if rule == "mean_minus_std" else var)
  else:
    value = _weighted(x, known, w, rule, least)
  return jnp.where(jnp.any(known, -1), value, jnp.nan)


def non_dominated(
  r_GxK: Array, valid_G: Array | None = None, group_G: Array | None = None
) -> Array:
  """Which of G answers no other one beats.

  a dominates b where it is as good in every reward and better in one. Equal
  answers do not dominate each other, so all of them are kept, and one answer at
  least is kept wherever one counts. Every pair is compared: G^2 K comparisons.

  Args:
    r_GxK: K rewards of G answers; more leading axes are welcome.
    valid_G: bool, answers that were judged; the others neither win nor are
      kept. None, and True beside an unknown reward, ask which are finite.
    group_G: labels; only answers with the same one are compared. None compares
      all.

  Returns:
    bool[G].

  Reference: Parrot, arXiv 2401.05675.
  """
  r, valid, same = _compared(r_GxK, valid_G, group_G)
  a, b = r[..., :, None, :], r[..., None, :, :]
  beats = jnp.all(a >= b, -1) & jnp.any(a > b, -1) & same
  return valid & ~jnp.any(beats, -2)


def pareto_weights(
  r_GxK: Array,
  valid_G: Array | None = None,
  group_G: Array | None = None,
  *,
  of: int | None = None,
  normalise: Normalise = "none",
) -> Array:
  """What each of G answers weighs in Parrot's policy gradient.

    w_i = 1{i in P} (sum_k r_ik) / |P|,   P the answers that none dominates

  No reward needs a weight: an answer is kept for being best in any direction.
  There is no baseline, so a negative reward pushes its answer away even though
  nothing beats it; `normalise` brings all rewards of a group to a scale first.

  Args:
    r_GxK: as in `non_dominated`, and so are the next two.
    valid_G: bool.
    group_G: labels; each group has its own P.
    of: the reward that counts for an answer; None is the sum of all K. P is
      found with all of them.
    normalise: "none"; "minmax", to [0, 1] over the group; "zscore", by the
      group's mean and population deviation. A reward that does not vary is 0.

  Returns:
    f32[G]; 0 outside P.

  Raises:
    ValueError: an unknown `normalise`.

  Reference: Parrot, arXiv 2401.05675, equation 3; the normalisations are ours.
  """
  if normalise not in NORMALISE:
    raise ValueError(f"unknown {normalise!r}; choose one of {NORMALISE}")
  r, valid, same = _compared(r_GxK, valid_G, group_G)
  kept = non_dominated(r, valid, group_G)
  if normalise != "none":
    pairs = (*same.shape, r.shape[-1])
    others = jnp.broadcast_to(r[..., None, :, :], pairs)
    mine = jnp.broadcast_to(same[..., None], pairs)
    if normalise == "minmax":
      shift = jnp.min(jnp.where(mine, others, jnp.inf), -2)
      scale = jnp.max(jnp.where(mine, others, -jnp.inf), -2) - shift
    else:
      shift = masked.masked_mean(others, mine, -2)
      scale = _sqrt(masked.masked_var(others, mine, -2))
    varies = (scale > 0) & valid[..., None]
    r = jnp.where(varies, r - jnp.where(varies, shift, 0), 0)
    r = r / jnp.where(varies, scale, 1)
  gain = jnp.sum(r, -1) if of is None else r[..., of]
  size = jnp.sum(same & kept[..., None, :], -1)
  return jnp.where(kept, gain / jnp.maximum(size, 1), 0)


def _compared(r, valid, group) -> tuple[Array, Array, Array]:
  """(rewards without holes, rows that count, which pairs are compared)."""
  r = jnp.asarray(r)
  known = jnp.all(jnp.isfinite(r), -1)
  if valid is not None:
    chex.assert_equal_shape([valid, known])
    known = known & valid
  same = known[..., :, None] & known[..., None, :]
  if group is not None:
    group = jnp.asarray(group)
    same = same & (group[..., :, None] == group[..., None, :])
  return masked.clean(r, known[..., None]), known, same


def _mean(x: Array, w: Array) -> Array:
  total = jnp.sum(w, -1)
  some = total != 0
  return jnp.where(some, jnp.sum(w * x, -1) / jnp.where(some, total, 1), 0)


def _moments(x: Array, known: Array, w: Array) -> tuple[Array, Array]:
  mean = _mean(x, w)
  gap = masked.clean(x - mean[..., None], known)
  return mean, _mean(gap * gap, w)


def _sqrt(x: Array) -> Array:
  """sqrt(x), and 0 without gradient at 0."""
  some = ~(x <= 0)  # a NaN stays one
  return jnp.where(some, jnp.sqrt(jnp.where(some, x, 1)), 0)


def _min(x: Array, known: Array) -> Array:
  return jnp.min(jnp.where(known, x, jnp.inf), -1)


def _median(x: Array, known: Array) -> Array:
  count = jnp.sum(known, -1)[..., None]
  ordered = jnp.sort(jnp.where(known, x, jnp.inf), -1)  # NaN sorts last
  at = lambda i: jnp.take_along_axis(ordered, jnp.maximum(i, 0), -1)[..., 0]
  unknown = jnp.any(jnp.isnan(x), -1)
  middle = (at((count - 1) // 2) + at(count // 2)) / 2
  return jnp.where(unknown, jnp.nan, middle)


def _product(x: Array, known: Array, w: Array | None, floor: float) -> Array:
  x = jnp.maximum(x, floor)
  if w is None:
    return jnp.prod(jnp.where(known, x, 1), -1)
  alive = ~(x <= 0) | ~known
  powers = w * jnp.log(jnp.where(alive & known, x, 1))
  return jnp.where(jnp.all(alive, -1), jnp.exp(jnp.sum(powers, -1)), 0)


def _weighted(
  x: Array, known: Array, w: Array, rule: Rule, floor: float
) -> Array:
  if rule == "mean":
    return _mean(x, w)
  if rule == "sum":
    return jnp.sum(w * x, -1)
  if rule == "log_sigmoid":
    return jnp.sum(w * jax.nn.log_sigmoid(x), -1)
  x = jnp.where(known, jnp.maximum(x, floor), 1)
  if rule == "geometric":
    return jnp.exp(_mean(jnp.log(x), w))
  mean = _mean(1 / x, w)
  return 1 / jnp.where(mean == 0, 1, mean)
