"""Save and restore a run: State, data iterator, typed keys; onto any mesh.

Orbax writes; this file is the only one that calls it. A checkpoint is a flat
{tree path: array} plus a JSON part with the iterator state and the shape and
dtype of every leaf, so a mismatch is reported by parameter name before
anything is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from rlreward.errors import UserError

FORMAT = 1
# Orbax >= 0.12.8 writes this file last, on disks and in buckets.
_COMMITTED = "commit_success.txt"


class Checkpointer:
  """Keeps the newest checkpoints of a run.

  Writing happens in the background; a checkpoint appears under its final name
  when it is whole, so a crash leaves the one before.

  Args:
    directory: local path or bucket URL; created at the first save.
    keep: number of checkpoints kept.
  """

  def __init__(self, directory: Any, keep: int = 2):
    if keep < 1:
      raise UserError(
        f"keep={keep} checkpoints",
        "a run could not resume",
        "use keep=1 or more",
      )
    self._directory, self._keep = str(directory), keep
    self._manager: Any = None

  def save(
    self,
    step: int,
    state: Any,
    iterator_state: Mapping[str, Any],
    wait: bool = False,
  ) -> bool:
    """Starts to write a checkpoint; the state may be donated afterwards.

    Args:
      step: the number of finished steps.
      state: any pytree of arrays, e.g. a State.
      iterator_state: what JSON can hold, the same on every process.
      wait: return only when it is on disk.

    Returns:
      False when this step is already saved.

    Raises:
      UserError: the iterator state is not JSON.
    """
    import orbax.checkpoint as ocp

    if step in self.steps():
      return False
    leaves = _flatten(state)
    record = {
      "format": FORMAT,
      "iterator": dict(iterator_state),
      "leaves": {k: _facts(v) for k, v in leaves.items()},
    }
    _check_json(record["iterator"])
    # Orbax refuses arrays without elements; their shape says it all.
    stored = {k: v for k, v in leaves.items() if v.size}
    saved = self._writer().save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeSave(stored), record=ocp.args.JsonSave(record)
      ),
    )
    if wait:
      self._writer().wait_until_finished()
    return bool(saved)

  def steps(self) -> list[int]:
    """Steps of the whole checkpoints, ascending; partial ones do not count."""
    root = self._path()
    if not root.is_dir():
      return []
    return sorted(
      int(entry.name)
      for entry in root.iterdir()
      if entry.name.isdigit() and (entry / _COMMITTED).exists()
    )

  def latest(self) -> int | None:
    """The newest whole checkpoint's step, or None. Does not import Orbax."""
    steps = self.steps()
    return steps[-1] if steps else None

  def restore(
    self, abstract_state: Any, step: int | None = None
  ) -> tuple[Any, dict[str, Any], int]:
    """Reads a checkpoint onto the devices that `abstract_state` names.

    Args:
      abstract_state: tree of ShapeDtypeStruct; `.sharding` says where each
        array goes (`sharding.with_shardings`), else the first device.
      step: default the latest.

    Returns:
      (state, iterator state, step).

    Raises:
      UserError: no such checkpoint, a damaged one, or another tree.
    """
    step = self._choose(step)
    record = self._record(step)
    wanted = _flatten(abstract_state)
    _compare(self._directory, step, record["leaves"], wanted, exact=True)
    found = self._read(step, wanted)
    ordered = [found[name] for name in wanted]
    tree = jax.tree.unflatten(jax.tree.structure(abstract_state), ordered)
    return tree, record["iterator"], step

  def restore_part(
    self, abstract: Any, prefix: str, step: int | None = None
  ) -> tuple[Any, int]:
    """Reads a subtree, e.g. `prefix="params/policy"`, and nothing else.

    Args:
      abstract: tree of ShapeDtypeStruct, as for `restore`.
      prefix: path of the subtree in the saved state.
      step: default the latest.

    Returns:
      (subtree, step).

    Raises:
      UserError: as `restore`.
    """
    step = self._choose(step)
    wanted = {f"{prefix}/{k}": v for k, v in _flatten(abstract).items()}
    leaves = self._record(step)["leaves"]
    _compare(self._directory, step, leaves, wanted, exact=False)
    found = self._read(step, wanted)
    ordered = [found[name] for name in wanted]
    tree = jax.tree.unflatten(jax.tree.structure(abstract), ordered)
    return tree, step

  def contents(self, step: int | None = None) -> dict[str, tuple[Any, str]]:
    """What a checkpoint holds.

    Args:
      step: default the latest.

    Returns:
      {tree path: (shape, dtype name)}.

    Raises:
      UserError: no such checkpoint, or a damaged one.
    """
    leaves = self._record(self._choose(step))["leaves"]
    return {k: (tuple(shape), dtype) for k, (shape, dtype) in leaves.items()}

  def preempted(self, step: int) -> bool:
    """True when the cluster has announced that it takes the machines back."""
    return bool(self._writer().reached_preemption(step))

  def close(self) -> None:
    """Waits for a save in progress and frees the threads."""
    if self._manager is not None:
      self._manager.wait_until_finished()
      self._manager.close()
      self._manager = None

  def _path(self) -> Any:
    from etils import epath

    return epath.Path(self._directory).absolute()

  def _writer(self) -> Any:
    if self._manager is None:
      import orbax.checkpoint as ocp

      policy = ocp.checkpoint_managers.LatestN(n=self._keep)
      options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        # Only the writer clears what a crash left; readers touch nothing.
        cleanup_tmp_directories=True,
      )
      self._manager = ocp.CheckpointManager(self._path(), options=options)
    return self._manager

  def _choose(self, step: int | None) -> int:
    if self._manager is not None:
      self._manager.wait_until_finished()
    steps = self.steps()
    if not steps:
      raise UserError(
        f"{self._directory} holds no whole checkpoint",
        "there is nothing to restore",
        "check the path, or train first",
      )
    if step is not None and step not in steps:
      raise UserError(
        f"{self._directory} has no checkpoint of step {step}",
        "only the newest are kept",
        f"use one of: {', '.join(map(str, steps))}",
      )
    return steps[-1] if step is None else step

  def _record(self, step: int) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    try:
      with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        record = reader.restore(self._path() / str(step) / "record")
      record = {k: record[k] for k in ("format", "iterator", "leaves")}
    except Exception as error:
      raise self._damaged(step, error) from error
    if record["format"] != FORMAT:
      raise UserError(
        f"checkpoint {self._directory}/{step} has format {record['format']}",
        f"this version reads format {FORMAT}",
        "use the version of rlreward that wrote it",
      )
    return record

  def _read(self, step: int, wanted: Mapping[str, Any]) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    target = {k: _placed(v) for k, v in wanted.items()}
    stored = {k: v for k, v in target.items() if v.size}
    try:
      with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        found = reader.restore(
          self._path() / str(step) / "state",
          args=ocp.args.PyTreeRestore(
            item=stored,
            restore_args=ocp.checkpoint_utils.construct_restore_args(stored),
            partial_restore=True,
          ),
        )
    except Exception as error:
      raise self._damaged(step, error) from error
    for name, leaf in target.items():
      if not leaf.size:
        zeros = jnp.zeros(leaf.shape, leaf.dtype)
        found[name] = jax.device_put(zeros, leaf.sharding)
    return found

  def _damaged(self, step: int, error: Exception) -> UserError:
    others = [s for s in self.steps() if s != step]
    text = " ".join(str(error).split())[:200]
    return UserError(
      f"checkpoint {self._directory}/{step} cannot be read "
      f"({type(error).__name__}: {text})",
      "its files are damaged or were written by other software",
      f"delete {self._directory}/{step}; "
      + (f"the run resumes from step {others[-1]}" if others else "start anew"),
    )


