"""Configs: python files with `get_config`, checked, locked and frozen.

A config file is `configs/<method>.py`. It has `get_config(arg)`, which returns
an `ml_collections.ConfigDict`, and may have `ARMS` (the sides of the paper's
comparison) and `claim` (the paper's sentence as code). On the command line it
is named as `configs/grpo.py:mini,lr=1e-3`: the first word goes to
`get_config`, the rest are fields, read with the type of their default.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import json
import pathlib
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import ml_collections

from rlreward.errors import UserError
from rlreward.fields import (
  assign,
  describe,
  diff,
  flatten,
  nearest,
  to_json,
)
from rlreward.types import Arm

__all__ = [
  "Config",
  "Study",
  "assign",
  "check_workdir",
  "describe",
  "diff",
  "find",
  "flatten",
  "freeze",
  "from_json",
  "load",
  "parse_arg",
  "replace",
  "study",
  "to_json",
]

Config = ml_collections.FrozenConfigDict
PACKAGE = pathlib.Path(__file__).resolve().parent


class Study(NamedTuple):
  """What a config file holds besides its numbers.

  Attributes:
    name: the file's stem, e.g. "grpo".
    path: the file.
    doc: its docstring (paper, claim, run times).
    arms: the sides of the comparison; empty without one.
    claim: ({arm name: result}) -> bool, or None.
  """

  name: str
  path: pathlib.Path
  doc: str
  arms: tuple[Arm, ...]
  claim: Callable[[Mapping[str, Any]], bool] | None


def parse_arg(arg: str) -> tuple[str, dict[str, str]]:
  """Splits "mini,lr=1e-3" into the preset and the fields it changes.

  Args:
    arg: words separated by commas; those with "=" are fields. A comma inside
      brackets does not separate: "mini,betas=(0.9,0.95)".

  Returns:
    ("mini", {"lr": "1e-3"}); words without "=" are joined with commas.

  Raises:
    UserError: a field has no name.
  """
  words, fields = [], {}
  for part in re.split(r",(?![^(\[]*[)\]])", arg):
    name, equals, text = part.partition("=")
    if equals and not name.strip():
      raise UserError(
        f"config argument {part!r} has no field name before '='",
        "the value would change nothing",
        "write it as name=value, e.g. :mini,lr=1e-3",
      )
    if equals:
      fields[name.strip()] = text.strip()
    elif name.strip():
      words.append(name.strip())
  return ",".join(words), fields


def find(name: str) -> pathlib.Path:
  """The file of a config named by path, by name ("grpo") or dotted module.

  Args:
    name: path with or without ".py", bare name or dotted module.

  Returns:
    The file.

  Raises:
    UserError: there is none; the message proposes the nearest names.
  """
  stem = name.removesuffix(".py")
  roots = (pathlib.Path.cwd() / "configs", PACKAGE.parent / "configs",
           PACKAGE / "configs")  # fmt: skip
  candidates = [pathlib.Path(stem + ".py")]
  if re.fullmatch(r"\w+(\.\w+)+", stem):
    candidates.append(pathlib.Path(*stem.split(".")).with_suffix(".py"))
  # "configs/grpo" is found from any working directory.
  tail = re.sub(r"^configs[./]", "", stem)
  candidates += [root / (tail + ".py") for root in roots]
  for path in candidates:
    if path.is_file():
      return path.resolve()
  if re.fullmatch(r"\w+(\.\w+)+", stem):
    with contextlib.suppress(ImportError):
      spec = importlib.util.find_spec(stem)
      if spec and spec.origin:
        return pathlib.Path(spec.origin)
  known = sorted({f.stem for root in roots for f in root.glob("*.py")})
  close = difflib.get_close_matches(pathlib.Path(tail).name, known)
  raise UserError(
    f"there is no config file {name!r}",
    "a run is described by a config file",
    f"name an existing file{nearest(close)}"
    if close or not known
    else f"use one of: {', '.join(known)}",
  )


def load(
  spec: str, overrides: Mapping[str, Any] | Sequence[str] = ()
) -> Config:
  """Loads, overrides, locks and freezes a config.

  Args:
    spec: "file", "file:mini" or "file:mini,lr=1e-3".
    overrides: {"dotted.field": value} or ["--config.dotted.field=value"] (the
      prefix may be left out). They win over those in `spec`.

  Returns:
    The frozen config.

  Raises:
    UserError: no such file, preset or field, or a value of the wrong type.
  """
  name, _, arg = spec.partition(":")
  preset, fields = parse_arg(arg)
  module = _execute(find(name))
  get = vars(module).get("get_config")
  if get is None:
    raise UserError(
      f"{module.__file__} has no get_config",
      "a config file is a function that returns a ConfigDict",
      "add: def get_config(arg='mini'): return ConfigDict({...})",
    )
  config = get(preset) if preset else get()
  config = ml_collections.ConfigDict(config)
  assign(config, fields)
  if not isinstance(overrides, Mapping):
    overrides = _split(overrides)
  assign(config, overrides)
  return ml_collections.FrozenConfigDict(config)


def from_json(text: str, overrides: Sequence[str] = ()) -> Config:
  """A config back from the `config.json` of a run.

  Args:
    text: what `to_json` wrote.
    overrides: ["--config.dotted.field=value"].

  Returns:
    The frozen config.
  """
  config = ml_collections.ConfigDict(_tuples(json.loads(text)))
  assign(config, _split(overrides))
  return ml_collections.FrozenConfigDict(config)


def _tuples(node: Any) -> Any:
  if isinstance(node, dict):
    return {k: _tuples(v) for k, v in node.items()}
  return tuple(_tuples(v) for v in node) if isinstance(node, list) else node


def freeze(tree: Mapping[str, Any]) -> Config:
  """A plain nested mapping as a frozen config."""
  return ml_collections.FrozenConfigDict(ml_collections.ConfigDict(tree))


def study(spec: str) -> Study:
  """The comparison and the claim of a config file.

  Args:
    spec: as for `load`; what follows ":" is ignored.

  Returns:
    The Study.

  Raises:
    UserError: no such file.
  """
  path = find(spec.partition(":")[0])
  names = vars(_execute(path))
  return Study(path.stem, path, (names.get("__doc__") or "").strip(),
               tuple(names.get("ARMS", ())), names.get("claim"))  # fmt: skip


def replace(config: Any, overrides: Mapping[str, Any]) -> Config:
  """A frozen copy with some fields changed, e.g. those of an `Arm`.

  Args:
    config: ConfigDict, frozen or not; it is left as it is.
    overrides: {"dotted.field": value}.

  Returns:
    The frozen copy.

  Raises:
    UserError: no such field, or a value of the wrong type.
  """
  copy = ml_collections.ConfigDict(config.to_dict())
  assign(copy, overrides)
  return ml_collections.FrozenConfigDict(copy)


def check_workdir(
  workdir: str | pathlib.Path, config: Any, may_change: Collection[str] = ()
) -> None:
  """Refuses a run directory made with another config; keeps ours in it.

  Args:
    workdir: the run directory, created if absent.
    config: this run's config, kept as `config.json`.
    may_change: dotted fields that a resumed run may change (e.g. "steps").

  Raises:
    UserError: the directory holds a run with another config; shows the diff.
  """
  path = pathlib.Path(workdir) / "config.json"
  if path.is_file():
    allowed = tuple(may_change)
    lines = [
      line
      for line in diff(path.read_text(), config)
      if line.partition(": ")[0] not in allowed
    ]
    if lines:
      shown = [*lines[:8], *([f"... {len(lines) - 8} more"] * (len(lines) > 8))]
      raise UserError(
        f"{workdir} holds a run with another config (old -> new): "
        + "; ".join(shown),
        "resuming would mix two experiments in one curve",
        "use another --workdir, or --overwrite to start again there",
      )
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(to_json(config))


def _execute(path: pathlib.Path) -> ModuleType:
  """Runs a config file; `from configs import common` works inside it."""
  spec = importlib.util.spec_from_file_location(f"_config_{path.stem}", path)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  # The file's neighbours come first. In a wheel they lie inside the package,
  # which comes last: its types.py must not hide the standard library's.
  root, before = path.parent.parent, list(sys.path)
  first = [] if root == PACKAGE else [str(root)]
  _forget(path.parent)
  sys.path[:] = [*first, *before, str(PACKAGE.parent), str(PACKAGE)]
  try:
    spec.loader.exec_module(module)
  finally:
    sys.path[:] = before
  return module


def _forget(folder: pathlib.Path) -> None:
  """Drops modules cached from another folder of the same name."""
  package = sys.modules.get(folder.name)
  # Only folders without __init__.py: those hold configs, not code.
  if package is None or package.__spec__ is None or package.__spec__.origin:
    return
  if str(folder) != next(iter(package.__path__), None):
    for name in list(sys.modules):
      if name == folder.name or name.startswith(f"{folder.name}."):
        del sys.modules[name]


def _split(texts: Sequence[str]) -> dict[str, str]:
  fields = {}
  for text in texts:
    name, equals, value = text.partition("=")
    if not equals:
      raise UserError(
        f"{text!r} gives no value",
        "an override is a field and a value",
        f"write --config.{name.removeprefix('--config.')}=VALUE",
      )
    fields[name.removeprefix("--config.").removeprefix("config.")] = value
  return fields
