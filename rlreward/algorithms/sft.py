"""Supervised fine-tuning: -log p of the demonstrated tokens, token mean.

  L = -sum_t mask_t log pi(y_t | x, y_<t) / sum_t mask_t

over the whole batch, whatever the microbatch. Rows may hold several examples
(`task.packing`): tokens see their own example alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlreward.ops import logprob, masked
from rlreward.steps import fit, objective, roles
from rlreward.types import Array, Method, Task


def make(config, task: Task) -> Method:
  """SFT on the task's demonstrations; the loss mask is theirs."""
  actor = roles.policy(config.model)
  return fit.make(config, task, actor, language(actor), source="demonstrations")


def language(actor: roles.Policy) -> objective.Objective:
  """Cross-entropy over the tokens of rows, weighted by `weight` f32[N].

  Args:
    actor: the policy. Rows may have `segment` i32[N, L] and `weight`.
  """

  def shares(rows) -> Array:
    """f32[N]: how much a token of each row counts."""
    known = objective.valid(rows)
    weight = rows.get("weight", jnp.ones(known.shape, jnp.float32))
    return masked.clean(weight, known)

  def weight(rows):
    tokens = jnp.sum(rows["loss"][:, 1:], 1, dtype=jnp.float32)
    return jnp.sum(tokens * shares(rows))

  def terms(variables, frozen, rows, share):
    del frozen, share
    tokens, attend = rows["tokens"][:, :-1], rows["attend"][:, :-1]
    segment = rows["segment"][:, :-1] if "segment" in rows else None
    model = actor.model
    logp, _ = logprob.token_logprob(
      model.hidden(variables, tokens, attend, segment),
      model.head(variables),
      rows["tokens"][:, 1:],
      softcap=model.config.final_softcap,
      chunk=None,
    )
    mask = jnp.asarray(rows["loss"][:, 1:], bool)
    nll = jnp.sum(masked.masked_sum(-logp, mask, 1) * shares(rows))
    return nll, {"nll": jax.lax.stop_gradient(nll)}

  return objective.Objective(
    together=1,
    needs=frozenset(),
    init=dict,
    prepare=objective.nothing,
    weight=weight,
    terms=terms,
  )
