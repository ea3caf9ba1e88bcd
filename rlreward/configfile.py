"""Config files: found by name, run, and asked for a preset."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import inspect
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import ml_collections

from rlreward.errors import UserError
from rlreward.fields import nearest

PACKAGE = pathlib.Path(__file__).resolve().parent


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
  files = (f for root in roots for f in root.glob("*.py"))
  known = sorted({f.stem for f in files} - {"common"})
  close = difflib.get_close_matches(pathlib.Path(tail).name, known)
  raise UserError(
    f"there is no config file {name!r}",
    "a run is described by a config file",
    f"name an existing file{nearest(close)}"
    if close or not known
    else f"use one of: {', '.join(known)}",
  )


def get(path: pathlib.Path, preset: str) -> Any:
  """What `get_config` of a file returns for a preset.

  Args:
    path: the file.
    preset: e.g. "mini"; empty for the file's default.

  Raises:
    UserError: no `get_config`, no such preset, or a file that fails.
  """
  names = vars(execute(path))
  function = names.get("get_config")
  fix = "write: def get_config(arg='mini'): return ConfigDict({...})"
  if function is None:
    raise UserError(
      f"{path} has no get_config",
      "a config file is a function that returns a ConfigDict",
      fix,
    )
  known = names.get("PRESETS", ())
  if preset and not inspect.signature(function).parameters:
    raise UserError(
      f"get_config of {path} takes no argument, so {preset!r} says nothing",
      "what is written after ':' and has no '=' goes to get_config",
      f"leave {preset!r} out",
    )
  if preset and known and preset not in known:
    raise UserError(
      f"{path.name} has no preset {preset!r}",
      "another size than the one that was asked for would train",
      f"use one of: {', '.join(known)}",
    )
  config = _guard(path, lambda: function(*[preset] * bool(preset)))
  kinds = Mapping | ml_collections.ConfigDict | ml_collections.FrozenConfigDict
  if not isinstance(config, kinds):
    raise UserError(
      f"get_config of {path} returns a {type(config).__name__}",
      "a run reads its fields from a ConfigDict",
      fix,
    )
  return config


def execute(path: pathlib.Path) -> ModuleType:
  """Runs a config file; `from configs import common` works inside it.

  Args:
    path: the file.

  Raises:
    UserError: the file fails; names its line.
  """
  spec = importlib.util.spec_from_file_location(f"_config_{path.stem}", path)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  # The file's neighbours come first. In a wheel they lie inside the package,
  # which comes last: its types.py must not hide the standard library's.
  root, before = path.parent.parent, list(sys.path)
  first = [] if root == PACKAGE else [str(root)]
  _forget(path.parent)
  sys.path[:] = [*first, *before, str(PACKAGE.parent), str(PACKAGE)]
  loader = spec.loader
  try:
    _guard(path, lambda: loader.exec_module(module))
  finally:
    sys.path[:] = before
  return module


def _guard(path: pathlib.Path, function: Callable[[], Any]) -> Any:
  """Runs the user's code; what it raises names the file and its line."""
  try:
    return function()
  except UserError:
    raise
  except Exception as error:  # a user's file may raise anything
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if f.filename == str(path)]
    if isinstance(error, SyntaxError):
      lines.append(error.lineno)
    where = f" in line {lines[-1]}" if lines else ""
    said = (str(error).strip() or "no message").splitlines()[0]
    raise UserError(
      f"config file {path} fails{where}: {type(error).__name__}: {said}",
      "a config file is Python and runs before anything else",
      "correct the line",
    ) from error


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
