"""Sample and score a step's groups; replace those that do not vary.

With `refill_rounds` above 0, groups whose `filter_on` component is the same in
every sample are dropped and further prompts sampled until enough groups vary
or the rounds are over (DAPO's dynamic sampling). Shapes never change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlreward.ops import advantage
from rlreward.steps import judge, online, turns
from rlreward.tasks import curriculum
from rlreward.types import Method, Rollout, Score, State, Task

Place = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def collect(
  method: Method, task: Task, state: State, batches, place: Place, config
):
  """One step's rollout and its score.

  Args:
    method: an online method.
    task: whether its reward runs on the device.
    state: current State.
    batches: iterator of whole batches.
    place: batch -> the batch with its arrays on the mesh.
    config: the run's config.

  Returns:
    (rollout, score, {metric: float}).
  """
  assert method.phases is not None
  root = jax.random.fold_in(state.key, state.step)
  seconds = {"sample": 0.0, "score": 0.0}
  groups: list[tuple[Rollout, Score]] = []
  kept = drawn = tokens = 0
  level = {}
  if isinstance(batches, curriculum.Staged):
    level["curriculum/level"] = float(batches.level)
  for index in range(config.refill_rounds + 1):
    batch = next(batches)
    placed = place(batch)
    start = time.perf_counter()
    key = jax.random.fold_in(root, index)
    rollout = method.phases.sample(
      state, judge.arrays(placed), key, *turns.also(task, batch)
    )
    jax.block_until_ready(rollout.tokens)
    middle = time.perf_counter()
    score = judge.judge(method.phases.score, task, rollout, placed, batch)
    jax.block_until_ready(score.value)
    seconds["sample"] += middle - start
    seconds["score"] += time.perf_counter() - middle
    drawn += config.prompts_per_step
    groups.append((rollout, score))
    if not config.refill_rounds:
      break
    vary = judge.on_host(_varies(config, score))
    kept += int(vary.sum())
    tokens += int(judge.on_host(jnp.sum(rollout.action)))
    if kept >= config.prompts_per_step:
      break
  if isinstance(batches, curriculum.Adaptive):
    batches.observe(_rate(config, [score for _, score in groups]))
  extra = {**_seconds(seconds), **level}
  if not config.refill_rounds:
    return rollout, score, extra
  rollout, score = _merge(config, groups)
  extra |= {"refill/kept": kept, "refill/drawn": drawn,
            "tokens_sampled": tokens}  # fmt: skip
  return rollout, score, extra


def _rate(config, scores: list[Score]) -> float:
  """Mean of all answers of a step, NaN if none is judged.

  Groups that a refill leaves out count: those that are kept say little of how
  hard a level is.
  """
  total = weight = 0.0
  for score in scores:
    value, valid = judge.on_host(_judged(config, score))
    total += float(np.sum(value, dtype=np.float64))
    weight += float(np.sum(valid))
  return total / weight if weight else float("nan")


def _seconds(seconds: Mapping[str, float]) -> dict[str, float]:
  return {f"seconds/{k}": v for k, v in seconds.items()}


def _varies(config, score: Score) -> jax.Array:
  return advantage.informative(*_judged(config, score))


def _judged(config, score: Score) -> tuple[jax.Array, jax.Array]:
  """(`filter_on` or the reward, 0 where not valid; valid), each [B, G]."""
  value = jnp.asarray(online.accuracy(config.filter_on)(score))
  valid = jnp.asarray(score.valid) & jnp.isfinite(value)
  # Asides follow the samples of their prompt and are not trained on.
  b, g = config.prompts_per_step, config.samples_per_prompt
  cut = lambda x: x.reshape(b, -1)[:, :g]
  return cut(jnp.where(valid, value, 0)), cut(valid)


def _merge(config, groups: list[tuple[Rollout, Score]]):
  """The first B groups that vary, filled up with ones that do not."""
  b = config.prompts_per_step
  g = groups[0][0].group.shape[0] // b  # with the asides
  vary = np.concatenate([judge.on_host(_varies(config, s)) for _, s in groups])
  order = np.argsort(~vary, kind="stable")[:b]
  index = (order[:, None] * g + np.arange(g)).reshape(-1)

  # Rewards in Python may name a part in one round and not in the next.
  names = dict.fromkeys(name for _, s in groups for name in s.components)
  groups = [(r, judge.with_components(s, names)) for r, s in groups]

  def take(*parts):
    if not np.ndim(parts[0]):
      return parts[0]
    if isinstance(parts[0], np.ndarray):
      return np.concatenate(_widened(np, parts))[index]
    rows = jnp.concatenate(_widened(jnp, parts))[index]
    return jax.device_put(rows, parts[0].sharding)

  rollout, score = jax.tree.map(take, *groups)
  group = np.repeat(np.arange(b, dtype=np.int32), g)
  group = jax.device_put(group, rollout.group.sharding)
  return rollout._replace(group=group), score


def _widened(xp: Any, parts):
  """Slots added on the left, where prompts of two rounds differ in width."""
  if np.ndim(parts[0]) < 2:
    return parts
  width = max(x.shape[1] for x in parts)
  pad = lambda x: [(0, 0), (width - x.shape[1], 0)] + [(0, 0)] * (x.ndim - 2)
  return [x if x.shape[1] == width else xp.pad(x, pad(x)) for x in parts]
