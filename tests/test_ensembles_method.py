"""Ensembles of reward models: what is judged, stages, and that it can fail."""

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
from rlreward.evals import ensembles as evals
from rlreward.methods import ensembles
from rlreward.models import ensemble as members
from rlreward.types import Task

SPEC = "configs/ensembles.py:mini"
FILE = runpy.run_path(str(paths.REPO / "configs" / "ensembles.py"))
SMALL = {
  "ensemble.pretrain": 2,
  "ensemble.finetune": 3,
  "prompts_per_step": 32,
  "updates_per_step": 2,
  "task.pairs": 64,
  "task.sentences": 64,
  "model.width": 16,
  "model.head_dim": 8,
}


@functools.cache
def made(**changes):
  """(config, task, method) of a grid of 2 x 3."""
  c = config.replace(config.load(SPEC), {**SMALL, **changes})
  task = registry.task(c)
  return c, task, ensembles.make(c, task)


@functools.cache
def held():
  """({metric: value}, state, batch) at the start."""
  _, task, method = made()
  state = jax.jit(method.init)(jax.random.key(0))
  batch = jax.tree.map(jnp.asarray, next(task.preferences("test", 128, 0)))
  found = method.held(state, batch)
  return {k: (float(s), float(w)) for k, (s, w) in found.items()}, state, batch


def test_answers_are_judged_apart_from_pairs():
  found, _, batch = held()
  assert found["loss"][1] == 6 * 64  # members times pairs that are pairs
  for kind in ("single", "finetune", "pretrain", "all"):
    for n in (4, 16, 64):
      assert found[f"gold/{kind}/{n}"][1] == 1
      assert 0 <= found[f"list/{kind}/{n}"][0] <= 1
  free = np.asarray(batch["answer"])
  base = np.asarray(batch["gold"])[free].mean()
  assert found["gold/base"][0] == pytest.approx(base, abs=1e-6)
  parts = [
    found[f"variance/{k}"][0] for k in ("shared", "pretrain", "finetune")
  ]
  assert sum(parts) == pytest.approx(1, abs=1e-5)
  assert {f"rule/{r}/64" for r in ("mean", "median", "min", "uwo")} <= set(
    found
  )
  assert found["rule/mean/64"][0] == found["gold/pretrain/64"][0]


def test_what_is_judged_are_the_members_scores():
  from rlreward.steps import ensemble, fit, roles

  found, state, batch = held()
  c, task, _ = made()
  own = np.flatnonzero(np.asarray(batch["answer"]))
  rows = {k: batch[k][own] for k in ("tokens", "attend")}
  actor = roles.policy(c.model)
  score = ensemble.scores(actor, state, rows, fit.slots(task))
  joined = evals.joined(score, members.pretrain_members(2, 3))
  want = evals.chosen(joined, {"gold": batch["gold"][own]}, (16,))["gold/16"]
  assert found["gold/pretrain/16"][0] == pytest.approx(float(want), abs=1e-4)


def test_rows_without_answers_are_judged_as_pairs_alone():
  _, task, method = made()
  batch = next(task.preferences("train", 8, 0))
  found = method.held(held()[1], jax.tree.map(jnp.asarray, batch))
  assert "loss" in found and not [k for k in found if k.startswith("gold")]


def test_few_answers_and_a_lone_seed_are_judged_too():
  c = made()[0].ensemble
  score = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8)), jnp.float32)
  found = ensembles.judged(score, {"gold": score[0]}, c)
  assert "gold/all/4" in found and "gold/all/16" not in found
  assert found["gaussian/all/4"][1] == 1
  lone = made(**{"ensemble.pretrain": 1})[0].ensemble
  found = ensembles.judged(score[:3], {"gold": score[0]}, lone)
  assert not [k for k in found if "variance" in k]
  assert all(np.isfinite(v) for v, _ in found.values())


