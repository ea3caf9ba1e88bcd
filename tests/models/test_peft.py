"""Adapters in PEFT's layout: a file written by hand, and round trips."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rlreward.errors import UserError
from rlreward.models import lora, peft, transformer
from rlreward.models.config import TransformerConfig

SHAPE = TransformerConfig(
  vocab=11, width=8, layers=2, heads=2, kv_heads=1, head_dim=4, mlp=12,
  qkv_bias=True, lora_scale=4.0, lora_dropout=0.05,
)  # fmt: skip
MODULES = {
  "self_attn.q_proj": (8, 8), "self_attn.k_proj": (8, 4),
  "self_attn.v_proj": (8, 4), "self_attn.o_proj": (8, 8),
  "mlp.gate_proj": (8, 12), "mlp.up_proj": (8, 12), "mlp.down_proj": (12, 8),
}  # fmt: skip


def by_hand(folder, rank=3, modules=MODULES, layers=2, **changes):
  """A directory as peft's documentation describes it, without our code."""
  folder.mkdir(exist_ok=True)
  rng, tensors = np.random.default_rng(0), {}
  for name, (size_in, size_out) in modules.items():
    for i in range(layers):
      at = f"base_model.model.model.layers.{i}.{name}"
      a, b = rng.normal(size=(rank, size_in)), rng.normal(size=(size_out, rank))
      tensors[f"{at}.lora_A.weight"] = a.astype(np.float32)
      tensors[f"{at}.lora_B.weight"] = b.astype(np.float32)
  save_file(tensors, folder / "adapter_model.safetensors")
  about = {
    "peft_type": "LORA", "r": rank, "lora_alpha": 12, "lora_dropout": 0.05,
    "target_modules": [n.split(".")[1] for n in modules], "bias": "none",
    "base_model_name_or_path": "someone/base", "task_type": "CAUSAL_LM",
    "fan_in_fan_out": False, "modules_to_save": None, "use_rslora": False,
    **changes,
  }  # fmt: skip
  (folder / "adapter_config.json").write_text(json.dumps(about))
  return tensors


def test_a_file_written_by_hand_is_the_change_of_each_weight(tmp_path):
  tensors = by_hand(tmp_path)
  found = peft.load(tmp_path, SHAPE)
  assert (found.rank, found.alpha, found.dropout) == (3, 12.0, 0.05)
  assert set(found.targets) == set(lora.TARGETS)
  assert found.base == "someone/base"
  model = transformer.build(SHAPE)
  variables = model.init(jax.random.key(0))
  merged = lora.merge({**variables, "lora": found.tree}, SHAPE)["params"]
  for name, part in (("self_attn.k_proj", ("attn", "k")),
                     ("mlp.down_proj", ("mlp", "down"))):  # fmt: skip
    for i in range(2):
      at = f"base_model.model.model.layers.{i}.{name}"
      a, b = (tensors[f"{at}.lora_{x}.weight"] for x in "AB")
      want = 12 / 3 * (b @ a).T  # torch's Linear is [out, in]
      kernels = [t["layers"][part[0]][part[1]]["kernel"][i]
                 for t in (merged, variables["params"])]  # fmt: skip
      # Sums of three f32 products of size 10 on kernels of size 1.
      np.testing.assert_allclose(kernels[0] - kernels[1], want, atol=2e-5)


