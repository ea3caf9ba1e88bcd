"""Runs DPO, Bradley-Terry and PPO beside their peers, and prints ratios.

usage: python benchmarks/run_offline.py [--sizes S,M] [--rounds 1] [--full]
  [--parts dpo,reward_model,ppo] [--peers tunix,trl]

Peers run where they are installed: JAX_PY is a Python with google-tunix, TRL_PY
one with trl. All start from the same weights and rows, and must print the same
first losses. At M only Tunix runs beside ours, which the targets need; --full
runs TRL there as well. All reports go to results/bench/offline.json, rewritten
after every process; BENCH_MAX_S bounds the seconds of one measurement (5).
Compilation is not measured: JAX_COMPILATION_CACHE_DIR, if set, saves its time.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
OUT = ROOT / "results" / "bench" / "offline.json"
sys.path[:0] = [str(ROOT)]

from benchmarks import compare, run

TARGETS = (*compare.OFFLINE, *compare.ASIDE)
KNOWN = {
  "tunix": ("JAX_PY", ("dpo",)),
  "trl": ("TRL_PY", ("dpo", "reward_model")),
}


def peers(wanted: list[str]) -> list[run.Runner]:
  """Peers that are installed; says which are not."""
  out = []
  for peer in wanted:
    variable, _ = KNOWN[peer]
    python = shutil.which(os.environ.get(variable, ""))
    if python:
      out.append(run.Runner(peer, python, HERE / f"peer_{peer}.py", True))
    else:
      print(f"{peer}: not measured, set {variable}", flush=True)
  return out


def plan(
  found: list[run.Runner],
  sizes: list[str],
  parts: list[str],
  rounds: int,
  full: bool,
) -> list[tuple[int, str, str, run.Runner]]:
  """Order of the processes; every second round goes backwards."""
  script = HERE / "bench_offline.py"
  ours = run.Runner("rlreward", sys.executable, script, True)
  out = []
  for index in range(rounds):
    for size in sizes:
      for part in parts:
        turn = [ours] + [
          r
          for r in found
          if part in KNOWN[r.peer][1]
          and (full or size != "M" or r.peer != "trl")
        ]
        for runner in turn[:: -1 if index % 2 else 1]:
          out.append((index, size, part, runner))
  return out


def write(path: pathlib.Path, reports: list[dict[str, Any]]) -> None:
  """Rewrites the JSON of all that is known so far."""
  data = {
    "machine": run.machine(),
    "targets": [compare.judge(reports, t) for t in TARGETS],
    "agreement": compare.agreement(reports),
    "reports": reports,
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(data, indent=1) + "\n")


def main() -> None:
  """Fails where one of our runs failed or a peer's losses are not ours."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--sizes", default="S,M")
  parser.add_argument("--rounds", type=int, default=1)
  parser.add_argument("--parts", default="dpo,reward_model,ppo")
  parser.add_argument("--peers", default="tunix,trl")
  parser.add_argument("--full", action="store_true")
  parser.add_argument("--out", default=str(OUT))
  args = parser.parse_args()
  sizes, parts = args.sizes.split(","), args.parts.split(",")
  os.environ.setdefault("BENCH_MAX_S", "5")
  found = peers([x for x in args.peers.split(",") if x])
  reports: list[dict[str, Any]] = []
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    kept = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    cache = pathlib.Path(kept) if kept else None
    if found:
      from benchmarks import bench_offline, workload

      for size in sizes:
        bench_offline.export(workload.SIZES[size], folder / size)
    for index, size, part, runner in plan(
      found, sizes, parts, args.rounds, args.full
    ):
      begun = time.monotonic()
      more = (str(folder / size),)
      report = run.run(runner, size, part, cache, more=more)
      reports.append({**report, "round": index})
      spent = time.monotonic() - begun
      name = f"round {index + 1}: {runner.peer} {size} {part}"
      print(f"{name}, {spent:.0f} s", flush=True)
      write(pathlib.Path(args.out), reports)
  print("\n" + "\n".join(compare.offline_lines(reports)))
  print("\n" + "\n".join(compare.target_lines(reports, TARGETS)))
  agreed = compare.agreement(reports)
  for one in agreed:
    print("{size} {mode}: losses of {peer} differ by {gap:.1e}".format(**one))
  failed = any("error" in r for r in reports if r["peer"] == "rlreward")
  if failed or not all(x["same"] for x in agreed):
    raise SystemExit(1)


if __name__ == "__main__":
  main()
