"""K members of one model as one tree with a leading axis, run under vmap.

Members differ by two seeds. Member k = p F + f of a grid has the p-th of P
pretraining seeds and the f-th of F fine-tuning seeds of it: its trunk is that
of all members with its p, its head, its adapter and the order of its data are
its own. A pretrain ensemble takes members of different p, a fine-tune ensemble
members that share one.

What members share is a tree with a leading axis of G groups, where members
g K/G .. (g + 1) K/G - 1 read the g-th: the bases of adapters, one for each
pretraining seed. It is read where it lies and is not copied to the members.

Reference: Helping or Herding? Reward Model Ensembles Mitigate but do not
Eliminate Reward Hacking, arXiv 2312.09244.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlreward.models import heads, transformer

Array = jax.Array
Tree = Any


def stack(members: Sequence[Tree]) -> Tree:
  """One tree of K: leaves [...] become [K, ...].

  Args:
    members: trees of one structure.
  """
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def size(stacked: Tree) -> int:
  """K, the leading axis of a stacked tree."""
  return jax.tree.leaves(stacked)[0].shape[0]


def split(stacked: Tree) -> list[Tree]:
  """The members of a stacked tree, each as a single model's tree."""
  return [take(stacked, k) for k in range(size(stacked))]


def take(stacked: Tree, members: Any) -> Tree:
  """Some members of a stacked tree: one (an index) or several (indices)."""
  return jax.tree.map(lambda x: x[members], stacked)


def finite(stacked: Tree) -> Array:
  """bool[K]: members all of whose parameters are finite, a `member_mask`."""
  each = [
    jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim)))
    for x in jax.tree.leaves(stacked)
    if jnp.issubdtype(x.dtype, jnp.floating)
  ]
  return jnp.all(jnp.stack(each), 0)


def pretrain_members(pretrain: int, finetune: int) -> np.ndarray:
  """Pretrain ensembles of a grid: (p, (p + s) mod F) for every p.

  Args:
    pretrain: P, pretraining seeds.
    finetune: F, fine-tuning seeds of each.

  Returns:
    i64[F, P]: a row holds the places of P members without a pretraining seed
    in common; each member is in one row.
  """
  p = np.arange(pretrain)
  shift = np.arange(finetune)[:, None]
  return p * finetune + (p + shift) % finetune


def finetune_members(pretrain: int, finetune: int) -> np.ndarray:
  """Fine-tune ensembles of a grid: (p, f) for every f.

  Args:
    pretrain: P, pretraining seeds.
    finetune: F, fine-tuning seeds of each.

  Returns:
    i64[P, F]: a row holds the places of F members that share the pretraining
    seed; each member is in one row.
  """
  return np.arange(pretrain * finetune).reshape(pretrain, finetune)


def over(
  fn: Callable[[Tree, Tree], Tree],
  own: Tree,
  shared: Tree = None,
  chunk: int = 0,
) -> Tree:
  """fn(own_k, shared_g) of every member.

  Args:
    fn: of one member's tree and of what its group shares.
    own: leaves [K, ...].
    shared: leaves [G, ...], G divides K; None where there is nothing.
    chunk: members of a group that are computed at a time, one group after
      another, so that memory is bounded; 0 computes all of them at once.

  Returns:
    fn's results, leaves [K, ...].
  """

  def members(own, shared):
    run = lambda x: fn(x, shared)
    if not chunk:
      return jax.vmap(run)(own)
    return jax.lax.map(run, own, batch_size=chunk)

  if not jax.tree.leaves(shared):
    return members(own, shared)
  groups, count = size(shared), size(own)
  if groups == 1:
    return members(own, take(shared, 0))
  cut = lambda x: x.reshape(groups, count // groups, *x.shape[1:])
  join = lambda x: x.reshape(count, *x.shape[2:])
  parts = jax.tree.map(cut, own), shared
  if chunk:
    found = jax.lax.map(lambda x: members(*x), parts)
  else:
    found = jax.vmap(members)(*parts)
  return jax.tree.map(join, found)


def scores(
  model: transformer.Model,
  stacked: Tree,
  tokens: Array,
  attend: Array,
  chunk: int = 0,
  read: Callable[..., Array] = heads.last_value,
) -> Array:
  """What every member says of each row.

  Args:
    model: a decoder with outputs.
    stacked: variables of K members.
    tokens: i32[N, L], padded on either side.
    attend: bool[N, L].
    chunk: members computed at a time; 0 for all.
    read: (model, variables, tokens, attend) -> [N, ...], of `heads`.

  Returns:
    f32[K, N, ...].
  """
  run = lambda variables, _: read(model, variables, tokens, attend)
  return over(run, stacked, None, chunk)


def logical_axes(axes: Tree) -> Tree:
  """Axis names of a stacked tree from those of one member: "members" first.

  `sharding` finds a stacked leaf by its path in the axes of one member too, and
  its rule for "members" keeps that axis whole; this is for trees of one's own.
  """
  return jax.tree.map(
    lambda names: ("members", *names),
    axes,
    is_leaf=lambda x: isinstance(x, tuple),
  )
