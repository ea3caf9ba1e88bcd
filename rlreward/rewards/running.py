"""Rewards brought to a common scale: per prompt, over a run, on a fixed set.

The state is a `Moments`: a count, a mean, a sum of squares and the extremes of
each component, over the rows that were judged. It is arrays of fixed shape and
part of State, so it is checkpointed with everything else. A batch updates it
before it is used, so that the first batch has a scale too.

An affine map is the same optimum at another beta: these change how fast a run
moves and which beta means what, and make rewards comparable before a rule joins
them. A mean that is taken over rows of a prompt also cancels what a reward
model does not know, its shift for that prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.ops import bounded, masked
from rlreward.rewards import saturation, shaping
from rlreward.types import Array, Rollout, Score, Shaping


class Moments(NamedTuple):
  """What is known of the distribution of K rewards.

  Attributes:
    count: f32[K], judged rows, at most `memory` plus a batch.
    mean: f32[K]; 0 before any row.
    m2: f32[K], sum of squared distances from the mean.
    low: f32[K], the smallest reward; +inf before any row.
    high: f32[K], the largest; -inf before any row.
    updates: i32[], batches seen.
  """

  count: Any
  mean: Any
  m2: Any
  low: Any
  high: Any
  updates: Any


def nothing(size: int) -> Moments:
  """Moments before any row.

  Args:
    size: K.
  """
  zero = jnp.zeros(size, jnp.float32)
  none = jnp.full(size, jnp.inf, jnp.float32)
  # `+ 0` and `-`: each leaf has a buffer of its own, for donation.
  return Moments(zero, zero + 0, zero + 0, none, -none, jnp.int32(0))


def add(
  m: Moments, x_NxK: Array, known_NxK: Array, memory: float = math.inf
) -> Moments:
  """Moments with the rows of one more batch.

    mean' = mean + d b / (n + b),  m2' = m2 + m2_b + d^2 n b / (n + b)

  with d the batch's mean minus the mean, b its rows and n = min(count, memory).

  Args:
    m: what is known.
    x_NxK: rewards, without gradient.
    known_NxK: bool, rows that were judged.
    memory: rows that the past counts for at most; inf forgets nothing. The
      extremes are never forgotten.

  Reference: Chan, Golub and LeVeque, Updating formulae, 1979.
  """
  x = jax.lax.stop_gradient(masked.clean(x_NxK, known_NxK))
  rows = jnp.sum(known_NxK, 0, dtype=x.dtype)
  past = jnp.minimum(m.count, memory)
  total = past + rows
  share = rows / jnp.maximum(total, 1)
  gap = masked.masked_mean(x, known_NxK, 0) - m.mean
  spread = rows * masked.masked_var(x, known_NxK, 0)
  old = m.m2 * (past / jnp.maximum(m.count, 1))
  new = Moments(
    total,
    m.mean + gap * share,
    old + spread + gap * gap * past * share,
    jnp.minimum(m.low, jnp.min(jnp.where(known_NxK, x, jnp.inf), 0)),
    jnp.maximum(m.high, jnp.max(jnp.where(known_NxK, x, -jnp.inf), 0)),
    m.updates,
  )
  # Nothing is forgotten where nothing is learnt.
  new = jax.tree.map(lambda a, b: jnp.where(rows > 0, a, b), new, m)
  return new._replace(updates=m.updates + 1)


def deviation(m: Moments) -> Array:
  """sqrt(m2 / count), of the population; 0 before any row.

  Args:
    m: moments.
  """
  return jnp.sqrt(m.m2 / jnp.maximum(m.count, 1))


def measure(
  names: Sequence[str], scores: Mapping[str, Any], spread: bool = True
) -> Moments:
  """Moments of a reference set, in float64, to start or to fix a scale with.

  Args:
    names: components; () is the value.
    scores: {name: rewards of the set}, any shape, in units of the reward; the
      value is called "value". What is not finite was not judged.
    spread: whether a set in which all rewards are equal is refused.

  Returns:
    Moments of K rewards, numpy.

  Raises:
    UserError: a name without scores, no judged score, or none that differ.
  """
  rows = []
  for name in tuple(names) or ("value",):
    if name not in scores:
      raise UserError(
        f"no reference scores of {name!r}; there are {sorted(scores)}",
        "each reward is brought to the scale of its own reference set",
        f"score the reference set with {name!r}, or leave the name out",
      )
    x = np.asarray(scores[name], np.float64).ravel()
    x = x[np.isfinite(x)]
    if not x.size or (spread and np.ptp(x) <= 1e-6 * abs(x.mean())):
      raise UserError(
        f"{x.size} judged reference scores of {name!r}, all of them equal"
        if x.size
        else f"none of the reference scores of {name!r} is a finite number",
        "a scale is the spread of scores, and here there is none",
        "give scores of many different answers",
      )
    m2 = np.sum((x - x.mean()) ** 2)
    rows.append((x.size, x.mean(), m2, x.min(), x.max()))
  count, mean, m2s, low, high = np.asarray(rows, np.float32).T
  return Moments(count, mean, m2s, low, high, np.int32(0))


def tracked(
  names: Sequence[str],
  fn: Callable[[Array, Moments], Array],
  start: Moments | None = None,
  until: int | None = None,
  memory: float = math.inf,
  ends: Callable[[Moments], tuple[Array, Array]] | None = None,
) -> Shaping:
  """A function of each reward and of its moments over the run.

  Args:
    names: components; () is the value.
    fn: (f32[N], Moments of that reward, scalars without gradient) -> f32[N].
    start: moments to begin with; None is `nothing`.
    until: updates after which the moments stay as they are; 0 never moves
      `start`, None never freezes.
    memory: see `add`.
    ends: of the range of a bounded function, (low, high) f32[K] each; see
      `saturation.mark`.

  Raises:
    UserError: numbers that cannot be.
  """
  names = tuple(names)
  size = max(len(names), 1)
  _check(size, start, until, memory)

  def init() -> Moments:
    if start is None:
      return nothing(size)
    return jax.tree.map(lambda x: jnp.array(x, jnp.float32), start)._replace(
      updates=jnp.int32(0)
    )

  def update(score: Score, m: Moments, rollout: Rollout):
    read = [shaping.part(score, n) for n in names] or [score.value]
    x_NxK = jnp.stack(read, -1)
    known = score.valid[:, None] & jnp.isfinite(x_NxK)
    if until != 0:
      seen = add(m, x_NxK, known, memory)
      alive = jnp.bool_(True) if until is None else m.updates < until
      m = jax.tree.map(lambda a, b: jnp.where(alive, a, b), seen, m)

    def one(r, score, rollout, name):
      k = names.index(name) if names else 0
      mine = jax.tree.map(lambda x: x[k] if x.ndim else x, m)
      return fn(r, mine)

    score, _ = shaping.each(names, one).update(score, (), rollout)
    if ends is not None:
      made = [shaping.part(score, n) for n in names] or [score.value]
      score = saturation.mark(score, made, ends(m))
    return score, m

  return Shaping(init, update, reads=names)


def standardise(
  names: Sequence[str] = (),
  *,
  start: Moments | None = None,
  until: int | None = None,
  memory: float = math.inf,
) -> Shaping:
  """(r_k - mean_k) / sd_k, by the moments of the run so far.

  Args:
    names: components; () is the value.
    start: see `tracked`.
    until: see `tracked`.
    memory: see `tracked`.
  """
  fn = lambda r, m: bounded.standardise(r, m.mean, deviation(m))
  return tracked(names, fn, start, until, memory)


def on_reference(names: Sequence[str], scores: Mapping[str, Any]) -> Shaping:
  """(r_k - mean_k) / sd_k, by the moments of a fixed reference set.

  Zero is what the reference earns on average and one its deviation, whatever
  the policy does. The moments are state: a resumed run keeps those it began
  with.

  Args:
    names: components; () is the value.
    scores: see `measure`.

  Raises:
    UserError: see `measure`.
  """
  return standardise(names, start=measure(names, scores), until=0)


def scale(
  names: Sequence[str] = (),
  *,
  start: Moments | None = None,
  until: int | None = None,
  memory: float = math.inf,
) -> Shaping:
  """r_k / sd_k: zero stays where it is.

  Args:
    names: components; () is the value.
    start: see `tracked`.
    until: see `tracked`.
    memory: see `tracked`.
  """
  fn = lambda r, m: r / bounded.unit(m.mean, deviation(m))
  return tracked(names, fn, start, until, memory)


def minmax(
  names: Sequence[str] = (),
  *,
  start: Moments | None = None,
  until: int | None = None,
) -> Shaping:
  """(r_k - low_k) / (high_k - low_k), by the extremes of the run so far.

  Args:
    names: components; () is the value.
    start: see `tracked`.
    until: see `tracked`; after it what lies outside is clipped to [0, 1].
  """
  fn = lambda r, m: bounded.minmax(r, m.low, m.high)
  unit = lambda m: (jnp.zeros_like(m.mean), jnp.ones_like(m.mean))
  return tracked(names, fn, start, until, ends=unit)


def clip(
  names: Sequence[str] = (),
  width: float = 1.0,
  *,
  start: Moments | None = None,
  until: int | None = None,
  memory: float = math.inf,
) -> Shaping:
  """r_k held inside mean_k +- width sd_k, by the moments of the run so far.

  Args:
    names: components; () is the value.
    width: in standard deviations.
    start: see `tracked`.
    until: see `tracked`.
    memory: see `tracked`.
  """
  fn = lambda r, m: bounded.clip(r, m.mean, deviation(m), width)

  def ends(m: Moments) -> tuple[Array, Array]:
    reach = width * deviation(m)
    return m.mean - reach, m.mean + reach

  return tracked(names, fn, start, until, memory, ends)


def centre_prompt(names: Sequence[str] = ()) -> Shaping:
  """r_k minus its mean over the judged rows of the same prompt.

  Args:
    names: components; () is the value. What is left is free of the prompt's
      shift; with one judged row it is 0.
  """

  def centred(r: Array, score: Score, rollout: Rollout, name: str) -> Array:
    del name
    known = score.valid & jnp.isfinite(r)
    kept = jax.lax.stop_gradient(masked.clean(r, known))
    add_up = lambda x: jax.ops.segment_sum(x, rollout.group, r.shape[0])
    rows = add_up(known.astype(kept.dtype))
    mean = add_up(kept) / jnp.maximum(rows, 1)
    return r - mean[rollout.group]

  return shaping.each(names, centred)


def _check(size, start, until, memory) -> None:
  if start is not None and np.shape(start.mean) != (size,):
    raise UserError(
      f"moments of {np.size(start.mean)} rewards for {size} names",
      "each reward has moments of its own",
      "measure the reference set with the same names",
    )
  if until is not None and (until < 0 or (until == 0 and start is None)):
    raise UserError(
      f"until={until} updates {'without a start' if until == 0 else ''}",
      "the moments would be frozen before they are known",
      "use 1 or more, None, or 0 together with start=measure(...)",
    )
  if not memory > 0:
    raise UserError(
      f"memory={memory} rows",
      "the moments are those of so many past rows",
      "use a number above 0, or inf to forget nothing",
    )
