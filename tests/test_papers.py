"""The index of papers says what configs and records say."""

import json
import math

import numpy as np
import paths
import pytest
import scipy.stats

from rlreward import cli, config, papers

CONFIG = '''"""Two arms.

Paper: A Paper of Two
Lines, arXiv 1234.56789.
"""
from rlreward.types import Arm
ARMS = (Arm("new", {}), Arm("old", {}), Arm("unread", {}))
def claim(r):
  """New beats old,
  always."""
  late = all(x["evals"]["3"]["gold"] > 0 for x in r["new"]["runs"])
  return late and r["new"]["last/gold"] > r["old"]["last/gold"]
'''


def record(**golds):
  runs = lambda values: [
    {"seed": i, "first": {"gold": 0.0}, "last": {"gold": v, "kl": 1.0},
     "evals": {"3": {"gold": v}}, "train": {}}
    for i, v in enumerate(values)
  ]  # fmt: skip
  arms = {
    k: {"runs": runs(v), "last/gold": float(np.mean(v))}
    for k, v in golds.items()
  }
  return {"arms": arms, "seconds": 12.0, "seeds": [0, 1, 2], "holds": True}


@pytest.fixture
def study(tmp_path):
  (tmp_path / "two.py").write_text(CONFIG)
  return config.study(str(tmp_path / "two.py"))


def test_numbers_are_what_the_claim_reads(study, tmp_path):
  found = record(new=[1.0, 2.0, 4.0], old=[1.0, 1.0, 1.0], unread=[5.0] * 3)
  (tmp_path / "two.json").write_text(json.dumps(found))
  paper = papers._paper(study, "1234.56789", tmp_path / "two.json")
  assert paper.title == "A Paper of Two Lines"
  assert paper.claim == "New beats old, always."
  assert list(paper.arms) == ["new", "old", "unread"]
  assert all(list(arm) == ["gold"] for arm in paper.arms.values())
  mean, half = paper.arms["new"]["gold"]
  low, high = scipy.stats.t.interval(
    0.95, 2, np.mean([1, 2, 4]), scipy.stats.sem([1, 2, 4])
  )
  # The table of t has three digits.
  assert mean == pytest.approx((low + high) / 2)
  assert half == pytest.approx((high - low) / 2, rel=2e-3)
  text = papers.page([paper])
  assert "new: gold 2.33 ± 3.8" in text and "12 | holds, 3 seeds" in text


def test_t_is_that_of_scipy():
  want = scipy.stats.t.ppf(0.975, np.arange(1, len(papers.T95) + 1))
  np.testing.assert_allclose(papers.T95, want, atol=6e-3)


def test_without_a_record_nothing_is_said(study, tmp_path):
  paper = papers._paper(study, "1234.56789", tmp_path / "none.json")
  assert paper.holds is None and math.isnan(paper.seconds) and not paper.arms
  assert papers.lines([paper])[0].split()[:2] == ["two", "-"]
  assert "| - | not measured |" in papers.page([paper])


def test_what_does_not_hold_is_said(study, tmp_path):
  found = {**record(new=[0.0] * 3, old=[1.0] * 3), "holds": False}
  (tmp_path / "two.json").write_text(json.dumps(found))
  paper = papers._paper(study, "1234.56789", tmp_path / "two.json")
  assert "**does not hold**" in papers.page([paper])
  assert papers.lines([paper])[0].split()[:2] == ["two", "fails"]
  # The claim stops at its first reading; the other arm shows the same.
  assert list(paper.arms["old"]) == ["gold"]


def test_the_page_is_current():
  page = (paths.REPO / "docs" / "papers.md").read_text(encoding="utf-8")
  fix = "run: python -m rlreward.papers docs/papers.md"
  assert page == papers.page(papers.papers()), fix


def test_the_verb(capsys):
  assert cli.main(["list", "papers"]) == 0
  out = capsys.readouterr().out
  for path in (paths.REPO / "rlreward" / "methods").glob("[!_]*.py"):
    assert f"  {path.stem} " in out
  assert papers.main([]) == 2
