"""The fused head against dense autodiff, float64, optax and TRL."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params

from rlreward.ops import logprob

N, T, D, V = 3, 5, 8, 23
# Dense and fused differ by the order of float32 sums over V = 23 and R = 15.
TOL = 2e-6


def _case(dtype=jnp.float32, n=N, t=T, seed=0):
  rng = np.random.default_rng(seed)
  hidden = jnp.asarray(rng.normal(size=(n, t, D)), dtype)
  kernel = jnp.asarray(rng.normal(size=(D, V)), dtype)
  targets = jnp.asarray(rng.integers(V, size=(n, t)))
  weights = jnp.asarray(rng.normal(size=(2, n, t)), jnp.float32)
  return hidden, kernel, targets, weights


def _dense(hidden, kernel, targets, temperature=1.0, softcap=None):
  """The plain program, whose autodiff is the oracle."""
  logits = jnp.einsum("ntd,dv->ntv", hidden, kernel)
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  if softcap is not None:
    logits = softcap * jnp.tanh(logits / softcap)
  all_logp = jax.nn.log_softmax(logits / temperature, axis=-1)
  logp = jnp.take_along_axis(all_logp, targets[..., None], -1)[..., 0]
  return logp, -jnp.sum(jnp.exp(all_logp) * all_logp, axis=-1)


def _weighted(f, weights):
  """A scalar that pulls on each output with its own weight."""

  def loss(hidden, kernel):
    logp, entropy = f(hidden, kernel)
    total = jnp.sum(weights[0] * logp)
    if entropy is not None:
      total += jnp.sum(weights[1] * entropy)
    return total, (logp, entropy)

  return jax.value_and_grad(loss, (0, 1), has_aux=True)


def _compare(got, want, atol=TOL):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
    np.float64(a), np.float64(b), rtol=1e-5, atol=atol), got, want)  # fmt: skip


@pytest.mark.parametrize("temperature,softcap", [
  (1.0, None), (0.6, None), (1.0, 3.0), (1.7, 2.0)
])  # fmt: skip
@pytest.mark.parametrize("chunk", [4, 1024])
@pytest.mark.parametrize("jit", [False, True])
def test_equals_dense_autodiff(temperature, softcap, chunk, jit):
  hidden, kernel, targets, weights = _case()

  def fused(hidden, kernel):
    return logprob.token_logprob(
      hidden, kernel, targets, temperature=temperature, softcap=softcap,
      chunk=chunk, entropy=True,
    )  # fmt: skip

  def dense(hidden, kernel):
    return _dense(hidden, kernel, targets, temperature, softcap)

  got = _weighted(fused, weights)
  got = (jax.jit(got) if jit else got)(hidden, kernel)
  _compare(got, _weighted(dense, weights)(hidden, kernel), atol=5e-6)


def test_gradient_needs_the_softcap_and_the_temperature():
  """The comparison above can fail: each setting moves the gradient."""
  hidden, kernel, targets, weights = _case()

  def grads(**settings):
    f = _weighted(
      lambda h, k: logprob.token_logprob(h, k, targets, **settings), weights
    )
    return f(hidden, kernel)[1][1]

  plain = grads()
  assert np.abs(plain - grads(temperature=0.6)).max() > 0.1
  assert np.abs(plain - grads(softcap=3.0)).max() > 0.1


@pytest.mark.parametrize("n,t", [(3, 5), (1, 7), (7, 1), (4, 4)])
@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 16, None])
def test_chunk_changes_nothing(n, t, chunk):
  hidden, kernel, targets, weights = _case(n=n, t=t)

  def run(chunk):
    def f(hidden, kernel):
      return logprob.token_logprob(
        hidden, kernel, targets, chunk=chunk, entropy=True
      )

    return jax.jit(_weighted(f, weights))(hidden, kernel)

  _compare(run(chunk), run(10_000))


def test_float64_loop():
  """Row by row in numpy, entropy included; float32 rounding only."""
  hidden, kernel, targets, _ = _case()
  logp, entropy = logprob.token_logprob(
    hidden, kernel, targets, temperature=0.8, softcap=4.0, entropy=True
  )
  h, k = np.float64(hidden), np.float64(kernel)
  for n in range(N):
    for t in range(T):
      z = 4 * np.tanh(h[n, t] @ k / 4) / 0.8
      p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
      np.testing.assert_allclose(logp[n, t], np.log(p[targets[n, t]]), atol=TOL)
      np.testing.assert_allclose(entropy[n, t], -p @ np.log(p), atol=TOL)


def test_gradient_equals_finite_differences_in_float64():
  hidden, kernel, targets, weights = _case()
  with jax.enable_x64(True):
    h, k = np.float64(hidden), np.float64(kernel)

    def f(hidden, kernel):
      return logprob.token_logprob(
        hidden, kernel, targets, temperature=0.7, softcap=3.0, chunk=4,
        entropy=True,
      )  # fmt: skip

    g = jax.jit(_weighted(f, np.float64(weights)))
    grads = g(h, k)[1]
    rng = np.random.default_rng(3)
    dh, dk, eps = rng.normal(size=h.shape), rng.normal(size=k.shape), 1e-5
    up = float(g(h + eps * dh, k + eps * dk)[0][0])
    down = float(g(h - eps * dh, k - eps * dk)[0][0])
    slope = float(np.sum(grads[0] * dh) + np.sum(grads[1] * dk))
  # Central differences in float64: error eps^2 ~ 1e-10.
  np.testing.assert_allclose((up - down) / (2 * eps), slope, rtol=1e-7)


def test_optax_cross_entropy():
  hidden, kernel, targets, _ = _case()
  want = -optax.softmax_cross_entropy_with_integer_labels(
    hidden @ kernel, targets
  )
  got, none = logprob.token_logprob(hidden, kernel, targets, chunk=4)
  assert none is None
  np.testing.assert_allclose(got, want, atol=TOL)
  got = logprob.logprob_from_logits(hidden @ kernel, targets)
  np.testing.assert_allclose(got, want, atol=TOL)


def test_trl():
  torch = pytest.importorskip("torch")
  trl = pytest.importorskip("trl.trainer.utils")
  hidden, kernel, targets, _ = _case()
  logits = hidden @ kernel
  t_logits = torch.tensor(np.asarray(logits))
  index = torch.tensor(np.asarray(targets, np.int64))
  want = trl.selective_log_softmax(t_logits / 0.7, index)
  got = logprob.logprob_from_logits(logits, targets, 0.7)
  np.testing.assert_allclose(got, want.numpy(), atol=TOL)
  want = trl.entropy_from_logits(t_logits / 0.7)
  got = logprob.entropy_from_logits(logits, 0.7)
  np.testing.assert_allclose(got, want.numpy(), atol=TOL)


@pytest.mark.parametrize("types", [
  ("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float32", "bfloat16")
])  # fmt: skip
def test_bf16(types):
  """Same rounded numbers in; dlogits are rounded to bf16 (2^-9) on the way."""
  hidden, kernel, targets, weights = _case()
  hidden, kernel = hidden.astype(types[0]), kernel.astype(types[1])

  def fused(hidden, kernel):
    return logprob.token_logprob(hidden, kernel, targets, chunk=4, entropy=True)

  got = jax.jit(_weighted(fused, weights))(hidden, kernel)
  wide = hidden.astype(jnp.float32), kernel.astype(jnp.float32)
  want = _weighted(lambda h, k: _dense(h, k, targets), weights)(*wide)
  assert got[0][1][0].dtype == jnp.float32
  _compare(got[0], want[0], atol=5e-6)
  for ours, theirs, dtype in zip(got[1], want[1], types, strict=True):
    assert ours.dtype == jnp.dtype(dtype)
    gap = np.abs(np.float32(ours) - theirs).max() / np.abs(theirs).max()
    assert gap < 0.02


def test_traced_temperature_has_no_gradient():
  hidden, kernel, targets, _ = _case()

  @jax.jit
  def f(temperature, kernel):
    logp, _ = logprob.token_logprob(
      hidden, kernel, targets, temperature=temperature
    )
    return logp.sum()

  np.testing.assert_allclose(
    f(0.7, kernel), _dense(hidden, kernel, targets, 0.7)[0].sum(), rtol=1e-6
  )
  dt, dk = jax.grad(f, (0, 1))(0.7, kernel)
  assert dt == 0 and np.any(dk)


def test_checkpoint_and_vmap():
  hidden, kernel, targets, weights = _case()

  def f(hidden, kernel):
    return logprob.token_logprob(hidden, kernel, targets, chunk=4, entropy=True)

  plain = _weighted(f, weights)(hidden, kernel)
  kept = jax.jit(_weighted(jax.checkpoint(f), weights))(hidden, kernel)
  _compare(kept, plain)
  kernels = jnp.stack([kernel, 2 * kernel])
  both = jax.vmap(_weighted(f, weights), (None, 0))(hidden, kernels)
  _compare(jax.tree.map(lambda x: x[0], both), plain)
  _compare(
    jax.tree.map(lambda x: x[1], both),
    _weighted(f, weights)(hidden, kernels[1]),
  )


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("chunk", [4, 1024])
def test_ignored_positions_change_no_gradient(bad, chunk):
  hidden, kernel, targets, weights = _case()
  mask = jnp.arange(T) < jnp.array([[2], [5], [0]])
  dirty = jnp.where(mask[..., None], hidden, bad)

  @jax.jit
  @jax.grad
  def grad(args):
    logp, entropy = logprob.token_logprob(
      *args, targets, chunk=chunk, entropy=True
    )
    both = weights[0] * logp + weights[1] * entropy
    return jnp.sum(jnp.where(mask, both, 0))

  clean, got = grad((hidden, kernel)), grad((dirty, kernel))
  assert np.all(np.isfinite(got[0])) and np.any(got[1])
  _compare(got, clean)
  dense = jax.grad(
    lambda k: jnp.where(mask, _dense(dirty, k, targets)[0], 0).sum()
  )(kernel)
  assert np.isnan(dense).any()  # what plain autodiff does with the same mask


@pytest.mark.parametrize("which", [0, 1])
def test_one_output_alone_pulls(which):
  """An entropy bonus reaches positions whose log-prob is not in the loss."""
  hidden, kernel, targets, weights = _case()

  def only(f):
    return jax.grad(lambda k: jnp.sum(weights[which] * f(k)[which]))(kernel)

  got = only(lambda k: logprob.token_logprob(hidden, k, targets, entropy=True))
  want = only(lambda k: _dense(hidden, k, targets))
  assert np.any(want)
  _compare(got, want, atol=5e-6)


def test_target_outside_the_vocabulary_is_nan():
  hidden, kernel, targets, _ = _case()
  for bad in (-1, -100, V):
    logp, _ = logprob.token_logprob(hidden, kernel, targets.at[0, 0].set(bad))
    assert np.isnan(logp[0, 0]) and np.isfinite(logp[0, 1:]).all()


@pytest.mark.parametrize("settings", [
  {"temperature": 0.0}, {"temperature": -1}, {"softcap": 0.0}, {"chunk": 0}
])  # fmt: skip
def test_settings_that_cannot_be(settings):
  hidden, kernel, targets, _ = _case()
  with pytest.raises(ValueError, match="must be positive"):
    logprob.token_logprob(hidden, kernel, targets, **settings)


def test_entropy_from_logits():
  np.testing.assert_allclose(
    logprob.entropy_from_logits(jnp.zeros(8)), np.log(8), rtol=1e-6
  )
  forbidden = jnp.array([0.0, 0.0, -jnp.inf])
  value, grad = jax.value_and_grad(logprob.entropy_from_logits)(forbidden)
  np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
  assert np.all(np.isfinite(grad))


def _sizes_and_products(jaxpr, sizes, products):
  for eqn in jaxpr.eqns:
    sizes += [getattr(v.aval, "size", 0) for v in eqn.outvars]
    products += [eqn] if eqn.primitive.name == "dot_general" else []
    for sub in jaxprs_in_params(eqn.params):
      _sizes_and_products(sub, sizes, products)


def test_no_full_logits_and_four_products():
  """N T V would be 2048 * 512; nothing above chunk * V and the kernel."""
  n, t, d, v, chunk = 16, 128, 32, 512, 256
  args = (
    jax.ShapeDtypeStruct((n, t, d), jnp.float32),
    jax.ShapeDtypeStruct((d, v), jnp.float32),
  )
  targets = jnp.zeros((n, t), jnp.int32)
  weights = jnp.ones((2, n, t))

  def f(hidden, kernel):
    return logprob.token_logprob(
      hidden, kernel, targets, chunk=chunk, entropy=True
    )

  jaxpr = jax.make_jaxpr(_weighted(f, weights))(*args)
  sizes, products = [], []
  _sizes_and_products(jaxpr.jaxpr, sizes, products)
  assert max(sizes) == chunk * v
  assert len(products) == 4
  dense_sizes = []
  dense = jax.make_jaxpr(lambda h, k: _dense(h, k, targets))(*args)
  _sizes_and_products(dense.jaxpr, dense_sizes, [])
  assert max(dense_sizes) == n * t * v  # the check can fail


def test_compiled_program_never_transposes_the_kernel():
  hidden = jax.ShapeDtypeStruct((8, 32, 48), jnp.float32)
  kernel = jax.ShapeDtypeStruct((48, 640), jnp.float32)
  targets = jnp.zeros((8, 32), jnp.int32)

  def f(hidden, kernel):
    return logprob.token_logprob(hidden, kernel, targets, chunk=64)

  step = jax.jit(_weighted(f, jnp.ones((2, 8, 32))))
  text = step.lower(hidden, kernel).compile().as_text()
  transposes = [
    line for line in text.splitlines()
    if "transpose(" in line.split("metadata")[0]
  ]  # fmt: skip
  assert not [line for line in transposes if "640" in line.split("=")[1]]


_MESH = """
import jax, jax.numpy as jnp, numpy as np, re
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from rlreward.ops import logprob

