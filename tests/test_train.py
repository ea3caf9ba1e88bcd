"""What a run leaves behind and what it says on the way."""

import functools
import json
import re
import tempfile
from typing import Any

import jax
import numpy as np
import pytest
import run_worker as worker

from rlreward import errors, record, train
from rlreward.checkpoint import Checkpointer
from rlreward.config import from_json, replace
from rlreward.steps import judge, refill
from rlreward.types import Score


@functools.cache
def finished():
  """A run of 6 steps with everything switched on; (result, printed text)."""
  import contextlib
  import io

  folder = tempfile.mkdtemp(prefix="train")
  config = worker.base(
    6,
    log__tensorboard=True,
    log__every=2,
    log__samples_every=3,
    loss__kl_beta=0.1,
    eval__every=2,
  )
  out = io.StringIO()
  with contextlib.redirect_stdout(out):
    result = train.run(config, f"{folder}/run", command="rlreward train X")
  return config, result, out.getvalue()


def jsonl(path):
  def refuse(word):
    raise AssertionError(f"{word} is not JSON")

  lines = path.read_text(encoding="utf-8").splitlines()
  return [json.loads(line, parse_constant=refuse) for line in lines]


def test_the_directory_holds_what_is_promised():
  config, result, _ = finished()
  found = {p.name for p in result.workdir.iterdir()} - {"compiled"}
  assert found == {"config.json", "metrics.jsonl", "samples", "tensorboard",
                   "checkpoints", "command.txt"}  # fmt: skip
  assert (result.workdir / "command.txt").read_text() == "rlreward train X\n"
  assert from_json((result.workdir / "config.json").read_text()) == config
  assert list((result.workdir / "tensorboard").glob("events.*"))
  names = sorted(p.name for p in (result.workdir / "samples").iterdir())
  assert names == ["eval_0.jsonl", "eval_2.jsonl", "eval_4.jsonl",
                   "eval_6.jsonl", "step_3.jsonl", "step_6.jsonl"]  # fmt: skip
  steps = {p.name for p in (result.workdir / "checkpoints").iterdir()}
  assert {"3", "6"} <= steps


def test_metrics_name_what_a_user_watches():
  _, result, _ = finished()
  rows = jsonl(result.workdir / "metrics.jsonl")
  trained = [row for row in rows if "loss" in row]
  assert [row["step"] for row in trained] == [1, 2, 3, 4, 5, 6]
  wanted = {"reward", "kl", "length", "truncated", "group_collapse",
            "grad_norm", "seconds/sample", "seconds/score", "seconds/update",
            "rollout_tokens_per_second", "train_tokens_per_second"}  # fmt: skip
  assert wanted <= set(trained[-1])
  assert {r["step"] for r in rows if "eval/reward" in r} == set(result.evals)


def test_samples_hold_every_field_of_a_row():
  _, result, _ = finished()
  rows = jsonl(result.workdir / "samples" / "step_3.jsonl")
  assert len(rows) == 16
  tokenizer = result.task.spec["tokenizer"]
  for row in rows:
    assert {"prompt", "completion", "reward", "advantage", "kl", "logp",
            "length", "finish"} <= set(row)  # fmt: skip
    assert any(name.startswith("reward/") for name in row)
    assert row["length"] == len(row["logp"]) == len(row["completion_ids"])
    assert row["finish"] in ("stop", "length")
    assert row["prompt"].endswith("=")
    assert tokenizer.decode(row["prompt_ids"]) == row["prompt"]
    assert max(row["logp"]) <= 0
  assert [row["group"] for row in rows] == sorted([0, 1, 2, 3] * 4)
  for g in range(4):
    group = [row for row in rows if row["group"] == g]
    assert len({row["prompt"] for row in group}) == 1
    assert sum(r["advantage"] for r in group) == pytest.approx(0, abs=1e-5)


def test_the_banner_says_what_runs():
  _, result, text = finished()
  banner = text.split("held out")[0]
  count = sum(x.size for x in jax.tree.leaves(result.state.params))
  assert f"{count / 1e3:.1f}k parameters trained" in banner
  assert f"{count / 1e3:.1f}k frozen" in banner
  assert "4 prompts x 4 samples = 16 rows = 1 update x 16" in banner
  assert "microbatch 16" in banner
  assert re.search(r"^loss .*GRPO", banner, re.M)
  assert "0.1 x forward surrogate (k3, gradient of KL(ref||pi))" in banner
  assert "mesh" in banner or "device" in banner
  assert f"output {result.workdir}" in banner
  assert "resume with the same command: rlreward train X" in banner


def test_a_progress_line_every_so_often():
  _, _, text = finished()
  lines = [x for x in text.splitlines() if x.startswith("step ")]
  assert [x.split()[1] for x in lines] == ["2/6", "4/6", "6/6"]
  for line in lines:
    assert re.search(r"eta \S+|done", line)
    for label in ("reward", "kl", "len", "rollout", "train"):
      assert re.search(rf"\b{label} [-\d.]+", line), line


def test_the_summary_compares_first_and_last():
  _, result, text = finished()
  table, end = text.split("the same prompts at step 0 and at step 6:")
  assert re.search(r"eval/reward.*[\d.]+.*[\d.]+.*[+-][\d.]+", table)
  assert end.count("before reward") == end.count("after  reward") == 4
  for name in ("samples ", "curves ", "checkpoints ", "rlreward sample --run="):
    assert name in end
  assert str(result.workdir) in end


def test_the_first_of_two_stages_ends_in_few_words(tmp_path, capsys):
  train.run(worker.two_stages(), tmp_path)
  first, last = capsys.readouterr().out.split("(stage 2 of 2, grpo)")
  assert "(stage 1 of 2, sft)" in first
  assert f"checkpoints  {tmp_path}/start/checkpoints" in first
  for words in ("curves ", "the same prompts", "rlreward sample"):
    assert words not in first and words in last


