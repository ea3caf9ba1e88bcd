"""Runs a program of the policy against tests, at a named level of isolation.

  off        refuses; the default
  rlimit     a process of its own with limits, and what the kernel lets an
             ordinary process give up; this is not a sandbox
  container  the program inside docker or podman
  remote     a service of the user's, at a URL that the user names

The program and its tests are two processes. The tests see plain values only
and their process alone gives the verdict, so a program cannot forge it; see
docs/execution.md for what is defended and what is not.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import pathlib
import secrets
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rlreward.errors import UserError
from rlreward.rewards.workers import Outcome

LEVELS = ("off", "rlimit", "container", "remote")
MOST_SOURCE = 1 << 20  # characters
_LOG = logging.getLogger(__name__)
_HERE = pathlib.Path(__file__).parent
_CHILD, _CHECK = _HERE / "sandbox_child.py", _HERE / "sandbox_check.py"


class Job(NamedTuple):
  """A program and what it must do.

  Attributes:
    source: of the program, as the policy completed it.
    entry: name of the function that the tests call.
    test: source that defines `check(candidate)`, or plain assertions.
    prompt: source whose helpers the tests may use; trusted like the tests.
  """

  source: str
  entry: str
  test: str
  prompt: str = ""


class Level(NamedTuple):
  """How a program is run.

  Attributes:
    name: one of `LEVELS`.
    seconds: of wall time for program and tests, start included; processor
      time has the same limit.
    memory_mb: address space of the program.
    engine: "docker" or "podman", at "container".
    image: that has `python3`, at "container".
    url: of the service, at "remote".
  """

  name: str = "off"
  seconds: float = 10.0
  memory_mb: int = 1024
  engine: str = "docker"
  image: str = "python:3.12-slim"
  url: str = ""


def check(level: Level) -> Level:
  """The level, after everything that can be checked and a line in the log.

  Raises:
    UserError: no such level, execution off, no engine, no URL, bad limits.
  """
  if level.name not in LEVELS:
    raise UserError(
      f"execution level {level.name!r}",
      f"the levels are {', '.join(LEVELS)}",
      "use one of them",
    )
  if level.name == "off":
    raise UserError(
      "execution of generated programs is off",
      "a program of the policy may do whatever this account may",
      "read docs/execution.md, then use level='rlimit' or 'container'",
    )
  if not (0.1 <= level.seconds <= 3600 and level.memory_mb >= 64):
    raise UserError(
      f"execution limits of {level.seconds} s and {level.memory_mb} MiB",
      "an interpreter alone needs about 0.1 s and 64 MiB",
      "use seconds from 0.1 to 3600 and memory_mb of 64 or more",
    )
  if level.name == "container":
    container_argv(level, "check")
    if shutil.which(level.engine) is None:
      raise UserError(
        f"{level.engine!r} is not installed",
        "level='container' runs each program inside it",
        "install it, or name the other engine",
      )
  if level.name == "remote":
    from rlreward.rewards import remote

    remote.check_url(level.url)
  _LOG.warning("generated programs run at level %s", level.name)
  return level


def run(job: Job, level: Level) -> Outcome:
  """Runs one program against its tests.

  Args:
    job: program and tests.
    level: see `Level`; `check` it first.

  Returns:
    "ok" where every test passed; "wrong" where the program fails them, raises,
    ends or is no program; "timeout" at its limits; "error" where the tests or
    the machinery failed. The value is a dict of the guards that held.

  Raises:
    UserError: see `check`.
  """
  start = time.monotonic()
  if level.name == "remote":
    from rlreward.rewards import remote

    out = remote.ask(job, level)
  elif level.name not in ("rlimit", "container"):
    check(level)
    raise AssertionError
  elif max(map(len, job)) > MOST_SOURCE:
    out = Outcome("wrong", {}, f"more than {MOST_SOURCE} characters")
  else:
    with contextlib.ExitStack() as stack:
      out = _run(job, level, start + level.seconds, stack)
  return out._replace(seconds=time.monotonic() - start)


def _run(
  job: Job, level: Level, end: float, stack: contextlib.ExitStack
) -> Outcome:
  program = _Program(job, level, stack)
  guards: dict[str, bool] = {}
  try:
    program.send(program.requests, program.order(job.source), end)
    text = program.receive(program.replies, end)
    if text is None:
      return Outcome(*program.ended("before its tests"))
    kind, detail, guards = json.loads(text)
    if kind != "ready":
      return Outcome("wrong", guards, str(detail)[:300])
    verdict = program.tests(job, end)
    if verdict is None:
      return Outcome("error", guards, "the tests' process died")
    status, detail = json.loads(verdict)
    if status == "wrong" and "gave no answer" in detail:
      return Outcome(*program.ended("under its tests"))._replace(value=guards)
    return Outcome(status, guards, detail)
  except TimeoutError:
    late = f"stopped after {level.seconds:g} s"
    return Outcome("timeout", guards, late)
  except (ValueError, TypeError) as error:  # what the program wrote is no JSON
    return Outcome("wrong", guards, f"broke the protocol: {error}"[:300])


class _Program:
  """The process of a program, its pipes, and the process of its tests."""

  def __init__(self, job: Job, level: Level, stack: contextlib.ExitStack):
    self._job, self._level, self._stack = job, level, stack
    self._open: set[int] = set()
    stack.callback(self._close_all)
    theirs, self.requests = self._pipe()
    self.replies, answers = self._pipe()
    self._life = self._pipe()
    self._folder = stack.enter_context(_folder())
    inside = level.name == "container"
    name = f"rlreward-{secrets.token_hex(8)}"
    argv = container_argv(level, name) if inside else [
      sys.executable, "-I", "-S", str(_CHILD), str(self._life[0])
    ]  # fmt: skip
    if inside:
      stack.callback(_remove_container, level.engine, name)
    self.process = self._start(argv, theirs, answers, (), inside)
    self._close(theirs, answers)

  def order(self, source: str) -> str:
    """The first request: the program and what its process gives up."""
    return json.dumps(
      {
        "source": source,
        "entry": self._job.entry,
        "cpu": max(int(self._level.seconds + 0.999), 1),
        "memory_mb": self._level.memory_mb,
        "files": _library(),
        "kernel": self._level.name == "rlimit",
      }
    )

  def tests(self, job: Job, end: float) -> str | None:
    """The verdict of the tests, in a process of their own."""
    jobs, order = self._pipe()
    verdict, answer = self._pipe()
    given = (self.requests, self.replies)
    argv = [sys.executable, "-I", "-S", str(_CHECK)]
    argv += map(str, (*given, self._life[0]))
    os.set_blocking(self.requests, True)
    self._start(argv, jobs, answer, given, False)
    # Only the tests' process may hold these now, or nobody sees the end.
    self._close(jobs, answer, self.requests, self.replies)
    task = {
      **json.loads(self.order("")),
      "prompt": job.prompt,
      "test": job.test,
      "kernel": True,
      "memory_mb": 1024,
    }
    self.send(order, json.dumps(task), end)
    return self.receive(verdict, end)

  def ended(self, when: str) -> tuple[str, dict, str]:
    """(status, guards, detail) of a program that is no more."""
    try:
      code = self.process.wait(1)
    except subprocess.TimeoutExpired:
      return "wrong", {}, f"closed its pipes {when}"
    if code == -signal.SIGXCPU:
      return "timeout", {}, "used up its processor time"
    return "wrong", {}, f"ended {when} with exit code {code}"

  def send(self, fd: int, text: str, end: float) -> None:
    """Writes a frame. Raises TimeoutError at `end`."""
    os.set_blocking(fd, False)
    raw = text.encode()
    view = memoryview(len(raw).to_bytes(8, "big") + raw)
    while view:
      if not select.select((), [fd], (), max(end - time.monotonic(), 0))[1]:
        raise TimeoutError
      try:
        view = view[os.write(fd, view[: 1 << 16]) :]
      except BrokenPipeError:
        return  # the reply tells

  def receive(self, fd: int, end: float) -> str | None:
    """Reads a frame; None at its end. Raises TimeoutError at `end`."""
    data = b""
    while len(data) < 8 or len(data) < 8 + int.from_bytes(data[:8], "big"):
      if len(data) > 1 << 16:
        raise ValueError("a long reply")
      if not select.select([fd], (), (), max(end - time.monotonic(), 0))[0]:
        raise TimeoutError
      # Not a byte of what follows: it belongs to the tests' process.
      want = 8 + int.from_bytes(data[:8], "big") if len(data) >= 8 else 8
      part = os.read(fd, min(want - len(data), 1 << 16))
      if not part:
        return None
      data += part
    return data[8:].decode()

  def _pipe(self) -> tuple[int, int]:
    ends = os.pipe()
    self._open.update(ends)
    return ends

  def _close(self, *fds: int) -> None:
    for fd in fds:
      os.close(fd)
      self._open.remove(fd)

  def _close_all(self) -> None:
    self._close(*list(self._open))

  def _start(self, argv, read, write, given, inside) -> subprocess.Popen:
    process = subprocess.Popen(
      argv,
      stdin=read,
      stdout=write,
      stderr=subprocess.DEVNULL,
      pass_fds=() if inside else (*given, self._life[0]),
      cwd=self._folder,
      env=dict(os.environ) if inside else {},
      start_new_session=True,
    )
    self._stack.callback(_kill, process)
    return process


def _kill(process: subprocess.Popen) -> None:
  """Ends a process and its group, and reaps it."""
  try:
    os.killpg(process.pid, signal.SIGKILL)
  except (ProcessLookupError, PermissionError):
    process.kill()
  process.wait()


@contextlib.contextmanager
def _folder() -> Iterator[str]:
  """An empty folder that its programs cannot write to."""
  folder = tempfile.mkdtemp(prefix="rlreward-")
  try:
    os.chmod(folder, 0o555)
    yield folder
  finally:
    os.chmod(folder, 0o755)
    shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _library() -> list[str]:
  """Directories that an interpreter reads: its library and the system's."""
  paths = sysconfig.get_paths()
  own = {paths["stdlib"], paths["platstdlib"]}
  return [*sorted(own), "/lib", "/lib64", "/usr/lib", "/usr/share/zoneinfo"]


