"""Weights of SteerLM 2.0, chances of Likert levels, ExPO: against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from rlreward.ops import reward_model as rm
from rlreward.ops import steer


def _logs(seed=0, shape=(6, 10)):
  """logq, logq0, log prior, log attributes of groups."""
  rng = np.random.default_rng(seed)
  return [jnp.asarray(rng.normal(-5, 2, shape), jnp.float32) for _ in range(4)]


ALL = jnp.ones((6, 10), bool)


# ------------------------------------------------------------------ goodness
def test_goodness_by_hand():
  ratings = jnp.asarray([[4.0, 3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 4.0, 4.0, 4.0]])
  got = steer.goodness(ratings)
  np.testing.assert_allclose(
    got, [0.65 * 4 + 0.8 * 3 + 0.45 * 2, 0.8 + 0.45 * 4], rtol=1e-6
  )
  lone = ratings.at[:, 3:].set(jnp.nan)  # of weight 0
  np.testing.assert_array_equal(steer.goodness(lone), got)
  assert np.isnan(steer.goodness(ratings.at[0, 0].set(jnp.nan))[0])
  with pytest.raises(ValueError, match="weights"):
    steer.goodness(ratings[:, :3])


# -------------------------------------------------------------------- levels
@pytest.mark.parametrize(("levels", "concentration"), [(5, 24.0), (3, 2.0)])
def test_levels_against_scipy(levels, concentration):
  rating = np.linspace(0, levels - 1, 41)
  u = np.clip(rating / (levels - 1), 1e-3, 1 - 1e-3)[:, None]
  a, b = concentration * u, concentration * (1 - u)
  low = np.arange(levels) / levels
  law = stats.beta(a, b)
  # In each tail the difference is exact in float64.
  want = np.log(
    np.where(
      low < u,
      law.cdf(low + 1 / levels) - law.cdf(low),
      law.sf(low) - law.sf(low + 1 / levels),
    )
  )
  got = steer.beta_level_logprob(jnp.asarray(rating), levels, concentration)
  # float32 betainc: relative errors of 1e-5 or so of each mass.
  np.testing.assert_allclose(got, want, atol=2e-3)
  np.testing.assert_allclose(np.exp(got).sum(-1), 1, atol=1e-4)


def test_levels_at_and_beyond_the_ends_are_finite():
  got = steer.beta_level_logprob(jnp.asarray([-1.0, 0.0, 4.0, 9.0]))
  assert np.isfinite(got).all()
  np.testing.assert_array_equal(got[0], got[1])
  np.testing.assert_allclose(got[1], got[2][::-1], atol=1e-3)
  assert got[1].argmax() == 0 and got[3].argmax() == 4
  pulled = jax.grad(lambda r: jnp.sum(steer.beta_level_logprob(r)))
  assert not np.any(pulled(jnp.asarray([0.0, 2.2])))


def test_asked_levels_are_added_up():
  ratings = jnp.asarray([[3.9, 1.2], [0.3, 2.0]])
  each = jax.jit(steer.beta_level_logprob)(ratings)
  got = steer.asked_logprob(ratings, (4, 2))
  np.testing.assert_allclose(got, each[:, 0, 4] + each[:, 1, 2], rtol=1e-6)
  for wrong in ((4,), (4, 5), (4, -1)):
    with pytest.raises(ValueError, match="levels"):
      steer.asked_logprob(ratings, wrong)


def test_bad_settings_of_levels_are_refused():
  with pytest.raises(ValueError, match="levels"):
    steer.beta_level_logprob(jnp.ones(2), levels=1)
  with pytest.raises(ValueError, match="concentration"):
    steer.beta_level_logprob(jnp.ones(2), concentration=0.0)


# -------------------------------------------------------------------- groups
def test_loss_against_float64():
  logs = [np.asarray(x, np.float64) for x in _logs()]
  q, q0, prior, attr = logs
  w = special.softmax(attr + prior - q0, 1)
  b = special.softmax(q - q0, 1)
  loss, said = steer.steerlm2_loss(*_logs(), valid_BxN=ALL)
  np.testing.assert_allclose(loss, special.rel_entr(w, b).sum(1), rtol=1e-4)
  np.testing.assert_allclose(said["ess"], 1 / (w**2).sum(1), rtol=1e-4)
  np.testing.assert_array_equal(said["kl_group"], loss)
  pulled = jax.grad(
    lambda x: steer.steerlm2_loss(x, *_logs()[1:], valid_BxN=ALL)[0].sum()
  )
  np.testing.assert_allclose(pulled(_logs()[0]), b - w, atol=1e-6)


def test_both_forms_have_one_gradient():
  q, *rest = _logs(1)
  valid = ALL.at[0, 3:].set(False).at[2].set(False)
  logw = steer.posterior_logw(*rest, valid_BxN=valid)
  logb = steer.group_log_softmax(q - rest[0], valid)
  c = jnp.exp(logw) - jnp.exp(logb)
  one = jax.grad(
    lambda x: steer.steerlm2_loss(x, *rest, valid_BxN=valid)[0].sum()
  )(q)
  two = jax.grad(lambda x: steer.weighted_nll(x, c, valid).sum())(q)
  np.testing.assert_allclose(one, two, atol=1e-6)
  assert np.abs(one).max() > 0.1
  np.testing.assert_allclose(one.sum(1), 0, atol=1e-6)


def test_a_group_of_one_has_no_gradient():
  logs = [x[:, :1] for x in _logs()]
  loss, said = steer.steerlm2_loss(*logs, valid_BxN=ALL[:, :1])
  np.testing.assert_array_equal(loss, 0)
  np.testing.assert_allclose(said["ess"], 1)
  pulled = jax.grad(
    lambda x: steer.steerlm2_loss(x, *logs[1:], valid_BxN=ALL[:, :1])[0].sum()
  )
  np.testing.assert_array_equal(pulled(logs[0]), 0)


def test_what_is_not_valid_changes_nothing():
  valid = ALL.at[0, 3:].set(False).at[2].set(False)
  spoilt = [jnp.where(valid, x, jnp.nan) for x in _logs()]
  run = jax.jit(
    jax.value_and_grad(
      lambda a: steer.steerlm2_loss(*a, valid_BxN=valid)[0].sum()
    )
  )
  value, grads = run(spoilt)
  want, _ = run(_logs())
  assert value == want and np.isfinite(value)
  assert all(np.isfinite(g).all() for g in grads)
  assert not np.any(np.asarray(grads[0])[~np.asarray(valid)])
  assert not np.any(grads[1]) and not np.any(grads[2]) and not np.any(grads[3])
  short = [x[:1, :3] for x in _logs()]
  alone = steer.steerlm2_loss(*short, valid_BxN=ALL[:1, :3])[0]
  both = steer.steerlm2_loss(*_logs(), valid_BxN=valid)
  np.testing.assert_allclose(both[0][0], alone[0], rtol=1e-5)
  assert both[0][2] == 0 and both[1]["ess"][2] == 0


def test_an_answer_that_the_target_never_gives_is_pushed_down():
  q, q0, prior, attr = _logs()
  never = prior.at[:, 0].set(-jnp.inf)
  run = lambda x: steer.steerlm2_loss(x, q0, never, attr, ALL)[0].sum()
  loss, grad = jax.value_and_grad(run)(q)
  assert np.isfinite(loss) and np.all(grad[:, 0] > 0)
  b = special.softmax(np.asarray(q - q0, np.float64), 1)
  np.testing.assert_allclose(grad[:, 0], b[:, 0], rtol=1e-4, atol=1e-7)


def test_groups_estimate_the_posterior():
  """Over many groups the mean gradient at Q = Q' tends to that of KL(P||Q)."""
  rng = np.random.default_rng(0)
  k, n, groups = 5, 256, 400
  logits = rng.normal(size=k)
  prior, attr = special.log_softmax(rng.normal(size=k)), rng.normal(size=k)
  logq0 = special.log_softmax(logits)
  p = special.softmax(prior + attr)
  drawn = rng.choice(k, (groups, n), p=np.exp(logq0))
  rest = [jnp.asarray(x[drawn], jnp.float32) for x in (logq0, prior, attr)]

  def loss(theta):
    logq = jax.nn.log_softmax(theta)[drawn]
    return steer.steerlm2_loss(
      logq, *rest, valid_BxN=jnp.ones(drawn.shape, bool)
    )[0]

  got = jax.grad(lambda t: loss(t).mean())(jnp.asarray(logits, jnp.float32))
  # Bias of self-normalised weights is of order 1 / n.
  np.testing.assert_allclose(got, np.exp(logq0) - p, atol=0.01)


