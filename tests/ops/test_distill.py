"""Chunked distillation against dense autodiff, float64, TRL, hand numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from rlreward.ops import distill, kl

N, T, D, E, V = 3, 5, 8, 6, 23
# Dense and fused differ by the order of float32 sums over V = 23 and R = 15.
TOL = 5e-6
each_kind = pytest.mark.parametrize("kind", distill.KINDS)


def _case(dtype=jnp.float32, seed=0, n=N, t=T):
  rng = np.random.default_rng(seed)
  shapes = (n, t, D), (D, V), (n, t, E), (E, V)
  arrays = [jnp.asarray(rng.normal(size=s), dtype) for s in shapes]
  return arrays, jnp.asarray(rng.normal(size=(n, t)), jnp.float32)


def _logits(hidden, kernel, temperature=1.0, softcap=None):
  z = jnp.einsum("ntd,dv->ntv", hidden, kernel)
  if softcap is not None:
    z = softcap * jnp.tanh(z / softcap)
  return z / temperature


def _dense(h, k, th, tk, kind, mix=0.5, temperature=1.0, caps=(None, None)):
  """The plain program, whose autodiff is the oracle."""
  z = _logits(h, k, temperature, caps[0])
  y = _logits(th, tk, temperature, caps[1])
  return distill.divergence_from_logits(z, y, kind, mix)


def _pulled(f, weights):
  def loss(*arrays):
    value = f(*arrays)
    return jnp.sum(weights * value), value

  return jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True)


def _compare(got, want, atol=TOL):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
    np.float64(a), np.float64(b), rtol=1e-5, atol=atol), got, want)  # fmt: skip


def _numpy(z, y, kind, mix):
  """float64, straight from the definition."""
  p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
  q = np.exp(y - y.max()) / np.exp(y - y.max()).sum()

  def div(a, b):
    return sum(x * np.log(x / w) for x, w in zip(a, b, strict=True) if x > 0)

  if kind == "forward":
    return div(q, p)
  if kind == "reverse":
    return div(p, q)
  m = mix * q + (1 - mix) * p
  return mix * div(q, m) + (1 - mix) * div(p, m)


@each_kind
@pytest.mark.parametrize("mix", [0.1, 0.5, 0.8])
def test_float64_loop(kind, mix):
  arrays, _ = _case()
  got = distill.token_divergence(
    *arrays, kind=kind, mix=mix, temperature=0.8, student_softcap=4.0,
    teacher_softcap=2.0, chunk=4,
  )  # fmt: skip
  h, k, th, tk = map(np.float64, arrays)
  z, y = 4 * np.tanh(h @ k / 4) / 0.8, 2 * np.tanh(th @ tk / 2) / 0.8
  want = [[_numpy(z[n, t], y[n, t], kind, mix) for t in range(T)]
          for n in range(N)]  # fmt: skip
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=TOL)


@each_kind
@pytest.mark.parametrize("chunk", [4, None])
@pytest.mark.parametrize("temperature,caps", [
  (1.0, (None, None)), (1.7, (2.0, 3.0))
])  # fmt: skip
def test_equals_dense_autodiff(kind, chunk, temperature, caps):
  arrays, weights = _case()

  def fused(*arrays):
    return distill.token_divergence(
      *arrays, kind=kind, mix=0.3, temperature=temperature, chunk=chunk,
      student_softcap=caps[0], teacher_softcap=caps[1],
    )  # fmt: skip

  def dense(*arrays):
    return _dense(*arrays, kind, 0.3, temperature, caps)

  got = jax.jit(_pulled(fused, weights))(*arrays)
  _compare(got, jax.jit(_pulled(dense, weights))(*arrays))
  assert np.any(got[1][0]) and np.any(got[1][1])
  assert not np.any(got[1][2]) and not np.any(got[1][3])  # the frozen teacher


@each_kind
def test_gradient_equals_finite_differences_in_float64(kind):
  arrays, weights = _case()
  with jax.enable_x64(True):
    arrays = [np.float64(a) for a in arrays]

    def f(*arrays):
      return distill.token_divergence(
        *arrays, kind=kind, mix=0.3, temperature=0.7, student_softcap=3.0,
        chunk=4,
      )  # fmt: skip

    g = jax.jit(_pulled(f, np.float64(weights)))
    (_, value), grads = g(*arrays)
    assert value.dtype == jnp.float64
    rng = np.random.default_rng(3)
    steps = [rng.normal(size=a.shape) for a in arrays[:2]]
    move = lambda e: [a + e * d for a, d in zip(arrays, steps)] + arrays[2:]  # noqa: B905
    up, down = (float(g(*move(e))[0][0]) for e in (1e-5, -1e-5))
    slope = sum(
      float(np.sum(a * b)) for a, b in zip(grads[:2], steps, strict=True)
    )
  # Central differences in float64: error eps^2 ~ 1e-10.
  np.testing.assert_allclose((up - down) / 2e-5, slope, rtol=1e-7)


@each_kind
@pytest.mark.parametrize("mix", [0.2, 0.5])
def test_trl(kind, mix):
  """GKDTrainer's own function; its ends beta 0 and 1 are our plain KLs."""
  torch = pytest.importorskip("torch")
  gkd = pytest.importorskip("trl.experimental.gkd.gkd_trainer").GKDTrainer
  (h, k, th, tk), _ = _case()
  z, y = _logits(h, k), _logits(th, tk)
  zt = torch.tensor(np.asarray(z), requires_grad=True)
  beta = {"forward": 0.0, "reverse": 1.0, "js": mix}[kind]
  loss = gkd.generalized_jsd_loss(
    zt, torch.tensor(np.asarray(y)), beta=beta, temperature=0.7,
    reduction="sum",
  )  # fmt: skip
  loss.backward()

  def ours(z):
    return jnp.sum(distill.divergence_from_logits(z / 0.7, y / 0.7, kind, mix))

  value, grad = jax.value_and_grad(ours)(z)
  np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
  np.testing.assert_allclose(grad, zt.grad.numpy(), atol=TOL)


