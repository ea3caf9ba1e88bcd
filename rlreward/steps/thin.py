"""Dropout on an adapter's input: in the gradient of an update, nowhere else.

Rollouts, log-probs and values are those of the whole adapter, so that ratios
are 1 before the first update; what is differentiated is a second pass in which
a share `model.lora_dropout` of each adapter's input is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from rlreward import errors
from rlreward.types import State

Tree = Any
# Where the keys of the masks stand, in frozen roles and in a piece of rows.
KEY = "thin"
_STREAM = 2**30  # beyond the steps of any run, whose keys are folded likewise


def rate(config) -> float:
  """Share of an adapter's input that is left out; 0 without an adapter."""
  return config.model.lora_dropout if config.model.lora_rank else 0.0


def keys(config, state: State, rows: int) -> dict[str, jax.Array]:
  """Keys of a step's masks, one for each row; a piece uses its first.

  Args:
    config: a run's config.
    state: before the step.
    rows: N.

  Returns:
    {KEY: keys [N]}, or nothing without dropout.
  """
  if not rate(config):
    return {}
  root = jax.random.fold_in(state.key, _STREAM)
  own = jax.random.fold_in(root, state.step)
  return {KEY: jax.random.split(own, rows)}


def forward(config, whole: Callable[..., Tree]) -> Callable[..., Tree]:
  """The forward pass of a piece, with the gradient of a thinned adapter.

    y = sg(f(theta)) + f(theta, m) - sg(f(theta, m))

  Args:
    config: a run's config.
    whole: (params, frozen, rollout, share) -> arrays.

  Returns:
    (params, frozen, piece, share) -> the same arrays.
  """

  def run(params, frozen, piece, share):
    made = whole(params, frozen, piece["rollout"], share)
    if not rate(config):
      return made
    own = {**frozen, KEY: piece[KEY][0]}
    thin = whole(params, own, piece["rollout"], share)
    hold = jax.lax.stop_gradient
    return jax.tree.map(lambda w, t: hold(w) + (t - hold(t)), made, thin)

  return run


def refuse(config) -> None:
  """Refuses dropout where the step has no second pass for it.

  Raises:
    UserError: `model.lora_dropout` above 0.
  """
  if rate(config):
    raise errors.UserError(
      f"model.lora_dropout={rate(config)} with {config.algorithm}",
      "only online methods leave out a part of an adapter's input",
      "set model.lora_dropout=0",
    )
