"""What comes in the files of a checkpoint, and where its leaves go."""

import json
import types

import jax
import numpy as np
import pytest
from goldens import make_goldens
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file
from test_parity import unpack

from rlreward import errors
from rlreward.models import families, hf_files, pretrained, transformer


def rewrite(folder, edit):
  tensors = load_file(folder / "model.safetensors")
  save_file(edit(tensors), folder / "model.safetensors")


def equal(a, b):
  same = jax.tree.map(lambda x, y: x.tobytes() == y.tobytes(), a, b)
  return all(jax.tree.leaves(same))


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "gpt2"])
def test_checkpoints_of_the_bare_trunk_have_no_prefix(name, tmp_path):
  unpack(name, tmp_path)
  config, variables = pretrained.load(tmp_path)
  kind = json.loads((tmp_path / "config.json").read_text())["model_type"]
  prefix = families.FAMILIES[kind].prefix
  rewrite(tmp_path, lambda t: {k.removeprefix(prefix): v for k, v in t.items()})
  again, same = pretrained.load(tmp_path)
  assert again == config and equal(variables, same)


def test_a_tied_head_may_be_in_the_file_if_it_is_the_embedding(tmp_path):
  unpack("qwen3", tmp_path)
  config, variables = pretrained.load(tmp_path)
  assert config.tied and "head" not in variables["params"]
  table = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
  rewrite(tmp_path, lambda t: {**t, "lm_head.weight": table.copy()})
  _, same = pretrained.load(tmp_path)
  assert equal(variables, same)
  rewrite(tmp_path, lambda t: {**t, "lm_head.weight": table + 1})
  with pytest.raises(errors.UserError, match=r"lm_head\.weight"):
    pretrained.load(tmp_path)


def test_a_reward_model_is_no_language_model(tmp_path):
  unpack("llama_score", tmp_path)
  with pytest.raises(errors.UserError, match=r"lm_head\.weight"):
    pretrained.load(tmp_path)
  assert pretrained.read_config(tmp_path).outputs == 1


def test_float16_widens_and_param_dtype_converts(tmp_path):
  unpack("llama", tmp_path)
  rewrite(tmp_path, lambda t: {k: v.astype(np.float16) for k, v in t.items()})
  config, variables = pretrained.load(tmp_path)
  halves = load_file(tmp_path / "model.safetensors")[
    "model.embed_tokens.weight"
  ]
  table = variables["params"]["embed"]["embedding"]
  assert config.param_dtype == "float32" == table.dtype
  np.testing.assert_array_equal(table, halves.astype(np.float32))
  config, variables = pretrained.load(tmp_path, param_dtype="bfloat16")
  assert config.param_dtype == "bfloat16"
  assert {x.dtype.name for x in jax.tree.leaves(variables)} == {"bfloat16"}


def test_quantised_tensors_are_refused(tmp_path):
  unpack("llama", tmp_path)
  name = "model.layers.0.mlp.up_proj.weight"
  rewrite(tmp_path, lambda t: {**t, name: t[name].astype(np.int8)})
  with pytest.raises(errors.UserError, match=f"{name}.* has type I8"):
    pretrained.load(tmp_path)


def test_each_tensor_is_read_once(tmp_path, monkeypatch):
  unpack("llama", tmp_path)
  seen, read = [], hf_files.Files.read

  def count(self, name):
    seen.append(name)
    return read(self, name)

  monkeypatch.setattr(hf_files.Files, "read", count)
  pretrained.load(tmp_path)
  assert sorted(seen) == sorted(load_file(tmp_path / "model.safetensors"))


def test_leaves_go_where_the_shardings_say(tmp_path):
  unpack("gpt2", tmp_path)
  config, variables = pretrained.load(tmp_path)
  mesh = jax.make_mesh((1,), ("fsdp",))
  _, placed = pretrained.load(tmp_path, mesh=mesh)
  assert equal(variables, placed)
  leaf = placed["params"]["embed"]["embedding"]
  assert leaf.sharding == NamedSharding(mesh, PartitionSpec())
  abstract = jax.eval_shape(transformer.build(config).init, jax.random.key(0))
  split = NamedSharding(mesh, PartitionSpec("fsdp"))
  wanted = jax.tree.map(lambda x: split, abstract)
  for tree in (wanted, wanted["params"]):
    _, placed = pretrained.load(tmp_path, shardings=tree)
    assert equal(variables, placed)
    assert {x.sharding for x in jax.tree.leaves(placed)} == {split}


