"""What a run says: one progress line, JSON lines, TensorBoard, samples.

Process 0 writes, the others are silent. Everything on disk is readable without
this package: `metrics.jsonl`, `samples/step_N.jsonl`, TensorBoard events.
"""

from __future__ import annotations

import json
import math
import pathlib
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import jax
import numpy as np

from rlreward.errors import UserError

# Shown on the progress line when present: (metric, label, format).
COLUMNS = (
  ("loss", "loss", "{:.4g}"),
  ("accuracy", "acc", "{:.3f}"),
  ("reward", "reward", "{:.3f}"),
  ("kl", "kl", "{:.3g}"),
  ("length", "len", "{:.1f}"),
  ("rollout_tokens_per_second", "rollout", "{} tok/s"),
  ("train_tokens_per_second", "train", "{} tok/s"),
)
_COMPILED = "/jax/core/compile/backend_compile_duration"


class Writer:
  """Writes the metrics of a run.

  Args:
    workdir: a local directory, created if absent.
    total_steps: where the run ends, for the ETA.
    resume_step: the step restored from a checkpoint; what was written beyond
      it is removed, for the run writes it again. None starts afresh.
    tensorboard: also write TensorBoard events to `workdir/tensorboard`.
    stream: where text goes; default standard output.
    log_every: steps between progress lines when `stream` is not a terminal.

  Raises:
    UserError: the workdir is a bucket.
  """

  def __init__(
    self,
    workdir: str | pathlib.Path,
    total_steps: int,
    *,
    resume_step: int | None = None,
    tensorboard: bool = True,
    stream: TextIO | None = None,
    log_every: int = 10,
  ):
    if "://" in str(workdir):
      raise UserError(
        f"metrics cannot be appended to in {workdir}",
        "buckets have no append",
        "use a local --workdir and put only the checkpoints in the bucket",
      )
    self._on = jax.process_index() == 0
    self._dir = pathlib.Path(workdir)
    self._total, self._every = total_steps, max(log_every, 1)
    self._stream = sys.stdout if stream is None else stream
    self._tty = self._stream.isatty()
    self._open_line = False
    self._start: tuple[int, float] | None = None
    self._first: dict[str, float] = {}
    self._last: dict[str, float] = {}
    self.nonfinite: dict[str, int] = {}
    self._events: Any = None
    if not self._on:
      return
    path = self._dir / "metrics.jsonl"
    (self._dir / "samples").mkdir(parents=True, exist_ok=True)
    self._rewind(path, -1 if resume_step is None else resume_step)
    self._file = path.open("a", encoding="utf-8")
    if tensorboard:
      from tensorboardX import SummaryWriter

      folder = self._dir / "tensorboard"
      for old in folder.glob("events.*") if resume_step is None else ():
        old.unlink()
      self._events = SummaryWriter(
        str(folder),
        purge_step=None if resume_step is None else resume_step + 1,
      )

  def scalars(
    self, step: int, metrics: Mapping[str, Any], prefix: str = ""
  ) -> dict[str, float]:
    """Writes the numbers of a step and returns them as floats.

    Numbers that are not finite are written as null and counted in
    `nonfinite`.

    Args:
      step: the number of finished steps.
      metrics: {name: scalar}; device arrays are fetched in one transfer.
      prefix: put before each name, e.g. "eval/".

    Returns:
      {prefix + name: float}.

    Raises:
      ValueError: a metric is not a scalar.
    """
    found = {}
    for name, value in jax.device_get(dict(metrics)).items():
      array = np.asarray(value)
      if array.size != 1:
        raise ValueError(f"metric {name!r} has shape {array.shape}, not ()")
      found[prefix + name] = float(array.reshape(()))
    if not self._on:
      return found
    line: dict[str, Any] = {"step": step, "time": round(time.time(), 3)}
    for name, value in found.items():
      finite = math.isfinite(value)
      line[name] = value if finite else None
      if finite:
        self._first.setdefault(name, value)
        self._last[name] = value
      else:
        self._count(name, step, value)
      if self._events is not None:
        self._events.add_scalar(name, value, step)
    self._file.write(json.dumps(line) + "\n")
    self._file.flush()
    return found

  def drift(self, name: str, value: Any) -> Any:
    """How far a metric lies from the first one of the run, 0 for the first.

    Args:
      name: as it is written, prefix included.
      value: of this step, not yet written.
    """
    return value - self._first.get(name, value)

  def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes `samples/step_N.jsonl` and the first rows to TensorBoard.

    Args:
      step: the number of finished steps.
      rows: what is known of each sample (prompt, completion, reward
        components, KL, length, finish, advantage); arrays become lists.
    """
    if not self._on:
      return
    lines = [json.dumps(_plain(row), ensure_ascii=False) for row in rows]
    path = self._dir / "samples" / f"step_{step}.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if self._events is not None and lines:
      text = "\n\n".join(f"    {line}" for line in lines[:4])
      self._events.add_text("samples", text, step)

  def progress(self, step: int, metrics: Mapping[str, float]) -> None:
    """One line: step, ETA and those of `COLUMNS` that `metrics` holds.

    A terminal sees it rewritten in place, a log file every `log_every` steps.
    The ETA leaves out the first step, which compiles.

    Args:
      step: the number of finished steps.
      metrics: what `scalars` returned.
    """
    if not self._on:
      return
    now = time.monotonic()
    last = step >= self._total
    if self._start is None:
      self._start, eta = (step, now), "?"
    else:
      done, taken = step - self._start[0], now - self._start[1]
      left = max(self._total - step, 0)
      eta = seconds(left * taken / done) if done > 0 else "?"
    if not (self._tty or last or step % self._every == 0):
      return
    parts = [f"step {step}/{self._total}", "done" if last else f"eta {eta}"]
    for name, label, form in COLUMNS:
      # On-policy the surrogate's value is 0 by construction: it tells nothing.
      if name in metrics and not (name == "loss" and "reward" in metrics):
        value: Any = metrics[name]
        value = human(value) if "{}" in form else value
        parts.append(f"{label} {form.format(value)}")
    text = "  ".join(parts)
    if self._tty:
      self._stream.write("\r" + text[:160].ljust(100))
      self._open_line = True
    else:
      self._stream.write(text + "\n")
    self._stream.flush()

  def line(self, text: str) -> None:
    """Prints a line of text without tearing the progress line."""
    if self._on:
      self._stream.write("\n" * self._open_line + text + "\n")
      self._stream.flush()
      self._open_line = False

  def banner(self, lines: Sequence[str]) -> None:
    """Prints what is about to run, framed.

    Args:
      lines: e.g. parameter count, mesh, batch arithmetic, where output goes.
    """
    rule = "-" * min(max((len(line) for line in lines), default=0), 80)
    self.line("\n".join([rule, *lines, rule]))

  def summary(self, names: Sequence[str] = (), footer: Sequence[str] = ()):
    """Prints the table first against last, and lines below it.

    Args:
      names: the metrics shown; default all, the shown columns first.
      footer: e.g. paths of samples and checkpoint, the next command.
    """
    if not self._on:
      return
    from rich.console import Console
    from rich.table import Table

    order = [name for name, _, _ in COLUMNS]
    known = sorted(self._first, key=lambda n: (n not in order, "/" in n, n))
    table = Table("metric", "first", "last", "change")
    for name in names or known[:16]:
      if name in self._first:
        a, b = self._first[name], self._last[name]
        table.add_row(name, f"{a:.4g}", f"{b:.4g}", f"{b - a:+.4g}")
    self.line("")
    console = Console(file=self._stream, width=None if self._tty else 80)
    console.print(table)
    for name, count in sorted(self.nonfinite.items()):
      self.line(f"{name} was not finite {count} times")
    for text in footer:
      self.line(text)

  def close(self) -> None:
    """Flushes and closes the files."""
    if self._on:
      if self._open_line:
        self.line("")
      self._file.close()
      if self._events is not None:
        self._events.close()

  def _count(self, name: str, step: int, value: float) -> None:
    if name not in self.nonfinite:
      self.line(f"RLR-W003: {name} is {value} at step {step}; written as null")
    self.nonfinite[name] = self.nonfinite.get(name, 0) + 1

  def _rewind(self, path: pathlib.Path, step: int) -> None:
    """Drops lines and samples beyond `step`, and a line cut by a kill."""
    for sample in (self._dir / "samples").glob("step_*.jsonl"):
      if int(sample.stem.removeprefix("step_")) > step:
        sample.unlink()
    if not path.exists():
      return
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines():
      try:
        row = json.loads(text)
      except json.JSONDecodeError:
        continue
      if row["step"] <= step:
        kept.append(text)
        for name, value in row.items():
          if value is not None and name not in ("step", "time"):
            self._first.setdefault(name, value)
            self._last[name] = value
    whole = path.with_suffix(".tmp")
    whole.write_text("".join(f"{text}\n" for text in kept), encoding="utf-8")
    whole.replace(path)


class CompileCounter:
  """Counts compilations per phase of a loop; a second one is a warning.

  Shapes are fixed by the config, so each phase compiles in its first call and
  never again. Use as a context manager, or `close()` it.

  Args:
    warn: called with the text of a warning; default `warnings.warn`.
    min_seconds: calls whose compilations take less in all are not counted
      (single operations outside jit).
  """

  def __init__(self, warn: Any = None, min_seconds: float = 0.1):
    self._warn, self._min = warn or _warn, min_seconds
    self._open: list[tuple[str, float]] | None = None
    self.compiles: dict[str, int] = {}
    self.compile_seconds: dict[str, float] = {}
    self._warned: set[str] = set()
    jax.monitoring.register_event_duration_secs_listener(self._listen)

  @contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """Names what runs inside, e.g. "sample" or "update"."""
    self._open = heard = []
    try:
      yield
    finally:
      self._open = None
      self._add(name, heard)

  def scalars(self) -> dict[str, float]:
    """{"compiles/update": ..., "compile_seconds/update": ...}."""
    counts = {f"compiles/{k}": float(v) for k, v in self.compiles.items()}
    times = {f"compile_seconds/{k}": v for k, v in self.compile_seconds.items()}
    return {**counts, **times}

  def close(self) -> None:
    """Stops to listen."""
    jax.monitoring.unregister_event_duration_listener(self._listen)

  def __enter__(self) -> CompileCounter:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def _listen(
    self, event: str, duration_secs: float, **facts: str | int
  ) -> None:
    if event == _COMPILED and self._open is not None:
      self._open.append((str(facts.get("fun_name", "?")), duration_secs))

  def _add(self, name: str, heard: list[tuple[str, float]]) -> None:
    took = sum(duration for _, duration in heard)
    first = name not in self.compiles
    if first:
      self.compiles[name], self.compile_seconds[name] = 0, 0.0
    if not heard or took < self._min:
      return
    self.compiles[name] += 1
    self.compile_seconds[name] += took
    if not first and name not in self._warned:
      self._warned.add(name)
      longest = max(heard, key=lambda pair: pair[1])[0]
      self._warn(
        f"RLR-W002: phase {name!r} compiled again ({longest}, {took:.1f} s): "
        "a shape, a dtype or a sharding changed between steps"
      )


def seconds(value: float) -> str:
  """A duration: "9s", "3m20s", "2h05m"."""
  whole = round(value)
  if whole < 60:
    return f"{whole}s"
  if whole < 3600:
    return f"{whole // 60}m{whole % 60:02d}s"
  return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def human(value: float) -> str:
  """A large number: "950", "1.2k", "3.4M"."""
  for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
    if abs(value) >= limit:
      return f"{value / limit:.1f}{unit}"
  return f"{value:.0f}"


def _warn(text: str) -> None:
  warnings.warn(text, stacklevel=5)


def _plain(value: Any) -> Any:
  """JSON's types; arrays as lists, numbers that are not finite as None."""
  if isinstance(value, Mapping):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, jax.Array | np.ndarray | np.generic):
    return _plain(np.asarray(value).tolist())
  if isinstance(value, list | tuple):
    return [_plain(v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
