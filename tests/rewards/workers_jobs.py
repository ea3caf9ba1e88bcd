"""Functions that workers run in the tests; each misbehaves in its own way."""

import os
import sys
import time

REPLY_FD = 4


def double(x):
  return 2 * x


def add(x, y):
  return x + y


def judge(text):
  return {"right": 1.0, "wrong": False, "unknown": None}[text]


def misbehave(how, pids=None):
  """One of many ways to go wrong."""
  if pids:
    with open(pids, "a") as file:
      file.write(f"{os.getpid()}\n")
  if how == "raise":
    raise ValueError("this one\nis broken")
  if how == "exit":
    sys.exit(0)
  if how == "os_exit":
    os._exit(0)
  if how == "kill":
    os.kill(os.getpid(), 9)
  if how == "segfault":
    import ctypes

    ctypes.string_at(0)
  if how == "print":
    for _ in range(3000):
      print("x" * (1 << 20))
    return 1.0
  if how == "sleep":
    time.sleep(1000)
  if how == "hang_in_c":
    # Holds the interpreter lock: no signal handler and no thread can run.
    import re

    re.match(r"(a+)+$", "a" * 64 + "b")
  if how == "memory":
    return len(bytearray(8 << 30))
  if how == "time":
    raise TimeoutError("steps")
  if how == "object":
    return object()
  if how == "garbage":
    for fd in range(3, 4096):  # the numbers are those of the parent
      try:
        os.write(fd, b"\xff" * 64)
      except OSError:
        pass
    time.sleep(1000)
  if how == "closed":
    os.closerange(0, 64)
    time.sleep(1000)
  return 1.0


def numpy_number(x):
  import numpy as np

  return np.float64(x)
