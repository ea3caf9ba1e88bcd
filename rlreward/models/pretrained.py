"""Hugging Face directories: safetensors in, safetensors out, nothing lost.

A directory holds config.json and model.safetensors, or shards with
model.safetensors.index.json. Loading reads one leaf at a time and refuses any
missing or unused tensor by name; exporting uses the same mapping table
backwards, so that a round trip is bit-exact.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rlreward.errors import UserError
from rlreward.models import families, hf_config, transformer
from rlreward.models.config import TransformerConfig
from rlreward.models.hf_files import (
  Files,
  Path,
  copy_tokenizer,
  load_tokenizer,
  read_json,
  resolve,
  write_tensors,
)

__all__ = ["export", "load", "load_tokenizer", "read_config", "resolve"]

PyTree = Any

# Facts of a checkpoint that a TransformerConfig has no use for.
_CARRIED = (
  "bos_token_id",
  "eos_token_id",
  "pad_token_id",
  "max_position_embeddings",
  "id2label",
  "label2id",
)


def read_config(path: Path) -> TransformerConfig:
  """The decoder that a directory describes; reads config.json alone.

  Args:
    path: a local directory, or a hub name (see `resolve`).

  Returns:
    The config, to compute in float32, with the stated type of parameters.

  Raises:
    UserError: no config.json, an unknown family, or a setting that we do not
      compute; the message names it.
  """
  hf = read_json(resolve(path))
  config = hf_config.READ[hf["model_type"]](hf)
  stated = hf.get("dtype") or hf.get("torch_dtype") or "float32"
  known = stated in ("float32", "bfloat16")
  config = config.replace(param_dtype=stated if known else "float32")
  if any("SequenceClassification" in a for a in hf.get("architectures") or ()):
    labels = hf.get("num_labels") or len(hf.get("id2label") or (0, 1))
    config = config.replace(outputs=labels, tied=True)
  return config


def load(
  path: Path,
  *,
  dtype: str = "float32",
  param_dtype: str | None = None,
  head: str = "lm",
  mesh: jax.sharding.Mesh | None = None,
  shardings: PyTree = None,
) -> tuple[TransformerConfig, dict[str, PyTree]]:
  """Parameters of a Hugging Face directory.

  One leaf is on the host at a time: its layers are read into one stacked
  array, which then goes to the devices.

  Args:
    path: a local directory, or a hub name (see `resolve`).
    dtype: compute type, "float32" or "bfloat16".
    param_dtype: storage type; None keeps the type of each tensor bit for bit
      (float16 widens to float32).
    head: "lm", the language model; "score", a sequence-classification model
      (reward model), whose `score` tensor must be there; "none", the trunk
      alone, with any head in the files left out on purpose.
    mesh: devices to replicate on; not needed with `shardings`.
    shardings: a tree like the result's "params", or like the result.

  Returns:
    (config, {"params": tree}) for `transformer.build(config)`.

  Raises:
    UserError: a tensor is missing, unused or misshapen; it is named.
  """
  if head not in ("lm", "score", "none"):
    raise UserError(
      f"head={head!r} is unknown",
      "it says which output the checkpoint must hold",
      "use 'lm', 'score' or 'none'",
    )
  folder = resolve(path)
  hf = read_json(folder)
  family = families.FAMILIES[hf["model_type"]]
  files = Files(folder)
  config = hf_config.READ[hf["model_type"]](hf).replace(dtype=dtype)
  if head != "lm":
    config = config.replace(tied=True)
  if head == "score":
    config = config.replace(outputs=_outputs(files))
  prefix = family.prefix
  if not any(name.startswith(prefix) for name in files.names):
    prefix = ""
  wanted = _leaves(config)
  rules = [
    (rule, [(prefix if rule.trunk else "") + name for name in names])
    for rule, names in families.expand(family, wanted, config.layers)
  ]
  _account(files, family, rules, config, head, prefix)
  embedding = rules[0][1][0]
  config = config.replace(param_dtype=param_dtype or files.dtype(embedding))
  if shardings is not None:
    shardings = _flat(shardings.get("params", shardings))
  flat = {}
  for rule, names in rules:
    for leaf, value in _gather(files, rule, names, wanted, param_dtype):
      if shardings is not None:
        flat[leaf] = _place(value, shardings[leaf])
      elif mesh is not None:
        flat[leaf] = _place(value, NamedSharding(mesh, PartitionSpec()))
      else:
        flat[leaf] = jnp.asarray(value)
  return config, {"params": _nest(flat)}


def has_score(path: str) -> bool:
  """Whether a checkpoint is a sequence-classification model.

  Args:
    path: as for `load`.
  """
  return "score.weight" in Files(resolve(path)).names


def _outputs(files: Files) -> int:
  if "score.weight" not in files.names:
    raise UserError(
      f"{files.folder} has no tensor 'score.weight'",
      "a fresh random head would give rewards that mean nothing",
      "load a sequence-classification checkpoint, or head='none' and train one",
    )
  return files.shape("score.weight")[0]


def _leaves(config: TransformerConfig) -> dict[str, jax.ShapeDtypeStruct]:
  init = transformer.build(config).init
  return _flat(jax.eval_shape(init, jax.random.key(0))["params"])


def _account(files, family, rules, config, head, prefix) -> None:
  """Refuses missing and unused tensors, before anything is read."""
  used = {name for _, names in rules for name in names}
  missing = sorted(used - files.names)
  if missing:
    raise UserError(
      f"{files.folder} lacks {len(missing)} tensors: {_some(missing)}",
      "they would keep random values, and the model would still run",
      "check config.json (tie_word_embeddings, num_hidden_layers, biases), or "
      "copy all of the files",
    )
  spare = files.names - used
  spare = {
    n for n in spare if not any(re.fullmatch(p, n) for p in family.ignorable)
  }
  if head == "none":
    spare -= {"lm_head.weight", "score.weight"}
  elif head == "lm" and config.tied and "lm_head.weight" in spare:
    embedding = prefix + family.rules[0].theirs
    one, other = files.read("lm_head.weight"), files.read(embedding)
    if one.dtype == other.dtype and np.array_equal(
      one.view(np.uint8), other.view(np.uint8)
    ):
      spare.discard("lm_head.weight")
  if spare:
    raise UserError(
      f"{files.folder} holds {len(spare)} tensors without a place in the "
      f"model: {_some(sorted(spare))}",
      "leaving them out would change the logits silently",
      "load with head='score' or head='none' if they are heads; else check "
      "config.json against the files",
    )


def _some(names: list[str]) -> str:
  more = f" and {len(names) - 8} more" if len(names) > 8 else ""
  return ", ".join(names[:8]) + more


def _gather(
  files: Files,
  rule: families.Rule,
  names: list[str],
  wanted: Mapping[str, jax.ShapeDtypeStruct],
  param_dtype: str | None,
) -> Iterator[tuple[str, np.ndarray]]:
  """Our leaves of one rule; layers are read one by one into each."""
  stacked = "{i}" in rule.theirs
  widths = [wanted[leaf].shape[-1] for leaf in rule.ours]
  shape = wanted[rule.ours[0]].shape[int(stacked) :]
  shape = (*shape[:-1], sum(widths))
  kinds = {files.dtype(name) for name in names}
  kind = param_dtype or ("float32" if "float32" in kinds else kinds.pop())
  out = [np.empty(wanted[leaf].shape, jnp.dtype(kind)) for leaf in rule.ours]
  for i, name in enumerate(names):
    expected = shape[::-1] if rule.transpose else shape
    if files.shape(name) != expected:
      raise UserError(
        f"{files.where(name)} has shape {files.shape(name)}, and "
        f"{rule.ours[0]} needs {expected}",
        "config.json and the tensors describe different models",
        "correct config.json, or copy the matching files",
      )
    value = files.read(name)
    value = value.T if rule.transpose else value
    parts = np.split(value, np.cumsum(widths)[:-1], -1)
    for leaf, part in zip(out, parts, strict=True):
      leaf[i if stacked else ...] = part
  yield from zip(rule.ours, out, strict=True)


def _place(value: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
  return jax.make_array_from_callback(
    value.shape, sharding, lambda index: value[index]
  )


def _flat(tree: PyTree) -> dict[str, Any]:
  leaves = jax.tree.leaves_with_path(tree)
  return {"/".join(k.key for k in path): leaf for path, leaf in leaves}


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
  tree: dict[str, Any] = {}
  for path, leaf in flat.items():
    *parents, last = path.split("/")
    node = tree
    for name in parents:
      node = node.setdefault(name, {})
    node[last] = leaf
  return tree


def export(
  path: Path,
  config: TransformerConfig,
  params: PyTree,
  tokenizer_from: Path | None = None,
  max_shard_bytes: int = 5_000_000_000,
) -> pathlib.Path:
  """Writes a directory that `transformers` loads.

  The files appear under their name only when all are complete.

  Args:
    path: the directory to create; it must be absent or empty.
    config: the decoder; `outputs` > 0 writes a sequence-classification model.
    params: {"params": tree} or the tree.
    tokenizer_from: a directory whose tokenizer files are copied, and whose
      config.json gives the special token ids and the preferred family.
    max_shard_bytes: above this size the tensors are split over files.

  Returns:
    The directory.

  Raises:
    UserError: the directory is not empty; a leaf is missing, unknown or
      misshapen; or no family can say this config.
  """
  target = pathlib.Path(path)
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise UserError(
      f"{target} exists and is not an empty directory",
      "an export never mixes with or replaces other files",
      "give a new directory, or remove this one",
    )
  source = pathlib.Path(tokenizer_from) if tokenizer_from else None
  like: hf_config.Json = {}
  if source is not None and (source / "config.json").is_file():
    like = json.loads((source / "config.json").read_text())
  if set(params) - {"params"} and "params" in params:
    raise UserError(
      f"the variables hold {sorted(params)}, not params alone",
      "an adapter beside the base would be lost",
      "merge it first, and pass the merged params",
    )
  flat = _flat(params.get("params", params))
  _check_tree(config, flat)
  name = families.family_of(config, like.get("model_type"))
  target.parent.mkdir(parents=True, exist_ok=True)
  scratch = pathlib.Path(
    tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent)
  )
  try:
    dtype = str(flat["embed/embedding"].dtype)
    about = _config_json(name, config, dtype, like)
    (scratch / "config.json").write_text(json.dumps(about, indent=2) + "\n")
    tensors = _tensors(families.FAMILIES[name], config, flat)
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in flat.values())
    write_tensors(scratch, tensors, total, max_shard_bytes)
    if source is not None:
      copy_tokenizer(source, scratch)
    scratch.chmod(0o755)
    os.replace(scratch, target)
  finally:
    shutil.rmtree(scratch, ignore_errors=True)
  return target


def _check_tree(config: TransformerConfig, flat: Mapping[str, Any]) -> None:
  wanted = _leaves(config)
  if "score/kernel" in wanted and "head/kernel" in wanted:
    raise UserError(
      "the tree holds head/kernel and score/kernel",
      "no class of transformers has a language head and a score head",
      "export with outputs=0 and without score, or tied=True without head",
    )
  for names, what in (
    (wanted.keys() - flat.keys(), "lacks"),
    (flat.keys() - wanted.keys(), "holds, without a place in the config,"),
  ):
    if names:
      raise UserError(
        f"the tree {what} {_some(sorted(names))}",
        "transformers would load another model than this one",
        "pass the config that the parameters were made with",
      )
  for leaf, value in flat.items():
    if tuple(value.shape) != wanted[leaf].shape:
      raise UserError(
        f"{leaf} has shape {tuple(value.shape)}, not {wanted[leaf].shape}",
        "the config and the parameters describe different models",
        "pass the config that the parameters were made with",
      )


def _config_json(
  name: str, config: TransformerConfig, dtype: str, like: hf_config.Json
) -> hf_config.Json:
  family = families.FAMILIES[name]
  carried = {k: like[k] for k in _CARRIED if like.get(k) is not None}
  k = config.outputs
  if len(carried.get("id2label", ())) != k:
    carried = {a: b for a, b in carried.items() if "label" not in a}
    if k:
      carried["id2label"] = {str(i): f"LABEL_{i}" for i in range(k)}
      carried["label2id"] = {f"LABEL_{i}": i for i in range(k)}
  return {
    "model_type": name,
    "architectures": [family.score if k else family.causal],
    "torch_dtype": dtype,
    **hf_config.WRITE[name](config),
    **carried,
  }


def _tensors(
  family: families.Family, config: TransformerConfig, flat: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
  """(name, values) of every tensor; one stacked leaf on the host at a time."""
  for rule, names in families.expand(family, flat, config.layers):
    parts = [np.asarray(flat[leaf]) for leaf in rule.ours]
    for i, name in enumerate(names):
      layer = [part[i] if "{i}" in rule.theirs else part for part in parts]
      value = layer[0] if len(layer) == 1 else np.concatenate(layer, -1)
      value = value.T if rule.transpose else value
      full = (family.prefix if rule.trunk else "") + name
      yield full, np.ascontiguousarray(value)
