"""llama2.c checkpoints (the legacy .bin layout) to a Hugging Face directory.

  python -m rlreward.models.llama2c MODEL.bin[.gz] TOKENIZER.bin OUT

The .bin file is seven int32 (width, mlp, layers, heads, kv heads, vocabulary,
positions; a negative vocabulary means an untied head) and float32 tensors in a
fixed order. Its RoPE rotates neighbouring pairs (0, 1), (2, 3), ...; Hugging
Face rotates the halves (0, d/2), (1, d/2 + 1), ..., so the rows of the query
and key projections are permuted once, here. The tokenizer is a table of scored
pieces merged greedily, best score first, with byte fallback; that is byte-pair
encoding whose merges are ranked by score. Id 1 opens a text and ends it: the
models are trained on texts joined by it, so it is written as a stop id.

Reference: github.com/karpathy/llama2.c, `export.py` and `run.c`.
"""

from __future__ import annotations

import gzip
import json
import os
import pathlib
import struct
import sys
import tempfile
from typing import Any

import numpy as np

from rlreward import errors

_FIX = "give the legacy .bin of llama2.c (version 0), gzipped or not"


def convert(
  model: str | pathlib.Path,
  tokenizer: str | pathlib.Path,
  out: str | pathlib.Path,
) -> pathlib.Path:
  """Writes config.json, model.safetensors and the tokenizer's files.

  Args:
    model: the .bin or .bin.gz file.
    tokenizer: the tokenizer's .bin file.
    out: a directory that does not hold anything yet.

  Returns:
    The directory.

  Raises:
    UserError: files that are not in this layout, or a directory in use.
  """
  from safetensors.numpy import save_file

  folder = pathlib.Path(out)
  if folder.is_dir() and any(folder.iterdir()):
    raise errors.UserError(
      f"{folder} is not empty",
      "a conversion never overwrites a checkpoint",
      "give a directory that does not exist yet",
    )
  config, tensors = read_model(model)
  built = build_tokenizer(read_pieces(tokenizer, config["vocab_size"]))
  folder.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=folder.parent) as name:
    scratch = pathlib.Path(name) / "new"  # whole, or not there at all
    scratch.mkdir()
    save_file(tensors, scratch / "model.safetensors", {"format": "pt"})
    ends = {"bos_token_id": 1, "eos_token_id": [1, 2], "pad_token_id": 2}
    for file, fields in (
      ("config.json", config),
      ("generation_config.json", ends),
    ):
      (scratch / file).write_text(json.dumps(fields, indent=2) + "\n")
    built.save_pretrained(scratch)
    os.replace(scratch, folder)
  return folder


