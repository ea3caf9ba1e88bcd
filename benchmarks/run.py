"""Runs our benchmark and the peers' beside it, in turn, and prints ratios.

  python benchmarks/run.py [--sizes=S,M] [--rounds=2] [--parts=first,steady]

Peers are run where they are installed: PEERS_DIR holds their scripts (default
../shared/peers), JAX_PY is a Python with google-tunix, TRL_PY one with trl.
Results of all rounds go to results/bench.json; the table shows medians.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
# (size, part, peer, largest ratio wanted)
TARGETS = (
  ("M", "grpo_step", "tunix", 0.70),
  ("M", "grpo_step", "trl", 0.45),
  ("S", "grpo_step", "tunix", 0.80),
  ("S", "grpo_step", "trl", 0.65),
  ("M", "generate", "tunix", 0.45),
  ("M", "update", "purejax", 1.00),
  ("M", "peak_rss_mib", "tunix", 0.75),
)
FIRST = (("first", 8.0), ("warm", 4.0))  # seconds to the end of step one, at S
Table = dict[tuple[str, str, str], list[dict[str, Any]]]


def peers() -> dict[str, tuple[str, pathlib.Path]]:
  """{peer: (its python, its script)}, those that are there."""
  folder = pathlib.Path(
    os.environ.get("PEERS_DIR", ROOT.parent / "shared" / "peers")
  )
  found = {}
  for name, variable in (
    ("purejax", "JAX_PY"),
    ("tunix", "JAX_PY"),
    ("trl", "TRL_PY"),
  ):
    python, script = os.environ.get(variable), folder / f"bench_{name}.py"
    if python and script.is_file():
      found[name] = (python, script)
    else:
      print(f"{name}: not measured ({variable} or {script} is missing)")
  return found


def ours(size: str, part: str, cache: str) -> dict[str, Any]:
  """One process of our benchmark."""
  env = {**os.environ, "JAX_PLATFORMS": "cpu"}
  env.pop("JAX_COMPILATION_CACHE_DIR", None)
  if part == "warm":
    env["JAX_COMPILATION_CACHE_DIR"] = cache
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  mode = "first" if part == "warm" else part
  script = str(HERE / "bench_rlreward.py")
  done = subprocess.run(
    [sys.executable, script, size, mode],
    env=env,
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    raise SystemExit(done.stderr[-2000:])
  return json.loads(done.stdout.splitlines()[-1])


def theirs(python: str, script: pathlib.Path, size: str, part: str) -> Any:
  """One process of a peer's script, which writes beside itself."""
  with tempfile.TemporaryDirectory() as folder:
    for file in script.parent.glob("*.py"):
      shutil.copy(file, folder)
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "BENCH_TAG": ""}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
      [python, "-W", "ignore", script.name, size, part],
      cwd=folder,
      env=env,
      capture_output=True,
      text=True,
      check=False,
      timeout=900,
    )
    files = list((pathlib.Path(folder) / "results").glob("*.json"))
    if not files:
      print(f"{script.name} {size} {part} failed: {done.stderr[-500:]}")
      return None
    return json.loads(files[0].read_text())


def number(report: dict[str, Any], key: str, field: str) -> float | None:
  """A field of a result, or a plain value."""
  if key == "peak_rss_mib":
    return report.get("peak_rss_mib")
  value = report["results"].get(key)
  return value.get(field) if isinstance(value, dict) else value


def median(reports: list[dict], key: str, field: str) -> float | None:
  """Median over rounds."""
  values = [number(r, key, field) for r in reports]
  known = [v for v in values if v is not None]
  return statistics.median(known) if known else None


def row(cells: list[Any]) -> str:
  """A line of a markdown table."""
  return "| " + " | ".join(map(str, cells)) + " |"


def lines(table: Table) -> list[str]:
  """Targets against what was reached, wall and core-seconds."""
  head = ["size", "part", "against", "target", "wall", "core-s", "reached"]
  out = [row(head), "|---" * len(head) + "|"]
  for size, key, peer, most in TARGETS:
    part = "first" if key == "peak_rss_mib" else "steady"
    cells = []
    for field in ("quiet_s", "cpu_median_s"):
      mine = median(table[size, part, "rlreward"], key, field)
      other = median(table[size, part, peer], key, field)
      cells.append(mine / other if mine and other else None)
    if None in cells:
      continue
    reached = "yes" if max(cells) <= most else "no"
    wall, cpu = (f"{c:.2f}" for c in cells)
    out.append(row([size, key, peer, f"{most:.2f}", wall, cpu, reached]))
  for part, most in FIRST:
    value = median(table["S", part, "rlreward"], "first_step_s", "")
    if value is not None:
      reached = "yes" if value <= most else "no"
      name = "first step, " + ("cold" if part == "first" else "with cache")
      cells = ["S", name, "-", f"{most:.0f} s", f"{value:.1f} s", "-", reached]
      out.append(row(cells))
  return out


def details(table: Table) -> list[str]:
  """Wall and core-seconds of each part and peer."""
  out = []
  parts = ("generate", "score", "update", "update_with_reference", "grpo_step")
  for size in sorted({k[0] for k in table}):
    known = ("rlreward", "purejax", "tunix", "trl")
    names = [p for p in known if table[size, "steady", p]]
    out += ["", f"size {size}: wall / core-seconds", row(["part", *names])]
    out.append("|---" * (len(names) + 1) + "|")
    for key in parts:
      cells = []
      for name in names:
        found = table[size, "steady", name]
        wall = median(found, key, "quiet_s")
        cpu = median(found, key, "cpu_median_s")
        cells.append(f"{wall:.2f} / {cpu:.2f}" if wall and cpu else "-")
      out.append(row([key, *cells]))
    for key in ("peak_rss_mib", "first_step_s"):
      cells = [median(table[size, "first", n], key, "") for n in names]
      shown = [f"{c:.1f}" if c else "-" for c in cells]
      out.append(row([f"{key}, one step", *shown]))
  return out


def main() -> None:
  """Runs rounds and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--sizes", default="S,M")
  parser.add_argument("--rounds", type=int, default=2)
  parser.add_argument("--parts", default="first,steady")
  parser.add_argument("--out", default=str(ROOT / "results" / "bench.json"))
  args = parser.parse_args()
  table: Table = collections.defaultdict(list)
  others = peers()
  with tempfile.TemporaryDirectory() as cache:
    for round_ in range(args.rounds):
      for size in args.sizes.split(","):
        for part in args.parts.split(","):
          print(f"round {round_ + 1}, {size}, {part}", flush=True)
          table[size, part, "rlreward"].append(ours(size, part, cache))
          if part == "first" and size == "S":
            if not table[size, "warm", "rlreward"]:
              ours(size, "warm", cache)  # fills the cache
            table[size, "warm", "rlreward"].append(ours(size, "warm", cache))
          for name, (python, script) in others.items():
            found = theirs(python, script, size, part)
            if found:
              table[size, part, name].append(found)
  text = [*lines(table), *details(table)]
  print("\n".join(text))
  kept = {"/".join(k): v for k, v in table.items()}
  out = pathlib.Path(args.out)
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text(json.dumps({"table": text, "rounds": kept}, indent=1) + "\n")


if __name__ == "__main__":
  main()
