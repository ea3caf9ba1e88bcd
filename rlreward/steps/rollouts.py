"""Rollouts of a step: who samples them, what rides along, what they show."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlreward import sharding
from rlreward.ops import advantage as advantage_lib
from rlreward.ops import importance, masked, policy, process
from rlreward.ops import kl as kl_lib
from rlreward.sampling import decode, tools
from rlreward.steps import checks, credit, roles, turns
from rlreward.types import LENGTH, Phases, Rollout, Score, State, Task

Array = jax.Array


class Ahead(NamedTuple):
  """Whether rollouts are of the policy one step ago (`config.ahead`).

  The policy that samples is kept in the State, so that the next rollout can be
  made while the current update runs, and a resumed run makes the same one.
  """

  config: Any

  def start(self, params: Mapping[str, Any]) -> dict[str, Any]:
    """{"behaviour": a copy of the policy}, or nothing."""
    if not self.config.ahead:
      return {}
    return {"behaviour": jax.tree.map(jnp.copy, params["policy"])}

  def policy(self, state: State) -> tuple[Mapping[str, Any], Array]:
    """(params of the policy that samples, the step it is of)."""
    if not self.config.ahead:
      return state.params, state.step
    return (
      {"policy": state.extra["behaviour"]},
      jnp.maximum(state.step - 1, 0),
    )


def sampler(
  actor: roles.Policy,
  spec: decode.Spec,
  asides: tuple[credit.Aside, ...] = (),
  ahead: Ahead | None = None,
  columns: tuple[str, ...] = (),
  tool: tools.Tool | None = None,
) -> Callable[..., Rollout]:
  """(state, batch, key) -> Rollout; asides follow the samples of their prompt.

  Args:
    actor: the policy.
    spec: how its rows are sampled.
    asides: further rows of each prompt; their `loss` is false.
    ahead: whether an older policy samples.
    columns: of the batch, which the update reads from `Rollout.extras`.
    tool: of a task that is answered in turns. Where it runs on the host this
      is not to be compiled and takes the whole batch too, see `turns.play`.
  """

  def variables(state: State, role: str):
    if role == "reference":
      tree, version = actor.reference(state.frozen), jnp.zeros((), jnp.int32)
    else:
      params, version = state.params, state.step
      if ahead:
        params, version = ahead.policy(state)
      tree = actor.variables(params, state.frozen)
    # Weights are gathered once for all tokens, not once for each.
    pinned = sharding.pin(tree, actor.axes, sharding.DECODE_RULES)
    return pinned, version

  def beside_columns(found: Rollout, batch) -> Rollout:
    if not columns:
      return found
    rows = found.tokens.shape[0] // batch["prompt"].shape[0]
    wide = {k: jnp.repeat(batch[k], rows, 0) for k in columns}
    return found._replace(extras={**found.extras, **wide})

  if tool is not None and not tool.on_device:
    own = lambda state: variables(state, "policy")
    played = turns.play(actor, spec, tool, own)
    return lambda state, batch, *rest: beside_columns(
      played(state, batch, *rest), batch
    )

  def beside(state: State, batch, key, aside: credit.Aside) -> Rollout:
    own = dataclasses.replace(
      spec,
      samples_per_prompt=aside.count,
      temperature=0.0 if aside.greedy else spec.temperature,
    )
    tree, _ = variables(state, "reference" if aside.role == "reference"
                        else "policy")  # fmt: skip
    mix = None
    if aside.role == "mixture":
      mix = (variables(state, "reference")[0], aside.share)
    prompt, mask = batch[aside.prompt], batch[f"{aside.prompt}_mask"]
    if mix is not None:
      rows = decode.generate(
        actor.model, tree, prompt, mask, key, own, mixture=mix
      )
    else:
      asked = {**batch, "prompt": prompt, "prompt_mask": mask}
      rows = turns.write(actor, tree, asked, key, own, jnp.int32(0), tool)
    rows = rows._replace(loss=jnp.zeros_like(rows.loss))
    if aside.prompt == "prompt":
      return rows
    return _asked(rows, batch, spec.max_new_tokens)

  def sample(state: State, batch, key) -> Rollout:
    tree, version = variables(state, "policy")
    main = turns.write(actor, tree, batch, key, spec, version, tool)
    parts = [main]
    for index, aside in enumerate(asides):
      seed = jax.random.fold_in(key, 2**31 - 1 - index)
      parts.append(beside(state, batch, seed, aside))
    found = interleave(parts, batch["prompt"].shape[0]) if asides else main
    return beside_columns(found, batch)

  return sample


def _asked(rows: Rollout, batch, t: int) -> Rollout:
  """Answers to another wording, as answers to the prompt of the batch.

  Their log-probs are those of the wording that was asked.
  """
  g = rows.tokens.shape[0] // batch["prompt"].shape[0]
  put = lambda own, x: jnp.concatenate([jnp.repeat(own, g, 0), x[:, -t:]], 1)
  none = jnp.zeros(batch["prompt"].shape, bool)
  return rows._replace(
    tokens=put(batch["prompt"], rows.tokens),
    attend=put(batch["prompt_mask"], rows.attend),
    action=put(none, rows.action),
    loss=put(none, rows.loss),
    logp=put(none.astype(jnp.float32), rows.logp),
  )


def interleave(parts: list[Rollout], prompts: int) -> Rollout:
  """Rollouts of the same prompts as one; scalars are those of the first."""

  def join(*xs):
    if not jnp.ndim(xs[0]):
      return xs[0]
    cut = [x.reshape(prompts, -1, *x.shape[1:]) for x in xs]
    whole = jnp.concatenate(cut, 1)
    return whole.reshape(-1, *whole.shape[2:])

  return jax.tree.map(join, *parts)


class AsideScore(NamedTuple):
  """Rewards of the asides: f32[B, M], bool[B, M] and {name: f32[B, M]}."""

  value: Array
  valid: Array
  components: Mapping[str, Array] = {}

  def extras(self, first: int, g: int) -> dict[str, Array]:
    """What a shaping reads of those from `first` on, for each of G rows.

    Args:
      first: asides before them.
      g: samples of each prompt.

    Returns:
      {"beside/value" and "beside/<component>": f32[B * G, M - first]}, NaN
      where there is no judgement.
    """
    parts = {"value": self.value, **self.components}
    known = lambda x: jnp.where(self.valid, x, jnp.nan)[:, first:]
    return {f"beside/{k}": jnp.repeat(known(x), g, 0) for k, x in parts.items()}


def split(rollout: Rollout, score: Score, b: int, g: int):
  """(rollout and score of the G samples of each prompt, AsideScore)."""
  grouped = lambda x: x.reshape(b, -1, *x.shape[1:])
  judged = score.value, score.valid, dict(score.components)
  rest = AsideScore(*jax.tree.map(lambda x: grouped(x)[:, g:], judged))
  if rollout.tokens.shape[0] == b * g:
    return rollout, score, rest

  def first(x):
    if not jnp.ndim(x):
      return x
    return grouped(x)[:, :g].reshape(b * g, *x.shape[1:])

  rollout, score = jax.tree.map(first, (rollout, score))
  return rollout, score, rest


def widen(rows: Mapping[str, Array], b: int, aside: AsideScore):
  """{name: f32[N]} with NaN for the asides, as the sampler's rows are."""
  m = aside.value.shape[1]
  if not m:
    return dict(rows)
  pad = lambda x: jnp.pad(x, [(0, 0), (0, m)], constant_values=jnp.nan)
  return {k: pad(x.reshape(b, -1)).reshape(-1) for k, x in rows.items()}