def read_model(
  path: str | pathlib.Path,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """A .bin file as (config.json of Llama, tensors under its names).

  Args:
    path: the file, gzipped if it ends in .gz.

  Raises:
    UserError: sizes that do not fit the header.
  """
  data = _bytes(path)
  if len(data) < 28:
    raise errors.UserError(
      f"{path} has {len(data)} bytes", "the header alone has 28", _FIX
    )
  width, mlp, layers, heads, kv, vocab, positions = struct.unpack(
    "7i", data[:28]
  )
  tied, vocab = vocab > 0, abs(vocab)
  if min(width, mlp, layers, heads, kv, vocab, positions) < 1 or width % heads:
    raise errors.UserError(
      f"the header of {path} reads width={width} mlp={mlp} layers={layers}"
      f" heads={heads} kv={kv} vocab={vocab} positions={positions}",
      "no model has this shape, so the file has another layout",
      _FIX,
    )
  size = width // heads
  shapes = {
    "embed": (vocab, width),
    "attn_norm": (layers, width),
    "q": (layers, width, width),
    "k": (layers, kv * size, width),
    "v": (layers, kv * size, width),
    "o": (layers, width, width),
    "mlp_norm": (layers, width),
    "gate": (layers, mlp, width),
    "down": (layers, width, mlp),
    "up": (layers, mlp, width),
    "norm": (width,),
    "cos": (positions, size // 2),
    "sin": (positions, size // 2),
  }
  if not tied:
    shapes["head"] = (vocab, width)
  count = sum(int(np.prod(s)) for s in shapes.values())
  if len(data) != 28 + 4 * count:
    raise errors.UserError(
      f"{path} has {len(data)} bytes, its header asks for {28 + 4 * count}",
      "the tensors would be read at the wrong places",
      _FIX,
    )
  flat, parts, at = np.frombuffer(data, "<f4", offset=28), {}, 0
  for name, shape in shapes.items():
    end = at + int(np.prod(shape))
    parts[name] = flat[at:end].reshape(shape)
    at = end
  config = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": vocab,
    "hidden_size": width,
    "intermediate_size": mlp,
    "num_hidden_layers": layers,
    "num_attention_heads": heads,
    "num_key_value_heads": kv,
    "head_dim": size,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": positions,
    "tie_word_embeddings": tied,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
  }
  return config, _names(parts, layers, heads, kv, size)


def _names(parts, layers, heads, kv, size) -> dict[str, np.ndarray]:
  """Tensors under Hugging Face's names, RoPE rows permuted."""

  def halves(w, count):  # pairs (2i, 2i + 1) to (i, i + size / 2)
    pairs = w.reshape(count, size // 2, 2, -1)
    return pairs.transpose(0, 2, 1, 3).reshape(w.shape)

  out = {
    "model.embed_tokens.weight": parts["embed"],
    "model.norm.weight": parts["norm"],
  }
  if "head" in parts:
    out["lm_head.weight"] = parts["head"]
  for i in range(layers):
    at = f"model.layers.{i}"
    out |= {
      f"{at}.input_layernorm.weight": parts["attn_norm"][i],
      f"{at}.post_attention_layernorm.weight": parts["mlp_norm"][i],
      f"{at}.self_attn.q_proj.weight": halves(parts["q"][i], heads),
      f"{at}.self_attn.k_proj.weight": halves(parts["k"][i], kv),
      f"{at}.self_attn.v_proj.weight": parts["v"][i],
      f"{at}.self_attn.o_proj.weight": parts["o"][i],
      f"{at}.mlp.gate_proj.weight": parts["gate"][i],
      f"{at}.mlp.up_proj.weight": parts["up"][i],
      f"{at}.mlp.down_proj.weight": parts["down"][i],
    }
  return {k: np.ascontiguousarray(v) for k, v in out.items()}


def read_pieces(
  path: str | pathlib.Path, count: int
) -> list[tuple[str, float]]:
  """The (piece, score) table of a tokenizer file.

  Args:
    path: the file: int32 longest piece, then for each piece float32 score,
      int32 length and that many bytes.
    count: pieces to read, the model's vocabulary.

  Raises:
    UserError: the file ends early or has bytes left.
  """
  data, at, out = _bytes(path), 4, []
  try:
    for _ in range(count):
      score, length = struct.unpack_from("<fi", data, at)
      at += 8 + length
      out.append((data[at - length : at].decode("utf-8"), score))
  except (struct.error, UnicodeDecodeError):
    at = -1
  if at != len(data):
    raise errors.UserError(
      f"{path} does not hold {count} pieces",
      "the model's vocabulary and its tokenizer must have the same size",
      "give the tokenizer .bin that the model was trained with",
    )
  return out


def build_tokenizer(pieces: list[tuple[str, float]]) -> Any:
  """A fast tokenizer of transformers with the same ids.

  Args:
    pieces: of `read_pieces`; 0 is unknown, 1 opens a text, 2 closes it, 3 to
      258 are the bytes.
  """
  import transformers
  from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
  from tokenizers.processors import TemplateProcessing

  special = ["<unk>", "<s>", "</s>"]
  names = special + [f"<0x{i:02X}>" for i in range(256)]
  names += [piece.replace(" ", "▁") for piece, _ in pieces[259:]]
  ids = {name: i for i, name in enumerate(names)}
  merges = []
  for i in range(259, len(names)):
    piece = names[i]
    for cut in range(1, len(piece)):
      left, right = piece[:cut], piece[cut:]
      if left in ids and right in ids:
        merges.append((-pieces[i][1], i, cut, (left, right)))
  ranked = [pair for *_, pair in sorted(merges)]
  bpe = models.BPE(
    ids, ranked, unk_token="<unk>", byte_fallback=True, fuse_unk=True
  )
  tok = Tokenizer(bpe)
  tok.normalizer = normalizers.Sequence(
    [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
  )
  tok.decoder = decoders.Sequence(
    [
      decoders.Replace("▁", " "),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(" ", 1, 0),
    ]
  )
  tok.post_processor = TemplateProcessing(
    single="<s> $A", special_tokens=[("<s>", 1)]
  )
  tok.add_special_tokens([AddedToken(t, special=True) for t in special])
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=tok,
    unk_token="<unk>",
    bos_token="<s>",
    eos_token="</s>",
    pad_token="</s>",
    padding_side="left",
    clean_up_tokenization_spaces=False,
  )


def _bytes(path: str | pathlib.Path) -> bytes:
  file = pathlib.Path(path)
  if not file.is_file():
    raise errors.UserError(
      f"{file} does not exist", "there is nothing to convert", _FIX
    )
  data = file.read_bytes()
  return gzip.decompress(data) if file.suffix == ".gz" else data


def main(argv: list[str] | None = None) -> int:
  """Command line of the converter."""
  args = sys.argv[1:] if argv is None else argv
  if len(args) != 3:
    print(__doc__)
    return 2
  try:
    folder = convert(*args)
  except errors.UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  print(f"wrote {folder}; try: rlreward sample --model={folder} --prompt=' I'")
  return 0


if __name__ == "__main__":
  sys.exit(main())
