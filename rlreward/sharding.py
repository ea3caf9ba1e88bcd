"""One mesh helper and one rule table: where every array of a run lives.

Parameters carry logical names (embed, mlp, heads, kv, vocab, layers). Rules
map them to mesh axes. Optimiser moments, frozen roles and a reward trunk get
the layout of the policy because their tree paths end like its paths.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rlreward.errors import UserError
from rlreward.ops.mesh import DATA

AXES = ("replica", "fsdp", "tensor")

Rules = Sequence[tuple[str, Any]]
TRAIN_RULES: Rules = (
  ("embed", "fsdp"),
  ("mlp", "tensor"),
  ("heads", "tensor"),
  ("kv", "tensor"),
  ("vocab", "tensor"),
  ("layers", None),
  ("members", None),  # of an ensemble, the axis in front
)
# Sampling reads every weight once per token: no gathers over fsdp.
DECODE_RULES: Rules = (("embed", None), *TRAIN_RULES[1:])


class Unshardable(NamedTuple):
  """An array axis that its mesh axis does not divide."""

  parameter: str
  axis: int
  name: str
  size: int
  mesh_axis: str
  mesh_size: int

  def __str__(self) -> str:
    options = [d for d in range(1, self.mesh_size + 1) if self.size % d == 0]
    return (
      f"{self.parameter} axis {self.axis} ({self.name}, size {self.size}) on "
      f"{self.mesh_axis}={self.mesh_size}; {self.mesh_axis} in {options} fits"
    )


def make_mesh(
  replica: int = 1,
  fsdp: int = -1,
  tensor: int = 1,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """The (replica, fsdp, tensor) mesh; a laptop is (1, 1, 1).

  Axis types are Auto, always: JAX's default is Explicit, where Linen's
  embedding gather fails.

  Args:
    replica: copies of the parameters.
    fsdp: shards of parameters and batch. One size may be -1: what is left.
    tensor: shards of heads, mlp and vocabulary.
    devices: default all devices of all processes.

  Returns:
    The mesh.

  Raises:
    UserError: the sizes do not multiply to the device count.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes, count = [replica, fsdp, tensor], len(devices)
  asked = ", ".join(f"{a}={s}" for a, s in zip(AXES, sizes, strict=True))
  legal = all(s == -1 or s >= 1 for s in sizes) and sizes.count(-1) <= 1
  fixed = math.prod(s for s in sizes if s != -1)
  if legal and -1 in sizes and count % fixed == 0:
    sizes[sizes.index(-1)] = count // fixed
  if not legal or math.prod(sizes) != count:
    best = min(
      _factors(count), key=lambda f: _distance(f, [replica, fsdp, tensor])
    )
    raise UserError(
      f"mesh {asked} does not fit {count} {devices[0].platform} device"
      + "s" * (count > 1),
      "the three sizes must multiply to the device count, at most one is -1",
      "use "
      + ", ".join(f"{a}={s}" for a, s in zip(AXES, best, strict=True))
      + " or fsdp=-1 with sizes that divide it",
    )
  kinds = (AxisType.Auto,) * len(AXES)
  return jax.make_mesh(tuple(sizes), AXES, axis_types=kinds, devices=devices)


def describe(mesh: Mesh) -> str:
  """One line for the banner.

  Args:
    mesh: a mesh.

  Returns:
    E.g. "mesh replica=1 fsdp=4 tensor=2 on 8 cpu devices, 1 process".
  """
  sizes = " ".join(f"{a}={s}" for a, s in mesh.shape.items())
  devices, processes = mesh.devices.flat, jax.process_count()
  return (
    f"mesh {sizes} on {mesh.size} {devices[0].platform} device"
    f"{'s' * (mesh.size > 1)}, {processes} process{'es' * (processes > 1)}"
  )


def path_name(path: Sequence[Any]) -> str:
  """A tree path as text: "params/policy/layers/attn/q/kernel"."""
  return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def check(
  abstract_tree: Any, axes_tree: Any, rules: Rules, mesh: Mesh
) -> list[Unshardable]:
  """Checks a state against a mesh before anything compiles.

  Args:
    abstract_tree: arrays or ShapeDtypeStructs, e.g. `jax.eval_shape(init)`.
    axes_tree: tree of tuples of logical names (`transformer.logical_axes`).
    rules: (logical name, mesh axis or axes or None) pairs.
    mesh: the mesh.

  Returns:
    The axes that do not divide; `state_shardings` replicates those.

  Raises:
    UserError: a logical name without a rule, or a rule for no mesh axis.
  """
  _check_rules(axes_tree, rules, mesh)
  problems = []
  for name, leaf, axes in _matched(abstract_tree, axes_tree):
    problems += _spec(name, leaf.shape, axes, dict(rules), mesh)[1]
  return problems


