"""Credit over tokens: the O(T^2) definition in float64, peers, hand tables."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paths import shared_data

from rlreward.ops import returns

N, T = 7, 9
# Float32 sums of nine numbers of size 1 against float64.
TOL = {"rtol": 1e-5, "atol": 1e-5}


def _arrays(seed=0, holes=True):
  """Rewards, values and a mask: full, ragged, holes inside, one action, none.

  What the mask leaves out is NaN in the copies that are returned second.
  """
  rng = np.random.default_rng(seed)
  mask = np.arange(T) < np.array([[9], [5], [1], [0], [9], [8], [7]])
  if holes:
    mask[4, [0, 3, 4]] = False
    mask[5, 1:7] = False
    mask[6] = rng.random(T) > 0.4
  reward, value = rng.normal(size=(2, N, T)).astype(np.float32)
  return reward, value, mask


def _dirty(x, mask):
  return jnp.where(mask, x, jnp.nan)


def _definition(reward, value, mask, gamma, lam):
  """A_i = sum_{j >= i} (gamma lam)^(j - i) delta_j over the actions alone."""
  out = np.zeros((N, T))
  for n in range(N):
    at = np.flatnonzero(mask[n])
    r, v = np.float64(reward[n, at]), np.float64(value[n, at])
    for i in range(len(at)):
      for j in range(i, len(at)):
        after = v[j + 1] if j + 1 < len(at) else 0.0
        delta = r[j] + gamma * after - v[j]
        out[n, at[i]] += (gamma * lam) ** (j - i) * delta
  return out


def _to_go(reward, mask, gamma):
  out = np.zeros((N, T))
  for n in range(N):
    at = np.flatnonzero(mask[n])
    for i in range(len(at)):
      for j in range(i, len(at)):
        out[n, at[i]] += gamma ** (j - i) * np.float64(reward[n, at[j]])
  return out


# ------------------------------------------------------------ GAE
@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("lam", [0.0, 0.6, 0.95, 1.0])
def test_gae_is_its_definition(gamma, lam):
  reward, value, mask = _arrays()
  want = _definition(reward, value, mask, gamma, lam)
  got, target = returns.gae(
    _dirty(reward, mask), _dirty(value, mask), mask, gamma, lam
  )
  np.testing.assert_allclose(got, want, **TOL)
  np.testing.assert_allclose(target, want + np.where(mask, value, 0), **TOL)
  assert not np.any(np.asarray(got)[~mask])
  assert not np.any(np.asarray(target)[~mask])


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_the_two_ends_of_lambda(gamma):
  reward, value, mask = _arrays(1)
  one, target = returns.gae(reward, value, mask, gamma, 1.0)
  want = _to_go(reward, mask, gamma)
  np.testing.assert_allclose(one, want - np.where(mask, value, 0), **TOL)
  np.testing.assert_allclose(target, want, **TOL)
  zero, _ = returns.gae(reward, value, mask, gamma, 0.0)
  for n in range(N):
    at = np.flatnonzero(mask[n])
    after = np.append(value[n, at], 0)[1:]
    error = reward[n, at] + gamma * after - value[n, at]
    np.testing.assert_allclose(np.asarray(zero)[n, at], error, **TOL)


def test_an_answer_with_holes_is_the_answer_without_them():
  reward, value, mask = _arrays(2)
  close = lambda x: np.stack(
    [np.pad(row[m], (0, T - m.sum())) for row, m in zip(x, mask, strict=True)]
  )
  short = close(mask)
  pairs = [
    (
      returns.gae(reward, value, mask, 0.9, 0.7),
      returns.gae(close(reward), close(value), short, 0.9, 0.7),
    ),
    (
      (returns.reward_to_go(reward, mask, 0.9),),
      (returns.reward_to_go(close(reward), short, 0.9),),
    ),
  ]
  for wide, narrow in pairs:
    for a, b in zip(wide, narrow, strict=True):
      # Products are grouped by slots: the last digit may differ.
      np.testing.assert_allclose(close(np.asarray(a)), b, **TOL)


def test_gae_equals_rlax():
  rlax = pytest.importorskip("rlax")
  reward, value, _ = _arrays(3)
  mask = np.ones((N, T), bool)
  for gamma, lam in ((1.0, 0.95), (0.9, 0.5)):
    got, _ = returns.gae(reward, value, mask, gamma, lam)
    for n in range(N):
      want = rlax.truncated_generalized_advantage_estimation(
        jnp.asarray(reward[n]),
        jnp.full(T, gamma),
        lam,
        jnp.append(value[n], 0.0),
      )
      np.testing.assert_allclose(got[n], want, **TOL)


@pytest.mark.parametrize("lam", [1.0, 0.7])
def test_gae_peer_numbers(lam):
  """rlax's own test, its bootstrap value folded into the last reward."""
  path = shared_data("peer_fixtures") / "rl_losses.jsonl.gz"
  cases = {r["name"]: r for r in map(json.loads, gzip.open(path, "rt"))}
  case = cases[f"gae_lambda_{lam}"]
  reward = np.float32(case["in"]["r_t"][0])
  value = np.float32(case["in"]["v"][0])
  reward[-1] += 0.99 * value[-1]
  mask = np.ones((1, len(reward)), bool)
  got, _ = returns.gae(reward[None], value[None, :-1], mask, 0.99, lam)
  np.testing.assert_allclose(got[0], case["out"][0], atol=case["atol"])


