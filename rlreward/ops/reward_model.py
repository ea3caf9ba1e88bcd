"""Losses of reward models, from scores to one number per comparison or label.

Every function takes plain arrays and gives one loss per pair, ranking, item or
step; how they are summed is the caller's. A slot whose weight is 0, whose mask
is false or whose target is missing changes neither value nor gradient, whatever
it holds. Scores of any finite size give finite gradients.
"""

from __future__ import annotations

from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rlreward.ops import logprob, masked
from rlreward.types import Array

Number = float | Array
RegressionKind = Literal["mse", "huber", "bce"]
REGRESSIONS = ("mse", "huber", "bce")
StepKind = Literal["bce", "soft"]
STEPS = ("bce", "soft")


def _at_least_zero(name: str, value: Any) -> None:
  """ValueError for a Python number out of [0, inf); arrays pass."""
  if isinstance(value, (int, float)) and not 0 <= value < np.inf:
    raise ValueError(f"{name} must be at least 0 and finite, got {value}")


def _weighted(weight: Number, *scores: Array) -> tuple[Array, Array, Any]:
  """(weight, weight is not 0, scores cleaned where it is), all of one shape."""
  _at_least_zero("weight", weight)
  chex.assert_equal_shape(scores)
  weight = jnp.broadcast_to(jnp.asarray(weight, float), scores[0].shape)
  live = weight != 0
  return weight, live, tuple(masked.clean(x, live) for x in scores)


def bradley_terry(
  chosen_P: Array,
  rejected_P: Array,
  *,
  margin: Number = 0.0,
  scale: Number = 1.0,
  label_smoothing: Number = 0.0,
  weight: Number = 1.0,
) -> Array:
  """-w [(1 - e) log sigma(d) + e log sigma(-d)], d = scale (c - r) - margin.

  `label_smoothing` e is the probability that the label is wrong: an array of
  1 - p makes it the cross-entropy with soft labels p. `weight` may be the
  strength of the preference (HelpSteer2's scaled Bradley-Terry).

  Args:
    chosen_P: scores of the better responses, any shape.
    rejected_P: scores of the worse ones.
    margin: nats by which the better is to lead, at least 0; number or [P].
    scale: nats per unit of score, positive; number or [P].
    label_smoothing: e in [0, 1]; number or [P].
    weight: at least 0, number or [P]; 0 leaves the pair out.

  Returns:
    f32[P], nats.

  Raises:
    ValueError: a number out of its range.

  Reference: Bradley and Terry, 1952; Llama 2, 2307.09288 (margin); cDPO.
  """
  _at_least_zero("margin", margin)
  logprob.check_positive("scale", scale)
  _at_least_zero("label_smoothing", label_smoothing)
  if isinstance(label_smoothing, (int, float)) and label_smoothing > 1:
    raise ValueError(f"label_smoothing must be <= 1, got {label_smoothing}")
  weight, live, (chosen, rejected) = _weighted(weight, chosen_P, rejected_P)
  # Settings of a pair left out may be NaN too.
  pull = jnp.where(live, scale, 1) * (chosen - rejected)
  pull = pull - jnp.where(live, margin, 0)
  wrong = jnp.where(live, label_smoothing, 0)
  loss = (1 - wrong) * jax.nn.softplus(-pull) + wrong * jax.nn.softplus(pull)
  return weight * loss


def centering_penalty(
  chosen_P: Array, rejected_P: Array, coefficient: float, weight: Number = 1.0
) -> Array:
  """coefficient (c + r)^2: pins the constant that comparisons leave free.

  Args:
    chosen_P: scores of the better responses, any shape.
    rejected_P: scores of the worse ones.
    coefficient: at least 0; 0.01 is usual.
    weight: at least 0, number or [P]; 0 leaves the pair out.

  Returns:
    f32[P], to be added to the loss of the pair.

  Raises:
    ValueError: a negative coefficient or weight.

  Reference: Eisenstein et al., Helping or Herding?, 2312.09244.
  """
  _at_least_zero("coefficient", coefficient)
  weight, _, (chosen, rejected) = _weighted(weight, chosen_P, rejected_P)
  return weight * coefficient * jnp.square(chosen + rejected)


