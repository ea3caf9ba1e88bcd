"""Hugging Face `config.json` to TransformerConfig and back, by family.

Both spellings of the rotation are read: `rope_theta` and `rope_scaling` at the
top, and `rope_parameters` of transformers 5. A setting that we do not compute
is refused by name, because ignoring it would give other logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlreward.errors import UserError
from rlreward.models.config import TransformerConfig

Json = dict[str, Any]

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


def _read_gpt2(hf: Json) -> TransformerConfig:
  for key in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
    if _get(hf, key, False):
      raise _refuse(
        key,
        True,
        "it changes the logits and is not implemented",
        "use a checkpoint without it",
      )
  width, heads = _need(hf, "n_embd"), _need(hf, "n_head")
  return TransformerConfig(
    vocab=_need(hf, "vocab_size"),
    width=width,
    layers=_need(hf, "n_layer"),
    heads=heads,
    kv_heads=heads,
    head_dim=width // heads,
    mlp=_get(hf, "n_inner", 4 * width),
    norm="layer",
    norm_eps=_get(hf, "layer_norm_epsilon", 1e-5),
    activation=_activation(hf, "activation_function", "gelu_new"),
    gated=False,
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    rope_theta=None,
    learned_positions=_get(hf, "n_positions", 1024),
    query_scale=None if _get(hf, "scale_attn_weights", True) else 1.0,
    tied=_get(hf, "tie_word_embeddings", True),
  )


def _write_gpt2(c: TransformerConfig) -> Json:
  return {
    "vocab_size": c.vocab,
    "n_embd": c.width,
    "n_layer": c.layers,
    "n_head": c.heads,
    "n_inner": c.mlp,
    "n_positions": c.learned_positions,
    "layer_norm_epsilon": c.norm_eps,
    "activation_function": {"silu": "silu", "gelu_tanh": "gelu_new"}[
      c.activation
    ],
    "scale_attn_weights": c.query_scale in (None, c.head_dim**-0.5),
    "tie_word_embeddings": c.tied,
  }


READ: dict[str, Callable[[Json], TransformerConfig]] = {
  "llama": _read_llama,
  "mistral": _read_mistral,
  "qwen2": lambda hf: _read_qwen(hf, 2),
  "qwen3": lambda hf: _read_qwen(hf, 3),
  "gemma2": lambda hf: _read_gemma(hf, 2),
  "gemma3_text": lambda hf: _read_gemma(hf, 3),
  "gpt2": _read_gpt2,
}
WRITE: dict[str, Callable[[TransformerConfig], Json]] = {
  "llama": _write_llama,
  "mistral": _write_mistral,
  "qwen2": lambda c: _write_qwen(c, 2),
  "qwen3": lambda c: _write_qwen(c, 3),
  "gemma2": lambda c: _write_gemma(c, 2),
  "gemma3_text": lambda c: _write_gemma(c, 3),
  "gpt2": _write_gpt2,
}


def canonical(c: TransformerConfig) -> TransformerConfig:
  """The same function with one spelling, so that two can be compared.

  Types, remat and heads that no `config.json` holds take their defaults.
  """
  local = "local" in c.layer_kinds
  theta = c.rope_local_theta
  if theta is None and c.rope_scaling is None:
    theta = c.rope_theta
  return c.replace(
    query_scale=c.head_dim**-0.5 if c.query_scale is None else c.query_scale,
    rope_local_theta=theta if local else None,
    window=c.window if local else None,
    outputs=0,
    lora_scale=1.0,
    lora_dropout=0.0,
    dtype="float32",
    param_dtype="float32",
    remat="none",
  )