def test_the_rule_joins_what_is_judged():
  score = jnp.asarray(
    np.random.default_rng(1).normal(size=(6, 64)), jnp.float32
  )
  worst = made(**{"ensemble.rule": "min"})[0].ensemble
  found = ensembles.judged(score, {"gold": score.mean(0)}, worst)
  assert found["gold/pretrain/64"][0] == found["rule/min/64"][0]
  assert found["gold/pretrain/64"][0] != found["rule/mean/64"][0]


def test_without_a_head_members_are_language_models():
  changes = {"model.outputs": 0, "ensemble.finetune": 1, "ensemble.share": 0.5}
  _, task, method = made(**changes)
  assert method.source == "demonstrations" and method.evaluate is None
  state = jax.eval_shape(method.init, jax.random.key(0))
  batch = next(task.demonstrations("train", 32, 0))
  _, metrics = jax.eval_shape(method.step, state, batch, state.key)
  assert "nll" in metrics and members.size(state.params) == 2


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"ensemble.rule": "product"}, "rule='product'"),
    ({"ensemble.coef": -1.0}, "coef=-1.0"),
    ({"ensemble.pretrain": 0}, "ensemble.pretrain=0"),
    ({"updates_per_step": 5}, "prompts_per_step=32 in updates_per_step=5"),
    ({"model.outputs": 2}, "model.outputs=2"),
    ({"reward_model.centering": -1.0}, "centering"),
  ],
)
def test_what_cannot_be_is_refused_before_anything_compiles(changes, said):
  with pytest.raises(errors.UserError, match=said):
    made(**changes)


def test_both_stages_train_and_resume(tmp_path):
  """A tiny run of both stages; the second goes on from its checkpoint."""
  changes = {
    **SMALL,
    "steps": 2,
    "optimizer.warmup_steps": 0,
    "eval.prompts": 32,
    "log.tensorboard": False,
    "start.steps": 2,
    "start.prompts_per_step": 64,
    "start.ensemble.pretrain": 2,
    "start.eval.prompts": 16,
  }
  c = config.replace(config.load(SPEC), changes)
  whole = train.run(c, tmp_path / "whole")
  assert int(whole.state.step) == 2 and "held/gold/all/16" in whole.evals[2]
  first = train.run(c, tmp_path / "parts", stop_after=3)
  assert int(first.state.step) == 1
  again = train.run(c, tmp_path / "parts")
  assert nano.gap(again.state.params, whole.state.params) == 0
  rows = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
  assert all(np.isfinite(json.loads(r).get("loss", 0)) for r in rows)


def test_one_pretrained_model_may_stand_for_all(tmp_path):
  changes = {
    **SMALL, **FILE["BROKEN"].overrides, "steps": 1, "eval.prompts": 32,
    "log.tensorboard": False, "optimizer.warmup_steps": 0,
    "optimizer.learning_rate": 1e-7, "start.steps": 1,
    "start.prompts_per_step": 64, "start.eval.prompts": 16,
  }  # fmt: skip
  c = config.replace(config.load(SPEC), changes)
  tree = train.run(c, tmp_path).state.params["policy"]["params"]
  table = np.asarray(tree["embed"]["embedding"])
  assert np.abs(table - table[0]).max() < 1e-5  # hardly fine-tuned
  heads = np.asarray(tree["score"]["kernel"])
  assert np.abs(heads[1:] - heads[0]).max(1).min() > 1e-2