def _flatten(tree: Any) -> dict[str, Any]:
  """{tree path: leaf} in the order of the leaves; python numbers as arrays."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  named = {}
  for path, leaf in leaves:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    is_array = isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
    named[name] = leaf if is_array else jnp.asarray(leaf)
  if len(named) < len(leaves):
    raise ValueError("two leaves of the state have the same path")
  return named


def _facts(leaf: Any) -> list[Any]:
  return [list(leaf.shape), str(leaf.dtype)]


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
  sharding = leaf.sharding
  if sharding is None:
    sharding = SingleDeviceSharding(jax.local_devices()[0])
  if isinstance(sharding, PartitionSpec):
    mesh = jax.sharding.get_mesh()
    sharding = NamedSharding(mesh, sharding)
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _check_json(value: Any) -> None:
  import json

  try:
    json.dumps(value)
  except TypeError as error:
    raise UserError(
      f"the iterator state is not JSON ({error})",
      "a resumed run would read other data",
      "return numbers, strings, lists and dicts from get_state()",
    ) from error


def _compare(
  directory: str,
  step: int,
  saved: Mapping[str, Any],
  wanted: Mapping[str, Any],
  exact: bool,
) -> None:
  """Raises with the names of the leaves that differ."""
  absent = [k for k in wanted if k not in saved]
  extra = [k for k in saved if k not in wanted] if exact else []
  other = [
    f"{k}: saved {_text(saved[k])}, wanted {_text(_facts(v))}"
    for k, v in wanted.items()
    if k in saved and list(saved[k]) != _facts(v)
  ]
  parts = []
  for label, names in (
    ("differ", other),
    ("not saved", absent),
    ("saved but not wanted", extra),
  ):
    if names:
      more = f" and {len(names) - 3} more" if len(names) > 3 else ""
      parts.append(f"{label}: {', '.join(names[:3])}{more}")
  if parts:
    raise UserError(
      f"checkpoint {directory}/{step} is of another model or method; "
      + "; ".join(parts),
      "restoring part of a state would train something else silently",
      "use the config of that run (config.json beside it), or another workdir",
    )


def _text(facts: Any) -> str:
  shape, dtype = facts
  return f"{dtype}[{','.join(map(str, shape))}]"