def test_at_the_target_only_the_baseline_leaves_nothing_to_learn():
  _, q0, prior, attr = _logs()
  at = attr + prior + 3.0  # the posterior up to a factor
  pulled = jax.grad(
    lambda x: steer.steerlm2_loss(x, q0, prior, attr, ALL)[0].sum()
  )
  np.testing.assert_allclose(pulled(at), 0, atol=1e-6)
  w = jnp.exp(steer.posterior_logw(q0, prior, attr, ALL))
  plain = jax.grad(lambda x: steer.weighted_nll(x, w, ALL).sum())(at)
  assert np.abs(plain).max() > 0.1


# ---------------------------------------------------------------------- expo
def test_expo_by_hand():
  a = {"x": jnp.asarray([1.0, 2.0]), "y": {"z": jnp.ones((), jnp.bfloat16)}}
  b = {"x": jnp.asarray([2.0, 0.0]), "y": {"z": jnp.zeros((), jnp.bfloat16)}}
  got = steer.expo(a, b, 1.5)
  np.testing.assert_allclose(got["x"], [2.5, -1.0])
  assert got["y"]["z"] == -0.5 and got["y"]["z"].dtype == jnp.bfloat16
  for alpha, want in ((0.0, a), (1.0, b)):
    same = steer.expo(a, b, alpha)
    jax.tree.map(np.testing.assert_array_equal, same, want)


# ---------------------------------------------------------- scaled comparisons
def test_scaled_is_a_pair_repeated_and_zero_is_none():
  rng = np.random.default_rng(3)
  c, r = (jnp.asarray(rng.normal(size=8), jnp.float32) for _ in range(2))
  m = np.asarray([0, 1, 2, 3, 3, 2, 1, 0])
  scaled = lambda x: rm.bradley_terry(x, r, weight=jnp.asarray(m, jnp.float32))
  repeated = rm.bradley_terry(jnp.repeat(c, m), jnp.repeat(r, m))
  np.testing.assert_allclose(scaled(c).sum(), repeated.sum(), rtol=1e-6)
  one = jax.grad(lambda x: scaled(x).sum())(c)
  plain = jax.grad(lambda x: rm.bradley_terry(x, r).sum())(c)
  np.testing.assert_allclose(one, m * plain, rtol=1e-6)
  np.testing.assert_array_equal(
    rm.bradley_terry(c, r, margin=0.0), rm.bradley_terry(c, r)
  )
