"""From rewards to advantages: what each action of a rollout is worth.

A `Credit` says what it reads (`needs`, `asides`), keeps its own state (a
baseline, a KL coefficient) and assigns an advantage to every action. The KL to
the reference may be part of the reward here, as k1 at each token, whose
gradient by the score function is that of KL(pi || ref), later tokens included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from rlreward.analytic import budget
from rlreward.ops import kl as kl_lib
from rlreward.ops import masked, process, returns
from rlreward.types import Array

AHEAD = frozenset({"reference_logp"})
_MEMORY = 0.9  # of the coefficient that a KL budget implies, for each step
_PROPORTIONAL, _INTEGRAL = 0.3, 0.06  # gains of the KL's relative error
_NEAR = 0.5  # relative error up to which the integral counts it
_MOST = 35.0  # of the integral: a factor of 8 in the coefficient


class Aside(NamedTuple):
  """Further rows of each prompt that are judged and never trained on.

  Attributes:
    role: who samples them: "policy", "reference" or "mixture" (of both).
    count: rows of each prompt.
    greedy: temperature 0 instead of the config's.
    prompt: column of the batch that is asked; its mask is `<prompt>_mask`.
    share: of the reference in the mixture, pi^(1 - share) ref^share / Z.
  """

  role: str
  count: int
  greedy: bool = False
  prompt: str = "prompt"
  share: float = 0.0


class Penalty(NamedTuple):
  """The KL in the reward: r_t - beta (log pi - log ref)_t.

  Attributes:
    beta: coefficient, or its start where there is a target.
    target: KL of a response that beta is steered to, nats; 0 leaves beta alone.
    horizon: episodes, see `returns.adaptive_kl`.
    budget: KL of a response, nats; above 0, beta is 1 / alpha of the optimum
      that spends it, which each step's rewards imply; see
      `analytic.budget.implied_alpha`. A policy wastes some of its KL, so beta
      is trimmed by a PI controller of the KL's relative error e:

        beta alpha = exp(0.3 e + 0.06 sum e),  e = clip(KL / budget - 1)

      The sum, within 35, leaves out |e| >= 1/2: a policy that is on its way
      says nothing of what it will waste.
  """

  beta: float
  target: float = 0.0
  horizon: float = 10_000.0
  budget: float = 0.0


class Signals(NamedTuple):
  """What credit is assigned from; N = B * G rows, prompt-major.

  Attributes:
    reward: f32[N], shaped.
    valid: bool[N].
    tokens: f32[N, T] or None, rewards of single tokens.
    action: bool[N, T].
    logp: f32[N, T], of the behaviour policy.
    reference_logp: f32[N, T], where `needs` names it.
    value: f32[N, T], where `needs` names it.
    aside: f32[B, M], rewards of the asides.
    aside_valid: bool[B, M].
    group: G.
    step: i32[N, T] or None, the step that an action is in, where steps are
      scored.
  """

  reward: Array
  valid: Array
  tokens: Array | None
  action: Array
  logp: Array
  reference_logp: Array | None
  value: Array | None
  aside: Array
  aside_valid: Array
  group: int
  step: Array | None = None

  def grouped(self, x: Array) -> Array:
    """[N, ...] -> [B, G, ...]."""
    return x.reshape(-1, self.group, *x.shape[1:])


class Assigned(NamedTuple):
  """What credit says.

  Attributes:
    advantage: f32[N, T], without gradient.
    target: f32[N, T] that a critic is to predict, or None.
    metrics: {name: f32[]}.
  """

  advantage: Array
  target: Array | None
  metrics: Mapping[str, Array]


class Credit(NamedTuple):
  """How rewards become advantages.

  Attributes:
    needs: of {"reference_logp", "value"}, so that nothing else is computed.
    asides: rows that are sampled beside those trained on.
    init: () -> state, a dict of arrays.
    assign: (Signals, state) -> (Assigned, state).
  """

  needs: frozenset[str]
  asides: tuple[Aside, ...]
  init: Callable[[], dict[str, Any]]
  assign: Callable[[Signals, Any], tuple[Assigned, Any]]


def penalised(
  signals: Signals, state: dict[str, Any], penalty: Penalty | None
) -> tuple[Array | None, dict[str, Any], dict[str, Array]]:
  """(-beta k1 of each token or None, next state, metrics)."""
  if penalty is None:
    return None, state, {}
  assert signals.reference_logp is not None
  beta = following = state["kl_beta"]
  k1 = kl_lib.k1(signals.logp, signals.reference_logp)
  k1 = masked.clean(k1, signals.action)
  if penalty.target:
    kl = jnp.mean(jnp.sum(k1, 1))
    rows = signals.reward.shape[0]
    following = returns.adaptive_kl(
      beta, kl, penalty.target, rows, penalty.horizon
    )
  metrics, trim = {}, jnp.zeros(())
  if penalty.budget:
    log_ratio = jnp.sum(k1, 1)
    alpha = budget.implied_alpha(
      signals.grouped(_total(signals, None)),
      signals.grouped(log_ratio),
      penalty.budget,
      signals.grouped(signals.valid),
    )
    error = jnp.clip(jnp.mean(log_ratio) / penalty.budget - 1, -1, 1)
    near = jnp.where(jnp.abs(error) < _NEAR, error, 0)
    integral = jnp.clip(state["kl_error"] + near, -_MOST, _MOST)
    trim = _PROPORTIONAL * error + _INTEGRAL * integral
    metrics["kl_trim"] = trim
    state = {**state, "kl_error": integral}
    # A budget that these samples cannot spend implies no price at all.
    found = jnp.where(alpha > 0, 1 / alpha, jnp.maximum(beta, 0))
    # Nothing is known before the first step, and one step knows little.
    beta = jnp.where(beta < 0, found, beta)
    following = _MEMORY * beta + (1 - _MEMORY) * found
  metrics["kl_beta"] = price = beta * jnp.exp(trim)
  return -price * k1, {**state, "kl_beta": following}, metrics


def start(penalty: Penalty | None, **own) -> Callable[[], dict[str, Any]]:
  """() -> the state of a credit: its own numbers and those of the penalty."""

  def init():
    state = {k: jnp.asarray(v, jnp.float32) for k, v in own.items()}
    if penalty is not None:
      first = -1.0 if penalty.budget else penalty.beta
      state["kl_beta"] = jnp.asarray(first, jnp.float32)
      if penalty.budget:
        state["kl_error"] = jnp.zeros(())
    return state

  return init


def _total(signals: Signals, extra: Array | None) -> Array:
  """f32[N]: the reward of a response with what its tokens earn."""
  total = masked.clean(signals.reward, signals.valid)
  for tokens in (signals.tokens, extra):
    if tokens is not None:
      total += masked.masked_sum(tokens, signals.action, 1)
  return total


def _spread(advantage_N: Array, signals: Signals) -> Array:
  wide = jnp.broadcast_to(advantage_N[:, None], signals.action.shape)
  return lax.stop_gradient(masked.clean(wide, signals.action))


def sequence(
  advantage: Callable[[Signals], Array],
  penalty: Penalty | None = None,
  asides: tuple[Aside, ...] = (),
  transform: Callable[[Signals], Array] | None = None,
) -> Credit:
  """One advantage for a response, the same at each of its actions.

  Args:
    advantage: Signals -> f32[N]; its `reward` has the rewards of tokens and
      the KL penalty in it.
    penalty: KL in the reward, over the whole response.
    asides: what `advantage` and `transform` read from `Signals.aside`.
    transform: Signals -> f32[N], what becomes of rewards before the penalty.
  """

  def assign(signals: Signals, state):
    if transform is not None:
      signals = signals._replace(reward=transform(signals))
    extra, state, metrics = penalised(signals, state, penalty)
    whole = signals._replace(reward=_total(signals, extra))
    adv = _spread(advantage(whole), signals)
    return Assigned(adv, None, metrics), state

  needs = AHEAD if penalty else frozenset()
  return Credit(needs, asides, start(penalty), assign)


def group(
  advantage: Callable[[Array, Array], Array], penalty: Penalty | None = None
) -> Credit:
  """Credit from the other samples of the prompt.

  Args:
    advantage: (reward f32[B, G], valid bool[B, G]) -> f32[B, G].
    penalty: KL in the reward.
  """

  def read(s: Signals) -> Array:
    return advantage(s.grouped(s.reward), s.grouped(s.valid)).reshape(-1)

  return sequence(read, penalty)


def running_mean(decay: float = 0.95, penalty: Penalty | None = None) -> Credit:
  """Reward minus the mean reward of earlier steps: REINFORCE's first baseline.

    b <- decay b + (1 - decay) mean r, corrected for its start at 0

  The baseline is of the past alone, so it leaves the gradient unbiased.

  Args:
    decay: of the mean, for each step.
    penalty: KL in the reward.

  Reference: Williams 1992.
  """

  def assign(signals: Signals, state):
    extra, state, metrics = penalised(signals, state, penalty)
    reward = _total(signals, extra)
    seen = state["weight"]
    baseline = jnp.where(seen > 0, state["mean"] / jnp.where(seen, seen, 1), 0)
    mean = masked.masked_mean(reward, signals.valid)
    some = jnp.any(signals.valid)
    fade = lambda old, new: jnp.where(
      some, decay * old + (1 - decay) * new, old
    )
    state = {
      **state,
      "mean": lax.stop_gradient(fade(state["mean"], mean)),
      "weight": fade(seen, 1.0),
    }
    adv = _spread(reward - baseline, signals)
    return Assigned(adv, None, {**metrics, "baseline": baseline}), state

  needs = AHEAD if penalty else frozenset()
  init = start(penalty, mean=0.0, weight=0.0)
  return Credit(needs, (), init, assign)


def reward_to_go(
  penalty: Penalty | None = None,
  *,
  gamma: float = 1.0,
  center: str = "none",
  sd_min: float = 1e-8,
) -> Credit:
  """Each action gets what follows it, whitened over all actions of the batch.

    R_t = sum_{s >= t} gamma^(s - t) r_s,  A = (R - mean) / max(sd, sd_min)

  Args:
    penalty: KL in the reward.
    gamma: discount of an action.
    center: "none", or the mean of the prompt's samples that is taken off
      first: "group" of their rewards, "step" of R at the same step.
    sd_min: floor of the spread; keeps noise small once the signal has gone.

  Raises:
    ValueError: unknown center.

  Reference: REINFORCE++, arXiv 2501.03262.
  """
  if center not in ("none", "group", "step"):
    raise ValueError(f"center={center!r}; choose 'none', 'group' or 'step'")

  def assign(signals: Signals, state):
    extra, state, metrics = penalised(signals, state, penalty)
    reward = masked.clean(signals.reward, signals.valid)
    if center == "group":
      known = signals.grouped(signals.valid)
      mean = masked.masked_mean(signals.grouped(reward), known, 1)
      reward -= jnp.repeat(mean, signals.group)
    steps = token_rewards(signals, reward, extra)
    known = signals.action & signals.valid[:, None]
    adv = returns.reward_to_go(steps, signals.action, gamma)
    if center == "step":
      step = jnp.zeros_like(adv, int) if signals.step is None else signals.step
      adv -= process.step_baseline(adv, step, known, signals.group)
    adv = masked.whiten(adv, known, sd_min=sd_min)
    return Assigned(lax.stop_gradient(adv), None, metrics), state

  needs = AHEAD if penalty else frozenset()
  return Credit(needs, (), start(penalty), assign)


def gae(
  penalty: Penalty | None = None,
  *,
  gamma: float = 1.0,
  lam: float = 0.95,
  whiten_reward: bool = False,
  whiten: bool = True,
  target: str = "gae",
) -> Credit:
  """PPO's credit: GAE under a critic, whitened over the actions of the batch.

  Args:
    penalty: KL in the reward.
    gamma: discount of an action.
    lam: of GAE.
    whiten_reward: divide per-token rewards by their spread, mean kept.
    whiten: advantages get mean 0 and variance 1, after the targets are made.
    target: what the critic predicts: "gae" (A + V) or "return" (reward to go,
      as in PAR's PPO).

  Raises:
    ValueError: unknown target.

  Reference: PPO 1707.06347, GAE 1506.02438; for text 1909.08593.
  """
  if target not in ("gae", "return"):
    raise ValueError(f"target={target!r}; choose 'gae' or 'return'")

  def assign(signals: Signals, state):
    extra, state, metrics = penalised(signals, state, penalty)
    steps = token_rewards(signals, signals.reward, extra)
    known = signals.action & signals.valid[:, None]
    if whiten_reward:
      steps = masked.whiten(steps, known, shift_mean=False)
    assert signals.value is not None
    adv, wanted = returns.gae(steps, signals.value, known, gamma, lam)
    if target == "return":
      wanted = returns.reward_to_go(steps, known, gamma)
    explained = returns.explained_variance(signals.value, wanted, known)
    metrics = {**metrics, "value": masked.masked_mean(signals.value, known),
               "explained_variance": explained}  # fmt: skip
    if whiten:
      adv = masked.whiten(adv, known)
    adv, wanted = lax.stop_gradient((adv, wanted))
    return Assigned(adv, wanted, metrics), state

  needs = frozenset({"value"}) | (AHEAD if penalty else frozenset())
  return Credit(needs, (), start(penalty), assign)


def token_rewards(
  signals: Signals, reward_N: Array, extra: Array | None
) -> Array:
  """f32[N, T]: the response's reward at its last action, plus the tokens' own.

  Args:
    signals: masks and rewards of tokens.
    reward_N: of the responses.
    extra: f32[N, T] or None, e.g. the KL penalty.
  """
  reward = masked.clean(reward_N, signals.valid)
  steps = returns.at_last(reward, signals.action)
  for tokens in (signals.tokens, extra):
    if tokens is not None:
      steps += masked.clean(tokens, signals.action)
  return steps
