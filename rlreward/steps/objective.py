"""What rows are trained on: a loss as a sum with its weight, and what it reads.

Rows are a dict of arrays with one leading axis N: `tokens` i32[N, L], `attend`
and `loss` bool[N, L], and columns. Rows that belong together (the two answers
of a pair) follow each other. An objective is used by `fit` on given rows and by
`iterate` on rows that a round has selected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlreward import errors
from rlreward.models import score as score_lib
from rlreward.ops import masked, preference
from rlreward.steps import accumulate, batching, roles
from rlreward.types import Array

Rows = Mapping[str, Array]
# A sum over rows, or (sum, weight) where it is not a mean over all of them.
Sums = Mapping[str, Any]
# (role, rows) -> f32[N, T], log-probs of answers without gradient.
Compute = Callable[[str, Rows], Array]


class Objective(NamedTuple):
  """A loss on rows.

  Attributes:
    together: rows that stay in one piece, 2 for pairs.
    needs: roles beside the policy that are read: "reference".
    init: () -> state, a dict of arrays.
    prepare: (compute, rows, state) -> (rows, state): columns that are fixed
      before the first update, such as log-probs of the reference.
    weight: rows -> f32[], what sums are divided by.
    terms: (variables, frozen, rows, share) -> (sum f32[], {metric: sum});
      sums over pieces add up. `share` rows in succession have one prompt.
    given: {role: config section}, see `types.Method`.
    start: key -> {role: variables}, the shapes of `given` before it is there.
  """

  together: int
  needs: frozenset[str]
  init: Callable[[], dict[str, Any]]
  prepare: Callable[[Compute, Rows, Any], tuple[Rows, Any]]
  weight: Callable[[Rows], Array]
  terms: Callable[..., tuple[Array, Sums]]
  given: Mapping[str, Any] = {}
  start: Callable[[Array], dict[str, Any]] = lambda key: {}


def nothing(compute: Compute, rows: Rows, state):
  """A `prepare` that needs nothing."""
  del compute
  return rows, state


def valid(rows: Rows) -> Array:
  """bool[N]: rows that count; all of them where there is no such column."""
  n = rows["tokens"].shape[0]
  return rows["valid"] if "valid" in rows else jnp.ones(n, bool)


def answer_logp(
  actor: roles.Policy, variables, rows: Rows, slots: int, share: int
) -> tuple[Array, Array]:
  """(log-probs f32[n, T], mask bool[n, T]) of answers in the last T slots.

  Args:
    actor: the policy.
    variables: of its decoder.
    rows: prompts left-padded in the first slots, answers right-padded after.
    slots: T.
    share: rows in succession that have one prompt.
  """
  tokens, attend = rows["tokens"], rows["attend"]
  logp, _ = score_lib.completion_logprob(
    actor.model, variables, tokens, attend, tokens.shape[1] - slots, share
  )
  return logp, rows["loss"][:, -slots:]


def pairs(
  actor: roles.Policy,
  slots: int,
  loss: Callable[[Array, Array, Rows], Array],
  *,
  referenced: bool,
  normalise: Literal["sum", "mean"] = "sum",
  nll: float = 0.0,
  beta: float = 1.0,
) -> Objective:
  """A loss on pairs of answers to one prompt.

  Args:
    actor: the policy.
    slots: T, answer slots.
    loss: (chosen f32[P], rejected f32[P], {column: [P, ...]}) -> f32[P]; the
      first two are log-ratios to the reference, or log-probs without one.
      Columns are those of the chosen rows; `reference_margin` is made here.
    referenced: whether there is a reference. Its log-probs are the column
      `reference_logp` f32[N] where the data has it.
    normalise: "sum" or "mean" over an answer's tokens.
    nll: weight of the mean -log p of the chosen answer's tokens.
    beta: what a log-ratio is multiplied with in the reported rewards.

  Returns:
    Objective on rows 2i = chosen, 2i + 1 = rejected.
  """

  def size(logp, mask):
    return preference.sequence_logp(logp, mask, normalise)

  def prepare(compute, rows, state):
    if not referenced:
      return rows, state
    mask = rows["loss"][:, -slots:]
    if "reference_logp" in rows:
      total = rows["reference_logp"]
      length = jnp.maximum(jnp.sum(mask, 1), 1)
      ref = total / length if normalise == "mean" else total
    else:
      ref = size(compute("reference", rows), mask)
    return {**rows, "reference": ref}, state

  def terms(variables, frozen, rows, share):
    del frozen
    logp, mask = answer_logp(actor, variables, rows, slots, share)
    score = size(logp, mask)
    if referenced:
      score -= rows["reference"]
    chosen, rejected = score[0::2], score[1::2]
    columns = {k: v[0::2] for k, v in rows.items() if jnp.ndim(v)}
    if referenced:
      fixed = rows["reference"]
      columns["reference_margin"] = fixed[0::2] - fixed[1::2]
    value = loss(chosen, rejected, columns)
    known = valid(rows)[0::2]
    said = jax.lax.stop_gradient(preference.describe(chosen, rejected, beta))
    mean = masked.masked_mean(-logp, mask, axis=1)[0::2]
    if nll:
      value += nll * mean
    metrics = {**said, "nll_chosen": jax.lax.stop_gradient(mean)}
    sums = {k: masked.masked_sum(v, known) for k, v in metrics.items()}
    return masked.masked_sum(value, known), sums

  return Objective(
    together=2,
    needs=frozenset({"reference"}) if referenced else frozenset(),
    init=dict,
    prepare=prepare,
    weight=lambda rows: jnp.sum(valid(rows)[0::2], dtype=jnp.float32),
    terms=terms,
  )


class Trainer(NamedTuple):
  """An objective with a policy and its optimiser.

  Attributes:
    update: (carry, rows, frozen) -> (carry, metrics), carry = (params, opt).
    compute: (params, frozen, rows) -> Compute.
    measure: (params, frozen, rows) -> {metric: (sum, weight)}, no update.
    opt: the optimiser.
  """

  update: Callable[..., tuple[Any, dict[str, Array]]]
  compute: Callable[..., Compute]
  measure: Callable[..., dict[str, tuple[Array, Array]]]
  opt: optax.GradientTransformation


def trainer(
  config, actor: roles.Policy, objective: Objective, opt, slots: int, shards
) -> Trainer:
  """Binds an objective to a policy.

  Args:
    config: at most `microbatch` rows are held at a time.
    actor: the policy.
    objective: what is minimised.
    opt: its optimiser.
    slots: T, answer slots of rows that have them.
    shards: data shards of the mesh.
  """
  per = objective.together

  def plan(rows):
    n = rows["tokens"].shape[0]
    return batching.within(n // per, per, config.microbatch, shards, per)

  def compute(params, frozen, rows) -> Compute:
    del rows

    def logps(role: str, rows: Rows) -> Array:
      if role == "reference" and role not in frozen:
        raise errors.UserError(
          f"reference={config.reference!r}, but the rows have no column"
          " reference_logp",
          "answers are compared with the reference, whose log-probs are"
          " neither data nor computed",
          "set reference='auto', or add the column to the data",
        )
      own = actor.variables(params, frozen)
      tree = own if role == "policy" else actor.reference(frozen)
      inner = plan(rows)
      parts = {k: rows[k] for k in ("tokens", "attend", "loss")}
      run = lambda x: answer_logp(actor, tree, x, slots, inner.share)[0]
      return jax.lax.stop_gradient(accumulate.pieces(inner, run, parts))

    return logps

  def update(carry, rows, frozen):
    params, opt_state = carry
    inner = plan(rows)
    weight = jnp.maximum(objective.weight(rows), 1)

    def piece_loss(params, piece):
      variables = actor.variables(params, frozen)
      total, sums = objective.terms(variables, frozen, piece, inner.share)
      return total / weight, (dict(sums), {})

    value, sums, _, grads = accumulate.gradient(piece_loss, params, rows, inner)
    change, opt_state = opt.update(grads, opt_state, params)
    metrics = {k: _mean(v, weight) for k, v in sums.items()}
    metrics |= {"loss": value, "grad_norm": optax.tree.norm(grads)}
    return (optax.apply_updates(params, change), opt_state), metrics

  def measure(params, frozen, rows):
    inner = plan(rows)
    weight = objective.weight(rows)
    variables = actor.variables(params, frozen)

    def one(piece):
      total, sums = objective.terms(variables, frozen, piece, inner.share)
      return {**sums, "loss": total}

    if inner.pieces == 1:
      found = one(rows)
    else:
      every = jax.lax.map(one, accumulate.cut(inner, rows))
      found = jax.tree.map(lambda x: jnp.sum(x, 0), every)
    pair = lambda v: v if isinstance(v, tuple) else (v, weight)
    return {k: pair(v) for k, v in found.items()}

  return Trainer(update, compute, measure, opt)


def _mean(value: Any, weight: Array) -> Array:
  total, count = value if isinstance(value, tuple) else (value, weight)
  return total / jnp.maximum(count, 1e-9)
