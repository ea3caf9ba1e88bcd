"""Configs: python files with `get_config`, checked, locked and frozen.

A config file is `configs/<method>.py`. It has `get_config(arg)`, which returns
an `ml_collections.ConfigDict`, and may have `ARMS` (the sides of the paper's
comparison) and `claim` (the paper's sentence as code). On the command line it
is named as `configs/grpo.py:mini,lr=1e-3`: the first word goes to
`get_config`, the rest are fields, read with the type of their default. A file
that names its sizes in `PRESETS` refuses other words.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from rlreward import configfile
from rlreward.configfile import find
from rlreward.errors import UserError
from rlreward.fields import (
  assign,
  describe,
  diff,
  flatten,
  to_json,
)
from rlreward.types import Arm

__all__ = [
  "Config",
  "Study",
  "assign",
  "check_complete",
  "check_overwrite",
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
# What a run reads; `common.base()` of configs/common.py has them all.
NEEDED = (
  "algorithm", "seed", "steps", "prompts_per_step", "samples_per_prompt",
  "microbatch", "updates_per_step", "epochs", "truncation", "overlong_buffer",
  "filter_on", "refill_rounds", "reference", "model", "sampling", "loss",
  "kl_reward", "shaping", "process", "noise", "format", "tina", "calls", "sql",
  "credit", "critic", "off_policy", "preference", "rounds", "distill",
  "teacher", "reward_model", "reward", "learned", "steer", "ensemble",
  "remodetect", "best_of_n", "ahead", "rollout_devices", "optimizer", "task",
  "mesh", "eval", "frontier", "log", "checkpoint", "start",
)  # fmt: skip


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
    UserError: no such file, preset or field, a value of the wrong type, or a
      file that fails.
  """
  name, _, arg = spec.partition(":")
  preset, fields = parse_arg(arg)
  path = configfile.find(name)
  config = ml_collections.ConfigDict(configfile.get(path, preset))
  assign(config, fields)
  if not isinstance(overrides, Mapping):
    overrides = _split(overrides)
  assign(config, overrides)
  return ml_collections.FrozenConfigDict(config)


def check_complete(config: Any) -> None:
  """Refuses a config without the fields that a run reads.

  Args:
    config: ConfigDict, frozen or not.

  Raises:
    UserError: names what is missing.
  """
  missing = [name for name in NEEDED if name not in config]
  if missing:
    raise UserError(
      f"the config has no {', '.join(missing)}",
      "every run reads them",
      "begin with `from configs import common; c = common.base()` and change"
      " what differs",
    )


def from_json(text: str, overrides: Sequence[str] = ()) -> Config:
  """A config back from the `config.json` of a run.

  Args:
    text: what `to_json` wrote.
    overrides: ["--config.dotted.field=value"].

  Returns:
    The frozen config.

  Raises:
    UserError: not JSON of an object, or a bad override.
  """
  config = ml_collections.ConfigDict(_tuples(_parse(text)))
  assign(config, _split(overrides))
  return ml_collections.FrozenConfigDict(config)


def _parse(text: str) -> dict[str, Any]:
  try:
    tree = json.loads(text)
  except ValueError:
    tree = None
  if not isinstance(tree, dict):
    raise UserError(
      f"config.json is not a JSON object; it begins with {text[:40]!r}",
      "a run is described by it",
      "restore the file, or train in a new directory",
    )
  return tree


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
  path = configfile.find(spec.partition(":")[0])
  names = vars(configfile.execute(path))
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

  A directory where nothing was trained yet may get another config: a run that
  was refused leaves no metrics behind.

  Raises:
    UserError: the directory holds a run with another config (shows the diff),
      or it cannot be written.
  """
  path = pathlib.Path(workdir) / "config.json"
  if path.is_file() and path.with_name("metrics.jsonl").is_file():
    allowed = tuple(may_change)
    lines = [
      line
      for line in diff(_parse(path.read_text()), config)
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
  text = to_json(config)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  except OSError as error:
    raise UserError(
      f"the run directory {workdir} cannot be written: {error.strerror}",
      "metrics, samples and checkpoints go there",
      "give another --workdir, a directory that is new or writable",
    ) from error


def check_overwrite(workdir: str | pathlib.Path) -> None:
  """Refuses to start again, which deletes, where there is no run.

  Raises:
    UserError: a file, or a directory with other things in it.
  """
  path = pathlib.Path(workdir)
  if not path.exists() or (path / "config.json").is_file():
    return
  if not path.is_dir() or any(path.iterdir()):
    raise UserError(
      f"--overwrite would delete {workdir}, which holds no run",
      "there is no config.json in it, so it is something else",
      "give a new --workdir, or the directory of a run",
    )


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
