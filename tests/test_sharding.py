"""Meshes, rule tables and their errors; most of it on 8 fake CPU devices."""

import json
import pathlib
import subprocess
import sys
import types
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from rlreward import sharding
from rlreward.errors import UserError
from rlreward.ops import mesh as hints
from rlreward.types import State

AXES = {
  "params": {
    "embed": {"embedding": ("vocab", "embed")},
    "layers": {
      "attn": {"q": {"kernel": ("layers", "embed", "heads")}},
      "norm": {"scale": ("layers", None)},
    },
  }
}


def tree(vocab: int = 16, width: int = 8, heads: int = 4) -> dict[str, Any]:
  f32 = jnp.float32
  return {
    "params": {
      "embed": {"embedding": jax.ShapeDtypeStruct((vocab, width), f32)},
      "layers": {
        "attn": {"q": {"kernel": jax.ShapeDtypeStruct((2, width, heads), f32)}},
        "norm": {"scale": jax.ShapeDtypeStruct((2, width), f32)},
      },
    }
  }


def on_eight_devices() -> dict[str, Any]:
  """Runs in its own process; what it finds goes to the tests as JSON."""
  import optax

  found: dict[str, Any] = {}
  mesh = sharding.make_mesh(fsdp=-1, tensor=2)
  found["describe"] = sharding.describe(mesh)
  found["auto"] = all(t == AxisType.Auto for t in mesh.axis_types)
  params = {"policy": tree(), "reward": tree(width=6)}
  state = State(
    step=jax.ShapeDtypeStruct((), jnp.int32),
    params=params,
    frozen={"reference": tree()},
    opt=jax.eval_shape(optax.adam(0.1).init, params),
    key=jax.eval_shape(lambda: jax.random.key(0)),
  )
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    placed = sharding.state_shardings(state, AXES, sharding.TRAIN_RULES, mesh)
  found["warnings"] = [str(w.message) for w in caught]
  found["specs"] = {
    sharding.path_name(path): list(leaf.spec)
    for path, leaf in jax.tree_util.tree_leaves_with_path(placed)
  }
  decode = sharding.state_shardings(tree(), AXES, sharding.DECODE_RULES, mesh)
  found["decode"] = list(decode["params"]["layers"]["attn"]["q"]["kernel"].spec)
  abstract = sharding.with_shardings(state, placed)
  found["same_tree"] = jax.tree.structure(abstract) == jax.tree.structure(state)

  batch = {
    "prompt": np.arange(16, dtype=np.int32).reshape(8, 2),
    "prompt_mask": np.ones((8, 2), bool),
    "answer": np.array(["a"] * 8, object),
    "epoch": 3,
  }
  sent = sharding.process_batch(mesh, batch)
  found["batch"] = [
    list(sent["prompt"].sharding.spec),
    np.asarray(sent["prompt"]).tolist() == batch["prompt"].tolist(),
    sent["prompt_mask"].dtype == bool,
    sent["answer"] is batch["answer"],
    sent["epoch"],
    sent["prompt"].addressable_shards[0].data.shape[0],
  ]

  @jax.jit
  def step(x):
    return hints.constrain(x, hints.DATA, "tensor"), hints.constrain(
      x[:, :1], hints.DATA, "tensor"
    )

  with jax.set_mesh(mesh):
    wide, narrow = step(jnp.zeros((8, 2)))
  found["constrained"] = [list(wide.sharding.spec), narrow.shape]
  for name, call in {
    "mesh": lambda: sharding.make_mesh(fsdp=3, tensor=2),
    "minus": lambda: sharding.make_mesh(replica=-1, fsdp=-1),
    "zero": lambda: sharding.make_mesh(tensor=0),
    "rest": lambda: sharding.make_mesh(tensor=3),
    "rows": lambda: sharding.check_rows("prompts_per_step", 6, mesh),
    "few": lambda: sharding.check_rows("prompts_per_step", 2, mesh),
    "batch": lambda: sharding.process_batch(mesh, {"x": np.zeros((3, 2))}),
  }.items():
    try:
      call()
    except UserError as error:
      found[f"error_{name}"] = str(error)
  return found


