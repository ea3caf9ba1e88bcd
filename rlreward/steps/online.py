"""Sample, score, shape, credit, update: the step of every online method.

A method is a choice of functions. What no function needs does not run: the
reference only where the loss or the credit asks for its log-probs (or the
config wants its KL logged), a critic only where the credit reads values, old
log-probs never when the update is on-policy, since the sampler and the update
share the same forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlreward import errors, sharding
from rlreward.models import score as score_lib
from rlreward.ops import advantage as advantage_lib
from rlreward.ops import kl as kl_lib
from rlreward.ops import logprob, masked, mesh, policy, returns
from rlreward.rewards import saturation
from rlreward.steps import (
  accumulate,
  batching,
  checks,
  evaluate,
  learned,
  roles,
  rollouts,
  thin,
  turns,
)
from rlreward.steps import credit as credit_lib
from rlreward.steps import critic as critic_lib
from rlreward.steps import (
  update as update_lib,
)
from rlreward.types import (
  LENGTH,
  Method,
  Rollout,
  Score,
  Shaping,
  State,
  Task,
)

Array = jax.Array


def make(
  config,
  task: Task,
  *,
  loss: policy.Loss,
  credit: credit_lib.Credit,
  aggregate: masked.Mode,
  shaping: Shaping | None = None,
  keep: Callable[[Score], Array] | None = None,
) -> Method:
  """An online method from its pieces.

  Args:
    config: see `configs/common.py`.
    task: prompts and rewards.
    loss: per-token loss; its `needs` decide which forward passes run.
    credit: rewards to advantages; with "value" in its needs a critic trains
      beside the policy.
    aggregate: a mode of `ops.masked.reduce`; "const" divides by the rows and
      `sampling.max_new_tokens`.
    shaping: transform of scores, before any credit; its state is part of
      State, and what it compares with is sampled beside the rows. Rewards of
      the credit's own asides are as the task gave them.
    keep: Score -> f32[N]; groups in which it does not vary are left out of the
      loss (DAPO's dynamic sampling on accuracy).

  Returns:
    Method with phases.

  Raises:
    UserError: a config that cannot train, before anything compiles.
  """
  task = learned.rewarded(config, task)
  b, g = config.prompts_per_step, config.samples_per_prompt
  t = config.sampling.max_new_tokens
  updates, epochs = config.updates_per_step, config.epochs
  spec = evaluate.sampling_spec(config, task, g)
  checks.online(config, task, spec)
  actor = roles.policy(config.model)
  model = actor.model
  critic = None
  trained: dict[str, Any] = {"policy": None}
  if "value" in credit.needs:
    critic = critic_lib.make(config, actor)
    if not critic.shared:
      trained["critic"] = config.critic.rate
  opt = update_lib.optimisers(config, trained, config.steps * updates * epochs)
  shards = mesh.data_shards()
  outer = batching.Plan(b, g, updates)
  once = updates * epochs == 1
  needs = loss.needs | credit.needs
  referenced = "reference_logp" in needs or config.reference == "always"
  weighed = "rollout_weight" in needs
  ahead = rollouts.Ahead(config)
  asides, own = credit.asides, sum(a.count for a in credit.asides)
  if shaping and shaping.beside:
    asides += (credit_lib.Aside("reference", shaping.beside),)

  def init(key, variables=None, given=None) -> State:
    params, frozen = actor.init(key, variables)
    frozen = {**frozen, **learned.init(config, key), **(given or {})}
    if referenced or any(a.role != "policy" for a in asides):
      frozen = {**frozen, "reference": actor.snapshot(params)}
    if critic:
      params = critic.init(key, params, frozen)
    behaviour = ahead.start(params)  # with the head of a shared critic
    return State(
      step=jnp.zeros((), jnp.int32),
      params=params,
      frozen=frozen,
      opt=opt.init(params),
      key=jax.random.fold_in(key, 2),
      extra={
        "shaping": shaping.init() if shaping else (),
        "credit": credit.init(),
        **behaviour,
      },
    )

  turns.check(task, spec, asides)
  sample = rollouts.sampler(actor, spec, asides, ahead, tool=turns.of(task))
  sample = learned.sampled(config, sample)

  def forward(params, frozen, rollout, share):
    """(logp, entropy or None, value or None), each [n, T]."""
    variables = actor.variables(params, frozen)
    x = score_lib.completion_hidden(
      model,
      variables,
      rollout.tokens,
      rollout.attend,
      rollout.tokens.shape[1] - t,
      share,
    )
    logp, entropy = logprob.token_logprob(
      x,
      model.head(variables),
      rollout.tokens[:, -t:],
      temperature=_temperature(rollout),
      softcap=model.config.final_softcap,
      chunk=None,
      entropy="entropy" in needs,
    )
    value = None
    if critic:
      value = critic.values(params, frozen, rollout, share, x)
    return logp, entropy, value

  read = thin.forward(config, forward)

  def before(state, rollout, plan, known):
    """What is fixed before the first update: {name: f32[N, T]}.

    `known` is what the update's own forward pass has already found; a single
    update needs no old log-probs, since they are its own.
    """
    out = {}
    if referenced:

      def reference(rows):
        return score_lib.completion_logprob(
          model,
          actor.reference(state.frozen),
          rows.tokens,
          rows.attend,
          rows.tokens.shape[1] - t,
          plan.share,
          _temperature(rows),
        )[0]

      out["reference_logp"] = accumulate.pieces(plan, reference, rollout)
    if known is not None:
      out |= {"value": known[2]} if critic else {}
    elif critic or (weighed and not once):

      def old(rows):
        logp, _, value = forward(state.params, state.frozen, rows, plan.share)
        return {"old_logp": None if once else logp, "value": value}

      found = accumulate.pieces(plan, old, rollout)
      out |= {k: v for k, v in found.items() if v is not None}
    return jax.lax.stop_gradient(out)

  def assign(state, rollout, score, aside, fixed):
    """Rewards to advantages and the mask of what is trained on."""
    extra, said = dict(state.extra), {}
    step = rollouts.steps(score, t)
    if shaping:
      seen = {**rollout.extras, **aside.extras(own, g)}
      score, extra["shaping"] = shaping.update(
        score, extra["shaping"], rollout._replace(extras=seen)
      )
      at_end = score.components.get(saturation.NAME)
      if at_end is not None:
        said["saturation"] = masked.masked_mean(at_end, score.valid)
    reward, valid = score.value, score.valid
    if config.truncation == "penalise":
      length = jnp.sum(rollout.action, 1)
      reward += policy.overlong_penalty(length, t, config.overlong_buffer)
    used = valid
    if config.truncation == "mask":
      used &= rollout.finish != LENGTH
    if keep is not None:
      vary = advantage_lib.informative(
        keep(score).reshape(b, g), valid.reshape(b, g)
      )
      used &= jnp.repeat(vary, g)
    signals = credit_lib.Signals(
      reward=reward,
      valid=valid,
      tokens=rollouts.earned(score, t),
      action=rollout.action[:, -t:],
      logp=jax.lax.stop_gradient(rollout.logp[:, -t:]),
      reference_logp=fixed.get("reference_logp"),
      value=fixed.get("value"),
      aside=aside.value[:, :own],
      aside_valid=aside.valid[:, :own],
      group=g,
      step=step,
    )
    found, extra["credit"] = credit.assign(signals, extra["credit"])
    said["reward_shaped"] = masked.masked_mean(reward, valid)
    found = found._replace(metrics={**found.metrics, **said})
    return found, rollout.loss[:, -t:] & used[:, None], reward, extra

  def one_update(carry, rows, frozen, step, tape=None):
    """Gradient over the pieces of one update; one division at the end.

    `tape` is the forward pass of all rows and its pull-back where they are
    there already: a single update in one piece computes them once.
    """
    params, opt_state = carry
    mask = rows["mask"]
    n = mask.shape[0]
    inner = batching.plan(n // g, g, config.microbatch, shards)
    weight = masked.weight(mask, aggregate, t)
    tokens = jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1)

    def piece_loss(params, piece):
      return made_loss(read(params, frozen, piece, inner.share), piece)

    def made_loss(made, piece):
      rollout, mask = piece["rollout"], piece["mask"]
      behaviour = rollout.logp[:, -t:]
      logp, entropy, value = made
      extras = {k: piece[k] for k in ("reference_logp",) if k in piece}
      if entropy is not None:
        extras["entropy"] = entropy
      # In one update the proximal policy is the one that is trained; stale
      # rows without weights are clipped against the policy that sampled.
      fresh = once and (weighed or not config.ahead)
      old = piece.get("old_logp", None if fresh else behaviour)
      metrics = {}
      if weighed:
        anchor = jax.lax.stop_gradient(logp) if old is None else old
        extras["rollout_weight"], metrics = rollouts.weight(
          config, anchor, behaviour, mask
        )
      loss_NxT, found = loss.terms(logp, old, piece["advantage"], mask, extras)
      total, _ = masked.reduce(loss_NxT, mask, aggregate, t)
      total /= jnp.maximum(weight, 1)
      metrics |= found
      if critic and value is not None:
        value_loss, metrics["value_clip_fraction"] = returns.value_loss(
          value, piece["value"], piece["target"], mask, config.critic.clip
        )
        metrics["value_loss"] = jax.lax.stop_gradient(value_loss)
        share = masked.masked_sum(value_loss, mask) / tokens
        total += config.critic.coefficient * share
      before = behaviour if old is None else old
      drift = jax.lax.stop_gradient(
        kl_lib.k3(before, jax.lax.stop_gradient(logp))
      )
      gap = jax.lax.stop_gradient(jnp.abs(logp - behaviour))
      metrics |= {"logprob_abs_diff": gap, "approx_kl": drift}
      sums = {k: masked.masked_sum(v, mask) for k, v in metrics.items()}
      peak = {"logprob_abs_diff_max": jnp.max(masked.clean(gap, mask))}
      return total, (sums, peak)

    if tape is None:
      value, sums, peaks, grads = accumulate.gradient(
        piece_loss, params, rows, inner
      )
    else:
      made, pull = tape
      value, sums, peaks, grads = accumulate.gradient(
        made_loss, made, rows, inner
      )
      (grads,) = pull(grads)
    change, after = opt.update(grads, opt_state, params)
    moved = optax.apply_updates(params, change), after
    if critic and config.critic.warmup:
      early = step < config.critic.warmup
      moved = update_lib.hold(("policy",), early, carry, moved)
    metrics: dict[str, Any] = {
      _NAMES.get(str(k), str(k)): v / tokens for k, v in sums.items()
    }
    metrics.update(peaks, loss=value, grad_norm=optax.tree.norm(grads))
    return moved, metrics

  def update(state: State, rollout: Rollout, score: Score):
    rollout, score, aside = rollouts.split(rollout, score, b, g)
    inner = batching.plan(b // updates, g, config.microbatch, shards)
    full = batching.plan(b, g, inner.rows, shards)
    tape = None
    if once and critic and full.pieces == 1 and not thin.rate(config):
      own = lambda p: forward(p, state.frozen, rollout, full.share)
      tape = jax.vjp(own, state.params)
    fixed = before(state, rollout, full, tape[0] if tape else None)
    found, mask, reward, extra = assign(state, rollout, score, aside, fixed)
    rows = {**fixed, "rollout": rollout, "mask": mask,
            "advantage": found.advantage,
            **thin.keys(config, state, b * g)}  # fmt: skip
    if found.target is not None:
      rows["target"] = found.target
    run = lambda carry, rows: one_update(carry, rows, state.frozen, state.step)
    carry = state.params, state.opt
    if once:
      carry, metrics = one_update(carry, rows, state.frozen, state.step, tape)
    else:
      carry, metrics = update_lib.several(
        run, carry, rows, outer, epochs, config.loss.kl_stop
      )
    metrics: dict[str, Any] = {
      **metrics,
      **found.metrics,
      **rollouts.describe(rollout, score, g),
      "advantage_abs": masked.masked_mean(jnp.abs(found.advantage), mask),
      "trained_tokens": jnp.sum(mask, dtype=jnp.float32),
      "staleness": (state.step - rollout.version).astype(jnp.float32),
    }
    act = rollout.action[:, -t:]
    rows_out = {"advantage": masked.masked_mean(found.advantage, act, 1),
                "reward": reward}  # fmt: skip
    if referenced:
      said, rows_out["kl"] = rollouts.divergence(
        rollout, fixed["reference_logp"]
      )
      metrics |= said
    metrics["rows"] = rollouts.widen(rows_out, b, aside)
    extra |= ahead.start(state.params)
    state = state._replace(
      step=state.step + 1, params=carry[0], opt=carry[1], extra=extra
    )
    return sharding.pin(state, actor.axes), metrics

  def step(state: State, batch, key):
    rollout = sample(state, batch, key, *turns.also(task, batch))
    return update(state, rollout, task.reward(rollout, batch))

  parts = tuple(map(rollouts.last_part, shaping.reads if shaping else ()))
  phases = rollouts.phases(config, task, sample, update, parts)
  reads = ["base"] if config.model.lora_rank else []
  if any(a.role != "policy" for a in asides):
    reads.append("reference")
  if config.learned.stage:
    reads.append(learned.ROLE)
  return Method(
    init,
    step,
    evaluate.make(config, task, actor),
    phases,
    reads=tuple(reads),
  )


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
