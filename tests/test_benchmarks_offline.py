"""The offline benchmarks run at a size that takes no time, on the same work."""

import json
import math
import os
import shutil
import sys

import numpy as np
import paths
import pytest

sys.path.insert(0, str(paths.REPO))

from benchmarks import (
  bench_offline,
  compare,
  offline,
  peer_trl,
  run,
  run_offline,
  workload,
)

NANO = workload.SIZES["nano"]
KEYS = {
  "dpo": {"dpo", "losses"},
  "reward_model": {"reward_model", "losses"},
  "ppo": {"grpo_step", "grpo_update", "ppo_step", "ppo_update"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Exported weights."""
  out = tmp_path_factory.mktemp("weights") / "nano"
  bench_offline.export(NANO, out)
  return out


@pytest.mark.parametrize("mode", list(KEYS))
def test_report_has_the_keys_of_the_peers(mode, capsys, monkeypatch):
  monkeypatch.setenv("BENCH_MAX_S", "0")
  bench_offline.main(NANO, mode)
  report = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert report["mode"] == mode and report["results"].keys() == KEYS[mode]
  for key in KEYS[mode] - {"losses"}:
    found = report["results"][key]
    assert found["cpu_median_s"] > 0 and found["tok_s"] > 0, key
    assert report["notes"][key]


def test_pairs_fill_every_slot():
  found = offline.pairs(NANO)
  batch = bench_offline.batch(NANO)
  assert batch["tokens"].size == NANO.pair_tokens and batch["attend"].all()
  np.testing.assert_array_equal(batch["tokens"][1::2, : NANO.prompt],
                                found["prompt"])  # fmt: skip
  np.testing.assert_array_equal(batch["tokens"][1::2, NANO.prompt :],
                                found["rejected"])  # fmt: skip
  assert (batch["loss"].sum(1) == NANO.new).all()


def torch_loss(mode, folder):
  """The loss by transformers alone, in float64 from the log-probs on."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  found = offline.pairs(NANO)

  def rows(side):
    joined = np.concatenate([found["prompt"], found[side]], 1)
    return torch.tensor(joined).long()

  def load(kind, name):
    return kind.from_pretrained(folder / name, dtype=torch.float32)

  def total(model, side):
    logp = model(rows(side)).logits[:, NANO.prompt - 1 : -1].double()
    chosen = rows(side)[:, NANO.prompt :, None]
    return logp.log_softmax(-1).gather(-1, chosen)[..., 0].sum(-1)

  with torch.no_grad():
    if mode == "reward_model":
      model = load(transformers.LlamaForSequenceClassification, "reward")
      model.config.pad_token_id = 0
      gain, lose = (model(rows(s)).logits[:, 0] for s in ("chosen", "rejected"))
      gap = gain - lose
    else:
      policy = load(transformers.LlamaForCausalLM, "policy")
      ref = load(transformers.LlamaForCausalLM, "reference")
      gain, lose = (
        total(policy, s) - total(ref, s) for s in ("chosen", "rejected")
      )
      gap = offline.BETA * (gain - lose)
    return float(-torch.nn.functional.logsigmoid(gap).mean())


@pytest.mark.parametrize("mode", ["dpo", "reward_model"])
def test_the_timed_step_has_the_loss_of_the_exported_weights(mode, folder):
  """f32 forward passes of two frameworks: 1e-5; log 2 would show nothing."""
  step = bench_offline.Fit(NANO, mode)
  step()
  step()
  assert step.losses[0] == pytest.approx(torch_loss(mode, folder), abs=1e-5)
  assert abs(step.losses[0] - math.log(2)) > 1e-2
  assert step.losses[1] < step.losses[0]


def test_text_of_a_peer_has_the_ids_of_the_pairs():
  pytest.importorskip("tokenizers")
  tokenizer = peer_trl.tokenizer(NANO.vocab)
  found, rows = offline.pairs(NANO), peer_trl.rows(NANO, "dpo")
  for index in range(NANO.pairs):
    for side in ("chosen", "rejected"):
      text = rows["prompt"][index] + rows[side][index]
      ids = [*found["prompt"][index], *found[side][index]]
      assert tokenizer(text)["input_ids"] == ids
  ids = peer_trl.rows(NANO, "reward_model")["rejected_ids"][0]
  assert ids == [*found["prompt"][0], *found["rejected"][0]]


@pytest.mark.parametrize(
  ("peer", "mode"),
  [("tunix", "dpo"), ("trl", "dpo"), ("trl", "reward_model")],
)
def test_a_peer_has_our_losses(peer, mode, folder, monkeypatch):
  """Three Adam steps in f32 stay within 1e-5."""
  monkeypatch.setenv("BENCH_MAX_S", "0")
  variable, _ = run_offline.KNOWN[peer]
  if not shutil.which(os.environ.get(variable, "")):
    pytest.skip(f"{variable} names no Python with {peer}")
  (runner,) = run_offline.peers([peer])
  report = run.run(runner, "nano", mode, more=(str(folder),))
  step = bench_offline.Fit(NANO, mode)
  for _ in range(offline.LOSSES):
    step()
  np.testing.assert_allclose(
    report["results"]["losses"], step.losses, atol=1e-5
  )
  assert report["results"][mode]["tokens"] == NANO.pair_tokens


def test_trl_runs_at_m_only_in_full(monkeypatch):
  found = [run.Runner(n, "", paths.REPO, True) for n in ("tunix", "trl")]
  names = lambda size, full: [
    (part, r.peer)
    for _, _, part, r in run_offline.plan(
      found, [size], ["dpo", "reward_model", "ppo"], 1, full
    )
  ]
  at_s = names("S", False)
  assert ("dpo", "trl") in at_s and ("reward_model", "trl") in at_s
  assert ("reward_model", "tunix") not in at_s
  assert not any(peer == "trl" for _, peer in names("M", False))
  assert names("M", True) == at_s
  for variable in ("JAX_PY", "TRL_PY"):
    monkeypatch.delenv(variable, raising=False)
  assert run_offline.peers(["tunix", "trl"]) == []


def report(peer, losses=None, mode="dpo", **timings):
  results = {k: {"median_s": v, "cpu_median_s": v} for k, v in timings.items()}
  if losses:
    results["losses"] = losses
  return {"peer": peer, "size": "S", "mode": mode, "results": results}


def test_losses_that_differ_are_told():
  ours, far = report("rlreward", [1.0, 0.9]), report("trl", [1.0, 0.902])
  (found,) = compare.agreement([ours, far])
  assert found["gap"] == pytest.approx(2e-3) and not found["same"]
  (found,) = compare.agreement([ours, report("tunix", [1.0, 0.9005])])
  assert found["same"]


def test_ppo_is_held_against_grpo_of_the_same_process():
  target = compare.Target("S", "ppo", "ppo_step", "rlreward", 1.6, "grpo_step")
  ours = report("rlreward", mode="ppo", ppo_step=3.0, grpo_step=2.0)
  found = compare.judge([ours], target)
  assert found["wall"] == found["core"] == 1.5 and found["reached"]
  free = target._replace(most=math.inf)
  assert compare.judge([ours], free)["most"] is None
  assert compare.target_lines([ours], [free])[-1].endswith("| - |")


def test_results_are_written_as_json(tmp_path):
  run_offline.write(
    tmp_path / "a" / "offline.json", [report("rlreward", [1.0])]
  )
  found = json.loads((tmp_path / "a" / "offline.json").read_text())
  assert found["machine"]["cores"] and found["agreement"] == []
  assert len(found["targets"]) == len(run_offline.TARGETS)


def test_a_clock_and_its_end():
  clock = workload.Clock()
  clock.start()
  clock.tick()
  clock.tick()
  assert len(clock.rows) == 2
  quiet, busy = (1.0, 1.0, 0.0), (1.0, 1.0, 1.0)
  assert workload.enough([quiet] * 3, 3, 0.0, 5.0)
  assert not workload.enough([busy] * 3, 3, 4.0, 5.0)
  assert workload.enough([busy] * 3, 3, 6.0, 5.0)
  assert not workload.enough([busy] * 2, 3, 14.0, 5.0)
  assert workload.enough([busy] * 2, 3, 16.0, 5.0)
