"""K members of a method side by side, each as if it were trained alone.

A method that trains on given rows is run under vmap over K = P F members: P
pretraining seeds, F fine-tuning seeds of each (see `models.ensemble`). Nothing
passes between members, so that one that diverges leaves the others as they are.
Each goes through a step's batch in an order of its own, in `updates_per_step`
updates, and of all rows it may see a share of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from rlreward import errors, sharding
from rlreward.models import ensemble
from rlreward.ops import masked
from rlreward.steps import checks, objective, rank, roles
from rlreward.types import Array, Method, State, Task

Build = Callable[[Any, Task], Method]
Rows = Mapping[str, Array]


def make(config, task: Task, build: Build) -> Method:
  """A method whose parameters and optimiser states have an axis of K in front.

  `init` takes nothing (trunks are drawn from pretraining seeds), the variables
  of one model (all members begin there), or those of P stacked ones, such as an
  earlier stage with F = 1 leaves behind. Heads of a reward model are drawn for
  each member. With an adapter, frozen bases lie there once for each pretraining
  seed. Metrics are means over members that are finite; `members` counts them.

  Args:
    config: section `ensemble`; `prompts_per_step` and `updates_per_step`.
    task: gives the rows.
    build: (config, task) -> the method of one member.

  Raises:
    UserError: a config that cannot train.
  """
  check(config)
  c, updates = config.ensemble, config.updates_per_step
  groups, count = c.pretrain, c.pretrain * c.finetune
  alone = build(of_one(config), task)
  actor = roles.policy(config.model)
  if alone.phases is not None or alone.given or alone.held is None:
    raise errors.UserError(
      f"algorithm={config.algorithm!r} has members that sample or have a"
      " teacher",
      "members of an ensemble train on given rows alone",
      "use a reward model or sft",
    )
  single = alone.held

  def init(key, variables=None, given=None) -> State:
    seeds = jax.vmap(functools.partial(jax.random.fold_in, key))
    if variables is None:
      trunks = jax.vmap(actor.model.init)(seeds(jnp.arange(groups)))
    else:
      others = [given[k] for k in sorted(given)] if given else []
      trunks = _trunks(actor, variables, others)
    trunks = {**trunks, "params": _headless(actor, trunks["params"])}
    _check_trunks(ensemble.size(trunks), groups)
    base = jax.vmap(lambda tree: actor.init(key, tree)[1])(trunks)

    def member(key, trunk):
      state = alone.init(key, trunk)
      return state.params, state.opt, state.extra

    keys = seeds(groups + jnp.arange(count))
    params, opt, extra = ensemble.over(member, keys, trunks)
    root = jax.random.fold_in(key, 2)
    return State(jnp.zeros((), jnp.int32), params, base, opt, root, extra)

  def step(state: State, batch: Rows, key):
    del key

    def member(own, base):
      index, params, opt, extra = own
      key = jax.random.fold_in(state.key, index)
      start = State(state.step * updates, params, base, opt, key, extra)
      rows = own_rows(batch, key, state.step, config)
      body = lambda s, piece: alone.step(s, piece, s.key)
      end, found = jax.lax.scan(body, start, rows)
      return end.params, end.opt, end.extra, mean(found)

    mean = functools.partial(jax.tree.map, lambda x: jnp.mean(x, 0))
    own = jnp.arange(count), state.params, state.opt, state.extra
    params, opt, extra, found = ensemble.over(
      member, own, state.frozen, c.chunk
    )
    alive = ensemble.finite(params)
    metrics = {k: masked.masked_mean(v, alive) for k, v in found.items()}
    # Without a member there is nothing to go on with: the loss says so.
    metrics["loss"] = jnp.where(jnp.any(alive), metrics["loss"], jnp.nan)
    metrics["members"] = jnp.sum(alive, dtype=jnp.float32)
    state = state._replace(
      step=state.step + 1, params=params, opt=opt, extra=extra
    )
    return sharding.pin(state, actor.axes), metrics

  @jax.jit
  def held(state: State, batch: Rows):
    def member(own, base):
      params, opt, extra = own
      return single(
        State(state.step, params, base, opt, state.key, extra), batch
      )

    own = state.params, state.opt, state.extra
    found = ensemble.over(member, own, state.frozen, c.chunk)
    alive = ensemble.finite(state.params)
    return jax.tree.map(lambda x: masked.masked_sum(x, alive), found)

  given = {
    f"pretrain_{i:03d}": ml_collections.FrozenConfigDict({"path": path})
    for i, path in enumerate(c.paths)
  }
  return Method(init, step, None, source=alone.source, held=held, given=given)


def own_rows(batch: Rows, key: Array, step: Array, config) -> Rows:
  """A member's rows of a batch, in `updates_per_step` pieces.

  Rows that belong together (a prompt's) are shuffled as one. With `share` below
  1 a row is kept by a coin that depends on the member and on the row's `row`
  alone, so that a member never sees the others in any epoch.

  Args:
    batch: columns with N rows.
    key: of the member.
    step: i32[].
    config: `prompts_per_step`, `updates_per_step`, section `ensemble`.

  Returns:
    Columns [updates, N / updates, ...]; `valid` where the share is below 1.

  Raises:
    UserError: a share of rows that have no `row`.
  """
  share, columns = config.ensemble.share, dict(batch)
  if share < 1:
    if "row" not in columns:
      raise errors.UserError(
        f"ensemble.share={share} of rows without a column `row`",
        "which rows a member keeps depends on their place in the data",
        "set ensemble.share=1, or use a task that numbers its rows",
      )
    coin = jax.vmap(
      lambda i: jax.random.uniform(
        jax.random.fold_in(jax.random.fold_in(key, 0), i)
      )
    )(columns["row"])
    columns["valid"] = objective.valid(columns) & (coin < share)
  items, pieces = config.prompts_per_step, config.updates_per_step
  mixed = jax.random.fold_in(jax.random.fold_in(key, 1), step)
  order = jax.random.permutation(mixed, items)

  def cut(x: Array) -> Array:
    x = x.reshape(items, x.shape[0] // items, *x.shape[1:])[order]
    return x.reshape(pieces, -1, *x.shape[2:])

  return {k: cut(v) for k, v in columns.items() if jnp.ndim(v)}


def of_one(config) -> Any:
  """The config of one member: an update is a step of it."""
  copy = ml_collections.ConfigDict(config.to_dict())
  with copy.unlocked():
    copy.steps = config.steps * config.updates_per_step
    copy.prompts_per_step = config.prompts_per_step // config.updates_per_step
    copy.updates_per_step = 1
  return ml_collections.FrozenConfigDict(copy)


def scores(
  actor: roles.Policy, state: State, rows: Rows, slots: int, chunk: int = 0
) -> Array:
  """f32[K, N]: every member's score at the end of each answer.

  Args:
    actor: of one member.
    state: of the ensemble.
    rows: N answers in the last `slots` slots.
    slots: T.
    chunk: members at a time; 0 for all.
  """

  def member(params, base):
    variables = actor.variables(params, base)
    each = rank.scores(actor, variables, rows, slots, 1)
    return rank.at_end(each, rows, slots)[:, 0]

  return ensemble.over(member, state.params, state.frozen, chunk)


def check(config) -> None:
  """Refuses sizes that cannot be.

  Raises:
    UserError: see the messages.
  """
  c, items = config.ensemble, config.prompts_per_step
  pieces = config.updates_per_step
  kind = config.model.head.kind
  if kind != "scalar":
    raise errors.UserError(
      f"model.head.kind={kind!r} with members of an ensemble",
      "heads are drawn and read side by side as one linear layer each",
      "set model.head.kind='scalar'",
    )
  checks.counts(config, ("prompts_per_step", "steps", "updates_per_step"))
  number = "it is a number of members"
  checks.ranges(
    "ensemble",
    (
      ("pretrain", c.pretrain, c.pretrain >= 1, "1 or more", number),
      ("finetune", c.finetune, c.finetune >= 1, "1 or more", number),
      ("chunk", c.chunk, c.chunk >= 0, "0 (all) or more", number),
      ("share", c.share, 0 < c.share <= 1, "above 0, up to 1",
       "a member trains on this share of the rows"),
    ),
  )  # fmt: skip
  if items % pieces:
    raise errors.UserError(
      f"prompts_per_step={items} in updates_per_step={pieces} updates",
      "members go through a batch in updates of the same size",
      f"set prompts_per_step={items // pieces * pieces or pieces}",
    )
  if config.reference == "always":
    raise errors.UserError(
      "reference='always' with an ensemble",
      "members have no reference; each would hold another copy of itself",
      "set reference='auto'",
    )
  known = 1 + len(c.paths) if config.model.path else c.pretrain
  if known != c.pretrain or (c.paths and not config.model.path):
    raise errors.UserError(
      f"ensemble.pretrain={c.pretrain} with model.path={config.model.path!r}"
      f" and {len(c.paths)} ensemble.paths",
      "members of different pretraining seeds begin at different checkpoints:"
      " model.path is the first and ensemble.paths are the others",
      f"set ensemble.pretrain={known}, or give {c.pretrain - 1} more paths",
    )


def _headless(actor: roles.Policy, params: Mapping) -> dict:
  """A trunk's parameters; a reward model's head is its members' own."""
  drop = ("score", "head") if actor.model.config.outputs else ()
  return {k: v for k, v in params.items() if k not in drop}


def _trunks(actor: roles.Policy, variables: Mapping, others: list) -> dict:
  """{"params": [G, ...]} of one model, of several, or of a stacked one."""
  if others:
    every = [{"params": dict(v["params"])} for v in (variables, *others)]
    every = [{"params": _headless(actor, v["params"])} for v in every]
    return ensemble.stack(every)
  embedding = variables["params"]["embed"]["embedding"]
  stacked = embedding.ndim == 3
  tree = dict(variables)
  return tree if stacked else jax.tree.map(lambda x: x[None], tree)


def _check_trunks(found: int, groups: int) -> None:
  if found not in (1, groups):
    raise errors.UserError(
      f"{found} pretrained models for ensemble.pretrain={groups}",
      "each pretraining seed begins at a model of its own, or all at one",
      f"set start.ensemble.pretrain={groups}",
    )
