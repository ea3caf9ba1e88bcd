"""RAFT: each round imitates the best of K answers to every prompt.

  y* = argmax_k r(x, y_k);  L = -sum_t log pi(y*_t | x, y*_<t) / tokens

Reference: RAFT, arXiv 2304.06767. With exact fine-tuning a round maps the
policy to its best-of-K law, so T rounds are best-of-K^T. A round begins with a
new optimiser and goes on from the current policy (`rounds.start="base"` begins
from the first). `rounds.select`: best (paper's local), top (its global share),
threshold, correct, draw; `rounds.kl` ranks by r - kl log pi / ref. The loss is
on the answer alone; LMFlow's code adds the prompt.
"""

from __future__ import annotations

from rlreward.algorithms import sft
from rlreward.steps import choose, iterate, roles
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """RAFT as `config.rounds` describes it."""
  return rounds(config, task, "best", "current")


def rounds(config, task: Task, kind: str, start: str, **more) -> Method:
  """Rounds of imitation; "" in the config leaves the paper's value.

  Args:
    config: section `rounds`.
    task: prompts and rewards.
    kind: the paper's `rounds.select`.
    start: the paper's `rounds.start`.
    **more: arguments of `iterate.make`.
  """
  c = config.rounds
  kind = c.select or kind
  asides = sum(a.count for a in more.get("asides", ()))
  selected = choose.answers(config, kind)
  units = choose.count(config, kind, config.samples_per_prompt + asides)
  iterate.check_units(config, units, "selected answers")
  actor = roles.policy(config.model)
  return iterate.make(
    config,
    task,
    actor,
    sft.language(actor),
    select=selected,
    start=c.start or start,
    restart=True,
    ranked=c.kl > 0,
    **more,
  )
