"""M-RewardBench: one reward model, the same pairs in every language.

  score(l) = mean over categories of their accuracy in language l
  kappa(l) = (p_o - p_e) / (1 - p_e),  of choices in English and in l

A Bradley-Terry reward model on pairs of several languages. Held-out instances
in every language go to the benchmark's runner twice, as a good and as a poor
system translated them: `bench/<system>/language/<code>` is a score,
`bench/<system>/kappa/<code>` how far the model's own choices agree with those
in English, and `random/...` what random scores get.

Reference: M-RewardBench: Evaluating Reward Models in Multilingual Settings,
arXiv 2410.15522.
Differs from the paper: one model is trained, on languages of made-up words, in
place of 25 that are given, and there is no task of choosing translations.
"""

from __future__ import annotations

import numpy as np

from rlreward.algorithms import reward_model
from rlreward.steps import study
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """A reward model and its scores in each language."""
  spec = task.spec

  def report(score: np.ndarray, rows: study.Rows) -> dict[str, float]:
    out = {}
    for i, name in enumerate(spec["systems"]):
      own = (rows["item"] >= 0) & np.isin(rows["system"], (-1, i))
      part = {k: v[own] for k, v in rows.items()}
      columns = study.items(score[own], part, spec["groups"], spec["languages"])
      found = study.run(columns, "m-rewardbench")
      out |= {f"{name}/{k}": v for k, v in found.items()}
    return out

  method = reward_model.make(config, task)
  return study.make(method, study.single(config, task), report)
