"""What is installed, what is missing and the command that adds it."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any, NamedTuple

import rlreward

PYTHONS = ((3, 11), (3, 13))
PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "grain",
  "ml-collections",
  "transformers",
  "safetensors",
  "numpy",
)


class Extra(NamedTuple):
  """An optional part: the module that shows it is there, what it is for."""

  module: str
  purpose: str


EXTRAS: Mapping[str, Extra] = {
  "tpu": Extra("libtpu", "Google TPUs"),
  "cuda13": Extra("jax_cuda13_plugin", "NVIDIA GPUs"),
  "math": Extra("math_verify", "rewards that compare formulas"),
  "sql": Extra("sqlglot", "rewards for parts of a query"),
  "text": Extra("sacrebleu", "BLEU and chrF as published"),
  "lora": Extra("qwix", "LoRA on quantised bases"),
  "kernels": Extra("tokamax", "fused attention kernels"),
  "wandb": Extra("wandb", "logging to Weights & Biases"),
  "envs": Extra("gymnax", "classical control environments"),
  "slurm": Extra("submitit", "launching on SLURM"),
  "torch": Extra("torch", "check-parity with the original models"),
  "oracles": Extra("trl", "tests against other libraries"),
  "docs": Extra("jupytext", "notebooks"),
  "test": Extra("pytest", "the test suite"),
}


def report() -> dict[str, Any]:
  """Looks at this machine and this installation; changes nothing.

  Returns:
    A JSON-able dict: `python`, `platform`, `packages`, `backend`, `devices`,
    `ram_gib`, `extras`, `cache`, `environment`, `conflicts`, `fixes` (each a
    sentence with the command) and `ok`.
  """
  found: dict[str, Any] = {
    "rlreward": rlreward.__version__,
    "python": platform.python_version(),
    "platform": platform.platform(),
    "packages": _packages(),
    **_devices(),
    "ram_gib": _ram(),
    "extras": {
      name: {
        "installed": _present(extra.module),
        "for": extra.purpose,
        "command": f"pip install 'rlreward[{name}]'",
      }
      for name, extra in EXTRAS.items()
    },
    "cache": _cache(),
    "environment": {
      k: os.environ[k]
      for k in ("JAX_PLATFORMS", "XLA_FLAGS", "RLREWARD_OFFLINE")
      if k in os.environ
    },
    "conflicts": _conflicts(),
  }
  found["fixes"] = _fixes(found)
  found["ok"] = not found["fixes"]
  return found


def text(found: Mapping[str, Any]) -> str:
  """The report for people.

  Args:
    found: what `report` returned.

  Returns:
    Lines that end in "all good" or in a numbered list of fixes.
  """
  cache = found["cache"]
  ram = f"{found['ram_gib']:.1f} GiB" if found["ram_gib"] else "unknown"
  rows = [
    ("rlreward", found["rlreward"]),
    ("python", f"{found['python']} on {found['platform']}"),
    *found["packages"].items(),
    ("devices", ", ".join(found["devices"]) or found["error"]),
    ("memory", ram),
    ("cache", cache["path"] + ("" if cache["writable"] else " (read-only)")),
    *found["environment"].items(),
  ]
  lines = [f"{name:<22}{value}" for name, value in rows]
  lines += ["", "optional parts"]
  for name, extra in found["extras"].items():
    state = "installed" if extra["installed"] else extra["command"]
    lines.append(f"  {name:<20}{state:<36}{extra['for']}")
  lines.append("")
  if found["ok"]:
    return "\n".join([*lines, "all good"])
  lines.append("to fix:")
  lines += [f"  {i}. {fix}" for i, fix in enumerate(found["fixes"], 1)]
  return "\n".join(lines)


def exit_code(found: Mapping[str, Any]) -> int:
  """0 when all is good, 1 when something is to be fixed."""
  return 0 if found["ok"] else 1


def _present(module: str) -> bool:
  return importlib.util.find_spec(module) is not None


def _packages() -> dict[str, str]:
  found = {}
  for name in PACKAGES:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      found[name] = "missing"
  return found


def _devices() -> dict[str, Any]:
  try:
    import jax

    devices = jax.devices()
  except Exception as error:
    message = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return {"backend": None, "devices": [], "error": message}
  kinds: dict[str, int] = {}
  for device in devices:
    kinds[device.device_kind] = kinds.get(device.device_kind, 0) + 1
  return {
    "backend": jax.default_backend(),
    "devices": [f"{n} x {kind}" for kind, n in kinds.items()],
    "error": None,
  }


def _ram() -> float | None:
  names = os.sysconf_names
  if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
    return None
  total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  return round(total / 2**30, 1)


def _cache() -> dict[str, Any]:
  """Where compiled programs are kept; the nearest existing parent counts."""
  given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
  if not given:
    return {"path": "in the run directory", "writable": True}
  path = pathlib.Path(given).expanduser().absolute()
  parent = next(p for p in (path, *path.parents) if p.exists())
  writable = parent.is_dir() and os.access(parent, os.W_OK)
  return {"path": str(path), "writable": writable}


def _conflicts() -> list[str]:
  """Requirements of the installed package that are missing or do not fit."""
  from packaging.requirements import Requirement

  try:
    lines = metadata.requires("rlreward") or []
  except metadata.PackageNotFoundError:
    return []  # run from a source tree
  found = []
  for line in lines:
    need = Requirement(line)
    chosen = need.marker is None or need.marker.evaluate({"extra": ""})
    if not chosen:
      continue
    try:
      have = metadata.version(need.name)
    except metadata.PackageNotFoundError:
      found.append(f"{need.name} is missing (wanted {need.specifier})")
      continue
    if not need.specifier.contains(have, prereleases=True):
      found.append(f"{need.name} is {have}, wanted {need.specifier}")
  return found


def _fixes(found: Mapping[str, Any]) -> list[str]:
  fixes, packages = [], found["packages"]
  low, high = PYTHONS
  if not low <= sys.version_info[:2] <= high:
    fixes.append(
      f"Python {found['python']} is not supported: make an environment with "
      f"Python {low[0]}.{low[1]} to {high[0]}.{high[1]}"
    )
  missing = [name for name, version in packages.items() if version == "missing"]
  if missing or found["conflicts"]:
    wrong = found["conflicts"] or [f"{name} is missing" for name in missing]
    fixes.append(f"{'; '.join(wrong)}: pip install --upgrade rlreward")
  if _minor(packages["jax"]) != _minor(packages["jaxlib"]):
    fixes.append(
      f"jax {packages['jax']} and jaxlib {packages['jaxlib']} differ: "
      f"pip install 'jax=={packages['jax']}'"
    )
  if found["error"]:
    fixes.append(
      f"jax finds no device ({found['error']}): try JAX_PLATFORMS=cpu"
    )
  forced = "JAX_PLATFORMS" in found["environment"]
  if found["backend"] == "cpu" and not forced:
    for device, extra in (("/dev/nvidia0", "cuda13"), ("/dev/accel0", "tpu")):
      if pathlib.Path(device).exists():
        fixes.append(
          f"{device} is here but jax uses the CPU: "
          + found["extras"][extra]["command"]
        )
  if found["ram_gib"] is not None and found["ram_gib"] < 2:
    fixes.append(
      f"{found['ram_gib']} GiB of memory: the miniatures need about 2"
    )
  if not found["cache"]["writable"]:
    fixes.append(
      f"{found['cache']['path']} cannot be written, so every run compiles "
      "anew: unset JAX_COMPILATION_CACHE_DIR or name a writable directory"
    )
  return fixes


def _minor(version: str) -> list[str]:
  return version.split(".")[:2]
