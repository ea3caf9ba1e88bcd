"""Runs with heads that transformers does not know: scored, never exported."""

import json

import jax
import numpy as np
import pytest
from test_scoring import PAIRS, config

from rlreward import cli, errors, reward_models, runs, train
from rlreward.config import freeze


def run_of(tmp_path, **head):
  c = config(tmp_path).to_dict()
  c["model"]["head"] |= head
  c["model"]["outputs"] = 2 if head["kind"] in ("gated", "features") else 1
  train.run(freeze(c), tmp_path / "run")
  return tmp_path / "run"


def test_a_gated_run_is_scored_and_not_exported(tmp_path, capsys):
  run = run_of(tmp_path, kind="gated", hidden=4)
  with pytest.raises(errors.UserError, match=r"head\.kind='gated'"):
    runs.export(run, tmp_path / "exported")
  assert not (tmp_path / "exported").exists()
  file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
  file.write_text("".join(json.dumps(r) + "\n" for r in PAIRS))
  words = ["score", f"--model={run}", f"--input={file}", f"--out={out}"]
  assert cli.main(words) == 0
  assert "a head of kind gated" in capsys.readouterr().err
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  found = runs.reward_model(run)
  for row, pair in zip(rows, PAIRS, strict=True):
    ids = [a.ids for a in found.encode(pair).found]
    starts = [a.start for a in found.encode(pair).found]
    want = found.model.scores(ids, starts)
    np.testing.assert_allclose(row["scores"], want, atol=1e-6)
  # Another gate gives other scores: the prompt is read.
  tree = found.model.variables["params"]
  gate = jax.tree.map(lambda x: -3 * x, tree["score"]["gate"])
  score = {**tree["score"], "gate": gate}
  found.model.variables = {"params": {**tree, "score": score}}
  assert np.abs(found.model.scores(ids, starts) - want).max() > 1e-6


def test_a_scalar_run_scores_as_its_export(tmp_path):
  run = run_of(tmp_path, kind="scalar")
  runs.export(run, tmp_path / "exported")
  live = runs.reward_model(run, batch=2)
  files = reward_models.load(tmp_path / "exported", batch=2)
  ids = [a.ids for p in PAIRS[:3] for a in live.encode(p).found]
  np.testing.assert_allclose(
    live.model.scores(ids), files.model.scores(ids), atol=1e-6
  )


def test_columns_cannot_be_scored_from_texts(tmp_path):
  c = config(tmp_path)
  from rlreward import registry
  from rlreward.models import reward_heads
  from rlreward.steps import roles

  model = roles.policy(c.model).model
  head = reward_heads.Head("features", columns=("a",))
  with pytest.raises(errors.UserError, match=r"columns=\('a',\)"):
    reward_models.native(tmp_path, c, registry.task(c), model, {}, head)
