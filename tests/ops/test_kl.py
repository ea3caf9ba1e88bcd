"""KL values and surrogates by exact enumeration and hand numbers."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import shared_data

from rlreward.ops import kl

PI = np.array([0.7, 0.2, 0.1])
REF = np.array([0.5, 0.3, 0.2])
# Gradients of the two KLs at PI in logit space, from the closed forms.
REVERSE = [0.17594, -0.09812, -0.07783]
FORWARD = [0.2, -0.1, -0.1]
TOL = 1e-5  # the table is printed with five digits


def _expected(loss, behaviour=None, dtype=np.float32):
  """Gradient in the logits of E_behaviour[loss(log pi, log ref)], exact."""
  logits = jnp.asarray(np.log(PI), dtype)
  reference = jnp.asarray(np.log(REF), dtype)
  behaviour = PI if behaviour is None else behaviour

  def f(logits):
    return jnp.sum(behaviour * loss(jax.nn.log_softmax(logits), reference))

  return jax.grad(f)(logits)


def _raw_k1(logp, ref):
  return logp - ref


def _raw_k2(logp, ref):
  return (logp - ref) ** 2 / 2


def _raw_k3(logp, ref):
  return jnp.exp(ref - logp) - 1 + logp - ref


def test_table_of_values():
  logp, ref = np.log(PI), np.log(REF)
  values = {
    "k1": kl.k1(logp, ref), "k2": kl.k2(logp, ref), "k3": kl.k3(logp, ref)
  }  # fmt: skip
  want = {
    "k1": (0.08512, 0.391),
    "k2": (0.08009, 0.054),
    "k3": (0.08512, 0.076),
  }
  for name, (mean, sd) in want.items():
    got = np.asarray(values[name], np.float64)
    np.testing.assert_allclose(PI @ got, mean, atol=TOL)
    got_sd = np.sqrt(PI @ (got - PI @ got) ** 2)
    np.testing.assert_allclose(got_sd, sd, atol=6e-4, err_msg=name)
  upside_down = PI @ np.asarray(kl.k3(ref, logp))
  np.testing.assert_allclose(upside_down, 0.07821, atol=TOL)
  exact = kl.categorical_kl(jnp.log(PI), jnp.log(REF))
  np.testing.assert_allclose(exact, 0.08512, atol=TOL)


@pytest.mark.parametrize("jit", [False, True])
def test_gradients_on_policy(jit):
  wrap = jax.jit if jit else lambda f: f
  surrogates = {
    "true": (None, REVERSE),
    "k1 as loss": (_raw_k1, [0, 0, 0]),
    "k2 as loss": (_raw_k2, REVERSE),
    "k3 as loss": (_raw_k3, FORWARD),
    "reverse": (kl.reverse_kl_surrogate, REVERSE),
    "forward": (kl.forward_kl_surrogate, FORWARD),
  }
  for name, (loss, want) in surrogates.items():
    if loss is None:
      logits, ref = jnp.log(PI), jnp.log(REF)
      got = jax.grad(wrap(kl.categorical_kl))(logits, ref)
    else:
      got = _expected(wrap(loss))
    np.testing.assert_allclose(got, want, atol=TOL, err_msg=name)
  forward = jax.grad(lambda x: kl.categorical_kl(jnp.log(REF), x))(jnp.log(PI))
  np.testing.assert_allclose(forward, FORWARD, atol=TOL)


def test_gradients_off_policy_need_the_weight():
  behaviour = np.array([0.2, 0.3, 0.5])
  weight = jnp.asarray(PI / behaviour, jnp.float32)
  for surrogate, want in (
    (kl.reverse_kl_surrogate, REVERSE),
    (kl.forward_kl_surrogate, FORWARD),
  ):
    bare = _expected(surrogate, behaviour)
    weighted = _expected(lambda a, b, f=surrogate: f(a, b, weight), behaviour)
    np.testing.assert_allclose(weighted, want, atol=TOL)
    assert np.linalg.norm(bare - np.array(want)) > 0.05
  value = kl.reverse_kl_surrogate(jnp.log(PI), jnp.log(REF), weight)
  np.testing.assert_allclose(behaviour @ np.asarray(value), 0.08512, atol=TOL)


def test_weight_and_reference_are_not_differentiated():
  logp, ref = jnp.log(PI), jnp.log(REF)
  for f in (kl.reverse_kl_surrogate, kl.forward_kl_surrogate):
    grads = jax.grad(lambda *a, f=f: f(*a).sum(), (1, 2))(logp, ref, logp)
    assert not np.any(grads)


def test_values_carry_no_gradient_and_surrogates_have_the_value_of_k3():
  logp, ref = jnp.log(PI), jnp.log(REF)
  for value in (kl.k1, kl.k2, kl.k3):
    assert not np.any(jax.grad(lambda x, f=value: f(x, ref).sum())(logp))
  for f in (kl.reverse_kl_surrogate, kl.forward_kl_surrogate):
    np.testing.assert_array_equal(f(logp, ref), kl.k3(logp, ref))


def test_peer_numbers():
  """NeMo-RL's own unit test; three printed digits."""
  path = shared_data("peer_fixtures") / "rl_losses.jsonl.gz"
  cases = {r["name"]: r for r in map(json.loads, gzip.open(path, "rt"))}
  case = cases["kl_estimators"]
  logp, ref = (np.float32(case["in"][k]) for k in ("logp", "ref_logp"))
  for name, f in (("k1", kl.k1), ("k2", kl.k2), ("k3", kl.k3)):
    got = f(logp, ref, limit=None)
    np.testing.assert_allclose(got, case["out"][name], rtol=1e-3)
    assert np.all(np.abs(f(logp, ref)) <= kl.LIMIT)


