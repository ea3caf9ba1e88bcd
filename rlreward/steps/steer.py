"""Groups of a frozen policy's answers, weighted toward what is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from rlreward import errors
from rlreward.models import score as score_lib
from rlreward.ops import masked, preference, steer
from rlreward.steps import checks, distil, iterate, objective, roles
from rlreward.types import Array, State, Task

PRIOR = "prior_logp"
WEIGHTS = ("posterior", "uniform")


def check(config) -> None:
  """Refuses fields of section `steer` that cannot be.

  Raises:
    UserError: see the messages.
  """
  c = config.steer
  checks.choice("steer.weights", c.weights, WEIGHTS,
                "it says how answers of a group count")  # fmt: skip
  finite = "it is how sure predicted ratings are"
  checks.ranges(
    "steer",
    (
      ("samples", c.samples, c.samples >= 2, "2 or more",
       "an answer alone in its group has no gradient"),
      ("concentration", c.concentration, 0 < c.concentration < math.inf,
       "above 0", finite),
      ("temperature", c.temperature, c.temperature > 0, "above 0",
       "rewards are divided by it"),
    ),
  )  # fmt: skip
  names, levels = tuple(c.attributes), tuple(c.levels)
  if len(names) != len(levels) or not all(0 <= a <= 4 for a in levels):
    raise errors.UserError(
      f"steer.attributes={names} with steer.levels={levels}",
      "a level from 0 to 4 is asked for of each attribute",
      f"give {len(names)} levels, such as {(4,) * len(names)}",
    )


def groups(config) -> iterate.Select:
  """The last n answers of each prompt with what is known of them.

  Columns `logq0` (of the policy that drew them, as it drew them), `logp_attr`
  and, where the task reports it, `logp_prior`: f32[B n] nats of an answer;
  `valid` bool[B n].

  Args:
    config: section `steer`.

  Raises:
    UserError: an attribute that the reward does not report.
  """
  c = config.steer

  def attribute(r: iterate.Round) -> Array:
    if not c.attributes:
      return r.score.value / c.temperature
    parts = r.score.components
    missing = [name for name in c.attributes if name not in parts]
    if missing:
      raise errors.UserError(
        f"steer.attributes names {missing}; the reward has {sorted(parts)}",
        "answers are weighted by the ratings that are predicted for them",
        "name components of the reward, or leave steer.attributes empty to"
        " weigh by the reward itself",
      )
    ratings = jnp.stack([parts[name] for name in c.attributes], -1)
    known = jnp.isfinite(ratings)
    chance = steer.asked_logprob(
      masked.clean(ratings, known), c.levels, c.concentration
    )
    return jnp.where(jnp.all(known, -1), chance, jnp.nan)

  def select(r: iterate.Round) -> Mapping[str, Array]:
    n, prompts = c.samples, r.rollout.tokens.shape[0] // r.group
    place = jnp.arange(r.group - n, r.group)
    index = r.at(jnp.broadcast_to(place, (prompts, n)))
    rollout, chance = r.rollout, attribute(r)
    drawn = masked.masked_sum(rollout.logp, rollout.action, 1)
    columns = {"logq0": drawn, "logp_attr": chance}
    valid = r.score.valid & jnp.isfinite(chance)
    if PRIOR in r.score.components:
      columns["logp_prior"] = r.score.components[PRIOR]
      valid &= ~jnp.isnan(columns["logp_prior"])
    columns["valid"] = valid
    return {**r.rows(index), **{k: v[index] for k, v in columns.items()}}

  return select


def toward(config, actor: roles.Policy, slots: int) -> objective.Objective:
  """KL of the target's shares to the policy's, on the rows of `groups`.

  Args:
    config: sections `steer` and `teacher`; the model at `teacher.path` is the
      prior. Without one it is the column `logp_prior`, or the policy that drew
      the answers where there is no such column.
    actor: the policy.
    slots: T, answer slots.
  """
  c, n = config.steer, config.steer.samples
  known = distil.teacher(config, actor) if config.teacher.path else None

  def prior(frozen, rows, share) -> Array:
    if known is None:
      return rows.get("logp_prior", rows["logq0"])
    tokens = rows["tokens"]
    logp, _ = score_lib.completion_logprob(
      known, frozen["teacher"], tokens, rows["attend"],
      tokens.shape[1] - slots, share,
    )  # fmt: skip
    said = preference.sequence_logp(logp, rows["loss"][:, -slots:])
    return jax.lax.stop_gradient(said)

  def terms(variables, frozen, rows, share):
    logp, mask = objective.answer_logp(actor, variables, rows, slots, share)
    cut = lambda x: x.reshape(-1, n)
    logq, logq0 = cut(preference.sequence_logp(logp, mask)), cut(rows["logq0"])
    before, valid = cut(prior(frozen, rows, share)), cut(rows["valid"])
    chance = cut(rows["logp_attr"])
    loss, said = steer.steerlm2_loss(logq, logq0, before, chance, valid)
    if c.weights == "uniform":
      count = jnp.maximum(jnp.sum(valid, 1, keepdims=True), 1)
      loss = steer.weighted_nll(logq, 1 / jnp.broadcast_to(count, valid.shape),
                                valid)  # fmt: skip
    elif not c.baseline:
      logw = steer.posterior_logw(logq0, before, chance, valid)
      loss = steer.weighted_nll(logq, jnp.exp(logw), valid)
    return jnp.sum(loss), {k: jnp.sum(v) for k, v in said.items()}

  def weight(rows) -> Array:
    alive = jnp.any(rows["valid"].reshape(-1, n), 1)
    return jnp.sum(alive, dtype=jnp.float32)

  return objective.Objective(
    together=n,
    needs=frozenset(),
    init=dict,
    prepare=objective.nothing,
    weight=weight,
    terms=terms,
    given={} if known is None else {"teacher": config.teacher},
    start=lambda key: {} if known is None
    else {"teacher": known.init(jax.random.fold_in(key, 4))},
  )  # fmt: skip


def law(config, task: Task, actor: roles.Policy) -> Callable[..., dict]:
  """(state, prompts) -> metrics: the whole law of the policy.

    posterior_kl   KL(P || Q), P = P(y|a,x)
    asked          E_Q of the mean of the attributes that are asked for
    asked_target   E_P of it
    asked_gap      |E_Q - E_P|

  Args:
    config: section `steer`.
    task: `spec["answers"]` lists answers `tokens` i32[Y, T], `prior` f[X, Y]
      and `attributes` f[X, Y, K], whose `names` are K; batches hold `kind`.
    actor: the policy.

  Raises:
    UserError: an attribute that answers are not rated in.
  """
  c, known = config.steer, task.spec["answers"]
  unknown = sorted(set(c.attributes) - set(known["names"]))
  if unknown:
    raise errors.UserError(
      f"steer.attributes names {unknown}",
      f"answers of task {config.task.name!r} are rated in other attributes",
      f"name some of {', '.join(known['names'])}",
    )
  places = [known["names"].index(name) for name in c.attributes]
  answers = known["tokens"]

  @jax.jit
  def held(state: State, batch: Mapping[str, Array]):
    ratings = jnp.asarray(known["attributes"][..., places], jnp.float32)
    chance = steer.asked_logprob(ratings, c.levels, c.concentration)
    prior = jnp.asarray(known["prior"], jnp.float32)
    target = jax.nn.log_softmax(prior + chance)
    prompt, count = batch["prompt"], len(answers)
    wide = jnp.repeat(prompt, count, 0)
    text = jnp.tile(jnp.asarray(answers), (prompt.shape[0], 1))
    there = jnp.repeat(batch["prompt_mask"], count, 0)
    attend = jnp.concatenate([there, jnp.ones(text.shape, bool)], 1)
    tokens = jnp.concatenate([wide, text], 1)
    variables = actor.variables(state.params, state.frozen)
    logp, _ = score_lib.completion_logprob(
      actor.model, variables, tokens, attend, prompt.shape[1], count
    )
    logq = jnp.sum(logp, 1).reshape(-1, count)
    want = target[batch["kind"]]
    value = jnp.mean(ratings, -1)[batch["kind"]]
    mean = lambda logs: jnp.sum(jnp.exp(logs) * value, 1)
    each = {
      "posterior_kl": jnp.sum(jnp.exp(want) * (want - logq), 1),
      "asked": mean(logq),
      "asked_target": mean(want),
      "asked_gap": jnp.abs(mean(logq) - mean(want)),
    }
    rows = jnp.asarray(prompt.shape[0], jnp.float32)
    return {k: (jnp.sum(v), rows) for k, v in each.items()}

  return held
