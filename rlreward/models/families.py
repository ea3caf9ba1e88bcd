"""One mapping table for each model family, used to load and to export.

A `Rule` names a tensor of a Hugging Face checkpoint and our leaves that it
holds; `{i}` is the layer. A family also turns `config.json` into a
TransformerConfig (`read`) and back (`write`); what `write` cannot say is found
by reading its answer again, so that an export never loses a field silently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rlreward.errors import UserError
from rlreward.models.config import TransformerConfig

Json = dict[str, Any]


class Rule(NamedTuple):
  """One tensor of a checkpoint.

  Attributes:
    theirs: its name, without the family's prefix.
    ours: paths of our leaves; several are parts of one fused tensor, side by
      side on the last axis after the transpose.
    transpose: whether it is stored [out, in] (torch Linear).
    trunk: whether the family's prefix ("model.") comes before its name.
  """

  theirs: str
  ours: tuple[str, ...]
  transpose: bool = False
  trunk: bool = True


class Family(NamedTuple):
  """How one `model_type` is laid out.

  Attributes:
    prefix: of trunk tensors; absent in checkpoints of the bare trunk.
    causal: class name of the language model in `transformers`.
    score: class name of the sequence-classification model.
    rules: the mapping table.
    ignorable: patterns of tensors that hold no parameters.
    read: config.json -> TransformerConfig.
    write: TransformerConfig -> the family's part of config.json.
  """

  prefix: str
  causal: str
  score: str
  rules: tuple[Rule, ...]
  ignorable: tuple[str, ...]
  read: Callable[[Json], TransformerConfig]
  write: Callable[[TransformerConfig], Json]


_HEADS = (
  Rule("lm_head.weight", ("head/kernel",), True, trunk=False),
  Rule("score.weight", ("score/kernel",), True, trunk=False),
)
_LINEAR = {
  "self_attn.q_proj": "attn/q",
  "self_attn.k_proj": "attn/k",
  "self_attn.v_proj": "attn/v",
  "self_attn.o_proj": "attn/o",
  "mlp.gate_proj": "mlp/gate",
  "mlp.up_proj": "mlp/up",
  "mlp.down_proj": "mlp/down",
}


def _llama_rules(norms: Mapping[str, str]) -> tuple[Rule, ...]:
  """The table of Llama and its descendants; `norms` differ among them."""
  rules = [Rule("embed_tokens.weight", ("embed/embedding",))]
  for theirs, ours in _LINEAR.items():
    at = f"layers.{{i}}.{theirs}"
    rules.append(Rule(f"{at}.weight", (f"layers/{ours}/kernel",), True))
    rules.append(Rule(f"{at}.bias", (f"layers/{ours}/bias",)))
  for theirs, ours in norms.items():
    at = f"layers.{{i}}.{theirs}.weight"
    rules.append(Rule(at, (f"layers/{ours}/scale",)))
  rules.append(Rule("norm.weight", ("final_norm/scale",)))
  return (*rules, *_HEADS)


_NORMS = {
  "input_layernorm": "attn_norm",
  "post_attention_layernorm": "mlp_norm",
}
_QK_NORMS = {
  "self_attn.q_norm": "attn/q_norm",
  "self_attn.k_norm": "attn/k_norm",
}
_GEMMA_NORMS = {
  "input_layernorm": "attn_norm",
  "post_attention_layernorm": "attn_post_norm",
  "pre_feedforward_layernorm": "mlp_norm",
  "post_feedforward_layernorm": "mlp_post_norm",
}


def _gpt2_rules() -> tuple[Rule, ...]:
  """GPT-2: LayerNorm, [in, out] weights, q, k and v in one tensor."""
  rules = [
    Rule("wte.weight", ("embed/embedding",)),
    Rule("wpe.weight", ("embed/positions",)),
  ]
  fused = ("attn/q", "attn/k", "attn/v")
  linear = {
    "attn.c_attn": fused,
    "attn.c_proj": ("attn/o",),
    "mlp.c_fc": ("mlp/up",),
    "mlp.c_proj": ("mlp/down",),
  }
  for theirs, parts in linear.items():
    for kind, leaf in (("weight", "kernel"), ("bias", "bias")):
      ours = tuple(f"layers/{p}/{leaf}" for p in parts)
      rules.append(Rule(f"h.{{i}}.{theirs}.{kind}", ours))
  norms = {
    "h.{i}.ln_1": "layers/attn_norm",
    "h.{i}.ln_2": "layers/mlp_norm",
    "ln_f": "final_norm",
  }
  for theirs, ours in norms.items():
    rules.append(Rule(f"{theirs}.weight", (f"{ours}/scale",)))
    rules.append(Rule(f"{theirs}.bias", (f"{ours}/bias",)))
  return (*rules, *_HEADS)


_ACTIVATIONS = {
  "silu": "silu",
  "swish": "silu",
  "gelu_pytorch_tanh": "gelu_tanh",
  "gelu_new": "gelu_tanh",
}


def _refuse(key: str, value: Any, why: str, fix: str) -> UserError:
  return UserError(f"config.json has {key}={value!r}", why, fix)


def _get(hf: Json, key: str, default: Any = None) -> Any:
  """The value of a key, `default` where it is absent or null."""
  value = hf.get(key)
  return default if value is None else value


def _need(hf: Json, key: str) -> Any:
  if hf.get(key) is None:
    raise _refuse(
      key,
      None,
      "the shape of the model cannot be known without it",
      f"add {key!r} to config.json",
    )
  return hf[key]


def _activation(hf: Json, key: str, default: str) -> str:
  name = _get(hf, key, default)
  if name not in _ACTIVATIONS:
    raise _refuse(
      key,
      name,
      "logits would be wrong with any other activation",
      f"use a checkpoint with one of {', '.join(_ACTIVATIONS)}",
    )
  return _ACTIVATIONS[name]


def _rope(hf: Json, default: float, kind: str = "full_attention"):
  """(theta, scaling) in the old (rope_theta, rope_scaling) or new form."""
  params = _get(hf, "rope_parameters", {})
  params = _get(params, kind, params)
  params = {**params, **_get(hf, "rope_scaling", {})}
  theta = float(_get(params, "rope_theta", _get(hf, "rope_theta", default)))
  share = _get(
    params, "partial_rotary_factor", _get(hf, "partial_rotary_factor", 1.0)
  )
  rope_type = _get(params, "rope_type", _get(params, "type", "default"))
  if rope_type == "default" and share == 1.0:
    return theta, None
  if rope_type == "linear" and share == 1.0:
    return theta, ("linear", float(params["factor"]))
  if rope_type == "llama3" and share == 1.0:
    original = _get(
      params,
      "original_max_position_embeddings",
      hf.get("max_position_embeddings"),
    )
    keys = ("factor", "low_freq_factor", "high_freq_factor")
    return theta, ("llama3", *(float(params[k]) for k in keys), int(original))
  raise _refuse(
    "rope_scaling",
    params,
    "this rotation is not implemented, and the plain "
    "one gives different logits",
    "use a checkpoint with rope_type default, linear or llama3",
  )


def _rope_json(c: TransformerConfig) -> Json:
  """The old form, which every version of `transformers` reads."""
  scaling: Json | None = None
  if c.rope_scaling and c.rope_scaling[0] == "linear":
    scaling = {"rope_type": "linear", "factor": c.rope_scaling[1]}
  elif c.rope_scaling:
    _, factor, low, high, original = c.rope_scaling
    scaling = {
      "rope_type": "llama3",
      "factor": factor,
      "low_freq_factor": low,
      "high_freq_factor": high,
      "original_max_position_embeddings": original,
    }
  return {"rope_theta": c.rope_theta, "rope_scaling": scaling}


def _kinds(hf: Json, derive: Callable[[int], bool]) -> tuple[str, ...]:
  """Layer kinds from `layer_types`, else from the family's rule for i."""
  n = _need(hf, "num_hidden_layers")
  names = {"full_attention": "global", "sliding_attention": "local"}
  types = _get(hf, "layer_types")
  if types is None:
    return tuple("local" if derive(i) else "global" for i in range(n))
  if set(types) - set(names):
    raise _refuse(
      "layer_types",
      types,
      "only full and sliding attention are implemented",
      "use a checkpoint without other layer types",
    )
  return tuple(names[t] for t in types)


