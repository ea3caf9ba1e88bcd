"""The benchmark runs, at a size that takes no time."""

import collections
import json
import subprocess
import sys

import paths
import pytest


@pytest.mark.parametrize("mode", ["steady", "first"])
def test_report_has_the_keys_of_the_peers(mode):
  script = paths.REPO / "benchmarks" / "bench_rlreward.py"
  done = subprocess.run(
    [sys.executable, str(script), "nano", mode],
    capture_output=True,
    text=True,
    check=True,
  )
  report = json.loads(done.stdout.splitlines()[-1])
  keys = {"generate", "score", "update", "update_with_reference", "grpo_step"}
  want = keys if mode == "steady" else {"first_step_s"}
  assert report["results"].keys() == want and report["peak_rss_mib"] > 0


def test_targets_are_judged_by_both_clocks():
  sys.path.insert(0, str(paths.REPO))
  from benchmarks import run

  table = collections.defaultdict(list)
  stats = lambda w, c: {"results": {"grpo_step": {
    "quiet_s": w, "cpu_median_s": c}}}  # fmt: skip
  table["S", "steady", "rlreward"] = [stats(1.0, 1.0)]
  table["S", "steady", "tunix"] = [stats(2.0, 1.0)]
  rows = [r for r in run.lines(table) if "grpo_step" in r]
  assert rows == ["| S | grpo_step | tunix | 0.80 | 0.50 | 1.00 | no |"]
