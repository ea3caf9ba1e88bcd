"""The first State of a run: random, from checkpoints, or handed over."""

from __future__ import annotations

import jax

from rlreward.types import Method, State


def initial(
  config, method: Method, key, placed, loaded=None, handed=None
) -> State:
  """The first State: random, from a checkpoint directory, or handed over.

  Args:
    config: `model.path` names a checkpoint to load.
    method: its `init` is compiled with the shardings.
    key: root key of the run.
    placed: shardings of the State.
    loaded: variables to start from, e.g. of an earlier stage.
    handed: {role: tree} of frozen roles that earlier stages have trained.
  """
  from rlreward.models import pretrained, reward_heads

  def read(path: str, head: str = "lm"):
    return pretrained.load(
      path,
      head=head,
      dtype=config.model.dtype,
      param_dtype=config.model.param_dtype,
    )[1]

  path = config.model.path
  if loaded is None and path:
    head = "lm"
    if config.model.outputs:  # a new score head, unless there is one
      head = "score" if pretrained.has_score(path) else "none"
      if reward_heads.describe(config.model).kind == "critique":
        head = "lm"  # it goes on writing
    loaded = read(path, head)
  given = {role: read(c.path) for role, c in method.given.items()}
  given |= handed or {}
  init = jax.jit(method.init, out_shardings=placed)
  if given:
    return init(key, loaded, given)
  return init(key) if loaded is None else init(key, loaded)
