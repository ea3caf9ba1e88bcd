"""Ratings, then preferences with strengths: losses, ExPO, and that it fails."""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import nano
import numpy as np
import paths
import pytest

from rlreward import config, errors, registry, train
from rlreward.methods import helpsteer2_pref
from rlreward.types import Task

SPEC = "configs/helpsteer2_pref.py:mini"


@functools.cache
def made(**changes):
  """(config, task, method) of the mini size."""
  c: Any = config.replace(
    config.load(SPEC), {k.replace("__", "."): v for k, v in changes.items()}
  )
  task = registry.task(c)
  return c, task, helpsteer2_pref.make(c, task)


@functools.cache
def first():
  """The first state of the second stage; nobody donates it."""
  return jax.jit(made()[2].init)(jax.random.key(0))


def pairs(strengths):
  """A batch of pairs with these strengths, each answer its own."""
  stream = made()[1].preferences
  assert stream is not None
  batch = dict(next(stream("train", len(strengths), 0)))
  batch["strength"] = np.repeat(np.asarray(strengths, np.float32), 2)
  return jax.tree.map(jnp.asarray, batch)


def loss(batch, **changes):
  """Sum of the loss over pairs, and what it was divided by, at the start."""
  held = made(**changes)[2].held
  assert held is not None
  found = held(first(), batch)
  return float(found["loss"][0]), float(found["loss"][1])


# ---------------------------------------------------------------------- losses
def test_scaled_is_each_pair_as_often_as_its_strength():
  batch = pairs([1, 2, 3, 3])
  total, count = loss(batch)
  regular = []
  for i in range(4):
    one = {k: v[2 * i : 2 * i + 2] for k, v in batch.items()}
    regular.append(loss(one, preference__strength=False)[0])
  assert count == 4
  assert total == pytest.approx(np.dot([1, 2, 3, 3], regular), rel=1e-5)
  assert len({round(x, 4) for x in regular}) == 4


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"preference__strength": False},
    {"preference__strength": False, "reward_model__margin": True},
  ],
)
def test_a_pair_without_preference_is_in_no_loss(changes):
  batch = pairs([1, 0, 2, 0])
  known = {k: v[jnp.asarray([0, 1, 4, 5])] for k, v in batch.items()}
  assert loss(batch, **changes) == pytest.approx(loss(known, **changes))
  assert loss(batch, **changes)[1] == 2
  nothing = pairs([0, 0])
  assert loss(nothing, **changes) == (0.0, 0.0)
  _, _, method = made(**changes)
  after, metrics = jax.jit(method.step)(first(), nothing, first().key)
  assert float(metrics["grad_norm"]) == 0
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(after.params))


def test_the_margin_is_the_strength():
  for strength in (1, 3):
    batch = pairs([strength])
    plain = loss(batch, preference__strength=False)[0]
    wide = loss(batch, preference__strength=False, reward_model__margin=True)[0]
    lead = -np.log(np.expm1(plain))  # plain = softplus(-lead)
    assert wide == pytest.approx(np.logaddexp(0, strength - lead), rel=1e-4)


def test_ratings_are_regressed():
  _, task, method = made(reward_model__kind="mse", reward_model__expo=())
  assert method.source == "labelled" and task.labelled is not None
  batch = jax.tree.map(jnp.asarray, next(task.labelled("train", 64, 0)))
  state = jax.jit(method.init)(jax.random.key(0))
  assert method.held is not None and "start" not in state.frozen
  found = method.held(state, batch)
  assert float(found["loss"][1]) == 64 and "accuracy" not in found
  # Scores are small at the start, so the loss is about the mean square.
  square = float(jnp.mean(batch["target"] ** 2))
  assert float(found["loss"][0]) / 64 == pytest.approx(square, rel=0.5)


# ------------------------------------------------------------------------ expo
def test_weights_beyond_the_second_stage():
  _, task, method = made(reward_model__expo=(0.0, 1.0, 1.5))
  state = jax.jit(method.init)(jax.random.key(0))
  assert nano.gap(state.frozen["start"], state.params["policy"]) == 0
  assert task.preferences is not None
  batch = jax.tree.map(jnp.asarray, next(task.preferences("train", 100, 0)))
  after, _ = jax.jit(method.step)(state, batch, state.key)
  assert nano.gap(after.frozen["start"], state.params["policy"]) == 0
  rows = jax.tree.map(jnp.asarray, next(task.preferences("test", 256, 0)))
  assert method.held is not None
  found = {k: float(v[0]) for k, v in method.held(after, rows).items()}
  begun = {k: float(v[0]) for k, v in method.held(state, rows).items()}
  assert found["accuracy/expo/0"] == begun["accuracy"]
  assert found["accuracy/expo/1"] == found["accuracy"]
  beyond = jax.tree.map(
    lambda a, b: a + 1.5 * (b - a), state.params, after.params
  )
  want = method.held(after._replace(params=beyond), rows)["accuracy"][0]
  assert found["accuracy/expo/1.5"] == pytest.approx(float(want), abs=1)


