"""User rewards as a Scorer: an audit calls what training calls.

Texts travel as rollouts of characters through `rewards.function`, so that
arguments, weights, abstentions, time-outs and errors are those of a run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlreward.errors import UserError
from rlreward.evals import audit
from rlreward.evals.audit import Scorer
from rlreward.evals.probes import Fixture, Row
from rlreward.rewards import function, runner
from rlreward.types import LENGTH, STOP, Rollout, Score

CHUNK = 64  # rows of one call
_FINISH = {"stop": STOP, "length": LENGTH}
_PLANTED = 0x110000  # an id beyond Unicode, for an answer that is no text


def wrap(
  functions: Any, fixtures: Sequence[Fixture], name: str | None = None
) -> Scorer:
  """Reward functions as a Scorer, called as they are in training.

  Errors are counted here whatever their `on_error` is. The ids that a function
  sees are code points; its text and columns are those of the fixtures.

  Args:
    functions: as for `rewards.function.make`.
    fixtures: rows that it will be asked about; they must have its columns.
    name: shown in the report.

  Raises:
    UserError: functions or columns that cannot work.
  """
  columns = list(dict.fromkeys(k for f in fixtures for k in f.row.columns))
  text = _Text(None)
  made = function.make(functions, text, columns=columns)
  pairs = [
    (dataclasses.replace(f, on_error="abstain", max_error_share=1.0), w)
    for f, w in zip(made.functions, made.weights, strict=True)
  ]
  combined = function.Combined(pairs, text, True)
  for fixture in fixtures:
    for f in combined.functions:
      for need in f.needs():
        if need not in fixture.row.columns:
          error = runner.no_column(f, need, fixture.row.columns)
          raise UserError(
            f"fixture of line {fixture.line}: {error.what}",
            error.why,
            f"give this line the column {need!r}",
          )

  def score(rows: Sequence[Row]) -> Score:
    found = [
      combined(*rollout(rows[i : i + CHUNK], columns))
      for i in range(0, len(rows), CHUNK)
    ]
    join = lambda parts: np.concatenate([np.asarray(p) for p in parts])
    fields: Any = (
      join([f.value for f in found]),
      join([f.valid for f in found]),
      None,
      {"status": join([f.components["status"] for f in found])},
    )
    return Score(*fields)

  def faults(row: Row) -> list[tuple[str, float | None]]:
    out: list[tuple[str, float | None]] = []
    for target in ("completion", *row.columns):
      planted, touched = _explosive()
      inner = _Text(planted)
      drawn, batch = rollout([row], columns)
      if target == "completion":
        drawn, batch = rollout([row], columns, [[_PLANTED]])
      else:
        batch["columns"][target] = [planted]
      try:
        with audit.quiet():
          got = function.Combined(pairs, inner, True)(drawn, batch)
      except (FaultError, UserError):
        out.append((target, None))
        continue
      if touched:
        value = float(np.asarray(got.value)[0])
        out.append((target, value if bool(got.valid[0]) else None))
    return out

  shown = name or ", ".join(f.where for f in combined.functions)
  return Scorer(shown, score, None, faults)


class FaultError(Exception):
  """Raised by a planted input; no handler for parse errors catches it."""


def _explosive() -> tuple[Any, list[bool]]:
  """(an object that raises when it is used, a list that is then filled)."""
  touched: list[bool] = []

  def explode(*args: Any, **kwargs: Any) -> Any:
    del args, kwargs
    touched.append(True)
    raise FaultError("this input was planted by the audit and cannot be used")

  def attribute(self: Any, name: str) -> Any:
    # isinstance asks for the class; that is no use of the value.
    return type(self) if name == "__class__" else explode()

  names = (
    "str repr format bytes bool int float index complex len iter contains"
    " getitem add radd sub rsub mul rmul truediv rtruediv mod rmod neg abs eq"
    " ne lt le gt ge hash"
  )
  body: dict[str, Any] = {f"__{n}__": explode for n in names.split()}
  kind = type("Planted", (), {**body, "__getattribute__": attribute})
  return kind(), touched


class _Text:
  """Characters as ids, so that a rollout holds a fixture's text unchanged."""

  def __init__(self, planted: Any):
    self._planted = planted

  def decode(self, ids: Any, skip_special: bool = True) -> Any:
    """Ids to text; the planted id to the planted object."""
    del skip_special
    ids = list(ids)
    return self._planted if ids == [_PLANTED] else "".join(map(chr, ids))


def rollout(
  rows: Sequence[Row],
  columns: Sequence[str],
  answers: Sequence[list[int]] | None = None,
) -> tuple[Rollout, dict[str, Any]]:
  """Rows as a rollout of their characters, and its batch."""
  prompts = [list(map(ord, r.prompt)) for r in rows]
  answers = answers or [list(map(ord, r.completion)) for r in rows]
  p, t = max(map(len, prompts)), max(map(len, answers))
  n = len(rows)
  tokens, attend = np.zeros((n, p + t), np.int32), np.zeros((n, p + t), bool)
  action = np.zeros((n, p + t), bool)
  for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
    start, stop = p - len(prompt), p + len(answer)
    tokens[i, start:stop] = prompt + answer
    attend[i, start:stop] = True
    action[i, p:stop] = True
  finish = np.array([_FINISH[r.finish] for r in rows])
  zeros = np.zeros((n, p + t), np.float32)
  fields: Any = (tokens, attend, action, action, zeros, np.arange(n), finish, 0)
  named = {k: [r.columns.get(k) for r in rows] for k in columns}
  return Rollout(*fields), {"columns": named}
