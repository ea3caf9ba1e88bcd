"""What is recorded in results/ says what its config says."""

import json

import paths
import pytest

from rlreward import claims, config, errors, train

FILES = [
  path
  for path in sorted((paths.REPO / "results").glob("*.json"))
  if "config" in json.loads(path.read_text())
]
each = pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)


@each
def test_the_verdict_is_that_of_the_claim(path):
  found = json.loads(path.read_text())
  study = config.study(found["config"])
  assert study.name == path.stem and study.claim is not None
  assert {a.name for a in study.arms} == set(found["arms"])
  assert len(set(found["seeds"])) >= 3
  assert bool(study.claim(found["arms"])) == found["holds"]


@each
def test_means_are_those_of_the_runs(path):
  for arm in json.loads(path.read_text())["arms"].values():
    for name, value in claims._means(arm["runs"]).items():
      assert arm[name] == pytest.approx(value, rel=1e-6, abs=1e-9)


def test_every_paper_has_a_record():
  known = {json.loads(p.read_text())["config"].split("/")[-1] for p in FILES}
  methods = (paths.REPO / "rlreward" / "methods").glob("[!_]*.py")
  for method in methods:
    assert f"{method.stem}.py:mini" in known


def test_the_last_tenth_of_training(tmp_path):
  rows = [{"step": i, "time": 1.0, "kl": float(i)} for i in range(1, 31)]
  rows.insert(30, {"step": 30, "eval/kl": 7.0})
  rows[-2]["reward"] = 0.5
  text = "".join(f"{json.dumps(r)}\n" for r in rows)
  (tmp_path / "metrics.jsonl").write_text(text)
  assert claims._late(tmp_path) == {"kl": 29.0, "reward": 0.5}


def test_a_stopped_run_is_no_result(tmp_path, monkeypatch):
  stopped = train.Result(None, {}, tmp_path, None, None, stopped=True)  # pyright: ignore[reportArgumentType]
  monkeypatch.setattr(train, "run", lambda *_, **__: stopped)
  with pytest.raises(errors.UserError, match="same command"):
    claims.run("configs/quickstart.py:mini", [3], tmp_path, tmp_path / "out")
  assert not (tmp_path / "out").exists()
