"""RAG-RewardBench: scenarios apart, passages that are fed, its claim."""

import functools
import json
import runpy

import jax
import jax.numpy as jnp
import nano
import numpy as np
import paths
import pytest

from rlreward import config, errors, registry, train
from rlreward.methods import rag_rewardbench
from rlreward.tasks import rag_rows as rows
from rlreward.types import Task

SPEC = "configs/rag_rewardbench.py:mini"
FILE = runpy.run_path(str(paths.REPO / "configs" / "rag_rewardbench.py"))


@functools.cache
def made(**changes):
  """(config, task, method) of the mini size."""
  c = config.replace(config.load(SPEC), changes)
  task = registry.task(c)
  return c, task, rag_rewardbench.make(c, task)


@functools.cache
def held():
  """({metric: value}, state, batch, scores) at the start."""
  from rlreward.steps import study

  c, task, method = made()
  state = jax.jit(method.init)(jax.random.key(0))
  batch = jax.tree.map(jnp.asarray, next(task.preferences("test", 180, 0)))
  found = method.held(state, batch)
  read = {k: batch[k] for k in ("tokens", "attend")}
  score = np.asarray(study.single(c, task)(state, read), np.float64)
  return {k: float(s / w) for k, (s, w) in found.items()}, state, batch, score


def test_scenarios_are_means_of_their_kinds():
  found, _, batch, score = held()
  right = score[0::2] > score[1::2]
  group = np.asarray(batch["group"])[0::2]
  kinds = {k: right[group == i].mean() for i, k in enumerate(rows.KINDS)}
  for name in (*rows.SCENARIOS, "helpful"):
    own = [v for k, v in kinds.items() if k.startswith(name)]
    assert found[f"bench/{name}"] == pytest.approx(np.mean(own), abs=1e-6)
  for kind, value in kinds.items():
    assert found[f"bench/{kind}"] == pytest.approx(value, abs=1e-6)
  assert found["accuracy"] == pytest.approx(right.mean(), abs=1e-6)


def test_scores_depend_on_the_passages_that_are_shown():
  """A swap of two passages' values changes scores, unless they are hidden."""
  from rlreward.steps import study

  c, task, _ = made()
  _, state, batch, score = held()
  tokens = np.asarray(batch["tokens"]).copy()
  tokens[:, [2, 6]] = tokens[:, [6, 2]]
  read = {"tokens": jnp.asarray(tokens), "attend": batch["attend"]}
  other = np.asarray(study.single(c, task)(state, read))
  moved = tokens[:, 2] != tokens[:, 6]
  assert (np.abs(other - score)[moved] > 1e-6).mean() > 0.9
  blind = made(**{"task.masked": True})[1]
  hidden = next(blind.preferences("test", 9, 0))["tokens"]
  assert (hidden[:, : 4 * rows.PASSAGES] == rows.HIDDEN).all()


def test_the_step_is_that_of_any_reward_model():
  c, task, method = made()
  other = registry.algorithm("reward_model").make(c, task)
  state = held()[1]
  batch = jax.tree.map(jnp.asarray, next(task.preferences("train", 9, 0)))
  steps = [jax.jit(m.step)(state, batch, state.key) for m in (method, other)]
  assert nano.gap(steps[0][0].params, steps[1][0].params) == 0


def test_a_model_without_a_score_is_refused():
  c = config.replace(config.load(SPEC), {"model.outputs": 0})
  with pytest.raises(errors.UserError, match="outputs=0"):
    rag_rewardbench.make(c, made()[1])


def test_the_paper_size_builds_without_memory():
  """Gemma 2 27B's sizes and 128 pairs of 4,096 tokens: shapes alone."""
  c = config.load("configs/rag_rewardbench.py:pod")
  assert c.model.path == "google/gemma-2-27b-it"
  c = config.replace(c, {
    "mesh.fsdp": 1, "mesh.tensor": 1, "model.path": "", "model.vocab": 256000,
    "model.width": 4608, "model.layers": 46, "model.heads": 32,
    "model.kv_heads": 16, "model.head_dim": 128, "model.mlp": 36864,
    "model.tied": True,
  })  # fmt: skip
  stream = lambda *_: iter(())
  spec = {"vocab_size": 256000, "prompt_length": 3072, "answer_length": 1024,
          "stop_ids": (1,), "pad_id": 0, "on_device": True,
          "tokenizer": None}  # fmt: skip
  task = Task(stream, stream, None, spec, None, stream)  # type: ignore[arg-type]
  before = len(jax.live_arrays())
  method = rag_rewardbench.make(c, task)
  state = jax.eval_shape(method.init, jax.random.key(0))
  size = 2 * c.prompts_per_step
  shape = lambda dtype: jax.ShapeDtypeStruct((size, 4096), dtype)
  batch = {k: shape(bool) for k in ("attend", "loss")}
  batch |= {"tokens": shape(jnp.int32)}
  after, metrics = jax.eval_shape(method.step, state, batch, state.key)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  count = sum(x.size for x in jax.tree.leaves(state.params))
  assert 26.5e9 < count < 28e9 and metrics["accuracy"].shape == ()
  assert len(jax.live_arrays()) <= before + 2  # keys


# ------------------------------------------------------------------- the claim
def arm(reason, citation, abstain, conflict, helpful=1.0):
  values = {"reason": reason, "citation": citation, "abstain": abstain,
            "conflict": conflict, "helpful": helpful}  # fmt: skip
  return {f"last/held/bench/{k}": v for k, v in values.items()}


RAG = arm(0.9, 0.95, 0.99, 0.8)
GENERAL = arm(0.5, 0.45, 0.5, 0.52)
BLIND = arm(0.5, 0.52, 0.5, 0.48)


@pytest.mark.parametrize(
  ("changes", "holds"),
  [
    ({}, True),
    ({"rag": arm(0.75, 0.95, 0.99, 0.8)}, False),  # no second hop
    ({"rag": arm(0.9, 0.85, 0.99, 0.8)}, False),
    ({"rag": arm(0.9, 0.95, 0.85, 0.8)}, False),
    ({"rag": BLIND}, False),
    ({"general": arm(0.5, 0.5, 0.7, 0.5)}, False),  # knows when to abstain
    ({"general": arm(0.5, 0.5, 0.5, 0.5, 0.6)}, False),  # knows nothing
    ({"blind": RAG}, False),  # what is hidden is seen
  ],
)
def test_the_claim_is_its_parts(changes, holds):
  claim = config.study(SPEC).claim
  arms = {"rag": RAG, "general": GENERAL, "blind": BLIND, **changes}
  assert claim is not None and claim(arms) is holds


def test_the_recorded_broken_variant_fails_the_claim():
  found = json.loads((paths.REPO / "results/rag_rewardbench.json").read_text())
  claim, arms = config.study(SPEC).claim, found["arms"]
  assert claim is not None and claim(arms) == found["holds"]
  assert not claim({**arms, "rag": arms[FILE["BROKEN"].name]})


@pytest.mark.claims
def test_the_claim_can_fail(tmp_path):
  """Minutes: a model that never saw a passage reads none."""
  c = config.replace(
    config.load(SPEC), {**FILE["BROKEN"].overrides, "seed": 20, "steps": 200}
  )
  evals = train.run(c, tmp_path).evals
  found = {f"last/{k}": v for k, v in evals[c.steps].items()}
  assert FILE["chance"](found) and not FILE["reads"](found)