def rao_kupper(
  chosen_P: Array,
  rejected_P: Array,
  tie_P: Array,
  log_theta: Number,
  weight: Number = 1.0,
) -> Array:
  """-log P(win) or -log P(tie), where a lead below log theta is not noticed.

    P(win) = sigma(d - log theta), P(loss) = sigma(-d - log theta),
    P(tie) = (theta^2 - 1) P(win) P(loss), d = c - r.

  Args:
    chosen_P: scores of the better responses (either one of a tie), any shape.
    rejected_P: scores of the others.
    tie_P: bool, the two were judged equal.
    log_theta: threshold in nats, positive; number or an array that broadcasts
      (softplus of a parameter, to learn it).
    weight: at least 0, number or [P]; 0 leaves the pair out.

  Returns:
    f32[P], nats.

  Raises:
    ValueError: a log_theta that is not positive, a negative weight.

  Reference: Rao and Kupper, Ties in Paired-Comparison Experiments, 1967.
  """
  logprob.check_positive("log_theta", log_theta)
  weight, live, (chosen, rejected) = _weighted(weight, chosen_P, rejected_P)
  chex.assert_equal_shape([chosen, tie_P])
  gap, tie = chosen - rejected, live & tie_P
  theta = jnp.where(live, log_theta, 1.0)
  win = -jax.nn.softplus(theta - gap)
  lose = -jax.nn.softplus(theta + gap)
  some = jnp.where(tie, theta, 1.0)  # no log of 0 where nothing is tied
  both = win + lose + 2 * some + jnp.log(-jnp.expm1(-2 * some))
  return -weight * jnp.where(tie, both, win)


def davidson(
  chosen_P: Array,
  rejected_P: Array,
  tie_P: Array,
  log_nu: Number,
  weight: Number = 1.0,
) -> Array:
  """-log P(win) or -log P(tie), where ties are likeliest between equals.

    P(win), P(loss), P(tie) = softmax(d / 2, -d / 2, log nu), d = c - r.

  log nu = -inf is Bradley-Terry.

  Args:
    chosen_P: scores of the better responses (either one of a tie), any shape.
    rejected_P: scores of the others.
    tie_P: bool, the two were judged equal.
    log_nu: how common ties are, below +inf; number or an array that broadcasts.
    weight: at least 0, number or [P]; 0 leaves the pair out.

  Returns:
    f32[P], nats.

  Raises:
    ValueError: log_nu NaN or +inf, a negative weight.

  Reference: Davidson, On Extending the Bradley-Terry Model to Accommodate Ties,
    1970.
  """
  if isinstance(log_nu, (int, float)) and not log_nu < np.inf:
    raise ValueError(f"log_nu must be a number below +inf, got {log_nu}")
  weight, live, (chosen, rejected) = _weighted(weight, chosen_P, rejected_P)
  chex.assert_equal_shape([chosen, tie_P])
  half, tie = (chosen - rejected) / 2, live & tie_P
  nu = jnp.where(live, log_nu, 0.0)
  total = jax.nn.logsumexp(jnp.stack([half, -half, nu]), axis=0)
  return weight * (total - jnp.where(tie, nu, half))


