"""Low-rank adapters as a role of their own: y = x W + (x A) B * alpha / rank.

The adapter lives in the "lora" collection beside "params", so the base is
shared by policy and reference and never copied: policy is (base, adapter),
reference is (base, adapter at the start).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlreward import errors
from rlreward.models.config import TransformerConfig

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


def init(
  key: jax.Array,
  params: dict,
  rank: int,
  targets: tuple[str, ...] = TARGETS,
  dtype: str = "float32",
) -> dict:
  """An adapter that changes nothing yet: A is Gaussian, B is 0.

  Args:
    key: typed PRNG key.
    params: the "params" tree of the base (arrays or shapes), layers stacked.
    rank: r, columns of A.
    targets: names of the projections that get one.
    dtype: storage type of the adapter.

  Returns:
    {"layers": {part: {projection: {"a": [layers, in, r], "b": [layers, r,
    out]}}}}.

  Raises:
    UserError: rank below 1, or no projection of that name.

  Reference: LoRA, arXiv 2106.09685.
  """
  if rank < 1:
    raise errors.UserError(
      f"model.lora_rank={rank}",
      "an adapter needs at least one column",
      "set model.lora_rank to 8, or to 0 with lora off",
    )
  found = {
    (part, name): leaf["kernel"]
    for part in ("attn", "mlp")
    for name, leaf in params["layers"][part].items()
    if name in targets and "kernel" in leaf
  }
  missing = sorted(set(targets) - {n for _, n in found} - {"gate"})
  if missing:
    raise errors.UserError(
      f"model.lora_targets names {missing}, which the model lacks",
      "an adapter that attaches to nothing would train nothing",
      f"choose from {sorted(n for _, n in found) or list(TARGETS)}",
    )
  out: dict = {"layers": {}}
  for i, ((part, name), kernel) in enumerate(sorted(found.items())):
    count, size_in, size_out = kernel.shape
    a = jax.random.normal(
      jax.random.fold_in(key, i), (count, size_in, rank), jnp.dtype(dtype)
    )
    out["layers"].setdefault(part, {})[name] = {
      "a": a * size_in**-0.5,
      "b": jnp.zeros((count, rank, size_out), jnp.dtype(dtype)),
    }
  return out


def thinned(variables: dict, key: jax.Array) -> dict:
  """The same function with a random share of each adapter's input left out.

    y = x W + (m x / (1 - p)) A B * alpha / rank,   m ~ Bernoulli(1 - p)

  Args:
    variables: {"params": base, "lora": adapter}, layers stacked.
    key: every projection of every layer draws its own m from it.

  Returns:
    variables whose adapter holds these keys; p is `lora_dropout`.
  """
  out: dict = {"layers": {}}
  for i, (part, names) in enumerate(
    sorted(variables["lora"]["layers"].items())
  ):
    for j, (name, leaf) in enumerate(sorted(names.items())):
      own = jax.random.fold_in(jax.random.fold_in(key, i), j)
      keys = jax.random.split(own, leaf["a"].shape[0])
      out["layers"].setdefault(part, {})[name] = {**leaf, "drop": keys}
  return {**variables, "lora": out}


def logical_axes(adapter: dict, base_axes: dict) -> dict:
  """Axis names of an adapter from those of the kernels it sits on."""
  out: dict = {"layers": {}}
  for part, names in adapter["layers"].items():
    for name in names:
      layers, size_in, size_out = base_axes["layers"][part][name]["kernel"]
      out["layers"].setdefault(part, {})[name] = {
        "a": (layers, size_in, None),
        "b": (layers, None, size_out),
      }
  return out


def merge(variables: dict, config: TransformerConfig) -> dict:
  """Folds the adapter into the base: W + A B * scale.

  Args:
    variables: {"params": base, "lora": adapter}, layers stacked.
    config: its `lora_scale` is used.

  Returns:
    {"params": tree}, ready to export.
  """
  params = dict(variables["params"])
  layers = dict(params["layers"])
  for part, names in variables["lora"]["layers"].items():
    layers[part] = dict(layers[part])
    for name, leaf in names.items():
      kernel = layers[part][name]["kernel"]
      delta = jnp.einsum(
        "lir,lro->lio",
        leaf["a"].astype(jnp.float32),
        leaf["b"].astype(jnp.float32),
      )
      merged = kernel.astype(jnp.float32) + delta * config.lora_scale
      layers[part][name] = {
        **layers[part][name],
        "kernel": merged.astype(kernel.dtype),
      }
  params["layers"] = layers
  return {"params": params}
