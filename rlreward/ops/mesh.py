"""Sharding hints that vanish without a mesh, so one code path serves all.

Mesh axes are named once: `replica` and `fsdp` split the batch, `tensor` splits
heads, mlp and vocabulary.
"""

from __future__ import annotations

import jax
from jax.sharding import PartitionSpec as P

DATA = ("replica", "fsdp")
TENSOR = "tensor"


def constrain(x: jax.Array, *axes) -> jax.Array:
  """Asks for a layout of `x` on the mesh in context; a no-op without one.

  Args:
    x: any array.
    *axes: for each leading dimension DATA, TENSOR or None. A dimension that
      the mesh axes do not divide is left to the compiler.

  Returns:
    x, with a sharding constraint where the mesh has the axes.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1 or "fsdp" not in mesh.axis_names:
    return x
  spec = []
  for size, axis in zip(x.shape, axes, strict=False):
    names = (axis,) if isinstance(axis, str) else tuple(axis or ())
    parts = 1
    for name in names:
      parts *= mesh.shape[name]
    spec.append(axis if parts > 1 and size % parts == 0 else None)
  return jax.lax.with_sharding_constraint(x, P(*spec))


def data_shards() -> int:
  """Parts that the mesh in context splits a batch into; 1 without one."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or "fsdp" not in mesh.axis_names:
    return 1
  return mesh.shape["replica"] * mesh.shape["fsdp"]
