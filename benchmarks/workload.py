"""Sizes, timers and the JSON of a report, shared by the benchmarks.

A repetition records wall seconds, this process's CPU seconds and the cores that
others kept busy meanwhile: on a shared machine CPU seconds are the number to
compare, wall the number a user feels.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

QUIET = 0.15  # cores; a repetition is undisturbed if others used fewer
PACKAGES = ("jax", "google-tunix", "trl", "torch", "transformers")
Row = tuple[float, float, float]  # wall s, CPU s, cores that others used


@dataclasses.dataclass(frozen=True)
class Size:
  """A Llama-style decoder in f32 and one GRPO update on it."""

  name: str
  layers: int
  width: int
  heads: int
  mlp: int
  vocab: int
  prompt: int
  new: int
  prompts: int
  group: int
  pairs: int

  @property
  def rows(self) -> int:
    """Sampled sequences."""
    return self.prompts * self.group

  @property
  def head_dim(self) -> int:
    """Width of one attention head."""
    return self.width // self.heads

  @property
  def new_tokens(self) -> int:
    """Sampled tokens of all sequences."""
    return self.rows * self.new

  @property
  def all_tokens(self) -> int:
    """Prompt and sampled tokens of all sequences."""
    return self.rows * (self.prompt + self.new)

  @property
  def pair_tokens(self) -> int:
    """Prompt and answer tokens of both answers of all pairs."""
    return 2 * self.pairs * (self.prompt + self.new)

  @property
  def reps(self) -> int:
    """Repetitions of one measurement."""
    return 3 if self.name == "M" else 5

  @property
  def params(self) -> int:
    """Parameters of the decoder."""
    block = 4 * self.width**2 + 3 * self.width * self.mlp + 2 * self.width
    return self.layers * block + 2 * self.vocab * self.width + self.width


SIZES = {
  "nano": Size("nano", 2, 32, 2, 64, 64, 8, 8, 2, 2, 2),
  "S": Size("S", 4, 256, 4, 768, 512, 32, 64, 8, 8, 16),
  "M": Size("M", 8, 512, 8, 1536, 4096, 128, 128, 4, 4, 8),
}


def versions() -> dict[str, str]:
  """Those of the packages that could matter here."""
  out = {}
  for name in PACKAGES:
    try:
      out[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return out


def process_age() -> float:
  """Seconds since the kernel started this process."""
  fields = pathlib.Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
  up = float(pathlib.Path("/proc/uptime").read_text().split()[0])
  return up - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def peak_rss_mib() -> float:
  """Largest resident set of this process so far."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cpu_seconds() -> float:
  """CPU seconds of this process, all threads, user and system."""
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime


def busy_seconds() -> float:
  """CPU seconds that all processes of the machine have used since it booted."""
  line = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]
  user, nice, system, _, _, irq, soft, steal = map(int, line[:8])
  ticks = user + nice + system + irq + soft + steal
  return ticks / os.sysconf("SC_CLK_TCK")


def limit() -> float:
  """Seconds of one measurement: the environment's BENCH_MAX_S, or 10."""
  return float(os.environ.get("BENCH_MAX_S", "10"))


def enough(
  rows: Sequence[Row], reps: int, spent: float, seconds: float
) -> bool:
  """Whether a measurement may end.

  Args:
    rows: repetitions so far.
    reps: undisturbed repetitions wanted.
    spent: seconds since it began.
    seconds: after these `reps` of any kind do, after three times these two.
  """
  return (
    sum(row[2] < QUIET for row in rows) >= reps
    or (len(rows) >= reps and spent > seconds)
    or (len(rows) >= 2 and spent > 3 * seconds)
  )


class Clock:
  """Repetitions, each from a start or the last tick to the next tick."""

  def __init__(self):
    """No repetition yet."""
    self.rows: list[Row] = []
    self.mark: tuple[float, float, float] | None = None

  def start(self) -> None:
    """A repetition begins."""
    self.mark = busy_seconds(), cpu_seconds(), time.perf_counter()

  def tick(self) -> None:
    """It ends, and the next one begins."""
    assert self.mark
    busy, cpu, wall = self.mark
    wall = time.perf_counter() - wall
    cpu = cpu_seconds() - cpu
    other = max(0.0, (busy_seconds() - busy - cpu) / wall)
    self.rows.append((wall, cpu, other))
    self.start()


def measure(
  fn: Callable[[], Any], reps: int = 5, seconds: float | None = None
) -> dict[str, float]:
  """Medians over repetitions of fn, which blocks until its result is ready.

  Args:
    fn: what to time; called once before.
    reps: repetitions wanted, see `enough`.
    seconds: limit; by default `limit()`.
  """
  seconds = limit() if seconds is None else seconds
  fn()
  clock, begun = Clock(), time.perf_counter()
  while not enough(clock.rows, reps, time.perf_counter() - begun, seconds):
    clock.start()
    fn()
    clock.tick()
  return summarise(clock.rows)


def summarise(rows: Sequence[Row]) -> dict[str, float]:
  """Statistics of repetitions.

  Args:
    rows: (wall seconds, CPU seconds, cores that others used) of each.

  Returns:
    Medians, extremes, and `quiet_s`: the median wall of the undisturbed
    repetitions if there are three, else the fastest repetition.
  """
  wall = [row[0] for row in rows]
  quiet = [row[0] for row in rows if row[2] < QUIET]
  return {
    "n": len(rows),
    "n_clean": len(quiet),
    "median_s": statistics.median(wall),
    "min_s": min(wall),
    "max_s": max(wall),
    "quiet_s": statistics.median(quiet) if len(quiet) >= 3 else min(wall),
    "cpu_median_s": statistics.median(row[1] for row in rows),
    "cores_busy_median": statistics.median(row[1] / row[0] for row in rows),
    "others_cores_median": statistics.median(row[2] for row in rows),
  }


class Report:
  """The results of one process, printed as JSON in the last line."""

  def __init__(self, peer: str, size: Size, mode: str, notes: dict[str, str]):
    """Starts a report.

    Args:
      peer: whose results these are.
      size: the workload.
      mode: steady, first or warm.
      notes: for each key, what exactly ran.
    """
    self.data: dict[str, Any] = {
      "peer": peer,
      "size": size.name,
      "mode": mode,
      "params": size.params,
      "versions": versions(),
      "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
      "load1_start": os.getloadavg()[0],
      "notes": notes,
      "results": {},
    }

  def add(self, key: str, stats: dict[str, float], tokens: int) -> None:
    """Adds a timing and its tokens per second."""
    stats = {**stats, "tokens": tokens, "tok_s": tokens / stats["quiet_s"]}
    self.data["results"][key] = stats

  def put(self, key: str, value: Any) -> None:
    """Adds a plain value."""
    self.data["results"][key] = value

  def finish(self) -> None:
    """Prints everything."""
    self.data["peak_rss_mib"] = round(peak_rss_mib(), 1)
    self.data["load1_end"] = os.getloadavg()[0]
    print(json.dumps(self.data), flush=True)
