"""The loop of one worker process; see `workers`. Imports the standard library.

Frames are an 8-byte length and a pickle. What comes in is from the parent and
trusted; what goes out is plain values, which the parent reads without running
anything.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

PLAIN = (bool, int, float, complex, str, bytes, type(None))


def main(read: int, write: int, life: int, memory_mb: int) -> None:
  """Runs calls until the parent closes the pipe.

  Args:
    read: file descriptor of requests.
    write: of replies.
    life: a pipe that the parent holds open; when it goes the process ends,
      even inside a call into C.
    memory_mb: limit of the address space; 0 is none.
  """
  die_with_parent(life)
  if memory_mb:
    limit_memory(memory_mb)
  function: Callable[..., Any] | None = None
  while True:
    kind, *rest = pickle.loads(receive(read))
    try:
      if kind == "load":
        function = find(*rest)
        reply = ("ok", None, "")
      elif function is None:
        reply = ("error", None, "no function was loaded")
      else:
        reply = classify(function(*rest[0]))
    except TimeoutError as error:
      reply = ("timeout", None, said(error))
    except BaseException as error:  # whatever it is, the parent hears of it
      reply = ("error", None, said(error))
      if isinstance(error, MemoryError):
        send(write, pickle.dumps((*reply, True)))
        os._exit(1)  # a heap at its limit is no place for the next call
    send(write, pickle.dumps((*reply, False)))


def die_with_parent(life: int) -> None:
  """The kernel ends this process when the other end of a pipe closes.

  Args:
    life: read end of a pipe.
  """
  signal.signal(signal.SIGIO, signal.SIG_DFL)
  fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
  flags = fcntl.fcntl(life, fcntl.F_GETFL)
  fcntl.fcntl(life, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
  try:
    gone = os.read(life, 1) == b""  # it went before the flag was set
  except BlockingIOError:
    gone = False
  if gone:
    os._exit(1)


def limit_memory(megabytes: int) -> None:
  """Limits the address space where the system has such a limit.

  Args:
    megabytes: of address space.
  """
  try:
    resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
  except (ValueError, OSError):
    pass  # macOS refuses; `workers` says so


def find(paths: list[str], name: str) -> Callable[..., Any]:
  """The function of "module:name" or "file.py:name".

  Args:
    paths: the parent's `sys.path`.
    name: see above.
  """
  sys.path[:] = paths
  place, _, path = name.rpartition(":")
  if place.endswith(".py"):
    return importlib.import_module("rlreward.rewards.loader").load(name)
  found: Any = importlib.import_module(place)
  for part in path.split("."):
    found = getattr(found, part)
  return found


def classify(value: Any) -> tuple[str, Any, str]:
  """(status, plain value, detail) of what a call returned."""
  if value is None:
    return "abstain", None, ""
  value = plain(value)
  wrong = isinstance(value, bool | int | float) and value == 0
  return ("wrong" if wrong else "ok"), value, ""


def plain(value: Any) -> Any:
  """The value in builtin types.

  Raises:
    TypeError: it has none.
  """
  if type(value) in PLAIN:
    return value
  if isinstance(value, list | tuple):
    items = map(plain, value)
    return list(items) if isinstance(value, list) else tuple(items)
  if isinstance(value, dict):
    return {plain(k): plain(v) for k, v in value.items()}
  if isinstance(value, set | frozenset):
    return set(map(plain, value))
  listed = getattr(value, "tolist", None)  # of numpy
  if listed is not None:
    return plain(listed())
  raise TypeError(
    f"returned a {type(value).__name__}; a worker returns plain values"
  )


def said(error: BaseException) -> str:
  """Type and message of an error on one line."""
  try:
    text = " ".join(str(error).split())[:300]
  except BaseException:  # a message that raises
    text = "no message"
  return f"{type(error).__name__}: {text}"


def receive(fd: int) -> bytes:
  """One frame; ends the process when the pipe is closed."""
  return exactly(fd, int.from_bytes(exactly(fd, 8), "big"))


def exactly(fd: int, size: int) -> bytes:
  """`size` bytes of a pipe."""
  parts = []
  while size:
    part = os.read(fd, min(size, 1 << 20))
    if not part:
      os._exit(0)
    parts.append(part)
    size -= len(part)
  return b"".join(parts)


def send(fd: int, data: bytes) -> None:
  """Writes one frame."""
  view = memoryview(len(data).to_bytes(8, "big") + data)
  while view:
    view = view[os.write(fd, view) :]


if __name__ == "__main__":
  main(*map(int, sys.argv[1:]))
