"""Best-of-N: draw N answers and keep the one with the highest reward.

  y* = argmax_i r(x, y_i);  KL(pi_N || pi) <= log N - (N - 1) / N

Reference: WebGPT, arXiv 2112.09332; the bound is exact without ties, see
arXiv 2401.01879. Nothing is trained: a step answers `prompts_per_step` prompts
from `samples_per_prompt` samples; `samples/chosen_N.jsonl` has the answers.
`best_of_n.pick`: best, soft (drawn by softmax of the reward), majority,
weighted (votes). `best_of/<n>` are unbiased estimates for every n <= N.
"""

from __future__ import annotations

from rlreward.steps import guide
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """Best-of-N as `config.best_of_n` describes it."""
  return guide.make(config, task)
