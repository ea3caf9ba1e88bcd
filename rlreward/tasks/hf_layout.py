"""The files of a split in a data set directory of the Hugging Face hub.

  DIR/train-00000-of-00002.parquet, DIR/data/train-*.parquet
  DIR/train.parquet, DIR/train.jsonl, DIR/train.jsonl.gz (also DIR/data/..)
  DIR/train/*.parquet, DIR/train/*.jsonl
  DIR/train/data-00000-of-00001.arrow   (`save_to_disk`)

A directory with several configurations has one of these in each of its
directories; name that directory: "hf:DIR/CONFIG/split".
"""

from __future__ import annotations

import pathlib
import re

from rlreward.errors import UserError

_ENDINGS = (".parquet", ".arrow", ".jsonl", ".jsonl.gz")
_SHARD = re.compile(r"(.+?)-(\d+)-of-(\d+)(?:-[0-9a-f]+)?")


def files(spec: str) -> list[str]:
  """The files of a split, in the order of their rows.

  Args:
    spec: "hf:directory/split".

  Raises:
    UserError: no directory or split, several that could be meant, or shards
      that are missing.
  """
  folder, slash, split = spec.removeprefix("hf:").rpartition("/")
  root = pathlib.Path(folder)
  if not (slash and split):
    raise UserError(
      f"{spec!r} has no directory or no split",
      "a data set is read one split at a time",
      "write 'hf:directory/split', for example 'hf:data/hh-rlhf/train'",
    )
  if not root.is_dir():
    near = [p.name for p in root.parent.glob("*") if p.is_dir()]
    raise UserError(
      f"there is no directory {folder!r}",
      f"directories beside it: {sorted(near)[:10]}",
      "correct the path; a data set of the hub is downloaded first, with"
      " `huggingface-cli download --repo-type dataset`",
    )
  found = _of(root, split)
  if not found:
    within = {p.name: _of(p, split) for p in sorted(root.glob("*"))
              if p.is_dir() and p.name not in ("data", split)}  # fmt: skip
    within = {k: v for k, v in within.items() if v}
    if len(within) > 1:
      raise UserError(
        f"{folder} has the configurations {sorted(within)}, each with a split"
        f" {split!r}",
        "their rows are not mixed",
        f"name one: 'hf:{folder}/{sorted(within)[0]}/{split}'",
      )
    found = next(iter(within.values()), [])
  if not found:
    raise UserError(
      f"{folder} has no split {split!r}; it has {splits(root)}",
      "a split is found by the names of its files",
      "name one of its splits",
    )
  _check_shards(found)
  return [str(p) for p in found]


def splits(root: pathlib.Path) -> list[str]:
  """Names of the splits that the files of a directory are of."""
  names = set()
  for folder in (root, root / "data"):
    for path in folder.glob("*"):
      stem = _stem(path)
      if path.is_file() and stem:
        shard = _SHARD.fullmatch(stem)
        names.add(shard[1] if shard else stem)
      elif path.is_dir() and any(_stem(p) for p in path.glob("*")):
        names.add(path.name)
  return sorted(names)


def _of(root: pathlib.Path, split: str) -> list[pathlib.Path]:
  """Files of a split below a directory, of the first layout that it has."""
  for folder in (root, root / "data"):
    own = [p for p in sorted(folder.glob("*")) if p.is_file() and _stem(p)]
    for ending in _ENDINGS:
      same = [p for p in own if p.name.endswith(ending)]
      match = [p for p in same if _is(p, split)]
      if match:
        return match
    inner = [p for p in sorted((folder / split).glob("*")) if p.is_file()]
    for ending in _ENDINGS:
      match = [p for p in inner if _stem(p) and p.name.endswith(ending)]
      if match:
        return match
  return []


def _is(path: pathlib.Path, split: str) -> bool:
  stem = _stem(path)
  shard = _SHARD.fullmatch(stem)
  return split == (shard[1] if shard else stem)


def _stem(path: pathlib.Path) -> str:
  """The name without its ending; "" for a file that holds no rows."""
  for ending in _ENDINGS:
    if path.name.endswith(ending):
      return path.name.removesuffix(ending)
  return ""


def _check_shards(found: list[pathlib.Path]) -> None:
  """Refuses a split of which a shard is missing: rows would be."""
  numbered = [_SHARD.fullmatch(_stem(p)) for p in found]
  shards = [(int(m[2]), int(m[3])) for m in numbered if m]
  if not shards:
    return
  count = shards[0][1]
  left = sorted(set(range(count)) - {i for i, _ in shards})
  if left or len(shards) != count:
    raise UserError(
      f"{found[0].parent} has {len(shards)} of {count} shards; missing: {left}",
      "rows would be missing",
      "download the data set again",
    )
