"""Test settings: CPU, shared compilation cache, the repository importable."""

import gc
import itertools
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
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

# Each compiled program holds some memory maps, and Linux allows a process
# 65,530 of them: a worker that has run a thousand tests would be killed.
_MAPS = pathlib.Path("/proc/self/maps")
_MOST_MAPS = 25_000
_tests = itertools.count()


def pytest_runtest_teardown():
  """Drops compiled programs, which are read back from disk, before that."""
  if next(_tests) % 10 == 9 and _MAPS.exists():
    if _MAPS.read_bytes().count(b"\n") > _MOST_MAPS:
      jax.clear_caches()
      gc.collect()