rng = np.random.default_rng(0)
hidden = rng.normal(size=(8, 6, 16)).astype(np.float32)
kernel = rng.normal(size=(16, 32)).astype(np.float32)
targets = rng.integers(32, size=(8, 6))

def loss(hidden, kernel, targets):
  logp, entropy = logprob.token_logprob(
    hidden, kernel, targets, chunk=16, entropy=True)
  return jnp.sum(jnp.sin(logp) + entropy)

grad = jax.value_and_grad(loss, (0, 1))
want = jax.jit(grad)(hidden, kernel, targets)
mesh = jax.make_mesh(
  (1, 4, 2), ("replica", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
rows = NamedSharding(mesh, P(("replica", "fsdp")))
cols = NamedSharding(mesh, P("fsdp", "tensor"))
args = [jax.device_put(x, s) for x, s in
        ((hidden, rows), (kernel, cols), (targets, rows))]
step = jax.jit(grad, out_shardings=(None, (rows, cols)))
got = step(*args)
jax.tree.map(
  lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, want)
text = step.lower(*args).compile().as_text()
gathers = re.findall(r"= f32\\[([0-9,]+)\\]\\S* all-gather\\(", text)
# Only the fsdp part of the kernel is gathered: never states, never logits.
assert gathers and set(gathers) == {"16,16"}, gathers
print("ok")
"""


def test_auto_mesh_gathers_neither_states_nor_logits():
  """In its own process: eight devices must be asked for before JAX starts."""
  env = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[2]),
  }
  run = subprocess.run(
    [sys.executable, "-c", _MESH], env=env, capture_output=True, text=True,
    check=False,
  )  # fmt: skip
  assert run.stdout.strip() == "ok", run.stderr[-2000:]
