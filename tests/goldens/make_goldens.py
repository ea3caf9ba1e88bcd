"""Tiny random `transformers` models, and their outputs as small .npz files.

Run from the repository root (needs torch):

  python tests/goldens/make_goldens.py

Each file holds config.json as `transformers` wrote it, the tensors as bfloat16
bits, rows with left padding, and what `transformers` computes from them in
float32. The tests read them without torch; with torch they build the same
models again.
"""

from __future__ import annotations

import json
import pathlib
import sys
import tempfile
from typing import NamedTuple

import numpy as np

GOLDENS = pathlib.Path(__file__).resolve().parent
ROWS, LENGTH = 3, 12
LLAMA3 = {
  "rope_type": "llama3",
  "rope_theta": 100.0,
  "factor": 4.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 16,
}
GEMMA3_ROPE = {
  "full_attention": {
    "rope_type": "linear",
    "factor": 4.0,
    "rope_theta": 1000.0,
  },
  "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
}


class Case(NamedTuple):
  """A tiny model: the config class, what differs from SMALL, and its head."""

  kind: str
  settings: dict
  head: str = "lm"
  dtype: str = "float32"


SMALL = {
  "vocab_size": 40,
  "hidden_size": 16,
  "intermediate_size": 20,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "pad_token_id": 0,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "max_position_embeddings": 64,
}
GPT2 = {
  "vocab_size": 40,
  "n_embd": 16,
  "n_layer": 3,
  "n_head": 4,
  "n_positions": 32,
  "pad_token_id": 0,
  "bos_token_id": 1,
  "eos_token_id": 2,
}
CASES = {
  "llama": Case("Llama", {}),
  "llama_tied_scaled": Case(
    "Llama",
    {"tie_word_embeddings": True, "rope_parameters": LLAMA3, "head_dim": 8},
  ),
  "llama_biases": Case("Llama", {"attention_bias": True, "mlp_bias": True}),
  "llama_bf16": Case("Llama", {}, dtype="bfloat16"),
  "llama_score": Case("Llama", {"num_labels": 1}, "score"),
  "mistral": Case("Mistral", {"sliding_window": 5}),
  "qwen2": Case("Qwen2", {"tie_word_embeddings": True}),
  "qwen2_sliding": Case(
    "Qwen2",
    {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
  ),
  "qwen2_score": Case("Qwen2", {"num_labels": 3}, "score"),
  "qwen3": Case("Qwen3", {"head_dim": 6, "tie_word_embeddings": True}),
  "gemma2": Case(
    "Gemma2",
    {
      "head_dim": 6,
      "query_pre_attn_scalar": 9,
      "sliding_window": 4,
      "attn_logit_softcapping": 2.0,
      "final_logit_softcapping": 3.0,
    },
  ),
  "gemma3": Case(
    "Gemma3Text",
    {
      "head_dim": 8,
      "query_pre_attn_scalar": 9,
      "sliding_window": 4,
      "sliding_window_pattern": 2,
      "rope_parameters": GEMMA3_ROPE,
    },
  ),
  "gemma3_score": Case(
    "Gemma3Text", {"head_dim": 8, "sliding_window": 4, "num_labels": 2}, "score"
  ),
  "gpt2": Case("GPT2", {}),
  "gpt2_untied": Case("GPT2", {"tie_word_embeddings": False, "n_inner": 24}),
  "gpt2_score": Case("GPT2", {"num_labels": 2}, "score"),
}


def rows() -> tuple[np.ndarray, np.ndarray]:
  """i32[3, 12] ids (0 pads) and their mask: 12, 10 and 8 real tokens."""
  tokens = np.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) * 17 % 38 + 2
  attend = np.arange(LENGTH) >= 2 * np.arange(ROWS)[:, None]
  return np.where(attend, tokens, 0).astype(np.int32), attend


def build(name: str):
  """The random `transformers` model of a case, values exact in bfloat16."""
  import torch
  import transformers

  case = CASES[name]
  base = GPT2 if case.kind == "GPT2" else SMALL
  config = getattr(transformers, f"{case.kind}Config")(
    **{**base, **case.settings}
  )
  config._attn_implementation = "eager"
  auto = {
    "lm": transformers.AutoModelForCausalLM,
    "score": transformers.AutoModelForSequenceClassification,
  }[case.head]
  model = auto.from_config(config).eval()
  torch.manual_seed(sorted(CASES).index(name))
  for weight in model.parameters():
    # Norm scales keep their 1 (Gemma: 0) and matrices give outputs of size 1.
    mean = 0.0 if weight.dim() > 1 else weight.data.mean()
    spread = 16**-0.5 if weight.dim() > 1 else 0.3
    noise = torch.randn_like(weight) * spread + mean
    weight.data = noise.to(torch.bfloat16).to(torch.float32)
  return model


def save(name: str, folder: pathlib.Path) -> None:
  """Writes a case as `save_pretrained` does, in the case's type."""
  import torch

  model = build(name).to(getattr(torch, CASES[name].dtype))
  model.save_pretrained(folder)


def main() -> None:
  """Writes every golden file, and removes those without a case."""
  sys.path.insert(0, str(GOLDENS.parent.parent))
  from safetensors import safe_open

  from rlreward.models import parity

  tokens, attend = rows()
  for old in GOLDENS.glob("*.npz"):
    old.unlink()
  for name, case in CASES.items():
    with tempfile.TemporaryDirectory() as temporary:
      folder = pathlib.Path(temporary)
      save(name, folder)
      out = parity.reference(folder, tokens, attend, case.head)
      about = json.loads((folder / "config.json").read_text())
      arrays = {}
      with safe_open(folder / "model.safetensors", "numpy") as file:
        for key in file.keys():
          bits = file.get_tensor(key).astype("bfloat16").view(np.uint16)
          arrays[f"tensor:{key}"] = bits
    np.savez_compressed(
      GOLDENS / f"{name}.npz",
      config=json.dumps(about),
      dtype=case.dtype,
      output=out,
      **arrays,
    )
    print(f"{name:20} {out.shape} largest {np.abs(out).max():.2f}")


if __name__ == "__main__":
  main()
