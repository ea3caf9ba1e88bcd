"""Preference losses: one pairwise loss of two scores per pair, many shapes.

A score is what a method makes of a sequence: log pi - log ref summed over the
answer (DPO and kin), a mean log-prob (SimPO), log-odds (ORPO), a reward (the
Bradley-Terry model). What becomes of the pair's two scores is `pairwise`.

  method     scores                             pairwise
  DPO        log-ratio sums                     sigmoid
  CREAM      log-ratio sums                     sigmoid, label_smoothing = 1 - C
  f-DPO      f_score(log-ratio sums)            sigmoid
  SimPO      mean log-probs                     sigmoid, margin = gamma
  AlphaPO    f_score(mean log-probs, "alpha")   sigmoid, margin = gamma
  CPO        log-prob sums                      sigmoid, plus an NLL of chosen
  ORPO       odds_ratio(mean log-probs), 0      sigmoid, beta 1, plus an NLL
  WPO        log-ratio sums                     sigmoid, weight
  REBEL      log-ratio sums                     squared, margin = reward gap
  reward     rewards                            sigmoid, beta 1, plus centring

Values are per pair; sums and divisions happen elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from rlreward.ops import masked
from rlreward.types import Array

Number = float | Array
Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]
DIVERGENCES = ("reverse_kl", "forward_kl", "js", "alpha")
_LIMIT = 20.0  # exp is continued by its tangent from here on, in f_score
_LARGEST_LOGP = -1e-6  # of a mean token log-prob; the odds are infinite at 0


def sequence_logp(
  logp_NxT: Array,
  mask_NxT: Array,
  normalise: Literal["sum", "mean"] = "sum",
) -> Array:
  """sum_t log pi(y_t), or its mean over the tokens of the answer.

  Args:
    logp_NxT: log-probs (or log-ratios to the reference), nats.
    mask_NxT: bool, tokens of the answer, its end included.
    normalise: "sum", or "mean" for nats per token.

  Returns:
    f32[N]; 0 for a row without a token.

  Raises:
    ValueError: unknown normalise.
  """
  chex.assert_equal_shape([logp_NxT, mask_NxT])
  if normalise == "sum":
    return masked.masked_sum(logp_NxT, mask_NxT, axis=1)
  if normalise == "mean":
    return masked.masked_mean(logp_NxT, mask_NxT, axis=1)
  raise ValueError(f"normalise is 'sum' or 'mean', got {normalise!r}")


def _tangent(x: Array, function: Callable[[Array], Array]) -> Array:
  """function in {exp, expm1} up to the limit, its tangent beyond."""
  over = jnp.maximum(x - _LIMIT, 0)
  return function(jnp.minimum(x, _LIMIT)) + jnp.exp(_LIMIT) * over


def f_score(
  log_ratio: Array,
  divergence: Divergence = "reverse_kl",
  alpha: float = 0.5,
) -> Array:
  """f'(t) at t = pi / ref: the score of DPO under another divergence.

    reverse_kl  log t                          plain DPO
    forward_kl  1 - 1 / t
    js          log(2 t / (1 + t))
    alpha       (t^(alpha - 1) - 1) / (alpha - 1)

  alpha is TRL's: 1 is the reverse and 0 the forward KL; the paper's is 1 minus
  that. On mean log-probs, "alpha" with 1 - a is AlphaPO's reward of strength a.
  The unknown normaliser cancels only in chosen - rejected: kinds that score a
  side alone (nca_pair, bco_pair, sppo, apo_zero, apo_down) want reverse_kl.

  Args:
    log_ratio: log pi - log ref of a sequence, any shape, nats.
    divergence: one of DIVERGENCES.
    alpha: for "alpha" only.

  Returns:
    f32 of the same shape, increasing in log_ratio. Exponentials go on as
    straight lines past e^20: no overflow, and a gradient where TRL's clamp
    has none.

  Raises:
    ValueError: unknown divergence.

  Reference: f-DPO 2309.16240; AlphaPO 2501.03884.
  """
  if divergence not in DIVERGENCES:
    raise ValueError(
      f"unknown divergence {divergence!r}; choose one of {DIVERGENCES}"
    )
  if divergence == "forward_kl":
    return 1 - _tangent(-log_ratio, jnp.exp)
  if divergence == "js":
    return jnp.log(2.0) + jax.nn.log_sigmoid(log_ratio)
  power = alpha - 1
  if divergence == "reverse_kl" or abs(power) < 1e-6:
    return log_ratio
  return _tangent(power * log_ratio, jnp.expm1) / power


def odds_ratio(chosen_mean_logp_P: Array, rejected_mean_logp_P: Array) -> Array:
  """log odds(chosen) - log odds(rejected), odds(a) = e^a / (1 - e^a).

  ORPO is NLL(chosen) + lambda * pairwise(this, 0, beta=1).

  Args:
    chosen_mean_logp_P: mean token log-prob, nats, at most 0. Values above
      -1e-6 count as -1e-6 and carry no gradient.
    rejected_mean_logp_P: the same of the other answer.

  Returns:
    f32[P], nats.

  Reference: ORPO, 2403.07691.
  """
  chex.assert_equal_shape([chosen_mean_logp_P, rejected_mean_logp_P])
  a = jnp.minimum(chosen_mean_logp_P, _LARGEST_LOGP)
  b = jnp.minimum(rejected_mean_logp_P, _LARGEST_LOGP)
  return (a - b) - (jnp.log(-jnp.expm1(a)) - jnp.log(-jnp.expm1(b)))


class _Pairs(NamedTuple):
  """What the shapes below are functions of; z = beta (c - r) - margin."""

  c: Array
  r: Array
  z: Array
  beta: Number
  eps: Array
  tau: float


_ls = lambda x: -jax.nn.log_sigmoid(x)
_sigmoid = jax.nn.sigmoid
_ANY = (0.0, 1.0)


def _smooth(p: _Pairs) -> Array:
  return (1 - p.eps) * _ls(p.z) + p.eps * _ls(-p.z)


def _exo(p: _Pairs) -> Array:
  up, down = jax.nn.log_sigmoid(p.z), jax.nn.log_sigmoid(-p.z)
  win = _sigmoid(p.z) * (up - jnp.log1p(-p.eps))
  return win + _sigmoid(-p.z) * (down - jnp.log(p.eps))


def _sppo(p: _Pairs) -> Array:
  target = (0.5 - p.eps) / p.beta
  return (p.c - target) ** 2 + (p.r + target) ** 2


def _discopop(p: _Pairs) -> Array:
  scaled = p.z / p.tau
  # sigmoid(scaled) exp(-z) in one exponent: apart they are 0 * inf.
  blended = jnp.exp(jax.nn.log_sigmoid(scaled) - p.z)
  return _ls(p.z) * _sigmoid(-scaled) + blended


class _Shape(NamedTuple):
  """A shape and what it reads: where eps may lie, whether it has a margin."""

  loss: Callable[[_Pairs], Array]
  smoothing: tuple[float, float] | None = None
  margin: bool = True


_SHAPES = {
  "sigmoid": _Shape(_smooth, _ANY),
  "robust": _Shape(
    lambda p: ((1 - p.eps) * _ls(p.z) - p.eps * _ls(-p.z)) / (1 - 2 * p.eps),
    (0.0, 0.499),
  ),
  "hinge": _Shape(lambda p: jax.nn.relu(1 - p.z)),
  "ipo": _Shape(lambda p: (p.c - p.r - 0.5 / p.beta) ** 2, margin=False),
  "squared": _Shape(lambda p: p.z**2),
  "exo_pair": _Shape(_exo, (1e-6, 1 - 1e-6)),
  "discopop": _Shape(_discopop),
  "nca_pair": _Shape(
    lambda p: _ls(p.beta * p.c) + (_ls(-p.beta * p.c) + _ls(-p.beta * p.r)) / 2,
    margin=False,
  ),
  "bco_pair": _Shape(
    lambda p: _ls(p.beta * p.c) + _ls(-p.beta * p.r), margin=False
  ),
  "sppo": _Shape(_sppo, _ANY, margin=False),
  "sppo_hard": _Shape(_sppo, margin=False),
  "apo_zero": _Shape(
    lambda p: _sigmoid(-p.beta * p.c) + _sigmoid(p.beta * p.r), margin=False
  ),
  "apo_down": _Shape(
    lambda p: _sigmoid(p.beta * p.c) + _sigmoid(-p.z), margin=False
  ),
  "aot": _Shape(_smooth, _ANY, margin=False),
  "aot_unpaired": _Shape(_smooth, _ANY, margin=False),
}
KINDS = tuple(_SHAPES)
_SORTED = ("aot", "aot_unpaired")


def _number(x: Number) -> float | None:
  """x where it is one number that can be looked at before running."""
  return None if isinstance(x, Tracer) or np.ndim(x) else float(x)


def _check(kind: str, beta: Number, eps: Number, margin: Number) -> None:
  if kind not in _SHAPES:
    raise ValueError(f"unknown kind {kind!r}; choose one of {KINDS}")
  shape, known = _SHAPES[kind], _number(beta)
  if known is not None and not known > 0:
    raise ValueError(f"beta must be above 0, got {known}")
  if not shape.margin and _number(margin) != 0:
    those = tuple(k for k in KINDS if _SHAPES[k].margin)
    raise ValueError(f"{kind!r} has no margin; these do: {those}")
  known = _number(eps)
  if shape.smoothing is None:
    if known != 0:
      those = tuple(k for k in KINDS if _SHAPES[k].smoothing)
      raise ValueError(f"{kind!r} has no label_smoothing; these do: {those}")
  elif known is not None:
    low, high = shape.smoothing
    if not low <= known <= high:
      raise ValueError(
        f"label_smoothing of {kind!r} lies in [{low}, {high}], got {known}"
      )


def _by_rank(upper: Array, lower: Array, valid: Array) -> tuple[Array, Array]:
  """upper, and in each slot the value of `lower` that has upper's rank."""
  last = lambda x: jnp.argsort(jnp.where(valid, x, jnp.inf))
  rank = jnp.argsort(last(upper))
  return upper, lower[last(lower)][rank]


