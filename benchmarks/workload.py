"""Sizes, timers and the JSON of a report, shared by the benchmarks.

A repetition records wall seconds, this process's CPU seconds and the cores that
others kept busy meanwhile: on a shared machine CPU seconds are the number to
compare, wall the number a user feels.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any


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

  @property
  def rows(self) -> int:
    """Sampled sequences."""
    return self.prompts * self.group


SIZES = {
  "nano": Size("nano", 2, 32, 2, 64, 64, 8, 8, 2, 2),
  "S": Size("S", 4, 256, 4, 768, 512, 32, 64, 8, 8),
  "M": Size("M", 8, 512, 8, 1536, 4096, 128, 128, 4, 4),
}


def process_age() -> float:
  """Seconds since the kernel started this process."""
  fields = pathlib.Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
  up = float(pathlib.Path("/proc/uptime").read_text().split()[0])
  return up - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def peak_rss_mib() -> float:
  """Largest resident set of this process so far."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _cpu() -> float:
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime


def _busy() -> float:
  line = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]
  user, nice, system, _, _, irq, soft, steal = map(int, line[:8])
  ticks = user + nice + system + irq + soft + steal
  return ticks / os.sysconf("SC_CLK_TCK")


def measure(
  fn: Callable[[], Any], reps: int = 5, seconds: float = 10.0
) -> dict[str, float]:
  """Medians over repetitions of fn, which blocks until it is done.

  Args:
    fn: what to time; called once before.
    reps: repetitions wanted; more while others disturb, up to `seconds`.
    seconds: limit.
  """
  fn()
  rows, begun = [], time.perf_counter()
  while True:
    busy, cpu, wall = _busy(), _cpu(), time.perf_counter()
    fn()
    wall = time.perf_counter() - wall
    cpu = _cpu() - cpu
    rows.append((wall, cpu, max(0.0, _busy() - busy - cpu) / wall))
    quiet = [r[0] for r in rows if r[2] < 0.15]
    spent = time.perf_counter() - begun
    if len(quiet) >= reps or (len(rows) >= reps and spent > seconds):
      break
  return {
    "n": len(rows),
    "n_clean": len(quiet),
    "median_s": statistics.median(r[0] for r in rows),
    "min_s": min(r[0] for r in rows),
    "quiet_s": statistics.median(quiet)
    if len(quiet) >= 3
    else min(r[0] for r in rows),
    "cpu_median_s": statistics.median(r[1] for r in rows),
    "others_cores_median": statistics.median(r[2] for r in rows),
  }


class Report:
  """The results of one process, printed as JSON in the last line."""

  def __init__(self, peer: str, size: Size, mode: str):
    self.data: dict[str, Any] = {
      "peer": peer,
      "size": size.name,
      "mode": mode,
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
    print(json.dumps(self.data), flush=True)