def _types(c: TransformerConfig) -> list[str]:
  names = {"global": "full_attention", "local": "sliding_attention"}
  return [names[kind] for kind in c.layer_kinds]


def _base(hf: Json, tied: bool = False) -> Json:
  """Fields that Llama and its descendants share."""
  if _get(hf, "use_bidirectional_attention", False):
    raise _refuse(
      "use_bidirectional_attention",
      True,
      "the decoder is causal",
      "use a causal checkpoint",
    )
  width, heads = _need(hf, "hidden_size"), _need(hf, "num_attention_heads")
  return {
    "vocab": _need(hf, "vocab_size"),
    "width": width,
    "layers": _need(hf, "num_hidden_layers"),
    "heads": heads,
    "kv_heads": _get(hf, "num_key_value_heads", heads),
    "head_dim": _get(hf, "head_dim", width // heads),
    "mlp": _need(hf, "intermediate_size"),
    "norm_eps": _get(hf, "rms_norm_eps", 1e-6),
    "tied": _get(hf, "tie_word_embeddings", tied),
  }


def _base_json(c: TransformerConfig, act_key: str = "hidden_act") -> Json:
  act = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh"}[c.activation]
  return {
    "vocab_size": c.vocab,
    "hidden_size": c.width,
    "num_hidden_layers": c.layers,
    "num_attention_heads": c.heads,
    "num_key_value_heads": c.kv_heads,
    "head_dim": c.head_dim,
    "intermediate_size": c.mlp,
    "rms_norm_eps": c.norm_eps,
    "tie_word_embeddings": c.tied,
    act_key: act,
    **_rope_json(c),
  }


def _read_llama(hf: Json) -> TransformerConfig:
  theta, scaling = _rope(hf, 10000.0)
  bias = _get(hf, "attention_bias", False)
  return TransformerConfig(
    **_base(hf),
    activation=_activation(hf, "hidden_act", "silu"),
    qkv_bias=bias,
    out_bias=bias,
    mlp_bias=_get(hf, "mlp_bias", False),
    rope_theta=theta,
    rope_scaling=scaling,
  )


def _write_llama(c: TransformerConfig) -> Json:
  return {**_base_json(c), "attention_bias": c.qkv_bias, "mlp_bias": c.mlp_bias}


def _read_mistral(hf: Json) -> TransformerConfig:
  theta, scaling = _rope(hf, 10000.0)
  window = hf.get("sliding_window", 4096)
  return TransformerConfig(
    **_base(hf),
    activation=_activation(hf, "hidden_act", "silu"),
    rope_theta=theta,
    rope_scaling=scaling,
    window=window,
    layer_kinds=_kinds(hf, lambda i: window is not None),
  )


def _write_mistral(c: TransformerConfig) -> Json:
  return {**_base_json(c), "sliding_window": c.window}


def _read_qwen(hf: Json, version: int) -> TransformerConfig:
  theta, scaling = _rope(hf, 10000.0)
  window = None
  if _get(hf, "use_sliding_window", False):
    window = hf.get("sliding_window", 4096)
  first = _get(hf, "max_window_layers", 28)
  bias = version == 2 or _get(hf, "attention_bias", False)
  base = _base(hf)
  if version == 3:
    base["head_dim"] = _get(hf, "head_dim", 128)
  return TransformerConfig(
    **base,
    activation=_activation(hf, "hidden_act", "silu"),
    qkv_bias=bias,
    out_bias=bias and version == 3,
    qk_norm=version == 3,
    rope_theta=theta,
    rope_scaling=scaling,
    window=window,
    layer_kinds=_kinds(hf, lambda i: window is not None and i >= first),
  )


def _write_qwen(c: TransformerConfig, version: int) -> Json:
  kinds = c.layer_kinds
  return {
    **_base_json(c),
    **({"attention_bias": c.qkv_bias} if version == 3 else {}),
    "use_sliding_window": c.window is not None,
    "sliding_window": c.window,
    "max_window_layers": kinds.index("local") if "local" in kinds else c.layers,
    "layer_types": _types(c),
  }


def _read_gemma(hf: Json, version: int) -> TransformerConfig:
  theta, scaling = _rope(hf, 10000.0 if version == 2 else 1e6)
  local = None
  if version == 3:
    own = {k: v for k, v in hf.items() if k not in ("rope_scaling",)}
    nested = _get(own, "rope_parameters", {}).get("sliding_attention")
    own = {
      "rope_parameters": nested or {},
      "rope_theta": _get(hf, "rope_local_base_freq", 10000.0),
    }
    local, bent = _rope(own, 10000.0)
    if bent:
      raise _refuse(
        "rope_parameters",
        nested,
        "rotations of local layers are not scaled",
        "use a checkpoint with rope_type default in its sliding layers",
      )
  period = 2 if version == 2 else _get(hf, "sliding_window_pattern", 6)
  bias = _get(hf, "attention_bias", False)
  caps = (50.0, 30.0) if version == 2 else (None, None)
  act = _get(hf, "hidden_act", "gelu_pytorch_tanh")
  base = _base(hf, tied=True)
  base["head_dim"] = _get(hf, "head_dim", 256)
  # Gemma 3 holds the attention cap in its config and never applies it.
  attn_cap = hf.get("attn_logit_softcapping", caps[0])
  return TransformerConfig(
    **base,
    norm_offset=1.0,
    activation=_activation(hf, "hidden_activation", act),
    qkv_bias=bias,
    out_bias=bias,
    qk_norm=version == 3,
    post_norms=True,
    rope_theta=theta,
    rope_local_theta=local,
    rope_scaling=scaling,
    window=hf.get("sliding_window", 4096),
    layer_kinds=_kinds(hf, lambda i: (i + 1) % period != 0),
    attn_softcap=attn_cap if version == 2 else None,
    final_softcap=hf.get("final_logit_softcapping", caps[1]),
    embed_scale=base["width"] ** 0.5,
    query_scale=_get(hf, "query_pre_attn_scalar", 256) ** -0.5,
  )


def _write_gemma(c: TransformerConfig, version: int) -> Json:
  scalar = c.head_dim if c.query_scale is None else c.query_scale**-2
  local = {} if version == 2 else {"rope_local_base_freq": c.rope_local_theta}
  return {
    **_base_json(c, "hidden_activation"),
    **local,
    "attention_bias": c.qkv_bias,
    "sliding_window": c.window,
    "layer_types": _types(c),
    "attn_logit_softcapping": c.attn_softcap,
    "final_logit_softcapping": c.final_softcap,
    "query_pre_attn_scalar": round(scalar),
  }
