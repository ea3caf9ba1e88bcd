"""RewardBench 2: members, annotators who err, the correlation, its claim."""

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
from rlreward.methods import rewardbench2
from rlreward.steps import ensemble, fit, roles
from rlreward.tasks import fourway
from rlreward.types import Task

SPEC = "configs/rewardbench2.py:mini"
FILE = runpy.run_path(str(paths.REPO / "configs" / "rewardbench2.py"))
SMALL = {
  "ensemble.finetune": 3,
  "prompts_per_step": 32,
  "updates_per_step": 2,
  "task.pairs": 64,
}


@functools.cache
def made(**changes):
  """(config, task, method) of three models."""
  c = config.replace(config.load(SPEC), {**SMALL, **changes})
  task = registry.task(c)
  return c, task, rewardbench2.make(c, task)


@functools.cache
def held():
  """({metric: value}, state, batch) at the start."""
  _, task, method = made()
  state = jax.jit(method.init)(jax.random.key(0))
  batch = jax.tree.map(jnp.asarray, next(task.preferences("test", 300, 0)))
  found = method.held(state, batch)
  return {k: (float(s), float(w)) for k, (s, w) in found.items()}, state, batch


def test_every_model_is_judged_by_the_runner():
  from rlreward.steps import study

  found, state, batch = held()
  c, task, _ = made()
  actor = roles.policy(c.model)
  read = {k: batch[k] for k in ("tokens", "attend")}
  score = np.asarray(ensemble.scores(actor, state, read, fit.slots(task)))
  rows = {k: np.asarray(v) for k, v in batch.items()}
  totals, gold = [], []
  for s in score.astype(np.float64):
    columns = study.items(s, rows, fourway.GROUPS)
    totals.append(study.run(columns, "rewardbench2")["total"])
    own = rows["pool"] >= 0
    pools = zip(
      s[own].reshape(-1, 16), rows["gold"][own].reshape(-1, 16), strict=True
    )
    gold.append(np.mean([g[r.argmax()] for r, g in pools]))
  near = functools.partial(pytest.approx, abs=2e-3)  # near ties in float32
  assert found["bench/total"][0] == near(np.mean(totals))
  assert found["bench/best"][0] == near(np.max(totals))
  assert found["bench/least"][0] == near(np.min(totals))
  assert found["bench/gold/mean"][0] == near(np.mean(gold))
  want = np.corrcoef(totals, gold)[0, 1]
  assert found["bench/pearson"][0] == pytest.approx(want, abs=0.1)
  assert found["loss"][1] == 3 * 10  # members times pairs that are pairs


def test_gold_and_noise_of_growing_spread_are_told_apart():
  """The simulation of 40 scorers without any training: above 0.9 on 5 seeds."""
  size = 3000  # 400 items, 200 pools
  for seed in range(5):
    rng = np.random.default_rng(seed)
    task = fourway.make(None)
    rows = next(task.preferences("test", size, seed))
    noise = np.linspace(0.1, 4.0, 40)[:, None]
    score = rows["gold"] + noise * rng.normal(size=(40, 2 * size))
    found = rewardbench2.judged(score, rows, fourway.GROUPS)
    assert found["pearson"] > 0.9, seed
    assert found["least"] < 0.4 < 0.8 < found["best"]
    lots = next(fourway.make({"right": "any"}).preferences("test", size, seed))
    score = lots["gold"] + noise * rng.normal(size=(40, 2 * size))
    broken = rewardbench2.judged(score, lots, fourway.GROUPS)
    assert broken["pearson"] < 0.9, seed


def test_models_that_are_all_the_same_have_no_correlation():
  rows = next(fourway.make(None).preferences("test", 60, 0))
  score = np.repeat(rows["gold"][None], 2, 0)
  found = rewardbench2.judged(score, rows, fourway.GROUPS)
  assert not [k for k in found if k.startswith("pearson")]
  assert found["gold/mean"] == found["gold/most"]


# -------------------------------------------------------------- the annotators
def columns(n):
  tokens = jnp.arange(4 * n).reshape(2 * n, 2)
  return {
    "tokens": tokens, "attend": tokens >= 0, "loss": tokens % 2 == 0,
    "row": jnp.repeat(jnp.arange(n), 2),
  }  # fmt: skip


def test_a_share_of_the_pairs_is_turned_around():
  batch, key = columns(2000), jax.random.key(0)
  found = rewardbench2.flipped(batch, key, 0.3)
  got = np.asarray(found["tokens"]).reshape(-1, 4)
  old = np.asarray(batch["tokens"]).reshape(-1, 4)
  turned = (got == old[:, [2, 3, 0, 1]]).all(1)
  assert (turned | (got == old).all(1)).all()
  assert turned.mean() == pytest.approx(0.3, abs=0.05)  # 5 standard errors
  assert (found["row"] == batch["row"]).all()
  none = rewardbench2.flipped(batch, key, 0.0)["tokens"]
  assert (none == batch["tokens"]).all()


