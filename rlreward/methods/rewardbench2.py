"""RewardBench 2: best-of-4 accuracy, and what it says of a model's worth.

  acc = [s_right = max_i s_i] / #{i: s_i = max},  total = mean over six domains
  bench/pearson = corr_k(total_k, mean gold of the best of 16 by model k)

K reward models of different quality (section `ensemble`; each of its own
annotators, who err in a share of the labels between 0 and `ensemble.flip`) are
trained side by side. Each goes through the benchmark's runner, the domain of
ties included, and chooses among the best of pools of answers. `random/...` is
what models with random scores get.

Reference: RewardBench 2: Advancing Reward Model Evaluation, arXiv 2506.01937.
Differs from the paper: domains are words apart in place of topics, and there is
no training of a policy on the models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlreward.algorithms import reward_model
from rlreward.steps import checks, ensemble, fit, rank, roles, study
from rlreward.types import Array, Method, State, Task


def make(config, task: Task) -> Method:
  """K reward models, their benchmark and what their choices are worth."""
  rank.check(config)
  c = config.ensemble
  checks.ranges("ensemble", (
    ("flip", c.flip, 0 <= c.flip <= 0.5, "from 0 to 0.5",
     "it is the most labels that a model's annotators get wrong"),
  ))  # fmt: skip
  actor, slots = roles.policy(config.model), fit.slots(task)

  def scores(state: State, rows: Mapping[str, Array]) -> Array:
    return ensemble.scores(actor, state, rows, slots, c.chunk)

  report = lambda score, rows: judged(score, rows, task.spec["groups"])
  return study.make(ensemble.make(config, task, member), scores, report)


def member(config, task: Task) -> Method:
  """A reward model whose annotators err, the same on a row in every epoch."""
  plain = reward_model.make(config, task)

  def init(key, variables=None, given=None) -> State:
    state = plain.init(key, variables, given)
    draw = jax.random.uniform(jax.random.fold_in(key, 3))
    return state._replace(extra={"flip": config.ensemble.flip * draw})

  def step(state: State, batch: Mapping[str, Array], key):
    rows = flipped(batch, state.key, state.extra["flip"])
    after, found = plain.step(state._replace(extra={}), rows, key)
    return after._replace(extra=state.extra), found

  return plain._replace(init=init, step=step)


def flipped(batch: Mapping[str, Array], key: Array, share) -> dict:
  """Pairs of which a share is turned around, told by `row` and key alone.

  Args:
    batch: columns of 2P rows; `row` i32[2P], their places where there is none.
    key: of the annotators.
    share: of the pairs.
  """
  size = batch["tokens"].shape[0]
  number = batch.get("row", jnp.arange(size) // 2)[0::2]
  key = jax.random.fold_in(key, 4)
  coin = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))
  wrong = coin(number) < share

  def turned(x: Array) -> Array:
    two = x.reshape(-1, 2, *x.shape[1:])
    own = wrong.reshape(-1, *[1] * (two.ndim - 1))
    return jnp.where(own, two[:, ::-1], two).reshape(x.shape)

  sides = ("tokens", "attend", "loss")
  return {k: turned(v) if k in sides else v for k, v in batch.items()}


def judged(score: np.ndarray, rows: study.Rows, groups) -> dict[str, Any]:
  """{name: number} of K models on the benchmark and on the pools.

  Args:
    score: f64[K, N].
    rows: of N answers; `pool` i32[N], -1 where a row is in none, `gold`.
    groups: names of domains.
  """
  found = [
    study.run(study.items(s, rows, groups), "rewardbench2") for s in score
  ]
  own = rows["pool"] >= 0
  size = int(np.sum(rows["pool"] == 0))
  gold = rows["gold"][own].reshape(-1, size)
  pick = score[:, own].reshape(len(score), -1, size).argmax(-1)
  chosen = np.take_along_axis(gold[None], pick[..., None], 2)[..., 0].mean(1)
  out = {"gold/mean": chosen.mean(), "gold/most": gold.max(1).mean()}
  for name in found[0]:
    each = np.asarray([f[name] for f in found])
    out[name] = each.mean()
    if np.ptp(each) and np.ptp(chosen):  # none where models are all the same
      at = "pearson" if name == "total" else f"pearson/{name}"
      out[at] = np.corrcoef(each, chosen)[0, 1]
  totals = [f["total"] for f in found]
  return out | {"least": min(totals), "best": max(totals)}
