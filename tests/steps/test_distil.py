"""Distillation against the divergence of whole logits."""

import functools

import given_rows as gr
import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest
import test_fit
import test_iterate

from rlreward.models import pretrained
from rlreward.ops import distill
from rlreward.steps import choose, iterate

B, G, P, T = nano.B, nano.G, nano.P, nano.T
MODEL = gr.model()
TEACHER = gr.model(model__width=24, model__heads=3)  # another shape


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  """A teacher in a checkpoint directory, sharper than a student."""
  variables = jax.jit(TEACHER.init)(jax.random.key(7))
  head = variables["params"]["head"]
  head["kernel"] = head["kernel"] * 2
  folder = tmp_path_factory.mktemp("teacher") / "model"
  pretrained.export(folder, TEACHER.config, variables)
  return str(folder)


@functools.cache
def teacher(path):
  return pretrained.load(path)[1]


@functools.cache
def method(path, **changes):
  own = test_iterate.task()._replace(demonstrations=gr.forever(gr.rows))
  return gr.method("distill", own, teacher__path=path, **changes)


def start(made, path):
  """A State with the teacher in its place, as a run makes it."""
  assert set(made.given) == {"teacher"}
  given = {"teacher": teacher(path)}
  return jax.jit(lambda key: made.init(key, None, given))(jax.random.key(0))


def divergence(kind, params, rows, master, temperature=1.0):
  """Mean over the answers' tokens, from the logits of rows alone."""
  a, b = (
    decoder.logits(tree, rows["tokens"], rows["attend"])[:, :-1] / temperature
    for decoder, tree in ((MODEL, params["policy"]), (TEACHER, master))
  )
  each = distill.divergence_from_logits(a, b, kind, 0.3)
  mask = rows["loss"][:, 1:]
  return jnp.sum(jnp.where(mask, each, 0)) / jnp.sum(mask)


PLAIN = {k: functools.partial(divergence, k) for k in distill.KINDS}


@pytest.mark.parametrize("kind", distill.KINDS)
def test_own_samples_meet_the_teachers_distribution(path, kind):
  made = method(path, distill__kind=kind, distill__mix=0.3)
  state = start(made, path)
  master = jax.tree.map(np.array, state.frozen["teacher"])
  _, rollout, score = test_iterate.sampled(made, state)
  rows = test_iterate.kept(rollout, np.arange(B * G))
  want, seen = gr.descend(PLAIN[kind], state.params, (rows, master))
  before = jax.tree.map(np.array, state.params)
  got, found = made.phases.update(test_iterate.copied(state), rollout, score)
  np.testing.assert_allclose(found["loss"], seen[0], rtol=1e-5)
  np.testing.assert_allclose(found["divergence"], seen[0], rtol=1e-5)
  assert nano.gap(got.params, want) < 1e-6
  assert nano.gap(want, before) > 1e-3
  assert nano.gap(got.frozen["teacher"], master) == 0
  if kind == "js":  # the kinds differ here
    every = jax.jit(lambda *x: [PLAIN[k](*x) for k in distill.KINDS])
    others = [float(x) for x in every(before, rows, master)]
    assert np.diff(sorted(others)).min() > 1e-3


def test_demonstrations_meet_the_teachers_distribution(path):
  made = method(path, distill__on_policy=0.0, distill__kind="forward")
  assert made.source == "demonstrations" and made.phases is None
  state, rows = start(made, path), gr.rows(8)
  master = state.frozen["teacher"]
  want, seen = gr.descend(PLAIN["forward"], state.params, (rows, master))
  held = made.held(state, rows)
  np.testing.assert_allclose(gr.value(held), seen[0], rtol=1e-5)
  got, found = made.step(state, rows, state.key)
  np.testing.assert_allclose(found["loss"], seen[0], rtol=1e-5)
  assert nano.gap(got.params, want) < 1e-6
  # Packed rows are the same examples, for both models.
  packed = test_fit.packed(rows, 2 * (P + T))
  np.testing.assert_allclose(
    gr.value(made.held(state, packed)), seen[0], rtol=1e-5
  )
  del packed["segment"]
  assert abs(gr.value(made.held(state, packed)) - seen[0]) > 1e-3


def test_temperature_divides_the_logits_of_both(path):
  made = method(path, distill__on_policy=0.0, distill__temperature=2.0)
  state, rows = start(made, path), gr.rows(8)
  plain = functools.partial(divergence, "reverse", temperature=2.0)
  want = jax.jit(plain)(state.params, rows, teacher(path))
  np.testing.assert_allclose(gr.value(made.held(state, rows)), want, rtol=1e-5)


def test_a_student_nears_its_teacher(path):
  made = method(
    path, optimizer__learning_rate=1e-2, optimizer__eps=1e-8,
    optimizer__clip_norm=1.0,
  )  # fmt: skip
  state, seen = start(made, path), []
  given = test_iterate.batch()
  for _ in range(40):
    state, found = made.step(state, given, jax.random.fold_in(state.key, 0))
    seen.append(float(found["divergence"]))
  assert np.mean(seen[-3:]) < seen[0] / 2, seen


@pytest.mark.parametrize("share", [0.25, 0.75, 1.0])
def test_a_share_of_the_prompts_has_own_samples(share):
  prompts, group = 2000, 2
  outcome = np.full(prompts * group, 3)
  rollout = test_iterate.one_token(outcome, prompts)
  extras = {"answer": jnp.full((prompts * group, 1), 8),
            "answer_mask": jnp.ones((prompts * group, 1), bool)}  # fmt: skip
  r = iterate.Round(
    rollout._replace(extras=extras),
    test_iterate.Score(jnp.zeros(len(outcome)), jnp.ones(len(outcome), bool)),
    None, group, 1, jax.random.key(1),
  )  # fmt: skip
  rows = choose.mixed(share)(r)
  own = np.asarray(rows["tokens"][:, 1] == 3)
  assert (own | np.asarray(rows["tokens"][:, 1] == 8)).all()
  pairs = own.reshape(prompts, group)
  assert (pairs.all(1) == pairs.any(1)).all()  # whole prompts
  assert abs(pairs[:, 0].mean() - share) < 0.05  # sd at most 0.011


def test_mixed_rounds_train_on_either(path):
  made = method(path, distill__on_policy=0.5)
  state = start(made, path)
  _, rollout, score = test_iterate.sampled(made, state)
  key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 2**30)
  own = np.asarray(jax.random.uniform(key, (B,)) < 0.5).repeat(G)
  assert own.any() and not own.all()
  given = test_iterate.batch()
  rows = jax.tree.map(np.array, test_iterate.kept(rollout, np.arange(B * G)))
  for k, part in (("tokens", "answer"), ("attend", "answer_mask"),
                  ("loss", "answer_mask")):  # fmt: skip
    rows[k][~own, P:] = np.asarray(given[part]).repeat(G, 0)[~own]
  master = state.frozen["teacher"]
  want, seen = gr.descend(PLAIN["reverse"], state.params, (rows, master))
  got, found = made.phases.update(test_iterate.copied(state), rollout, score)
  np.testing.assert_allclose(found["loss"], seen[0], rtol=1e-5)
  assert nano.gap(got.params, want) < 1e-6
