"""The files of a model directory: tensors by name, config.json, tokenizer."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Iterable
from typing import Any

import numpy as np

from rlreward.errors import UserError
from rlreward.models import families

Path = str | os.PathLike[str]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# F16 widens to float32 without loss; config.param_dtype knows these two.
TYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float32"}
_WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_TOKENIZER_FILES = (
  "tokenizer*",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "vocab.txt",
  "merges.txt",
  "spiece.model",
  "chat_template*",
  "generation_config.json",
)


class Files:
  """The tensors of a directory, by name, read one at a time."""

  def __init__(self, folder: pathlib.Path):
    from safetensors import SafetensorError, safe_open

    self.folder = folder
    self._opened: dict[str, Any] = {}
    self._file: dict[str, str] = {}
    listed = index(folder)
    for file in sorted(set(listed.values())) if listed else [SINGLE]:
      try:
        opened = safe_open(folder / file, framework="numpy")
      except (FileNotFoundError, SafetensorError) as error:
        raise UserError(
          f"{folder / file} cannot be read: {error}",
          "its tensors would be missing from the model",
          "download or copy the directory again, all of its files",
        ) from None
      self._opened[file] = opened
      for name in opened.keys():
        self._file[name] = file
    for name, file in listed.items():
      if self._file.get(name) != file:
        raise UserError(
          f"{folder / INDEX} puts tensor {name!r} in {file}, not found there",
          "the shards and the index belong to different checkpoints",
          "download or copy the directory again, all of its files",
        )

  @property
  def names(self) -> set[str]:
    """All tensors of all files."""
    return set(self._file)

  def where(self, name: str) -> str:
    """File and tensor, for messages."""
    return f"{self.folder / self._file[name]}: tensor {name!r}"

  def dtype(self, name: str) -> str:
    """The type to hold a tensor in; no value changes."""
    kind = self._opened[self._file[name]].get_slice(name).get_dtype()
    if kind not in TYPES:
      raise UserError(
        f"{self.where(name)} has type {kind}",
        f"parameters are read as {', '.join(TYPES)}",
        "use a checkpoint that is not quantised",
      )
    return TYPES[kind]

  def shape(self, name: str) -> tuple[int, ...]:
    """Its shape, from the header."""
    part = self._opened[self._file[name]].get_slice(name)
    return tuple(part.get_shape())

  def read(self, name: str) -> np.ndarray:
    """Its values."""
    return self._opened[self._file[name]].get_tensor(name)


def index(folder: pathlib.Path) -> dict[str, str]:
  """The shard of each tensor, or {} where there is one file."""
  path = folder / INDEX
  if (folder / SINGLE).is_file() or not path.is_file():
    return {}
  found = _object(path).get("weight_map")
  if not isinstance(found, dict):
    raise UserError(
      f"{path} has no weight_map",
      "it says which file holds which tensor",
      "copy the file from the checkpoint again",
    )
  return found


def read_json(folder: pathlib.Path) -> dict[str, Any]:
  """The config.json of a directory, refused where no family reads it."""
  path = folder / "config.json"
  if not path.is_file():
    raise UserError(
      f"{path} does not exist",
      "the shape of the model is written there",
      "give a directory in the Hugging Face layout",
    )
  hf = _object(path)
  kind, known = hf.get("model_type"), families.FAMILIES
  if kind not in known:
    raise UserError(
      f"{path} has model_type={kind!r}",
      f"the families are {', '.join(known)}"
      + (" (gemma3 is the one with images)" if kind == "gemma3" else ""),
      "use a text-only checkpoint of one of them",
    )
  return hf


def _object(path: pathlib.Path) -> dict[str, Any]:
  """The JSON object in a file."""
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except (ValueError, OSError) as error:
    found = f"no JSON ({error})"
  if not isinstance(found, dict):
    shown = found if isinstance(found, str) else f"a {type(found).__name__}"
    raise UserError(
      f"{path} holds {shown}",
      "it should be a JSON object",
      "copy the file from the checkpoint again",
    )
  return found


def resolve(path: Path) -> pathlib.Path:
  """A local directory; a hub name is looked up in the cache, then fetched.

  A download prints what and how large first.

  Args:
    path: a directory, or a name like "owner/model".

  Returns:
    The directory.

  Raises:
    UserError: neither a directory nor a hub name; or a download is needed
      where RLREWARD_OFFLINE is set or the network is not there.
  """
  folder = pathlib.Path(path)
  if folder.is_dir():
    return folder
  name = str(path)
  if name.count("/") != 1 or name.startswith((".", "/", "~")):
    raise UserError(
      f"{name!r} is not a directory",
      "a checkpoint is a directory, or a hub name like 'owner/model'",
      "correct the path",
    )
  import huggingface_hub

  try:
    return pathlib.Path(
      huggingface_hub.snapshot_download(
        name, allow_patterns=list(_WANTED), local_files_only=True
      )
    )
  except (OSError, ValueError):
    pass  # not in the cache
  if os.environ.get("RLREWARD_OFFLINE", "0") not in ("", "0"):
    raise UserError(
      f"{name!r} is neither a directory nor in the cache, and "
      "RLREWARD_OFFLINE is set",
      "loading it would be a download",
      "unset RLREWARD_OFFLINE, or give a local directory",
    )
  try:
    info = huggingface_hub.HfApi().model_info(name, files_metadata=True)
    files = [f for f in info.siblings or () if _is_wanted(f.rfilename)]
    size = sum(f.size or 0 for f in files) / 1e9
    print(f"downloading {name}: {len(files)} files, {size:.2f} GB", flush=True)
    fetched = huggingface_hub.snapshot_download(
      name, revision=info.sha, allow_patterns=list(_WANTED)
    )
  except Exception as error:  # the hub client raises many unrelated types
    raise UserError(
      f"{name!r} is not a directory here and cannot be downloaded: "
      f"{_brief(error)}",
      "the network, the name or the access rights are missing",
      "give a local directory, or repair the connection",
    ) from None
  return pathlib.Path(fetched)


def _brief(error: Exception) -> str:
  """Type and first line of an error of another library."""
  return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _is_wanted(name: str) -> bool:
  return any(pathlib.PurePath(name).match(pattern) for pattern in _WANTED)


def load_tokenizer(path: Path) -> Any:
  """The `transformers` tokenizer of a local directory; never a download.

  Args:
    path: a directory with tokenizer files.

  Raises:
    UserError: no directory, or no tokenizer that `transformers` can build.
  """
  folder = pathlib.Path(path)
  if not folder.is_dir():
    raise UserError(
      f"{str(path)!r} is not a directory",
      "a tokenizer is read from local files only",
      "give the directory of the checkpoint",
    )
  import transformers

  try:
    return transformers.AutoTokenizer.from_pretrained(
      str(folder), local_files_only=True
    )
  except Exception as error:  # unknown class, missing file, broken JSON
    raise UserError(
      f"{folder} has no tokenizer that transformers loads: {_brief(error)}",
      "text cannot become tokens",
      "copy tokenizer.json and tokenizer_config.json into the directory",
    ) from None


def copy_tokenizer(source: pathlib.Path, target: pathlib.Path) -> None:
  """Copies tokenizer, chat template and generation settings, as they are."""
  for pattern in _TOKENIZER_FILES:
    for file in sorted(source.glob(pattern)):
      if file.is_file():
        shutil.copyfile(file, target / file.name)


def has_tokenizer(folder: pathlib.Path) -> bool:
  """Whether a directory has files of a tokenizer."""
  return any(folder.glob("*tokenizer*")) or (folder / "vocab.json").is_file()


def write_tensors(
  folder: pathlib.Path,
  tensors: Iterable[tuple[str, np.ndarray]],
  total: int,
  limit: int,
) -> None:
  """One file, or shards with an index; one shard is in memory at a time.

  Args:
    folder: where to write.
    tensors: (name, values), consumed in order.
    total: bytes of all of them.
    limit: bytes above which they are split, and most bytes of a shard (a
      single larger tensor is a shard of its own).
  """
  from safetensors.numpy import save_file

  shards: list[dict[str, int]] = []
  batch: dict[str, np.ndarray] = {}

  def flush():
    if batch:
      file = SINGLE if total <= limit else f"part-{len(shards)}"
      save_file(batch, folder / file, metadata={"format": "pt"})
      shards.append({name: value.nbytes for name, value in batch.items()})
      batch.clear()

  held = 0
  for name, value in tensors:
    if batch and total > limit and held + value.nbytes > limit:
      flush()
      held = 0
    batch[name] = value
    held += value.nbytes
  flush()
  if total <= limit:
    return
  where = {}
  for i, names in enumerate(shards):
    file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
    (folder / f"part-{i}").rename(folder / file)
    where.update(dict.fromkeys(names, file))
  about = {"metadata": {"total_size": total}, "weight_map": where}
  (folder / INDEX).write_text(json.dumps(about, indent=2) + "\n")
