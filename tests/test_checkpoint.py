"""Checkpoints: bitwise, atomic, on any mesh, with errors that name leaves."""

import pathlib
import shutil
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreward import checkpoint, sharding
from rlreward.errors import UserError
from rlreward.types import State

HERE = pathlib.Path(__file__).resolve()
AXES = {"params": {"w": ("embed", "mlp")}}


def make_state(scale: float = 1.0, width: int = 8) -> State:
  key = jax.random.key(3)
  w = scale * jax.random.normal(key, (width, 4))
  params = {"policy": {"params": {"w": w, "b": w[0].astype(jnp.bfloat16)}}}
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
  return State(
    step=jnp.int32(7),
    params=params,
    frozen={"reference": {"params": {"w": w.astype(jnp.float16)}}},
    opt=tx.init(params),
    key=jax.random.key(11),
    extra={
      "keys": jax.random.split(jax.random.key(5, impl="rbg"), 4),
      "counts": jnp.arange(3, dtype=jnp.uint8),
      "flag": jnp.array(True),
      "nan": jnp.array([jnp.nan, -0.0, jnp.inf]),
      "none": None,
      "empty": jnp.zeros((0, 3), jnp.bfloat16),
      "a.b": (jnp.float32(2.0), jnp.int32(-1)),
    },
  )


def bits(leaf: Any) -> tuple[str, tuple[int, ...], bytes]:
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    raw = np.asarray(jax.random.key_data(leaf))
    return str(leaf.dtype), leaf.shape, raw.tobytes()
  return str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()


def assert_bitwise(a: Any, b: Any) -> None:
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert bits(x) == bits(y)


def abstract(state: Any) -> Any:
  return jax.eval_shape(lambda: state)


def run(code: str, *args: str) -> subprocess.CompletedProcess[str]:
  head = (
    f"import sys; sys.path[:0] = {[str(HERE.parent), *sys.path]!r}\n"
    "import jax\n"
  )
  return subprocess.run(
    [sys.executable, "-c", head + code, *args],
    capture_output=True,
    text=True,
    check=False,
  )


def test_round_trip_is_bitwise(tmp_path):
  saver = checkpoint.Checkpointer(tmp_path / "c")
  state, it = make_state(), {"epoch": 2, "order": [3, 1], "seed": "9"}
  assert saver.latest() is None
  assert saver.save(7, state, it, wait=True)
  assert not saver.save(7, state, it)
  saver.close()
  again = checkpoint.Checkpointer(tmp_path / "c")
  assert again.latest() == 7
  restored, it_again, step = again.restore(abstract(state))
  assert (it_again, step) == (it, 7)
  assert_bitwise(state, restored)
  # A restored key draws the same numbers.
  draw = jax.random.normal(restored.key, (3,))
  assert bits(draw) == bits(jax.random.normal(state.key, (3,)))


def test_a_save_in_progress_survives_donation(tmp_path):
  saver = checkpoint.Checkpointer(tmp_path)
  w = jnp.ones((1000, 1000))
  update = jax.jit(lambda x: x + 1, donate_argnums=0)
  saver.save(1, {"w": w}, {})
  for _ in range(3):
    w = update(w)
  restored, _, _ = saver.restore({"w": jax.ShapeDtypeStruct(w.shape, w.dtype)})
  saver.close()
  assert float(restored["w"].min()) == float(restored["w"].max()) == 1.0


def test_keeps_the_newest(tmp_path):
  saver = checkpoint.Checkpointer(tmp_path, keep=2)
  for step in (1, 2, 3, 12):
    saver.save(step, {"w": jnp.float32(step)}, {"at": step}, wait=True)
  assert saver.steps() == [3, 12]
  target = {"w": jax.ShapeDtypeStruct((), jnp.float32)}
  assert float(saver.restore(target, step=3)[0]["w"]) == 3
  with pytest.raises(UserError, match="no checkpoint of step 2") as error:
    saver.restore(target, step=2)
  assert "3, 12" in str(error.value)
  saver.close()


