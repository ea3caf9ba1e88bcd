"""Judgements a second of the rewards that run something.

usage: python benchmarks/bench_execute.py [--jobs 200] [--out FILE]

Workers on an empty function, SQL on a small database in memory, and programs
at level rlimit (two processes each). Prints one JSON object and writes it to
results/bench/execute.json. CPU seconds are those of this process and of its
children: on a busy machine they are the number to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
OUT = ROOT / "results" / "bench" / "execute.json"
sys.path[:0] = [str(ROOT)]

from rlreward.rewards import sandbox, sql_parts
from rlreward.rewards.workers import Workers

TABLES = """CREATE TABLE t (a INTEGER, b TEXT);
INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, 'z');"""
PROGRAM = sandbox.Job(
  "def f(x):\n  return 2 * x\n", "f", "assert f(3) == 6 and f(0) == 0\n"
)


def cpu() -> float:
  """Processor seconds of this process and of its ended children."""
  both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
  used = [resource.getrusage(who) for who in both]
  return sum(u.ru_utime + u.ru_stime for u in used)


def measure(jobs: int, work: Callable[[], Any]) -> dict[str, float]:
  """Wall and CPU time of some work, by job."""
  wall, start = time.perf_counter(), cpu()
  work()
  wall, used = time.perf_counter() - wall, cpu() - start
  return {
    "jobs": jobs,
    "per_second": jobs / wall,
    "cpu_ms_per_job": 1000 * used / jobs,
  }


def pooled(function: str, arguments: list, warm: bool) -> Callable[[], None]:
  """Work of a pool that starts and ends inside, for its CPU time to count."""

  def work() -> None:
    with Workers(count=2, timeout=60) as workers:
      if warm:
        workers.map(function, arguments[:2])
      out = workers.map(function, arguments)
      assert all(o.status == "ok" for o in out)

  return work


def main() -> None:
  """Measures and writes the report."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--jobs", type=int, default=200)
  parser.add_argument("--out", type=pathlib.Path, default=OUT)
  args = parser.parse_args()
  n = args.jobs
  query = "SELECT a, b FROM t WHERE a > 1"
  row = (query, query, TABLES, query, tuple(sql_parts.Options()))
  level = sandbox.Level("rlimit", seconds=60)

  def programs() -> None:
    out = sandbox.run_all([PROGRAM] * n, level, workers=2)
    assert all(o.status == "ok" for o in out)

  report = {
    "machine": {
      "cores": os.cpu_count(),
      "system": os.uname().sysname + " " + os.uname().release,
      "load": os.getloadavg()[0],
    },
    "python": sys.version.split()[0],
    "guards": sandbox.guards(),
    "workers": measure(20 * n, pooled("builtins:len", ["text"] * 20 * n, True)),
    "sql": measure(
      5 * n, pooled("rlreward.rewards.sql_parts:judge", [row] * 5 * n, True)
    ),
    "python_rlimit": measure(n, programs),
  }
  text = json.dumps(report, indent=1)
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.write_text(text + "\n")
  print(text)


if __name__ == "__main__":
  main()
