"""Calls a user's function many times, in line, in threads or in asyncio.

A thread cannot be killed. A call that outlives its time limit is left behind
(in a daemon thread, so that the process can end) and its sample gets the
status "timeout"; too many of them stop the run. A call that never releases the
interpreter lock, such as a regular expression that backtracks without end,
blocks every thread: put such work in a process.
"""

from __future__ import annotations

import asyncio
import collections
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from rlreward.rewards.values import ERROR, OK, TIMEOUT, RewardError

Call = Callable[[], Any]
MAX_HUNG = 32


class Outcome(NamedTuple):
  """What one call came to.

  Attributes:
    status: OK, TIMEOUT or ERROR.
    value: what it returned; the time limit at TIMEOUT.
    error: what it raised, at ERROR.
  """

  status: int
  value: Any = None
  error: BaseException | None = None


def inline(calls: Sequence[Call], stop: bool) -> list[Outcome]:
  """Calls in turn.

  Args:
    calls: functions without arguments.
    stop: end at the first error.

  Returns:
    Outcomes; fewer than the calls when stopped.
  """
  out = []
  for call in calls:
    out.append(_attempt(call))
    if stop and out[-1].status == ERROR:
      break
  return out


class Pool:
  """Runs the calls of one function under a time limit.

  Args:
    name: of the function, for messages.
    timeout: seconds for each call.
    workers: calls at the same time.
  """

  def __init__(self, name: str, timeout: float, workers: int):
    self.name, self.timeout, self.workers = name, timeout, workers
    self._changed = threading.Condition()
    self._hung = 0

  @property
  def hung(self) -> int:
    """Calls that still run although their time is over."""
    with self._changed:
      return self._hung

  def threads(self, calls: Sequence[Call]) -> list[Outcome]:
    """Calls in worker threads; the clock of a call starts when it starts.

    Args:
      calls: functions without arguments.

    Returns:
      One outcome per call, in order.

    Raises:
      RewardError: more than 32 calls are still running after their time.
    """
    todo = collections.deque(range(len(calls)))
    started: dict[int, float] = {}
    out: dict[int, Outcome] = {}

    def work():
      while True:
        with self._changed:
          if not todo:
            return
          i = todo.popleft()
          started[i] = time.monotonic()
        result = _attempt(calls[i])
        with self._changed:
          if i in out:
            self._hung -= 1
            return
          del started[i]
          out[i] = result
          self._changed.notify_all()

    for _ in range(min(self.workers, len(calls))):
      _spawn(work)
    with self._changed:
      while len(out) < len(calls):
        now = time.monotonic()
        late = [i for i, t in started.items() if now - t >= self.timeout]
        for i in late:
          del started[i]
          out[i] = Outcome(TIMEOUT, self.timeout)
          self._leave(todo)
          _spawn(work)
        if len(out) < len(calls) and not late:
          first = min(started.values(), default=now)
          self._changed.wait(max(first + self.timeout - now, 0.001))
    return [out[i] for i in range(len(calls))]

  def concurrent(
    self, calls: Sequence[Callable[[], Awaitable[Any]]]
  ) -> list[Outcome]:
    """Coroutines at the same time on an event loop of their own.

    The loop runs in its own thread, so that this works inside a notebook's
    loop too and a coroutine that blocks cannot block the run.

    Args:
      calls: functions without arguments that return awaitables.

    Returns:
      One outcome per call, in order.

    Raises:
      RewardError: more than 32 loops are still running after their time.
    """
    out: dict[int, Outcome] = {}
    over = False

    async def one(i: int, gate: asyncio.Semaphore) -> None:
      async with gate:
        if over:
          return
        try:
          value = await asyncio.wait_for(calls[i](), self.timeout)
          out[i] = Outcome(OK, value)
        except TimeoutError:
          out[i] = Outcome(TIMEOUT, self.timeout)
        except (Exception, asyncio.CancelledError, SystemExit) as error:
          out[i] = Outcome(ERROR, error=error)

    async def everything() -> None:
      gate = asyncio.Semaphore(self.workers)
      await asyncio.gather(*(one(i, gate) for i in range(len(calls))))
      with self._changed:
        self._changed.notify_all()

    def loop() -> None:
      asyncio.run(everything())
      with self._changed:
        self._hung -= over

    rounds = math.ceil(len(calls) / self.workers)
    end = time.monotonic() + rounds * self.timeout + max(self.timeout, 0.2)
    _spawn(loop)
    with self._changed:
      while len(out) < len(calls) and time.monotonic() < end:
        self._changed.wait(max(end - time.monotonic(), 0.001))
      if len(out) < len(calls):
        over = True
        self._leave(())
    return [
      out.get(i, Outcome(TIMEOUT, self.timeout)) for i in range(len(calls))
    ]

  def _leave(self, todo) -> None:
    """Counts a call left behind; too many of them are an error."""
    self._hung += 1
    if self._hung > MAX_HUNG:
      if todo:
        todo.clear()
      raise RewardError(
        f"reward {self.name}: {self._hung} calls still run although their"
        f" time-out of {self.timeout:g} s is over",
        "a thread cannot be killed; each one keeps its memory and a core",
        "give the function's own calls a time limit, or run it in a process",
        self.name,
      )


def _attempt(call: Call) -> Outcome:
  try:
    return Outcome(OK, call())
  except (Exception, SystemExit) as error:
    return Outcome(ERROR, error=error)


def _spawn(target: Callable[[], None]) -> None:
  threading.Thread(target=target, daemon=True).start()
