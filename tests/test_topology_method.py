"""Reward models from trees: what is judged apart, and that it can fail."""

import functools

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import config, errors, registry, train
from rlreward.methods import topology
from rlreward.types import Task

SPEC = "configs/topology.py:mini"


@functools.cache
def made():
  """(config, task, method) of the mini size."""
  c = config.load(SPEC)
  task = registry.task(c)
  return c, task, topology.make(c, task)


@functools.cache
def first():
  """The first state; nobody donates it."""
  return jax.jit(made()[2].init)(jax.random.key(0))


@functools.cache
def held(size=512):
  """(metrics of the first state, batch)."""
  _, task, method = made()
  batch = next(task.preferences("test", size, 0))
  found = method.held(first(), jax.tree.map(jnp.asarray, batch))
  return {k: (float(s), float(w)) for k, (s, w) in found.items()}, batch


def test_each_split_is_counted_apart():
  found, batch = held()
  pairs = batch["split"][0::2]
  assert found["accuracy"][1] == (pairs < 2).sum() == 256
  assert found["accuracy/fine"][1] == found["accuracy/independent"][1] == 128
  parts = [found[f"accuracy/{n}"][0] for n in ("fine", "independent")]
  assert sum(parts) == pytest.approx(found["accuracy"][0])
  assert found["loss"][1] == 256  # pools are in no loss


def test_accuracies_by_hand():
  score = jnp.asarray([2.0, 1.0, 0.0, 1.0, 3.0, 3.0, 9.0, 0.0])
  split = jnp.asarray([0, 0, 0, 0, 1, 1, 2, 2])
  found = topology.accuracies(score, split, ("a", "b"))
  values = {k: (float(s), float(w)) for k, (s, w) in found.items()}
  assert values == {"accuracy/a": (1.0, 2.0), "accuracy/b": (0.5, 1.0)}


def test_choices_against_a_loop():
  rng = np.random.default_rng(0)
  score, gold = rng.normal(size=(2, 6, 32)).astype(np.float32)
  found = topology.best_of("p", jnp.asarray(score), jnp.asarray(gold))
  for n in (4, 8, 16, 32):
    pick = [g[s[:n].argmax()] for s, g in zip(score, gold, strict=True)]
    got, count = found[f"best_of_n/p/{n}"]
    np.testing.assert_allclose(got, np.sum(pick), rtol=1e-5)
    best = found[f"most_of_n/p/{n}"][0]
    np.testing.assert_allclose(best, gold[:, :n].max(1).sum(), rtol=1e-5)
    assert count == 6
  assert len(found) == 8


def test_pools_are_found_in_a_batch():
  found, batch = held()
  for place, name in ((2, "leaves"), (3, "near")):
    gold = batch["gold"][batch["split"] == place].reshape(-1, 32)
    assert found[f"best_of_n/{name}/32"][1] == len(gold) == 8
    for n in (4, 32):
      best = gold[:, :n].max(1).sum()
      assert found[f"most_of_n/{name}/{n}"][0] == pytest.approx(best, rel=1e-5)
      assert found[f"best_of_n/{name}/{n}"][0] <= best + 1e-4


def test_a_batch_without_pools_or_splits_is_judged_too():
  _, task, method = made()
  state = first()
  few = next(task.preferences("test", 4, 0))
  found = method.held(state, jax.tree.map(jnp.asarray, few))
  assert {"accuracy/fine", "loss"} <= set(found)
  assert not [k for k in found if "_of_n" in k]
  plain = {k: jnp.asarray(few[k]) for k in ("tokens", "attend", "loss")}
  found = method.held(state, plain)
  assert "accuracy/fine" not in found and "accuracy" in found


def test_the_loss_is_that_of_any_reward_model():
  c, task, method = made()
  other = registry.algorithm("reward_model").make(c, task)
  state = first()
  batch = next(task.preferences("train", 8, 0))
  batch = jax.tree.map(jnp.asarray, batch)
  steps = [jax.jit(m.step)(state, batch, state.key) for m in (method, other)]
  assert nano.gap(steps[0][0].params, steps[1][0].params) == 0
  assert float(steps[0][1]["loss"]) == float(steps[1][1]["loss"])


