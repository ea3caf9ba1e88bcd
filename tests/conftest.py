"""Test settings: CPU, shared compilation cache, the repository importable."""

import gc
import itertools
import os
import pathlib
import re
import sys
import threading

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Programs of nano models: compiling them costs more than running them.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# The older emitters compile faster, and one piece costs a fifth less than the
# many that would be compiled side by side: the other core has its own worker.
_FLAGS = (
  "--xla_cpu_use_fusion_emitters=false",
  "--xla_cpu_parallel_codegen_split_count=1",
)
_given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join(
  [*_given.split(), *(f for f in _FLAGS if f.split("=")[0] not in _given)]
)

import jax  # after its settings
import pytest
from jax._src.interpreters import mlir

# An operation outside of jit is a program as well. Setting up the compiler's
# dialects is a quarter of what such a small one costs, so a thread does it
# once for fifty programs (JAX: for each), which bounds what a context keeps.
_PROGRAMS = 50
_fresh_context = mlir.make_ir_context
_kept = threading.local()


def _shared_context():
  if not getattr(_kept, "left", 0):
    _kept.context, _kept.left = _fresh_context(), _PROGRAMS
  _kept.left -= 1
  return _kept.context


mlir.make_ir_context = _shared_context

# Each compiled program holds some memory maps, and Linux allows a process
# 65,530 of them: a worker that has run a thousand tests would be killed.
_MAPS = pathlib.Path("/proc/self/maps")
_MOST_MAPS = 25_000
_tests = itertools.count()


# Files that take a minute or more on one core: workers begin with them.
_LONG = """test_mesh test_stages test_distributed test_resume test_ppo
  test_ensemble_steps test_numerics_contract test_ensembles_method test_members
  test_iterate test_algorithms""".split()


def _share(nodeid):
  """What one worker runs: a file, or the laws of one method."""
  file, _, name = nodeid.partition("::")
  if file.endswith("test_laws.py"):
    return file + "".join(re.findall(r"\[(?:algorithms-|methods-)?(\w+)", name))
  return file


def pytest_collection_modifyitems(items):
  """The laws are many small shares: at the end, workers finish together."""

  def rank(item):
    name = item.path.stem
    return _LONG.index(name) if name in _LONG else 99 + (name == "test_laws")

  items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """A worker runs whole files: what a file shares is compiled once."""
  from xdist.scheduler import LoadScopeScheduling

  class Shares(LoadScopeScheduling):
    def _split_scope(self, nodeid):
      return _share(nodeid)

  config.option.loadscopereorder = False  # the order of the items
  return Shares(config, log)


def pytest_collection_finish():
  """Leaves modules and tests to themselves: tracing makes much garbage."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(10_000, 20, 20)


def pytest_runtest_teardown():
  """Drops compiled programs, which are read back from disk, before that."""
  if next(_tests) % 10 == 9 and _MAPS.exists():
    if _MAPS.read_bytes().count(b"\n") > _MOST_MAPS:
      jax.clear_caches()
      gc.collect()
