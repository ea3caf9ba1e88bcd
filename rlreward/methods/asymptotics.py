"""Policy gradient at the price that a KL budget implies.

  A_i = R_i - mean_{j != i} R_j,  R = r - (1 / alpha) sum_t log pi / pi_ref,
  alpha >= 0 the root of KL(p exp(alpha r) / Z || p) = budget.

The optimum of reward within a KL budget is the tilt of the base by exp(alpha
r), so the coefficient is not a knob: each step solves for the alpha of the
budget from its own samples (`kl_reward.budget`), or the config gives 1 / alpha
(`kl_reward.beta`). Rewards keep their unit: a baseline is taken off them and
nothing divides them, for a spread would be another alpha.

Reference: Asymptotics of Language Model Alignment, arXiv 2404.01730.
Differs from the paper: it characterises the optimum and trains nothing; the way
there, RLOO's gradient at the implied price, is ours.
"""

from __future__ import annotations

from rlreward import errors
from rlreward.algorithms import rloo
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """RLOO at `kl_reward.budget` nats of a response, or at a given price."""
  c = config.kl_reward
  if not (c.budget or c.beta):
    raise errors.UserError(
      "kl_reward.budget=0 and kl_reward.beta=0 with asymptotics",
      "without a price of the KL the optimum is the best answer alone",
      "set kl_reward.budget to the nats that a response may spend",
    )
  return rloo.make(config, task)
