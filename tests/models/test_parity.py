"""Our decoder against `transformers`, family by family.

The golden files hold what `transformers` computed, so that most of this runs
without torch. Tolerance 1e-4 on logits of size 3: f32 sums of some dozens of
terms, in another order, through three layers.
"""

import json

import numpy as np
import pytest
from goldens import make_goldens
from safetensors.numpy import save_file

from rlreward import errors
from rlreward.models import parity, pretrained, transformer

CASES = make_goldens.CASES
TOLERANCE = 1e-4
LM = [name for name, case in CASES.items() if case.head == "lm"]


def unpack(name, folder):
  """Writes a golden file as a checkpoint; returns its output."""
  import ml_dtypes

  file = np.load(make_goldens.GOLDENS / f"{name}.npz")
  (folder / "config.json").write_text(str(file["config"]))
  tensors = {
    key.removeprefix("tensor:"): file[key]
    .view(ml_dtypes.bfloat16)
    .astype(CASES[name].dtype)
    for key in file.files
    if key.startswith("tensor:")
  }
  save_file(tensors, folder / "model.safetensors")
  return file["output"]


def gap(name, mine, theirs, attend):
  if CASES[name].head == "score":
    return np.abs(mine[:, -1] - theirs).max()
  return np.abs(mine - theirs)[attend].max()


@pytest.mark.parametrize("name", CASES)
def test_golden_outputs_full_and_cached(name, tmp_path):
  theirs = unpack(name, tmp_path)
  tokens, attend = make_goldens.rows()
  config, variables = pretrained.load(
    tmp_path, param_dtype="float32", head=CASES[name].head
  )
  full, cached = parity.ours(config, variables, tokens, attend)
  assert gap(name, full, theirs, attend) < TOLERANCE
  assert gap(name, cached, theirs, attend) < TOLERANCE


CHANGES = [
  ("llama_tied_scaled", {"rope_scaling": None}),
  ("mistral", {"window": 6}),
  ("mistral", {"window": 4}),
  ("qwen2_sliding", {"layer_kinds": ("local",) * 3}),
  ("qwen3", {"rope_theta": 1000.0}),
  ("gemma2", {"attn_softcap": None}),
  ("gemma2", {"final_softcap": None}),
  ("gemma2", {"query_scale": None}),
  ("gemma2", {"norm_offset": 0.0}),
  ("gemma3", {"rope_local_theta": 60.0}),
  ("gemma3", {"rope_scaling": None}),
  ("gemma3", {"embed_scale": 1.0}),
  ("gemma3", {"layer_kinds": ("global", "local", "local")}),
  ("gpt2", {"activation": "silu"}),
]


@pytest.mark.parametrize("name,change", CHANGES)
def test_goldens_notice_a_wrong_convention(name, change, tmp_path):
  # Without this, a golden could pass with its feature never in play.
  theirs = unpack(name, tmp_path)
  tokens, attend = make_goldens.rows()
  config, variables = pretrained.load(tmp_path)
  model = transformer.build(config.replace(**change))
  full = np.asarray(model.logits(variables, tokens, attend))
  assert gap(name, full, theirs, attend) > 20 * TOLERANCE


def test_left_padding_does_not_reach_real_tokens(tmp_path):
  unpack("gemma3", tmp_path)
  tokens, attend = make_goldens.rows()
  model = transformer.build(pretrained.read_config(tmp_path))
  _, variables = pretrained.load(tmp_path)
  padded = np.asarray(model.logits(variables, tokens, attend))[2, 4:]
  alone = model.logits(variables, tokens[2:, 4:], attend[2:, 4:])
  assert np.abs(padded - np.asarray(alone)[0]).max() < 1e-5  # f32 sums


def test_bf16_keeps_its_type_and_computes_close_to_torch(tmp_path):
  theirs = unpack("llama_bf16", tmp_path)
  tokens, attend = make_goldens.rows()
  config, variables = pretrained.load(tmp_path, dtype="bfloat16")
  assert config.param_dtype == "bfloat16"
  assert (
    variables["params"]["layers"]["attn"]["q"]["kernel"].dtype == "bfloat16"
  )
  full, cached = parity.ours(config, variables, tokens, attend)
  # bf16 keeps 8 bits: 2**-8 of logits of size 4, over three layers.
  scale = np.abs(theirs[attend]).max()
  assert gap("llama_bf16", full, theirs, attend) < 0.03 * scale
  assert gap("llama_bf16", cached, theirs, attend) < 0.03 * scale
  pytest.importorskip("torch")
  torch16 = parity.reference(tmp_path, tokens, attend, dtype="bfloat16")
  assert gap("llama_bf16", full, torch16, attend) < 0.03 * scale


@pytest.mark.parametrize("name", CASES)
def test_fresh_torch_model(name, tmp_path):
  pytest.importorskip("torch")
  make_goldens.save(name, tmp_path)
  found = parity.check(tmp_path, length=16, seed=3)
  assert found.ok, found.text()
  assert found.window is None or found.length > found.window
  assert found.largest > 0.1


@pytest.mark.parametrize("name", ["llama_tied_scaled", "gemma3", "gpt2"])
def test_exported_directory_loads_in_transformers(name, tmp_path):
  pytest.importorskip("torch")
  (tmp_path / "in").mkdir()
  theirs = unpack(name, tmp_path / "in")
  tokens, attend = make_goldens.rows()
  config, variables = pretrained.load(tmp_path / "in")
  out = pretrained.export(
    tmp_path / "out", config, variables, max_shard_bytes=9000
  )
  assert len(list(out.glob("*.safetensors"))) > 2
  again = parity.reference(out, tokens, attend)
  assert gap(name, again, theirs, attend) < 1e-6  # same weights, same code


def test_exported_reward_model_loads_in_transformers(tmp_path):
  pytest.importorskip("torch")
  for name in ("qwen2_score", "gemma3_score", "gpt2_score"):
    folder = tmp_path / name
    folder.mkdir()
    theirs = unpack(name, folder)
    tokens, attend = make_goldens.rows()
    config, variables = pretrained.load(folder, head="score")
    out = pretrained.export(tmp_path / f"{name}_out", config, variables)
    again = parity.reference(out, tokens, attend, "score")
    assert np.abs(again - theirs).max() < 1e-6  # same weights, same code


def test_check_fails_on_other_weights(tmp_path, monkeypatch, capsys):
  pytest.importorskip("torch")
  unpack("qwen3", tmp_path)
  assert parity.main(str(tmp_path)) == 0
  assert "  ok (tolerance" in capsys.readouterr().out
  config, variables = pretrained.load(tmp_path)
  wrong = config.replace(norm_eps=0.1)
  monkeypatch.setattr(pretrained, "load", lambda *a, **k: (wrong, variables))
  assert parity.main(str(tmp_path)) == 1
  assert "FAILED" in capsys.readouterr().out


def test_without_torch_three_lines(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "torch", None)
  with pytest.raises(errors.UserError, match="torch is not installed") as e:
    parity.check(tmp_path)
  assert len(str(e.value).splitlines()) == 3


def test_goldens_are_those_of_the_cases():
  files = {p.stem for p in make_goldens.GOLDENS.glob("*.npz")}
  assert files == set(CASES)
  for name in CASES:
    file = np.load(make_goldens.GOLDENS / f"{name}.npz")
    kind = json.loads(str(file["config"]))["model_type"]
    assert kind in CASES[name].kind.lower() or kind == "gemma3_text"
