"""What can be done with a finished run: evaluate, sample, export."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlreward import config as config_lib
from rlreward import errors, registry, sharding
from rlreward.checkpoint import Checkpointer
from rlreward.models import ensemble, ensemble_card, lora, transformer
from rlreward.sampling import decode
from rlreward.steps import roles
from rlreward.types import FINISH_NAMES, Task


class Loaded(NamedTuple):
  """The policy of a run directory.

  Attributes:
    config: the run's config.
    task: its task.
    model: the decoder.
    variables: {"params": tree}; an adapter is merged into its base.
    step: step of the checkpoint.
  """

  config: Any
  task: Task
  model: transformer.Model
  variables: Any
  step: int


def load(run: str | pathlib.Path, overrides: Sequence[str] = ()) -> Loaded:
  """Reads the last checkpoint of a run, its policy alone.

  Args:
    run: a run directory.
    overrides: "--config.field=value" for what is done with it.

  Raises:
    UserError: no run there, or one without a checkpoint.
  """
  path = pathlib.Path(run)
  config = read_config(path, overrides)
  task = registry.task(config)
  if has_members(config):
    raise errors.UserError(
      f"{path} holds an ensemble of {config.algorithm}",
      "there is no single model in it to sample or to evaluate",
      f"write its members with rlreward export --run={run} --out=DIRECTORY",
    )
  actor = roles.policy(config.model)
  key = jax.random.key(config.seed)
  abstract = jax.eval_shape(actor.init, key)
  params, frozen, step = restore(path, actor, *abstract)
  variables = _merged(actor, params, frozen)
  return Loaded(config, task, actor.model, variables, step)


def load_members(run: str | pathlib.Path) -> list[Loaded]:
  """Reads the members of an ensemble from the last checkpoint of its run.

  Args:
    run: a run directory.

  Returns:
    K, in the order of the grid: member p F + f has the p-th pretraining seed.

  Raises:
    UserError: no run there, or one without a checkpoint.
  """
  path = pathlib.Path(run)
  config = read_config(path)
  task, actor = registry.task(config), roles.policy(config.model)
  method = registry.algorithm(config.algorithm).make(config, task)
  state = jax.eval_shape(method.init, jax.random.key(config.seed))
  params, frozen, step = restore(path, actor, state.params, state.frozen)
  count = ensemble.size(params)
  found = []
  for k in range(count):
    base = frozen and ensemble.take(frozen, k * ensemble.size(frozen) // count)
    variables = _merged(actor, ensemble.take(params, k), base)
    found.append(Loaded(config, task, actor.model, variables, step))
  return found


def has_members(config: Any) -> bool:
  """Whether a config trains an ensemble."""
  return "ensemble" in vars(registry.algorithm(config.algorithm))


def restore(path, actor, params, frozen) -> tuple[Any, Any, int]:
  """(params, frozen, step) of the last checkpoint, the policy's alone.

  Args:
    path: a run directory.
    actor: the policy of its config.
    params: shapes of {"policy": tree}.
    frozen: shapes of the frozen roles that are read.
  """
  mesh = sharding.make_mesh()
  saver = Checkpointer(path / "checkpoints")
  parts = {}
  step = 0
  for name, tree in (("params/policy", params["policy"]), ("frozen", frozen)):
    if tree:
      placed = sharding.state_shardings(
        tree, actor.axes, sharding.TRAIN_RULES, mesh
      )
      wanted = sharding.with_shardings(tree, placed)
      parts[name], step = saver.restore_part(wanted, name)
  saver.close()
  return {"policy": parts["params/policy"]}, parts.get("frozen", {}), step


def _merged(actor, params, frozen) -> Any:
  """Variables of a policy, an adapter folded into its base."""
  variables = actor.variables(params, frozen)
  if "lora" in variables:
    return lora.merge(variables, actor.model.config)
  return variables


def read_config(path: pathlib.Path, overrides: Sequence[str] = ()) -> Any:
  """The config of a run directory, with some fields changed.

  Raises:
    UserError: no config.json there.
  """
  file = path / "config.json"
  if not file.is_file():
    raise errors.UserError(
      f"{path} holds no run (no config.json)",
      "a run directory is what rlreward train writes",
      "give the --workdir of a run, e.g. runs/quickstart",
    )
  config = config_lib.from_json(file.read_text(), overrides)
  config_lib.check_complete(config)
  return config


def evaluate(
  run: str | pathlib.Path, overrides: Sequence[str] = ()
) -> dict[str, float]:
  """Held-out metrics of a run's last checkpoint.

  Args:
    run: a run directory.
    overrides: e.g. "--config.eval.prompts=1024".

  Returns:
    {metric: mean over the judged rows}, and `step`.
  """
  from rlreward.steps import evaluate as evaluate_lib
  from rlreward.types import State

  found = load(run, overrides)
  policy = roles.Policy(
    model=found.model,
    init=lambda key: ({}, {}),
    variables=lambda params, frozen: params["policy"],
    snapshot=lambda params: params,
    reference=lambda frozen: frozen,
    axes={},
  )
  batch = next(found.task.batches("test", found.config.eval.prompts, 0))
  key = jax.random.key(found.config.seed + 1)
  step = jnp.asarray(found.step, jnp.int32)
  state = State(step, {"policy": found.variables}, {}, (), key)
  with jax.set_mesh(sharding.make_mesh()) as mesh:
    del mesh
    placed = sharding.process_batch(sharding.make_mesh(), batch)
    run_eval = evaluate_lib.make(found.config, found.task, policy)
    out = run_eval(state, placed, key, batch)["metrics"]
  means = {k: float(s) / max(float(w), 1e-9) for k, (s, w) in out.items()}
  return {**means, "step": float(found.step)}


def sample(
  *,
  run: str | None,
  model: str | None,
  prompts: Sequence[str] | None,
  n: int,
  max_new_tokens: int | None,
  temperature: float | None,
  top_p: float,
  top_k: int,
  seed: int,
) -> list[dict[str, Any]]:
  """Completes prompts with a run's policy or a checkpoint directory.

  Args:
    run: a run directory, or None.
    model: a checkpoint directory, or None.
    prompts: texts; default five held-out prompts of the run.
    n: samples for each.
    max_new_tokens: default the run's, or 64.
    temperature: default the run's, or 1.
    top_p: nucleus mass.
    top_k: kept tokens; 0 for all.
    seed: of the draws.

  Returns:
    Rows with prompt, completion, finish.
  """
  from rlreward.tasks import tokens

  if run:
    found = load(run)
    decoder, variables = found.model, found.variables
    tokenizer, stops = found.task.spec["tokenizer"], found.task.spec["stop_ids"]
    limit = found.config.sampling.max_new_tokens
    heat = found.config.sampling.temperature
    if not prompts:
      batch = next(found.task.batches("test", 5, 0))
      rows = zip(batch["prompt"], batch["prompt_mask"], strict=True)
      ids = [np.asarray(p)[np.asarray(m, bool)].tolist() for p, m in rows]
      prompts = [tokenizer.decode(i) for i in ids]
    else:
      ids = _encode(tokenizer, prompts)
  else:
    from rlreward.models import pretrained

    if not prompts:
      raise errors.UserError(
        "sample --model needs at least one --prompt",
        "a checkpoint directory has no prompts of its own",
        "add --prompt='...'",
      )
    assert model is not None
    shape, variables = pretrained.load(model)
    decoder = transformer.build(shape)
    tokenizer = tokens.load(model)
    stops, limit, heat = tokenizer.eos_ids, 64, 1.0
    ids = _encode(tokenizer, prompts)
  length = max(len(i) for i in ids)
  prompt, mask = tokens.left_pad(ids, length, tokenizer.pad_id)
  spec = decode.Spec(
    max_new_tokens=limit if max_new_tokens is None else max_new_tokens,
    samples_per_prompt=n,
    temperature=heat if temperature is None else temperature,
    top_k=top_k,
    top_p=top_p,
    stop_ids=tuple(stops),
    pad_id=tokenizer.pad_id,
  )
  key = jax.random.key(seed)
  rollout = decode.sampler(decoder, spec)(variables, prompt, mask, key)
  rollout = jax.device_get(rollout)
  out = []
  for row in range(len(ids) * n):
    chosen = rollout.tokens[row][rollout.action[row]]
    out.append(
      {
        "prompt": prompts[row // n],
        "completion": tokenizer.decode(chosen.tolist()),
        "finish": FINISH_NAMES[int(rollout.finish[row])],
      }
    )
  return out


def _encode(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
  """Prompts to ids as in training, with the bos that the tokenizer adds."""
  ids = [tokenizer.encode(p, bos=tokenizer.adds_bos) for p in prompts]
  if not all(ids):
    raise errors.UserError(
      "a prompt is empty",
      "the model has nothing to condition on",
      "write at least one character: --prompt='...'",
    )
  return ids


def export(run: str | pathlib.Path, out: str | pathlib.Path) -> str:
  """Writes a run's policy as a directory that transformers loads.

  A reward model gets its record with golden scores beside it, see
  `models.reward_card`; an ensemble becomes a directory for each member, see
  `models.ensemble_card`.

  Args:
    run: a run directory; an adapter is merged.
    out: where to write; must not hold anything yet.

  Returns:
    What to try next, a command.
  """
  path = pathlib.Path(run)
  if not has_members(read_config(path)):
    found = load(run)
    _export(found, run, pathlib.Path(out))
    if not found.model.config.outputs:
      return f"rlreward sample --model={out}"
  else:
    each, folder = load_members(run), pathlib.Path(out)
    c = each[0].config.ensemble
    about = [
      ensemble_card.Member(f"member_{k:03d}", k // c.finetune, k % c.finetune)
      for k in range(len(each))
    ]
    for member, found in zip(about, each, strict=True):
      _export(found, run, folder / member.path)
    card = ensemble_card.EnsembleCard(about, c.rule, c.coef)
    ensemble_card.write(folder, card)
    if not each[0].model.config.outputs:
      return f"rlreward sample --model={folder / about[0].path}"
  return f"rlreward score --model={out} --input=rows.jsonl --out=scores.jsonl"


def holds(path: str | pathlib.Path) -> bool:
  """Whether a directory is a run, not an exported model."""
  return (pathlib.Path(path) / "checkpoints").is_dir()


def reward_model(run: str | pathlib.Path, **limits: Any):
  """The reward model of a run, see `reward_models.native`.

  Args:
    run: a run directory.
    limits: `max_length` and `batch`.

  Raises:
    UserError: as `load` and `reward_models.native`.
  """
  from rlreward import reward_models

  found = load(run)
  return reward_models.native(
    pathlib.Path(run),
    found.config,
    found.task,
    found.model,
    found.variables,
    roles.policy(found.config.model).head,
    **limits,
  )


def _export(found: Loaded, run: str | pathlib.Path, folder: pathlib.Path):
  """Writes one model; a reward model gets its record."""
  from rlreward import reward_models
  from rlreward.models import hf_files, pretrained

  kind = roles.policy(found.config.model).head.kind
  if kind != "scalar":
    raise errors.UserError(
      f"{run} has model.head.kind={kind!r}",
      "no class of transformers has such a head, and without it the scores"
      " would be others",
      f"score from the run itself: rlreward score --model={run} ...",
    )
  path = found.config.model.path
  source = pretrained.resolve(path) if path else None
  params = found.variables["params"]
  pretrained.export(folder, found.model.config, params, tokenizer_from=source)
  note = {"run": str(run), "step": found.step}
  (folder / "rlreward.json").write_text(json.dumps(note))
  tokenizer = found.task.spec["tokenizer"]
  if tokenizer is not None and not hf_files.has_tokenizer(folder):
    tokenizer.save(folder)
  if found.model.config.outputs:
    reward_models.record(
      folder, found.config, found.task, found.model, found.variables, note
    )
