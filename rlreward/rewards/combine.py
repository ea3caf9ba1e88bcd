"""Shapings that make one reward of K, and those that bound it.

Members of an ensemble and attributes of an answer are both named components of
a Score; a rule joins them to the value that is trained on:

  chain(running.centre_prompt(members), aggregate(members, "min"))
  chain(relative(names, samples=10), aggregate(names, "product"))

A component that is unknown (NaN) leaves, and as long as `least` of them remain
the row keeps its judgement; otherwise it is invalid, never a reward of zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.ops import aggregate as rules
from rlreward.ops import bounded as shapes
from rlreward.rewards import shaping
from rlreward.types import Array, Rollout, Score, Shaping


def aggregate(
  names: Sequence[str],
  rule: rules.Rule,
  weights: Sequence[float] | None = None,
  *,
  coef: float = 1.0,
  floor: float | None = None,
  least: int | None = None,
) -> Shaping:
  """value = rule(r_1, ..., r_K) over named components.

  Args:
    names: K components: members of an ensemble, or attributes.
    rule: see `ops.aggregate.aggregate`.
    weights: one for each name; None is 1 for each.
    coef: of the spread, for "mean_minus_std" and "uwo".
    floor: what smaller components become, for products and harmonic means.
    least: components that must be known for a row to be judged. None is all,
      which is right for attributes; 1 lets members of an ensemble fail.

  Raises:
    UserError: a rule, weights or `least` that cannot be, or a reward without
      one of the components (when it is first shaped).
  """
  names = tuple(names)
  _check(names, rule, weights, floor, least)
  w = None if weights is None else jnp.asarray(weights, jnp.float32)
  need = least or len(names)

  def run(score: Score, rollout: Rollout) -> Score:
    del rollout
    r_NxK = _parts(score, names)
    known = jnp.isfinite(r_NxK)
    value = rules.aggregate(r_NxK, rule, known, w, coef=coef, floor=floor)
    return _judged(score, value, jnp.sum(known, -1) >= need)

  return shaping.stateless(run, reads=names)


def pareto(
  names: Sequence[str],
  normalise: rules.Normalise = "none",
  of: str | None = None,
) -> Shaping:
  """value = |prompt| / |P| * sum_k r_k for answers nothing dominates, else 0.

  P holds the rows of the same prompt that no other one beats in all rewards.
  The factor makes a mean over a prompt's judged rows a mean over P, which is
  the paper's gradient when no baseline follows.

  Args:
    names: K components.
    normalise: see `ops.aggregate.pareto_weights`.
    of: the component that counts for an answer; None is the sum.

  Raises:
    UserError: no names, `of` not among them, or an unknown `normalise`.

  Reference: Parrot, arXiv 2401.05675.
  """
  names = tuple(names)
  _named(names)
  if of is not None and of not in names:
    raise UserError(
      f"pareto pays for {of!r}, which is not among {list(names)}",
      "an answer is paid by one of the rewards that it is compared in",
      "name one of them, or None for their sum",
    )
  _word("normalise", normalise, rules.NORMALISE)
  column = None if of is None else names.index(of)

  def run(score: Score, rollout: Rollout) -> Score:
    r_NxK = _parts(score, names)
    known = score.valid & jnp.all(jnp.isfinite(r_NxK), -1)
    group = rollout.group
    weight = rules.pareto_weights(
      r_NxK, known, group, of=column, normalise=normalise
    )
    rows = known.astype(jnp.float32)
    size = jax.ops.segment_sum(rows, group, known.shape[0])[group]
    return _judged(score, weight * size, known)

  return shaping.stateless(run, reads=names)


def gated(gate: str, above: float = 0.0, otherwise: float = 0.0) -> Shaping:
  """value where the gate holds, and a fixed number where it does not.

    value = value if r_gate > above else otherwise

  Args:
    gate: a component, such as a format that must be right.
    above: the gate holds above it.
    otherwise: the reward of a row whose gate does not hold.
  """

  def run(score: Score, rollout: Rollout) -> Score:
    del rollout
    r = shaping.part(score, gate)
    value = jnp.where(r > above, score.value, otherwise)
    return _judged(score, value, ~jnp.isnan(r))

  return shaping.stateless(run, reads=(gate,))


def table(
  right: str,
  formed: str,
  values: Sequence[Sequence[float]],
  above: float = 0.5,
) -> Shaping:
  """A 2 x 2 lookup of correctness and format.

    value = values[right > above][formed > above]

  SimpleRL-Zoo's strict form is ((-1, -0.5), (0.5, 1)), its released one
  ((0, 0), (1, 1)).

  Args:
    right: component of correctness; "" is the value.
    formed: component of the format; "" where its two columns are the same.
    values: rewards of (wrong, right) x (unformed, formed).
    above: a component holds above it.

  Raises:
    UserError: no 2 x 2 table of finite numbers, or one that differs by a
      format that is not named.

  Reference: SimpleRL-Zoo, arXiv 2503.18892.
  """
  look = np.asarray(values, np.float32)
  if look.shape != (2, 2) or not np.isfinite(look).all():
    raise UserError(
      f"the table {values} has the shape {look.shape}",
      "it has a row for wrong and for right, and two finite numbers in each",
      "give such as ((-1, -0.5), (0.5, 1))",
    )
  if not formed and (look[:, 0] != look[:, 1]).any():
    raise UserError(
      f"the table {values} without a component of the format",
      "its rewards depend on the format",
      "name the component, or use a table such as ((0, 0), (1, 1))",
    )
  names = tuple(name for name in (right, formed) if name)

  def run(score: Score, rollout: Rollout) -> Score:
    del rollout
    r = shaping.part(score, right) if right else score.value
    f = shaping.part(score, formed) if formed else jnp.zeros_like(r)
    place = [(p > above).astype(jnp.int32) for p in (r, f)]
    known = jnp.isfinite(r) & jnp.isfinite(f)
    return _judged(score, jnp.asarray(look)[*place], known)

  return shaping.stateless(run, reads=names)


def branch(which: str, yes: str, no: str, above: float = 0.5) -> Shaping:
  """One of two components, as a third says: the type of a question.

  Args:
    which: component that chooses.
    yes: the reward where it lies above.
    no: the reward elsewhere; the one that is not chosen may be unknown.
    above: see `which`.

  Reference: R3, arXiv 2402.03469.
  """

  def run(score: Score, rollout: Rollout) -> Score:
    del rollout
    by = shaping.part(score, which)
    value = jnp.where(by > above, *(shaping.part(score, n) for n in (yes, no)))
    return _judged(score, value, jnp.isfinite(by))

  return shaping.stateless(run, reads=(which, yes, no))


def factors(groups: Sequence[Sequence[str]], floor: float = 0.0) -> Shaping:
  """Product of the means of groups of components, each no less than a floor.

    value = prod_g max(floor, mean of the components of g)

  Args:
    groups: names; a group of one is a factor of its own.
    floor: what smaller factors become: two bad ones must not make a good one.

  Raises:
    UserError: no groups, an empty one, or a name that stands twice.

  Reference: GoT-R1, arXiv 2505.17022; R3, arXiv 2402.03469.
  """
  members = tuple(tuple(g) for g in groups)
  names = tuple(n for g in members for n in g)
  _named(names)
  if not all(members):
    raise UserError(
      f"the factors {list(members)} have an empty group",
      "the mean of no reward is not known",
      "name one component at least in each group",
    )

  def run(score: Score, rollout: Rollout) -> Score:
    del rollout
    means = [jnp.mean(_parts(score, g), -1) for g in members]
    r_NxG = jnp.stack(means, -1)
    value = rules.aggregate(r_NxG, "product", None, floor=floor)
    return _judged(score, value, jnp.all(jnp.isfinite(r_NxG), -1))

  return shaping.stateless(run, reads=names)


def paid_by_length(
  curve: Callable[..., Array], right: str = "", into: str = "length"
) -> Shaping:
  """Adds a curve of the number of tokens that the policy chose.

  Args:
    curve: (length f32[N]) -> f32[N], of `ops.lengths` with its options bound;
      with `right` it is (length, right bool[N], group i32[N]) -> f32[N].
    right: component of correctness, above 1/2 where right; "" for none.
    into: component that holds what was added.
  """

  def run(score: Score, rollout: Rollout) -> Score:
    n = jnp.sum(rollout.action, -1, dtype=jnp.float32)
    known = score.valid
    if right:
      r = shaping.part(score, right)
      known = known & jnp.isfinite(r)
      paid = curve(n, r > 0.5, rollout.group)
    else:
      paid = curve(n)
    out = _judged(score, score.value + paid, known)
    return out._replace(components={**score.components, into: paid})

  return shaping.stateless(run, reads=(right,) if right else ())


def bounded(
  names: Sequence[str] = (), shape: str = "sigmoid", slope: float = 1.0
) -> Shaping:
  """f(slope r_k), with f one of the bounded shapes.

  Args:
    names: components; () is the value.
    shape: of `ops.bounded.SHAPES`.
    slope: 1 / unit of the reward.

  Raises:
    UserError: an unknown shape.
  """
  _word("shape", shape, tuple(shapes.SHAPES))
  f = shapes.SHAPES[shape]
  ends = shapes.RANGES[shape]
  return shaping.each(names, lambda r, *_: f(slope * r), ends=ends)


def relative(
  names: Sequence[str],
  samples: int,
  shape: str = "sigmoid",
  slope: float = 1.0,
  shift: float = 0.0,
) -> Shaping:
  """Preference as reward: mean_m f(slope (r_k - shift - ref_km)).

  Args:
    names: components; () is the value.
    samples: of the reference for each prompt, drawn beside the rows of every
      step. The paper draws 10 once; 1 is enough.
    shape: of `ops.bounded.SHAPES`; the paper's choice is the sigmoid.
    slope: 1 / temperature of Bradley-Terry.
    shift: 0; 3 is the paper's slow-growing control.

  Raises:
    UserError: an unknown shape.

  Reference: arXiv 2502.18770.
  """
  _word("shape", shape, tuple(shapes.SHAPES))

  def paid(r: Array, score: Score, rollout: Rollout, name: str) -> Array:
    del score
    refs = shaping.beside(rollout, name)
    return shapes.relative(r, refs, shape, slope, shift)

  return shaping.each(names, paid, samples, ends=shapes.RANGES[shape])


def _parts(score: Score, names: tuple[str, ...]) -> Array:
  return jnp.stack([shaping.part(score, name) for name in names], -1)


def _judged(score: Score, value: Array, known: Array) -> Score:
  known = score.valid & known & jnp.isfinite(value)
  return score._replace(value=jnp.where(known, value, 0), valid=known)


def _named(names: tuple[str, ...]) -> None:
  if not names or len(set(names)) < len(names):
    raise UserError(
      f"the components to combine are {list(names)}",
      "each of them is one opinion, and there must be one at least",
      "name components of the reward, each of them once",
    )


def _word(what: str, word: str, choices: tuple[str, ...]) -> None:
  if word not in choices:
    raise UserError(
      f"{what}={word!r} is not known",
      "it is how rewards are combined",
      f"choose one of {', '.join(choices)}",
    )


def _check(names, rule, weights, floor, least) -> None:
  _named(names)
  _word("rule", rule, rules.RULES)
  if weights is not None:
    fixable = f"give {len(names)} weights, one for each name, or None"
    if rule in rules.UNWEIGHTED:
      raise UserError(
        f"rule={rule!r} was given weights {list(weights)}",
        "the middle and the worst of K members have no weights",
        "leave the weights out, or use rule='mean'",
      )
    if len(weights) != len(names) or not np.isfinite(weights).all():
      raise UserError(
        f"weights {list(weights)} for the components {list(names)}",
        "each component has a weight of its own",
        fixable,
      )
    if (min(weights) < 0 and rule != "sum") or not any(weights):
      raise UserError(
        f"rule={rule!r} was given weights {list(weights)}",
        "it divides by them or takes powers, so they are shares",
        "use weights of 0 or more, one of them above 0, or rule='sum'",
      )
  if rule in ("geometric", "harmonic") and floor is not None and floor <= 0:
    raise UserError(
      f"rule={rule!r} with floor={floor}",
      "it divides by rewards, or takes their log",
      "use a floor above 0, such as 1e-3",
    )
  if least is not None and not 1 <= least <= len(names):
    raise UserError(
      f"least={least} of {len(names)} components",
      "a row is judged when so many of its components are known",
      f"use a number from 1 to {len(names)}",
    )
