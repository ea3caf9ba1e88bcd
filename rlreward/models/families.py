"""One mapping table for each model family, used to load and to export.

A `Rule` names a tensor of a Hugging Face checkpoint and our leaves that it
holds; `{i}` is the layer. A family also turns `config.json` into a
TransformerConfig and back (`hf_config`); what cannot be written is found by
reading the answer again, so that an export never loses a field silently.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rlreward.errors import UserError
from rlreward.models import hf_config
from rlreward.models.config import TransformerConfig


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
  """

  prefix: str
  causal: str
  score: str
  rules: tuple[Rule, ...]
  ignorable: tuple[str, ...]


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
    Rule("wpe.weight", ("positions/embedding",)),
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


_ROTARY = (r"(.*\.)?rotary_emb\.inv_freq",)
_MASKS = (r"(.*\.)?h\.\d+\.attn\.(masked_)?bias",)


def _llama_like(name: str, norms: Mapping[str, str], score: str = "") -> Family:
  return Family(
    prefix="model.",
    causal=f"{name}ForCausalLM",
    score=f"{score or name}ForSequenceClassification",
    rules=_llama_rules(norms),
    ignorable=_ROTARY,
  )


FAMILIES: dict[str, Family] = {
  "llama": _llama_like("Llama", _NORMS),
  "mistral": _llama_like("Mistral", _NORMS),
  "qwen2": _llama_like("Qwen2", _NORMS),
  "qwen3": _llama_like("Qwen3", {**_NORMS, **_QK_NORMS}),
  "gemma2": _llama_like("Gemma2", _GEMMA_NORMS),
  "gemma3_text": _llama_like(
    "Gemma3", {**_GEMMA_NORMS, **_QK_NORMS}, score="Gemma3Text"
  ),
  "gpt2": Family(
    prefix="transformer.",
    causal="GPT2LMHeadModel",
    score="GPT2ForSequenceClassification",
    rules=_gpt2_rules(),
    ignorable=_MASKS,
  ),
}


def names() -> tuple[str, ...]:
  """The `model_type` of each family."""
  return tuple(FAMILIES)


def expand(
  family: Family, ours: Mapping[str, Any], layers: int
) -> Iterator[tuple[Rule, list[str]]]:
  """The rules that a parameter tree needs, with the tensors they name.

  Args:
    family: whose table.
    ours: leaves of the tree by path; rules for absent leaves are left out.
    layers: number of blocks.

  Yields:
    (rule, names without prefix): one name, or one for each layer.
  """
  for rule in family.rules:
    if any(path in ours for path in rule.ours):
      stacked = "{i}" in rule.theirs
      count = range(layers) if stacked else range(1)
      yield rule, [rule.theirs.replace("{i}", str(i)) for i in count]


def family_of(config: TransformerConfig, prefer: str | None = None) -> str:
  """The family whose `config.json` can say all of a TransformerConfig.

  Args:
    config: what is to be written.
    prefer: a `model_type` to try first.

  Raises:
    UserError: no family can, with the fields that differ from the nearest.
  """
  wanted = hf_config.canonical(config)
  order = [n for n in (prefer, *FAMILIES) if n in FAMILIES]
  nearest: tuple[str, list[str]] | None = None
  for name in order:
    wrong = _unsaid(name, wanted)
    if wrong is None:
      continue
    if not wrong:
      return name
    if nearest is None or len(wrong) < len(nearest[1]):
      nearest = (name, wrong)
  assert nearest is not None
  raise UserError(
    f"no family of {', '.join(FAMILIES)} has this decoder; "
    f"{nearest[0]} differs in {'; '.join(nearest[1])}",
    "transformers would compute other logits from the exported files",
    "change these fields, or keep the parameters in a checkpoint of ours",
  )


def _unsaid(name: str, wanted: TransformerConfig) -> list[str] | None:
  """Fields lost by writing and reading as one family; None if it cannot."""
  try:
    back = hf_config.canonical(
      hf_config.READ[name](hf_config.WRITE[name](wanted))
    )
  except (UserError, KeyError, TypeError, ZeroDivisionError):
    return None
  return [
    f"{f.name}={getattr(wanted, f.name)!r} (is {getattr(back, f.name)!r})"
    for f in dataclasses.fields(wanted)
    if getattr(wanted, f.name) != getattr(back, f.name)
  ]
