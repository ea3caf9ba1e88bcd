"""ReMoDetect: its loss by hand, replay, what is judged, that it can fail."""

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
from rlreward.evals import calibration
from rlreward.methods import remodetect
from rlreward.steps import fit, rank, roles
from rlreward.types import Task

SPEC = "configs/remodetect.py:mini"
FILE = runpy.run_path(str(paths.REPO / "configs" / "remodetect.py"))
SMALL = {
  "prompts_per_step": 6,
  "model.width": 16,
  "model.head_dim": 8,
  "model.mlp": 16,
  "task.texts": 12,
  "task.comparisons": 12,
  "optimizer.warmup_steps": 0,
}


@functools.cache
def made(**changes):
  c = config.replace(config.load(SPEC), {**SMALL, **changes})
  task = registry.task(c)
  return c, task, remodetect.make(c, task)


@functools.cache
def started():
  """(state whose policy has moved off the reference, batch, scores of both)."""
  c, task, method = made()
  state = jax.jit(method.init)(jax.random.key(0))
  moved = jax.tree.map(lambda x: x * 1.1, state.params)
  state = state._replace(params=moved)
  batch = jax.tree.map(jnp.asarray, next(task.labelled("test", 6, 0)))
  actor, slots = roles.policy(c.model), fit.slots(task)

  def of(variables):
    each = rank.scores(actor, variables, batch, slots, 1)
    return np.asarray(rank.at_end(each, batch, slots)[:, 0]).reshape(6, 5)

  new = of(actor.variables(state.params, state.frozen))
  return state, batch, new, of(actor.reference(state.frozen))


def by_hand(new, old, weights=(0.35, 1.0, 0.35), l2=0.01, replay=0.01):
  total = 0.0
  for r, r0 in zip(new.astype(float), old.astype(float), strict=True):
    pairs = [(0, 1), (0, 2), (1, 2)]
    for w, (i, j) in zip(weights, pairs, strict=True):
      bt = np.log1p(np.exp(r[j] - r[i]))
      total += w * (bt + l2 / 2 * (r[i] ** 2 + r[j] ** 2)) / 3
    total += replay * sum((r[k] - r0[k]) ** 2 for k in (3, 4))
  return total / len(new)


def test_the_loss_is_the_formula():
  state, batch, new, old = started()
  found = made()[2].held(state, batch)
  assert not np.allclose(new[:, 3:], old[:, 3:], atol=1e-3)
  got = float(found["loss"][0]) / float(found["loss"][1])
  assert got == pytest.approx(by_hand(new, old), rel=1e-4)  # f32 scores
  drift = np.mean((new - old)[:, 3:] ** 2)
  got = float(found["replay"][0]) / float(found["replay"][1])
  assert got == pytest.approx(drift, rel=1e-3)


def test_ranks_say_the_order_and_invalid_levels_are_left_out():
  """Levels in another order of rows, and one text that is not there."""
  state, batch, new, old = started()
  place = np.concatenate([5 * n + np.array([2, 0, 1, 3, 4]) for n in range(6)])
  turned = {k: v[place] for k, v in batch.items()}
  method = made()[2]
  a, b = method.held(state, batch), method.held(state, turned)
  assert float(a["loss"][0]) == pytest.approx(float(b["loss"][0]), rel=1e-5)
  valid = np.ones(30, bool)
  valid[2] = False  # the first person's text
  got = method.held(state, {**batch, "valid": jnp.asarray(valid)})
  want = by_hand(new, old) * 6 - by_hand(new[:1], old[:1])
  want += by_hand(new[:1], old[:1], (0.35, 0, 0))
  assert float(got["loss"][0]) == pytest.approx(want, rel=1e-4)
  # A ranking that lacks a text: its others moved up, and the end is filled.
  valid[2], valid[4] = True, False
  got = method.held(state, {**batch, "valid": jnp.asarray(valid)})
  assert float(got["loss"][1]) == 5
  assert float(got["loss"][0]) / 5 == pytest.approx(
    by_hand(new[1:], old[1:]), rel=1e-4
  )