def test_parts_and_contents(tmp_path):
  state = make_state()
  saver = checkpoint.Checkpointer(tmp_path)
  saver.save(1, state, {}, wait=True)
  saver.close()
  part, step = saver.restore_part(
    abstract(state.params["policy"]), "params/policy"
  )
  assert step == 1
  assert_bitwise(part, state.params["policy"])
  contents = saver.contents()
  assert contents["params/policy/params/b"] == ((4,), "bfloat16")
  assert contents["extra/empty"] == ((0, 3), "bfloat16")
  with pytest.raises(UserError, match="not saved: params/value"):
    saver.restore_part(abstract(state.params["policy"]), "params/value")


def test_another_tree_is_refused_by_name(tmp_path):
  state = make_state()
  saver = checkpoint.Checkpointer(tmp_path)
  saver.save(1, state, {}, wait=True)
  saver.close()
  wide = abstract(make_state(width=16))
  with pytest.raises(UserError) as error:
    saver.restore(wide)
  text = str(error.value)
  assert "params/policy/params/w: saved float32[8,4], wanted float32[16,4]" in (
    text
  )
  assert len(text.splitlines()) == 3
  sgd = state._replace(opt=optax.sgd(0.1).init(state.params))
  with pytest.raises(UserError, match=r"saved but not wanted: opt/1/0/count"):
    saver.restore(abstract(sgd))
  more = state._replace(frozen={**state.frozen, "judge": jnp.zeros(2)})
  with pytest.raises(UserError, match="not saved: frozen/judge"):
    saver.restore(abstract(more))


def test_bad_arguments(tmp_path):
  saver = checkpoint.Checkpointer(tmp_path / "none")
  with pytest.raises(UserError, match="no whole checkpoint"):
    saver.restore({"w": jax.ShapeDtypeStruct((), jnp.float32)})
  with pytest.raises(UserError, match="iterator state is not JSON"):
    saver.save(1, {"w": jnp.zeros(())}, {"f": len})
  with pytest.raises(UserError, match="keep=0"):
    checkpoint.Checkpointer(tmp_path, keep=0)


