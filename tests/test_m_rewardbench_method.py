"""M-RewardBench: languages, kappa of the model's own choices, its claim."""

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
from rlreward.evals import consistency
from rlreward.methods import m_rewardbench
from rlreward.types import Task

SPEC = "configs/m_rewardbench.py:mini"
FILE = runpy.run_path(str(paths.REPO / "configs" / "m_rewardbench.py"))
CODES = FILE["CODES"]


@functools.cache
def made():
  """(config, task, method) of the mini size."""
  c = config.load(SPEC)
  task = registry.task(c)
  return c, task, m_rewardbench.make(c, task)


@functools.cache
def held():
  """({metric: value}, state, batch, scores) at the start."""
  from rlreward.steps import study

  c, task, method = made()
  state = jax.jit(method.init)(jax.random.key(0))
  batch = jax.tree.map(jnp.asarray, next(task.preferences("test", 280, 0)))
  found = method.held(state, batch)
  read = {k: batch[k] for k in ("tokens", "attend")}
  score = np.asarray(study.single(c, task)(state, read), np.float64)
  rows = {k: np.asarray(v) for k, v in batch.items()}
  return {k: float(s / w) for k, (s, w) in found.items()}, state, rows, score


def choices(code, system):
  """(right choices bool[40] of a version, subsets i32[40]), read by hand."""
  _, _, rows, score = held()
  own = (rows["language"] == code) & (rows["system"] == system)
  two = score[own].reshape(-1, 2)
  return two[:, 0] > two[:, 1], rows["group"][own][0::2]


def test_scores_and_kappas_are_those_of_the_models_own_choices():
  found = held()[0]
  english, group = choices(0, -1)
  for system, name in enumerate(("good", "poor")):
    kappas = []
    for code in (1, 2, 3):
      own, _ = choices(code, system)
      each = [own[group == g].mean() for g in range(4)]
      got = found[f"bench/{name}/language/{CODES[code]}"]
      assert got == pytest.approx(np.mean(each), abs=1e-6)
      kappas.append(consistency.cohen_kappa(english, own))
      got = found[f"bench/{name}/kappa/{CODES[code]}"]
      assert got == pytest.approx(kappas[-1], abs=1e-6)
    mean = found[f"bench/{name}/kappa"]
    assert mean == pytest.approx(np.mean(kappas), abs=1e-6)


def test_kappa_of_known_tables():
  # 80 of 100 the same and both halves even: (0.8 - 0.5) / 0.5.
  a = np.repeat([1, 0], 50)
  b = np.concatenate([np.repeat([1, 0], [40, 10]), np.repeat([1, 0], [10, 40])])
  assert consistency.cohen_kappa(a, b) == pytest.approx(0.6)
  assert consistency.cohen_kappa(a, a) == pytest.approx(1)
  assert consistency.cohen_kappa(a, 1 - a) == pytest.approx(-1)


def test_random_scores_agree_by_chance_alone():
  """5,600 pairs as in the mini size, 5 seeds: the mean kappa is near 0."""
  from rlreward.steps import study

  _, task, _ = made()
  rows = next(task.preferences("test", 5600, 0))
  own = np.isin(rows["system"], (-1, 0)) & (rows["item"] >= 0)
  part = {k: v[own] for k, v in rows.items()}
  for seed in range(5):
    score = np.random.default_rng(seed).normal(size=own.sum())
    spec = task.spec
    columns = study.items(score, part, spec["groups"], spec["languages"])
    found = study.run(columns, "m-rewardbench")
    assert abs(found["kappa"]) < 0.06  # 3 standard errors of 3 x 800 pairs


def test_english_is_the_same_for_both_systems():
  found = held()[0]
  one, two = (found[f"bench/{s}/language/en"] for s in ("good", "poor"))
  assert one == two


def test_the_step_is_that_of_any_reward_model():
  c, task, method = made()
  other = registry.algorithm("reward_model").make(c, task)
  state = held()[1]
  batch = jax.tree.map(jnp.asarray, next(task.preferences("train", 8, 0)))
  steps = [jax.jit(m.step)(state, batch, state.key) for m in (method, other)]
  assert nano.gap(steps[0][0].params, steps[1][0].params) == 0