def test_credit_carries_no_gradient():
  reward, value, mask = _arrays()
  grad = jax.grad(lambda v: sum(x.sum() for x in returns.gae(reward, v, mask)))
  assert not np.any(grad(jnp.asarray(value)))


# ------------------------------------------------------------ returns
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_reward_to_go_is_a_double_loop(gamma):
  reward, _, mask = _arrays(4)
  got = returns.reward_to_go(_dirty(reward, mask), mask, gamma)
  np.testing.assert_allclose(got, _to_go(reward, mask, gamma), **TOL)
  assert not np.any(np.asarray(got)[~mask])


def test_the_reward_is_put_at_the_last_action():
  mask = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 0], [0, 0, 0]], bool)
  got = returns.at_last(jnp.array([2.0, -3.0, 4.0, jnp.nan]), mask)
  want = [[0, 2, 0], [0, 0, -3], [4, 0, 0], [0, 0, 0]]
  np.testing.assert_array_equal(got, want)


# ------------------------------------------------------------ value loss
@pytest.mark.parametrize(
  ("value", "old", "target", "loss", "slope", "decided"),
  [
    (1.1, 1.0, 2.0, 0.405, -0.9, 0),  # inside the clip: half the square
    (1.5, 1.0, 2.0, 0.32, 0.0, 1),  # ran ahead towards R: no gradient
    (0.5, 1.0, 2.0, 1.125, -1.5, 0),  # ran away from R: full gradient
    (2.5, 1.0, 2.0, 0.32, 0.0, 1),  # jumped over R: |V - R| is smaller
    (3.5, 1.0, 2.0, 1.125, 1.5, 0),  # far over R
    (1.0, 1.0, 1.0, 0.0, 0.0, 0),
  ],
)
def test_value_loss_by_hand(value, old, target, loss, slope, decided):
  one = lambda x: jnp.full((1, 1), x, jnp.float32)
  mask = np.ones((1, 1), bool)

  def f(v):
    found, clipped = returns.value_loss(v, one(old), one(target), mask, 0.2)
    return found[0, 0], clipped[0, 0]

  (got, clipped), grad = jax.value_and_grad(f, has_aux=True)(one(value))
  np.testing.assert_allclose(got, loss, rtol=1e-5)
  np.testing.assert_allclose(grad[0, 0], slope, rtol=1e-5)
  assert clipped == decided


@pytest.mark.parametrize("clip", [0.2, 0.7, 0.0, None])
def test_value_loss_equals_trl(clip):
  """The lines of TRL's PPO trainer in torch, with torch's gradient."""
  torch = pytest.importorskip("torch")
  rng = np.random.default_rng(0)
  value, target = rng.normal(size=(2, N, T)).astype(np.float32)
  old = value + 0.5 * rng.normal(size=(N, T)).astype(np.float32)
  _, _, mask = _arrays()
  vpred = torch.tensor(value, requires_grad=True)
  bound = clip or 1e9
  values, ret = torch.tensor(old), torch.tensor(target)
  vpredclipped = torch.clamp(vpred, values - bound, values + bound)
  vf_losses1 = torch.square(vpred - ret)
  vf_losses2 = torch.square(vpredclipped - ret)
  keep = torch.tensor(mask)
  vf_loss = 0.5 * torch.max(vf_losses1, vf_losses2)[keep].mean()
  vf_clipfrac = (vf_losses2 > vf_losses1)[keep].float().mean()
  vf_loss.backward()

  def f(v):
    args = (_dirty(x, mask) for x in (v, old, target))
    loss, clipped = returns.value_loss(*args, mask, clip)
    return loss.sum() / mask.sum(), clipped.sum() / mask.sum()

  (loss, clipped), grad = jax.value_and_grad(f, has_aux=True)(
    jnp.asarray(value)
  )
  np.testing.assert_allclose(loss, vf_loss.detach(), rtol=1e-5)
  np.testing.assert_allclose(clipped, vf_clipfrac, rtol=1e-6)
  np.testing.assert_allclose(grad, vpred.grad, rtol=1e-4, atol=1e-7)
  assert bool(clipped > 0) == bool(clip)


