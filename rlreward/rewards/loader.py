"""Objects by path: "package.module:name" or "path/to/file.py:name".

Our own rewards have short paths, such as "verify:math" and "execute:sql".
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import pathlib
import sys
from types import ModuleType
from typing import Any

from rlreward.errors import UserError
from rlreward.rewards import values

_FIX = (
  "write 'package.module:function', 'path/to/file.py:function', or one of"
  " ours such as 'verify:math'"
)
# A file of the same name is still reached, as "verify.py:name".
SHORT = {
  "verify": "rlreward.rewards.verify",
  "execute": "rlreward.rewards.execute",
  "tina": "rlreward.rewards.tina",
}


def load(path: str) -> Any:
  """The object a path names.

  Args:
    path: module or file, a colon and a name.

  Raises:
    UserError: no such module, file or name, or an import that fails.
  """
  if not isinstance(path, str):
    raise UserError(
      f"path {path!r} is a {type(path).__name__}",
      "an object is found by the name of its module or file",
      _FIX,
    )
  place, colon, name = path.rpartition(":")
  if not (place and colon and name):
    raise UserError(
      f"{path!r} has no module or no name",
      "an object is found by its module or file, a colon and its name",
      _FIX,
    )
  own = place in SHORT
  place = SHORT.get(place, place)
  module = _file(place) if place.endswith(".py") else _module(place)
  found: Any = module
  for part in name.split("."):
    names = dir(found)
    if part not in names:
      public = [n for n in names if not n.startswith("_")]
      if own:  # modules of ours: the rewards in them, not what they import
        kind = importlib.import_module("rlreward.rewards.runner").RewardFunction
        public = [n for n in public if isinstance(getattr(found, n), kind)]
      near = difflib.get_close_matches(part, public, 1)
      raise UserError(
        f"{place} has no {part!r}; it has {sorted(public)[:40]}",
        f"{path!r} was asked for",
        f"use {path.rpartition(':')[0]}:{near[0]}"
        if near
        else "give one of these names",
      )
    found = getattr(found, part)
  return found


def _module(place: str) -> ModuleType:
  try:
    return importlib.import_module(place)
  except Exception as error:  # a user's module may raise anything
    gone = error.name if isinstance(error, ModuleNotFoundError) else None
    if gone is not None and f"{place}.".startswith(f"{gone}."):
      raise UserError(
        f"there is no module {place!r} on the import path",
        f"{gone!r} was not found",
        "install it, start from its directory, or give the file's path",
      ) from error
    raise _failed(place, error) from error


def _file(place: str) -> ModuleType:
  path = pathlib.Path(place).expanduser().resolve()
  if not path.is_file():
    near = sorted(p.name for p in path.parent.glob("*.py"))[:10]
    raise UserError(
      f"there is no file {place!r}",
      f"python files beside it: {near}" if near else "its folder has none",
      "correct the path; it starts at the current directory",
    )
  key = hashlib.blake2b(str(path).encode(), digest_size=6).hexdigest()
  name = f"rlreward_user_{path.stem}_{key}"
  if name in sys.modules:
    return sys.modules[name]
  spec = importlib.util.spec_from_file_location(name, path)
  if spec is None or spec.loader is None:
    raise UserError(f"{place!r} is no python file", "it is imported", _FIX)
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  try:
    spec.loader.exec_module(module)
  except BaseException as error:
    del sys.modules[name]
    if not isinstance(error, (Exception, SystemExit)):
      raise
    raise _failed(place, error) from error
  return module


def _failed(place: str, error: BaseException) -> UserError:
  return UserError(
    f"importing {place!r} raised {type(error).__name__}: {values.said(error)}",
    "its functions cannot be used before it imports",
    f"run `python -c 'import ...'` on {place} and correct the error",
  )
