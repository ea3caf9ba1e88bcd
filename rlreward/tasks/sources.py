"""Where rows come from: files, lists, generators, TFDS. Read by index.

Every source ends up as a sequence of dicts with a length and random access, so
that an iterator's state is one number. Heavy readers are imported when used.
"""

from __future__ import annotations

import glob
import gzip
import itertools
import json
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np

from rlreward.errors import UserError
from rlreward.rewards import loader, values
from rlreward.tasks import hf_layout

Row = Mapping[str, Any]
LIMIT = 1_000_000
_LINES = (".jsonl", ".jsonl.gz")
_KINDS = (*_LINES, ".parquet")
_FIX = (
  "give a list of dicts, a generator function, 'file.jsonl[.gz]',"
  " 'file.parquet', 'file.py:function', 'hf:directory/split' or"
  " 'tfds:name/split'"
)


class Source(Protocol):
  """Rows by index."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int, /) -> Row: ...


def open_source(spec: Any, limit: int = LIMIT) -> Source:
  """Opens rows of any kind.

  Args:
    spec: a sequence of dicts; a function without arguments that yields dicts,
      or its path "file.py:function"; files ending in .jsonl, .jsonl.gz or
      .parquet, `*` allowed; "hf:directory/split" for a data set in the layout
      of the Hugging Face hub, see `hf_layout`; "tfds:name/split".
    limit: rows at which a generator is taken to be endless.

  Returns:
    A source with at least one row.

  Raises:
    UserError: not found, empty, malformed (the line is named), or unknown.
  """
  if isinstance(spec, str):
    source = _named(spec, limit)
  elif callable(spec):
    source = _generated(cast("Callable[[], Iterable[Row]]", spec), limit)
  elif isinstance(spec, Sequence) or _random_access(spec):
    source = spec
  elif isinstance(spec, Iterable) and not isinstance(spec, Mapping):
    raise UserError(
      f"data is a {type(spec).__name__} that can be read once",
      "a second epoch or a restart could not read it again",
      "pass the function that makes it, or list(...) of it",
    )
  else:
    raise UserError(f"data is a {type(spec).__name__}", "no rows in it", _FIX)
  name = describe(spec)
  if not len(source):
    raise UserError(f"{name} has no rows", "there is nothing to read", _FIX)
  first = source[0]
  if not isinstance(first, Mapping):
    raise UserError(
      f"row 0 of {name} is a {type(first).__name__}",
      "rows are read by column name",
      'give dicts such as {"prompt": "...", "answer": "..."}',
    )
  return source


def describe(spec: Any) -> str:
  """A source's name, for messages."""
  if isinstance(spec, str):
    return spec
  if callable(spec):
    return f"generator {getattr(spec, '__name__', type(spec).__name__)}"
  return f"the {type(spec).__name__} of rows"


def _named(spec: str, limit: int) -> Source:
  if spec.startswith("tfds:"):
    return _tfds(spec)
  if spec.startswith("hf:"):
    return _files(hf_layout.files(spec))
  path, _, name = spec.rpartition(":")
  if path and name.isidentifier():
    return _generated(loader.load(spec), limit)
  if not spec.endswith(_KINDS):
    raise UserError(
      f"data {spec!r} has an ending that is not known",
      f"the reader is chosen by the ending; known: {', '.join(_KINDS)}",
      _FIX,
    )
  wild = any(c in spec for c in "*?[")
  files = sorted(glob.glob(spec)) if wild else [spec]
  if not files or not all(pathlib.Path(f).is_file() for f in files):
    folder = pathlib.Path(spec).parent
    near = [p.name for p in folder.glob("*") if p.name.endswith(_KINDS)]
    raise UserError(
      f"there is no data file {spec!r}",
      f"files beside it: {sorted(near)[:10]}",
      "correct the path; it starts at the current directory",
    )
  return _files(files)


class _Lines(list[Row]):
  """Rows of JSONL files, in memory.

  Args:
    files: in the order of their rows.
  """

  def __init__(self, files: Sequence[str]):
    super().__init__()
    self.parts: dict[str, int] = {}
    for file in files:
      before = len(self)
      self.extend(_jsonl(file))
      self.parts[file] = len(self) - before


def parts(source: Source) -> dict[str, int]:
  """{file: rows} of a source that was read from files, else {}."""
  return dict(source.parts) if isinstance(source, (_Lines, _Table)) else {}


def _files(files: Sequence[str]) -> Source:
  """Rows of files of one kind."""
  if files[0].endswith(_LINES):
    return _Lines(files)
  return _Table(files)


def _jsonl(path: str) -> Iterable[Row]:
  where = pathlib.Path(path).name
  opener = gzip.open if path.endswith(".gz") else open
  number = 0
  try:
    with opener(path, "rb") as lines:
      for number, line in enumerate(lines, 1):
        if line.strip():
          yield _line(where, number, line)
  except (OSError, EOFError, zlib.error) as error:
    raise UserError(
      f"{where} cannot be read after line {number}: {values.said(error)}",
      "rows would be missing",
      "write the file again; it may be cut off or of another format",
    ) from error


