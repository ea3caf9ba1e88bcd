"""What a reference could earn on fixed prompts: its answers, scored once.

Where a task lists its answers, their exact probabilities; else N samples of
each prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from rlreward import errors, sharding
from rlreward.evals.frontier import Pool
from rlreward.models import score as score_lib
from rlreward.ops import masked
from rlreward.steps import evaluate, judge, learned, roles, turns
from rlreward.types import Outcomes, State, Task

_ROWS = 4096  # listed answers of one forward pass


class Survey(NamedTuple):
  """How a pool is made, and how the policy is measured against it.

  Attributes:
    build: (state, batch, key, whole) -> Pool of the State's reference.
    law: (state, whole) -> {"reward", "kl", "gold"} of the policy, exactly:
      means, nats; None where the task does not list its answers. The KL is
      left out where it lists some of them, gold where it is the reward.
  """

  build: Callable[..., Pool]
  law: Callable[..., dict[str, float]] | None


def check(config, frozen: Mapping[str, Any]) -> None:
  """Refuses what has no frontier, before anything compiles.

  Args:
    config: section `frontier`; nothing is checked without samples.
    frozen: roles of the State.

  Raises:
    UserError: says which field is in the way.
  """
  n = config.frontier.samples
  if not n:
    return
  if n < 2:
    raise errors.UserError(
      f"frontier.samples={n}",
      "what is attainable is read from the spread of samples",
      "set frontier.samples to 64 or more, or 0 for no frontier",
    )
  if "reference" not in frozen:
    raise errors.UserError(
      f"frontier.samples={n} and no reference",
      "the frontier is about the KL to the reference, which nobody computes",
      "set reference=always",
    )
  if not config.eval.temperature:
    raise errors.UserError(
      f"frontier.samples={n} with eval.temperature=0",
      "greedy answers have no spread and no KL",
      "set eval.temperature=1",
    )


def make(config, task: Task, actor: roles.Policy) -> Survey:
  """The survey of a run's held-out prompts.

  Args:
    config: `frontier.samples` is N; `eval.temperature` that of the samples.
    task: judged by `reward`, and by `gold` where that is another one.
    actor: the policy.

  Returns:
    Survey.
  """
  if task.spec.get("outcomes"):
    return _listed(config, task, actor)
  return Survey(_sampled(config, task, actor), None)


def _sampled(config, task: Task, actor: roles.Policy):
  total, prompts = config.frontier.samples, config.eval.prompts
  trained = config.prompts_per_step * config.samples_per_prompt
  some = min(total, max(1, trained // prompts))  # rows as in training
  spec = evaluate.sampling_spec(
    config, task, some, temperature=config.eval.temperature
  )
  rewards = [task.reward]
  if task.gold is not None and task.gold is not task.reward:
    rewards.append(task.gold)
  if task.spec["on_device"]:
    rewards = [jax.jit(f) for f in rewards]

  def laid(state: State):
    tree = actor.reference(state.frozen)
    return sharding.pin(tree, actor.axes, sharding.DECODE_RULES), state.step

  read = learned.reader(config)

  def after(state: State, rollout):
    return read(state.frozen, rollout, some) if read else rollout

  sample = turns.sampler(actor, spec, turns.of(task), laid, after)

  def build(state: State, batch, key, whole) -> Pool:
    found = []
    for i in range(-(-total // some)):
      rollout = sample(
        state,
        judge.arrays(batch),
        jax.random.fold_in(key, i),
        *turns.also(task, whole),
      )
      logp = masked.masked_sum(rollout.logp, rollout.action, 1)
      scores = [judge.judge(f, task, rollout, batch, whole) for f in rewards]
      kept = [logp, *((s.value, s.valid) for s in scores)]
      found.append(judge.on_host(kept))
    join = lambda *x: np.concatenate(
      [y.reshape(-1, some) for y in x], 1
    )[:, :total]  # fmt: skip
    logp, (reward, valid), *gold = jax.tree.map(join, *found)
    wanted = np.where(gold[0][1], gold[0][0], np.nan) if gold else None
    return Pool(reward, wanted, valid, logp, False)

  return build


def _listed(config, task: Task, actor: roles.Policy) -> Survey:
  @jax.jit
  def score(variables, tokens, attend, prompt):
    logp, _ = score_lib.completion_logprob(
      actor.model,
      variables,
      tokens,
      attend,
      prompt.shape[1],
      temperature=config.eval.temperature,
    )
    return masked.masked_sum(logp, attend[:, prompt.shape[1] :], 1)

  def law(variables, whole) -> tuple[np.ndarray, Outcomes]:
    """(f64[B, Y (+ 1)], log-probs with that of the rest; the answers)."""
    batch = _distinct(whole)
    found: Outcomes = task.spec["outcomes"](batch)
    b, y, t = found.tokens.shape
    if found.rest is None and t != config.sampling.max_new_tokens:
      raise errors.UserError(
        f"sampling.max_new_tokens={config.sampling.max_new_tokens} and answers"
        f" of {t} tokens",
        "the task lists every answer there is, and samples are others",
        f"set sampling.max_new_tokens={t}",
      )
    wide = lambda x: np.repeat(np.asarray(x), y, 0)
    prompt = wide(batch["prompt"])
    tokens = np.concatenate([prompt, found.tokens.reshape(-1, t)], 1)
    attend = [wide(batch["prompt_mask"]), found.mask.reshape(-1, t)]
    attend = np.concatenate(attend, 1)
    rows = min(_ROWS, b * y)
    out = []
    for i in range(0, b * y, rows):
      # The last piece is filled up, so that one program serves all.
      place = np.minimum(np.arange(i, i + rows), b * y - 1)
      got = score(variables, tokens[place], attend[place], prompt[place])
      out.append(judge.on_host(got)[: b * y - i])
    logp = np.concatenate(out).astype(np.float64).reshape(b, y)
    if found.rest is not None:
      left = np.clip(-np.expm1(np.logaddexp.reduce(logp, 1)), 1e-12, 1)
      logp = np.concatenate([logp, np.log(left)[:, None]], 1)
    return logp, found

  def rewards(found: Outcomes) -> np.ndarray:
    if found.rest is None:
      return found.reward
    rest = np.full((found.reward.shape[0], 1), found.rest, np.float32)
    return np.concatenate([found.reward, rest], 1)

  base: dict[str, Any] = {}

  def reference(state, whole):
    if not base:
      base["law"] = law(actor.reference(state.frozen), whole)
    return base["law"]

  def build(state: State, batch, key, whole) -> Pool:
    del batch, key
    logp, found = reference(state, whole)
    reward = rewards(found)
    valid = np.ones(reward.shape, bool)
    return Pool(reward, found.gold, valid, logp, True)

  def policy(state: State, whole) -> dict[str, float]:
    logp, found = reference(state, whole)
    logq, _ = law(actor.variables(state.params, state.frozen), whole)
    q = np.exp(logq)
    mean = lambda x: float(np.mean(np.sum(q * x, 1)))
    out = {"reward": mean(rewards(found))}
    if found.rest is None:
      out["kl"] = mean(logq - logp)
    if found.gold is not None:
      out["gold"] = mean(found.gold)
    return out

  return Survey(build, policy)


def _distinct(whole: Mapping[str, Any]) -> dict[str, Any]:
  """Each prompt once, where all are there equally often."""
  prompt, mask = np.asarray(whole["prompt"]), np.asarray(whole["prompt_mask"])
  shown = np.where(mask, prompt, -1)
  _, first, count = np.unique(
    shown, axis=0, return_index=True, return_counts=True
  )
  if len(first) == len(prompt) or len(set(count.tolist())) > 1:
    return dict(whole)
  size = len(prompt)
  take = lambda x: np.asarray(x)[np.sort(first)] if len(x) == size else x
  return {k: take(v) if np.ndim(v) else v for k, v in whole.items()}
