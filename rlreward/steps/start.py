"""The first State of a run: random, from checkpoints, or handed over."""

from __future__ import annotations

import jax

from rlreward import errors
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
  loaded = _adapted(config.model, loaded)
  given = {role: read(c.path) for role, c in method.given.items()}
  given |= handed or {}
  init = jax.jit(method.init, out_shardings=placed)
  if given:
    return init(key, loaded, given)
  return init(key) if loaded is None else init(key, loaded)


def _adapted(c, loaded):
  """Variables with the adapter of `model.lora_path`, where there is one."""
  if not c.lora_path:
    return loaded
  from rlreward.models import peft
  from rlreward.steps import roles

  if loaded is None or not c.lora_rank:
    raise errors.UserError(
      f"model.lora_path={c.lora_path!r} with model.path={c.path!r} and"
      f" lora_rank={c.lora_rank}",
      "an adapter is a change of one base, and goes on as an adapter",
      "name the base in model.path, and set model.lora_rank",
    )
  found = peft.load(c.lora_path, roles.model_config(c), c.path)
  said = (found.rank, found.alpha, set(found.targets))
  if said != (c.lora_rank, c.lora_alpha, set(c.lora_targets)):
    raise errors.UserError(
      f"{c.lora_path} has rank {found.rank}, alpha {found.alpha:g} and targets"
      f" {found.targets}; the config lora_rank={c.lora_rank},"
      f" lora_alpha={c.lora_alpha:g} and {tuple(c.lora_targets)}",
      "another scale or other projections are another model",
      f"set model.lora_rank={found.rank} model.lora_alpha={found.alpha:g}"
      f" model.lora_targets={found.targets}",
    )
  return {**loaded, "lora": found.tree}
