"""Runs one reward function on the rows of a batch and applies its policy."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import pathlib
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlreward.rewards import pool, values, view
from rlreward.rewards.values import BadValueError, Judgement, RewardError

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RewardFunction:
  """A user's function and how to run it. Calling it calls the function.

  Attributes:
    function: what the user wrote.
    name: of its score component.
    where: module and name, for messages.
    form: "sample", "batch" or "keywords".
    batched: one call for all samples.
    timeout: seconds of a call, or None.
    on_error: "raise" or "abstain".
    required: a sample on which it abstains has no reward; if false the sample
      is rewarded by the other functions.
    workers: calls at the same time, where there are threads or coroutines.
    max_error_share: share of errors and time-outs in a batch above which the
      run stops.
  """

  function: Callable[..., Any]
  name: str
  where: str
  form: str
  batched: bool
  timeout: float | None
  on_error: str
  required: bool
  workers: int
  max_error_share: float

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    return self.function(*args, **kwargs)

  @property
  def is_async(self) -> bool:
    """Whether a call gives a coroutine."""
    call = type(self.function).__call__
    return any(map(inspect.iscoroutinefunction, (self.function, call)))

  def needs(self) -> tuple[str, ...]:
    """Dataset columns that its parameters name and that have no default."""
    if self.form != "keywords":
      return ()
    return tuple(
      p.name
      for p in inspect.signature(self.function).parameters.values()
      if p.default is p.empty
      and p.kind is not p.VAR_KEYWORD
      and p.name not in view.FIELDS
    )


def run(
  f: RewardFunction, runs: pool.Pool, rows: Sequence[view.Sample]
) -> tuple[list[Judgement], np.ndarray]:
  """What a function says about each row.

  Args:
    f: the function.
    runs: its pool.
    rows: N samples.

  Returns:
    (N judgements, N status codes); rows that failed have no value.

  Raises:
    RewardError: an error under on_error="raise", or too large a share of
      errors and time-outs.
  """
  n = len(rows)
  if not n:
    return [], np.zeros(0)
  views = [view.Batch(rows)] if f.batched else rows
  calls = [_call(f, v) for v in views]
  if f.is_async:
    outcomes = runs.concurrent(calls)
  elif f.timeout is not None:
    outcomes = runs.threads(calls)
  else:
    outcomes = pool.inline(calls, stop=f.on_error == "raise")
  if f.batched:
    outcomes = _spread(outcomes[0], n)
  else:
    outcomes = [_read(o) for o in outcomes]
  out, codes = [Judgement(None)] * n, np.zeros(n)
  failures = []
  for i, outcome in enumerate(outcomes):
    codes[i] = outcome.status
    if outcome.status != values.OK:
      failures.append(i)
    else:
      out[i] = outcome.value
      codes[i] = values.ABSTAIN if outcome.value.value is None else values.OK
  errors = [i for i in failures if codes[i] == values.ERROR]
  if errors and f.on_error == "raise":
    i = errors[0]
    raise _error(f, rows, i, outcomes[i]) from outcomes[i].error
  if failures:
    i, share = failures[0], len(failures) / n
    lead = f" failed on {len(failures)} of {n} samples; first"
    error = _error(f, rows, i, outcomes[i], lead)
    if share > f.max_error_share:
      raise error from outcomes[i].error
    _LOG.warning("%s", error.what)
  return out, codes


def _call(f: RewardFunction, seen: view.Sample | view.Batch) -> pool.Call:
  if f.form != "keywords":
    return lambda: f.function(seen)
  names = (seen if isinstance(seen, view.Sample) else seen.samples[0]).columns
  arguments = {}
  for p in inspect.signature(f.function).parameters.values():
    if p.kind is p.VAR_KEYWORD:
      rest = [k for k in names if k not in arguments and k not in view.FIELDS]
      arguments.update({k: seen[k] for k in rest})
    elif p.name in view.FIELDS:
      arguments[p.name] = getattr(seen, p.name)
    elif p.name in names:
      arguments[p.name] = seen[p.name]
    elif p.default is p.empty:
      raise no_column(f, p.name, names)
  return lambda: f.function(**arguments)


def no_column(f: RewardFunction, name: str, columns) -> RewardError:
  """The error of a parameter that is neither a field nor a column."""
  return RewardError(
    f"reward {f.where}: parameter {name!r}: {view.missing(name, columns)}",
    "parameters are filled by name with fields and dataset columns",
    f"name a column, or one of {', '.join(view.FIELDS)}",
    f.where,
  )


def _read(outcome: pool.Outcome) -> pool.Outcome:
  if outcome.status != values.OK:
    return outcome
  if isinstance(outcome.value, values.Unjudged):
    return _unjudged(outcome.value)
  try:
    return pool.Outcome(values.OK, values.judgement(outcome.value))
  except BadValueError as error:
    return pool.Outcome(values.ERROR, error=error)


def _spread(outcome: pool.Outcome, n: int) -> list[pool.Outcome]:
  """The outcome of a batched call as one outcome per sample."""
  if outcome.status != values.OK:
    return [outcome] * n
  try:
    rows = values.judgements(outcome.value, n)
  except BadValueError as error:
    return [pool.Outcome(values.ERROR, error=error)] * n
  return [
    pool.Outcome(values.ERROR, error=r)
    if isinstance(r, BadValueError)
    else _unjudged(r)
    if isinstance(r, values.Unjudged)
    else pool.Outcome(values.OK, r)
    for r in rows
  ]


def _unjudged(said: values.Unjudged) -> pool.Outcome:
  """The outcome of a sample that the function itself gave up on."""
  return pool.Outcome(said.status, None, values.UnjudgedError(said.why))


def _error(
  f: RewardFunction,
  rows: Sequence[view.Sample],
  i: int,
  outcome: pool.Outcome,
  lead: str = "",
) -> RewardError:
  """Names the function, the sample and the form that was expected."""
  error = outcome.error
  bad = error if isinstance(error, BadValueError) else None
  whole = f.batched and (bad is None or bad.whole)
  if whole:
    place = f"the batch of {len(rows)} samples"
    expected = f"a sequence of {len(rows)}, each {values.EXPECTED}"
  else:
    place = f"sample {i} (prompt {values.short(rows[i].prompt)})"
    expected = values.EXPECTED
  fix = f"return {expected}"
  if bad is not None:
    said, fix = str(bad), bad.fix
    why = "only numbers can be rewards; nothing is counted as 0 in their place"
  elif isinstance(error, values.UnjudgedError):
    said = f"gave no judgement: {_line(error)}"
    why = "a failure or a time-out is no reward of 0; the sample is left out"
    fix = "look at the first such sample; raise timeout or max_error_share"
  elif error is not None:
    said = f"raised {type(error).__name__}: {_line(error)}{_frame(f, error)}"
    why = "an exception is no reward of 0: that would teach the wrong thing"
    fix += "; or set on_error='abstain' to leave such samples out"
  else:
    said = f"ran longer than its time-out of {outcome.value:g} s"
    why = "a late judgement is no reward of 0; the sample is left out"
    fix = "make it faster, or raise timeout or max_error_share"
  return RewardError(
    f"reward {f.where}{lead} on {place}: {said}",
    f"{why} (expected {expected})" if bad is None else why,
    fix,
    f.where,
    None if whole else i,
  )


def _line(error: BaseException) -> str:
  return values.short(str(error), 200)[1:-1] or "no message"


def _frame(f: RewardFunction, error: BaseException) -> str:
  """Where in the user's file it was raised."""
  frames = traceback.extract_tb(error.__traceback__)
  code = getattr(inspect.unwrap(f.function), "__code__", None)
  own = [s for s in frames if code and s.filename == code.co_filename]
  if not (own or frames):
    return ""
  last = (own or frames)[-1]
  return f" ({pathlib.Path(last.filename).name}:{last.lineno})"