def test_what_is_written_has_peft_s_names_and_comes_back(tmp_path):
  model = transformer.build(SHAPE)
  params = model.init(jax.random.key(0))["params"]
  adapter = lora.init(jax.random.key(1), params, 3)
  noise = lambda x: jax.random.normal(jax.random.key(2), x.shape)
  adapter = jax.tree.map(noise, adapter)
  out = peft.export(tmp_path / "out", SHAPE, adapter, "someone/base")
  assert sorted(p.name for p in out.iterdir()) == [
    "adapter_config.json", "adapter_model.safetensors",
  ]  # fmt: skip
  expected = by_hand(tmp_path / "hand")
  written = load_file(out / "adapter_model.safetensors")
  assert {k: v.shape for k, v in written.items()} == {
    k: v.shape for k, v in expected.items()
  }
  about = json.loads((out / "adapter_config.json").read_text())
  assert about["r"] == 3 and about["lora_alpha"] == 12
  assert about["lora_dropout"] == 0.05 and about["bias"] == "none"
  assert about["peft_type"] == "LORA" and about["task_type"] == "CAUSAL_LM"
  assert about["base_model_name_or_path"] == "someone/base"
  assert about["target_modules"] == sorted(n.split(".")[1] for n in MODULES)
  back = peft.load(out, SHAPE)
  assert jax.tree.structure(back.tree) == jax.tree.structure(adapter)
  same = jax.tree.map(lambda a, b: bool((a == b).all()), back.tree, adapter)
  assert all(jax.tree.leaves(same))


def test_some_projections_alone(tmp_path):
  some = {k: MODULES[k] for k in ("self_attn.q_proj", "self_attn.v_proj")}
  by_hand(tmp_path, modules=some)
  found = peft.load(tmp_path, SHAPE)
  assert set(found.targets) == {"q", "v"}
  again = peft.load(peft.export(tmp_path / "o", SHAPE, found.tree), SHAPE)
  assert again.targets == found.targets and again.base == ""


def test_rank_stabilised_adapters_are_scaled_by_the_root_of_the_rank(tmp_path):
  by_hand(tmp_path, use_rslora=True)
  found = peft.load(tmp_path, SHAPE)
  assert found.alpha / found.rank == pytest.approx(12 / 3**0.5)


@pytest.mark.parametrize(
  ("changes", "word"),
  [
    ({"bias": "all"}, "bias='all'"), ({"use_dora": True}, "use_dora=True"),
    ({"peft_type": "IA3"}, "peft_type='IA3'"),
    ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"layers": 1}, "lacks 1 tensors"), ({"layers": 3}, "without a place"),
    ({"r": 4}, "rank 3"),
    ({"modules": {"self_attn.w_proj": (8, 8)}}, "w_proj"),
  ],
)  # fmt: skip
def test_what_we_do_not_compute_is_refused(tmp_path, changes, word):
  by_hand(tmp_path, **changes)
  with pytest.raises(UserError) as told:
    peft.load(tmp_path, SHAPE)
  assert word in str(told.value)
  assert len(str(told.value).splitlines()) == 3


def test_directories_and_models_that_cannot_be(tmp_path):
  with pytest.raises(UserError, match="adapter_config"):
    peft.load(tmp_path, SHAPE)
  by_hand(tmp_path)
  (tmp_path / "adapter_model.safetensors").unlink()
  with pytest.raises(UserError, match="adapter_model"):
    peft.load(tmp_path, SHAPE)
  with pytest.raises(UserError, match="not an empty"):
    peft.export(tmp_path, SHAPE, {"layers": {}})
  with pytest.raises(UserError, match="2 outputs"):
    peft.export(tmp_path / "o", SHAPE.replace(outputs=2), {"layers": {}})
  gpt2 = TransformerConfig(
    vocab=11, width=8, layers=1, heads=2, kv_heads=2, head_dim=4, mlp=32,
    norm="layer", activation="gelu_tanh", gated=False, qkv_bias=True,
    out_bias=True, mlp_bias=True, rope_theta=None, learned_positions=16,
    tied=True,
  )  # fmt: skip
  with pytest.raises(UserError, match="one matrix"):
    peft.export(tmp_path / "o", gpt2, {"layers": {}})


def test_an_adapter_is_stacked_over_layers(tmp_path):
  by_hand(tmp_path)
  tree = peft.load(tmp_path, SHAPE).tree
  down = tree["layers"]["mlp"]["down"]
  assert down["a"].shape == (2, 12, 3) and down["b"].shape == (2, 3, 8)
  assert jnp.asarray(down["a"]).dtype == jnp.float32