def test_old_values_and_targets_carry_no_gradient():
  value, target, mask = _arrays(5)
  f = lambda o, r: returns.value_loss(value, o, r, mask)[0].sum()
  grads = jax.grad(f, (0, 1))(jnp.asarray(value + 0.3), jnp.asarray(target))
  assert not any(np.any(g) for g in grads)


def test_the_critic_of_a_chain_learns_its_values():
  """Eight states in a row, each with a chance to end there; V is a sum.

  V_s = m_s + stay V_{s+1}; rewards are m_s and noise of size 1. The table of V
  starts at 0 and is fitted to GAE's targets, the clip far off.
  """
  states, rows, stay = 8, 2048, 0.8
  mean = jnp.asarray([0.5, -1.0, 0.0, 2.0, -0.5, 1.0, 0.0, 3.0])
  want = np.zeros(states + 1)
  for s in reversed(range(states)):
    want[s] = mean[s] + stay * want[s + 1]

  def step(value, index):
    a, b = jax.random.split(jax.random.fold_in(jax.random.key(0), index))
    going = jax.random.uniform(a, (rows, states - 1)) < stay
    mask = jnp.concatenate(
      [jnp.ones((rows, 1), bool), jnp.cumprod(going, 1) > 0], 1
    )
    reward = mean + jax.random.normal(b, mask.shape)
    wide = jnp.broadcast_to(value, mask.shape)
    _, target = returns.gae(reward, wide, mask, 1.0, 0.95)

    def loss(value):
      now = jnp.broadcast_to(value, mask.shape)
      found, _ = returns.value_loss(now, wide, target, mask, 10.0)
      return found.sum() / mask.sum()

    rate = 4.0 / (1 + index / 20)
    return value - rate * jax.grad(loss)(value), None

  value, _ = jax.lax.scan(step, jnp.zeros(states), jnp.arange(300))
  # The last rates average over 20 steps: a standard error of 0.012.
  np.testing.assert_allclose(value, want[:-1], atol=0.05)


# ------------------------------------------------------------ controller
@pytest.mark.parametrize(
  ("kl", "error"),
  [
    (12.0, 0.2),  # twice the target, bounded
    (6.6, 0.1),  # a tenth too much
    (6.0, 0.0),
    (5.4, -0.1),
    (0.0, -0.2),
    (np.nan, 0.0),
    (np.inf, 0.0),
  ],
)
def test_the_controller_by_hand(kl, error):
  got = returns.adaptive_kl(jnp.float32(0.2), jnp.float32(kl), 6.0, 64, 1e4)
  want = 0.2 * (1 + error * 64 / 1e4)
  np.testing.assert_allclose(got, want, rtol=2e-7)  # one float32 rounding


def test_the_controller_compounds():
  beta = jnp.float32(0.2)
  for _ in range(10):
    beta = returns.adaptive_kl(beta, jnp.float32(12.0), 6.0, 256, 1e4)
  np.testing.assert_allclose(beta, 0.2 * (1 + 0.2 * 0.0256) ** 10, rtol=2e-6)


@pytest.mark.parametrize(("target", "horizon"), [(0.0, 1e4), (6.0, 0.0)])
def test_the_controller_refuses(target, horizon):
  with pytest.raises(ValueError, match="positive"):
    returns.adaptive_kl(jnp.ones(()), jnp.ones(()), target, 1, horizon)


# ------------------------------------------------------------ diagnostics
def test_explained_variance():
  value, target, mask = _arrays(6)
  run = lambda v, r: float(
    returns.explained_variance(_dirty(v, mask), _dirty(r, mask), mask)
  )
  assert run(target + 3, target) == pytest.approx(1, abs=1e-6)
  assert run(np.full_like(value, 2), target) == pytest.approx(0, abs=1e-6)
  assert run(-target, target) == pytest.approx(-3, abs=1e-5)
  v, r = np.float64(value[mask]), np.float64(target[mask])
  want = 1 - np.var(r - v) / np.var(r)
  assert run(value, target) == pytest.approx(want, abs=1e-5)
  assert run(value, np.full_like(value, 2)) == 0
  none = np.zeros_like(mask)
  assert float(returns.explained_variance(value, target, none)) == 0
