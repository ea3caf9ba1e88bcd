"""Adapters in PEFT's layout: adapter_config.json, adapter_model.safetensors.

  base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight   [r, in]
  base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight   [out, r]

Ours are [layers, in, r] and [layers, r, out]; names come from the table of
`families`. What such a file can ask for and we do not compute is refused.

Reference: the checkpoint format of huggingface.co/docs/peft.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import tempfile
from typing import Any, NamedTuple

import numpy as np

from rlreward.errors import UserError
from rlreward.models import families
from rlreward.models.config import TransformerConfig
from rlreward.models.hf_files import Path, resolve

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_FIRST = "base_model.model."
_ENDS = {"a": "lora_A.weight", "b": "lora_B.weight"}
# Fields of adapter_config.json, and what they must be for us to compute it.
_PLAIN: dict[str, list[Any]] = {
  "peft_type": ["LORA"],
  "bias": ["none"],
  "fan_in_fan_out": [False],
  "use_dora": [False],
  "lora_bias": [False],
  "modules_to_save": [None, []],
  "rank_pattern": [{}, None],
  "alpha_pattern": [{}, None],
  "layers_to_transform": [None],
  "layer_replication": [None],
}


class Adapter(NamedTuple):
  """What a directory holds.

  Attributes:
    tree: the adapter, f32, as `lora.init` makes it.
    rank: r.
    alpha: with it the scale is alpha / rank.
    dropout: that it was trained with.
    targets: our names of the projections.
    base: what its file calls the base model; "" if it does not say.
  """

  tree: dict
  rank: int
  alpha: float
  dropout: float
  targets: tuple[str, ...]
  base: str


def export(
  path: Path, config: TransformerConfig, adapter: dict, base: Path = ""
) -> pathlib.Path:
  """Writes a directory that `peft.PeftModel.from_pretrained` loads.

  Args:
    path: the directory to create; it must be absent or empty.
    config: the base; its `lora_scale` and `lora_dropout` are written.
    adapter: as `lora.init` makes it.
    base: directory or hub name of the base model.

  Returns:
    The directory.

  Raises:
    UserError: the directory is not empty, or a model whose projections PEFT
      names otherwise.
  """
  target = pathlib.Path(path)
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise UserError(
      f"{target} exists and is not an empty directory",
      "an export never mixes with or replaces other files",
      "give a new directory, or remove this one",
    )
  from safetensors.numpy import save_file

  names = _names(config, _model_type(config, base))
  tensors, rank = {}, 0
  for part, found in adapter["layers"].items():
    for name, leaf in found.items():
      rank = leaf["a"].shape[-1]
      for side, end in _ENDS.items():
        for i, layer in enumerate(np.asarray(leaf[side])):
          full = f"{names[part, name].replace('{i}', str(i))}.{end}"
          tensors[full] = np.ascontiguousarray(layer.T)
  modules = {n.rpartition(".")[2]: k for k, n in names.items()}
  used = {(p, n) for p, found in adapter["layers"].items() for n in found}
  about = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": str(base) or None,
    "inference_mode": True,
    "r": rank,
    "lora_alpha": _whole(config.lora_scale * rank),
    "lora_dropout": config.lora_dropout,
    "target_modules": sorted(m for m, k in modules.items() if k in used),
    "bias": "none",
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "use_rslora": False,
    "use_dora": False,
  }
  target.parent.mkdir(parents=True, exist_ok=True)
  scratch = pathlib.Path(
    tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent)
  )
  try:
    text = json.dumps(about, indent=2, sort_keys=True)
    (scratch / CONFIG).write_text(text + "\n", encoding="utf-8")
    save_file(tensors, scratch / TENSORS, metadata={"format": "pt"})
    scratch.chmod(0o755)
    os.replace(scratch, target)
  finally:
    shutil.rmtree(scratch, ignore_errors=True)
  return target


def load(path: Path, config: TransformerConfig, base: Path = "") -> Adapter:
  """Reads an adapter of a base with this shape.

  Args:
    path: a directory, or a hub name (see `hf_files.resolve`).
    config: the base.
    base: its directory, which says which family it is; "" finds one.

  Raises:
    UserError: a setting that we do not compute, or a tensor that is missing,
      unused or misshapen; it is named.
  """
  folder = resolve(path)
  about = _read_config(folder)
  names = _names(config, _model_type(config, base))
  tensors = _read_tensors(folder)
  rank = int(about.get("r", 8))
  tree: dict[str, Any] = {"layers": {}}
  for (part, name), full in sorted(names.items()):
    if not any(k.startswith(full.replace("{i}", "0") + ".") for k in tensors):
      continue
    leaf = {}
    for side, end in _ENDS.items():
      wanted = [
        f"{full.replace('{i}', str(i))}.{end}" for i in range(config.layers)
      ]
      leaf[side] = _stack(folder, tensors, wanted)
    _check_shapes(folder, full, leaf, rank)
    tree["layers"].setdefault(part, {})[name] = leaf
  if tensors or not tree["layers"]:
    raise UserError(
      f"{folder / TENSORS} holds {len(tensors)} tensors without a place in the"
      f" model: {', '.join(sorted(tensors)[:4])}",
      "leaving them out would change the logits silently",
      "give the base that this adapter was trained on",
    )
  alpha = float(about.get("lora_alpha", 8))
  if about.get("use_rslora"):
    alpha *= rank**0.5
  return Adapter(
    tree,
    rank,
    alpha,
    float(about.get("lora_dropout", 0.0)),
    tuple(n for found in tree["layers"].values() for n in found),
    about.get("base_model_name_or_path") or "",
  )


def _whole(x: float) -> float | int:
  """An alpha as it was written: 16, not 16.0."""
  return round(x) if abs(x - round(x)) < 1e-6 else x


def _model_type(config: TransformerConfig, base: Path) -> str:
  prefer = None
  if base and (pathlib.Path(base) / "config.json").is_file():
    text = (pathlib.Path(base) / "config.json").read_text(encoding="utf-8")
    prefer = json.loads(text).get("model_type")
  return families.family_of(config, prefer)


def _names(config: TransformerConfig, kind: str) -> dict[tuple[str, str], str]:
  """{(part, projection): its name in PEFT, with {i} for the layer}."""
  family, out = families.FAMILIES[kind], {}
  for rule in family.rules:
    first, *others = rule.ours
    _, _, last = first.rpartition("/")
    if last != "kernel" or not first.startswith("layers/"):
      continue
    if others or not rule.transpose:
      raise UserError(
        f"an adapter of a {kind} model",
        "q, k and v are one matrix there, and have one adapter in PEFT",
        "export the merged model instead",
      )
    _, part, name, _ = first.split("/")
    theirs = rule.theirs.removesuffix(".weight")
    out[part, name] = _FIRST + family.prefix + theirs
  if config.outputs:
    raise UserError(
      f"an adapter of a reward model with {config.outputs} outputs",
      "its score head is trained too, and is not part of the adapter",
      "export the merged model instead",
    )
  return out


def _read_config(folder: pathlib.Path) -> dict[str, Any]:
  path = folder / CONFIG
  try:
    about = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(
      f"{path} cannot be read: {error}",
      "rank and scale of the adapter are written there",
      "give a directory that PEFT has saved",
    ) from None
  for field, good in _PLAIN.items():
    if field in about and about[field] not in good:
      raise UserError(
        f"{path} has {field}={about[field]!r}",
        f"adapters are read with {field}={good[0]!r} alone; the logits would"
        " be others",
        "merge it with peft, and load the merged model",
      )
  return about


def _read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
  from safetensors import SafetensorError
  from safetensors.numpy import load_file

  try:
    found = load_file(folder / TENSORS)
  except (FileNotFoundError, SafetensorError) as error:
    raise UserError(
      f"{folder / TENSORS} cannot be read: {error}",
      "the adapter's matrices are there",
      "give a directory that PEFT has saved with safetensors",
    ) from None
  return {k: np.asarray(v, np.float32) for k, v in found.items()}


def _stack(folder, tensors: dict[str, np.ndarray], wanted: list[str]):
  """Takes tensors out by name: [layers, in, out]."""
  missing = [n for n in wanted if n not in tensors]
  if missing:
    raise UserError(
      f"{folder / TENSORS} lacks {len(missing)} tensors: {missing[0]}",
      "an adapter sits on all layers of a projection, or on none",
      "give the base that this adapter was trained on",
    )
  shapes = {tensors[n].shape for n in wanted}
  if len(shapes) > 1:
    raise UserError(
      f"{folder / TENSORS}: {wanted[0]} and its like have the shapes"
      f" {sorted(shapes)}",
      "layers of a projection are one array here",
      "merge it with peft, and load the merged model",
    )
  return np.stack([tensors.pop(n).T for n in wanted])


def _check_shapes(folder, full: str, leaf: dict, rank: int) -> None:
  a, b = leaf["a"].shape[-1], leaf["b"].shape[-2]
  if not a == b == rank:
    raise UserError(
      f"{folder / TENSORS}: {full} has rank {a} and {b}, its config r={rank}",
      "the scale is alpha / r",
      "copy both files from the same checkpoint",
    )
