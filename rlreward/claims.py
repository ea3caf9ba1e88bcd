"""Runs the arms of a config over seeds and records whether the claim holds.

python -m rlreward.claims configs/quickstart.py:mini --seeds=0,1,2
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rlreward import config as config_lib
from rlreward import errors, train
from rlreward.types import Arm


def run(
  spec: str,
  seeds: Sequence[int],
  workdir: str | pathlib.Path,
  out: str | pathlib.Path = "results",
) -> dict[str, Any]:
  """Trains every arm with every seed and writes `out/<config>.json`.

  Args:
    spec: "configs/name.py:mini".
    seeds: at least 3 for a claim that is reported.
    workdir: runs go to `workdir/<config>/<arm>/seed_<n>`.
    out: where the result goes.

  Returns:
    The result: arms with first and last evaluations, mean and spread, training
    metrics of the last tenth of the steps ("train" of a run), whether the claim
    holds, wall time, commit.

  Raises:
    UserError: a run was asked to stop; nothing is written then.
  """
  study = config_lib.study(spec)
  base = config_lib.load(spec)
  begun = time.time()
  arms: dict[str, Any] = {}
  for arm in study.arms or (Arm(study.name, {}),):
    rows = []
    for seed in seeds:
      start = time.time()
      changes = {**arm.overrides, "seed": seed, "log.every": 50}
      config = config_lib.replace(base, changes)
      folder = pathlib.Path(workdir) / study.name / arm.name / f"seed_{seed}"
      found = train.run(config, folder, stage=f"{arm.name}, seed {seed}")
      if found.stopped:
        raise errors.UserError(
          f"arm {arm.name}, seed {seed}, was stopped before its end",
          "a claim is judged on whole runs",
          "run the same command again: it goes on where this stopped",
        )
      evals = {str(k): v for k, v in sorted(found.evals.items())}
      steps = list(evals)
      rows.append(
        {
          "seed": seed,
          "first": evals[steps[0]],
          "last": evals[steps[-1]],
          "evals": evals,
          "train": _late(folder),
          "seconds": round(time.time() - start, 1),
        }
      )
    arms[arm.name] = {"runs": rows, **_means(rows)}
  result = {
    "config": spec,
    "seeds": list(seeds),
    "arms": arms,
    "holds": bool(study.claim(arms)) if study.claim else None,
    "seconds": round(time.time() - begun, 1),
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
    "commit": _commit(),
  }
  path = pathlib.Path(out)
  path.mkdir(parents=True, exist_ok=True)
  text = json.dumps(result, indent=1, sort_keys=True)
  (path / f"{study.name}.json").write_text(text + "\n")
  return result


def _late(folder: pathlib.Path) -> dict[str, float]:
  """Means of a run's training metrics over the last tenth of its steps."""
  text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
  rows = [json.loads(line) for line in text.splitlines()]
  rows = [r for r in rows if not any(k.startswith("eval/") for k in r)]
  late = rows[-max(1, len(rows) // 10) :]
  out = {}
  for name in late[-1] if late else ():
    values = [r[name] for r in late if r.get(name) is not None]
    if name not in ("step", "time") and "seconds" not in name and values:
      out[name] = float(np.mean(values))
  return out


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Mean and standard deviation over seeds of the first and last metrics."""
  out: dict[str, Any] = {}
  for when in ("first", "last"):
    for name in rows[0][when]:
      values = [row[when][name] for row in rows]
      out[f"{when}/{name}"] = float(np.mean(values))
      out[f"{when}/{name}_sd"] = float(np.std(values, ddof=len(values) > 1))
  return out


def _commit() -> str:
  found = subprocess.run(
    ["git", "rev-parse", "--short", "HEAD"],
    capture_output=True,
    text=True,
    check=False,
    cwd=pathlib.Path(__file__).parent,
  )
  return found.stdout.strip() or "unknown"


def main(argv: Sequence[str] | None = None) -> int:
  """Command line of this module; 0 unless the input is bad (2).

  Args:
    argv: words after the module's name; default those of the process.
  """
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("spec", help="a config, such as configs/x.py:mini")
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--workdir", default="runs/claims")
  parser.add_argument("--out", default="results")
  args = parser.parse_args(argv)
  try:
    result = run(args.spec, _seeds(args.seeds), args.workdir, args.out)
  except errors.UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  print("holds" if result["holds"] else f"holds: {result['holds']}")
  return 0


def _seeds(text: str) -> list[int]:
  """The text "0,1,2" as numbers, each once."""
  try:
    seeds = [int(part) for part in text.split(",")]
  except ValueError:
    seeds = []
  if not seeds or len(set(seeds)) < len(seeds):
    raise errors.UserError(
      f"--seeds={text!r} is not a list of different whole numbers",
      "every arm is trained once with each, and the spread is over them",
      "write --seeds=0,1,2",
    )
  return seeds


if __name__ == "__main__":
  sys.exit(main())
