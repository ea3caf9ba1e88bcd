"""Rewards of texts by their authors: detectors on seen and on unseen ones."""

from __future__ import annotations

import jax.numpy as jnp

from rlreward.ops import detect, masked
from rlreward.types import Array


def judged(score_BxG: Array, author_B: Array, levels: int) -> dict:
  """{metric: (value, 1)} of groups by their authors, of which 0 was seen.

  Args:
    score_BxG: rewards, the levels first.
    author_B: i32, the model that wrote the first level.
    levels: the last one is a person's.
  """
  found = {}
  human = score_BxG[:, levels - 1]
  for name, own in (("seen", author_B == 0), ("unseen", author_B > 0)):
    found[f"auroc/{name}"] = detect.auroc(score_BxG[:, 0], human, own)
    for i in range(levels):
      mean = masked.masked_mean(score_BxG[:, i], own)
      found[f"level/{name}/{i}"] = mean
  if score_BxG.shape[1] > levels + 1:
    better, worse = score_BxG[:, levels], score_BxG[:, levels + 1]
    found["preferred"] = jnp.mean(better > worse)
  return {k: (v, jnp.ones(())) for k, v in found.items()}