def test_accuracy_by_gold_is_that_of_pairs():
  _, task, method = made()
  assert task.preferences is not None and method.held is not None
  rows = jax.tree.map(jnp.asarray, next(task.preferences("test", 128, 0)))
  found = method.held(first(), rows)
  assert float(found["accuracy"][1]) == 128


# -------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
  ("changes", "word"),
  [
    ({"model.lora_rank": 2}, "lora_rank"),
    ({"reward_model.expo": (-1.0,)}, "expo"),
    ({"reward_model.expo": (float("inf"),)}, "expo"),
    ({"model.outputs": 0}, "outputs"),
    ({"model.outputs": 5}, "outputs"),
    ({"reward_model.kind": "huge"}, "kind"),
  ],
)
def test_what_cannot_be_is_refused(changes, word):
  c: Any = config.replace(config.load(SPEC), changes)
  with pytest.raises(errors.UserError, match=word):
    helpsteer2_pref.make(c, registry.task(c))


# ----------------------------------------------------------------- paper sizes
@pytest.mark.parametrize("size", ["pod", "ratings"])
def test_the_paper_size_builds_without_memory(size):
  """Llama-3.1-70B's shape: shapes alone."""
  c: Any = config.load(f"configs/helpsteer2_pref.py:{size}", {"model.path": ""})
  facts = {"vocab_size": 128_256, "prompt_length": 3072, "answer_length": 1024,
           "stop_ids": (2,), "pad_id": 0, "on_device": True, "tokenizer": None,
           "outputs": 1}  # fmt: skip
  stream = lambda *_: iter(())
  task = Task(
    stream,  # type: ignore[arg-type]
    stream,  # type: ignore[arg-type]
    None,
    {**facts, **({"labels": "ratings"} if size == "ratings" else {})},
    preferences=stream,
    labelled=stream,
  )
  method = helpsteer2_pref.make(c, task)
  state = jax.eval_shape(method.init, jax.random.key(0))
  n = c.prompts_per_step * (2 if size == "pod" else 1)
  shape = lambda size, dtype: jax.ShapeDtypeStruct(size, dtype)
  batch = {
    "tokens": shape((n, 4096), jnp.int32),
    "attend": shape((n, 4096), bool),
    "loss": shape((n, 4096), bool),
    "strength": shape((n,), jnp.float32),
    "target": shape((n, 1), jnp.float32),
  }
  after, metrics = jax.eval_shape(method.step, state, batch, state.key)
  weights = sum(x.size for x in jax.tree.leaves(state.params))
  assert 69e9 < weights < 71e9
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert metrics["loss"].shape == ()


# -------------------------------------------------------------------- the claim
def arms(**values):
  base = {
    "regression": 0.85,
    "bt": 0.8,
    "scaled": 0.82,
    "regression_bt": 0.88,
    "regression_scaled": 0.9,
    **values,
  }
  return {k: {"last/held/accuracy": v} for k, v in base.items()}


@pytest.mark.parametrize(
  ("values", "holds"),
  [
    ({}, True),
    ({"regression": 0.93}, False),  # ratings alone win without an offset
    ({"scaled": 0.9}, False),  # nothing is gained from ratings
    ({"regression_bt": 0.9}, False),  # nor from strengths
    ({"regression_scaled": 0.85}, False),
  ],
)
def test_the_claim_is_all_of_it(values, holds):
  claim = config.study(SPEC).claim
  assert claim is not None and claim(arms(**values)) is holds


def test_the_record_holds_and_fails_without_an_offset():
  path = paths.REPO / "results" / "helpsteer2_pref.json"
  found = json.loads(path.read_text())["arms"]
  claim = config.study(SPEC).claim
  assert claim is not None and claim(found)
  broken = {
    **found,
    "regression": found["even_regression"],
    "regression_scaled": found["even"],
  }
  assert not claim(broken)
  pairs = zip(
    found["regression_scaled"]["runs"], found["scaled"]["runs"], strict=True
  )
  for both, alone in pairs:
    assert both["last"]["held/accuracy"] > alone["last"]["held/accuracy"] + 0.01


@pytest.mark.slow
def test_ratings_first_lead_preferences_alone(tmp_path):
  def last(arm):
    study = config.study(SPEC)
    own = next(a.overrides for a in study.arms if a.name == arm)
    fields = {"log.tensorboard": False, "seed": 10, "eval.prompts": 2048}
    c: Any = config.replace(config.load(SPEC), {**own, **fields})
    return train.run(c, tmp_path / arm).evals[c.steps]["held/accuracy"]

  both, alone = last("regression_scaled"), last("scaled")
  assert alone > 0.75 and both > alone + 0.01
