"""The adapter of a finished run, alone and in PEFT's layout."""

from __future__ import annotations

import pathlib

import jax

from rlreward import errors, runs
from rlreward.steps import roles


def export(run: str | pathlib.Path, out: str | pathlib.Path) -> str:
  """Writes a run's adapter as a directory that PEFT loads.

  The base is named; where it is not `model.path` as it stands (a model of the
  run's own, or one that an earlier stage has trained), it is written beside the
  adapter, to `<out>_base`.

  Args:
    run: a run directory.
    out: where to write; must not hold anything yet.

  Returns:
    What to try next.

  Raises:
    UserError: a run without an adapter.
  """
  from rlreward.models import peft, pretrained

  path, target = pathlib.Path(run), pathlib.Path(out)
  config = runs.read_config(path)
  if not config.model.lora_rank or runs.has_members(config):
    raise errors.UserError(
      f"{path} has model.lora_rank={config.model.lora_rank}"
      f" and algorithm={config.algorithm!r}",
      "it has not trained one adapter, which could be written alone",
      f"write the model: rlreward export --run={run} --out={out}",
    )
  actor = roles.policy(config.model)
  abstract = jax.eval_shape(actor.init, jax.random.key(config.seed))
  params, frozen, _ = runs.restore(path, actor, *abstract)
  base: str | pathlib.Path = config.model.path
  if config.start or not base:
    like = pretrained.resolve(base) if base else None
    base = target.with_name(f"{target.name}_base")
    model = actor.model.config
    pretrained.export(base, model, frozen["base"], tokenizer_from=like)
  peft.export(target, actor.model.config, params["policy"]["lora"], base)
  return f"PeftModel.from_pretrained(model, {str(target)!r}), model {base}"
