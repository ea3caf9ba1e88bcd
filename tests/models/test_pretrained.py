"""Checkpoints in and out: bit for bit, complete, or refused by name."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import paths
import pytest
from goldens import make_goldens
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from test_parity import unpack

from rlreward import errors
from rlreward.models import heads, pretrained, transformer

CASES = make_goldens.CASES


def raw(folder):
  """{name: bytes} of every tensor in a directory."""
  out = {}
  for file in folder.glob("*.safetensors"):
    with safe_open(file, "numpy") as f:
      out |= {k: f.get_tensor(k).tobytes() for k in f.keys()}
  return out


@pytest.mark.parametrize("name", CASES)
def test_round_trip_is_bit_exact(name, tmp_path):
  first, second = tmp_path / "a", tmp_path / "b"
  first.mkdir()
  unpack(name, first)
  config, variables = pretrained.load(first, head=CASES[name].head)
  pretrained.export(second, config, variables, tokenizer_from=first)
  before, after = raw(first), raw(second)
  # Buffers that hold no parameter, and a tied head, need not come back.
  assert after.keys() <= before.keys()
  assert all(before[k] == after[k] for k in after)
  again, same = pretrained.load(second, head=CASES[name].head)
  assert again == config
  equal = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), variables, same)
  assert all(jax.tree.leaves(equal))


@pytest.mark.parametrize("limit", [8_000, 20_000])
def test_shards_with_an_index(limit, tmp_path):
  first, second = tmp_path / "a", tmp_path / "b"
  first.mkdir()
  unpack("qwen3", first)
  config, variables = pretrained.load(first)
  pretrained.export(second, config, variables, max_shard_bytes=limit)
  files = sorted(f.name for f in second.glob("*.safetensors"))
  index = json.loads((second / "model.safetensors.index.json").read_text())
  assert len(files) > 1 and set(index["weight_map"].values()) == set(files)
  _, same = pretrained.load(second)
  equal = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), variables, same)
  assert all(jax.tree.leaves(equal))
  (second / files[-1]).unlink()
  with pytest.raises(errors.UserError, match=files[-1]):
    pretrained.load(second)


def change(folder, edit):
  tensors = load_file(folder / "model.safetensors")
  edit(tensors)
  save_file(tensors, folder / "model.safetensors")


def drop(name):
  return lambda tensors: tensors.pop(name)


def put(name, shape):
  return lambda tensors: tensors.update({name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
  ("edit", "word"),
  [
    (drop("model.layers.1.mlp.up_proj.weight"), "layers.1.mlp.up_proj"),
    (drop("model.norm.weight"), "model.norm.weight"),
    (drop("model.embed_tokens.weight"), "embed_tokens"),
    (put("model.layers.0.self_attn.q_proj.bias", (16,)), "q_proj.bias"),
    (put("model.layers.9.mlp.up_proj.weight", (3, 3)), "layers.9"),
    (put("score.weight", (1, 16)), "score.weight"),
    (put("extra.thing", (1,)), "extra.thing"),
    (put("model.norm.weight", (3,)), "model.norm.weight"),
  ],
)
def test_missing_unused_and_misshapen_tensors_are_named(edit, word, tmp_path):
  unpack("llama", tmp_path)
  change(tmp_path, edit)
  with pytest.raises(errors.UserError, match=word) as error:
    pretrained.load(tmp_path)
  assert len(str(error.value).splitlines()) == 3


def test_ignorable_buffers_are_ignored(tmp_path):
  unpack("llama", tmp_path)
  before = pretrained.load(tmp_path)[1]
  change(tmp_path, put("model.layers.0.self_attn.rotary_emb.inv_freq", (4,)))
  after = pretrained.load(tmp_path)[1]
  same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), before, after)
  assert all(jax.tree.leaves(same))


@pytest.mark.parametrize(
  ("fields", "word"),
  [
    ({"model_type": "mamba"}, "mamba"),
    ({"hidden_act": "relu"}, "relu"),
    ({"hidden_size": None}, "hidden_size"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
  ],
)
def test_configs_that_we_do_not_compute_are_refused(fields, word, tmp_path):
  unpack("llama", tmp_path)
  file = tmp_path / "config.json"
  config = json.loads(file.read_text())
  config.pop("rope_parameters", None)
  file.write_text(json.dumps({**config, **fields}))
  with pytest.raises(errors.UserError, match=word) as error:
    pretrained.load(tmp_path)
  assert len(str(error.value).splitlines()) == 3


def test_a_head_must_be_there_when_it_is_asked_for(tmp_path):
  unpack("llama", tmp_path)
  with pytest.raises(errors.UserError, match="score"):
    pretrained.load(tmp_path, head="score")
  config, variables = pretrained.load(tmp_path, head="none")
  assert "head" not in variables["params"] and config.outputs == 0
  with pytest.raises(errors.UserError, match="'value'"):
    pretrained.load(tmp_path, head="value")


def test_reward_models_score_at_the_last_real_token(tmp_path):
  unpack("llama_score", tmp_path)
  config, variables = pretrained.load(tmp_path, head="score")
  model = transformer.build(config)
  rng = np.random.default_rng(0)
  tokens = jnp.asarray(rng.integers(0, config.vocab, (2, 6)))
  attend = jnp.asarray([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], bool)

  value = heads.last_value(model, variables, tokens, attend)
  wide = heads.last_value(
    model,
    variables,
    jnp.pad(tokens, ((0, 0), (2, 3))),
    jnp.pad(attend, ((0, 0), (2, 3))),
  )
  assert value.shape == (2, config.outputs)
  np.testing.assert_allclose(value, wide, atol=1e-5)
  cut = heads.last_value(model, variables, tokens[:1, :4], attend[:1, :4])
  np.testing.assert_allclose(value[:1], cut, atol=1e-5)


def test_values_of_every_token(tmp_path):
  unpack("llama_score", tmp_path)
  config, variables = pretrained.load(tmp_path, head="score")
  model = transformer.build(config)
  tokens = jnp.asarray(
    np.random.default_rng(0).integers(0, config.vocab, (2, 5))
  )
  attend = jnp.asarray([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
  values = heads.token_values(model, variables, tokens, attend)
  last = heads.last_value(model, variables, tokens, attend)
  assert values.shape == (2, 5, config.outputs)
  np.testing.assert_allclose(values[0, 4], last[0], atol=1e-5)
  np.testing.assert_allclose(values[1, 2], last[1], atol=1e-5)
  assert np.all(np.asarray(values)[~np.asarray(attend)] == 0)


def test_exports_never_overwrite(tmp_path):
  unpack("llama", tmp_path)
  config, variables = pretrained.load(tmp_path)
  with pytest.raises(errors.UserError, match="not an empty directory"):
    pretrained.export(tmp_path, config, variables)
  bad = {
    "params": {k: v for k, v in variables["params"].items() if k != "head"}
  }
  with pytest.raises(errors.UserError, match="head/kernel"):
    pretrained.export(tmp_path / "new", config, bad)
  assert not (tmp_path / "new").exists()
  assert not [p for p in tmp_path.iterdir() if p.name.startswith(".new")]


@pytest.mark.parametrize("name", ["no/such/path", "./nowhere", "owner/model"])
def test_no_hidden_network(name, monkeypatch):
  monkeypatch.setenv("RLREWARD_OFFLINE", "1")
  with pytest.raises(errors.UserError) as error:
    pretrained.load(name)
  assert len(str(error.value).splitlines()) == 3


def test_digits_checkpoint_gives_the_float64_log_probs(tmp_path):
  source = paths.shared_data("tiny_llama_digits")
  for name in ("config.json", "model.safetensors"):
    shutil.copy(source / f"model__{name}", tmp_path / name)
  expected = json.loads((source / "expected_numpy.json").read_text())
  config, variables = pretrained.load(tmp_path, param_dtype="float32")
  model = transformer.build(config)
  ids = jnp.asarray([expected["input_ids"]])
  out = jax.jit(model.logits)(variables, ids, jnp.ones_like(ids, bool))[0]
  # 1e-4: f32 against float64, printed with six digits.
  np.testing.assert_allclose(
    out[-1], expected["logits_last_position"], atol=1e-4
  )
  logp = jax.nn.log_softmax(out[:-1])[jnp.arange(ids.size - 1), ids[0, 1:]]
  np.testing.assert_allclose(logp, expected["next_token_logprobs"], atol=1e-4)
  kept, _ = pretrained.load(tmp_path)
  assert kept.param_dtype == "bfloat16"  # the type of the file, bit for bit