def test_the_same_pair_is_wrong_in_every_epoch():
  batch, key = columns(64), jax.random.key(3)
  order = np.random.default_rng(0).permutation(64)
  rows = np.stack([2 * order, 2 * order + 1], 1).reshape(-1)
  mixed = {k: v[rows] for k, v in batch.items()}
  one = rewardbench2.flipped(batch, key, 0.5)["tokens"]
  two = rewardbench2.flipped(mixed, key, 0.5)["tokens"]
  assert (one[rows] == two).all()
  other = rewardbench2.flipped(batch, jax.random.key(4), 0.5)["tokens"]
  assert (one != other).any()
  unnamed = {k: v for k, v in batch.items() if k != "row"}
  assert (rewardbench2.flipped(unnamed, key, 0.5)["tokens"] == one).all()


def test_members_differ_in_their_annotators_care():
  state = held()[1]
  share = np.asarray(state.extra["flip"])
  assert share.shape == (3,) and len(set(share.tolist())) == 3
  assert (share >= 0).all() and (share <= 0.5).all()
  _, task, method = made()
  batch = jax.tree.map(jnp.asarray, next(task.preferences("train", 32, 0)))
  after, _ = jax.jit(method.step)(state, batch, state.key)
  assert (np.asarray(after.extra["flip"]) == share).all()


def test_without_errors_it_is_an_ensemble_of_reward_models():
  c, task, method = made(**{"ensemble.flip": 0.0})
  other = registry.algorithm("ensembles").make(c, task)
  key = jax.random.key(0)
  batch = jax.tree.map(jnp.asarray, next(task.preferences("train", 32, 0)))
  done = []
  for m in (method, other):
    state = jax.jit(m.init)(key)
    done.append(jax.jit(m.step)(state, batch, state.key)[0].params)
  assert nano.gap(*done) < 1e-6


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"ensemble.flip": 0.6}, "ensemble.flip=0.6"),
    ({"ensemble.flip": -0.1}, "ensemble.flip=-0.1"),
    ({"model.outputs": 0}, "model.outputs=0"),
    ({"updates_per_step": 5}, "updates_per_step=5"),
  ],
)
def test_what_cannot_be_is_refused_before_anything_compiles(changes, said):
  with pytest.raises(errors.UserError, match=said):
    made(**changes)


def test_the_size_of_the_paper_builds_without_memory():
  """Eight heads and trunks of Llama 3.1 8B: shapes alone."""
  c = config.load("configs/rewardbench2.py:pod")
  assert c.model.path == "allenai/Llama-3.1-Tulu-3-8B-SFT"
  c = config.replace(c, {
    "mesh.fsdp": 1, "model.path": "", "model.vocab": 128264,
    "model.width": 4096, "model.layers": 32, "model.heads": 32,
    "model.kv_heads": 8, "model.head_dim": 128, "model.mlp": 14336,
  })  # fmt: skip
  stream = lambda *_: iter(())
  spec = {"vocab_size": 128264, "prompt_length": 1024, "answer_length": 1024,
          "stop_ids": (128001,), "pad_id": 128256, "on_device": True,
          "tokenizer": None}  # fmt: skip
  task = Task(stream, stream, None, spec, None, stream)  # type: ignore[arg-type]
  before = len(jax.live_arrays())
  method = rewardbench2.make(c, task)
  state = jax.eval_shape(method.init, jax.random.key(0))
  shape = lambda dtype: jax.ShapeDtypeStruct((4096, 2048), dtype)
  batch = {
    "tokens": shape(jnp.int32),
    "attend": shape(bool),
    "loss": shape(bool),
    "strength": jax.ShapeDtypeStruct((4096,), jnp.float32),
  }
  after, metrics = jax.eval_shape(method.step, state, batch, state.key)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  size = sum(x.size for x in jax.tree.leaves(state.params))
  assert 8 * 7.4e9 < size < 8 * 7.6e9
  assert metrics["accuracy"].shape == ()
  assert len(jax.live_arrays()) <= before + 2  # keys


# ------------------------------------------------------------------- the claim
def arm(pearson, items=0.25, ties=0.05):
  each = {f"last/held/random/{n}": items for n in FILE["DOMAINS"]}
  return {"last/held/bench/pearson": pearson, **each,
          "last/held/random/ties/tied": ties}  # fmt: skip


@pytest.mark.parametrize(
  ("models", "holds"),
  [
    (arm(0.95), True),
    (arm(0.85), False),
    (arm(0.95, items=0.5), False),  # the benchmark gives away its answers
    (arm(0.95, ties=0.3), False),
  ],
)
def test_the_claim_is_its_parts(models, holds):
  claim = config.study(SPEC).claim
  assert claim is not None and claim({"models": models}) is holds


def test_the_recorded_broken_variant_fails_the_claim():
  found = json.loads((paths.REPO / "results/rewardbench2.json").read_text())
  claim, arms = config.study(SPEC).claim, found["arms"]
  assert claim is not None and claim(arms)
  assert not claim({**arms, "models": arms[FILE["BROKEN"].name]})


@pytest.mark.claims
def test_the_claim_can_fail(tmp_path):
  """About a minute an arm: the benchmark's right answers drawn by lot."""
  found = {}
  for one in (FILE["ARMS"][0], FILE["BROKEN"]):
    c = config.replace(config.load(SPEC), {**one.overrides, "seed": 20})
    evals = train.run(c, tmp_path / one.name).evals
    found[one.name] = {f"last/{k}": v for k, v in evals[c.steps].items()}
  assert FILE["tells"](found["models"]) and not FILE["tells"](found["any"])
