"""GRPO: the baseline of a sample is the mean reward of its group.

  A = (r - mean r) / (sd r + eps);  L = -min(rho A, clip(rho) A) + beta k3
  averaged over the tokens of a response, then over responses.

Reference: DeepSeekMath, arXiv 2402.03300. The k3 term's gradient is that of
KL(reference || policy), as in the paper; `loss.kl="reverse"` gives the gradient
of KL(policy || reference) instead. Groups of equal rewards give no gradient.
With `credit.baseline="turn"` the turns of an answer with a tool are compared
one by one, at the discount `credit.gamma` of a turn; see `steps.turn_credit`.
"""

from __future__ import annotations

from rlreward import errors
from rlreward.ops import advantage, kl, policy
from rlreward.steps import checks, credit, online, rollouts, turn_credit
from rlreward.types import Method, Task

KL = {"forward": kl.forward_kl_surrogate, "reverse": kl.reverse_kl_surrogate}


def make(config, task: Task) -> Method:
  """GRPO as `config.loss` describes it."""
  check(config)
  c = config.loss
  loss = policy.clipped(*clip(c, 0.2, 0.2), c.dual_clip)
  return online.make(
    config,
    task,
    loss=regularised(loss, config),
    credit=turn_credit.chosen(
      config, task, advantage.group_advantage, penalty(config)
    ),
    aggregate="seq_mean_token_mean",
  )


def clip(c, low: float, high: float) -> tuple[float, float]:
  """Clip range of a config, or the paper's where the config leaves it open."""
  return (
    low if c.clip_low is None else c.clip_low,
    high if c.clip_high is None else c.clip_high,
  )


def penalty(config) -> credit.Penalty | None:
  """The KL in the reward, where the config has one.

  Raises:
    UserError: a KL in the reward and in the loss, or fields that cannot be.
  """
  c = config.kl_reward
  checks.kl_reward(config)
  if not (c.beta or c.budget):
    return None
  return credit.Penalty(c.beta, c.target, c.horizon, c.budget)


def regularised(loss: policy.Loss, config) -> policy.Loss:
  """Weighs stale rows, adds the KL and entropy terms that the config names."""
  c, terms = config.loss, []
  if rollouts.check_off_policy(config):
    loss = policy.weighted(loss)
  if c.kl_beta:
    # Off-policy the reverse gradient needs pi / pi_old; GRPO's k3 has none.
    weight = policy.importance_ratio if c.kl == "reverse" else None
    terms.append(policy.kl_penalty(KL[c.kl], kl.k3, c.kl_beta, weight))
  if c.entropy:
    terms.append(policy.entropy_bonus(c.entropy))
  return policy.add(loss, *terms) if terms else loss


def check(config) -> None:
  """Refuses groups without a spread and losses that cannot be."""
  checks.loss(config.loss)
  if config.samples_per_prompt < 2:
    raise errors.UserError(
      f"samples_per_prompt={config.samples_per_prompt} with {config.algorithm}",
      "a group of one has no spread, so every advantage would be zero",
      "set samples_per_prompt=2 or more",
    )