@pytest.fixture(scope="module")
def eight() -> dict[str, Any]:
  here = pathlib.Path(__file__).resolve()
  code = (
    f"import sys, json; sys.path[:0] = {[str(here.parent), *sys.path]!r}\n"
    "import jax; jax.config.update('jax_num_cpu_devices', 8)\n"
    "import test_sharding\n"
    "print(json.dumps(test_sharding.on_eight_devices()))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout.splitlines()[-1])


def test_mesh_is_auto_and_described(eight):
  assert eight["auto"]
  assert eight["describe"] == (
    "mesh replica=1 fsdp=4 tensor=2 on 8 cpu devices, 1 process"
  )


@pytest.mark.parametrize(
  "prefix",
  ["params/policy", "frozen/reference", "opt/0/mu/policy", "opt/0/nu/policy"],
)
def test_roles_and_moments_inherit_the_layout(eight, prefix):
  specs = eight["specs"]
  assert specs[f"{prefix}/params/embed/embedding"] == (["tensor", "fsdp"])
  kernel = specs[f"{prefix}/params/layers/attn/q/kernel"]
  assert kernel == [None, "fsdp", "tensor"]
  assert specs[f"{prefix}/params/layers/norm/scale"] == [None, None]


def test_the_rest_is_replicated(eight):
  for name in ("step", "key", "opt/0/count"):
    assert eight["specs"][name] == []
  assert eight["same_tree"]


def test_decoding_keeps_weights_off_fsdp(eight):
  assert eight["decode"] == [None, None, "tensor"]


def test_the_axis_of_members_lies_in_front_and_stays_whole():
  mesh = types.SimpleNamespace(shape={"replica": 2, "fsdp": 4, "tensor": 2})
  axes, rules = ("layers", "embed", "mlp"), dict(sharding.TRAIN_RULES)
  spec = lambda shape, rules: list(
    sharding._spec("w", shape, axes, rules, mesh)[0]  # type: ignore[arg-type]
  )
  one, many = (3, 8, 6), (5, 3, 8, 6)
  assert spec(one, rules) == [None, "fsdp", "tensor"]
  assert spec(many, rules) == [None, None, "fsdp", "tensor"]
  over = {**rules, "members": "replica"}
  assert spec((4, 3, 8, 6), over) == ["replica", None, "fsdp", "tensor"]
  bare = {k: v for k, v in rules.items() if k != "members"}
  assert spec(many, bare) == [None, None, "fsdp", "tensor"]
  assert spec((5, 5, 3, 8, 6), rules) == []  # of another rank


def test_unshardable_axes_replicate_with_one_warning(eight):
  # Width 6 does not divide by fsdp=4: embedding and kernel of the reward
  # role, in params and in both Adam moments.
  (message,) = eight["warnings"]
  assert message.startswith("RLR-W001")
  assert (
    "params/reward/params/embed/embedding axis 1 (embed, size 6) on fsdp=4; "
    "fsdp in [1, 2, 3] fits"
  ) in message
  spec = eight["specs"]["params/reward/params/layers/attn/q/kernel"]
  assert spec == [None, None, "tensor"]


def test_batches_become_global_arrays(eight):
  spec, equal, is_bool, text_kept, epoch, rows_per_device = eight["batch"]
  assert spec == [["replica", "fsdp"]]
  assert equal and is_bool and text_kept
  assert (epoch, rows_per_device) == (3, 2)


def test_constrain_skips_axes_that_do_not_divide(eight):
  spec, narrow = eight["constrained"]
  assert spec == ["fsdp", "tensor"]  # replica has size 1
  assert narrow == [8, 1]


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("mesh", ["replica=1, fsdp=3, tensor=2", "8 cpu devices", "fsdp=4"]),
    ("minus", ["fsdp=-1", "at most one is -1"]),
    ("zero", ["tensor=0"]),
    ("rest", ["tensor=3", "8 cpu devices", "tensor=4"]),
    ("rows", ["prompts_per_step=6", "4 data shards", "=4 or 8"]),
    ("few", ["use prompts_per_step=4"]),
    ("batch", ["batch column x=3", "=4"]),
  ],
)
def test_errors_say_what_would_fit(eight, name, words):
  message = eight[f"error_{name}"]
  assert len(message.splitlines()) == 3
  for word in words:
    assert word in message


def test_one_device_is_no_other_path():
  mesh = sharding.make_mesh()
  assert dict(mesh.shape) == {"replica": 1, "fsdp": 1, "tensor": 1}
  placed = sharding.state_shardings(tree(), AXES, sharding.TRAIN_RULES, mesh)
  spec = placed["params"]["layers"]["attn"]["q"]["kernel"].spec
  assert spec == PartitionSpec(None, "fsdp", "tensor")
  assert not sharding.check(tree(), AXES, sharding.TRAIN_RULES, mesh)
  x = jnp.ones((2, 2))
  assert hints.constrain(x, hints.DATA) is x


def test_rules_are_checked_before_anything_compiles():
  mesh = sharding.make_mesh()
  with pytest.raises(UserError, match="logical axis 'vocab'"):
    sharding.check(tree(), AXES, sharding.TRAIN_RULES[:2], mesh)
  rules = [("embed", "data"), *sharding.TRAIN_RULES[1:]]
  with pytest.raises(UserError, match="mesh axis 'data'"):
    sharding.state_shardings(tree(), AXES, rules, mesh)


def test_one_mesh_axis_shards_one_array_axis():
  mesh = sharding.make_mesh()
  axes = {"w": ("embed", "embed")}
  leaf = {"w": jax.ShapeDtypeStruct((4, 4), jnp.float32)}
  placed = sharding.state_shardings(leaf, axes, sharding.TRAIN_RULES, mesh)
  assert placed["w"].spec == PartitionSpec("fsdp", None)