def test_no_gradient_reaches_the_reference_and_replay_is_zero_at_the_start():
  _, task, method = made()
  state = jax.jit(method.init)(jax.random.key(0))
  batch = jax.tree.map(jnp.asarray, next(task.labelled("train", 6, 0)))
  assert float(method.held(state, batch)["replay"][0]) == 0
  after, metrics = jax.jit(method.step)(state, batch, state.key)
  assert nano.gap(after.frozen["reference"], state.frozen["reference"]) == 0
  assert nano.gap(after.params, state.params) > 1e-5
  assert float(metrics["replay"]) == 0 and np.isfinite(metrics["loss"])


def test_without_replayed_rows_there_is_no_reference():
  c = nano.config(algorithm="remodetect", model__outputs=1)
  from rlreward.tasks import arithmetic

  task = arithmetic.make({"name": "arithmetic", "digits": 1})
  method = remodetect.make(c, task)
  assert method.source == "preferences"
  state = jax.eval_shape(method.init, jax.random.key(0))
  assert "reference" not in state.frozen


def test_pieces_of_a_batch_give_the_same_step():
  _, task, method = made()
  _, _, cut = made(microbatch=10)
  batch = jax.tree.map(jnp.asarray, next(task.labelled("train", 6, 0)))
  after = []
  for m in (method, cut):
    state = started()[0]
    after.append(jax.jit(m.step)(state, batch, state.key))
  # The same sums in another order; Adam's first steps are of the rate's size.
  assert float(after[0][1]["loss"]) == pytest.approx(
    float(after[1][1]["loss"]), rel=1e-5
  )
  assert float(after[0][1]["grad_norm"]) == pytest.approx(
    float(after[1][1]["grad_norm"]), rel=1e-4
  )


def test_authors_are_judged_apart():
  state, batch, new, _ = started()
  found = made()[2].held(state, batch)
  get = lambda k: float(found[k][0])
  author = np.asarray(batch["author"])[::5]
  for name, own in (("seen", author == 0), ("unseen", author > 0)):
    want = calibration.auroc(new[own, 0], new[:, 2])
    assert get(f"auroc/{name}") == pytest.approx(want, abs=1e-5)
    for i in range(3):
      assert get(f"level/{name}/{i}") == pytest.approx(
        new[own, i].mean(), abs=1e-4
      )
  assert get("preferred") == pytest.approx(np.mean(new[:, 3] > new[:, 4]))


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"remodetect.replayed": 4}, "replayed=4 of 5 rows"),
    ({"model.outputs": 2}, "model.outputs=2"),
    ({"remodetect.weights": (1.0, 2.0)}, r"weights=\(1.0, 2.0\)"),
    ({"remodetect.replay": -1.0}, "replay=-1.0"),
    ({"remodetect.l2": -1.0}, "l2=-1.0"),
  ],
)
def test_what_cannot_be_is_refused_before_anything_compiles(changes, said):
  with pytest.raises(errors.UserError, match=said):
    made(**changes)


def test_both_stages_train_and_the_reference_is_the_first_one(tmp_path):
  changes = {
    **SMALL,
    "steps": 2,
    "eval.prompts": 12,
    "log.tensorboard": False,
    "start.steps": 2,
    "start.prompts_per_step": 8,
    "start.eval.prompts": 8,
  }
  c = config.replace(config.load(SPEC), changes)
  whole = train.run(c, tmp_path / "whole")
  assert {"held/auroc/seen", "held/auroc/unseen"} <= set(whole.evals[2])
  # Of a model to itself, whose sums two programs may round otherwise.
  assert whole.evals[0]["held/replay"] < 1e-12 < whole.evals[2]["held/replay"]
  train.run(c, tmp_path / "parts", stop_after=3)
  again = train.run(c, tmp_path / "parts")
  assert nano.gap(again.state.params, whole.state.params) == 0


