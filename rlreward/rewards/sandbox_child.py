"""Holds a program of the policy; runs under `-I -S`, with nothing of ours.

The process reads the program, gives up what it can (files, network, signals,
new processes) and then answers calls of its functions. It never sees the
tests: a reply is a plain value, so the most that a hostile program can do on
this pipe is to answer as another program would.
"""

import ctypes
import fcntl
import json
import os
import platform
import resource
import signal
import struct
import sys

MOST_FRAME = 4 << 20  # bytes
NOBODY = 65534
# prctl and clone flags, from the headers of Linux.
NO_NEW_PRIVS, SET_SECCOMP, SET_DUMPABLE = 38, 22, 4
NEW_NETWORK, NEW_USER, NEW_IPC = 0x40000000, 0x10000000, 0x08000000
# Numbers of system calls that no program under test needs, by machine.
DENIED = {
  "x86_64": (
    0xC000003E,
    (41, 42, 43, 44, 46, 49, 50, 53, 288, 307)  # sockets
    + (57, 58, 59, 322)  # fork, vfork, execve, execveat
    + (62, 200, 234, 129, 297, 424)  # kill and its kin
    + (101, 310, 311, 312, 434, 438)  # ptrace, memory and files of others
    + (165, 166, 155, 161, 272, 308, 428, 429, 430, 442)  # mounts, namespaces
    + (248, 249, 250, 298, 321, 323, 425, 426, 427)  # keys, bpf, io_uring
    + (
      90,
      91,
      268,
      92,
      93,
      94,
      260,
      132,
      235,
      261,
      280,
      452,
    )  # modes and owners
    + (16, 72, 302, 160, 251, 141, 142, 144, 203),  # ioctl, fcntl, limits
    56,
  ),
  "aarch64": (
    0xC00000B7,
    (198, 199, 200, 201, 202, 203, 206, 211, 212, 242, 269)
    + (221, 281)
    + (129, 130, 131, 138, 240, 424)
    + (117, 270, 271, 272, 434, 438)
    + (39, 40, 41, 51, 97, 268, 428, 429, 430, 442)
    + (217, 218, 219, 241, 280, 282, 425, 426, 427)
    + (52, 53, 54, 55, 88, 452)
    + (29, 25, 261, 164, 30, 118, 119, 140, 122),
    220,
  ),
}
CLONE3, THREAD = 435, 0x00010000


def main(life) -> None:
  """Loads a program and answers calls until the pipe closes.

  Args:
    life: a pipe whose end is the end of this process; -1 is none.
  """
  if life >= 0:
    die_with_parent(life)
  read, write = os.dup(0), os.dup(1)
  null = os.open(os.devnull, os.O_RDWR)
  for fd in (0, 1, 2):
    os.dup2(null, fd)
  os.close(null)
  with open(0, closefd=False) as empty:
    sys.stdin = empty
    job = json.loads(receive(read))
    guards = give_up(job)
    space: dict = {"__name__": "__program__"}
    try:
      exec(compile(job["source"], "<program>", "exec"), space)
      space[job["entry"]]
    except BaseException as error:
      send(write, ["broken", said(error), guards])
      os._exit(0)
    send(write, ["ready", "", guards])
    serve(space[job["entry"]], read, write)


def serve(function, read, write) -> None:
  """Answers [args, kwargs] with ["value", x] or ["raised", type, text]."""
  while True:
    call = json.loads(receive(read))
    try:
      args, kwargs = unpack(call[0]), unpack(call[1])
      value = function(*args, **kwargs)  # pyright: ignore[reportCallIssue]
      reply = ["value", pack(value)]
      text = json.dumps(reply)
    except BaseException as error:
      text = json.dumps(["raised", kinds(error), said(error)])
    send(write, text)


