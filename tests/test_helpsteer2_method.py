"""HelpSteer2: groups and their weights, the whole law, ratings with holes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest
from scipy import special, stats

from rlreward import config, errors, registry, train
from rlreward.methods import helpsteer2
from rlreward.models import pretrained
from rlreward.steps import iterate, objective, roles, steer
from rlreward.tasks import likert
from rlreward.types import Score, Task

SPEC = "configs/helpsteer2.py:mini"
RATED = {"model.outputs": 5, "reward_model.kind": "mse"}


@functools.cache
def made(**changes):
  """(config, task, method) of the mini size."""
  c: Any = config.replace(
    config.load(SPEC), {k.replace("__", "."): v for k, v in changes.items()}
  )
  task = registry.task(c)
  return c, task, helpsteer2.make(c, task)


def drawn(method, task, size=32, seed=0):
  """(state, rollout, score) of one round."""
  state = jax.jit(method.init)(jax.random.key(seed))
  batch = jax.tree.map(jnp.asarray, next(task.batches("train", size, seed)))
  assert method.phases is not None
  rollout = method.phases.sample(state, batch, jax.random.key(seed + 1))
  return state, rollout, method.phases.score(rollout, batch), batch


def round_of(rollout, score, group):
  return iterate.Round(rollout, score, None, group, 2, jax.random.key(0))


# -------------------------------------------------------------------- groups
def test_groups_are_the_answers_of_the_frozen_policy():
  c, task, method = made()
  state, rollout, score, _ = drawn(method, task)
  rows = steer.groups(c)(round_of(rollout, score, 11))
  assert rows["tokens"].shape == (320, 3) and rows["valid"].all()
  whole = rollout.tokens.reshape(32, 11, 3)
  np.testing.assert_array_equal(rows["tokens"].reshape(32, 10, 3), whole[:, 1:])
  # Rows of a group answer one prompt.
  prompts = rows["tokens"][:, 0].reshape(32, 10)
  assert (prompts == prompts[:, :1]).all()
  own = rollout.logp.sum(1).reshape(32, 11)[:, 1:].reshape(-1)
  np.testing.assert_allclose(rows["logq0"], own, rtol=1e-6)
  assert "reference" in state.frozen


def test_columns_against_float64():
  c, task, method = made()
  _, rollout, score, _ = drawn(method, task)
  rows = steer.groups(c)(round_of(rollout, score, 11))
  tokens = np.asarray(rows["tokens"])
  known = (tokens[:, 1:] < 8).all(1)  # a policy that has learned nothing
  assert known.any() and not known.all()
  kind, place = tokens[:, 0] - 8, tokens[:, 1] * 8 + tokens[:, 2]
  kind, place = kind[known], place[known]
  world = {**likert.defaults(), **dict(c.task.items())}
  u = likert.attributes(world)[kind, place, 0] / 4
  prior, chance = (np.asarray(rows[k]) for k in ("logp_prior", "logp_attr"))
  want = likert.log_prior(world)[kind, place]
  np.testing.assert_allclose(prior[known], want, rtol=1e-5)
  # The tail beyond the last edge of five bins; float32 betainc.
  want = stats.beta(24 * u, 24 * (1 - u)).logsf(0.8)
  np.testing.assert_allclose(chance[known], want, atol=5e-3)
  assert (prior[~known] == -100).all()


def test_what_has_no_judgement_leaves_its_group():
  c, task, method = made()
  _, rollout, score, _ = drawn(method, task)
  parts = dict(score.components)
  parts["helpfulness"] = parts["helpfulness"].at[1].set(jnp.nan)
  parts["prior_logp"] = parts["prior_logp"].at[2].set(jnp.nan)
  spoilt = Score(score.value, score.valid.at[3].set(False), None, parts)
  rows = steer.groups(c)(round_of(rollout, spoilt, 11))
  assert rows["valid"].tolist() == [False] * 3 + [True] * 317
  assert method.phases is not None
  state = jax.jit(method.init)(jax.random.key(0))
  after, metrics = method.phases.update(state, rollout, spoilt)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(after.params))
  assert np.isfinite(metrics["loss"]) and metrics["selected"] < 1


def test_without_attributes_the_reward_itself_weighs():
  c, task, method = made(
    steer__attributes=(), steer__levels=(), steer__temperature=2.0
  )
  _, rollout, score, _ = drawn(method, task)
  rows = steer.groups(c)(round_of(rollout, score, 11))
  want = (score.value / 2).reshape(32, 11)[:, 1:].reshape(-1)
  np.testing.assert_allclose(rows["logp_attr"], want, rtol=1e-6)
  assert method.held is None


# ----------------------------------------------------------------- the update
def test_a_checkpoint_may_be_the_prior(tmp_path):
  c, task, method = made()
  _, rollout, score, _ = drawn(method, task)
  rows = steer.groups(c)(round_of(rollout, score, 11))
  actor = roles.policy(c.model)
  own, other = (actor.model.init(jax.random.key(k)) for k in (1, 2))
  pretrained.export(tmp_path / "prior", actor.model.config, other["params"])
  named: Any = config.replace(c, {"teacher.path": str(tmp_path / "prior")})
  read = steer.toward(named, actor, 2)
  assert set(read.given) == {"teacher"}
  assert set(read.start(jax.random.key(0))) == {"teacher"}
  got = read.terms(own, {"teacher": other}, rows, 10)[0]
  logp, mask = objective.answer_logp(actor, other, rows, 2, 10)
  given = {**rows, "logp_prior": jnp.where(mask, logp, 0).sum(1)}
  want = steer.toward(c, actor, 2).terms(own, {}, given, 10)[0]
  assert float(got) == pytest.approx(float(want), rel=1e-5)
  plain = steer.toward(c, actor, 2).terms(own, {}, rows, 10)[0]
  assert abs(float(got) - float(plain)) > 1e-3
  # Without either the policy that drew them is the prior.
  alone = {k: v for k, v in rows.items() if k != "logp_prior"}
  same = {**rows, "logp_prior": rows["logq0"]}
  run = lambda x: float(steer.toward(c, actor, 2).terms(own, {}, x, 10)[0])
  assert run(alone) == run(same)


def test_the_loss_of_a_round_against_float64():
  c, task, method = made()
  _, rollout, score, _ = drawn(method, task)
  assert method.phases is not None
  state = jax.jit(method.init)(jax.random.key(0))
  rows = steer.groups(c)(round_of(rollout, score, 11))
  _, metrics = method.phases.update(state, rollout, score)
  cut = lambda x: np.asarray(x, np.float64).reshape(32, 10)
  q0 = cut(rows["logq0"])
  w = special.softmax(cut(rows["logp_attr"]) + cut(rows["logp_prior"]) - q0, 1)
  # The policy is the one that drew them: each has an equal share.
  want = special.rel_entr(w, np.full((32, 10), 0.1)).sum(1).mean()
  assert float(metrics["loss"]) == pytest.approx(want, rel=1e-4)
  assert float(metrics["kl_group"]) == pytest.approx(want, rel=1e-4)
  assert float(metrics["ess"]) == pytest.approx(
    (1 / (w**2).sum(1)).mean(), rel=1e-4
  )


def test_each_group_is_whole_in_any_microbatch():
  _, task, method = made()
  _, rollout, score, _ = drawn(method, task)
  _, _, small = made(microbatch=16)
  after = []
  for m in (method, small):
    state = jax.jit(m.init)(jax.random.key(0))
    assert m.phases is not None
    after.append(m.phases.update(state, rollout, score)[0].params)
  # Adam divides by the root of a gradient, so that roundings grow.
  assert nano.gap(*after) < 1e-4


# -------------------------------------------------------------- the whole law
def test_the_law_is_held_against_the_posterior():
  c, task, method = made()
  state = jax.jit(method.init)(jax.random.key(0))
  batch = jax.tree.map(jnp.asarray, next(task.batches("test", 8, 0)))
  assert method.held is not None
  found = {
    k: float(a) / float(b) for k, (a, b) in method.held(state, batch).items()
  }
  world = {**likert.defaults(), **dict(c.task.items())}
  u = likert.attributes(world)[..., 0] / 4
  chance = stats.beta(24 * u, 24 * (1 - u)).logsf(0.8)
  target = special.log_softmax(likert.log_prior(world) + chance, 1)
  model = roles.policy(c.model).model
  every = task.spec["answers"]["tokens"]
  logq = np.zeros((4, 64))
  for kind in range(4):
    tokens = np.concatenate([np.full((64, 1), 8 + kind), every], 1)
    logits = model.logits(
      state.params["policy"], jnp.asarray(tokens), jnp.ones((64, 3), bool)
    )
    logp = special.log_softmax(np.asarray(logits, np.float64), -1)
    logq[kind] = sum(
      np.take_along_axis(logp[:, t], tokens[:, t + 1, None], 1)[:, 0]
      for t in (0, 1)
    )
  assert (np.exp(logq).sum(1) < 1).all()  # the rest is no letter
  kl = (np.exp(target) * (target - logq)).sum(1).mean()
  asked = (np.exp(logq) * 4 * u).sum(1)
  want = (np.exp(target) * 4 * u).sum(1)
  assert found["posterior_kl"] == pytest.approx(kl, rel=1e-3)
  assert found["asked"] == pytest.approx(asked.mean(), rel=1e-4)
  assert found["asked_target"] == pytest.approx(want.mean(), rel=1e-4)
  gap = np.abs(asked - want).mean()
  assert found["asked_gap"] == pytest.approx(gap, rel=1e-3)


# ------------------------------------------------------------------ the ratings
def test_goodness_is_judged_on_held_out_answers():
  c: Any = config.replace(config.load(SPEC), RATED)
  task = registry.task(c)
  method = helpsteer2.make(c, task)
  assert method.held is not None and task.labelled is not None
  state = jax.jit(method.init)(jax.random.key(0))
  batch = jax.tree.map(jnp.asarray, next(task.labelled("test", 64, 0)))
  found = method.held(state, batch)
  assert found["accuracy"][1] == 32
  errors_ = [float(found[f"error/{k}"][0]) for k in range(5)]
  assert sum(errors_) == pytest.approx(float(found["loss"][0]), rel=1e-4)
  assert "accuracy" not in method.held(
    state, {k: v for k, v in batch.items() if k != "gold"}
  )


# --------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
  ("changes", "word"),
  [
    ({"steer.samples": 1}, "samples"),
    ({"steer.levels": (4, 4)}, "levels"),
    ({"steer.levels": (5,)}, "levels"),
    ({"steer.weights": "equal"}, "weights"),
    ({"steer.concentration": 0.0}, "concentration"),
    ({"steer.temperature": 0.0}, "temperature"),
    ({"steer.attributes": ("humour",)}, "humour"),
    ({**RATED, "model.outputs": 4}, "outputs"),
  ],
)
def test_what_cannot_be_is_refused(changes, word):
  c: Any = config.replace(config.load(SPEC), changes)
  with pytest.raises(errors.UserError, match=word):
    helpsteer2.make(c, registry.task(c))


# ----------------------------------------------------------------- paper sizes
def shape(size, dtype):
  return jax.ShapeDtypeStruct(size, dtype)


def test_the_reward_model_of_the_paper_builds_without_memory():
  c: Any = config.load("configs/helpsteer2.py:pod", {"model.path": ""})
  facts = {"vocab_size": 128_256, "prompt_length": 3072, "answer_length": 1024,
           "stop_ids": (2,), "pad_id": 0, "on_device": True, "tokenizer": None,
           "labels": "ratings", "outputs": 5}  # fmt: skip
  stream = lambda *_: iter(())
  task = Task(stream, stream, None, facts, labelled=stream)  # type: ignore[arg-type]
  method = helpsteer2.make(c, task)
  state = jax.eval_shape(method.init, jax.random.key(0))
  n = c.prompts_per_step
  batch = {
    "tokens": shape((n, 4096), jnp.int32),
    "attend": shape((n, 4096), bool),
    "loss": shape((n, 4096), bool),
    "target": shape((n, 5), jnp.float32),
  }
  after, metrics = jax.eval_shape(method.step, state, batch, state.key)
  size = sum(x.size for x in jax.tree.leaves(state.params))
  assert 69e9 < size < 71e9
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert metrics["loss"].shape == ()


def test_the_policy_of_the_paper_builds_without_memory():
  c: Any = config.load("configs/helpsteer2.py:policy")
  c = config.replace(c, {"model.path": "", "teacher.path": ""})

  def reward(rollout, batch):
    del batch
    n = rollout.tokens.shape[0]
    parts = {name: jnp.zeros(n) for name in likert.NAMES}
    return Score(jnp.zeros(n), jnp.ones(n, bool), None, parts)

  task = nano.task(reward, vocab_size=128_256)
  method = helpsteer2.make(c, task)
  state = jax.eval_shape(method.init, jax.random.key(0))
  n = c.prompts_per_step
  batch = {
    "prompt": shape((n, 3072), jnp.int32),
    "prompt_mask": shape((n, 3072), bool),
  }
  after, metrics = jax.eval_shape(method.step, state, batch, state.key)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert metrics["ess"].shape == ()


# -------------------------------------------------------------------- the claim
def arm(kl=0.0, gap=0.0, norm=1.0, accuracy=0.9):
  return {
    "last/held/posterior_kl": kl,
    "last/held/asked_gap": gap,
    "last/held/accuracy": accuracy,
    "runs": [{"train": {"grad_norm": norm}}],
  }


GOOD = {
  "steerlm2": arm(0.005, 0.01, 0.1),
  "no_baseline": arm(0.01, 0.02, 1.0),
  "sft": arm(0.6, 0.9),
  "ratings": arm(accuracy=0.9),
  "filled": arm(accuracy=0.8),
}


@pytest.mark.parametrize(
  ("changes", "holds"),
  [
    ({}, True),
    ({"steerlm2": arm(0.03, 0.01, 0.1)}, False),  # away from the posterior
    ({"steerlm2": arm(0.005, 0.05, 0.1)}, False),  # and from what is asked
    ({"steerlm2": GOOD["sft"]}, False),  # imitation under the name
    ({"sft": arm(0.1, 0.2)}, False),  # nothing was to be learned
    ({"no_baseline": arm(0.01, 0.02, 0.15)}, False),  # as calm without
    ({"filled": arm(accuracy=0.9)}, False),  # zeros do no harm
  ],
)
def test_the_claim_is_all_of_it(changes, holds):
  claim = config.study(SPEC).claim
  assert claim is not None and claim({**GOOD, **changes}) is holds


@pytest.mark.slow
def test_it_gets_there_and_imitation_does_not(tmp_path):
  def last(name, **changes):
    fields = {"eval.every": 0, "log.tensorboard": False, "seed": 10, **changes}
    c: Any = config.replace(config.load(SPEC), fields)
    return train.run(c, tmp_path / name).evals[c.steps]

  good = last("good")
  assert good["held/posterior_kl"] < 0.02 and good["held/asked_gap"] < 0.03
  bad = last("bad", **{"steer.weights": "uniform", "steer.baseline": False})
  assert bad["held/posterior_kl"] > 0.2
