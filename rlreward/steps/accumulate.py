"""Gradients over microbatches that are those of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlreward.steps import batching

Tree = Any


def cut(plan: batching.Plan, tree: Tree) -> Tree:
  """Splits every row array of a tree; scalars are repeated for each piece."""

  def one(x):
    if x.ndim == 0:
      return jnp.broadcast_to(x, (plan.pieces,))
    return plan.split(x)

  return jax.tree.map(one, tree)


def pieces(plan: batching.Plan, fn: Callable[[Tree], Tree], rows: Tree) -> Tree:
  """fn over the pieces in turn, so that memory is that of one piece.

  Args:
    plan: how rows are cut.
    fn: piece -> arrays with a leading axis of its rows.
    rows: tree of [N, ...] arrays and scalars.

  Returns:
    fn's result for all N rows, in their order.
  """
  if plan.pieces == 1:
    return fn(rows)
  return jax.tree.map(plan.join, jax.lax.map(fn, cut(plan, rows)))


def gradient(
  fn: Callable[[Tree, Tree], tuple[jax.Array, tuple[Tree, Tree]]],
  params: Tree,
  rows: Tree,
  plan: batching.Plan,
) -> tuple[jax.Array, Tree, Tree, Tree]:
  """Sums a loss and its gradient over pieces.

  The loss of a piece must already be divided by the weight of the whole batch,
  so that sums over pieces are exact: no mean of means.

  Args:
    fn: (params, piece) -> (loss, (sums, peaks)); sums are added up over pieces,
      peaks are maxima.
    params: what to differentiate.
    rows: tree of [N, ...] arrays and scalars.
    plan: how rows are cut.

  Returns:
    (loss, sums, peaks, gradient).
  """
  grad = jax.value_and_grad(fn, has_aux=True)
  if plan.pieces == 1:
    (value, (sums, peaks)), grads = grad(params, rows)
    return value, sums, peaks, grads
  parts = cut(plan, rows)
  first = jax.tree.map(lambda x: x[0], parts)
  shapes = jax.eval_shape(grad, params, first)
  start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  add = lambda a, b: jax.tree.map(jnp.add, a, b)

  def body(carry, piece):
    (value, (sums, peaks)), grads = carry
    (new, (new_sums, new_peaks)), new_grads = grad(params, piece)
    peaks = jax.tree.map(jnp.maximum, peaks, new_peaks)
    aux = (add(sums, new_sums), peaks)
    return ((value + new, aux), add(grads, new_grads)), None

  ((value, (sums, peaks)), grads), _ = jax.lax.scan(body, start, parts)
  return value, sums, peaks, grads