def test_hand_numbers():
  p, q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.75, 0.25]))
  at = lambda *a: float(distill.divergence_from_logits(p, q, *a))
  # .75 ln 1.5 + .25 ln .5;  -.5 ln .75
  assert at("forward") == pytest.approx(0.130812, abs=1e-6)
  assert at("reverse") == pytest.approx(0.143841, abs=1e-6)
  # m = (.625, .375): half of .75 ln 1.2 + .25 ln 2/3 + .5 ln .8 + .5 ln 4/3
  assert at("js") == pytest.approx(0.033822, abs=1e-6)
  other = distill.divergence_from_logits(q, p, "js")
  assert float(other) == pytest.approx(0.033822, abs=1e-6)


def test_kinds_agree_with_their_relatives():
  (h, k, th, tk), _ = _case()
  z, y = _logits(h, k), _logits(th, tk)
  d = distill.divergence_from_logits
  np.testing.assert_allclose(
    d(z, y, "forward"), kl.categorical_kl(y, z), rtol=1e-5
  )
  np.testing.assert_allclose(
    d(z, y, "reverse"), kl.categorical_kl(z, y), rtol=1e-5
  )
  # The limits of GKD's divergence, first order in the mixture; in float64,
  # as a value of size 1e-9 has no digits left in float32.
  with jax.enable_x64(True):
    z, y = np.float64(z) / 2, np.float64(y) / 2
    np.testing.assert_allclose(
      d(z, y, "js", 1e-9) / 1e-9, d(z, y, "forward"), rtol=1e-3
    )
    np.testing.assert_allclose(
      d(z, y, "js", 1 - 1e-9) / 1e-9, d(z, y, "reverse"), rtol=1e-3
    )


@each_kind
def test_zero_only_at_the_teacher(kind):
  (h, k, th, tk), _ = _case()
  z, y = _logits(h, k), _logits(th, tk)
  f = lambda z, y: distill.divergence_from_logits(z, y, kind)
  np.testing.assert_allclose(f(z, z + 3), 0, atol=1e-6)
  assert np.all(f(z, y) > 0.01)
  grad = jax.grad(lambda z: f(z, jax.lax.stop_gradient(z)).sum())(z)
  np.testing.assert_allclose(grad, 0, atol=1e-6)
  assert not np.any(jax.grad(lambda y: f(z, y).sum())(y))


