"""Held-out evaluation: one sample of each prompt, judged by the gold reward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlreward import sharding
from rlreward.models import score as score_lib
from rlreward.ops import kl, masked
from rlreward.sampling import decode
from rlreward.steps import judge, learned, roles, turns
from rlreward.types import LENGTH, Rollout, State, Task


def sampling_spec(config, task: Task, group: int, **changes) -> decode.Spec:
  """The sampler's spec from a config's `sampling` section and the task.

  Args:
    config: a run's config.
    task: its stop and pad ids are used.
    group: samples for each prompt.
    **changes: fields of the spec that differ from the config.
  """
  s = config.sampling
  fields = {
    "max_new_tokens": s.max_new_tokens,
    "samples_per_prompt": group,
    "temperature": s.temperature,
    "top_k": s.top_k,
    "top_p": s.top_p,
    "min_p": s.min_p,
    "min_new_tokens": s.min_new_tokens,
    "stop_ids": tuple(task.spec["stop_ids"]),
    "pad_id": task.spec["pad_id"],
    "cache_dtype": s.cache_dtype,
  }
  return decode.Spec(**{**fields, **changes})


def make(config, task: Task, actor: roles.Policy) -> Callable[..., Any]:
  """The `evaluate` of a Method.

  Args:
    config: `eval.temperature` is the sampling temperature; 0 is greedy.
    task: judged by `gold`, or by `reward` where gold is unknown.
    actor: the policy.

  Returns:
    (state, batch, key, whole) -> {"metrics": {name: (sum, weight)}, "rollout",
    "score"}; sums and weights add up over batches. `proxy` is the mean of what
    is trained on where gold is another reward. `batch` has its arrays on
    the mesh, `whole` is the batch of all processes that a reward on the host
    reads. Where the State has a reference, `kl` is the mean over responses of
    sum_t log pi / pi_ref, nats, at the sampling temperature.
  """
  spec = sampling_spec(config, task, 1, temperature=config.eval.temperature)
  turns.check(task, spec, ())
  gold = task.gold or task.reward
  proxy = None if gold is task.reward else task.reward
  if task.spec["on_device"]:
    gold = jax.jit(gold)
    proxy = proxy and jax.jit(proxy)

  read = learned.reader(config)

  def laid(state: State):
    tree = actor.variables(state.params, state.frozen)
    return sharding.pin(tree, actor.axes, sharding.DECODE_RULES), state.step

  def read_back(state: State, rollout: Rollout):
    """(the rollout with the scores of a learned reward, f32[N] KL or None)."""
    if read is not None:
      rollout = read(state.frozen, rollout)
    if "reference" not in state.frozen or not spec.temperature:
      return rollout, None
    t = spec.max_new_tokens
    logp, _ = score_lib.completion_logprob(
      actor.model,
      actor.reference(state.frozen),
      rollout.tokens,
      rollout.attend,
      rollout.tokens.shape[1] - t,
      temperature=spec.temperature,
    )
    gap = kl.k1(rollout.logp[:, -t:], logp, limit=None)
    return rollout, masked.masked_sum(gap, rollout.action[:, -t:], 1)

  sample = turns.sampler(actor, spec, turns.of(task), laid, read_back)

  def evaluate(state: State, batch, key, whole=None) -> Any:
    rollout, divergence = sample(
      state, judge.arrays(batch), key, *turns.also(task, whole or batch)
    )
    score = judge.judge(gold, task, rollout, batch, whole or batch)

    def told(x, valid):
      # A component may be missing (NaN) where the reward as a whole is valid.
      known = jnp.asarray(valid) & jnp.isfinite(x)
      return masked.masked_sum(jnp.asarray(x), known), jnp.sum(known)

    metrics = {"reward": told(score.value, score.valid)}
    if proxy is not None:
      other = judge.judge(proxy, task, rollout, batch, whole or batch)
      metrics["proxy"] = told(other.value, other.valid)
    for name, part in score.components.items():
      metrics[name] = told(part, score.valid)
    rows = jnp.asarray(rollout.finish.shape[0])
    metrics["length"] = (jnp.sum(rollout.action), rows)
    metrics["truncated"] = (jnp.sum(rollout.finish == LENGTH), rows)
    for name, mean in turns.describe(rollout).items():
      metrics[name] = (mean * rows, rows)
    if divergence is not None:
      metrics["kl"] = (jnp.sum(divergence), rows)
    return {"metrics": metrics, "rollout": rollout, "score": score}

  return evaluate