def container_argv(level: Level, name: str) -> list[str]:
  """The command that holds a program in a container.

  No network, no capabilities, nothing of the host mounted, a read-only root,
  an unprivileged user, and limits of memory, processes and time.

  Args:
    level: engine, image and limits.
    name: of the container.

  Returns:
    argv.

  Raises:
    UserError: another engine, or no image.
  """
  if level.engine not in ("docker", "podman") or not level.image:
    raise UserError(
      f"container engine {level.engine!r} with the image {level.image!r}",
      "the command line is that of docker and podman",
      "use engine='docker' or 'podman' and the name of an image",
    )
  memory, cpu = f"{level.memory_mb}m", int(level.seconds + 1)
  # A container has no file of ours: its interpreter gets the source itself.
  return [
    level.engine, "run", "--rm", "--interactive", "--pull=never",
    f"--name={name}", "--network=none", "--read-only", "--cap-drop=ALL",
    "--security-opt=no-new-privileges", "--user=65534:65534",
    "--ipc=none", "--pids-limit=64", f"--memory={memory}",
    f"--memory-swap={memory}", "--cpus=1", f"--ulimit=cpu={cpu}:{cpu}",
    "--ulimit=fsize=0", "--ulimit=core=0", "--workdir=/",
    "--log-driver=none", level.image, "python3", "-I", "-S", "-c",
    _CHILD.read_text(encoding="utf-8"), "-1",
  ]  # fmt: skip


def _remove_container(engine: str, name: str) -> None:
  """Ends a container whose client was killed."""
  subprocess.run(
    [engine, "rm", "--force", name],
    stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    timeout=60,
    check=False,
  )


def run_all(
  jobs: Sequence[Job], level: Level, workers: int = 2
) -> list[Outcome]:
  """Runs programs, some at a time.

  Args:
    jobs: programs and tests.
    level: see `run`.
    workers: programs at the same time.

  Returns:
    Outcomes in order.
  """
  from concurrent.futures import ThreadPoolExecutor

  with ThreadPoolExecutor(max(workers, 1)) as pool:
    return list(pool.map(functools.partial(run, level=level), jobs))


def guards() -> dict[str, Any]:
  """What level "rlimit" holds on this machine; {} where it cannot start."""
  job = Job("def f():\n  return 1\n", "f", "assert f() == 1")
  return run(job, Level("rlimit", seconds=60)).value or {}