def test_an_export_keeps_tokenizer_files_and_token_ids(tmp_path):
  source = tmp_path / "in"
  source.mkdir()
  unpack("mistral", source)
  (source / "tokenizer.json").write_text("{}")
  (source / "chat_template.jinja").write_text("{{ messages }}")
  (source / "notes.md").write_text("not a tokenizer")
  config, variables = pretrained.load(source)
  out = pretrained.export(
    tmp_path / "out", config, variables, tokenizer_from=source
  )
  assert sorted(p.name for p in out.iterdir()) == [
    "chat_template.jinja",
    "config.json",
    "model.safetensors",
    "tokenizer.json",
  ]
  about = json.loads((out / "config.json").read_text())
  ids = [about[f"{n}_token_id"] for n in ("pad", "bos", "eos")]
  assert ids == [0, 1, 2]
  assert (about["model_type"], about["sliding_window"]) == ("mistral", 5)


def test_what_no_family_can_say_is_not_exported(tmp_path):
  unpack("qwen2", tmp_path)
  config, variables = pretrained.load(tmp_path)
  odd = config.replace(embed_scale=3.0)
  with pytest.raises(errors.UserError, match=r"qwen2 .*embed_scale=3\.0"):
    pretrained.export(tmp_path / "new", odd, variables)
  both = {**variables, "lora": {}}
  with pytest.raises(errors.UserError, match="adapter"):
    pretrained.export(tmp_path / "new", config, both)
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", make_goldens.CASES)
def test_a_family_is_found_from_the_config_alone(name, tmp_path):
  unpack(name, tmp_path)
  kind = json.loads((tmp_path / "config.json").read_text())["model_type"]
  assert families.family_of(pretrained.read_config(tmp_path)) == kind


def test_a_download_says_what_and_how_large_first(
  tmp_path, monkeypatch, capsys
):
  import huggingface_hub

  monkeypatch.delenv("RLREWARD_OFFLINE", raising=False)
  files = [
    types.SimpleNamespace(rfilename="model.safetensors", size=2_500_000_000),
    types.SimpleNamespace(rfilename="config.json", size=700),
    types.SimpleNamespace(rfilename="pytorch_model.bin", size=9_000_000_000),
  ]
  info = types.SimpleNamespace(siblings=files, sha="abc")

  def fetch(name, *, allow_patterns, local_files_only=False, revision=None):
    assert "*.safetensors" in allow_patterns
    if local_files_only:
      raise FileNotFoundError(name)
    assert "downloading" in capsys.readouterr().out and revision == "abc"
    return str(tmp_path)

  api = types.SimpleNamespace(model_info=lambda name, files_metadata: info)
  monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
  monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
  assert pretrained.resolve("owner/model") == tmp_path


def test_no_network_is_an_error_of_three_lines(monkeypatch):
  import huggingface_hub

  def fail(name, files_metadata):
    raise ConnectionError("no route to host")

  monkeypatch.delenv("RLREWARD_OFFLINE", raising=False)
  api = types.SimpleNamespace(model_info=fail)
  monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
  with pytest.raises(errors.UserError, match="no route to host") as error:
    pretrained.resolve("owner/model-that-is-not-cached")
  assert len(str(error.value).splitlines()) == 3


def test_tokenizers_are_local(tmp_path):
  for path in (tmp_path / "none", tmp_path):
    with pytest.raises(errors.UserError, match="token") as error:
      pretrained.load_tokenizer(path)
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize("text", ["{", "[1]", "3", ""])
def test_a_config_that_is_no_object_is_refused(tmp_path, text):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(
    errors.UserError, match=r"config\.json holds (no JSON|a \w+)"
  ):
    hf_files.read_json(tmp_path)


def test_an_index_without_a_map_is_refused(tmp_path):
  (tmp_path / hf_files.INDEX).write_text("{}")
  with pytest.raises(errors.UserError, match="no weight_map"):
    hf_files.index(tmp_path)