def pairwise(
  chosen_P: Array,
  rejected_P: Array,
  *,
  beta: Number,
  kind: str = "sigmoid",
  label_smoothing: Number = 0.0,
  margin: Number = 0.0,
  weight: Number = 1.0,
  valid_P: Array | None = None,
  reference_margin_P: Array | None = None,
  discopop_tau: float = 0.05,
) -> Array:
  """The loss of pairs, of h = chosen - rejected and z = beta h - margin.

    With ls(z) = -log sigmoid(z), eps = label_smoothing, c and r the scores:

    sigmoid    (1 - eps) ls(z) + eps ls(-z)              DPO, cDPO, BT, SimPO
    robust     ((1 - eps) ls(z) - eps ls(-z)) / (1 - 2 eps)       rDPO
    hinge      max(0, 1 - z)                                      SLiC
    ipo        (h - 1 / (2 beta))^2                      beta is IPO's tau
    squared    z^2                                       REBEL
    exo_pair   KL(Bernoulli(sigmoid z) || Bernoulli(1 - eps))     EXO
    discopop   (1 - s) ls(z) + s exp(-z), s = sigmoid(z / tau)    DiscoPOP
    nca_pair   ls(beta c) + (ls(-beta c) + ls(-beta r)) / 2       NCA
    bco_pair   ls(beta c) + ls(-beta r)                  BCO at delta 0
    sppo       (c - t)^2 + (r + t)^2, t = (1/2 - eps) / beta      SPPO
    sppo_hard  sppo with eps = 0
    apo_zero   sigmoid(-beta c) + sigmoid(beta r)
    apo_down   sigmoid(beta c) + sigmoid(-z)
    aot        sigmoid's, of sorted policy margins against sorted reference's
    aot_unpaired  sigmoid's, of sorted chosen against sorted rejected scores

  The sorted kinds compare quantiles over the batch: cutting it into
  microbatches gives another loss. Slot i holds the loss of the quantile that
  i's upper value is.

  IPO's scale of beta depends on the scores: sums over tokens are the default
  here, as in the paper's equations and the original DPO code; TRL's DPO gives
  it means per token (sequence_logp with "mean").

  Args:
    chosen_P: score of the preferred answer, with gradient: a log-ratio to the
      reference, or a log-prob or a reward for methods without one.
    rejected_P: score of the other answer.
    beta: above 0, a number or f32[P].
    kind: one of KINDS.
    label_smoothing: probability that the label is wrong, a number or f32[P].
      Above 1/2 it trains the reversed pair. In "robust" a known flip rate
      below 1/2; in "exo_pair" above 0, 1e-3 in its paper; in "sppo" 1 -
      P(chosen wins).
    margin: subtracted from beta h, a number or f32[P]: SimPO's gamma (not
      gamma / beta), the reward gap in "squared".
    weight: factor, a number or f32[P]. Neither it nor margin nor
      label_smoothing is differentiated.
    valid_P: bool, pairs that count; None means all.
    reference_margin_P: log ref(chosen) - log ref(rejected), read by "aot".
    discopop_tau: temperature of "discopop", in (0, 1).

  Returns:
    f32[P], 0 and without gradient where a pair is not valid.

  Raises:
    ValueError: unknown kind, a parameter out of range, or one that the kind
      does not have.

  Reference: DPO 2305.18290; rDPO 2403.00409; SLiC 2305.10425; IPO 2310.12036;
    REBEL 2404.16767; EXO 2402.00856; DiscoPOP 2406.08414; NCA 2402.05369; BCO
    2404.04656; SPPO 2405.00675; APO 2408.06266; AOT 2406.05882.
  """
  _check(kind, beta, label_smoothing, margin)
  if kind in _SORTED and any(map(np.ndim, (beta, label_smoothing, weight))):
    raise ValueError(
      f"{kind!r} sorts the batch: beta, label_smoothing and weight per pair "
      "have no pair to belong to; give one number each"
    )
  if not 0 < discopop_tau < 1:
    raise ValueError(f"discopop_tau must lie in (0, 1), got {discopop_tau}")
  chex.assert_equal_shape([chosen_P, rejected_P])
  if valid_P is None:
    valid_P = jnp.ones(jnp.shape(chosen_P), bool)
  chex.assert_equal_shape([chosen_P, valid_P])

  def side(x: Number, fill: float) -> Array:
    x = masked.clean(jnp.broadcast_to(x, valid_P.shape), valid_P, fill)
    return lax.stop_gradient(x)

  beta = side(beta, 1.0)
  eps = side(label_smoothing, 0.25)  # inside every kind's range
  c, r = (masked.clean(x, valid_P) for x in (chosen_P, rejected_P))
  if kind == "aot":
    if reference_margin_P is None:
      raise ValueError(
        "'aot' needs reference_margin_P; 'aot_unpaired' does not"
      )
    chex.assert_equal_shape([chosen_P, reference_margin_P])
    reference = side(reference_margin_P, 0.0)
    c, r = _by_rank(c - r + reference, reference, valid_P)
  elif kind == "aot_unpaired":
    c, r = _by_rank(c, r, valid_P)
  z = beta * (c - r) - side(margin, 0.0)
  loss = _SHAPES[kind].loss(_Pairs(c, r, z, beta, eps, discopop_tau))
  return masked.clean(side(weight, 0.0) * loss, valid_P)


