"""Runs our benchmark, the bound and the peers in turn, and prints ratios.

usage: python benchmarks/run.py [--sizes S,M] [--rounds 2]
  [--parts first,warm,steady] [--peers bound,purejax,tunix,trl]

Peers run where they are installed: PEERS_DIR holds their scripts (default
../shared/peers), JAX_PY is a Python with google-tunix, TRL_PY one with trl.
A peer's steady process is stopped once its whole GRPO step is timed. Our first
step starts with an empty compilation cache, our warm one with a filled cache.
All reports go to results/bench/peers.json, rewritten after every process;
BENCH_MAX_S limits the seconds of one measurement (10).
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
OUT = ROOT / "results" / "bench" / "peers.json"
sys.path[:0] = [str(ROOT)]

from benchmarks import compare


class Runner(NamedTuple):
  """How one contender is run.

  `ours` says that the script lies here and prints its report in the last line;
  another one lies in a copied folder and writes its report beside itself.
  """

  peer: str
  python: str
  script: pathlib.Path
  ours: bool


def runners(folder: pathlib.Path, wanted: list[str]) -> list[Runner]:
  """Contenders that are installed; says which are not.

  Args:
    folder: where the peers' scripts are copied to, since they write results
      beside themselves.
    wanted: names of contenders besides rlreward.
  """
  mine = lambda n: Runner(n, sys.executable, HERE / f"bench_{n}.py", True)
  out = [mine("rlreward")] + ([mine("bound")] if "bound" in wanted else [])
  default = ROOT.parent / "shared" / "peers"
  source = pathlib.Path(os.environ.get("PEERS_DIR", default))
  for script in source.glob("*.py"):
    (folder / script.name).write_text(script.read_text())
  for peer, variable in (
    ("purejax", "JAX_PY"),
    ("tunix", "JAX_PY"),
    ("trl", "TRL_PY"),
  ):
    if peer not in wanted:
      continue
    python = shutil.which(os.environ.get(variable, ""))
    script = folder / f"bench_{peer}.py"
    if python and script.is_file():
      out.append(Runner(peer, python, script, False))
    else:
      print(f"{peer}: not measured, set PEERS_DIR and {variable}", flush=True)
  return out


def environment(cache: pathlib.Path | None) -> dict[str, str]:
  """CPU, idle threads that sleep, and a compilation cache only where asked."""
  env = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", **os.environ}
  env.update(JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1", BENCH_TAG="")
  env.pop("JAX_COMPILATION_CACHE_DIR", None)
  if cache:
    env["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  return env


def cache_of(
  folder: pathlib.Path, runner: Runner, size: str, part: str
) -> pathlib.Path | None:
  """Ours: a new empty cache for first, one for all rounds for warm."""
  if runner.peer != "rlreward" or part == "steady":
    return None
  if part == "first":
    return pathlib.Path(tempfile.mkdtemp(dir=folder))
  return folder / f"cache_{size}"


def run(
  runner: Runner,
  size: str,
  mode: str,
  cache: pathlib.Path | None = None,
  limit: float = 600.0,
  more: tuple[str, ...] = (),
) -> dict[str, Any]:
  """One process: its report, or one with `error`.

  Args:
    runner: whose script.
    size: S or M.
    mode: first, warm or steady, or another mode that the script knows.
    cache: folder of compiled programs; None keeps none.
    limit: seconds after which the process is killed.
    more: further arguments of the script.
  """
  result = (
    runner.script.parent / "results" / f"{runner.peer}_{size}_{mode}.json"
  )
  if not runner.ours:
    result.unlink(missing_ok=True)
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  process = subprocess.Popen(
    [runner.python, "-W", "ignore", str(runner.script), size, mode, *more],
    cwd=ROOT if runner.ours else runner.script.parent,
    env=environment(cache),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    errors="replace",
  )
  assert process.stdout
  timer = threading.Timer(limit, process.kill)
  timer.start()
  lines, stopped = [], False
  for line in process.stdout:
    lines.append(line)
    # Peers print this after writing it down; the rest is not ours to compare.
    if not runner.ours and line.startswith("[") and "] grpo_step:" in line:
      process.terminate()
      stopped = True
  code = process.wait()
  timer.cancel()
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
  report: dict[str, Any]
  if code and not stopped:
    tail = "".join(lines)[-1500:]
    print(f"{runner.peer} {size} {mode} failed ({code}):\n{tail}", flush=True)
    report = {"results": {}, "error": tail}
  elif runner.ours:
    report = json.loads(next(x for x in reversed(lines) if x.startswith("{")))
  else:
    report = json.loads(result.read_text())
  report.update(peer=runner.peer, size=size, mode=mode, process_cpu_s=cpu)
  return report


def machine() -> dict[str, Any]:
  """What the numbers hold for."""
  lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  models = [x.partition(":")[2].strip() for x in lines if "model name" in x]
  return {
    "cores": os.cpu_count(),
    "cpu": models[0] if models else platform.machine(),
    "system": platform.platform(),
  }


def write(path: pathlib.Path, reports: list[dict[str, Any]]) -> None:
  """Rewrites the JSON of all that is known so far."""
  data = {
    "machine": machine(),
    "targets": [compare.judge(reports, t) for t in compare.TARGETS],
    "reports": reports,
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(data, indent=1) + "\n")


def plan(
  contenders: list[Runner], sizes: list[str], parts: list[str], rounds: int
) -> list[tuple[int, str, str, Runner]]:
  """Order of the processes; every second round goes backwards."""
  out = []
  for index in range(rounds):
    for size in sizes:
      for part in parts:
        turn = [
          r
          for r in contenders
          if (part != "warm" or r.peer == "rlreward")
          and (size != "nano" or r.ours)
        ]
        for runner in turn[:: -1 if index % 2 else 1]:
          out.append((index, size, part, runner))
  return out


def main() -> None:
  """Runs rounds and prints tables; fails where one of our runs failed."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--sizes", default="S,M")
  parser.add_argument("--rounds", type=int, default=2)
  parser.add_argument("--parts", default="first,warm,steady")
  parser.add_argument("--peers", default="bound,purejax,tunix,trl")
  parser.add_argument("--out", default=str(OUT))
  args = parser.parse_args()
  sizes, parts = args.sizes.split(","), args.parts.split(",")
  reports: list[dict[str, Any]] = []
  with tempfile.TemporaryDirectory() as folder:
    scripts = pathlib.Path(folder) / "peers"
    scripts.mkdir()
    contenders = runners(scripts, args.peers.split(","))
    filled = set()
    for index, size, part, runner in plan(
      contenders, sizes, parts, args.rounds
    ):
      cache = cache_of(pathlib.Path(folder), runner, size, part)
      if part == "warm" and size not in filled:
        run(runner, size, part, cache)  # fills the cache
        filled.add(size)
      begun = time.monotonic()
      report = run(runner, size, part, cache)
      reports.append({**report, "round": index})
      spent = time.monotonic() - begun
      name = f"round {index + 1}: {runner.peer} {size} {part}"
      print(f"{name}, {spent:.0f} s", flush=True)
      write(pathlib.Path(args.out), reports)
  for size in sizes:
    print("\n" + "\n".join(compare.detail_lines(reports, size)))
  print("\n" + "\n".join(compare.target_lines(reports)))
  if any("error" in r for r in reports if r["peer"] in ("rlreward", "bound")):
    raise SystemExit(1)


if __name__ == "__main__":
  main()