def state_shardings(
  abstract_tree: Any, axes_tree: Any, rules: Rules, mesh: Mesh
) -> Any:
  """The sharding of every leaf, by the end of its path.

  A leaf `opt/0/mu/policy/params/layers/attn/q/kernel` gets the axes of
  `layers/attn/q/kernel`; the longest match wins. One axis more in front is that
  of "members". Leaves without a match, or of another rank, are replicated. Axes
  that do not divide are replicated too, with one warning that lists them.

  Args:
    abstract_tree: arrays or ShapeDtypeStructs, e.g. `jax.eval_shape(init)`.
    axes_tree: tree of tuples of logical names; a leading "params" is ignored.
    rules: (logical name, mesh axis or axes or None) pairs.
    mesh: the mesh.

  Returns:
    A tree of NamedSharding with the structure of `abstract_tree`.

  Raises:
    UserError: as `check`.
  """
  _check_rules(axes_tree, rules, mesh)
  shardings, problems = [], []
  for name, leaf, axes in _matched(abstract_tree, axes_tree):
    spec, found = _spec(name, leaf.shape, axes, dict(rules), mesh)
    shardings.append(NamedSharding(mesh, spec))
    problems += found
  if problems:
    shown = [str(p) for p in problems[:6]]
    more = [f"and {len(problems) - 6} more"] * (len(problems) > 6)
    warnings.warn(
      "RLR-W001: replicated, for the mesh does not divide them: "
      + "; ".join(shown + more),
      stacklevel=2,
    )
  return jax.tree.unflatten(jax.tree.structure(abstract_tree), shardings)


def pin(tree: Any, axes_tree: Any, rules: Rules = TRAIN_RULES) -> Any:
  """Constrains arrays inside jit to the layout of `state_shardings`.

  Without it the compiler chooses the layout of a step's new state, and the
  next call would find another one than it was compiled for.

  Args:
    tree: traced arrays, e.g. a new State.
    axes_tree: tree of tuples of logical names.
    rules: (logical name, mesh axis or axes or None) pairs.

  Returns:
    tree; unchanged without a mesh in context.
  """
  mesh: Any = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return tree
  pinned = [
    jax.lax.with_sharding_constraint(
      leaf, _spec(name, leaf.shape, axes, dict(rules), mesh)[0]
    )
    for name, leaf, axes in _matched(tree, axes_tree)
  ]
  return jax.tree.unflatten(jax.tree.structure(tree), pinned)


