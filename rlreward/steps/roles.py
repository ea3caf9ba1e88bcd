"""Policy and reference as parameter trees of one decoder.

Fully trained: params {"policy": {"params"}}, frozen {"reference": {"params"}}.
With an adapter: params {"policy": {"lora"}}, frozen {"base": {"params"},
"reference": {"lora"}}; the reference is the adapter at the start, the base is
shared and there is one copy of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlreward.models import lora, reward_heads, transformer
from rlreward.models.config import TransformerConfig

Tree = Any


class Policy(NamedTuple):
  """A trained decoder and how its roles are laid out in a State.

  Attributes:
    model: the decoder.
    init: (key, variables or None) -> (params, frozen) without a reference.
    variables: (params, frozen) -> what the decoder's functions take.
    snapshot: params -> the reference role, copied so that donation is safe.
    reference: frozen -> variables of the reference.
    axes: logical axis names, matched to parameters by path suffix.
    head: how a reward is read, where the model has outputs.
  """

  model: transformer.Model
  init: Callable[..., tuple[dict, dict]]
  variables: Callable[[Mapping, Mapping], Tree]
  snapshot: Callable[[Mapping], Tree]
  reference: Callable[[Mapping], Tree]
  axes: Tree
  head: reward_heads.Head = reward_heads.Head()


def model_config(c) -> TransformerConfig:
  """The decoder that a config's `model` section describes.

  Args:
    c: section with the fields of TransformerConfig, or with `path`: then the
      shape is the checkpoint's and only dtype, param_dtype and remat are ours.
  """
  if c.path:
    from rlreward.models import pretrained

    shape = pretrained.read_config(c.path)
    base = {k: c[k] for k in ("dtype", "param_dtype", "remat", "outputs")}
  else:
    names = TransformerConfig.__dataclass_fields__
    base = {k: v for k, v in c.items() if k in names}
    for name in ("layer_kinds", "rope_scaling"):
      if base.get(name) is not None:
        base[name] = tuple(base[name])
    shape = None
  # A reward model has a score head in place of the language head, unless it
  # writes critiques.
  if c.outputs and reward_heads.describe(c).kind != "critique":
    base["tied"] = True
  if c.lora_rank:
    base["lora_scale"] = c.lora_alpha / c.lora_rank
    base["lora_dropout"] = c.lora_dropout
  return shape.replace(**base) if shape else TransformerConfig(**base)


def policy(c) -> Policy:
  """The policy of a config's `model` section; nothing is allocated.

  Args:
    c: see `model_config`; `lora_rank` above 0 trains an adapter alone.
  """
  model = transformer.build(model_config(c))
  axes = model.logical_axes()
  # The head of a critic or a reward model, whoever holds it.
  axes["params"] = {"score": {"kernel": ("embed", None)}, **axes["params"]}
  head = reward_heads.describe(c) if c.outputs else reward_heads.Head()
  if not c.lora_rank:
    made = _whole(model, axes, head)
  else:
    made = _adapter(model, axes, head, c.lora_rank, tuple(c.lora_targets))
  return made._replace(head=head)


def _headed(model, head, key, variables):
  """Variables with the heads that the model has: what is missing is drawn."""
  tree = _scored(model, head, key, variables)
  if head.kind == "scalar":
    return tree
  own = jax.random.fold_in(key, 7)
  config, score = model.config, tree["params"]["score"]
  more = reward_heads.init(own, head, config.width, config.outputs)
  more = jax.tree.map(lambda x: x.astype(score["kernel"].dtype), more)
  # Of a checkpoint with another head the kernel alone is kept.
  kept = {k: v for k, v in score.items() if k in more or k == "kernel"}
  params = {**tree["params"], "score": {**more, **kept}}
  return {**tree, "params": params}


def _scored(model, head, key, variables):
  """Variables with the kernel of a score, where the model has one."""
  if variables is None or not model.config.outputs:
    return model.init(key) if variables is None else variables
  lost = () if head.kind == "critique" else ("head",)
  tree = {k: v for k, v in variables["params"].items() if k not in lost}
  if "score" not in tree:
    width, k = model.config.width, model.config.outputs
    score = jax.random.normal(key, (width, k)) * (width + 1) ** -0.5
    kind = jax.tree.leaves(tree)[0].dtype
    tree = {**tree, "score": {"kernel": score.astype(kind)}}
  return {**variables, "params": tree}


def _whole(model, axes, head) -> Policy:
  def init(key, variables=None):
    tree = _headed(model, head, key, variables)
    return {"policy": {"params": tree["params"]}}, {}

  return Policy(
    model=model,
    init=init,
    variables=lambda params, frozen: params["policy"],
    snapshot=lambda params: jax.tree.map(jnp.copy, params["policy"]),
    reference=lambda frozen: frozen["reference"],
    axes=axes["params"],
  )


def _adapter(model, axes, own_head, rank, targets) -> Policy:
  def init(key, variables=None):
    tree = _headed(model, own_head, key, variables)
    adapter = tree.get("lora")
    if adapter is None:
      start = jax.random.fold_in(key, 1)
      adapter = lora.init(start, tree["params"], rank, targets)
    # A score head has nothing below it to adapt: it trains itself.
    head = {k: v for k, v in tree["params"].items() if k == "score"}
    base = {k: v for k, v in tree["params"].items() if k != "score"}
    policy = {"lora": adapter, **({"params": head} if head else {})}
    return {"policy": policy}, {"base": {"params": base}}

  def merge(base, own):
    params = {**base["params"], **own.get("params", {})}
    return {**own, "params": params}

  def variables(params, frozen):
    whole = merge(frozen["base"], params["policy"])
    key = frozen.get("thin")  # of `steps.thin`
    return whole if key is None else lora.thinned(whole, key)

  shapes = jax.eval_shape(
    lambda k: init(k)[0]["policy"]["lora"], jax.random.key(0)
  )
  adapter_axes = lora.logical_axes(shapes, axes["params"])
  return Policy(
    model=model,
    init=init,
    variables=variables,
    snapshot=lambda params: jax.tree.map(jnp.copy, params["policy"]),
    reference=lambda frozen: merge(frozen["base"], frozen["reference"]),
    axes={**axes["params"], "layers": _join(axes["params"], adapter_axes)},
  )


def _join(base, adapter):
  out = {k: dict(v) for k, v in base["layers"].items()}
  for part, names in adapter["layers"].items():
    for name, leaf in names.items():
      out[part][name] = {**out[part][name], **leaf}
  return out
