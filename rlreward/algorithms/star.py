"""STaR: where no own answer is right, one that was told the answer is learned.

  keep y ~ pi(. | x) with r = 1, else y ~ pi(. | x, hint) with r = 1;
  M: max sum log pi(y | x) without the hint, from the base model

Reference: STaR, arXiv 2203.14465. The task's batches hold the prompt with its
answer in it as `hint`, `hint_mask`. Of a prompt whose own samples have a right
one, the hinted answers are not used. The paper samples greedily, once; here
`samples_per_prompt` of each, at the config's temperature.
"""

from __future__ import annotations

import jax.numpy as jnp

from rlreward import errors
from rlreward.algorithms import raft
from rlreward.steps import credit
from rlreward.types import Method, Score, Task


def make(config, task: Task) -> Method:
  """STaR as `config.rounds` describes it."""
  if not task.spec.get("hint"):
    raise errors.UserError(
      f"star on task {config.task.name!r}",
      "its batches hold no `hint`, the prompt with its answer in it",
      "use the arithmetic task or a hint column, or algorithm=rest_em",
    )
  if config.rounds.kl:
    raise errors.UserError(
      f"rounds.kl={config.rounds.kl} with star",
      "hinted answers have no log-prob under the prompt that they train",
      "set rounds.kl=0",
    )
  g = config.samples_per_prompt
  at = config.rounds.at

  def unsolved(state, rollout, score: Score) -> Score:
    """Hinted answers count where no own answer is right."""
    del state, rollout
    grouped = score.valid.reshape(-1, 2 * g)
    right = grouped & (score.value.reshape(-1, 2 * g) >= at)
    solved = jnp.any(right[:, :g], 1, keepdims=True)
    hinted = jnp.arange(2 * g) >= g
    return score._replace(valid=(grouped & ~(hinted & solved)).reshape(-1))

  return raft.rounds(
    config,
    task,
    "correct",
    "base",
    asides=(credit.Aside("policy", g, prompt="hint"),),
    judge=unsolved,
  )
