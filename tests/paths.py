"""Where the real data for tests lies; tests that need it skip without it."""

import os
import pathlib

import pytest

REPO = pathlib.Path(__file__).resolve().parent.parent


def shared_data(name: str) -> pathlib.Path:
  """The folder of a real data set, or a skip that says what is missing."""
  root = os.environ.get("RLREWARD_DATA", str(REPO.parent / "shared" / "data"))
  path = pathlib.Path(root) / name
  if not path.is_dir():
    pytest.skip(f"data set {name!r} is not at {root}; set RLREWARD_DATA")
  return path