@each_kind
def test_padding_of_the_vocabulary(kind):
  """-inf in both changes neither value nor gradient of the other tokens."""
  (h, k, th, tk), _ = _case()
  z, y = _logits(h, k), _logits(th, tk)
  pad = jnp.full((N, T, 4), -jnp.inf)

  def f(z, y):
    return distill.divergence_from_logits(z, y, kind).sum()

  want, slope = jax.value_and_grad(f)(z, y)
  wide = jnp.concatenate([z, pad], -1), jnp.concatenate([y, pad], -1)
  got, grad = jax.value_and_grad(f)(*wide)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  np.testing.assert_allclose(grad[..., :V], slope, atol=1e-6)
  assert not np.any(grad[..., V:])


def test_what_one_side_forbids():
  z, y = jnp.array([0.0, 0.0, -jnp.inf]), jnp.array([0.0, -jnp.inf, 0.0])
  f = distill.divergence_from_logits
  assert f(z, y, "forward") == np.inf and f(z, y, "reverse") == np.inf
  value, grad = jax.value_and_grad(lambda z: f(z, y, "js"))(z)
  assert 0 < value < np.log(2) and np.all(np.isfinite(grad))
  # A subset: the direction whose support is inside stays finite.
  both = jnp.array([0.0, 0.0, 0.0])
  assert f(both, y, "forward") == pytest.approx(np.log(1.5), abs=1e-6)
  assert f(z, both, "reverse") == pytest.approx(np.log(1.5), abs=1e-6)
  # A probability that underflows is no 0 * inf.
  assert np.isfinite(f(jnp.array([0.0, -200.0]), y[:2], "reverse"))


@each_kind
def test_large_logits(kind):
  z, y = jnp.array([1e4, 0.0, -1e4]), jnp.array([-1e4, 1e4, 0.0])
  f = lambda z: distill.divergence_from_logits(z, y, kind)
  value, grad = jax.value_and_grad(f)(z)
  assert np.isfinite(value) and np.all(np.isfinite(grad))


@pytest.mark.parametrize("types", [
  ("bfloat16", "bfloat16"), ("bfloat16", "float32")
])  # fmt: skip
def test_bf16(types):
  """Same rounded numbers in; dlogits are rounded to bf16 (2^-9) on the way."""
  arrays, weights = _case()
  arrays = [a.astype(t) for a, t in zip(arrays, types * 2, strict=True)]

  def fused(*arrays):
    return distill.token_divergence(*arrays, kind="js", chunk=4)

  got = jax.jit(_pulled(fused, weights))(*arrays)
  wide = [a.astype(jnp.float32) for a in arrays]
  want = _pulled(lambda *a: _dense(*a, "js"), weights)(*wide)
  assert got[0][1].dtype == jnp.float32
  _compare(got[0], want[0], atol=1e-5)
  for ours, theirs, dtype in zip(got[1][:2], want[1][:2], types, strict=True):
    assert ours.dtype == jnp.dtype(dtype)
    gap = np.abs(np.float32(ours) - theirs).max() / np.abs(theirs).max()
    assert gap < 0.02


def test_kernel_gradient_is_summed_in_float32():
  """512 chunks of one equal position each: bf16 would stop growing at 256."""
  n = 512
  one, _ = _case(jnp.bfloat16, n=1, t=1)
  h, k, th, tk = one
  many = jnp.broadcast_to(h, (n, 1, D)), jnp.broadcast_to(th, (n, 1, E))

  def grad(h, th, chunk):
    def f(k):
      return distill.token_divergence(h, k, th, tk, chunk=chunk).sum()

    return np.float32(jax.jit(jax.grad(f))(k))

  want = n * grad(h, th, 1)
  gap = np.abs(grad(*many, 1) - want).max()
  assert gap <= 2**-8 * np.abs(want).max()


