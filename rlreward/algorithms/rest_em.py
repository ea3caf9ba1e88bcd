"""ReST-EM: samples, keeps what is correct, and trains the base model on it.

  E: keep y with r(x, y) >= at;  M: max sum log pi(y | x), from the base model

Reference: ReST-EM, arXiv 2312.06585. At most `rounds.cap` different answers of
each prompt count, and prompts without a correct one not at all. Every round
starts from the base model (`rounds.start="current"` is RAFT's way).
"""

from __future__ import annotations

from rlreward.algorithms import raft
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """ReST-EM as `config.rounds` describes it."""
  return raft.rounds(config, task, "correct", "base")