def test_each_phase_compiles_once():
  _, result, text = finished()
  rows = jsonl(result.workdir / "metrics.jsonl")
  last = [row for row in rows if "loss" in row][-1]
  counts = {k: v for k, v in last.items() if k.startswith("compiles/")}
  assert set(counts) == {"compiles/sample", "compiles/update",
                         "compiles/evaluate"}  # fmt: skip
  assert max(counts.values()) <= 1
  assert "compiled again" not in text


def test_evaluation_does_not_touch_training(tmp_path):
  config, result, _ = finished()
  never = replace(config, {"eval.every": 0, "log.samples_every": 0})
  quiet = train.run(never, tmp_path)
  assert sorted(quiet.evals) == [0, 6]
  worker.assert_same(result.state, quiet.state)
  assert quiet.evals[6] == result.evals[6]


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_loss_that_is_not_finite_is_refused(tmp_path, monkeypatch, name):
  config = worker.base(8, checkpoint__every=2, eval__every=0)
  good = train.run(config, tmp_path, stop_after=4)
  advance = train.advance

  def poisoned(*args):
    state, found, seen = advance(*args)
    params = jax.tree.map(lambda x: x * np.nan, state.params)
    return state._replace(params=params), {**found, name: np.nan}, seen

  monkeypatch.setattr(train, "advance", poisoned)
  with pytest.raises(errors.UserError, match=f"{name} is nan at step 5"):
    train.run(config, tmp_path)
  monkeypatch.undo()
  again = train.run(config, tmp_path, stop_after=0)
  worker.assert_same(good.state, again.state)
  train.run(config, tmp_path)
  rows = jsonl(tmp_path / "metrics.jsonl")
  steps = [row["step"] for row in rows if row.get("loss") is not None]
  assert steps == list(range(1, 9))


RARE = """
def rare(completion):
  return float(completion[:1] in ("0", "1"))
"""


def test_refill_replaces_groups_that_do_not_vary(tmp_path):
  changes = {"prompts_per_step": 4, "log__samples_every": 1, "eval__every": 0}
  config = worker.text(tmp_path, 6, refill_rounds=3, **changes)
  (tmp_path / "reward.py").write_text(RARE)
  config = replace(config, {"task.rewards": f"{tmp_path}/reward.py:rare"})
  workdir = tmp_path / "run"
  train.run(config, workdir)
  curve = [row for row in worker.curve(workdir) if "loss" in row]
  for row in curve:
    rows = jsonl(workdir / "samples" / f"step_{row['step']}.jsonl")
    groups = [rows[i : i + 4] for i in range(0, 16, 4)]
    for index, group in enumerate(groups):
      assert {row["group"] for row in group} == {index}
      assert len({row["prompt"] for row in group}) == 1
    alive = [len({row["reward"] for row in g}) > 1 for g in groups]
    # Those that vary come first; the rest only fill up.
    assert alive == sorted(alive, reverse=True)
    assert sum(alive) == min(row["refill/kept"], 4)
    # It stops as soon as enough vary, and not before.
    assert row["refill/kept"] >= 4 or row["refill/drawn"] == 16
    assert row["refill/drawn"] in (4, 8, 12, 16)
    # Tokens of all rounds, of at most 3 a sample.
    assert row["tokens_sampled"] <= row["refill/drawn"] * 4 * 3
    assert row["tokens_sampled"] >= row["refill/drawn"] * 4
  drawn = [row["refill/drawn"] for row in curve]
  assert len(set(drawn)) > 1
  saver = Checkpointer(workdir / "checkpoints")
  assert saver._record(6)["iterator"]["next_batch"] == sum(drawn) / 4


def test_refill_widens_prompts_of_another_round():
  narrow, wide = np.ones((2, 3)), np.full((2, 5), 2.0)
  a, b = refill._widened(np, (narrow, wide))
  np.testing.assert_array_equal(a, [[0, 0, 1, 1, 1]] * 2)
  np.testing.assert_array_equal(b, wide)


def test_refill_names_a_component_that_is_missing(tmp_path):
  config = worker.base(2, refill_rounds=1, filter_on="corect")
  with pytest.raises(errors.UserError, match="filter_on='corect'"):
    train.run(config, tmp_path)


def test_scores_can_be_given_the_same_components():
  fields: Any = (np.ones(2), np.ones(2, bool), None, {"b": np.zeros(2)})
  score = Score(*fields)
  both = judge.with_components(score, ["a", "b"])
  assert list(both.components) == ["a", "b"]
  assert np.isnan(both.components["a"]).all()
  np.testing.assert_array_equal(both.components["b"], [0, 0])


def test_a_missing_component_is_null_in_the_samples(tmp_path):
  config = worker.text(tmp_path, 1, log__samples_every=1)
  (tmp_path / "reward.py").write_text(
    "def digits(row, completion):\n"
    "  if row % 2:\n    return None\n"
    "  return {'value': float(len(completion)), 'even': 1.0}\n"
  )
  train.run(config, tmp_path / "run")
  for name in ("step_1", "eval_0"):
    rows = jsonl(tmp_path / "run" / "samples" / f"{name}.jsonl")
    for row in rows:
      assert row["valid"] == (row["reward"] is not None)
  rows = jsonl(tmp_path / "run" / "metrics.jsonl")
  assert all("status" in "".join(row) for row in rows)


def test_every_row_has_a_line_even_without_a_tokenizer():
  assert record._text(None, np.array([1, 2])) == "1 2"