# ------------------------------------------------------------ at scale
def test_the_size_of_the_pod_builds_without_memory(tmp_path):
  about = {
    "architectures": ["LlamaForSequenceClassification"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "num_labels": 1,
  }
  (tmp_path / "config.json").write_text(json.dumps(about))
  c = config.load("configs/remodetect.py:pod")
  c = config.replace(c, {"mesh.fsdp": 1, "model.path": str(tmp_path)})
  stream = lambda *_: iter(())
  spec = {"vocab_size": 128256, "prompt_length": 8, "answer_length": 512,
          "stop_ids": (128009,), "pad_id": 128004, "on_device": False,
          "tokenizer": None, "answers": 5}  # fmt: skip
  task = Task(stream, stream, None, spec, None, None, stream)  # type: ignore[arg-type]
  before = len(jax.live_arrays())
  method = remodetect.make(c, task)
  state = jax.eval_shape(method.init, jax.random.key(0))
  shape = lambda dtype: jax.ShapeDtypeStruct((320, 520), dtype)
  one = lambda dtype: jax.ShapeDtypeStruct((320,), dtype)
  batch = {
    "tokens": shape(jnp.int32),
    "attend": shape(bool),
    "loss": shape(bool),
    "rank": one(jnp.float32),
    "valid": one(bool),
  }
  after, metrics = jax.eval_shape(method.step, state, batch, state.key)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  size = sum(x.size for x in jax.tree.leaves(state.params))
  assert 1.2e9 < size < 1.3e9
  assert metrics["replay"].shape == ()
  assert len(jax.live_arrays()) <= before + 3  # keys


# ------------------------------------------------------------ the claim
def arm(first, last, levels=(1.0, 0.0, -1.0)):
  return {
    "first/held/auroc/unseen": first,
    "last/held/auroc/unseen": last,
    **{f"last/held/level/unseen/{i}": v for i, v in enumerate(levels)},
  }


@pytest.mark.parametrize(
  ("replay", "scratch", "holds"),
  [
    (arm(0.75, 0.80), 0.70, True),
    (arm(0.75, 0.76), 0.70, False),  # no better than the reward model
    (arm(0.75, 0.80), 0.795, False),  # no better than from scratch
    (arm(0.75, 0.80, (1.0, 1.1, 0.0)), 0.70, False),  # mixed texts on top
    (arm(0.75, 0.80, (1.0, -1.0, 0.0)), 0.70, False),
  ],
)
def test_the_claim_is_its_three_parts(replay, scratch, holds):
  claim = config.study(SPEC).claim
  arms = {"replay": replay, "scratch": arm(0.5, scratch)}
  assert claim is not None and claim(arms) is holds


def test_the_recorded_broken_variant_fails_the_claim():
  found = json.loads((paths.REPO / "results" / "remodetect.json").read_text())
  claim = config.study(SPEC).claim
  arms = found["arms"]
  assert claim is not None and claim(arms) is found["holds"]
  assert not claim({**arms, "replay": arms["no_common"]})


@pytest.mark.claims
def test_the_claim_can_fail(tmp_path):
  """About half a minute an arm: models that share no direction."""
  found = {}
  for one in FILE["ARMS"]:
    if one.name in ("replay", "scratch", "no_common"):
      c = config.replace(config.load(SPEC), {**one.overrides, "seed": 20})
      evals = train.run(c, tmp_path / one.name).evals
      found[one.name] = {
        f"{when}/{k}": v
        for when, at in (("first", 0), ("last", c.steps))
        for k, v in evals[at].items()
      }
  scratch = found["scratch"]["last/held/auroc/unseen"]
  assert FILE["detects"](found["replay"], scratch)
  assert not FILE["detects"](found["no_common"], scratch)