def plackett_luce(
  scores_PxK: Array,
  rank_PxK: Array,
  valid_PxK: Array | None = None,
  *,
  top: int | None = None,
) -> Array:
  """-sum_i [s_(i) - log sum_{j >= i} exp s_(j)]: the best, then the best left.

  Two items are Bradley-Terry. Items of equal rank each see the other among
  those left (Breslow's rule).

  Args:
    scores_PxK: scores of the K items of each ranking.
    rank_PxK: place of each item, small is good; only the order matters.
    valid_PxK: bool, items that exist; None means all.
    top: count only the choices of the first `top` places (all items stay among
      those to choose from); None counts all.

  Returns:
    f32[P], nats; 0 where fewer than two items are valid.

  Raises:
    ValueError: top below 1.

  Reference: Plackett, The Analysis of Permutations, 1975; ListMLE, 2008.
  """
  logprob.check_positive("top", top)
  shape = scores_PxK.shape
  valid = jnp.ones(shape, bool) if valid_PxK is None else jnp.asarray(valid_PxK)
  chex.assert_rank(scores_PxK, 2)
  chex.assert_equal_shape([scores_PxK, rank_PxK, valid])
  scores = masked.clean(scores_PxK, valid)
  rank = masked.clean(lax.stop_gradient(rank_PxK), valid, np.inf)
  # [P, i, j]: j is still there when i is chosen; i itself always is.
  left = rank[:, None, :] >= rank[:, :, None]
  left &= valid[:, None, :] | jnp.eye(rank.shape[1], dtype=bool)
  rest = jnp.where(left, scores[:, None, :], -jnp.inf)
  loss = jax.nn.logsumexp(rest, axis=-1) - scores
  if top is not None:
    place = jnp.sum(rank[:, None, :] < rank[:, :, None], axis=-1)
    valid &= place < top
  return masked.masked_sum(loss, valid, axis=-1)


def increasing_thresholds(raw: Array, gap_min: float = 1e-3) -> Array:
  """t_0 = raw_0, t_k = t_(k-1) + softplus(raw_k) + gap_min.

  Args:
    raw: [K-1] or [..., K-1], free parameters.
    gap_min: smallest distance, positive, so that no grade loses all its
      probability.

  Returns:
    f32 of the same shape, increasing along the last axis.

  Raises:
    ValueError: a gap_min that is not positive.
  """
  logprob.check_positive("gap_min", gap_min)
  raw = raw.astype(jnp.promote_types(raw.dtype, jnp.float32))
  gaps = jax.nn.softplus(raw[..., 1:]) + gap_min
  return jnp.cumsum(jnp.concatenate([raw[..., :1], gaps], axis=-1), axis=-1)


def ordinal(
  score_N: Array, label_N: Array, thresholds: Array, weight: Number = 1.0
) -> Array:
  """-log P(grade), P(grade <= k) = sigma(t_k - score): the cumulative logit.

  Args:
    score_N: one score per item.
    label_N: i32 grades in [0, K); another one gives NaN unless its weight is 0.
    thresholds: [K-1], increasing (`increasing_thresholds`), K >= 2.
    weight: at least 0, number or [N]; 0 leaves the item out.

  Returns:
    f32[N], nats.

  Raises:
    ValueError: concrete thresholds that do not increase, a negative weight.

  Reference: McCullagh, Regression Models for Ordinal Data, 1980.
  """
  if isinstance(thresholds, (tuple, list, np.ndarray)):
    if len(thresholds) < 1 or not np.all(np.diff(thresholds) > 0):
      raise ValueError(f"thresholds must increase, K - 1 >= 1: {thresholds}")
    thresholds = jnp.asarray(thresholds, float)
  chex.assert_rank(thresholds, 1)
  last = thresholds.shape[0]  # the highest grade
  weight, live, (score,) = _weighted(weight, score_N)
  chex.assert_equal_shape([score, label_N])
  label = jnp.where(live, label_N, 0)
  known = (label >= 0) & (label <= last)
  has_low, has_high = label > 0, label < last
  low = thresholds[jnp.clip(label - 1, 0, last - 1)]
  high = thresholds[jnp.clip(label, 0, last - 1)]
  # sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - exp(b - a)), with a > b.
  gap = jnp.where(has_low & has_high, high - low, 1.0)
  between = jnp.where(has_low & has_high, jnp.log(-jnp.expm1(-gap)), 0)
  below = jnp.where(has_high, jax.nn.log_sigmoid(high - score), 0)
  above = jnp.where(has_low, jax.nn.log_sigmoid(score - low), 0)
  loss = -(between + below + above)
  return jnp.where(known, weight * loss, jnp.nan)


