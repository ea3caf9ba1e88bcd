"""Sample, then choose: no parameter moves, the answer is one of N.

Sampling, scoring and choosing are one compiled program where the reward is.
The N samples of a prompt are drawn in chunks, so that the keys and values held
at a time are those of a chunk; tokens and rewards of all N are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rlreward import errors, sharding
from rlreward.analytic import best_of_n
from rlreward.ops import masked, select
from rlreward.sampling import decode
from rlreward.steps import checks, evaluate, roles, rollouts, thin, turns
from rlreward.types import Array, Method, Rollout, Score, State, Task


def make(config, task: Task) -> Method:
  """Best-of-N and its kin as `config.best_of_n` describes them.

  Args:
    config: `samples_per_prompt` is N; `best_of_n.pick` is how one is chosen:
      best (highest reward), soft (drawn by softmax(reward / temperature)),
      majority (the answer given most often) or weighted (by sum of rewards).
      Answers are the same where their tokens are, or where the score has a
      component `answer_id`.
    task: prompts and rewards.

  Returns:
    Method with phases; metrics have the unbiased curve `best_of/<n>` for n up
    to N, which is pass@n where rewards are 0 or 1.

  Raises:
    UserError: a config that cannot run.
  """
  c = config.best_of_n
  n, b = config.samples_per_prompt, config.prompts_per_step
  checks.counts(config, ("prompts_per_step", "samples_per_prompt", "steps"))
  checks.best_of_n(config)
  checks.vocabulary(config, task)
  thin.refuse(config)
  chunk = c.chunk or n
  if n % chunk:
    raise errors.UserError(
      f"best_of_n.chunk={chunk} does not divide samples_per_prompt={n}",
      "every chunk has the same shape",
      f"set best_of_n.chunk to a divisor of {n}, or 0 for one chunk",
    )
  actor = roles.policy(config.model)
  turns.refuse(task, "best of n")
  spec = evaluate.sampling_spec(config, task, chunk)
  _check_spec(spec)

  def init(key, variables=None) -> State:
    params, frozen = actor.init(key, variables)
    if config.reference == "always":
      frozen = {**frozen, "reference": actor.snapshot(params)}
    return State(
      step=jnp.zeros((), jnp.int32),
      params=params,
      frozen=frozen,
      opt=(),
      key=jax.random.fold_in(key, 2),
      extra={},
    )

  def sample(state: State, batch, key) -> Rollout:
    tree = sharding.pin(
      actor.variables(state.params, state.frozen),
      actor.axes,
      sharding.DECODE_RULES,
    )

    def some(index):
      return decode.generate(
        actor.model,
        tree,
        batch["prompt"],
        batch["prompt_mask"],
        jax.random.fold_in(key, index),
        spec,
        state.step,
      )

    if chunk == n:
      return some(0)
    parts = jax.lax.map(some, jnp.arange(n // chunk))

    def join(x):
      if x.ndim == 1:  # a scalar of each chunk
        return x[0]
      x = x.reshape(x.shape[0], b, chunk, *x.shape[2:])
      return jnp.moveaxis(x, 0, 1).reshape(b * n, *x.shape[3:])

    whole = jax.tree.map(join, parts._replace(group=parts.group[..., None]))
    return whole._replace(group=jnp.arange(b * n, dtype=jnp.int32) // n)

  def update(state: State, rollout: Rollout, score: Score):
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 2**30)
    place, known = choose(config, rollout, score, key)
    grouped = lambda x: x.reshape(b, n, *x.shape[1:])
    at = lambda x: jnp.take_along_axis(grouped(x), place[:, None], 1)[:, 0]
    metrics: dict[str, Any] = rollouts.describe(rollout, score, n)
    metrics["chosen/reward"] = masked.masked_mean(at(score.value), known)
    for name, part in score.components.items():
      mine = at(part)
      metrics[f"chosen/{name}"] = masked.masked_mean(
        mine, known & jnp.isfinite(mine)
      )
    metrics |= curves(grouped(score.value), grouped(score.valid))
    metrics["loss"] = jnp.zeros(())
    picked = jnp.zeros((b, n), bool).at[jnp.arange(b), place].set(known)
    metrics["rows"] = {"chosen": picked.reshape(-1).astype(jnp.float32)}
    return state._replace(step=state.step + 1), metrics

  def step(state: State, batch, key):
    rollout = sample(state, batch, key)
    return update(state, rollout, task.reward(rollout, batch))

  return Method(
    init,
    step,
    evaluate.make(config, task, actor),
    rollouts.phases(config, task, sample, update, (_ID,)),
  )


def _check_spec(spec: decode.Spec) -> None:
  if not spec.temperature:
    raise errors.UserError(
      f"sampling.temperature=0 with {spec.samples_per_prompt} samples",
      "greedy samples are all the same, so there is nothing to choose from",
      "set sampling.temperature above 0, e.g. 1",
    )


def choose(
  config, rollout: Rollout, score: Score, key: Array
) -> tuple[Array, Array]:
  """(place i32[B] in its group, bool[B] whether there was a choice).

  Args:
    config: section `best_of_n`.
    rollout: B * N rows.
    score: of them.
    key: breaks ties.
  """
  c, b = config.best_of_n, config.prompts_per_step
  grouped = lambda x: x.reshape(b, -1, *x.shape[1:])
  reward, valid = grouped(score.value), grouped(score.valid)
  some = jnp.any(select.usable(reward, valid), 1)
  if c.pick == "best":
    return select.best_of_k(reward, valid, key)
  if c.pick == "soft":
    return select.soft_best_of_n(reward, valid, c.temperature, key), some
  ids = answers(score, grouped(rollout.tokens), grouped(rollout.action))
  own = _answer_id(score)
  if own is not None:  # no answer, no vote
    valid &= jnp.isfinite(grouped(own))
  if c.pick == "majority":
    won = select.majority(ids, valid, key)
  else:
    won = select.weighted_vote(ids, jnp.where(valid, reward, 0), valid, key)
  voted = (ids == won[:, None]) & valid
  # Of those that gave the answer, the one of highest reward.
  return select.best_of_k(reward, voted, key)[0], jnp.any(voted, 1)


def answers(score: Score, tokens: Array, action: Array) -> Array:
  """i32[B, N]: which answer a sample gives; equal numbers are equal answers.

  Args:
    score: its component `answer_id` (or `<reward>/answer_id`) decides where
      there is one; NaN is no answer.
    tokens: i32[B, N, L].
    action: bool[B, N, L].
  """
  ids = _answer_id(score)
  if ids is not None:
    ids = jnp.where(jnp.isfinite(ids), ids, -1)
    return ids.astype(jnp.int32).reshape(tokens.shape[:2])
  said = jnp.where(action, tokens, -1)
  same = jnp.all(said[:, :, None] == said[:, None], -1)
  return jnp.argmax(same, -1).astype(jnp.int32)  # the first that said it


def _answer_id(score: Score) -> Array | None:
  named = [k for k in score.components if rollouts.last_part(k) == _ID]
  return score.components[named[0]] if named else None


_ID = "answer_id"


def curves(reward_BxN: Array, valid_BxN: Array) -> Mapping[str, Array]:
  """{"best_of/<n>": mean over prompts of the unbiased best-of-n reward}.

  Where rewards are 0 or 1 it is pass@n. Prompts with a sample that has no
  judgement are left out.

  Args:
    reward_BxN: rewards.
    valid_BxN: bool.

  Returns:
    For n = 1, 2, 4, ... and N.
  """
  size = reward_BxN.shape[1]
  known = select.usable(reward_BxN, valid_BxN)
  whole = jnp.all(known, 1)
  clean = masked.clean(reward_BxN, known)
  out, n = {}, 1
  while n <= size:
    value = best_of_n.value_unbiased(clean, n)
    out[f"best_of/{n}"] = masked.masked_mean(value, whole)
    n = size if n < size < 2 * n else 2 * n
  return out