def weight(config, old: Array, behaviour: Array, mask: Array):
  """Importance weights of stale rows as `config.off_policy` describes them.

  Args:
    config: section `off_policy`.
    old: f32[N, T], log-probs of the policy before the update.
    behaviour: f32[N, T], log-probs that the sampler reported.
    mask: bool[N, T].

  Returns:
    (f32[N, T], {metric: f32[N, T]}).
  """
  c = config.off_policy
  return importance.rollout_weight(
    old, behaviour, mask, level=c.level, bound=c.bound, low=c.low, high=c.high
  )


def check_off_policy(config) -> bool:
  """Whether `off_policy` is on; refuses what cannot be.

  Raises:
    UserError: an unknown word or an empty interval.
  """
  c = config.off_policy
  if not c.high and not config.ahead:
    return False
  why = "it says how rows that an older policy sampled are weighted"
  checks.choice("off_policy.level", c.level, importance.LEVELS, why)
  checks.choice("off_policy.bound", c.bound, importance.BOUNDS, why)
  if not c.high:
    return False
  checks.ranges(
    "off_policy",
    (("low", c.low, 0 <= c.low < c.high, f"from 0 to below high={c.high}",
      "weights are kept within [low, high]"),),
  )  # fmt: skip
  return True


def truncated(config, rollout: Rollout, score: Score) -> Score:
  """The score after `config.truncation` of rows cut at the limit.

  mask: they have no judgement; penalise: DAPO's slope is added to the reward.
  """
  if config.truncation == "mask":
    valid = score.valid & (rollout.finish != LENGTH)
    return score._replace(valid=valid)
  if config.truncation == "penalise":
    length = jnp.sum(rollout.action, 1)
    t = config.sampling.max_new_tokens
    slope = policy.overlong_penalty(length, t, config.overlong_buffer)
    return score._replace(value=score.value + slope)
  return score