def test_a_model_without_a_score_is_refused():
  c = config.replace(config.load(SPEC), {"model.outputs": 0})
  with pytest.raises(errors.UserError, match="outputs=0"):
    m_rewardbench.make(c, made()[1])


def test_the_paper_size_builds_without_memory():
  """Llama 3.1 8B and 128 pairs of 2,048 tokens: shapes alone."""
  c = config.load("configs/m_rewardbench.py:pod")
  assert c.model.path == "meta-llama/Llama-3.1-8B-Instruct"
  c = config.replace(c, {
    "mesh.fsdp": 1, "model.path": "", "model.vocab": 128256,
    "model.width": 4096, "model.layers": 32, "model.heads": 32,
    "model.kv_heads": 8, "model.head_dim": 128, "model.mlp": 14336,
  })  # fmt: skip
  stream = lambda *_: iter(())
  spec = {"vocab_size": 128256, "prompt_length": 1024, "answer_length": 1024,
          "stop_ids": (128001,), "pad_id": 128004, "on_device": True,
          "tokenizer": None}  # fmt: skip
  task = Task(stream, stream, None, spec, None, stream)  # type: ignore[arg-type]
  before = len(jax.live_arrays())
  method = m_rewardbench.make(c, task)
  state = jax.eval_shape(method.init, jax.random.key(0))
  rows = 2 * c.prompts_per_step
  shape = lambda dtype: jax.ShapeDtypeStruct((rows, 2048), dtype)
  batch = {k: shape(bool) for k in ("attend", "loss")}
  batch |= {"tokens": shape(jnp.int32)}
  after, metrics = jax.eval_shape(method.step, state, batch, state.key)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  size = sum(x.size for x in jax.tree.leaves(state.params))
  assert 7.4e9 < size < 7.6e9 and metrics["accuracy"].shape == ()
  assert len(jax.live_arrays()) <= before + 2  # keys


# ------------------------------------------------------------------- the claim
def arm(good, poor, kappa, chance=0.0):
  at = "last/held/bench"
  rows = [("good/language", good), ("poor/language", poor)]
  rows += [("good/kappa", (1.0, *kappa))]
  found = {
    f"{at}/{name}/{code}": value
    for name, values in rows
    for code, value in zip(CODES, values, strict=True)
  }
  return {**found, "last/held/random/good/kappa": chance}


GOOD, POOR, KAPPA = (
  (0.8, 0.77, 0.7, 0.6),
  (0.8, 0.7, 0.6, 0.58),
  (0.5, 0.4, 0.2),
)


@pytest.mark.parametrize(
  ("seen", "holds"),
  [
    (arm(GOOD, POOR, KAPPA), True),
    (arm((0.8, 0.7, 0.77, 0.6), POOR, KAPPA), False),  # no order of scores
    (arm(GOOD, POOR, (0.2, 0.4, 0.5)), False),  # nor of kappas
    (arm(GOOD, GOOD, KAPPA), False),  # translations do not matter
    (arm((0.6, 0.59, 0.58, 0.57), (0.6, 0.5, 0.5, 0.5), KAPPA), False),
    (arm(GOOD, POOR, KAPPA, 0.1), False),  # random scores agree
  ],
)
def test_the_claim_is_its_parts(seen, holds):
  claim = config.study(SPEC).claim
  assert claim is not None and claim({"seen": seen}) is holds


def test_the_recorded_broken_variant_fails_the_claim():
  found = json.loads((paths.REPO / "results/m_rewardbench.json").read_text())
  claim, arms = config.study(SPEC).claim, found["arms"]
  assert claim is not None and claim(arms)
  for other in (FILE["BROKEN"].name, "even"):
    assert not claim({**arms, "seen": arms[other]})


@pytest.mark.claims
def test_the_claim_can_fail(tmp_path):
  """Half a minute an arm: coins for labels."""
  found = {}
  for one in (FILE["ARMS"][0], FILE["BROKEN"]):
    c = config.replace(config.load(SPEC), {**one.overrides, "seed": 20})
    evals = train.run(c, tmp_path / one.name).evals
    found[one.name] = {f"last/{k}": v for k, v in evals[c.steps].items()}
  assert FILE["falls"](found["seen"]) and not FILE["falls"](found["shuffled"])
