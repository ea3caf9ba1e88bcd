"""Weights of rows that another policy sampled: table, loops, gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.ops import importance, kl, policy

N, T = 5, 6
MASK = np.arange(T) < np.array([[6], [3], [1], [0], [6]])
MASK[4, [1, 4]] = False


def _arrays(seed=0, spread=0.6):
  rng = np.random.default_rng(seed)
  old = -rng.exponential(size=(N, T))
  behaviour = old + spread * rng.normal(size=(N, T))
  return np.float32(old), np.float32(behaviour)


@pytest.mark.parametrize(
  ("high", "mean", "square"), [(1.0, 0.70, 0.63), (1.5, 0.85, 1.0),
                               (2.0, 1.00, 1.53)]
)  # fmt: skip
def test_three_token_table(high, mean, square):
  """pi (.6, .3, .1) and mu (.3, .3, .4): bias against variance."""
  pi, mu = np.array([0.6, 0.3, 0.1]), np.array([0.3, 0.3, 0.4])
  weight, found = importance.rollout_weight(
    jnp.log(pi)[:, None], jnp.log(mu)[:, None], np.ones((3, 1), bool), high=high
  )
  weight = np.asarray(weight)[:, 0]
  assert mu @ weight == pytest.approx(mean, abs=1e-6)
  # Printed with two digits: 0.625 and 1.525 there.
  assert mu @ weight**2 == pytest.approx(square, abs=0.0051)
  # The ratio 2 of the first token is bounded, but for rounding at C = 2.
  if high < 2:
    np.testing.assert_array_equal(found["weight_bounded"][:, 0], [1, 0, 0])


def _loop(old, behaviour, level, bound, low, high, normalise):
  weight, outside = np.zeros((N, T)), np.zeros((N, T))
  for n in range(N):
    at = np.flatnonzero(MASK[n])
    gaps = [float(old[n, t]) - float(behaviour[n, t]) for t in at]
    for t, gap in zip(at, gaps, strict=True):
      if level == "sequence":
        gap = sum(gaps)
      if level == "geometric":
        gap = sum(gaps) / len(gaps)
      w = np.exp(np.clip(gap, -20, 20))
      outside[n, t] = not low <= w <= high
      if outside[n, t]:
        w = 0.0 if bound == "mask" else min(max(w, low), high)
      weight[n, t] = w
  if normalise:
    weight /= weight[MASK].mean()
  return weight, outside


@pytest.mark.parametrize("level", importance.LEVELS)
@pytest.mark.parametrize("bound", importance.BOUNDS)
@pytest.mark.parametrize("low", [0.0, 0.7])
@pytest.mark.parametrize("normalise", [False, True])
def test_weights_are_a_float64_loop(level, bound, low, normalise):
  old, behaviour = _arrays()
  dirty = (jnp.where(MASK, x, jnp.nan) for x in (old, behaviour))
  words = {"level": level, "bound": bound, "low": low, "high": 1.4}
  weight, found = importance.rollout_weight(
    *dirty, MASK, normalise=normalise, **words
  )
  want, outside = _loop(old, behaviour, **words, normalise=normalise)
  np.testing.assert_allclose(weight, want, rtol=2e-6)
  np.testing.assert_array_equal(found["weight"], weight)
  np.testing.assert_array_equal(found["weight_bounded"], outside)
  assert 0 < outside.sum() < MASK.sum()


def test_equal_policies_weigh_one():
  old, _ = _arrays()
  for level in importance.LEVELS:
    weight, found = importance.rollout_weight(old, old, MASK, level=level)
    np.testing.assert_array_equal(weight, MASK)
    assert not np.any(found["weight_bounded"])


def test_weights_are_frozen():
  old, behaviour = map(jnp.asarray, _arrays())
  for level, bound in itertools.product(importance.LEVELS, importance.BOUNDS):

    def f(*args, level=level, bound=bound):
      weight, found = importance.rollout_weight(
        *args, MASK, level=level, bound=bound, normalise=True
      )
      return weight.sum() + sum(x.sum() for x in found.values())

    assert not any(np.any(g) for g in jax.grad(f, (0, 1))(old, behaviour))


def test_nothing_trained_on_has_no_mean():
  old, behaviour = _arrays()
  none = np.zeros_like(MASK)
  weight, _ = importance.rollout_weight(old, behaviour, none, normalise=True)
  np.testing.assert_array_equal(weight, 0)
  weight, _ = importance.rollout_weight(
    old, old - 5, MASK, bound="mask", normalise=True
  )
  np.testing.assert_array_equal(weight, 0)  # every weight is e^5


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({"level": "row"}, "level='row'"),
    ({"bound": "clip"}, "bound='clip'"),
    ({"low": 2.0, "high": 2.0}, "low=2.0, high=2.0"),
    ({"low": -0.1}, "low=-0.1"),
  ],
)
def test_what_cannot_be_is_refused(changes, match):
  old, behaviour = _arrays()
  with pytest.raises(ValueError, match=match):
    importance.rollout_weight(old, behaviour, MASK, **changes)


# ------------------------------------------------------------ gradients
def _gradient(level, high, seed, bound="truncate"):
  """E_mu of the weighted policy gradient over all 3 x 3 answers, exactly."""
  rng = np.random.default_rng(seed)
  theta = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
  mu = theta + 0.5 * jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
  answers = jnp.asarray(list(itertools.product(range(3), range(3))))
  payoff = jnp.asarray(rng.normal(size=9), jnp.float32)
  mask = jnp.ones((9, 2), bool)

  def logps(table):
    """Row 0 is for the first token, row 1 + a for the one after a."""
    rows = jax.nn.log_softmax(table)
    first, second = answers.T
    return jnp.stack([rows[0, first], rows[1 + first, second]], 1)

  exact = jax.grad(lambda x: -jnp.exp(logps(x).sum(1)) @ payoff)(theta)
  loss = policy.reinforce()
  extras, behaviour = {}, logps(mu)
  if level:
    loss = policy.weighted(loss)
    extras["rollout_weight"], _ = importance.rollout_weight(
      logps(theta), behaviour, mask, level=level, bound=bound, high=high
    )

  def f(x):
    wide = jnp.broadcast_to(payoff[:, None], (9, 2))
    value, _ = loss.terms(logps(x), None, wide, mask, extras)
    return jnp.exp(behaviour.sum(1)) @ value.sum(1)

  return np.linalg.norm(jax.grad(f)(theta) - exact), np.linalg.norm(exact)


@pytest.mark.parametrize("seed", range(3))
def test_sequence_weights_make_the_gradient_exact(seed):
  bias, size = _gradient("sequence", 1e9, seed)
  assert bias < 1e-5 * max(size, 1)
  assert _gradient(None, 0, seed)[0] > 0.05 * size


def test_the_usual_bound_takes_most_of_the_bias_away():
  # Means over eight tasks; token weights leave the prefix's law uncorrected.
  mean = lambda *args: np.mean([_gradient(*args, s)[0] for s in range(8)])
  none = mean(None, 0)
  assert mean("sequence", 2.0) < none / 3
  assert mean("sequence", 1.0) > mean("sequence", 2.0)
  token = mean("token", 1e9)
  assert 0.01 * none < token < 0.75 * none


def test_a_weighted_loss_freezes_and_needs_its_weights():
  old, logp = _arrays()
  rng = np.random.default_rng(1)
  adv, reference = rng.normal(size=(2, N, T)).astype(np.float32)
  extras = {"reference_logp": logp + 0.3 * reference}
  penalty = policy.kl_penalty(kl.forward_kl_surrogate, kl.k3, 0.3)
  loss = policy.add(policy.weighted(policy.clipped()), penalty)
  weight = jnp.full((N, T), 0.5)

  def f(weight):
    more = {**extras, "rollout_weight": weight}
    return loss.terms(logp, old, adv, MASK, more)[0]

  alone, _ = penalty.terms(logp, old, adv, MASK, extras)
  clip, _ = policy.clipped().terms(logp, old, adv, MASK, extras)
  np.testing.assert_allclose(f(weight), 0.5 * clip + alone, atol=1e-6)
  assert not np.any(jax.grad(lambda w: f(w).sum())(weight))
  with pytest.raises(ValueError, match="rollout_weight"):
    loss.terms(logp, old, adv, MASK, extras)
