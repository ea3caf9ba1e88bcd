"""SPIN: the policy learns to tell demonstrations from its own last answers.

  y ~ pi_k(. | x);  L = -log sigma(beta (log pi/pi_k(y*) - log pi/pi_k(y)))

Reference: Self-Play Fine-Tuning, arXiv 2401.01335. y* is the demonstrated
answer. Both the opponent and the reference are the policy at the beginning of
the round: make rounds long (`prompts_per_step`, `updates_per_step`, `epochs`).
"""

from __future__ import annotations

from rlreward.algorithms import online_dpo
from rlreward.steps import choose
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """SPIN; `preference.beta` is 0.1 as in its code."""
  choose.check_demonstrated(config, task)
  return online_dpo.pairs(
    config,
    task,
    least=1,
    select=choose.shown_and_sampled,
    columns=choose.ANSWER,
    reference="round",
  )
