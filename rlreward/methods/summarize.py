"""PPO on a reward model of human comparisons, tied to an imitated start.

  R(x, y) = r(x, y) - mean_D r(x, y_D) - beta log (pi(y | x) / pi_SFT(y | x))

The pipeline has three stages: SFT on answers D of the data set, a reward model
that begins with its weights and learns from comparisons, and PPO from the SFT
policy. The reward is read at the last token, is shifted so that answers of the
data set have a mean of 0, and is a fixed low number for an answer that was cut
before it ended. The KL is paid token by token. The critic is a model of its own
that begins with the reward model's weights.

Reference: Learning to summarize from human feedback, arXiv 2009.01325.
Differs from the paper: advantages are whitened, as in most later code; where
r is shifted or clipped further, `shaping` of other methods is the place.
"""

from __future__ import annotations

from rlreward import errors
from rlreward.algorithms import ppo
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """PPO as the config describes it, judged by the stage `learned.stage`."""
  check(config)
  return ppo.make(config, task)


def check(config) -> None:
  """Refuses a pipeline with a part missing.

  Raises:
    UserError: no reward model, or no price of leaving the start.
  """
  if not config.learned.stage:
    raise errors.UserError(
      "learned.stage=0 with algorithm='summarize'",
      "the reward is what an earlier stage has learned from comparisons",
      "give the config a `start` with algorithm='reward_model', and its number",
    )
  if not config.kl_reward.beta:
    raise errors.UserError(
      "kl_reward.beta=0 with algorithm='summarize'",
      "nothing would keep the policy where the reward model has seen answers",
      "set kl_reward.beta, 0.05 in the paper",
    )
