"""Per-token policy losses: records of what a loss needs and how it is computed.

A loss is a pair: `needs`, the extra arrays it reads, and `terms`, a function of
per-token arrays. Sums and divisions happen elsewhere (`masked.reduce`), so each
loss goes with each aggregation. Only `logp` and the entropy carry gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import chex
import jax.numpy as jnp
from jax import lax

from rlreward.ops import masked
from rlreward.types import Array

Level = Literal["token", "sequence", "sequence_token"]
LEVELS = ("token", "sequence", "sequence_token")
Metrics = dict[str, Array]
_SEQUENCE_LIMIT = 10.0  # largest log-ratio of a sequence, as in verl's GSPO


class Loss(NamedTuple):
  """A policy loss, or a term to add to one.

  Attributes:
    needs: names of the arrays that `extras` must hold ("reference_logp",
      "entropy", "rollout_weight"), so that nothing else is computed.
    terms: (logp, old_logp, advantage, mask, extras) -> (loss, metrics), all
      [N, T], both 0 where the mask is false. `old_logp` None means on-policy:
      the ratio is 1 and its gradient that of logp.
  """

  needs: frozenset[str]
  terms: Callable[
    [Array, Array | None, Array, Array, Mapping[str, Array]],
    tuple[Array, Metrics],
  ]


def importance_ratio(
  logp_NxT: Array,
  old_logp_NxT: Array | None,
  mask_NxT: Array,
  level: Level = "token",
) -> Array:
  """pi / pi_old of each token, or of the sequence that the token is in.

    token           rho_t = exp(logp_t - old_t)
    sequence        s = exp(mean_t (logp_t - old_t)), the same for all tokens
    sequence_token  sg[s] * exp(logp_t - sg[logp_t])

  The sequence forms belong with the "seq_mean_token_mean" reduction; with the
  others a sequence counts as often as it has tokens.

  Args:
    logp_NxT: log-prob of the tokens, with gradient.
    old_logp_NxT: log-prob when they were sampled; None means the same as logp.
    mask_NxT: bool.
    level: one of LEVELS.

  Returns:
    f32[N, T], 1 where the mask is false. Log-ratios are clipped to +-20
    (token) or +-10 (sequence).

  Raises:
    ValueError: unknown level.

  Reference: PPO 1707.06347; GSPO 2507.18071.
  """
  if level not in LEVELS:
    raise ValueError(f"unknown level {level!r}; choose one of {LEVELS}")
  logp = masked.clean(logp_NxT, mask_NxT)
  old = logp if old_logp_NxT is None else masked.clean(old_logp_NxT, mask_NxT)
  gap = logp - lax.stop_gradient(old)
  if level == "token":
    return masked.safe_exp(gap)
  mean = masked.masked_mean(gap, mask_NxT, axis=1)[:, None]
  sequence = masked.safe_exp(mean, _SEQUENCE_LIMIT)
  if level == "sequence_token":
    sequence = lax.stop_gradient(sequence) * jnp.exp(
      logp - lax.stop_gradient(logp)
    )
  return jnp.where(mask_NxT, sequence, 1)


def _inputs(logp: Array, advantage: Array, mask: Array) -> tuple[Array, Array]:
  chex.assert_rank(logp, 2)
  chex.assert_equal_shape([logp, advantage, mask])
  return (
    masked.clean(logp, mask),
    lax.stop_gradient(masked.clean(advantage, mask)),
  )


def _metrics(ratio: Array, clipped: Array, mask: Array) -> Metrics:
  metrics = {"ratio": ratio, "clip_fraction": clipped.astype(jnp.float32)}
  return {
    k: lax.stop_gradient(masked.clean(v, mask)) for k, v in metrics.items()
  }


def reinforce() -> Loss:
  """-A log pi: the plain score-function loss, blind to old_logp.

  Returns:
    A loss that needs nothing; the ratio is reported, never used.

  Reference: Williams 1992; Back to Basics, 2402.14740.
  """

  def terms(logp, old_logp, advantage, mask, extras):
    del extras
    ratio = importance_ratio(logp, old_logp, mask)
    logp, advantage = _inputs(logp, advantage, mask)
    return -advantage * logp, _metrics(ratio, jnp.zeros_like(mask), mask)

  return Loss(frozenset(), terms)


def clipped(
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  dual_clip: float | None = None,
  level: Level = "token",
) -> Loss:
  """-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A).

  clip_high above clip_low is DAPO's clip-higher; a sequence level is GSPO
  (3e-4 and 4e-4 there: its ratio is a geometric mean). With `dual_clip` = c the
  loss of a negative advantage is at most -c A.

  Args:
    clip_low: how far below 1 the ratio may pay, in [0, 1].
    clip_high: how far above 1 the ratio may pay.
    dual_clip: bound on the ratio for negative advantages, above 1; None is off.
    level: what the ratio is of, see `importance_ratio`.

  Returns:
    A loss that needs nothing. Metric "clip_fraction" is 1 where a clip has
    removed the gradient.

  Raises:
    ValueError: bounds that cannot be.

  Reference: PPO 1707.06347; dual clip 1912.09729; DAPO 2503.14476; GSPO
    2507.18071.
  """
  _check_clip(clip_low, clip_high)
  if dual_clip is not None and dual_clip <= 1:
    raise ValueError(f"dual_clip must be above 1, got {dual_clip}")
  if level not in LEVELS:
    raise ValueError(f"unknown level {level!r}; choose one of {LEVELS}")

  def terms(logp, old_logp, advantage, mask, extras):
    del extras
    ratio = importance_ratio(logp, old_logp, mask, level)
    _, advantage = _inputs(logp, advantage, mask)
    free = -ratio * advantage
    bound = -jnp.clip(ratio, 1 - clip_low, 1 + clip_high) * advantage
    active = bound > free
    loss = jnp.maximum(free, bound)
    if dual_clip is not None:
      cap = -dual_clip * advantage
      too_far = (advantage < 0) & (cap < loss)
      loss = jnp.where(too_far, cap, loss)
      active = active | too_far
    return masked.clean(loss, mask), _metrics(ratio, active, mask)

  return Loss(frozenset(), terms)


def cispo(clip_low: float, clip_high: float) -> Loss:
  """-sg[clip(rho, 1 - clip_low, 1 + clip_high)] A log pi.

  The clip bounds the weight of a token and never removes its gradient.

  Args:
    clip_low: 1 leaves the weight unbounded below, as the paper does.
    clip_high: how far above 1 the weight may go.

  Returns:
    A loss that needs nothing. Metric "clip_fraction" is 1 where the weight is
    bounded.

  Raises:
    ValueError: bounds that cannot be.

  Reference: MiniMax-M1, 2506.13585.
  """
  _check_clip(clip_low, clip_high)

  def terms(logp, old_logp, advantage, mask, extras):
    del extras
    ratio = importance_ratio(logp, old_logp, mask)
    logp, advantage = _inputs(logp, advantage, mask)
    weight = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    loss = -lax.stop_gradient(weight) * advantage * logp
    return loss, _metrics(ratio, weight != ratio, mask)

  return Loss(frozenset(), terms)


def _check_clip(low: float, high: float) -> None:
  if not (0 <= low <= 1 and high >= 0):
    raise ValueError(
      f"clip_low must lie in [0, 1] and clip_high be at least 0, got "
      f"clip_low={low}, clip_high={high}"
    )


def kl_penalty(
  surrogate: Callable[[Array, Array, Array | None], Array],
  value: Callable[[Array, Array], Array],
  beta: float | Array,
  weight: Callable[[Array, Array | None, Array], Array] | None = None,
) -> Loss:
  """beta * KL to the reference, as a term of the loss.

  Args:
    surrogate: (logp, reference_logp, weight) -> per-token loss, from `kl`.
    value: (logp, reference_logp) -> what to report, from `kl`.
    beta: coefficient per token, nats.
    weight: (logp, old_logp, mask) -> pi / behaviour, e.g. `importance_ratio`:
      the surrogate's gradient stays right when several updates share a
      rollout. None is GRPO's practice, right on-policy only.

  Returns:
    A term that needs "reference_logp"; metric "kl" is the value, unscaled.

  Reference: DeepSeekMath, 2402.03300.
  """

  def terms(logp, old_logp, advantage, mask, extras):
    del advantage
    chex.assert_equal_shape([logp, mask])
    reference = masked.clean(_read(extras, "reference_logp"), mask)
    ratio = None if weight is None else weight(logp, old_logp, mask)
    logp = masked.clean(logp, mask)
    loss = beta * surrogate(logp, reference, ratio)
    kl = lax.stop_gradient(value(logp, reference))
    return masked.clean(loss, mask), {"kl": masked.clean(kl, mask)}

  return Loss(frozenset({"reference_logp"}), terms)


def weighted(loss: Loss) -> Loss:
  """w * loss, with w = pi_old / behaviour of rows that another policy sampled.

  Weigh the surrogate and then `add` the KL term, which is not weighted.

  Args:
    loss: a policy loss.

  Returns:
    A loss that also needs "rollout_weight", see `importance.rollout_weight`.

  Reference: decoupled PPO, 2110.00641.
  """

  def terms(logp, old_logp, advantage, mask, extras):
    value, metrics = loss.terms(logp, old_logp, advantage, mask, extras)
    weight = masked.clean(_read(extras, "rollout_weight"), mask)
    return lax.stop_gradient(weight) * value, metrics

  return Loss(loss.needs | {"rollout_weight"}, terms)


def entropy_bonus(coef: float | Array) -> Loss:
  """-coef * entropy, as a term of the loss.

  Args:
    coef: nats of entropy are worth this much.

  Returns:
    A term that needs "entropy" (with gradient); metric "entropy".
  """

  def terms(logp, old_logp, advantage, mask, extras):
    del logp, old_logp, advantage
    entropy = masked.clean(_read(extras, "entropy"), mask)
    return -coef * entropy, {"entropy": lax.stop_gradient(entropy)}

  return Loss(frozenset({"entropy"}), terms)


def _read(extras: Mapping[str, Array], name: str) -> Array:
  if name not in extras:
    raise ValueError(f"the loss needs {name!r}; extras hold {sorted(extras)}")
  return extras[name]


def add(loss: Loss, *more: Loss) -> Loss:
  """The sum of a loss and terms; needs and metrics are united.

  Args:
    loss: a policy loss.
    *more: terms from `kl_penalty` or `entropy_bonus`.

  Returns:
    One loss.

  Raises:
    ValueError: when called, if two parts report a metric of the same name.
  """
  parts = (loss, *more)

  def terms(logp, old_logp, advantage, mask, extras):
    total, metrics = loss.terms(logp, old_logp, advantage, mask, extras)
    for part in more:
      value, extra = part.terms(logp, old_logp, advantage, mask, extras)
      twice = metrics.keys() & extra.keys()
      if twice:
        raise ValueError(f"two terms report {sorted(twice)}; keep one of them")
      total, metrics = total + value, {**metrics, **extra}
    return total, metrics

  return Loss(frozenset().union(*(part.needs for part in parts)), terms)


def overlong_penalty(
  length_N: Array, max_length: int, buffer: int, factor: float = 1.0
) -> Array:
  """DAPO's soft penalty near the length limit, to be added to the reward.

  0 up to max_length - buffer, then linearly down to -factor at max_length, and
  -factor beyond.

  Args:
    length_N: tokens of each completion.
    max_length: the limit, tokens.
    buffer: width of the slope, tokens.
    factor: the largest penalty.

  Returns:
    f32[N], in [-factor, 0].

  Raises:
    ValueError: a buffer that does not fit under the limit.

  Reference: DAPO, 2503.14476.
  """
  if not 0 < buffer <= max_length:
    raise ValueError(
      f"buffer must lie in (0, max_length={max_length}], got {buffer}"
    )
  over = (jnp.asarray(length_N, jnp.float32) - (max_length - buffer)) / buffer
  return -factor * jnp.clip(over, 0, 1)
