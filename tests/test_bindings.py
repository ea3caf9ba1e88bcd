"""What the fields of a config do to an algorithm, and what they cost.

Formulas and learning are in test_algorithms.py.
"""

import functools

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import registry
from rlreward.steps import roles
from rlreward.tasks import arithmetic
from rlreward.types import LENGTH, Score

N = nano.B * nano.G
ONLINE = ("grpo", "dr_grpo", "dapo", "gspo", "cispo")


def rolled(method):
  """A rollout of the nano model and its score."""
  state = nano.start(method)
  rollout = method.phases.sample(state, nano.batch(), state.key)
  return rollout, method.phases.score(rollout, None)


@pytest.mark.parametrize(
  ("algorithm", "low", "high"),
  [
    ("grpo", 0.2, 0.2),
    ("dr_grpo", 0.2, 0.2),
    ("dapo", 0.2, 0.28),
    ("gspo", 3e-4, 4e-4),
    ("cispo", 1.0, 0.2),
  ],
)
def test_clip_range_is_the_papers(algorithm, low, high):
  # Two epochs at a rate of almost 0, so that both see the same ratio.
  method = nano.method(algorithm, epochs=2, optimizer__learning_rate=1e-9)
  rollout, score = rolled(method)

  def clipped(ratio):
    shifted = rollout._replace(logp=rollout.logp - np.float32(np.log(ratio)))
    _, found = method.phases.update(nano.start(method), shifted, score)
    assert float(found["ratio"]) == pytest.approx(ratio, rel=1e-4)
    return float(found["clip_fraction"])

  near = min(low, high) * 0.05
  assert clipped(1 + high - near) == 0
  assert clipped(1 + high + near) > 0.2
  if algorithm == "cispo":  # unbounded below
    assert clipped(0.1) == 0
  else:
    assert clipped(1 - low + near) == 0
    assert clipped(1 - low - near) > 0.2


def test_the_config_overrides_the_papers_clip():
  wide = {"loss__clip_low": 0.5, "loss__clip_high": 1.0}
  method = nano.method(epochs=2, optimizer__learning_rate=1e-9, **wide)
  rollout, score = rolled(method)
  shifted = rollout._replace(logp=rollout.logp - np.float32(np.log(1.5)))
  _, found = method.phases.update(nano.start(method), shifted, score)
  assert float(found["clip_fraction"]) == 0


# -------------------------------------------------- passes
def passes(method):
  """Walks over the layers in one update: forward and backward count one each.

  The layers are the only loop of the nano model, so every `scan` of the jaxpr
  is a pass, but for the loop over updates.
  """
  state = jax.eval_shape(method.init, jax.random.key(0))
  rollout = jax.eval_shape(method.phases.sample, state, nano.batch(), state.key)
  score = jax.eval_shape(nano.even_share, rollout, None)
  jaxpr = jax.make_jaxpr(method.phases.update)(state, rollout, score)
  return scans(jaxpr.jaxpr)


def scans(jaxpr):
  found = 0
  for eqn in jaxpr.eqns:
    found += eqn.primitive.name == "scan"
    for value in eqn.params.values():
      for part in value if isinstance(value, tuple | list) else [value]:
        inner = getattr(part, "jaxpr", part)
        if isinstance(inner, jax.extend.core.Jaxpr):
          found += scans(inner)
  return found


@pytest.mark.parametrize("algorithm", ONLINE)
def test_passes_over_the_model(algorithm):
  plain = nano.method(algorithm)
  key = jax.random.key(0)
  assert jax.eval_shape(plain.init, key).frozen == {}  # none is even held
  assert passes(plain) == 2  # old log-probs are the sampler's
  for change in ({"loss__kl_beta": 0.1}, {"reference": "always"}):
    with_reference = nano.method(algorithm, **change)
    frozen = jax.eval_shape(with_reference.init, key).frozen
    assert set(frozen) == {"reference"}
    assert passes(with_reference) == 3
  # Entropy comes from the same pass; a second epoch adds its loop and no pass.
  assert passes(nano.method(algorithm, loss__entropy=0.1)) == 2
  assert passes(nano.method(algorithm, epochs=2)) == 3