def give_up(job) -> dict:
  """Limits, then what the kernel can take away; says what it took.

  Args:
    job: "cpu" seconds, "memory_mb", "files" that may be read, "kernel" whether
      to ask the kernel for more than limits.

  Returns:
    {guard: whether it holds}.
  """
  done = {"limits": True, "user": False, "network": False, "files": False,
          "processes": False}  # fmt: skip
  cpu, memory = job["cpu"], job["memory_mb"] << 20
  limits = {
    resource.RLIMIT_CPU: (cpu, cpu + 1),
    resource.RLIMIT_FSIZE: (0, 0),
    resource.RLIMIT_CORE: (0, 0),
    resource.RLIMIT_NOFILE: (32, 32),
    resource.RLIMIT_AS: (memory, memory),
  }
  if not job["kernel"]:
    limits = {}
  for name, pair in limits.items():
    try:
      resource.setrlimit(name, pair)
    except (ValueError, OSError):
      done["limits"] = False
  if not job["kernel"]:
    return done
  if os.geteuid() == 0:
    done["user"] = drop_root()
  try:
    resource.setrlimit(resource.RLIMIT_NPROC, (64, 64))
  except (ValueError, OSError):
    done["limits"] = False
  if sys.platform != "linux":
    return done
  libc = ctypes.CDLL(None, use_errno=True)
  libc.syscall.restype = ctypes.c_long
  namespaces = NEW_USER | NEW_NETWORK | NEW_IPC
  done["network"] = libc.unshare(namespaces) == 0
  if libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
    done["files"] = landlock(libc, job["files"])
    done["processes"] = seccomp(libc)
    done["network"] = done["network"] or done["processes"]
  return done


def die_with_parent(life) -> None:
  """The kernel ends this process when the other end of a pipe closes."""
  signal.signal(signal.SIGIO, signal.SIG_DFL)
  fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
  flags = fcntl.fcntl(life, fcntl.F_GETFL)
  fcntl.fcntl(life, fcntl.F_SETFL, flags | os.O_ASYNC)


def drop_root() -> bool:
  """Becomes nobody where the interpreter's library stays readable."""
  os.seteuid(NOBODY)
  readable = os.access(os.__file__, os.R_OK, effective_ids=True)
  os.seteuid(0)
  if not readable:
    return False
  os.setgroups([])
  os.setresgid(NOBODY, NOBODY, NOBODY)
  os.setresuid(NOBODY, NOBODY, NOBODY)
  return True


def landlock(libc, readable) -> bool:
  """Only `readable` may be read; nothing may be written, sent or signalled.

  Args:
    libc: the C library.
    readable: directories.

  Returns:
    Whether the kernel has it (Linux 5.13; signals and sockets from 6.12).
  """
  version = libc.syscall(444, None, 0, 1)
  if version < 1:
    return False
  files = (1 << (13, 14, 15, 15, 16)[min(version, 5) - 1]) - 1
  network, scope = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
  parts = (files, network, scope)
  size = 24 if version >= 6 else 16 if version >= 4 else 8
  attributes = struct.pack("QQQ", *parts)[:size]
  ruleset = libc.syscall(444, attributes, ctypes.c_size_t(size), 0)
  if ruleset < 0:
    return False
  for path in readable:
    try:
      fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
      continue
    rule = struct.pack("=Qi", (1 << 2) | (1 << 3), fd)
    libc.syscall(445, ruleset, 1, rule, 0)
    os.close(fd)
  held = libc.syscall(446, ruleset, 0) == 0
  os.close(ruleset)
  return held


