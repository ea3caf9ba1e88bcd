"""Rewards a user writes: plain functions, per sample or batched, sync or async.

  @reward                                   # or no decorator at all
  def exact(completion, answer):            # a field and a dataset column
    return float(completion.strip() == answer)

The form is read from the parameter names: one parameter `sample` (see
`view.Sample`) is per sample, one parameter `batch` (see `view.Batch`) is
batched, otherwise every parameter is a field or a dataset column of a sample,
or lists of them where `batched=True`. A function returns a finite float, None
to abstain, or a dict of named floats ("value" is the reward; without it their
sum is); a batched one a sequence of these. Anything else is an error that
names the function and the sample, never a reward of zero.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlreward.errors import UserError
from rlreward.rewards import loader, pool, runner, values, view
from rlreward.rewards.runner import RewardFunction
from rlreward.rewards.values import RewardError
from rlreward.types import Rollout, Score

ASYNC_TIMEOUT = 60.0
_RESERVED = ("status", "value")


def reward(
  function: Callable[..., Any] | None = None,
  *,
  batched: bool | None = None,
  timeout: float | None = None,
  on_error: str = "raise",
  name: str | None = None,
  required: bool = True,
  workers: int = 32,
  max_error_share: float = 0.2,
) -> Any:
  """Makes a reward of a function; with options, a decorator.

  Async functions run at the same time, each under `timeout` (60 s if None).
  Sync functions run in line, or in worker threads where a timeout is given. A
  call out of time leaves its sample without a reward, with status "timeout".

  Args:
    function: see the module.
    batched: states the form instead of reading it from the signature.
    timeout: seconds of one call.
    on_error: "raise" stops the run at an exception or a wrong value; "abstain"
      leaves the sample without a reward and counts it.
    name: of the score component; the function's name if None.
    required: see `RewardFunction`.
    workers: calls at the same time.
    max_error_share: share of errors and time-outs in a batch above which the
      run stops.

  Returns:
    RewardFunction, or a decorator that makes one.

  Raises:
    UserError: not a function, or options that cannot work.
  """
  if function is None:
    return lambda f: reward(
      f,
      batched=batched,
      timeout=timeout,
      on_error=on_error,
      name=name,
      required=required,
      workers=workers,
      max_error_share=max_error_share,
    )
  if isinstance(function, RewardFunction):
    return function
  if not callable(function):
    raise UserError(
      f"reward {values.short(function)} is a {values.kind(function)}",
      "a reward is a function of a sample or a batch",
      "pass a function, or its path as 'package.module:function'",
    )
  short = getattr(function, "__name__", values.kind(function))
  module = getattr(function, "__module__", "")
  where = f"{module}.{getattr(function, '__qualname__', short)}"
  _check_options(where, timeout, on_error, workers, max_error_share)
  form, is_batch = _form(function, where, batched)
  if name is not None or short != "<lambda>":
    short = name or short
  else:
    short = "lambda"
  if short in _RESERVED:
    raise UserError(
      f"reward {where} has the name {short!r}",
      "this component is the package's own",
      "rename the function or pass name=...",
    )
  return RewardFunction(
    function,
    short,
    where,
    form,
    is_batch,
    timeout,
    on_error,
    required,
    workers,
    max_error_share,
  )


def from_path(path: str) -> RewardFunction:
  """A reward given as "package.module:function" or "file.py:function".

  Args:
    path: module or file, a colon and a name.

  Raises:
    UserError: no such module, file or name, or an import that fails.
  """
  found = loader.load(path)
  if isinstance(found, RewardFunction):
    return dataclasses.replace(found, where=path)
  return dataclasses.replace(reward(found), where=path)


def make(
  functions: Any,
  decoder: view.Decoder,
  *,
  columns: Sequence[str] | None = None,
  skip_special: bool = True,
) -> Combined:
  """One reward from several: r = sum_f w_f r_f.

  Args:
    functions: a function, RewardFunction or path, or a sequence of these or of
      (function, weight) pairs; the weight is 1 if not given. Weight 0 logs.
    decoder: tokenizer with `decode`.
    columns: columns of the data, to check the functions' parameters against.
    skip_special: leave special tokens out of the text.

  Returns:
    (Rollout, batch) -> Score of numpy arrays.

  Raises:
    UserError: no functions, twice the same name, bad weights, or a parameter
      that is neither a field nor a column.
  """
  pairs = [_pair(f) for f in _listed(functions)]
  _check_pairs(pairs)
  combined = Combined(pairs, decoder, skip_special)
  if columns is not None:
    for function, _ in pairs:
      for name in function.needs():
        if name not in columns:
          raise runner.no_column(function, name, columns)
  return combined


class Combined:
  """Several reward functions as one; made by `make`.

  Components of its scores: `<function>` for each value, `<function>/<part>`
  for parts and logged numbers, and `status` (an index of
  `values.STATUS_NAMES`, the worst of the row's functions). A component is NaN
  where it was not given.
  """

  def __init__(self, pairs, decoder: view.Decoder, skip_special: bool):
    self.functions: tuple[RewardFunction, ...] = tuple(f for f, _ in pairs)
    self.weights: tuple[float, ...] = tuple(w for _, w in pairs)
    self._decoder, self._skip = decoder, skip_special
    self._pools = [
      pool.Pool(f.where, f.timeout or ASYNC_TIMEOUT, f.workers)
      for f in self.functions
    ]
    # Names seen so far: a score keeps its structure, so nothing recompiles.
    self._names: dict[str, None] = {f.name: None for f in self.functions}

  def __call__(self, rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    """Scores N rows.

    Raises:
      RewardError: see the module.
    """
    base = view.samples(rollout, batch, self._decoder, self._skip)
    n = len(base)
    total, valid = np.zeros(n), np.ones(n, bool)
    judged, status = np.zeros(n, bool), np.zeros(n)
    found: dict[str, np.ndarray] = {}
    for f, weight, p in zip(
      self.functions, self.weights, self._pools, strict=True
    ):
      rows = [dataclasses.replace(s, logs={}) for s in base]
      judgements, codes = runner.run(f, p, rows)
      status = np.maximum(status, codes)
      for i, (judgement, row) in enumerate(zip(judgements, rows, strict=True)):
        parts = {f"{f.name}/{k}": v for k, v in judgement.parts.items()}
        parts |= {f"{f.name}/{k}": v for k, v in dict(row.logs).items()}
        parts[f.name] = judgement.value
        for name, part in parts.items():
          column = found.setdefault(name, np.full(n, np.nan))
          column[i] = np.nan if part is None else part
        if weight and judgement.value is not None:
          total[i] += weight * judgement.value
          judged[i] = True
        elif weight and f.required:
          valid[i] = False
    valid &= judged
    total = np.where(valid, total, 0.0)
    fits = np.abs(total) <= np.finfo(np.float32).max
    if not fits.all():
      i = int(np.argmin(fits))
      raise RewardError(
        f"the weighted sum of rewards overflows on sample {i}",
        "an infinite reward makes every advantage of its group NaN",
        "use smaller weights",
        sample=i,
      )
    self._names.update(dict.fromkeys(found))
    empty = np.full(n, np.nan)
    parts = {k: found.get(k, empty).astype(np.float32) for k in self._names}
    parts["status"] = status.astype(np.float32)
    fields: Any = (total.astype(np.float32), valid, None, parts)
    return Score(*fields)


def status_shares(score: Score) -> dict[str, float]:
  """Shares of rows whose reward abstained, ran out of time or failed.

  Args:
    score: of a `Combined`.

  Returns:
    {"abstain", "timeout", "error"}: share in [0, 1].
  """
  codes = np.asarray(score.components["status"])
  return {
    name: float(np.mean(codes == code)) if codes.size else 0.0
    for code, name in enumerate(values.STATUS_NAMES)
    if code != values.OK
  }


def _listed(functions: Any) -> list[Any]:
  if isinstance(functions, str) or callable(functions):
    return [functions]
  items = list(functions)
  if len(items) == 2 and _is_weight(items[1]):
    return [tuple(items)]
  return items


def _pair(item: Any) -> tuple[RewardFunction, float]:
  """(function, weight) of a function, a path, or a pair with a weight."""
  weight: Any = 1.0
  if isinstance(item, (tuple, list)):
    if len(item) != 2:
      raise UserError(
        f"reward entry {values.short(item)} has {len(item)} parts",
        "an entry is a function, a path, or (function, weight)",
        "write ('file.py:function', 1.0)",
      )
    item, weight = item
  function = from_path(item) if isinstance(item, str) else reward(item)
  if not _is_weight(weight) or not math.isfinite(weight):
    raise UserError(
      f"the weight of reward {function.where} is {values.short(weight)}",
      "the reward is a weighted sum",
      "give a finite number; 0 logs without training on it",
    )
  return function, float(weight)


def _is_weight(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_pairs(pairs: Sequence[tuple[RewardFunction, float]]) -> None:
  if not pairs:
    raise UserError(
      "no reward functions were given",
      "there is nothing to train on",
      "set rewards to one or more of 'file.py:function'",
    )
  names = [f.name for f, _ in pairs]
  for name in names:
    if names.count(name) > 1:
      raise UserError(
        f"two reward functions have the name {name!r}",
        "each is a component of the score under its name",
        "decorate one with @reward(name=...)",
      )
  if not any(w for _, w in pairs):
    raise UserError(
      f"every weight of the rewards {names} is 0",
      "their sum would be 0 on every sample",
      "give at least one of them another weight",
    )


def _check_options(where, timeout, on_error, workers, share) -> None:
  if on_error not in ("raise", "abstain"):
    raise UserError(
      f"reward {where}: on_error={on_error!r}",
      "it says what an exception or a wrong value does",
      "use 'raise', or 'abstain' to leave the sample out",
    )
  if timeout is not None and not (_is_weight(timeout) and timeout > 0):
    raise UserError(
      f"reward {where}: timeout={timeout!r}",
      "it is the time limit of one call in seconds",
      "use a number above 0, or None",
    )
  if not isinstance(workers, int) or workers < 1:
    raise UserError(
      f"reward {where}: workers={workers!r}",
      "it is the number of calls at the same time",
      "use 1 or more",
    )
  if not _is_weight(share) or not 0 <= share <= 1:
    raise UserError(
      f"reward {where}: max_error_share={share!r}",
      "it is a share of the samples of a batch",
      "use a number from 0 to 1",
    )


def _form(function, where: str, batched: bool | None) -> tuple[str, bool]:
  """("sample" | "batch" | "keywords", batched) from the parameters."""
  fix = "use (sample), (batch), or names such as (completion, answer)"
  why = "the form of a reward is read from the names of its parameters"
  try:
    parameters = list(inspect.signature(function).parameters.values())
  except (TypeError, ValueError):
    raise UserError(
      f"reward {where} has no readable signature", why, "wrap it in a def"
    ) from None
  names = [p.name for p in parameters]
  if not names:
    raise UserError(f"reward {where} has no parameters", why, fix)
  for p in parameters:
    if p.kind in (p.VAR_POSITIONAL, p.POSITIONAL_ONLY):
      raise UserError(
        f"reward {where} takes {p.name!r} by position only", why, fix
      )
  required = [p.name for p in parameters if p.default is p.empty]
  for word, is_batch in (("sample", False), ("batch", True)):
    if required == [word]:
      if batched not in (None, is_batch):
        raise UserError(
          f"reward {where} has the parameter {word!r} and batched={batched}",
          "`sample` is one row and `batch` all of them",
          f"drop batched={batched} or rename the parameter",
        )
      return word, is_batch
    if word in names:
      raise UserError(
        f"reward {where} has {word!r} among the parameters {names}",
        f"`{word}` already holds every field and column",
        f"keep ({word}) alone, or name fields and columns instead",
      )
  return "keywords", bool(batched)