@pytest.mark.parametrize("what", ["cut", "lost", "flipped", "record", "empty"])
def test_damage_is_a_clear_error_and_the_one_before_still_works(tmp_path, what):
  saver = checkpoint.Checkpointer(tmp_path)
  state = {"w": jnp.arange(4096, dtype=jnp.float32)}
  for step in (1, 2):
    saver.save(step, state, {}, wait=True)
  saver.close()
  newest = tmp_path / "2"
  data = [p for p in (newest / "state").rglob("*") if p.parent.name == "d"]
  for path in data:
    if what == "cut":
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif what == "lost":
      path.unlink()
    elif what == "flipped":
      raw = bytearray(path.read_bytes())
      raw[len(raw) // 2] ^= 0xFF
      path.write_bytes(bytes(raw))
  if what == "record":
    (newest / "record" / "metadata").write_text("{")
  elif what == "empty":
    for name in ("state", "record"):
      shutil.rmtree(newest / name)
  with pytest.raises(UserError, match="cannot be read") as error:
    saver.restore(abstract(state))
  assert "resumes from step 1" in str(error.value)
  assert_bitwise(saver.restore(abstract(state), step=1)[0], state)


def test_partial_directories_are_ignored_and_cleared(tmp_path):
  saver = checkpoint.Checkpointer(tmp_path)
  saver.save(1, {"w": jnp.zeros(2)}, {}, wait=True)
  saver.close()
  # What a kill leaves: a temporary directory; in a bucket, one without a mark.
  shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
  shutil.copytree(tmp_path / "1", tmp_path / "3")
  (tmp_path / "3" / "commit_success.txt").unlink()
  (tmp_path / "notes").mkdir()
  again = checkpoint.Checkpointer(tmp_path, keep=3)
  assert again.latest() == 1
  assert (tmp_path / "2.orbax-checkpoint-tmp").exists()  # a reader touches none
  again.save(4, {"w": jnp.ones(2)}, {}, wait=True)
  again.close()
  assert again.steps() == [1, 4]
  assert not (tmp_path / "2.orbax-checkpoint-tmp").exists()


KILLED = """
import os, signal, jax.numpy as jnp
from rlreward import checkpoint
saver = checkpoint.Checkpointer(sys.argv[1])
saver.save(1, {"w": jnp.full((4_000_000,), 1.0)}, {"at": 1}, wait=True)
saver.save(2, {"w": jnp.full((4_000_000,), 2.0)}, {"at": 2})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_in_the_middle_leaves_a_whole_checkpoint(tmp_path):
  done = run(KILLED, str(tmp_path))
  assert done.returncode == -9, done.stderr[-2000:]
  saver = checkpoint.Checkpointer(tmp_path)
  step = saver.latest()
  assert step in (1, 2)  # 2 only when its write beat the signal
  target = {"w": jax.ShapeDtypeStruct((4_000_000,), jnp.float32)}
  state, it, _ = saver.restore(target)
  assert it == {"at": step}
  assert float(state["w"].min()) == float(state["w"].max()) == float(step)


EIGHT = """
jax.config.update("jax_num_cpu_devices", 8)
import test_checkpoint as t
from rlreward import checkpoint, sharding
mesh = sharding.make_mesh(fsdp=4, tensor=2)
state = t.make_state()
placed = sharding.state_shardings(
    t.abstract(state), t.AXES, sharding.TRAIN_RULES, mesh)
saver = checkpoint.Checkpointer(sys.argv[1])
if sys.argv[2] == "save":
  state = jax.device_put(state, placed)
  w = state.params["policy"]["params"]["w"]
  assert len(w.addressable_shards) == 8
  assert w.addressable_shards[0].data.shape == (2, 2)
  saver.save(5, state, {"at": 5}, wait=True)
else:
  target = sharding.with_shardings(t.abstract(state), placed)
  found, it, step = saver.restore(target)
  w = found.params["policy"]["params"]["w"]
  assert w.addressable_shards[0].data.shape == (2, 2), w.sharding
  t.assert_bitwise(state, found)
saver.close()
"""


def test_eight_devices_to_one_and_back(tmp_path):
  done = run(EIGHT, str(tmp_path / "a"), "save")
  assert done.returncode == 0, done.stderr[-2000:]
  state = make_state()
  saver = checkpoint.Checkpointer(tmp_path / "a")
  # On one device, both without shardings and with those of a (1, 1, 1) mesh.
  found, it, step = saver.restore(abstract(state))
  assert (it, step) == ({"at": 5}, 5)
  assert_bitwise(state, found)
  mesh = sharding.make_mesh()
  placed = sharding.state_shardings(
    abstract(state), AXES, sharding.TRAIN_RULES, mesh
  )
  target = sharding.with_shardings(abstract(state), placed)
  found, _, _ = saver.restore(target)
  assert_bitwise(state, found)
  assert found.params["policy"]["params"]["w"].sharding.mesh == mesh

  back = checkpoint.Checkpointer(tmp_path / "b")
  back.save(6, found, {}, wait=True)
  back.close()
  done = run(EIGHT, str(tmp_path / "b"), "restore")
  assert done.returncode == 0, done.stderr[-2000:]


def test_looking_for_checkpoints_does_not_import_orbax(tmp_path):
  (tmp_path / "3").mkdir()
  done = run(
    "from rlreward import checkpoint\n"
    "assert checkpoint.Checkpointer(sys.argv[1]).latest() is None\n"
    "assert 'orbax' not in sys.modules\n",
    str(tmp_path),
  )
  assert done.returncode == 0, done.stderr[-2000:]
