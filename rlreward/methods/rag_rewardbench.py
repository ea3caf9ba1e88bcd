"""RAG-RewardBench: a reward model judged by scenarios of retrieval.

  score(scenario) = mean over its subsets of mean [r(x, y_w) > r(x, y_l)]

A Bradley-Terry reward model on the pairs of its task. Held-out pairs of the
scenarios (two hops, citation, abstaining, conflict) go to the benchmark's
runner, each scenario apart; x has the retrieved passages, so that a model that
does not see them is at chance. `random/...` is what random scores get.

Reference: RAG-RewardBench: Benchmarking Reward Models in Retrieval Augmented
Generation for Preference Alignment, arXiv 2412.13746.
Differs from the paper: pairs are made by rule in place of the agreement of four
judges, and one model of each kind is trained in place of 45 that are given.
"""

from __future__ import annotations

import numpy as np

from rlreward.algorithms import reward_model
from rlreward.steps import study
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """A reward model and the scores of its scenarios."""
  groups = task.spec.get("groups", ())

  def report(score: np.ndarray, rows: study.Rows):
    return study.run(study.items(score, rows, groups), "rag-rewardbench")

  method = reward_model.make(config, task)
  return study.make(method, study.single(config, task), report)
