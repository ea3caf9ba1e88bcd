"""Mixtures of scores and the critique loss against loops in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.ops import critique, mixture

RNG = np.random.default_rng(0)
softplus = lambda x: np.log1p(np.exp(x))


def test_gated_is_the_softmax_of_each_row():
  values, logits = RNG.normal(size=(2, 3, 4))
  got, weight = mixture.gated(jnp.asarray(values), jnp.asarray(logits))
  for n in range(3):
    w = np.exp(logits[n]) / np.exp(logits[n]).sum()
    np.testing.assert_allclose(weight[n], w, rtol=1e-5)
    assert float(got[n]) == pytest.approx(float(w @ values[n]), rel=1e-5)


def test_experts_are_low_rank_changes_and_are_joined_by_a_prelu():
  x, down = RNG.normal(size=(5, 6)), RNG.normal(size=(3, 6, 2))
  up, into = RNG.normal(size=(3, 2, 6)), RNG.normal(size=(18, 4))
  bias, out = RNG.normal(size=4), RNG.normal(size=4)
  got = mixture.experts(jnp.asarray(x), jnp.asarray(down), jnp.asarray(up))
  want = np.stack([x + (x @ down[k]) @ up[k] for k in range(3)], 1)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  z = want.reshape(5, -1) @ into + bias
  value = np.where(z > 0, z, 0.25 * z) @ out
  got = mixture.joined(
    got.reshape(5, -1), jnp.asarray(into), jnp.asarray(bias), 0.25,
    jnp.asarray(out),
  )  # fmt: skip
  np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-4)  # f32 sums of 18


def test_a_route_takes_one_category_and_its_gradient_alone():
  values = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
  place = jnp.asarray([2, 0, 1, 1])
  got, pull = jax.vjp(lambda v: mixture.routed(v, place), values)
  np.testing.assert_array_equal(got, np.asarray(values)[range(4), place])
  (grad,) = pull(jnp.ones(4))
  np.testing.assert_array_equal(grad, np.eye(3)[np.asarray(place)])


def test_features_are_added_up_and_linked():
  f, w = RNG.normal(size=(4, 3)), np.array([0.5, -1.0, 2.0])
  raw = f @ w + 0.3
  parts = jnp.asarray(f), jnp.asarray(w), 0.3
  np.testing.assert_allclose(mixture.combined(*parts, "linear"), raw, rtol=1e-5)
  got = mixture.combined(*parts, "sigmoid")
  np.testing.assert_allclose(got, 1 / (1 + np.exp(-raw)), rtol=1e-5)
  with pytest.raises(ValueError, match="unknown link 'tanh'"):
    mixture.combined(*parts, "tanh")  # type: ignore[arg-type]


def drawn(n=6):
  c, r, a, b = RNG.normal(size=(4, n))
  tie = np.array([False, True, False, True, False, False])
  critic = np.array([True, True, False, True, True, True])
  return c, r, np.abs(a), np.abs(b), tie, critic


def test_the_critique_loss_as_released():
  c, r, a, b, tie, critic = drawn()
  want = np.mean(softplus(0.2 - (c - r)[~tie]))
  want += 0.5 * np.mean((c - r)[tie] ** 2) + 0.01 * np.mean((c + r) ** 2)
  want += 0.7 * np.mean((a + b) * critic)
  arrays = [jnp.asarray(x) for x in (c, r, a, b, tie, critic)]
  got = critique.critique_rm_loss(
    *arrays, margin=0.2, tie_weight=0.5, critique_weight=0.7
  )
  assert float(got.sum()) == pytest.approx(want, rel=1e-5)


def test_pieces_of_a_batch_add_up_and_lost_pairs_are_left_out():
  c, r, a, b, tie, critic = drawn()
  known = np.array([True, True, True, True, True, False])
  arrays = [jnp.asarray(x) for x in (c, r, a, b, tie, critic, known)]
  whole = critique.critique_rm_loss(*arrays)
  fewer = critique.critique_rm_loss(*(x[:5] for x in arrays[:6]))
  np.testing.assert_allclose(whole[:5], fewer, rtol=1e-5)
  assert whole[5] == 0
  counts = tuple(jnp.asarray(n) for n in (3, 2, 5))
  parts = [
    critique.critique_rm_loss(*(x[s] for x in arrays), counts=counts)
    for s in (slice(0, 2), slice(2, 6))
  ]
  np.testing.assert_allclose(jnp.concatenate(parts), whole, rtol=1e-5)


def test_a_batch_of_ties_alone_has_no_first_part():
  c, r, a, b, _, critic = drawn()
  arrays = [jnp.asarray(x) for x in (c, r, a, b, np.ones(6, bool), critic)]
  got = critique.critique_rm_loss(*arrays, centering=0, critique_weight=0)
  assert float(got.sum()) == pytest.approx(np.mean((c - r) ** 2), rel=1e-5)
  with pytest.raises(ValueError, match="coefficients"):
    critique.critique_rm_loss(*arrays, tie_weight=-1.0)
