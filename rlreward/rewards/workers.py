"""Host verifiers in processes that can be killed.

  with Workers(count=4, timeout=5.0, memory_mb=1024) as workers:
    outcomes = workers.map("package.module:verify", [(answer, gold), ...])

A thread cannot be killed and `signal.alarm` works in the main thread only; a
process can, whatever it does: the kernel ends it at its time limit and a fresh
one takes its place. Workers are new interpreters (never forks, which deadlock
beside the threads of JAX), so a function is named and its arguments and result
are plain values. Nothing that goes wrong becomes a reward of 0.
"""

from __future__ import annotations

import collections
import importlib.util
import math
import pathlib
import selectors
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rlreward.errors import UserError
from rlreward.rewards.worker_process import STATUSES, Process, Processes


class Outcome(NamedTuple):
  """What one job came to.

  Attributes:
    status: "ok"; "wrong", the function returned False or 0; "timeout", it was
      killed at the limit or raised TimeoutError; "error", it raised or its
      process died; "abstain", it returned None.
    value: what it returned, at "ok" and "wrong".
    detail: of an error, in words.
    seconds: from the moment a worker had it.
  """

  status: str
  value: Any = None
  detail: str = ""
  seconds: float = 0.0


class Stats(NamedTuple):
  """What a pool has done so far.

  Attributes:
    jobs: that were answered.
    seconds: of wall time inside `map`.
    per_second: jobs over seconds.
    counts: {status: jobs}.
    started: processes, the replaced ones included.
  """

  jobs: int
  seconds: float
  per_second: float
  counts: dict[str, int]
  started: int


class Workers:
  """Processes that run one function on many arguments.

  Calls of `map` from several threads take turns. Processes start at the first
  call and end with `close`, with the object, or with the interpreter; if this
  process is killed the kernel ends them.

  Args:
    count: processes.
    timeout: seconds of a job, then its process is killed.
    memory_mb: address space of a process in MiB; 0 is no limit. macOS has none.
    start_timeout: seconds to start a process and to import the function.

  Raises:
    UserError: numbers that cannot be.
  """

  def __init__(
    self,
    count: int = 2,
    timeout: float = 10.0,
    memory_mb: int = 2048,
    start_timeout: float = 120.0,
  ):
    for name, value, least in (
      ("count", count, 1),
      ("memory_mb", memory_mb, 0),
    ):
      if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(
          f"workers: {name}={value!r}",
          "it is a whole number of processes or MiB",
          f"use {least} or more",
        )
    _check_seconds("timeout", timeout)
    _check_seconds("start_timeout", start_timeout)
    self.count, self.timeout = count, timeout
    self.memory_mb, self.start_timeout = memory_mb, start_timeout
    self._lock = threading.Lock()
    self._own = Processes(count)
    self._seconds = 0.0
    self._counts = collections.Counter({s: 0 for s in STATUSES})
    self._end = weakref.finalize(self, self._own.close)

  def __enter__(self) -> Workers:
    return self

  def __exit__(self, *error: Any) -> None:
    self.close()

  def close(self) -> None:
    """Kills the processes; a `map` that runs in another thread fails."""
    self._end()

  def stats(self) -> Stats:
    """Jobs, throughput and statuses so far."""
    jobs, s = sum(self._counts.values()), self._seconds
    started = self._own.started
    return Stats(jobs, s, jobs / s if s else 0.0, dict(self._counts), started)

  def map(
    self,
    function: str | Callable[..., Any],
    arguments: Sequence[Any],
    timeout: float | None = None,
  ) -> list[Outcome]:
    """Runs the function on each argument.

    Args:
      function: "package.module:name", "file.py:name" or a function that has
        such a name. It returns plain values; None abstains.
      arguments: of each job; a tuple is spread over the parameters.
      timeout: in place of the pool's, seconds.

    Returns:
      One outcome per job, in order.

    Raises:
      UserError: a function that cannot be named or loaded, or a closed pool.
    """
    name = path_of(function)
    limit = self.timeout if timeout is None else timeout
    _check_seconds("timeout", limit)
    jobs = [a if isinstance(a, tuple) else (a,) for a in arguments]
    with self._lock:
      start = time.monotonic()
      try:
        out = self._run(name, jobs, limit)
      except BaseException:
        self._own.kill_all()  # some are in the middle of a job
        raise
      self._seconds += time.monotonic() - start
      self._counts.update(o.status for o in out)
      return out

  def _run(self, name: str, jobs: list[tuple], limit: float) -> list[Outcome]:
    todo = collections.deque(range(len(jobs)))
    out: list[Outcome | None] = [None] * len(jobs)
    busy: dict[Process, int] = {}
    left = len(jobs)
    with selectors.DefaultSelector() as selector:

      def assign(slot: int) -> None:
        if todo:
          process = self._own.get(slot, self.memory_mb)
          busy[process] = todo.popleft()
          selector.register(process.replies, selectors.EVENT_READ, process)
          if process.loaded == name:
            begin(process)
          else:
            process.ask(("load", sys.path, name), self.start_timeout)

      def begin(process: Process) -> None:
        process.ask(("run", jobs[busy[process]]), limit)

      def finish(process: Process, outcome: Outcome, dead: bool) -> None:
        nonlocal left
        selector.unregister(process.replies)
        seconds = time.monotonic() - process.asked
        out[busy.pop(process)] = outcome._replace(seconds=seconds)
        left -= 1
        if dead:
          self._own.drop(process)
        assign(process.slot)

      def heard(process: Process) -> None:
        reply = process.hear()
        loading = process.loaded != name
        if reply is None:
          return
        status, value, detail, dead = reply
        if loading and status != "ok":
          raise _unloadable(name, detail)
        if loading:
          process.loaded = name
          begin(process)
        else:
          finish(process, Outcome(status, value, detail), dead)

      for slot in range(min(self.count, len(jobs))):
        assign(slot)
      while left:
        soonest = min(p.deadline for p in busy)
        wait = max(soonest - time.monotonic(), 0)
        for key, _ in selector.select(wait):
          heard(key.data)
        now = time.monotonic()
        for process in [p for p in busy if p.deadline <= now]:
          if process.loaded != name:
            raise _unloadable(name, f"no answer in {self.start_timeout:g} s")
          late = Outcome("timeout", None, f"killed after {limit:g} s")
          finish(process, late, dead=True)
    return [o for o in out if o is not None]