def earned(score: Score, t: int) -> Array | None:
  """f32[N, T]: rewards of single tokens, 0 where the score has none (NaN)."""
  if score.tokens is None:
    return None
  own = score.tokens[:, -t:]
  return jnp.where(jnp.isnan(own), 0, own)


def steps(score: Score, t: int) -> Array | None:
  """i32[N, T]: the step that a token is in, where the score is of steps."""
  if score.tokens is None:
    return None
  return process.step_index(jnp.isfinite(score.tokens[:, -t:]))


def phases(
  config, task: Task, sample, update, parts: tuple[str, ...] = ()
) -> Phases:
  """The jitted parts of a step; rewards in Python stay on the host.

  Args:
    config: `filter_on` names a component that the update reads.
    task: where its reward runs.
    sample: (state, batch, key) -> Rollout.
    update: (state, Rollout, Score) -> (state, metrics).
    parts: further components that the update reads where there are any.
  """
  compiled = jax.jit(update, donate_argnums=0)

  def update_from_host(state: State, rollout: Rollout, score: Score):
    """Components of a reward in Python may come and go: they stay outside."""
    used = {
      k: v
      for k, v in score.components.items()
      if k == config.filter_on or last_part(k) in parts
    }
    state, metrics = compiled(state, rollout, score._replace(components=used))
    return state, {**metrics, **_component_means(score)}

  on_device = task.spec["on_device"]
  return Phases(
    sample=sample if turns.on_host(task) else jax.jit(sample),
    score=jax.jit(task.reward) if on_device else task.reward,
    update=compiled if on_device else update_from_host,
  )


def last_part(name: str) -> str:
  """The name of a component without that of the reward it is a part of."""
  return name.rpartition("/")[2]


def _component_means(score: Score) -> dict[str, float]:
  """Means and shares of components over rows that have them, on the host."""
  out = {}
  for name, part in score.components.items():
    known = np.asarray(score.valid) & np.isfinite(part)
    if known.any():
      out[f"reward/{name}"] = float(np.asarray(part)[known].mean())
      total: Any = np.asarray(score.value)
      share = masked.share_of_variance(part, total, jnp.asarray(known))
      out[f"reward_share/{name}"] = float(share)
  return out


def describe(rollout: Rollout, score: Score, g: int) -> dict[str, Array]:
  """What a user watches: reward and its parts, length, ends, group collapse.

  Args:
    rollout: N rows.
    score: as the task gave it.
    g: samples of each prompt.
  """
  valid = score.valid
  length = jnp.sum(rollout.action, 1, dtype=jnp.float32)
  out = {
    "reward": masked.masked_mean(score.value, valid),
    "reward_std": jnp.sqrt(masked.masked_var(score.value, valid)),
    "valid": jnp.mean(valid),
    "length": jnp.mean(length),
    "truncated": jnp.mean(rollout.finish == LENGTH),
    "tokens_sampled": jnp.sum(length),
    "tokens_seen": jnp.sum(rollout.attend, dtype=jnp.float32),
    **turns.describe(rollout),
  }
  if g > 1:
    alive = advantage_lib.informative(
      score.value.reshape(-1, g), valid.reshape(-1, g)
    )
    out["group_collapse"] = 1 - jnp.mean(alive)
  for name, part in score.components.items():
    # A component may be missing (NaN) where the reward as a whole is valid.
    known = valid & jnp.isfinite(part)
    out[f"reward/{name}"] = masked.masked_mean(part, known)
    out[f"reward_share/{name}"] = masked.share_of_variance(
      part, score.value, known
    )
  return out


def divergence(
  rollout: Rollout, reference_logp: Array
) -> tuple[dict[str, Array], Array]:
  """({"kl": k3 of a token, "kl_sequence": k1 of a response}, f32[N] k1).

  Args:
    rollout: N rows.
    reference_logp: f32[N, T].
  """
  t = reference_logp.shape[1]
  act = rollout.action[:, -t:]
  behaviour = jax.lax.stop_gradient(rollout.logp[:, -t:])
  each = masked.masked_sum(kl_lib.k1(behaviour, reference_logp), act, 1)
  token = masked.masked_mean(kl_lib.k3(behaviour, reference_logp), act)
  return {"kl": token, "kl_sequence": jnp.mean(each)}, each