def test_a_model_without_a_score_is_refused():
  c = config.replace(config.load(SPEC), {"model.outputs": 0})
  with pytest.raises(errors.UserError, match="outputs=0"):
    topology.make(c, registry.task(c))


def test_the_paper_size_builds_without_memory():
  """Llama-2-7B's shape, 20,000 pairs of 1,024 tokens: shapes alone."""
  c = config.load("configs/topology.py:pod", {"model.path": ""})
  c = config.replace(c, {"mesh.fsdp": 1})
  spec = {"vocab_size": 32001, "prompt_length": 512, "answer_length": 512,
          "stop_ids": (2,), "pad_id": 0, "on_device": True,
          "tokenizer": None}  # fmt: skip
  stream = lambda *_: iter(())
  task = Task(stream, stream, None, spec, None, stream)  # type: ignore[arg-type]
  before = len(jax.live_arrays())
  method = topology.make(c, task)
  state = jax.eval_shape(method.init, jax.random.key(0))
  rows = 2 * c.prompts_per_step
  shape = lambda dtype: jax.ShapeDtypeStruct((rows, 1024), dtype)
  batch = {
    "tokens": shape(jnp.int32),
    "attend": shape(bool),
    "loss": shape(bool),
    "strength": jax.ShapeDtypeStruct((rows,), jnp.float32),
  }
  after, metrics = jax.eval_shape(method.step, state, batch, state.key)
  size = sum(x.size for x in jax.tree.leaves(state.params))
  assert 6.5e9 < size < 6.8e9
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert metrics["accuracy"].shape == ()
  assert len(jax.live_arrays()) <= before + 2  # keys


def arm(fine, other):
  return {
    "last/held/accuracy/fine": fine,
    "last/held/accuracy/independent": other,
  }


@pytest.mark.parametrize(
  ("tree", "chain", "holds"),
  [
    (arm(0.80, 0.75), arm(0.76, 0.75), True),
    (arm(0.78, 0.75), arm(0.77, 0.75), False),  # no finer
    (arm(0.80, 0.75), arm(0.76, 0.79), False),  # at the price of the rest
    (arm(0.50, 0.50), arm(0.76, 0.75), False),  # coins for labels
    (arm(0.76, 0.75), arm(0.76, 0.75), False),  # a chain under both names
  ],
)
def test_the_claim_is_both_halves(tree, chain, holds):
  claim = config.study(SPEC).claim
  assert claim is not None and claim({"tree": tree, "chain": chain}) is holds


def trained(path, **changes):
  """Last held-out metrics of a run of the mini size, named as in a study."""
  fields = {k.replace("__", "."): v for k, v in changes.items()}
  fields |= {"eval.every": 0, "eval.prompts": 2048, "log.tensorboard": False}
  result = train.run(config.replace(config.load(SPEC), fields), path)
  return {f"last/{k}": v for k, v in result.evals[60].items()}


@pytest.mark.slow
def test_it_learns_and_labels_of_coins_teach_nothing(tmp_path):
  good = trained(tmp_path / "good", seed=10)
  fine, other = arm(0, 0)
  assert good[fine] > 0.7 and good[other] > 0.68
  for pool in ("leaves", "near"):
    chosen = [good[f"last/held/best_of_n/{pool}/{n}"] for n in (4, 8, 16, 32)]
    assert chosen == sorted(chosen)
  bad = trained(tmp_path / "bad", seed=10, task__shuffled=1.0)
  assert abs(bad[fine] - 0.5) < 0.12 and abs(bad[other] - 0.5) < 0.12
  claim = config.study(SPEC).claim
  assert claim is not None
  assert not claim({"tree": bad, "chain": good})
  assert not claim({"tree": good, "chain": good})
