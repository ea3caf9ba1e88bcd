"""Transforms of scores, put together from small ones before any credit.

A shaping maps a Score to a Score. Most of them act on named components (the K
rewards of a response), and `total` adds those up to the value that is trained
on:

  chain(centre(names, quantile(0.85, 16)), log_sigmoid(names), total(names))

With no names they act on the value itself. What a component is compared with is
a `Reference`: a quantile or the mean of the reference's own samples, which the
step draws beside its rows, the reward of a reference answer, which the task
reports as `<name>_reference`, or a fixed number. An unknown (NaN) component or
reference makes the row's judgement invalid, never a reward of zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlreward.errors import UserError
from rlreward.ops import transform
from rlreward.rewards import saturation
from rlreward.types import Array, Rollout, Score, Shaping

Names = tuple[str, ...]
Ends = tuple[float, float]  # of a range; infinite where it is open


class Reference(NamedTuple):
  """What a reward is compared with.

  Attributes:
    read: (Score, Rollout, name) -> f32[N]; the name "" is the value.
    beside: samples of the reference that it needs of each prompt.
    suffix: of the component that holds it beside each name; "" without one.
  """

  read: Callable[[Score, Rollout, str], Array]
  beside: int = 0
  suffix: str = ""


def stateless(
  fn: Callable[[Score, Rollout], Score], beside: int = 0, reads: Names = ()
) -> Shaping:
  """A shaping that remembers nothing.

  Args:
    fn: (Score, Rollout) -> Score.
    beside: see `types.Shaping`.
    reads: see `types.Shaping`.
  """
  return Shaping(
    lambda: (), lambda score, s, rollout: (fn(score, rollout), s), beside, reads
  )


def chain(*shapings: Shaping) -> Shaping:
  """One after the other; each keeps its own state.

  Args:
    *shapings: the first is applied first.

  Raises:
    ValueError: they compare with different numbers of samples.
  """
  counts = {s.beside for s in shapings if s.beside}
  if len(counts) > 1:
    raise ValueError(
      f"shapings of {sorted(counts)} samples; all of them read the same ones"
    )

  def update(score, states, rollout):
    after = []
    for shaping, state in zip(shapings, states, strict=True):
      score, state = shaping.update(score, state, rollout)
      after.append(state)
    return score, tuple(after)

  reads = dict.fromkeys(name for s in shapings for name in s.reads)
  return Shaping(
    lambda: tuple(s.init() for s in shapings),
    update,
    max(counts, default=0),
    tuple(reads),
  )


# ---------------------------------------------------------------- references
def quantile(
  q: float, samples: int, method: transform.Quantile = "empirical"
) -> Reference:
  """The reward that a share q of the reference's samples stay below.

  Args:
    q: in (0, 1).
    samples: of each prompt, drawn beside the rows of every step.
    method: see `ops.transform.quantile_reference`.

  Reference: arXiv 2402.00742.
  """
  return Reference(
    lambda score, rollout, name: transform.quantile_reference(
      beside(rollout, name), q, method
    ),
    samples,
  )


def mean(samples: int) -> Reference:
  """The mean reward of the reference's samples.

  Args:
    samples: of each prompt, drawn beside the rows of every step.
  """
  return Reference(
    lambda score, rollout, name: transform.mean_reference(
      beside(rollout, name)
    ),
    samples,
  )


def answer(suffix: str = "_reference") -> Reference:
  """The reward of a reference answer, such as a canned refusal.

  Args:
    suffix: the task reports it as the component `<name><suffix>`, of every row.
  """
  return Reference(
    lambda score, rollout, name: part(score, (name or "value") + suffix),
    suffix=suffix,
  )


def fixed(value: float) -> Reference:
  """The same number for every prompt; right only where rewards have no shift.

  Args:
    value: in units of the reward.
  """
  return Reference(
    lambda score, rollout, name: jnp.full(score.value.shape, value, jnp.float32)
  )


# ---------------------------------------------------------------- shapings
def each(
  names: Sequence[str],
  fn: Callable[[Array, Score, Rollout, str], Array],
  beside: int = 0,
  reads: Names = (),
  ends: Ends | None = None,
) -> Shaping:
  """A function of every named component, or of the value where none is named.

  Args:
    names: components; () is the value.
    fn: (f32[N], Score, Rollout, name or "") -> f32[N]; an unknown (NaN) value
      takes the judgement away from its row.
    beside: see `types.Shaping`.
    reads: components read besides `names`.
    ends: of the range of a bounded function: rows at one of them are marked,
      see
      `saturation.mark`.
  """
  names = tuple(names)

  def run(score: Score, rollout: Rollout) -> Score:
    if not names:
      made = fn(score.value, score, rollout, "")
      return saturation.mark(_judged(score, made), [made], ends)
    made = {
      _full(score, name): fn(part(score, name), score, rollout, name)
      for name in names
    }
    shaped = score._replace(components={**score.components, **made})
    return saturation.mark(shaped, made.values(), ends)

  return stateless(run, beside, (*names, *reads))


def centre(
  names: Sequence[str], reference: Reference | Sequence[Reference]
) -> Shaping:
  """r_k - ref_k: how far each component lies above its reference.

  Args:
    names: components; () is the value.
    reference: one for all names or one for each; without gradient.

  Raises:
    ValueError: another number of references than of names, or references that
      are made of different numbers of samples.
  """
  of = tuple(names) or ("",)
  if isinstance(reference, Reference):
    reference = [reference] * len(of)
  if len(reference) != len(of):
    raise ValueError(f"{len(reference)} references for {len(of)} names")
  known = dict(zip(of, reference, strict=True))

  def one(name: str, ref: Reference) -> Shaping:
    def gap(r: Array, score: Score, rollout: Rollout, name: str) -> Array:
      return r - jax.lax.stop_gradient(ref.read(score, rollout, name))

    reads = ((name or "value") + ref.suffix,) if ref.suffix else ()
    return each((name,) if name else (), gap, ref.beside, reads)

  return chain(*(one(name, ref) for name, ref in known.items()))


def affine(
  names: Sequence[str], scale: float = 1.0, shift: float = 0.0
) -> Shaping:
  """scale r_k + shift; the scale is 1 / temperature of Bradley-Terry.

  Args:
    names: components; () is the value.
    scale: of each.
    shift: of each, after the scale.
  """
  return each(names, lambda r, *_: scale * r + shift)


def clip(names: Sequence[str], low: float, high: float) -> Shaping:
  """min(max(r_k, low), high).

  Args:
    names: components; () is the value.
    low: smallest value.
    high: largest value.
  """
  fn = lambda r, *_: jnp.clip(r, low, high)
  return each(names, fn, ends=(low, high))


def sigmoid(names: Sequence[str] = ()) -> Shaping:
  """sigmoid(r_k): the chance that an answer beats what was taken off.

  Args:
    names: components; () is the value.
  """
  return each(names, lambda r, *_: jax.nn.sigmoid(r), ends=(0.0, 1.0))


def log_sigmoid(names: Sequence[str] = ()) -> Shaping:
  """log sigmoid(r_k) = -softplus(-r_k): stops paying for what is good already.

  Args:
    names: components; () is the value.
  """
  fn = lambda r, *_: transform.lsc(r[:, None], jnp.zeros(1))
  return each(names, fn, ends=(-jnp.inf, 0.0))


def preference(
  names: Sequence[str], samples: int, temperature: float = 1.0
) -> Shaping:
  """mean_j sigmoid((r_k - ref_kj) / temperature) over samples of the reference.

  Args:
    names: components; () is the value.
    samples: of each prompt, drawn beside the rows of every step.
    temperature: the unit of Bradley-Terry in units of the reward.

  Reference: arXiv 2502.18770.
  """

  def chance(r: Array, score: Score, rollout: Rollout, name: str) -> Array:
    del score
    refs = beside(rollout, name)
    return transform.preference_as_reward(r / temperature, refs / temperature)

  return each(names, chance, samples, ends=(0.0, 1.0))


def total(
  names: Sequence[str], weights: Sequence[float] | None = None
) -> Shaping:
  """value = sum_k w_k r_k; with no names the value is left as it is.

  Args:
    names: components.
    weights: one for each name; None is 1 for each.

  Raises:
    ValueError: another number of weights than of names.
  """
  names = tuple(names)
  if weights is not None and len(weights) != len(names):
    raise ValueError(f"{len(weights)} weights for {len(names)} names")
  w = None if weights is None else jnp.asarray(weights, jnp.float32)

  def run(score: Score, rollout: Rollout) -> Score:
    del rollout
    if not names:
      return score
    parts = jnp.stack([part(score, name) for name in names], -1)
    return _judged(score, transform.total(parts, w))

  return stateless(run, reads=names)


def lsc(
  names: Sequence[str],
  reference: Reference | Sequence[Reference],
  weights: Sequence[float] | None = None,
  temperature: float = 1.0,
) -> Shaping:
  """Log-sigmoid, centred: log-chance to be good in every named reward.

    u = sum_k w_k log sigmoid((r_k - ref_k) / temperature)

  Args:
    names: components; () is the value.
    reference: what is good enough; one for all names or one for each.
    weights: one for each name; None is 1 for each.
    temperature: the unit of Bradley-Terry in units of the reward.

  Reference: arXiv 2402.00742.
  """
  return chain(
    centre(names, reference),
    affine(names, 1 / temperature),
    log_sigmoid(names),
    total(names, weights),
  )


# ---------------------------------------------------------------- reading
def beside(rollout: Rollout, name: str = "") -> Array:
  """f32[N, R]: the reference's rewards, NaN where there is no judgement.

  Args:
    rollout: as an online step hands it to a shaping.
    name: a component; "" is the value.
  """
  held = {
    k.removeprefix("beside/"): v
    for k, v in rollout.extras.items()
    if k.startswith("beside/")
  }
  return held[_find(held, name or "value")]


def part(score: Score, name: str) -> Array:
  """f32[N]: a component of a score.

  Args:
    score: what the task gave.
    name: with or without the name of the reward that it is a part of.

  Raises:
    UserError: the score has no such component, or several.
  """
  return score.components[_full(score, name)]


def _full(score: Score, name: str) -> str:
  return _find(score.components, name)


def _find(parts, name: str) -> str:
  if name in parts:
    return name
  found = [k for k in parts if k.rpartition("/")[2] == name]
  if len(found) != 1:
    raise UserError(
      f"shaping reads {name!r}, but the reward has {sorted(parts)}",
      "each component is compared with a reference of its own",
      "name components that the reward reports, or () for its value",
    )
  return found[0]


def _judged(score: Score, value: Array) -> Score:
  """The score with another value; what is not finite is no judgement."""
  known = score.valid & jnp.isfinite(value)
  return score._replace(value=jnp.where(known, value, 0), valid=known)