def seccomp(libc) -> bool:
  """A filter on system calls: no sockets, processes, signals or tracing.

  Args:
    libc: the C library.

  Returns:
    Whether the kernel took it; False on machines other than the two known.
  """
  if platform.machine() not in DENIED:
    return False
  arch, calls, clone = DENIED[platform.machine()]
  load = lambda offset: (0x20, 0, 0, offset)  # a word of the call's record
  equal = lambda value, yes, no: (0x15, yes, no, value)
  give = lambda value: (0x06, 0, 0, value)
  refuse, allow, kill = give(0x00050001), give(0x7FFF0000), give(0x80000000)
  # Each test stands before the same tail: [absent, clone, refuse, allow].
  code = [load(4), equal(arch, 1, 0), kill, load(0)]
  if arch == 0xC000003E:
    code += [(0x35, 0, 1, 0x40000000), refuse]  # the x32 numbers
  for number in calls:
    code += [equal(number, 0, 1), refuse]
  # clone3 hides its flags in memory: without it libc falls back to clone.
  code += [equal(CLONE3, 0, 1), give(0x00050026)]
  code += [equal(clone, 0, 3), load(16), (0x45, 1, 0, THREAD), refuse, allow]
  blob = b"".join(struct.pack("HBBI", *c) for c in code)
  buffer = ctypes.create_string_buffer(blob, len(blob))
  program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
  return libc.prctl(SET_SECCOMP, 2, program, 0, 0) == 0


def pack(x):
  """A builtin value as JSON; subclasses travel as what they extend.

  Raises:
    TypeError: no builtin value.
  """
  if x is None or x is True or x is False:
    return x
  if isinstance(x, str):
    return str.__str__(x)
  if isinstance(x, int):
    return {"i": hex(int(x))}
  if isinstance(x, float):
    return {"f": float.hex(x)}
  if isinstance(x, complex):
    return {"c": [float.hex(x.real), float.hex(x.imag)]}
  if isinstance(x, (bytes, bytearray)):
    return {"b": bytes(x).hex()}
  for kind, name in ((list, "l"), (tuple, "t"), (set, "s"), (frozenset, "z")):
    if isinstance(x, kind):
      return {name: [pack(y) for y in x]}
  if isinstance(x, dict):
    return {"d": [[pack(k), pack(v)] for k, v in x.items()]}
  if isinstance(x, range):
    return {"r": [x.start, x.stop, x.step]}
  raise TypeError(f"a {type(x).__name__} is no plain value")


def unpack(x):
  """What `pack` packed.

  Raises:
    Exception: of many kinds, for anything else.
  """
  if x is None or isinstance(x, (bool, str)):
    return x
  ((kind, v),) = x.items()
  if kind in "ltsz":
    to = {"l": list, "t": tuple, "s": set, "z": frozenset}[kind]
    return to(unpack(y) for y in v)
  if kind == "d":
    return {unpack(k): unpack(y) for k, y in v}
  if kind == "r":
    return range(*v)
  if kind == "c":
    return complex(*map(float.fromhex, v))
  to = {"i": lambda t: int(t, 16), "f": float.fromhex, "b": bytes.fromhex}
  return to[kind](v)


def kinds(error) -> list:
  """Names of the builtin types of an exception, the nearest first."""
  return [t.__name__ for t in type(error).__mro__ if t.__module__ == "builtins"]


def said(error) -> str:
  """Type and message of an error on one line."""
  try:
    text = " ".join(str(error).split())[:200]
  except BaseException:
    text = "no message"
  return f"{type(error).__name__}: {text}"


def receive(fd) -> str:
  """One frame; ends the process when the pipe is closed."""
  size = int.from_bytes(exactly(fd, 8), "big")
  if size > MOST_FRAME:
    os._exit(1)
  return exactly(fd, size).decode()


def exactly(fd, size) -> bytes:
  """`size` bytes of a pipe."""
  parts = []
  while size:
    part = os.read(fd, size)
    if not part:
      os._exit(0)
    parts.append(part)
    size -= len(part)
  return b"".join(parts)


def send(fd, data) -> None:
  """Writes one frame: a text, or anything as JSON."""
  text = data if isinstance(data, str) else json.dumps(data)
  raw = text.encode()
  view = memoryview(len(raw).to_bytes(8, "big") + raw)
  while view:
    view = view[os.write(fd, view) :]


if __name__ == "__main__":
  main(int(sys.argv[1]))
