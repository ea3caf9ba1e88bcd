"""The benchmark of the frontier runs at a size that takes no time."""

import json
import sys

import paths

sys.path.insert(0, str(paths.REPO))

from benchmarks import bench_frontier


def test_report(tmp_path, monkeypatch, capsys):
  small = bench_frontier.measure
  monkeypatch.setattr(
    bench_frontier, "measure", lambda repeats: small(6, 64, 5, repeats)
  )
  out = tmp_path / "a" / "frontier.json"
  argv = ["bench", "--repeats", "2", "--out", str(out)]
  monkeypatch.setattr(sys, "argv", argv)
  bench_frontier.main()
  report = json.loads(out.read_text())
  assert report == json.loads(capsys.readouterr().out)
  assert len(report["wall_s"]) == len(report["cpu_s"]) == 2
  assert report["machine"]["cores"] and report["compile_s"] > 0
  assert 0 < report["gain_error"] < 1e-4 and report["trusted"] > 0
