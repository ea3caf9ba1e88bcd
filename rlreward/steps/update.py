"""Several updates from one rollout: passes, early stop, roles that train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from rlreward.steps import accumulate, batching, optimizer

Tree = Any
Array = jax.Array
# (carry, rows) -> (carry, metrics); what an update moves is in the carry.
Update = Callable[[Tree, Tree], tuple[Tree, Mapping[str, Array]]]


def optimisers(config, roles: Mapping[str, Any], updates: int):
  """One optimiser for each trained role, each with its own norm to clip.

  Args:
    config: section `optimizer`.
    roles: {role: its learning rate, or None for that of `optimizer`}.
    updates: of the whole run.

  Returns:
    optax.GradientTransformation over {role: tree}.
  """
  base = config.optimizer
  if len(roles) == 1:
    return optimizer.make(base, updates)
  parts = {}
  for role, rate in roles.items():
    parts[role] = optimizer.make(_at(base, rate), updates)
  return optax.partition(parts, lambda params: {role: role for role in params})


def _at(base, rate):
  """The optimiser section with another learning rate."""
  fields = base.to_dict()  # a run's config is frozen
  if rate is not None:
    fields["learning_rate"] = rate
  return ml_collections.ConfigDict(fields)


def several(
  one: Update,
  carry: Tree,
  rows: Tree,
  outer: batching.Plan,
  epochs: int,
  kl_stop: float = 0.0,
) -> tuple[Tree, dict[str, Array]]:
  """`epochs` passes over rows that are cut into updates.

  Args:
    one: an update on some of the rows.
    carry: parameters, optimiser state.
    rows: tree of [N, ...] arrays and scalars.
    outer: how rows are cut into updates.
    epochs: passes.
    kl_stop: above 0, an update whose metric "approx_kl" exceeds it is not
      made, nor is any that follows.

  Returns:
    (carry, metrics): means over the updates made, of the first alone for what
    compares with the sampler; "updates_skipped" where there is a stop.
  """
  cut = accumulate.cut(outer, rows)
  order = jnp.tile(jnp.arange(outer.pieces), epochs)

  def take(index):
    return jax.tree.map(lambda x: x[index], cut)

  if not kl_stop:
    body = lambda carry, index: one(carry, take(index))
    carry, every = jax.lax.scan(body, carry, order)
    return carry, _mean(every, jnp.ones(order.shape, bool))

  def guarded(state, index):
    carry, going = state

    def go(carry):
      after, metrics = one(carry, take(index))
      far = metrics["approx_kl"] > kl_stop
      kept = jax.tree.map(lambda a, b: jnp.where(far, a, b), carry, after)
      return kept, ~far, metrics

    shapes = jax.eval_shape(go, carry)[2]
    none = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    rest = lambda carry: (carry, jnp.zeros((), bool), none)
    carry, made, metrics = jax.lax.cond(going, go, rest, carry)
    return (carry, going & made), (metrics, made)

  state, (every, made) = jax.lax.scan(
    guarded, (carry, jnp.ones((), bool)), order
  )
  metrics = _mean(every, made)
  metrics["updates_skipped"] = jnp.sum(~made, dtype=jnp.float32)
  return state[0], metrics


# Later updates differ from the sampler by intent; the first must not.
FIRST = ("logprob_abs_diff", "logprob_abs_diff_max")


def _mean(every: Mapping[str, Array], made: Array) -> dict[str, Array]:
  count = jnp.maximum(jnp.sum(made), 1)
  mean = lambda x: jnp.sum(jnp.where(made, x, 0)) / count
  return {k: x[0] if k in FIRST else mean(x) for k, x in every.items()}


def hold(names: tuple[str, ...], held: Array, before, after):
  """(params, opt) after an update, with some roles as they were before it.

  Args:
    names: roles to hold where `held` is true.
    held: bool[].
    before: (params {role: tree}, state of `optimisers` with several roles).
    after: the same after the update.
  """
  pick = lambda a, b: jax.tree.map(lambda x, y: jnp.where(held, x, y), a, b)
  params, opt = after
  params = {
    k: pick(before[0][k], v) if k in names else v for k, v in params.items()
  }
  inner = {
    k: pick(before[1].inner_states[k], v) if k in names else v
    for k, v in opt.inner_states.items()
  }
  return params, opt._replace(inner_states=inner)
