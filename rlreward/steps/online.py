"""Sample, score, shape, credit, update: the step of every online method.

A method is a choice of functions. What no function needs does not run: the
reference only where the loss asks for its log-probs (or the config wants its
KL logged), old log-probs never when the update is on-policy, since the sampler
and the update share the same forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlreward import errors, sharding
from rlreward.models import score as score_lib
from rlreward.ops import advantage as advantage_lib
from rlreward.ops import kl as kl_lib
from rlreward.ops import masked, mesh, policy
from rlreward.sampling import decode
from rlreward.steps import (
  accumulate,
  batching,
  checks,
  evaluate,
  optimizer,
  roles,
)
from rlreward.types import (
  LENGTH,
  Method,
  Phases,
  Rollout,
  Score,
  Shaping,
  State,
  Task,
)

Array = jax.Array
Advantage = Callable[[Array, Array], Array]


def make(
  config,
  task: Task,
  *,
  loss: policy.Loss,
  advantage: Advantage,
  aggregate: masked.Mode,
  shaping: Shaping | None = None,
  keep: Callable[[Score], Array] | None = None,
) -> Method:
  """An online method from its pieces.

  Args:
    config: see `configs/common.py`.
    task: prompts and rewards.
    loss: per-token loss; its `needs` decide which forward passes run.
    advantage: (reward f32[B, G], valid bool[B, G]) -> f32[B, G].
    aggregate: a mode of `ops.masked.reduce`; "const" divides by the rows and
      `sampling.max_new_tokens`.
    shaping: transform of scores; its state is part of State.
    keep: Score -> f32[N]; groups in which it does not vary are left out of the
      loss (DAPO's dynamic sampling on accuracy).

  Returns:
    Method with phases.

  Raises:
    UserError: a config that cannot train, before anything compiles.
  """
  b, g = config.prompts_per_step, config.samples_per_prompt
  t = config.sampling.max_new_tokens
  updates = config.updates_per_step
  spec = evaluate.sampling_spec(config, task, g)
  checks.online(config, task, spec)
  actor = roles.policy(config.model)
  model = actor.model
  opt = optimizer.make(config.optimizer, config.steps * updates * config.epochs)
  shards = mesh.data_shards()
  whole = batching.plan(b, g, 0)
  outer = batching.Plan(b, g, updates)
  referenced = "reference_logp" in loss.needs or config.reference == "always"

  def init(key, variables=None) -> State:
    params, frozen = actor.init(key, variables)
    if referenced:
      frozen = {**frozen, "reference": actor.snapshot(params)}
    return State(
      step=jnp.zeros((), jnp.int32),
      params=params,
      frozen=frozen,
      opt=opt.init(params),
      key=jax.random.fold_in(key, 2),
      extra=shaping.init() if shaping else (),
    )

  def sample(state: State, batch, key) -> Rollout:
    # Weights are gathered once for all tokens, not once for each.
    variables = sharding.pin(
      actor.variables(state.params, state.frozen),
      actor.axes,
      sharding.DECODE_RULES,
    )
    prompt, mask = batch["prompt"], batch["prompt_mask"]
    return decode.generate(
      model, variables, prompt, mask, key, spec, state.step
    )

  def logprobs(variables, rollout, share):
    return score_lib.completion_logprob(
      model,
      variables,
      rollout.tokens,
      rollout.attend,
      rollout.tokens.shape[1] - t,
      share,
      _temperature(rollout),
      "entropy" in loss.needs,
    )

  def reference_logp(state, rollout, inner):
    variables = actor.reference(state.frozen)
    run = lambda rows: logprobs(variables, rows, inner.share)[0]
    return jax.lax.stop_gradient(accumulate.pieces(inner, run, rollout))

  def credit(state, rollout, score):
    """Rewards to advantages and the mask of what is trained on."""
    extra = state.extra
    if shaping:
      score, extra = shaping.update(score, extra, rollout)
    reward, valid = score.value, score.valid
    length = jnp.sum(rollout.action, 1)
    if config.truncation == "penalise":
      reward += policy.overlong_penalty(length, t, config.overlong_buffer)
    adv = advantage(reward.reshape(b, g), valid.reshape(b, g)).reshape(-1)
    used = valid
    if config.truncation == "mask":
      used &= rollout.finish != LENGTH
    if keep is not None:
      vary = advantage_lib.informative(
        keep(score).reshape(b, g), valid.reshape(b, g)
      )
      used &= jnp.repeat(vary, g)
    loss_mask = rollout.loss[:, -t:] & used[:, None]
    return adv, loss_mask, reward, extra

  def one_update(params, opt_state, frozen, rows, inner):
    """Gradient over the pieces of one update; one division at the end."""
    mask = rows[2]
    weight = masked.weight(mask, aggregate, t)

    def piece_loss(params, piece):
      rollout, adv, mask, old, extras = piece
      variables = actor.variables(params, frozen)
      logp, entropy = logprobs(variables, rollout, inner.share)
      if entropy is not None:
        extras = {**extras, "entropy": entropy}
      wide = jnp.broadcast_to(adv[:, None], mask.shape)
      loss_NxT, metrics = loss.terms(logp, old, wide, mask, extras)
      total, _ = masked.reduce(loss_NxT, mask, aggregate, t)
      gap = jax.lax.stop_gradient(jnp.abs(logp - rollout.logp[:, -t:]))
      metrics = {**metrics, "logprob_abs_diff": gap}
      sums = {k: masked.masked_sum(v, mask) for k, v in metrics.items()}
      peak = {"logprob_abs_diff_max": jnp.max(masked.clean(gap, mask))}
      return total / jnp.maximum(weight, 1), (sums, peak)

    value, sums, peaks, grads = accumulate.gradient(
      piece_loss, params, rows, inner
    )
    change, opt_state = opt.update(grads, opt_state, params)
    params = optax.apply_updates(params, change)
    count = jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1)
    metrics: dict[str, Any] = {
      _NAMES.get(str(k), str(k)): v / count for k, v in sums.items()
    }
    metrics.update(peaks, loss=value, grad_norm=optax.tree.norm(grads))
    return params, opt_state, metrics

  def update(state: State, rollout: Rollout, score: Score):
    inner = batching.plan(b // updates, g, config.microbatch, shards)
    adv, mask, reward, extra = credit(state, rollout, score)
    extras = {}
    if referenced:
      full = batching.plan(b, g, inner.rows, shards)
      extras["reference_logp"] = reference_logp(state, rollout, full)
    behaviour = jax.lax.stop_gradient(rollout.logp[:, -t:])
    old = None if updates * config.epochs == 1 else behaviour
    rows = (rollout, adv, mask, old, extras)
    params, opt_state = state.params, state.opt
    metrics: dict[str, Any]
    if updates * config.epochs == 1:
      params, opt_state, metrics = one_update(
        params, opt_state, state.frozen, rows, inner
      )
    else:
      cut = accumulate.cut(outer, rows)

      def body(carry, index):
        params, opt_state = carry
        piece = jax.tree.map(lambda x: x[index], cut)
        params, opt_state, metrics = one_update(
          params, opt_state, state.frozen, piece, inner
        )
        return (params, opt_state), metrics

      order = jnp.tile(jnp.arange(updates), config.epochs)
      (params, opt_state), every = jax.lax.scan(
        body, (params, opt_state), order
      )
      metrics = jax.tree.map(jnp.mean, every)
      # Later updates differ from the sampler by intent; the first must not.
      for name in ("logprob_abs_diff", "logprob_abs_diff_max"):
        metrics[name] = every[name][0]
    metrics = {
      **metrics,
      **_describe(rollout, score, reward, adv, mask, whole),
    }
    rows_out = {"advantage": adv, "reward": reward}
    if referenced:
      act = rollout.action[:, -t:]
      d = extras["reference_logp"]
      metrics["kl"] = masked.masked_mean(kl_lib.k3(behaviour, d), act)
      rows_out["kl"] = masked.masked_sum(kl_lib.k1(behaviour, d), act, 1)
      metrics["kl_sequence"] = jnp.mean(rows_out["kl"])
    metrics["rows"] = rows_out
    state = state._replace(
      step=state.step + 1, params=params, opt=opt_state, extra=extra
    )
    return sharding.pin(state, actor.axes), metrics

  def step(state: State, batch, key):
    rollout = sample(state, batch, key)
    return update(state, rollout, task.reward(rollout, batch))

  compiled = jax.jit(update, donate_argnums=0)

  def update_from_host(state: State, rollout: Rollout, score: Score):
    """Components of a reward in Python may come and go: they stay outside."""
    parts = score.components
    used = {k: v for k, v in parts.items() if k == config.filter_on}
    state, metrics = compiled(state, rollout, score._replace(components=used))
    return state, {**metrics, **_component_means(score)}

  on_device = task.spec["on_device"]
  phases = Phases(
    sample=jax.jit(sample),
    score=jax.jit(task.reward) if on_device else task.reward,
    update=compiled if on_device else update_from_host,
  )
  return Method(init, step, evaluate.make(config, task, actor), phases)


def accuracy(name: str) -> Callable[[Score], Array]:
  """The score component called `name`, or the value where it is empty."""

  def read(score: Score) -> Array:
    if name and name not in score.components:
      raise errors.UserError(
        f"filter_on={name!r}, but the reward has {sorted(score.components)}",
        "dynamic sampling keeps the groups in which this component varies",
        "set filter_on to one of them, or to '' for the reward itself",
      )
    return score.components[name] if name else score.value

  return read


_NAMES: dict[str, str] = {"kl": "kl_loss"}


def _temperature(rollout: Rollout) -> Array:
  """The rollout's own temperature, so that no other can be used."""
  return jax.lax.stop_gradient(rollout.sampling.temperature)


def _component_means(score: Score) -> dict[str, float]:
  """Means of components over the rows that have them, on the host."""
  out = {}
  for name, part in score.components.items():
    known = np.asarray(score.valid) & np.isfinite(part)
    if known.any():
      out[f"reward/{name}"] = float(np.asarray(part)[known].mean())
  return out


def _describe(rollout, score, reward, adv, mask, plan) -> dict[str, Array]:
  """What a user watches: reward, length, endings, group collapse."""
  valid = score.valid
  b, g = plan.prompts, plan.group
  length = jnp.sum(rollout.action, 1, dtype=jnp.float32)
  mean = masked.masked_mean(score.value, valid)
  alive = advantage_lib.informative(
    score.value.reshape(b, g), valid.reshape(b, g)
  )
  out = {
    "reward": mean,
    "reward_std": jnp.sqrt(masked.masked_var(score.value, valid)),
    "reward_shaped": masked.masked_mean(reward, valid),
    "valid": jnp.mean(valid),
    "length": jnp.mean(length),
    "truncated": jnp.mean(rollout.finish == LENGTH),
    "group_collapse": 1 - jnp.mean(alive),
    "advantage_abs": masked.masked_mean(jnp.abs(adv), valid),
    "trained_tokens": jnp.sum(mask, dtype=jnp.float32),
    "tokens_sampled": jnp.sum(length),
    "tokens_seen": jnp.sum(rollout.attend, dtype=jnp.float32),
  }
  for name, part in score.components.items():
    # A component may be missing (NaN) where the reward as a whole is valid.
    known = valid & jnp.isfinite(part)
    out[f"reward/{name}"] = masked.masked_mean(part, known)
  return out
