"""HelpSteer2: a reward model of five attributes, and SteerLM 2.0 toward them.

  r      L = sum_k [y_k known] (r_k - y_k)^2 / sum_k [y_k known]
  goodness = 0.65 helpfulness + 0.8 correctness + 0.45 coherence
  Q      grad L = -sum_i (w_i - b_i) grad log Q(y_i|a,x),  y_i ~ Q'(y|a,x)
         w = softmax_i(log P(a|x,y_i) + log P(y_i|x) - log Q'(y_i|a,x))
         b = softmax_i(log Q(y_i|a,x) - log Q'(y_i|a,x))

With `model.outputs` above 0 it is the reward model, on ratings of which some
are missing. Without a head it is the policy: `steer.samples` answers of the
policy of the run's start are drawn for each prompt, and it goes toward the
posterior P(y|a,x) of `steer.levels` of `steer.attributes`, the components of
the reward with these names. P(a|x,y) is a Beta law around each of them. The
paper's second iteration is a run from the first one's checkpoint.
Where a task lists all answers (`spec["answers"]`), the policy's whole law is
held against the posterior: `held/posterior_kl` is KL(P||Q), `held/asked_gap`
how far the mean of the attributes that are asked for is from the target's.

Reference: HelpSteer2: Open-source dataset for training top-performing reward
models, arXiv 2406.08673.
Differs from the paper: log Q' is that of the distribution drawn from, with its
temperature; a group's loss is not divided by its tokens, as the code's is.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from rlreward.ops import steer as ops
from rlreward.steps import credit, fit, iterate, rank, roles, steer
from rlreward.types import Array, Method, State, Task


def make(config, task: Task) -> Method:
  """The reward model where there is a score head, else the policy."""
  return (rated if config.model.outputs else steered)(config, task)


def rated(config, task: Task) -> Method:
  """Regression of all attributes, with goodness judged on held-out answers."""
  rank.check(config)
  rank.check_labels(config, task)
  actor, slots = roles.policy(config.model), fit.slots(task)
  read = rank.singles(config, actor, slots)
  method = fit.make(config, task, actor, read, source="labelled", sampled=False)
  plain, weights = method.held, tuple(config.steer.goodness)
  assert plain is not None

  @jax.jit
  def held(state: State, batch: Mapping[str, Array]):
    found = dict(plain(state, batch))
    if "gold" not in batch:
      return found
    variables = actor.variables(state.params, state.frozen)
    each = rank.scores(actor, variables, batch, slots, 1)
    each, gold = rank.at_end(each, batch, slots), batch["gold"]
    rows = jnp.asarray(gold.shape[0], jnp.float32)
    for k in range(gold.shape[1]):
      error = jnp.sum(jnp.square(each[:, k] - gold[:, k]))
      found[f"error/{k}"] = error, rows
    found["accuracy"] = ops.gold_accuracy(
      ops.goodness(each, weights), ops.goodness(gold, weights)
    )
    return found

  return method._replace(held=held)


def steered(config, task: Task) -> Method:
  """Rounds of groups that the policy of the start has drawn."""
  steer.check(config)
  iterate.check_units(config, config.prompts_per_step, "groups")
  actor, slots = roles.policy(config.model), config.sampling.max_new_tokens
  method = iterate.make(
    config,
    task,
    actor,
    steer.toward(config, actor, slots),
    select=steer.groups(config),
    asides=(credit.Aside("reference", config.steer.samples),),
  )
  if "answers" not in task.spec or not config.steer.attributes:
    return method
  return method._replace(held=steer.law(config, task, actor))
