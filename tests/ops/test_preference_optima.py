"""What preference losses make of a policy: exact expectations, minimised.

Eight answers, every ordered pair, labels from a known Bradley-Terry model; or
one pair whose label is right with a known probability.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.ops import preference, unpaired

V = 8


def _minimise(loss, steps, rate, dtype=np.float64):
  """Adam with a falling rate from zero logits."""

  def step(state, i):
    x, m, v = state
    g = jax.grad(loss)(x)
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
    size = rate * 0.5 * (1 + jnp.cos(jnp.pi * i / steps))
    hat = m / (1 - 0.9 ** (i + 1)), v / (1 - 0.99 ** (i + 1))
    return (x - size * hat[0] / (jnp.sqrt(hat[1]) + 1e-12), m, v), None

  zero = jnp.zeros(V, dtype)
  run = lambda: jax.lax.scan(step, (zero, zero, zero), jnp.arange(steps))
  return jax.jit(run)()[0][0]


def _population(kind, beta, reward, reference, divergence="reverse_kl"):
  """Policy that minimises the expected loss of all ordered pairs."""
  i, j = np.nonzero(~np.eye(V, dtype=bool))
  wins = 1 / (1 + np.exp(reward[j] - reward[i]))

  def loss(logits):
    ratio = jax.nn.log_softmax(logits) - reference
    score = preference.f_score(ratio, divergence)
    pairs = preference.pairwise(score[i], score[j], beta=beta, kind=kind)
    return jnp.sum(wins * pairs)

  return jax.nn.log_softmax(_minimise(loss, 1500, 0.1))


@pytest.fixture
def problem():
  rng = np.random.default_rng(0)
  reference = rng.normal(size=V)
  reference -= np.log(np.exp(reference).sum())
  return rng.normal(size=V), reference


def test_dpo_optimum(problem):
  """pi = ref exp(r / beta) / Z, the answer of RLHF with the true reward."""
  reward, reference = problem
  with jax.enable_x64(True):
    logp = _population("sigmoid", 0.5, reward, reference)
    want = jax.nn.log_softmax(jnp.asarray(reference + reward / 0.5))
    assert float(jnp.sum(jnp.exp(logp) * (logp - want))) < 1e-6
    assert float(jnp.max(jnp.abs(logp - want))) < 1e-3


@pytest.mark.parametrize("divergence", ["forward_kl", "js", "alpha"])
def test_f_dpo_optimum(divergence, problem):
  """beta f'(pi / ref) + const = r: the true reward at the f-penalised optimum.

  beta is large enough for the optimum to lie inside the simplex.
  """
  reward, reference = problem
  with jax.enable_x64(True):
    logp = _population("sigmoid", 3.0, reward, reference, divergence)
    score = preference.f_score(logp - jnp.asarray(reference), divergence)
    gap = np.asarray(3.0 * score - reward)
    assert np.ptp(gap) < 1e-2 and float(jnp.exp(logp).min()) > 1e-4


def test_ipo_optimum():
  """One pair, preferred with probability p: h = (2 p - 1) / (2 tau)."""
  with jax.enable_x64(True):
    for tau in (0.1, 0.5, 1.0):
      for p in (0.8, 1.0):
        h = _two_arms(lambda c, r, t=tau: preference.pairwise(
          c, r, beta=t, kind="ipo"), p)  # fmt: skip
        np.testing.assert_allclose(h, (2 * p - 1) / (2 * tau), rtol=1e-3)


def _two_arms(loss, p):
  """The margin that minimises p loss(c, r) + (1 - p) loss(r, c)."""

  def expected(x):
    c, r = x[:1], x[1:2]
    return jnp.sum(p * loss(c, r) + (1 - p) * loss(r, c))

  x = _minimise(expected, 2000, 0.3)
  return float(x[0] - x[1])


def test_smoothed_optimum():
  """cDPO: beta h = log((1 - eps) / eps); CREAM's logit(C) is eps = 1 - C."""
  with jax.enable_x64(True):
    for eps, want in ((0.1, np.log(9)), (0.3, 0.8473), (0.54, -0.1603)):
      h = _two_arms(
        lambda c, r, e=eps: preference.pairwise(
          c, r, beta=0.5, label_smoothing=e
        ),
        1.0,
      )
      np.testing.assert_allclose(0.5 * h, want, atol=1e-3)


def test_robust_undoes_flips():
  """rDPO under labels flipped at rate eps is, on average, DPO under clean."""
  c, r = jnp.asarray(np.random.default_rng(4).normal(size=(2, 5)), jnp.float32)
  flip = 0.2
  loss = lambda c, r: preference.pairwise(
    c, r, beta=0.5, kind="robust", label_smoothing=flip
  )
  noisy = (1 - flip) * loss(c, r) + flip * loss(r, c)
  np.testing.assert_allclose(
    noisy, preference.pairwise(c, r, beta=0.5), rtol=1e-5
  )


def test_exo_and_soft_sppo_optima():
  """EXO: sigmoid(beta h) = 1 - eps; SPPO: c = -r = (P - 1/2) / beta."""
  with jax.enable_x64(True):
    h = _two_arms(
      lambda c, r: preference.pairwise(
        c, r, beta=0.5, kind="exo_pair", label_smoothing=0.1
      ),
      1.0,
    )
    np.testing.assert_allclose(0.5 * h, np.log(9), atol=1e-3)
    h = _two_arms(
      lambda c, r: preference.pairwise(
        c, r, beta=0.5, kind="sppo", label_smoothing=0.2
      ),
      1.0,
    )
    np.testing.assert_allclose(h, 2 * 0.3 / 0.5, atol=1e-3)


def test_hard_labels_run_away_from_dpo_not_ipo():
  """p = 1: DPO's margin passes three times IPO's and goes on growing."""
  with jax.enable_x64(True):
    h = _two_arms(lambda c, r: preference.pairwise(c, r, beta=1.0), 1.0)
  assert h > 3 * 0.5


def _equilibrium(wins, reference, beta, steps=3000):
  """Exact expected Nash-MD-PG updates, y' from the even mixture."""

  def gradient(logits):
    logp = jax.nn.log_softmax(logits)
    mixed = jax.nn.softmax((logp + reference) / 2)
    advantage = unpaired.nash_md_advantage(
      wins @ mixed, logp - reference, beta=beta
    )
    weight = jax.lax.stop_gradient(jnp.exp(logp))
    return jnp.sum(weight * advantage * jax.nn.log_softmax(logits))

  step = lambda x, _: (x + 0.5 * jax.grad(gradient)(x), None)
  return jax.lax.scan(step, jnp.zeros(len(reference)), length=steps)[0]


def test_nash_md_fixed_point():
  """At rest pi = ref exp(P(y beats mixture) / beta) / Z (Munos et al., 2023).

  Rock, paper, scissors, which no reward explains, with a tilted reference.
  """
  wins = 0.5 + 0.4 * jnp.array([[0.0, 1, -1], [-1, 0, 1], [1, -1, 0]])
  reference = jnp.log(jnp.array([0.6, 0.3, 0.1]))
  logits = jax.jit(lambda: _equilibrium(wins, reference, 0.5))()
  logp = jax.nn.log_softmax(logits)
  mixed = jax.nn.softmax((logp + reference) / 2)
  want = jax.nn.log_softmax(reference + wins @ mixed / 0.5)
  np.testing.assert_allclose(logp, want, atol=1e-4)