def test_limits_saturate_and_never_vanish():
  logp, ref = jnp.array([-1.0, -80.0]), jnp.array([-80.0, -1.0])
  for f in (kl.reverse_kl_surrogate, kl.forward_kl_surrogate):
    value, grad = jax.value_and_grad(lambda x, f=f: f(x, ref).sum())(logp)
    assert np.isfinite(value)
  reverse = jax.grad(lambda x: kl.reverse_kl_surrogate(x, ref).sum())(logp)
  np.testing.assert_allclose(reverse, [kl.LIMIT, -kl.LIMIT])
  grad = jax.grad(lambda x: kl.forward_kl_surrogate(x, ref).sum())(logp)
  np.testing.assert_allclose(grad, [1, -kl.LIMIT])


def test_categorical_kl_with_forbidden_tokens():
  p = jnp.array([0.0, 1.0, -jnp.inf])
  q = jnp.array([1.0, 0.0, -jnp.inf])
  value, grads = jax.value_and_grad(kl.categorical_kl, (0, 1))(p, q)
  want = kl.categorical_kl(p[:2], q[:2])
  np.testing.assert_allclose(value, want, rtol=1e-6)
  assert np.all(np.isfinite(grads))
  assert kl.categorical_kl(q, p.at[0].set(-jnp.inf)) == jnp.inf
  assert kl.categorical_kl(p, p) == 0


@settings(max_examples=30, deadline=None)
@given(
  st.lists(st.floats(-6, 6, width=32), min_size=5, max_size=5),
  st.lists(st.floats(-6, 6, width=32), min_size=5, max_size=5),
)
def test_estimators_are_unbiased_for_any_pair(a, b):
  p, q = (jnp.asarray(x, jnp.float32) for x in (a, b))
  logp, ref = jax.nn.log_softmax(p), jax.nn.log_softmax(q)
  exact = float(kl.categorical_kl(p, q))
  k3 = kl.k3(logp, ref, limit=None)
  assert np.all(np.asarray(k3) >= -1e-5)
  prob = jnp.exp(logp)
  # float32 and exp(-d) up to e^12 times p: errors to 1e-6 of the largest term.
  np.testing.assert_allclose(prob @ k3, exact, rtol=1e-4, atol=2e-5)
  np.testing.assert_allclose(
    prob @ kl.k1(logp, ref, None), exact, rtol=1e-4, atol=2e-5
  )
