"""Rounds: sample, score, select, fit. One outer step is a round.

The policy answers, the answers are judged, some are selected as rows and an
objective is trained on them: answers to imitate (RAFT, ReST-EM, STaR), pairs
(online DPO, XPO, SPIN, self-rewarding), or all of them (distillation).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlreward import errors, sharding
from rlreward.models import score as score_lib
from rlreward.ops import mesh
from rlreward.steps import (
  accumulate,
  batching,
  checks,
  credit,
  evaluate,
  optimizer,
  roles,
  rollouts,
  thin,
  turns,
)
from rlreward.steps import (
  objective as objective_lib,
)
from rlreward.steps import (
  update as update_lib,
)
from rlreward.types import Array, Method, Rollout, Score, State, Task


class Round(NamedTuple):
  """What a selection is made from; N = B * group rows, prompt-major.

  Attributes:
    rollout: N rows; asides follow the samples of their prompt.
    score: of the rows, by the task or by the policy itself.
    log_ratio: f32[N], log pi / ref of each sample, NaN for asides; or None.
    group: rows of each prompt.
    slots: T, of an answer.
    key: typed PRNG key.
  """

  rollout: Rollout
  score: Score
  log_ratio: Array | None
  group: int
  slots: int
  key: Array

  def grouped(self, x: Array) -> Array:
    """[N, ...] -> [B, group, ...]."""
    return x.reshape(-1, self.group, *x.shape[1:])

  def rows(self, index: Array) -> dict[str, Array]:
    """The rows at an index i32[U], as an objective reads them."""
    r = self.rollout
    whole = {"tokens": r.tokens, "attend": r.attend, "loss": r.action}
    return {k: v[index] for k, v in whole.items()}

  def at(self, place: Array) -> Array:
    """i32[B * K]: rows of the places i32[B] or [B, K] inside their group."""
    first = jnp.arange(place.shape[0]) * self.group
    return (place.reshape(place.shape[0], -1) + first[:, None]).reshape(-1)


# What is trained on: {column: [U * together, ...]}.
Select = Callable[[Round], Mapping[str, Array]]


def make(
  config,
  task: Task,
  actor: roles.Policy,
  objective: objective_lib.Objective,
  *,
  select: Select,
  asides: tuple[credit.Aside, ...] = (),
  columns: tuple[str, ...] = (),
  start: str = "current",
  restart: bool = False,
  reference: str = "start",
  judge: Callable[[State, Rollout, Score], Score] | None = None,
  ranked: bool = False,
) -> Method:
  """A method of rounds.

  Args:
    config: see `configs/common.py`. A round is cut into `updates_per_step`
      updates and passed over `epochs` times.
    task: prompts and rewards.
    actor: the policy.
    objective: what is minimised on the selected rows.
    select: Round -> rows; their number must not depend on the data.
    asides: further rows of each prompt, from other policies or wordings.
    columns: of the batch, which `select` reads from `Rollout.extras`.
    start: a round trains from the "current" policy or from that of the run's
      start ("base").
    restart: whether each round begins with a new optimiser and schedule.
    reference: the objective's reference is the policy of the run's "start" or
      of the beginning of the "round".
    judge: (state, rollout, Score of the task) -> Score to select by.
    ranked: whether `select` reads `Round.log_ratio`.

  Returns:
    Method with phases.

  Raises:
    UserError: a config that cannot train.
  """
  b, t = config.prompts_per_step, config.sampling.max_new_tokens
  spec = evaluate.sampling_spec(config, task, config.samples_per_prompt)
  checks.online(config, task, spec)
  thin.refuse(config)
  own_g = config.samples_per_prompt
  g = own_g + sum(a.count for a in asides)
  updates, epochs = config.updates_per_step, config.epochs
  rounds = 1 if restart else config.steps
  opt = optimizer.make(config.optimizer, rounds * updates * epochs)
  shards = mesh.data_shards()
  per = objective.together
  trainer = objective_lib.trainer(config, actor, objective, opt, t, shards)
  kept = (
    config.reference == "always"
    or ranked
    or start == "base"
    or ("reference" in objective.needs and reference == "start")
    or any(a.role != "policy" for a in asides)
  )
  logged = ranked or config.reference == "always"
  checks.choice("rounds.start", start, ("current", "base"),
                "it is the policy that a round trains from")  # fmt: skip
  turns.check(task, spec, asides)
  tool = turns.of(task)
  sample = rollouts.sampler(actor, spec, asides, columns=columns, tool=tool)

  def init(key, variables=None, given=None) -> State:
    params, frozen = actor.init(key, variables)
    frozen = {**frozen, **objective.start(key), **(given or {})}
    if kept:
      frozen = {**frozen, "reference": actor.snapshot(params)}
    return State(
      step=jnp.zeros((), jnp.int32),
      params=params,
      frozen=frozen,
      opt=opt.init(params),
      key=jax.random.fold_in(key, 2),
      extra=objective.init(),
    )

  def reference_logp(state, rollout):
    inner = batching.plan(b, own_g, config.microbatch, shards)

    def run(rows):
      return score_lib.completion_logprob(
        actor.model,
        actor.reference(state.frozen),
        rows.tokens,
        rows.attend,
        rows.tokens.shape[1] - t,
        inner.share,
        rows.sampling.temperature,
      )[0]

    return jax.lax.stop_gradient(accumulate.pieces(inner, run, rollout))

  def update(state: State, rollout: Rollout, score: Score):
    own = score if judge is None else judge(state, rollout, score)
    own = rollouts.truncated(config, rollout, own)
    # What is watched is of the policy's samples: asides are of others.
    mine, mine_score, aside = rollouts.split(rollout, score, b, own_g)
    said, each = {}, None
    if logged:
      said, kl = rollouts.divergence(mine, reference_logp(state, mine))
      each = rollouts.widen({"kl": kl}, b, aside)["kl"]
    root = jax.random.fold_in(state.key, state.step)
    key = jax.random.fold_in(root, 2**30)
    rows = dict(select(Round(rollout, own, each, g, t, key)))
    params, opt_state, frozen = state.params, state.opt, state.frozen
    compared = frozen
    if reference == "round":
      compared = {**frozen, "reference": params["policy"]}
    compute = trainer.compute(params, compared, rows)
    rows, extra = objective.prepare(compute, rows, state.extra)
    if start == "base":
      params = {"policy": jax.tree.map(jnp.copy, frozen["reference"])}
    if restart:
      opt_state = opt.init(params)
    units = rows["tokens"].shape[0] // per
    outer = batching.Plan(units, per, updates)
    carry, metrics = update_lib.several(
      lambda carry, rows: trainer.update(carry, rows, frozen),
      (params, opt_state),
      rows,
      outer,
      epochs,
    )
    chosen = objective_lib.valid(rows)
    found = rollouts.describe(mine, mine_score, own_g)
    metrics: dict[str, Any] = {**metrics, **found, **said}
    metrics["selected"] = jnp.mean(chosen)
    trained = jnp.sum(rows["loss"] & chosen[:, None], dtype=jnp.float32)
    metrics["trained_tokens"] = trained
    rows_out = {"reward": own.value}
    if each is not None:
      rows_out["kl"] = each
    metrics["rows"] = rows_out
    state = state._replace(
      step=state.step + 1, params=carry[0], opt=carry[1], extra=extra
    )
    return sharding.pin(state, actor.axes), metrics

  def step(state: State, batch, key):
    rollout = sample(state, batch, key, *turns.also(task, batch))
    return update(state, rollout, task.reward(rollout, batch))

  return Method(
    init,
    step,
    evaluate.make(config, task, actor),
    rollouts.phases(config, task, sample, update),
    given=objective.given,
  )


def check_units(config, units: int, what: str) -> None:
  """Refuses a round whose rows do not fall into equal updates.

  Raises:
    UserError: with the fix.
  """
  if units % config.updates_per_step:
    raise errors.UserError(
      f"{units} {what} in updates_per_step={config.updates_per_step} updates",
      "every update takes as many of them as the others",
      f"set updates_per_step to a divisor of {units}",
    )
