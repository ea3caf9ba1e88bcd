"""The processes behind `workers`: pipes, frames, kills."""

from __future__ import annotations

import io
import math
import os
import pathlib
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from rlreward.errors import UserError

STATUSES = ("ok", "wrong", "timeout", "error", "abstain")
MOST_REPLY = 64 << 20  # bytes
_CHILD = pathlib.Path(__file__).with_name("worker_child.py")


class Process:
  """One worker: its process and pipes."""

  def __init__(self, slot: int, memory_mb: int):
    self.slot, self.loaded = slot, ""
    self.deadline = self.asked = math.inf
    self._buffer = bytearray()
    theirs, self._requests = os.pipe()
    self.replies, answers = os.pipe()
    life, self._life = os.pipe()
    given = (theirs, answers, life)
    try:
      self.process = subprocess.Popen(
        [sys.executable, "-P", str(_CHILD), *map(str, given), str(memory_mb)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=given,
        start_new_session=True,
      )
    except BaseException:
      self._close()
      raise
    finally:
      for fd in given:
        os.close(fd)
    os.set_blocking(self._requests, False)

  def ask(self, message: tuple, seconds: float) -> None:
    """Sends a request and starts its clock."""
    self.asked = time.monotonic()
    self.deadline = self.asked + seconds
    data = pickle.dumps(message)
    view = memoryview(len(data).to_bytes(8, "big") + data)
    while view:
      left = self.deadline - time.monotonic()
      if left <= 0 or not select.select((), [self._requests], (), left)[1]:
        return  # its deadline will end it
      try:
        view = view[os.write(self._requests, view[: 1 << 16]) :]
      except BrokenPipeError:
        return  # it died, which its replies will tell

  def hear(self) -> tuple[str, Any, str, bool] | None:
    """(status, value, detail, whether it must go), None while incomplete."""
    part = os.read(self.replies, 1 << 16)
    if not part:
      return "error", None, f"the worker {self._end()}", True
    self._buffer += part
    size = int.from_bytes(self._buffer[:8], "big")
    if len(self._buffer) >= 8 and size > MOST_REPLY:
      return "error", None, f"a reply of {size} bytes", True
    if len(self._buffer) < 8 + size or len(self._buffer) < 8:
      return None
    frame = bytes(self._buffer[8 : 8 + size])
    spare = len(self._buffer) > 8 + size
    self._buffer.clear()
    try:
      status, value, detail, ends = Plain(io.BytesIO(frame)).load()
    except Exception as error:  # bytes that are no reply may raise anything
      return "error", None, f"an unreadable reply: {error}", True
    if status not in STATUSES or spare:
      return "error", None, "an unreadable reply", True
    return status, value, str(detail), bool(ends)

  def _end(self) -> str:
    """How it ended, in words; it may have closed its pipes and live on."""
    try:
      return f"died with exit code {self.process.wait(0.5)}"
    except subprocess.TimeoutExpired:
      return "closed its pipes"

  def kill(self) -> None:
    """Ends the process and everything in its group."""
    try:
      os.killpg(self.process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
      self.process.kill()
    self.process.wait()
    self._close()

  def _close(self) -> None:
    for fd in (self._requests, self.replies, self._life):
      os.close(fd)


class Processes:
  """The processes of a pool; outlives it for its finalizer."""

  def __init__(self, count: int):
    self.started = 0
    self._slots: list[Process | None] = [None] * count
    self._pid, self._closed = os.getpid(), False
    self._guard = threading.Lock()

  def get(self, slot: int, memory_mb: int) -> Process:
    """The process of a slot, started where there is none."""
    with self._guard:
      if self._closed:
        raise UserError(
          "this pool of workers is closed",
          "its processes are gone",
          "make another Workers(...)",
        )
      process = self._slots[slot]
      if process is not None and process.process.poll() is not None:
        process.kill()
        process = None
      if process is None:
        self._slots[slot] = process = Process(slot, memory_mb)
        self.started += 1
      return process

  def drop(self, process: Process) -> None:
    """Kills a process and frees its slot."""
    with self._guard:
      if self._slots[process.slot] is process:
        self._slots[process.slot] = None
        process.kill()

  def kill_all(self) -> None:
    """Kills every process."""
    with self._guard:
      for i, process in enumerate(self._slots):
        self._slots[i] = None
        if process is not None:
          process.kill()

  def close(self) -> None:
    """Kills every process for good; in a fork of this process, nothing."""
    if os.getpid() == self._pid:
      self._closed = True
      self.kill_all()


class Plain(pickle.Unpickler):
  """Reads builtin values; a pickle that names anything else is an error."""

  def find_class(self, module: str, name: str) -> Any:
    """Refuses."""
    raise pickle.UnpicklingError(f"{module}.{name} is no plain value")