def regression(
  pred_NxK: Array,
  target_NxK: Array,
  *,
  kind: RegressionKind = "mse",
  delta: float = 1.0,
) -> tuple[Array, Array]:
  """Loss of each of K attributes, where a NaN target is a missing label.

    mse    (y - t)^2
    huber  (y - t)^2 / 2 up to |y - t| = delta, delta (|y - t| - delta/2) beyond
    bce    -t log sigma(y) - (1 - t) log sigma(-y), y a logit and t in [0, 1]

  Args:
    pred_NxK: predictions, any shape.
    target_NxK: targets of the same shape, NaN where there is none.
    kind: one of REGRESSIONS.
    delta: where huber turns linear, in units of the target; positive.

  Returns:
    (loss f32[N, K], 0 where the target is missing; bool[N, K], target present).

  Raises:
    ValueError: unknown kind, or a delta that is not positive.

  Reference: HelpSteer2, 2406.08673; ArmoRM, 2406.12845.
  """
  if kind not in REGRESSIONS:
    raise ValueError(
      f"unknown regression {kind!r}; choose one of {REGRESSIONS}"
    )
  logprob.check_positive("delta", delta)
  chex.assert_equal_shape([pred_NxK, target_NxK])
  target = lax.stop_gradient(target_NxK)
  present = ~jnp.isnan(target)
  pred, target = masked.clean(pred_NxK, present), masked.clean(target, present)
  if kind == "bce":
    loss = jax.nn.softplus(pred) - target * pred
  elif kind == "mse":
    loss = jnp.square(pred - target)
  else:
    size = jnp.abs(pred - target)
    near = jnp.minimum(size, delta)
    loss = near * (size - near / 2)
  return masked.clean(loss, present), present


def step_labels(
  logits_NxT: Array,
  label_NxT: Array,
  mask_NxT: Array,
  kind: StepKind = "bce",
) -> Array:
  """-y log sigma(z) - (1 - y) log sigma(-z) at the tokens that end a step.

    bce   y = 1 if the label is above 0: right or wrong; of a success rate,
          whether any continuation succeeded (Math-Shepherd's hard estimate)
    soft  y = label: the success rate itself

  A head of two classes (TRL's and the Hugging Face token classifiers) has z =
  logit of right - logit of wrong.

  Args:
    logits_NxT: z of each position.
    label_NxT: bool, 0/1 or a success rate in [0, 1].
    mask_NxT: bool, positions that carry a label.
    kind: one of STEPS.

  Returns:
    f32[N, T], nats, 0 where the mask is false.

  Raises:
    ValueError: unknown kind.

  Reference: Let's Verify Step by Step, 2305.20050; Math-Shepherd, 2312.08935.
  """
  if kind not in STEPS:
    raise ValueError(f"unknown step label {kind!r}; choose one of {STEPS}")
  chex.assert_equal_shape([logits_NxT, label_NxT, mask_NxT])
  z = masked.clean(logits_NxT, mask_NxT)
  y = masked.clean(lax.stop_gradient(label_NxT), mask_NxT)
  if kind == "bce":
    y = jnp.where(y > 0, 1.0, 0.0)
  return masked.clean(jax.nn.softplus(z) - y * z, mask_NxT)


def pair_accuracy(chosen_P: Array, rejected_P: Array) -> Array:
  """1 where the better response has the higher score, 1/2 where equal.

  A model that scores everything alike is at 1/2; TRL counts a tie as wrong.

  Args:
    chosen_P: scores of the better responses, any shape.
    rejected_P: scores of the worse ones.

  Returns:
    f32[P] without gradient; 0 where a score is NaN.
  """
  chex.assert_equal_shape([chosen_P, rejected_P])
  right = jnp.where(chosen_P == rejected_P, 0.5, chosen_P > rejected_P)
  return lax.stop_gradient(right.astype(jnp.float32))