def _line(where: str, number: int, line: bytes) -> Row:
  try:
    row = json.loads(line)
  except ValueError as error:
    head = line[:60].decode("utf-8", "replace").strip()
    raise UserError(
      f"line {number} of {where} is not JSON: {error} in {head!r}",
      "each line is one JSON object",
      f"correct line {number}",
    ) from error
  if not isinstance(row, dict):
    raise UserError(
      f"line {number} of {where} is a {type(row).__name__}, not an object",
      "rows are read by column name",
      f'write line {number} as {{"prompt": ...}}',
    )
  return row


def _generated(make: Callable[[], Iterable[Row]], limit: int) -> Source:
  name = describe(make)
  try:
    rows = list(itertools.islice(make(), limit + 1))
  except TypeError as error:
    raise UserError(
      f"{name} cannot be read: {values.said(error)}",
      "it is called without arguments and must yield rows",
      "write it as def rows(): yield {...}",
    ) from error
  if len(rows) > limit:
    raise UserError(
      f"{name} yields more than {limit:,} rows",
      "rows are kept, so that every epoch and every restart sees the same",
      "yield fewer rows, or write them to a parquet file",
    )
  return rows


class _Table:
  """Arrow tables in memory; a row becomes Python when it is read.

  Args:
    files: of parquet, or of the Arrow streams that `save_to_disk` of the
      datasets library writes.
  """

  def __init__(self, files: Sequence[str]):
    import pyarrow

    try:
      tables = [_table(f) for f in files]
      self._table = pyarrow.concat_tables(tables)
    except (pyarrow.ArrowException, OSError) as error:
      raise UserError(
        f"{', '.join(files)} cannot be read: {values.said(error)}",
        "it is not parquet, or its files have different columns",
        "write it again, or convert it to .jsonl",
      ) from error
    each = zip(files, tables, strict=True)
    self.parts = {file: table.num_rows for file, table in each}

  def __len__(self) -> int:
    return self._table.num_rows

  def __getitem__(self, index: int) -> Row:
    return self._table.slice(index, 1).to_pylist()[0]


def _table(path: str) -> Any:
  import pyarrow
  import pyarrow.parquet

  if path.endswith(".parquet"):
    return pyarrow.parquet.read_table(path)
  with pyarrow.memory_map(path) as file:
    return pyarrow.ipc.open_stream(file).read_all()


class _Tfds:
  """A TFDS data source; rows are read from disk when asked for."""

  def __init__(self, source: Any):
    self._source = source

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Row:
    return {k: _plain(v) for k, v in self._source[index].items()}


def _tfds(spec: str) -> Source:
  name, slash, split = spec.removeprefix("tfds:").rpartition("/")
  if not (name and slash and split):
    raise UserError(
      f"{spec!r} has no name or no split",
      "a data set is read one split at a time",
      "write 'tfds:name/split', for example 'tfds:gsm8k/train'",
    )
  try:
    import tensorflow_datasets as tfds

    builder: Any = tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
  except Exception as error:  # missing packages and names of many kinds
    raise UserError(
      f"{spec!r} cannot be opened: {values.said(error)}",
      "the data set or a package that reads it is missing",
      "check the name, TFDS_DATA_DIR and `pip install tensorflow-datasets"
      " importlib_resources`",
    ) from error
  if not pathlib.Path(builder.data_dir).exists():
    size = builder.info.download_size
    if os.environ.get("RLREWARD_OFFLINE", "0") not in ("", "0"):
      raise UserError(
        f"{name} is not prepared in {builder.data_dir}; it would be {size}",
        "RLREWARD_OFFLINE is set, so nothing is downloaded",
        "prepare it where there is a network, or unset RLREWARD_OFFLINE",
      )
    print(f"downloading {name} ({size}) to {builder.data_dir}")
    builder.download_and_prepare(file_format="array_record")
  try:
    return _Tfds(builder.as_data_source(split))
  except (NotImplementedError, ValueError, KeyError) as error:
    raise UserError(
      f"{spec!r} has no random access: {values.said(error)}",
      f"splits found: {sorted(builder.info.splits)}; the files must be in"
      " the array_record format",
      "prepare it with file_format='array_record'",
    ) from error


def _plain(value: Any) -> Any:
  """TFDS values as Python ones: bytes that are text become str."""
  if isinstance(value, bytes):
    try:
      return value.decode()
    except UnicodeDecodeError:
      return value
  if isinstance(value, dict):
    return {k: _plain(v) for k, v in value.items()}
  if isinstance(value, np.ndarray):
    return [_plain(v) for v in value] if value.dtype == object else value
  return value.item() if isinstance(value, np.generic) else value


def _random_access(spec: Any) -> bool:
  kind = type(spec)
  has = all(n in dir(kind) for n in ("__len__", "__getitem__"))
  return has and not issubclass(kind, (Mapping, np.ndarray))
