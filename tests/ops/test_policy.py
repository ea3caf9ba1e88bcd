"""Policy losses: hand numbers, float64 loops, enumeration, hidden NaNs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.ops import kl, masked, policy

N, T = 4, 6
MASK = np.arange(T) < np.array([[6], [3], [1], [0]])
TOL = 2e-6  # float32 products of a few numbers of size 1
LOSSES = {
  "reinforce": policy.reinforce(),
  "clipped": policy.clipped(0.2, 0.28),
  "dual": policy.clipped(dual_clip=3.0),
  "sequence": policy.clipped(3e-2, 4e-2, level="sequence"),
  "sequence_token": policy.clipped(3e-2, 4e-2, level="sequence_token"),
  "cispo": policy.cispo(1.0, 0.28),
  "grpo": policy.add(
    policy.clipped(),
    policy.kl_penalty(kl.forward_kl_surrogate, kl.k3, 0.04),
    policy.entropy_bonus(0.01),
  ),
  "unbiased kl": policy.add(
    policy.cispo(0.5, 0.5),
    policy.kl_penalty(
      kl.reverse_kl_surrogate, kl.k3, 0.1, policy.importance_ratio
    ),
  ),
}


def _arrays(seed=0, spread=0.4, n=N, t=T):
  rng = np.random.default_rng(seed)
  logp = -rng.exponential(size=(n, t))
  old = logp + spread * rng.normal(size=(n, t))
  reference = logp + 0.3 * rng.normal(size=(n, t))
  advantage = np.broadcast_to(rng.normal(size=(n, 1)), (n, t))
  entropy = rng.uniform(size=(n, t))
  extras = {"reference_logp": reference, "entropy": entropy}
  to = jnp.float32
  return (
    jnp.asarray(logp, to), jnp.asarray(old, to), jnp.asarray(advantage, to),
    jax.tree.map(lambda x: jnp.asarray(x, to), extras),
  )  # fmt: skip


def _one(loss, ratio, advantage):
  """Loss and gradient in logp of a single token with the given ratio."""
  ratio, advantage = np.float32([[ratio]]), np.float32([[advantage]])
  mask = np.ones((1, 1), bool)

  def f(logp):
    value, metrics = loss.terms(logp, jnp.zeros((1, 1)), advantage, mask, {})
    return value[0, 0], metrics

  (value, metrics), grad = jax.value_and_grad(f, has_aux=True)(jnp.log(ratio))
  return float(value), float(grad[0, 0]), float(metrics["clip_fraction"][0, 0])


@pytest.mark.parametrize("ratio,adv,value,grad,clip", [
  # loss = -min(rho A, clip(rho, .8, 1.28) A); gradient -rho A where not clipped
  (1.0, 1.0, -1.0, -1.0, 0), (1.25, 1.0, -1.25, -1.25, 0),
  (1.5, 1.0, -1.28, 0.0, 1), (0.5, 1.0, -0.5, -0.5, 0),
  (0.5, -1.0, 0.8, 0.0, 1), (1.5, -1.0, 1.5, 1.5, 0),
  (5.0, -2.0, 10.0, 10.0, 0),
])  # fmt: skip
def test_clip_higher_by_hand(ratio, adv, value, grad, clip):
  got = _one(policy.clipped(0.2, 0.28), ratio, adv)
  np.testing.assert_allclose(got, (value, grad, clip), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("ratio,adv,value,grad,clip", [
  (5.0, -2.0, 6.0, 0.0, 1), (2.5, -2.0, 5.0, 5.0, 0), (5.0, 1.0, -1.2, 0.0, 1),
  (0.5, -1.0, 0.8, 0.0, 1),
])  # fmt: skip
def test_dual_clip_by_hand(ratio, adv, value, grad, clip):
  got = _one(policy.clipped(dual_clip=3.0), ratio, adv)
  np.testing.assert_allclose(got, (value, grad, clip), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("ratio,adv,weight,clip", [
  (1.0, 1.0, 1.0, 0), (5.0, 1.0, 1.28, 1), (5.0, -1.0, 1.28, 1),
  (0.01, 2.0, 0.01, 0),
])  # fmt: skip
def test_cispo_by_hand(ratio, adv, weight, clip):
  """The weight is bounded, the gradient -weight A never vanishes."""
  got = _one(policy.cispo(1.0, 0.28), ratio, adv)
  want = -weight * adv * np.log(ratio), -weight * adv, clip
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def _float64_loop(name, logp, old, adv, extras):
  """The definitions, one token at a time."""
  out = np.zeros((N, T))
  logp, old, adv = np.float64(logp), np.float64(old), np.float64(adv)
  for n in range(N):
    keep = MASK[n]
    gap = (logp - old)[n]
    for t in np.flatnonzero(keep):
      rho, a = np.exp(gap[t]), adv[n, t]
      d = logp[n, t] - extras["reference_logp"][n, t]
      if name == "reinforce":
        out[n, t] = -a * logp[n, t]
      elif name in ("clipped", "dual", "grpo"):
        high = 1.28 if name == "clipped" else 1.2
        out[n, t] = -min(rho * a, np.clip(rho, 0.8, high) * a)
        if name == "dual" and a < 0:
          out[n, t] = min(out[n, t], -3 * a)
        if name == "grpo":
          out[n, t] += 0.04 * (np.exp(-d) - 1 + d)
          out[n, t] -= 0.01 * extras["entropy"][n, t]
      elif name.startswith("sequence"):
        s = np.exp(gap[keep].mean())
        out[n, t] = -min(s * a, np.clip(s, 0.97, 1.04) * a)
      elif name == "cispo":
        out[n, t] = -np.clip(rho, 0, 1.28) * a * logp[n, t]
      else:
        out[n, t] = -np.clip(rho, 0.5, 1.5) * a * logp[n, t]
        out[n, t] += 0.1 * rho * (np.exp(-d) - 1 + d)
  return out


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("jit", [False, True])
def test_equals_float64_loop(name, jit):
  logp, old, adv, extras = _arrays()
  terms = jax.jit(LOSSES[name].terms) if jit else LOSSES[name].terms
  loss, metrics = terms(logp, old, adv, MASK, extras)
  want = _float64_loop(name, logp, old, adv, extras)
  np.testing.assert_allclose(loss, want, rtol=1e-5, atol=TOL)
  assert {"ratio", "clip_fraction"} <= metrics.keys()
  for value in metrics.values():
    assert value.shape == (N, T) and not np.any(np.asarray(value)[~MASK])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("on_policy", [False, True])
def test_masked_slots_change_nothing(name, on_policy):
  """NaN in every input where the mask is false: value, gradient, metrics."""
  clean = _arrays()
  dirty = jax.tree.map(lambda x: jnp.where(MASK, x, jnp.nan), clean)

  @jax.jit
  def run(args):
    def f(logp, entropy):
      _, old, adv, extras = args
      extras = {**extras, "entropy": entropy}
      old = None if on_policy else old
      loss, metrics = LOSSES[name].terms(logp, old, adv, MASK, extras)
      return loss.sum(), (loss, metrics)

    return jax.value_and_grad(f, (0, 1), has_aux=True)(
      args[0], args[3]["entropy"]
    )

  got, want = run(dirty), run(clean)
  jax.tree.map(np.testing.assert_array_equal, got, want)
  assert not any(np.any(np.asarray(g)[~MASK]) for g in got[1])
  assert np.any(got[1][0])


@pytest.mark.parametrize("name", LOSSES)
def test_only_logp_and_entropy_carry_gradient(name):
  logp, old, adv, extras = _arrays()

  def f(old, adv, reference):
    more = {**extras, "reference_logp": reference}
    return LOSSES[name].terms(logp, old, adv, MASK, more)[0].sum()

  grads = jax.grad(f, (0, 1, 2))(old, adv, extras["reference_logp"])
  assert not any(np.any(g) for g in grads)


@pytest.mark.parametrize("name", LOSSES)
def test_on_policy_gradient_is_the_policy_gradient(name):
  """old_logp None: ratio 1, and each loss pulls with -A (plus its terms)."""
  logp, _, adv, extras = _arrays()
  loss = LOSSES[name]

  def f(old):
    def g(logp):
      value, metrics = loss.terms(logp, old, adv, MASK, extras)
      total, weight = masked.reduce(value, MASK, "seq_mean_token_mean")
      return total / weight, metrics

    return jax.grad(g, has_aux=True)(logp)

  grad, metrics = f(None)
  same, _ = f(logp)
  np.testing.assert_array_equal(grad, same)
  np.testing.assert_array_equal(np.asarray(metrics["ratio"])[MASK], 1)
  assert not np.any(metrics["clip_fraction"])
  if "kl" not in metrics:
    count = np.maximum(MASK.sum(1, keepdims=True), 1)
    want = np.where(MASK, -np.asarray(adv) / count / 3, 0)
    np.testing.assert_allclose(grad, want, rtol=1e-5, atol=1e-7)


def test_needs_are_exactly_what_is_read():
  want = {
    "grpo": {"reference_logp", "entropy"},
    "unbiased kl": {"reference_logp"},
  }
  logp, old, adv, extras = _arrays()
  for name, loss in LOSSES.items():
    assert loss.needs == frozenset(want.get(name, ()))
    only = {k: extras[k] for k in loss.needs}
    loss.terms(logp, old, adv, MASK, only)
    for missing in loss.needs:
      rest = {k: v for k, v in only.items() if k != missing}
      with pytest.raises(ValueError, match=missing):
        loss.terms(logp, old, adv, MASK, rest)


def test_gspo_and_gspo_token_are_one():
  """Same value and gradient for one advantage per row, ragged masks."""
  logp, old, adv, _ = _arrays(3, 0.1, 16, 9)
  mask = np.arange(9) < np.random.default_rng(0).integers(1, 10, (16, 1))

  def run(level, mode):
    def f(logp):
      loss = policy.clipped(3e-2, 4e-2, level=level)
      value, _ = loss.terms(logp, old, adv, mask, {})
      total, weight = masked.reduce(value, mask, mode)
      return total / weight

    return jax.jit(jax.value_and_grad(f))(logp)

  a = run("sequence", "seq_mean_token_mean")
  b = run("sequence_token", "seq_mean_token_mean")
  np.testing.assert_allclose(a[0], b[0], rtol=1e-6)
  np.testing.assert_allclose(a[1], b[1], atol=1e-6)
  assert np.any(a[1])
  a = run("sequence", "token_mean")
  assert np.abs(a[1] - b[1]).max() > 1e-3  # the reduction is part of GSPO
  ratio = policy.importance_ratio(logp, old, mask, "token")
  sequence = policy.importance_ratio(logp, old, mask, "sequence")
  spread = [np.log(np.asarray(r)[mask]).var() for r in (ratio, sequence)]
  assert spread[1] < spread[0] / 2


def test_ratio_limits():
  logp, old = jnp.zeros((1, 2)), jnp.full((1, 2), -1e4)
  mask = jnp.ones((1, 2), bool)
  for level, limit in (("token", 20), ("sequence", 10), ("sequence_token", 10)):
    ratio = policy.importance_ratio(logp, old, mask, level)
    np.testing.assert_allclose(ratio, np.exp(limit), rtol=1e-6)


def _pi_gradient(loss, payoff, behaviour=None, extras=lambda logp: {}):
  """Exact E over a 4-token categorical: each token is one row."""
  logits = jnp.array([0.3, -0.5, 1.0, 0.1])
  if behaviour is None:
    behaviour = jax.nn.softmax(logits)

  def f(logits):
    logp = jax.nn.log_softmax(logits)[:, None]
    old = jnp.log(behaviour)[:, None]
    value, _ = loss.terms(
      logp, old, payoff[:, None], jnp.ones((4, 1), bool), extras(logp)
    )
    return jnp.sum(behaviour * value[:, 0])

  return np.asarray(jax.grad(f)(logits)), logits


def test_exact_enumeration_of_the_policy_gradient():
  """-grad E_pi[r] = -pi (r - E r), on-policy, and off-policy with the ratio."""
  payoff = jnp.array([1.0, -2.0, 0.5, 3.0])
  other = jnp.array([0.1, 0.4, 0.3, 0.2])
  got, logits = _pi_gradient(policy.reinforce(), payoff)
  pi = np.asarray(jax.nn.softmax(logits))
  want = -pi * (payoff - pi @ payoff)
  np.testing.assert_allclose(got, want, atol=1e-6)
  loose = 1e3
  for loss in (policy.clipped(1.0, loose), policy.cispo(1.0, loose)):
    np.testing.assert_allclose(_pi_gradient(loss, payoff)[0], want, atol=1e-6)
    off, _ = _pi_gradient(loss, payoff, other)
    np.testing.assert_allclose(off, want, atol=1e-6)
  off, _ = _pi_gradient(policy.reinforce(), payoff, other)
  assert np.abs(off - want).max() > 0.1


def test_exact_enumeration_of_the_kl_term():
  """Reverse KL: right on-policy, right off-policy only with the weight."""
  reference = jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1]))
  other = jnp.array([0.1, 0.4, 0.3, 0.2])
  zero = jnp.zeros(4)

  def run(surrogate, weight=None, behaviour=None):
    loss = policy.kl_penalty(surrogate, kl.k3, 2.0, weight)
    extras = {"reference_logp": reference[:, None]}
    return _pi_gradient(loss, zero, behaviour, lambda _: extras)

  for surrogate, flip in (
    (kl.reverse_kl_surrogate, 1), (kl.forward_kl_surrogate, -1)
  ):  # fmt: skip
    got, logits = run(surrogate)

    def exact(x, flip=flip):
      return 2 * kl.categorical_kl(*(x, reference)[::flip])

    want = jax.grad(exact)(logits)
    np.testing.assert_allclose(got, want, atol=1e-6)
    weighted, _ = run(surrogate, policy.importance_ratio, other)
    np.testing.assert_allclose(weighted, want, atol=1e-6)
    assert np.abs(run(surrogate, None, other)[0] - want).max() > 0.05


def test_adding_needs_and_metrics():
  penalty = policy.kl_penalty(kl.forward_kl_surrogate, kl.k3, 0.1)
  assert policy.add(policy.reinforce()).needs == frozenset()
  twice = policy.add(policy.reinforce(), penalty, penalty)
  logp, old, adv, extras = _arrays()
  with pytest.raises(ValueError, match="kl"):
    twice.terms(logp, old, adv, MASK, extras)
  _, metrics = policy.add(policy.reinforce(), penalty).terms(
    logp, old, adv, MASK, extras
  )
  want = kl.k3(logp, extras["reference_logp"])
  np.testing.assert_allclose(
    metrics["kl"], np.where(MASK, want, 0), rtol=1e-5, atol=1e-6
  )  # unscaled by the coefficient


def test_a_surrogate_never_sees_a_masked_slot():
  logp, old, adv, extras = _arrays()
  dirty = jnp.where(MASK, extras["reference_logp"], jnp.nan)
  seen = []

  def surrogate(*args):
    seen.extend(args)
    return args[0]

  loss = policy.kl_penalty(surrogate, kl.k3, 1.0, policy.importance_ratio)
  dirty_logp = jnp.where(MASK, logp, jnp.nan)
  loss.terms(dirty_logp, old, adv, MASK, {"reference_logp": dirty})
  assert len(seen) == 3 and all(np.isfinite(x).all() for x in seen)


@pytest.mark.parametrize("build,match", [
  (lambda: policy.clipped(-0.1), "clip_low"),
  (lambda: policy.cispo(0.2, -1.0), "clip_high"),
  (lambda: policy.clipped(dual_clip=1.0), "dual_clip"),
  (lambda: policy.clipped(level="row"), "token"),  # type: ignore[arg-type]
  (lambda: policy.overlong_penalty(jnp.ones(1), 4, 0), "buffer"),
  (lambda: policy.overlong_penalty(jnp.ones(1), 4, 5), "buffer"),
])  # fmt: skip
def test_bad_settings_fail_when_built(build, match):
  with pytest.raises(ValueError, match=match):
    build()


def test_overlong_table():
  """DAPO: L_max 20480, cache 4096: 0 up to 16384, then down to -1."""
  length = np.array([1, 16384, 16385, 18432, 20480, 30000])
  want = [0, 0, -1 / 4096, -0.5, -1, -1]
  got = jax.jit(lambda x: policy.overlong_penalty(x, 20480, 4096))(length)
  np.testing.assert_allclose(got, want, atol=1e-7)
  got = policy.overlong_penalty(length, 20480, 4096, 0.3)
  np.testing.assert_allclose(got, 0.3 * np.array(want), atol=1e-7)


# ------------------------------------------------------------ stale rows
@pytest.mark.parametrize("name", LOSSES)
def test_weights_multiply_a_loss_after_its_clip(name):
  logp, old, adv, extras = _arrays()
  weight = np.random.default_rng(1).uniform(0, 2, (N, T)).astype(np.float32)
  more = {**extras, "rollout_weight": jnp.where(MASK, weight, jnp.nan)}
  base, loss = LOSSES[name], policy.weighted(LOSSES[name])
  assert loss.needs == base.needs | {"rollout_weight"}

  def run(loss, extras, factor):
    def f(logp):
      value, metrics = loss.terms(logp, old, adv, MASK, extras)
      value = value * factor
      return value.sum(), (value, metrics)

    return jax.grad(f, has_aux=True)(logp)

  got, (value, metrics) = run(loss, more, 1)
  want, (scaled, same) = run(base, extras, np.where(MASK, weight, 0))
  np.testing.assert_allclose(got, want, rtol=1e-6)
  np.testing.assert_allclose(value, scaled, rtol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, metrics, same)
  ones = {**extras, "rollout_weight": jnp.ones((N, T))}
  plain, _ = run(base, extras, 1)
  np.testing.assert_array_equal(run(loss, ones, 1)[0], plain)
  assert np.abs(got - plain).max() > 1e-3