def test_traced_temperature_has_no_gradient():
  arrays, _ = _case()

  @jax.jit
  def f(temperature, kernel):
    h, _, th, tk = arrays
    return distill.token_divergence(
      h, kernel, th, tk, temperature=temperature
    ).sum()

  want = _dense(*arrays, "forward", temperature=0.7).sum()
  np.testing.assert_allclose(f(0.7, arrays[1]), want, rtol=1e-5)
  dt, dk = jax.grad(f, (0, 1))(0.7, arrays[1])
  assert dt == 0 and np.any(dk)


@each_kind
@pytest.mark.parametrize("chunk", [4, None])
def test_ignored_positions_change_no_gradient(kind, chunk):
  (h, k, th, tk), weights = _case()
  mask = jnp.arange(T) < jnp.array([[2], [5], [0]])
  dirty = [jnp.where(mask[..., None], x, jnp.nan) for x in (h, th)]

  @jax.jit
  def grads(h, k, th):
    def f(h, k):
      d = distill.token_divergence(h, k, th, tk, kind=kind, chunk=chunk)
      return jnp.sum(jnp.where(mask, weights * d, 0))

    return jax.value_and_grad(f, (0, 1))(h, k)

  clean, got = grads(h, k, th), grads(dirty[0], k, dirty[1])
  assert np.all(np.isfinite(got[1][0])) and np.any(got[1][1])
  _compare(got, clean)


def _sizes_and_products(jaxpr, sizes, products):
  for eqn in jaxpr.eqns:
    sizes += [getattr(v.aval, "size", 0) for v in eqn.outvars]
    products += [eqn] if eqn.primitive.name == "dot_general" else []
    for sub in jaxprs_in_params(eqn.params):
      _sizes_and_products(sub, sizes, products)


@each_kind
def test_no_full_logits_and_six_products(kind):
  """N T V would be 2048 * 512; nothing above chunk * V and the kernel.

  Two heads forward, two again backward, and the student's two gradients.
  """
  n, t, d, v, chunk = 16, 128, 32, 512, 256
  args = [jax.ShapeDtypeStruct(s, jnp.float32)
          for s in ((n, t, d), (d, v), (n, t, d), (d, v))]  # fmt: skip
  weights = jnp.ones((n, t))

  def f(*arrays):
    return distill.token_divergence(*arrays, kind=kind, chunk=chunk)

  def measure(f):
    sizes, products = [], []
    loss = lambda *a: jnp.sum(weights * f(*a))
    jaxpr = jax.make_jaxpr(jax.value_and_grad(loss, (0, 1)))(*args)
    _sizes_and_products(jaxpr.jaxpr, sizes, products)
    return max(sizes), len(products)

  assert measure(f) == (chunk * v, 6)
  dense, _ = measure(lambda *a: _dense(*a, kind))
  assert dense == n * t * v  # the check can fail


def test_extrapolated_logits():
  """AlignDistil's two teachers, and padding that would be inf - inf."""
  rng = np.random.default_rng(0)
  a, b = (jnp.asarray(rng.normal(size=(2, 3, 5)), jnp.float32) for _ in "ab")
  w = jnp.asarray(rng.uniform(size=(2, 3)), jnp.float32)
  got = distill.extrapolated_logits(a, b, w)
  np.testing.assert_allclose(got, a + w[..., None] * (a - b), rtol=1e-6)
  optimum = w[..., None] * a + (1 - w[..., None]) * b
  np.testing.assert_allclose(
    distill.extrapolated_logits(a, b, w - 1), optimum, atol=1e-6
  )
  np.testing.assert_array_equal(distill.extrapolated_logits(a, b, 0.0), a)
  pad = lambda z: z.at[..., -1].set(-jnp.inf)
  got = distill.extrapolated_logits(pad(a), pad(b), w)
  assert np.all(got[..., -1] == -np.inf) and np.all(np.isfinite(got[..., :-1]))
  grad = jax.grad(
    lambda z: distill.divergence_from_logits(
      z, distill.extrapolated_logits(z, pad(b), w), "reverse"
    ).sum()
  )(pad(a))
  assert np.all(np.isfinite(grad))