def centring(chosen_P: Array, rejected_P: Array) -> Array:
  """(r_c + r_r)^2: fixes the constant that a reward model leaves free.

  Args:
    chosen_P: reward of the preferred answer.
    rejected_P: reward of the other answer.

  Returns:
    f32[P], to be added times about 0.01.

  Reference: Eisenstein et al., 2312.09244.
  """
  chex.assert_equal_shape([chosen_P, rejected_P])
  return (chosen_P + rejected_P) ** 2


def describe(
  chosen_P: Array, rejected_P: Array, beta: Number
) -> dict[str, Array]:
  """What to report of pairs, per pair.

  Args:
    chosen_P: score of the preferred answer.
    rejected_P: score of the other answer.
    beta: scale of the implicit reward.

  Returns:
    f32[P] each, without gradient: "accuracy" (1 where chosen is higher; a tie
    is 0), and beta times the gap and the scores: "margin", "chosen_reward",
    "rejected_reward".
  """
  chex.assert_equal_shape([chosen_P, rejected_P])
  chosen, rejected = lax.stop_gradient((chosen_P, rejected_P))
  return {
    "accuracy": (chosen > rejected).astype(jnp.float32),
    "margin": beta * (chosen - rejected),
    "chosen_reward": beta * chosen,
    "rejected_reward": beta * rejected,
  }