def test_a_reference_for_the_log_changes_nothing():
  plain, logged = nano.method(), nano.method(reference="always")
  rollout, score = rolled(plain)
  want, found = plain.phases.update(nano.start(plain), rollout, score)
  got, more = logged.phases.update(nano.start(logged), rollout, score)
  # The same sums, in two programs.
  assert nano.gap(want.params, got.params) < 1e-6
  assert float(more["kl"]) == pytest.approx(0, abs=1e-6)
  assert set(more) - set(found) == {"kl", "kl_sequence"}


# -------------------------------------------------- terms
def test_entropy_bonus_keeps_entropy():
  rollout, _ = rolled(nano.method())
  flat = Score(jnp.zeros(N), jnp.ones(N, bool), None, {"even": jnp.zeros(N)})

  def entropy(coefficient):
    method = nano.method(loss__entropy=coefficient)
    state = nano.start(method)
    for _ in range(4):
      state, found = method.phases.update(state, rollout, flat)
    return float(found["entropy"])

  assert entropy(1.0) > entropy(-1.0) + 0.02


def test_overlong_shaping_lowers_the_long_rows():
  method = nano.method("dapo", truncation="penalise", overlong_buffer=2)
  rollout, score = rolled(method)
  same = score._replace(value=jnp.zeros(N, jnp.float32))
  _, found = method.phases.update(nano.start(method), rollout, same)
  cut = np.asarray(rollout.finish == LENGTH)
  shaped = np.asarray(found["rows"]["reward"])
  assert np.all(shaped[cut] == -1) and np.any(shaped > -1)
  assert float(found["reward"]) == 0  # what is reported is the reward itself


# -------------------------------------------------- supervised
@functools.cache
def world():
  return arithmetic.make({"name": "arithmetic", "digits": 1})


def sft(**changes):
  c = nano.config(algorithm="sft", **changes)
  return registry.algorithm("sft").make(c, world())


def test_sft_learns_what_it_is_shown():
  method = sft(optimizer__learning_rate=0.02, optimizer__eps=1e-8)
  step = jax.jit(method.step)
  state = jax.jit(method.init)(jax.random.key(0))
  batch = next(world().demonstrations("train", nano.B, 0))
  losses = []
  for _ in range(30):
    state, found = step(state, batch, state.key)
    losses.append(float(found["loss"]))
  assert losses[0] == pytest.approx(np.log(nano.V), abs=1)
  assert losses[-1] < 0.3 * losses[0]
  assert float(found["nll"]) == pytest.approx(losses[-1], abs=1e-6)


def test_sft_is_the_mean_over_tokens_and_not_over_microbatches():
  batch = dict(next(world().demonstrations("train", nano.B, 0)))
  batch["loss"] = batch["loss"].copy()
  batch["loss"][0] = False  # ragged: a mean of means would notice
  whole, cut = sft(), sft(microbatch=1)
  state = jax.jit(whole.init)(jax.random.key(0))
  want, found = jax.jit(whole.step)(state, batch, state.key)
  got, same = jax.jit(cut.step)(state, batch, state.key)
  assert nano.gap(want.params, got.params) < 1e-5
  np.testing.assert_allclose(same["loss"], found["loss"], atol=1e-5)
  model = roles.policy(nano.config().model).model
  logits = jax.jit(model.logits)(
    state.params["policy"], batch["tokens"], batch["attend"]
  )
  logp = np.asarray(jax.nn.log_softmax(logits), np.float64)
  total = [
    -logp[n, t - 1, batch["tokens"][n, t]]
    for n, t in zip(*np.nonzero(batch["loss"]), strict=True)
  ]
  # 1e-5: f32 log-softmax against a float64 mean of it.
  assert float(found["loss"]) == pytest.approx(np.mean(total), abs=1e-5)
