"""Runs tests against a program that lives in another process.

The tests call a stand-in that sends the arguments over a pipe and gets a plain
value back. Whether an assertion holds is decided here, where the program has
no object, no frame and no file to reach.
"""

import builtins
import json
import os
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parent))

import sandbox_child as child


class Gone(BaseException):
  """The program ended or broke the protocol: no test may catch that."""


class Candidate:
  """What tests call.

  Args:
    write: pipe of calls.
    read: pipe of replies.
  """

  def __init__(self, write, read):
    self._write, self._read = write, read
    self.calls, self.gone = 0, ""

  def __call__(self, *args, **kwargs):
    packed = json.dumps([child.pack(args), child.pack(kwargs)])
    if self.gone:
      raise Gone(self.gone)
    self.calls += 1
    try:
      child.send(self._write, packed)
      kind, *rest = json.loads(self._frame())
      value = child.unpack(rest[0]) if kind == "value" else None
      names = rest[0] if kind == "raised" else ()
      text = str(rest[-1]) if kind == "raised" else ""
    except BaseException as error:  # its bytes are no reply: its fault
      self.gone = f"the program gave no answer ({type(error).__name__})"
      raise Gone(self.gone) from None
    if kind == "value":
      return value
    raise self._raised(names, text)

  def _raised(self, names, text):
    """The nearest builtin exception of the program's own."""
    for name in names:
      kind = vars(builtins).get(name) if isinstance(name, str) else None
      if isinstance(kind, type) and issubclass(kind, Exception):
        try:
          return kind(text)
        except TypeError:
          return RuntimeError(text)
    self.gone = f"the program raised {text}"
    return Gone(self.gone)

  def _frame(self):
    size = int.from_bytes(self._exactly(8), "big")
    if size > child.MOST_FRAME:
      raise ValueError("too long")
    return self._exactly(size)

  def _exactly(self, size):
    parts = []
    while size:
      part = os.read(self._read, size)
      if not part:
        raise EOFError
      parts.append(part)
      size -= len(part)
    return b"".join(parts)


def judge(job, candidate) -> list:
  """[status, detail] of the tests of a job.

  Args:
    job: "prompt", "test" and "entry".
    candidate: the stand-in.
  """
  space: dict = {"__name__": "__tests__"}
  for prompt in (job["prompt"], job["prompt"] + "\n    pass\n"):
    try:
      exec(compile(prompt, "<prompt>", "exec"), space)
      break
    except SyntaxError:
      continue  # a head without its body
  space[job["entry"]] = candidate
  space.pop("check", None)
  try:
    exec(compile(job["test"], "<test>", "exec"), space)
    check = space.get("check")
    if check is not None and check is not candidate:
      check(candidate)
  except BaseException as error:
    detail = child.said(error)
    return ["wrong" if candidate.calls else "error", detail]
  if candidate.gone:
    return ["wrong", candidate.gone]
  if not candidate.calls:
    return ["error", f"the tests never call {job['entry']}"]
  return ["ok", ""]


def main(write, read, life) -> None:
  """Reads a job from the standard input, writes the verdict to the output."""
  child.die_with_parent(life)
  jobs, verdicts = os.dup(0), os.dup(1)
  null = os.open(os.devnull, os.O_RDWR)
  for fd in (0, 1, 2):
    os.dup2(null, fd)
  job = json.loads(child.receive(jobs))
  os.close(jobs)
  child.give_up(job)
  child.send(verdicts, judge(job, Candidate(write, read)))
  os._exit(0)


if __name__ == "__main__":
  main(*map(int, sys.argv[1:]))
