"""Self-rewarding: the policy answers, judges its answers, and learns from both.

  s(y) = sum_k k P(rating k | x, y, "judge this");  pair = argmax s, argmin s
  L = -log sigma(beta (log pi/pi_k(y_w) - log pi/pi_k(y_l)))

Reference: Self-Rewarding Language Models, arXiv 2401.10020. Differs: the score
is the mean rating under the policy's own distribution instead of an average of
parsed samples, its limit for many judgements. The words that ask for a rating
and the tokens that give it are the task's (`spec["judge"]`); the reference is
the policy at the beginning of the round.
"""

from __future__ import annotations

from rlreward.algorithms import online_dpo
from rlreward.steps import choose, own_judge
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """Self-rewarding rounds; the task's reward is only watched."""
  return online_dpo.pairs(
    config,
    task,
    select=choose.best_and_worst,
    reference="round",
    judge=own_judge.make(config, task),
  )