def test_rlhf_optimum_with_a_dpo_reward():
  """AlignDistil's identity: exp(w z_dpo + (1 - w) z_ref) maximises the
  objective beta E log(dpo / ref) - beta2 KL(. || ref), w = beta / beta2."""
  rng = np.random.default_rng(0)
  dpo, ref = (jnp.asarray(rng.normal(size=4), jnp.float32) for _ in "ab")
  beta, beta2 = 0.1, 0.04
  teacher = distill.extrapolated_logits(dpo, ref, beta / beta2 - 1)
  reward = beta * (jax.nn.log_softmax(dpo) - jax.nn.log_softmax(ref))
  best = jax.nn.softmax(jax.nn.log_softmax(ref) + reward / beta2)
  np.testing.assert_allclose(jax.nn.softmax(teacher), best, atol=1e-6)


def test_tv_weight():
  """L1 distance, not halved: 2 for disjoint supports; exact floor at 0."""
  a = jnp.log(jnp.array([0.7, 0.2, 0.1]))
  b = jnp.log(jnp.array([0.5, 0.3, 0.2]))
  np.testing.assert_allclose(distill.tv_weight(a, b, 15.0, 1e-3), 6.001)
  assert distill.tv_weight(a, a, 15.0, 1e-3) == np.float32(1e-3)
  left, right = jnp.array([0.0, -jnp.inf]), jnp.array([-jnp.inf, 0.0])
  assert distill.tv_weight(left, right, 1.0, 1.0) == 3
  assert not np.any(jax.grad(lambda z: distill.tv_weight(z, b))(a))


def test_token_tv_weight_and_stacked_teacher_need_no_logits():
  """The whole AlignDistil target from hidden states, against dense logits."""
  (h, k, th, tk), weights = _case()
  rng = np.random.default_rng(9)
  oh = jnp.asarray(rng.normal(size=(N, T, E)), jnp.float32)
  w = distill.token_tv_weight(th, tk, oh, tk, scale=0.5, chunk=4)
  a, b = _logits(th, tk), _logits(oh, tk)
  np.testing.assert_allclose(w, distill.tv_weight(a, b, 0.5), rtol=1e-5)
  teacher = jnp.concatenate([(1 + w[..., None]) * th, -w[..., None] * oh], -1)
  stacked = jnp.concatenate([tk, tk])

  def fused(h, k, *_):
    d = distill.token_divergence(
      h, k, teacher, stacked, kind="reverse", chunk=4
    )
    return 0.1 / w * d

  def dense(h, k, *_):
    z = distill.extrapolated_logits(a, b, w)
    d = distill.divergence_from_logits(_logits(h, k), z, "reverse")
    return 0.1 / w * d

  _compare(_pulled(fused, weights)(h, k, th, tk),
           _pulled(dense, weights)(h, k, th, tk))  # fmt: skip
  grad = jax.grad(
    lambda x: distill.token_tv_weight(x, tk, oh, tk).sum()
  )(th)  # fmt: skip
  assert not np.any(grad)


@pytest.mark.parametrize("settings,match", [
  ({"kind": "kl"}, "choose one of"),
  ({"kind": "js", "mix": 0.0}, "forward"),
  ({"kind": "js", "mix": 1.0}, "inside"),
  ({"temperature": 0.0}, "temperature must be positive"),
  ({"student_softcap": 0.0}, "student_softcap must be positive"),
  ({"teacher_softcap": -1.0}, "teacher_softcap must be positive"),
  ({"chunk": 0}, "chunk must be positive"),
])  # fmt: skip
def test_settings_that_cannot_be(settings, match):
  arrays, _ = _case()
  with pytest.raises(ValueError, match=match):
    distill.token_divergence(*arrays, **settings)


def test_vocabularies_must_agree():
  (h, k, th, tk), _ = _case()
  with pytest.raises(ValueError, match=r"first 21 columns"):
    distill.token_divergence(h, k, th, tk[:, :21])
  with pytest.raises(ValueError, match="choose one of"):
    distill.divergence_from_logits(h, h, "tv")  # type: ignore[arg-type]
  with pytest.raises(ValueError, match="scale must be positive"):
    distill.tv_weight(h, h, 0.0)
