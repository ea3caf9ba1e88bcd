"""Reward modelling from trees: pairs of answers that share their beginnings.

  L = -log sigma(r(x, y_w) - r(x, y_l)),  y_w and y_l leaves of one prefix tree

The loss is that of any reward model, and so are the texts: whole answers from
root to leaf, never the part after the common prefix. What differs is which
pairs are compared, and that is the task's to say (`task.pairs`: tree | chain).
Held-out rows with a column `split` are judged apart: the accuracy on each of
`spec["splits"]`, and in pools of answers that share beginnings the mean gold of
the model's choice among n (`best_of_n/<pool>/<n>`) and of the best that is
there (`most_of_n/<pool>/<n>`).

Reference: Reward Generalization in RLHF: A Topological Perspective, arXiv
2402.10184.
Differs from the paper: the policy is not trained on the reward model, only
selected by it, which is the first half of its RFT.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from rlreward.ops import masked
from rlreward.ops import reward_model as ops
from rlreward.steps import fit, rank, roles
from rlreward.types import Array, Method, State, Task


def make(config, task: Task) -> Method:
  """A Bradley-Terry reward model with its held-out splits judged apart."""
  rank.check(config)
  actor = roles.policy(config.model)
  slots = fit.slots(task)
  method = fit.make(
    config,
    task,
    actor,
    rank.pairs(config, actor, slots),
    source="preferences",
    sampled=False,
  )
  assert method.held is not None
  plain = method.held

  @jax.jit
  def held(state: State, batch: Mapping[str, Array]):
    found = dict(plain(state, batch))
    if "split" not in batch:
      return found
    variables = actor.variables(state.params, state.frozen)
    each = rank.scores(actor, variables, batch, slots, 1)
    score = rank.at_end(each, batch, slots)[:, 0]
    found |= accuracies(score, batch["split"], task.spec["splits"])
    # The last rows are pools, as many of one kind as of the other.
    pools, end = task.spec["pools"], score.shape[0]
    for name, size in reversed(pools.items()):
      count = score.shape[0] // (2 * len(pools) * size)
      own = slice(end - count * size, end)
      part = [x[own].reshape(count, size) for x in (score, batch["gold"])]
      found |= best_of(name, *part) if count else {}
      end = own.start
    return found

  return method._replace(held=held)


def accuracies(score: Array, split: Array, names) -> dict:
  """(sum, weight) of the accuracy on each split of pairs.

  Args:
    score: f32[2P], rows 2i the better answer.
    split: i32[2P], place in `names`; others are not counted.
    names: of the splits.
  """
  right = ops.pair_accuracy(score[0::2], score[1::2])
  found = {}
  for i, name in enumerate(names):
    own = split[0::2] == i
    count = jnp.sum(own, dtype=jnp.float32)
    found[f"accuracy/{name}"] = masked.masked_sum(right, own), count
  return found


def best_of(name: str, score: Array, gold: Array) -> dict:
  """(sum, weight) of the gold of the choice among the first n = 4, 8 ..

  Args:
    name: of the pools.
    score: f32[Q, N], the model's.
    gold: f32[Q, N].
  """
  count, found = jnp.float32(score.shape[0]), {}
  n = 4
  while n <= score.shape[1]:
    at = jnp.argmax(score[:, :n], 1)[:, None]
    got = jnp.sum(jnp.take_along_axis(gold, at, 1))
    most = jnp.sum(jnp.max(gold[:, :n], 1))
    found[f"best_of_n/{name}/{n}"] = got, count
    found[f"most_of_n/{name}/{n}"] = most, count
    n *= 2
  return found