def with_shardings(abstract_tree: Any, shardings: Any) -> Any:
  """Abstract arrays that know where they live, for `Checkpointer.restore`.

  Args:
    abstract_tree: arrays or ShapeDtypeStructs.
    shardings: tree of shardings of the same structure.

  Returns:
    A tree of ShapeDtypeStruct.
  """
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract_tree,
    shardings,
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The sharding of arrays whose first axis is rows: over `DATA`."""
  return NamedSharding(mesh, PartitionSpec(DATA))


def check_rows(name: str, rows: int, mesh: Mesh) -> None:
  """Refuses a row count that the data axes do not divide.

  Args:
    name: the config field, e.g. "prompts_per_step".
    rows: its value, over all processes.
    mesh: the mesh.

  Raises:
    UserError: with the nearest legal values.
  """
  shards = math.prod(mesh.shape[a] for a in DATA)
  if rows < 1 or rows % shards:
    down, up = rows // shards * shards, (max(rows, 0) // shards + 1) * shards
    nearest = [str(n) for n in (down, up) if n > 0]
    raise UserError(
      f"{name}={rows} rows do not spread over {shards} data shards "
      f"(replica={mesh.shape['replica']} x fsdp={mesh.shape['fsdp']})",
      "every device gets the same number of rows",
      f"use {name}={' or '.join(nearest)}",
    )


def process_batch(mesh: Mesh, batch: Mapping[str, Any]) -> dict[str, Any]:
  """This process's rows as parts of global arrays.

  Args:
    mesh: the mesh.
    batch: {name: numpy array [rows of this process, ...]}. Columns that are
      not numbers (text, objects) and scalars stay as they are.

  Returns:
    {name: jax.Array [rows of all processes, ...] spread over `DATA`}.

  Raises:
    UserError: the rows do not spread over the mesh.
  """
  sharding, out = batch_sharding(mesh), {}
  for name, column in batch.items():
    array = column if isinstance(column, jax.Array) else np.asarray(column)
    if not array.ndim or not _is_number(array.dtype):
      out[name] = column
      continue
    check_rows(f"batch column {name}", len(array) * jax.process_count(), mesh)
    out[name] = jax.make_array_from_process_local_data(
      sharding, np.asarray(array)
    )
  return out


def _is_number(dtype: Any) -> bool:
  return jnp.issubdtype(dtype, np.number) or jnp.issubdtype(dtype, np.bool_)


def _size(axis: Any, shape: Mapping[Any, int]) -> int:
  names = axis if isinstance(axis, tuple) else (axis,)
  return math.prod(shape[n] for n in names)


def _factors(count: int) -> list[tuple[int, int, int]]:
  divisors = [d for d in range(1, count + 1) if count % d == 0]
  return [
    (r, count // r // t, t)
    for r in divisors
    for t in divisors
    if count // r % t == 0
  ]


def _distance(factors: Sequence[int], asked: Sequence[int]) -> float:
  """How far a legal mesh is from the one asked for; -1 is free."""
  pairs = zip(factors, asked, strict=True)
  return sum(abs(math.log2(f / a)) if a > 0 else 0.0 for f, a in pairs)


def _is_axes(node: Any) -> bool:
  return isinstance(node, tuple) and all(
    n is None or isinstance(n, str) for n in node
  )


def _table(axes_tree: Any) -> dict[tuple[str, ...], tuple[Any, ...]]:
  leaves = jax.tree_util.tree_leaves_with_path(axes_tree, is_leaf=_is_axes)
  table = {}
  for path, axes in leaves:
    parts = tuple(path_name(path).split("/"))
    table[parts[1:] if parts[0] == "params" else parts] = axes
  return table


def _check_rules(axes_tree: Any, rules: Rules, mesh: Mesh) -> None:
  known = dict(rules)
  for path, axes in _table(axes_tree).items():
    for name in axes:
      if name is not None and name not in known:
        raise UserError(
          f"parameter {'/'.join(path)} has the logical axis {name!r}, for "
          f"which there is no rule",
          "it cannot be placed on the mesh",
          f"add ({name!r}, None) to the rules; known: {', '.join(known)}",
        )
  for name, axis in known.items():
    for part in axis if isinstance(axis, tuple) else (axis,):
      if part is not None and part not in mesh.shape:
        raise UserError(
          f"the rule for {name!r} names the mesh axis {part!r}",
          f"the mesh has only {', '.join(map(str, mesh.shape))}",
          f"map {name!r} to one of these or to None",
        )


def _matched(abstract_tree: Any, axes_tree: Any) -> list[tuple[str, Any, Any]]:
  """(path, leaf, logical axes or None) of every leaf."""
  table, out = _table(axes_tree), []
  for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_tree):
    name = path_name(path)
    parts, axes = tuple(name.split("/")), None
    for start in range(len(parts)):
      if parts[start:] in table:
        axes = table[parts[start:]]
        break
    out.append((name, leaf, axes))
  return out


def _spec(
  name: str,
  shape: Sequence[int],
  axes: Any,
  rules: Mapping[str, Any],
  mesh: Mesh,
) -> tuple[PartitionSpec, list[Unshardable]]:
  """The spec of one leaf and the axes that had to be replicated."""
  if axes is not None and len(axes) + 1 == len(shape):
    axes, rules = ("members", *axes), {"members": None, **rules}
  if axes is None or len(axes) != len(shape):
    return PartitionSpec(), []
  spec, used, problems = [], set(), []
  for i, (logical, size) in enumerate(zip(axes, shape, strict=True)):
    target = rules[logical] if logical is not None else None
    parts = target if isinstance(target, tuple) else (target,)
    # A mesh axis shards one array axis; the first that names it wins.
    if target is None or used & set(parts):
      spec.append(None)
    elif size % _size(target, mesh.shape):
      label = "*".join(map(str, parts))
      whole = _size(target, mesh.shape)
      problems.append(Unshardable(name, i, str(logical), size, label, whole))
      spec.append(None)
    else:
      used |= set(parts)
      spec.append(target)
  return PartitionSpec(*spec), problems