def path_of(function: str | Callable[..., Any]) -> str:
  """The path by which a fresh interpreter finds a function.

  Args:
    function: a path, or a function at the top of a module.

  Returns:
    "package.module:name" or "/path/to/file.py:name".

  Raises:
    UserError: a lambda, a function inside a function, or no function.
  """
  if isinstance(function, str) and function.rpartition(":")[0]:
    return function
  name = getattr(function, "__qualname__", "<none>")
  module = sys.modules.get(getattr(function, "__module__", ""))
  if module is None or "<" in name:
    raise UserError(
      f"workers cannot find {function!r} by a name",
      "each is a new interpreter that imports the function",
      "define it at the top of a module, or write 'package.module:function'",
    )
  if module.__name__ != "__main__":
    try:
      if importlib.util.find_spec(module.__name__) is not None:
        return f"{module.__name__}:{name}"
    except ValueError:
      pass  # loaded from a file, under a name that is not importable
  file = getattr(module, "__file__", None)
  if not file:
    raise UserError(
      f"{name} is defined in a session without a file",
      "workers are new interpreters that import it",
      "put it in a file",
    )
  return f"{pathlib.Path(file).resolve()}:{name}"


def _check_seconds(name: str, value: float) -> None:
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if not number or not 0 < value < math.inf:
    raise UserError(
      f"workers: {name}={value!r}", "it is a time limit", "use seconds above 0"
    )


def _unloadable(name: str, detail: str) -> UserError:
  return UserError(
    f"a worker could not load {name!r}: {detail}",
    "it is imported in a new interpreter with this one's sys.path",
    "check the path and its imports, or give the workers more memory or time",
  )
