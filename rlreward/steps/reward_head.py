"""How objectives of reward models read heads that are not one linear layer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlreward import errors
from rlreward.models import reward_heads
from rlreward.ops import critique as critique_ops
from rlreward.ops import logprob, masked
from rlreward.ops import reward_model as ops
from rlreward.steps import objective, roles
from rlreward.types import Array

# Heads that mix several outputs into one score.
MIXED = ("gated", "features")


def judged(
  actor: roles.Policy, variables, rows, slots: int, share: int
) -> reward_heads.Reading:
  """What the head says of answers in the last T slots.

  Args:
    actor: a model with a head.
    variables: its variables.
    rows: columns as the head needs them; `critique` bool[n, L] marks the
      tokens of critiques, which follow the answer.
    slots: T.
    share: rows in succession that have one prompt.
  """
  tokens, head = rows["tokens"], actor.head
  prompts = tokens.shape[1] - slots
  x, end, own = reward_heads.states(
    actor.model, variables, tokens, rows["attend"], prompts, share
  )
  found = reward_heads.read(head, actor.model, variables, x, end, rows)
  if head.kind != "critique":
    return found
  if "critique" not in rows:
    raise errors.UserError(
      f"model.head.kind='critique', and rows have {', '.join(sorted(rows))}",
      "the tokens of critiques are told apart by a mask",
      "use a task with a column critique bool[N, L], or another head",
    )
  written = rows["critique"][:, prompts:]
  nll = critique_nll(actor, variables, x, own, tokens[:, prompts:], written)
  parts = {"nll": nll, "written": jnp.any(written, 1)}
  return found._replace(parts=parts)


def critique_nll(
  actor: roles.Policy, variables, prompt: Array, own: Array, tokens, mask
) -> Array:
  """f32[n]: mean -log p of a critique's tokens, 0 where there are none.

  Args:
    actor: a model with a language head.
    variables: its variables.
    prompt: [n, D], the state that predicts the first token.
    own: [n, T, D], states of the tokens.
    tokens: i32[n, T].
    mask: bool[n, T], tokens of the critique.
  """
  before = jnp.concatenate([prompt[:, None], own[:, :-1]], 1)
  logp, _ = logprob.token_logprob(
    before,
    actor.model.head(variables),
    tokens,
    softcap=actor.model.config.final_softcap,
    chunk=None,
  )
  return masked.masked_mean(-logp, mask, axis=1)


def extra(c, found: reward_heads.Reading, rows) -> tuple[Array, dict]:
  """What a router adds to the sum over pairs, and its metrics.

    -log p(category | x), once for each pair

  Args:
    c: config section `reward_model`.
    found: of all rows, rows 2i and 2i + 1 a pair.
    rows: with `category` i32[n] where a router is trained.
  """
  known = objective.valid(rows)[0::2]
  count = jnp.sum(known, dtype=jnp.float32)
  if "router" in found.parts and "category" in rows:
    logits, category = found.parts["router"][0::2], rows["category"][0::2]
    each = jax.nn.log_softmax(logits)
    nll = -jnp.take_along_axis(each, category[:, None], 1)[:, 0]
    right = (jnp.argmax(logits, -1) == category).astype(jnp.float32)
    share = masked.masked_sum(right, known), count
    loss = c.router * masked.masked_sum(nll, known)
    return loss, {"router_accuracy": share}
  return jnp.zeros(()), {}


def critiques(config, actor: roles.Policy, slots: int) -> objective.Objective:
  """Pairs whose answers are followed by critiques: `ops.critique`.

  Args:
    config: section `reward_model`.
    actor: a model with a critique head.
    slots: T. Columns `critique` bool[N, L]; `tie` bool[N] and `strength`
      f32[N] where the data has them.
  """
  c = config.reward_model

  def kinds(rows) -> tuple[Array, Array]:
    known = objective.valid(rows)[0::2]
    tie = rows.get("tie", jnp.zeros(rows["loss"].shape[0], bool))[0::2]
    return known, known & tie

  def prepare(compute, rows, state):
    del compute
    known, tie = kinds(rows)
    n = rows["loss"].shape[0]
    wide = lambda mask: jnp.full(n, jnp.sum(mask, dtype=jnp.float32))
    return {**rows, "of_ties": wide(tie), "of_pairs": wide(known)}, state

  def terms(variables, frozen, rows, share):
    del frozen
    found = judged(actor, variables, rows, slots, share)
    two = lambda x: (x[0::2], x[1::2])
    chosen, rejected = two(found.value)
    known, tie = kinds(rows)
    written = jnp.logical_and(*two(found.parts["written"]))
    ties, count = rows["of_ties"][0], rows["of_pairs"][0]
    loss = critique_ops.critique_rm_loss(
      chosen,
      rejected,
      *two(found.parts["nll"]),
      tie,
      written,
      known,
      counts=(count - ties, ties, count),
      margin=rows["strength"][0::2] if c.margin else 0.0,
      tie_weight=c.tie_weight,
      centering=c.centering,
      critique_weight=c.critique,
    )
    metrics = {
      "accuracy": ops.pair_accuracy(chosen, rejected),
      "margin": chosen - rejected,
      "critique_nll": sum(two(found.parts["nll"])) / 2,
    }
    masks = {"accuracy": known & ~tie, "critique_nll": known & written}
    sums = {}
    for name, value in jax.lax.stop_gradient(metrics).items():
      mask = masks.get(name, known)
      sums[name] = (
        masked.masked_sum(value, mask),
        jnp.sum(mask, dtype=jnp.float32),
      )
    # The means are in the loss; what it is divided by comes off again.
    return jnp.maximum(count, 1) * jnp.sum(loss), sums

  return objective.Objective(
    together=2,
    needs=frozenset(),
    init=dict,
    prepare=prepare,
    weight=lambda rows: jnp.sum(kinds(rows)[0], dtype=jnp.float32),
    terms=terms,
  )


def check(config: Any) -> bool:
  """Whether the head mixes several outputs into the score.

  Raises:
    UserError: a head that the loss cannot train.
  """
  head = reward_heads.describe(config.model)
  kind = config.reward_model.kind
  if head.kind != "scalar" and kind == "steps":
    raise errors.UserError(
      f"model.head.kind={head.kind!r} with reward_model.kind='steps'",
      "steps are scored at their tokens, and the head reads whole answers",
      "set model.head.kind='scalar'",
    )
  if head.kind == "critique" and kind != "bradley_terry":
    raise errors.UserError(
      f"model.head.kind='critique' with reward_model.kind={kind!r}",
      "scores and critiques are learned from pairs",
      "set reward_model.kind='bradley_terry'",
    )
  return head.kind in MIXED