# ------------------------------------------------------------ at scale
def test_the_size_of_the_paper_builds_without_memory(tmp_path):
  """25 GPT-2 medium, 8.9e9 parameters, on pairs of 768 tokens: shapes alone."""
  about = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 1024,
    "n_layer": 24,
    "n_head": 16,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
  }
  (tmp_path / "config.json").write_text(json.dumps(about))
  c = config.load("configs/ensembles.py:pod")
  assert c.model.path == FILE["SEEDS"][0] and len(c.ensemble.paths) == 4
  c = config.replace(c, {"mesh.fsdp": 1, "model.path": str(tmp_path)})
  stream = lambda *_: iter(())
  spec = {"vocab_size": 50257, "prompt_length": 640, "answer_length": 128,
          "stop_ids": (50256,), "pad_id": 50256, "on_device": True,
          "tokenizer": None}  # fmt: skip
  task = Task(stream, stream, None, spec, None, stream)  # type: ignore[arg-type]
  before = len(jax.live_arrays())
  method = ensembles.make(c, task)
  assert len(method.given) == 4
  assert {c.path for c in method.given.values()} == set(FILE["SEEDS"][1:])
  key = jax.random.key(0)
  state = jax.eval_shape(method.init, key)
  shape = lambda dtype: jax.ShapeDtypeStruct((2048, 768), dtype)
  batch = {
    "tokens": shape(jnp.int32),
    "attend": shape(bool),
    "loss": shape(bool),
    "strength": jax.ShapeDtypeStruct((2048,), jnp.float32),
  }
  after, metrics = jax.eval_shape(method.step, state, batch, state.key)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  size = sum(x.size for x in jax.tree.leaves(state.params))
  assert 8.6e9 < size < 9.1e9 and members.size(state.params) == 25
  assert metrics["accuracy"].shape == ()
  # Checkpoints of five seeds have the same places in the state.
  one = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype),
    state.params["policy"]["params"],
  )
  one = {"params": {k: v for k, v in one.items() if k != "score"}}
  given = dict.fromkeys(method.given, one)
  loaded = jax.eval_shape(method.init, key, one, given)
  assert jax.tree.map(jnp.shape, loaded) == jax.tree.map(jnp.shape, state)
  assert len(jax.live_arrays()) <= before + 3  # keys


def test_checkpoints_of_several_seeds_are_where_members_begin():
  from rlreward.steps import ensemble, roles

  c = made()[0]
  model = roles.policy(c.model).model
  trees = [model.init(jax.random.key(i)) for i in range(2)]
  # As `train` does it; the shape is that of the first.
  method = ensembles.make(c, made()[1])
  stacked = ensemble._trunks(roles.policy(c.model), trees[0], trees[1:])
  state = method.init(jax.random.key(0), stacked)
  got = state.params["policy"]["params"]["layers"]
  for k in range(6):
    want = trees[k // 3]["params"]["layers"]
    assert nano.gap(members.take(got, k), want) == 0


# ------------------------------------------------------------ the claim
def arm(single, finetune, pretrain, lists=(0.4, 0.6)):
  gold = {"single": single, "finetune": finetune, "pretrain": pretrain}
  shares = dict(zip(("single", "pretrain"), lists, strict=True))
  return {
    **{f"last/held/gold/{k}/64": v for k, v in gold.items()},
    **{f"last/held/list/{k}/64": v for k, v in shares.items()},
  }


@pytest.mark.parametrize(
  ("seeds", "holds"),
  [
    (arm(1.0, 1.1, 1.3), True),
    (arm(1.0, 1.0, 1.3), False),  # fine-tuning seeds do not help
    (arm(1.1, 1.2, 1.2), False),  # copies of one pretraining seed
    (arm(1.0, 1.1, 1.3, (0.4, 0.4)), False),  # no hack that all share
  ],
)
def test_the_claim_is_its_three_parts(seeds, holds):
  claim = config.study(SPEC).claim
  assert claim is not None and claim({"seeds": seeds}) is holds


def test_the_recorded_broken_variant_fails_the_claim():
  found = json.loads((paths.REPO / "results" / "ensembles.json").read_text())
  claim = config.study(SPEC).claim
  arms = found["arms"]
  assert claim is not None and claim(arms)
  assert not claim({**arms, "seeds": arms["copies"]})
  assert not claim({**arms, "seeds": arms["fair"]})


@pytest.mark.claims
def test_the_claim_can_fail(tmp_path):
  """About a minute an arm: copies of one seed in the place of five."""
  found = {}
  for one in (FILE["ARMS"][0], FILE["BROKEN"]):
    c = config.replace(config.load(SPEC), {**one.overrides, "seed": 20})
    evals = train.run(c, tmp_path / one.name).evals
    found[one.name] = {f"last/{k}": v for k, v in evals[c.steps].items()}
  assert FILE["ordered"](found["seeds"])
  assert not FILE["ordered"](found["copies"])
