"""Preference losses: hand numbers, float64 formulas, far pairs, hidden NaNs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.ops import preference, unpaired

TOL = 2e-6  # float32 functions of a few numbers of size 1
# The pair of the hand numbers: sums under policy and reference, and lengths.
LW, LL, RW, RL, NW, NL = -10.0, -12.0, -11.0, -11.5, 5, 8


def _arr(*values):
  return jnp.asarray(values, jnp.float32)


def _pair(c, r, **settings):
  return float(preference.pairwise(_arr(c), _arr(r), **settings)[0])


@pytest.mark.parametrize("settings,want", [
  (dict(beta=0.1), 0.620957),
  (dict(beta=0.1, label_smoothing=0.1), 0.635957),
  (dict(beta=0.1, kind="ipo"), 12.25),
  # z = .15: max(0, 1 - z); (h - z's margin)^2; (9 ls(z) - ls(-z)) / 8.
  (dict(beta=0.1, kind="hinge"), 0.85),
  (dict(beta=2.0, kind="squared", margin=1.0), 4.0),
  (dict(beta=0.1, kind="robust", label_smoothing=0.1), 0.602207),
  # c = 1, r = -.5, t = 5: 16 + 20.25.
  (dict(beta=0.1, kind="sppo_hard"), 36.25),
  (dict(beta=0.1, kind="sppo", label_smoothing=0.5), 1.25),
])  # fmt: skip
def test_log_ratios_by_hand(settings, want):
  got = _pair(LW - RW, LL - RL, **settings)
  np.testing.assert_allclose(got, want, rtol=TOL)


def test_other_scores_by_hand():
  a_w, a_l = _arr(LW / NW), _arr(LL / NL)
  ipo = preference.pairwise(
    _arr((LW - RW) / NW), _arr((LL - RL) / NL), beta=0.1, kind="ipo"
  )
  np.testing.assert_allclose(ipo, [22.443906], rtol=TOL)
  # SimPO: beta 2 and gamma / beta .5, so gamma is 1.
  simpo = preference.pairwise(a_w, a_l, beta=2.0, margin=1.0)
  np.testing.assert_allclose(simpo, [2.126928], rtol=TOL)
  odds = preference.odds_ratio(a_w, a_l)
  np.testing.assert_allclose(odds, [-0.607069], rtol=TOL)
  ratio_term = preference.pairwise(odds, jnp.zeros(1), beta=1.0)
  np.testing.assert_allclose(ratio_term, [1.042058], rtol=TOL)
  np.testing.assert_allclose(-a_w + 0.1 * ratio_term, [2.104206], rtol=TOL)


def test_reward_model_by_hand():
  rewards = _arr(1.2), _arr(0.5)
  plain = preference.pairwise(*rewards, beta=1.0)
  np.testing.assert_allclose(plain, [0.403186], rtol=TOL)
  total = preference.pairwise(*rewards, beta=1.0, margin=0.3)
  total = total + 0.01 * preference.centring(*rewards)
  np.testing.assert_allclose(total, [0.541915], rtol=TOL)


def test_unpaired_by_hand():
  loss = unpaired.kto(_arr(1.0, -0.5), jnp.array([True, False]), 0.3, beta=0.1)
  np.testing.assert_allclose(loss, [0.482507, 0.480011], rtol=TOL)
  loss = unpaired.kto(
    _arr(1.0, -0.5), jnp.array([True, False]), 0.3, beta=0.1,
    desirable_weight=2.0, undesirable_weight=0.5,
  )  # fmt: skip
  np.testing.assert_allclose(loss, [0.965014, 0.2400055], rtol=TOL)
  # beta g = (.1, -.05), delta .02: log(1 + e^-.08), log(1 + e^-.07).
  loss = unpaired.bco(
    _arr(1.0, -0.5), jnp.array([True, False]), 0.02, beta=0.1,
    density_weight=2.0,
  )  # fmt: skip
  want = [np.log1p(np.exp(-0.08)), 2 * np.log1p(np.exp(-0.07))]
  np.testing.assert_allclose(loss, want, rtol=TOL)
  np.testing.assert_allclose(
    unpaired.bco_delta(_arr(1.0, -0.5), beta=0.1), 0.025, rtol=TOL
  )


def test_kto_reference():
  far = _arr(1.0, -0.4, np.nan)
  valid = jnp.array([True, True, False])
  np.testing.assert_allclose(unpaired.kto_reference(far, valid), 0.3, rtol=TOL)
  assert unpaired.kto_reference(-jnp.ones(3)) == 0
  assert unpaired.kto_reference(far, jnp.zeros(3, bool)) == 0

  def loss(x):
    z0 = unpaired.kto_reference(x)
    return unpaired.kto(_arr(1.0), jnp.array([True]), z0, beta=0.1)[0]

  assert np.all(np.asarray(jax.grad(loss)(jnp.ones(2))) == 0)
  point = jax.grad(
    lambda z: unpaired.kto(_arr(1.0), jnp.array([True]), z, beta=0.1)[0]
  )
  assert point(0.3) == 0


def test_sequence_logp():
  logp = _arr([-1.0, -2.0, np.nan], [-1.0, -3.0, -5.0], [np.nan] * 3)
  mask = jnp.array([[1, 1, 0], [1, 1, 1], [0, 0, 0]], bool)
  for normalise, want in (("sum", [-3, -9, 0]), ("mean", [-1.5, -3, 0])):
    f = lambda x, n=normalise: preference.sequence_logp(x, mask, n)
    np.testing.assert_allclose(f(logp), want, rtol=TOL)
    grad = np.asarray(jax.grad(lambda x, f=f: f(x).sum())(logp))
    assert np.all(np.isfinite(grad)) and np.all(grad[~np.asarray(mask)] == 0)
  with pytest.raises(ValueError, match="'sum' or 'mean'"):
    preference.sequence_logp(logp, mask, "max")  # type: ignore[arg-type]


def test_online_terms():
  value, grad = jax.value_and_grad(
    lambda x: unpaired.exploration(x, alpha=0.1).sum()
  )(_arr(2.0, -1.0))
  np.testing.assert_allclose(value, 0.1, rtol=TOL)
  np.testing.assert_allclose(grad, [0.1, 0.1], rtol=TOL)
  got = unpaired.nash_md_advantage(_arr(0.9), _arr(2.0), beta=0.1)
  np.testing.assert_allclose(got, [0.2], rtol=TOL)


def _formula(kind, c, r, beta, eps, margin, tau=0.05):
  """The definitions in float64, as the papers write them."""
  s = lambda x: 1 / (1 + np.exp(-x))
  ls = lambda x: np.log1p(np.exp(-x))
  h = c - r
  z = beta * h - margin
  if kind in ("aot", "aot_unpaired"):
    upper = np.sort(c if kind == "aot_unpaired" else h + REFERENCE)
    lower = np.sort(r if kind == "aot_unpaired" else REFERENCE)
    z = beta * (upper - lower)
    order = np.argsort(c if kind == "aot_unpaired" else h + REFERENCE)
    values = (1 - eps) * ls(z) + eps * ls(-z)
    return values[np.argsort(order)]
  if kind == "exo_pair":
    q = s(z)
    return q * np.log(q / (1 - eps)) + (1 - q) * np.log((1 - q) / eps)
  if kind == "discopop":
    mix = s(z / tau)
    return (1 - mix) * ls(z) + mix * np.exp(-z)
  return {
    "sigmoid": (1 - eps) * ls(z) + eps * ls(-z),
    "robust": ((1 - eps) * ls(z) - eps * ls(-z)) / (1 - 2 * eps),
    "hinge": np.maximum(0, 1 - z),
    "ipo": (h - 1 / (2 * beta)) ** 2,
    "squared": z**2,
    "nca_pair": ls(beta * c) + 0.5 * ls(-beta * c) + 0.5 * ls(-beta * r),
    "bco_pair": ls(beta * c) + ls(-beta * r),
    "sppo": (c - (0.5 - eps) / beta) ** 2 + (r + (0.5 - eps) / beta) ** 2,
    "sppo_hard": (c - 0.5 / beta) ** 2 + (r + 0.5 / beta) ** 2,
    "apo_zero": 1 - s(beta * c) + s(beta * r),
    "apo_down": s(beta * c) + 1 - s(beta * h),
  }[kind]


REFERENCE = np.array([0.3, -1.2, 0.7, 0.1, -0.4])


def _settings(kind, p=5):
  settings = {"kind": kind, "beta": 0.7}
  if preference._SHAPES[kind].smoothing:
    settings["label_smoothing"] = 0.2
  if preference._SHAPES[kind].margin:
    settings["margin"] = 0.3
  if kind == "aot":
    settings["reference_margin_P"] = jnp.asarray(REFERENCE[:p], jnp.float32)
  return settings


def _scores(seed=0, p=5):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(2, p))


@pytest.mark.parametrize("kind", preference.KINDS)
def test_formula(kind):
  c, r = _scores()
  settings = _settings(kind)
  got = preference.pairwise(_arr(*c), _arr(*r), **settings)
  want = _formula(
    kind, c, r, 0.7, settings.get("label_smoothing", 0.0),
    settings.get("margin", 0.0),
  )  # fmt: skip
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", preference.KINDS)
def test_far_pairs_stay_finite(kind):
  """|h| = 1e4: finite values and gradients, and the last of each is right."""
  settings = {**_settings(kind, 4), "beta": 1.0}
  far = _arr(1e4, -1e4, 1e4, -1e4), _arr(0.0, 0.0, -1e4, 1e4)
  f = lambda c, r: preference.pairwise(c, r, **settings)
  value = f(*far)
  grads = jax.grad(lambda c, r: f(c, r).sum(), argnums=(0, 1))(*far)
  for x in (value, *grads):
    assert np.all(np.isfinite(np.asarray(x))), (kind, x)
  if kind in ("sigmoid", "hinge"):
    np.testing.assert_allclose(grads[0][1], -(1 - settings.get(
      "label_smoothing", 0.0)), rtol=1e-5)  # fmt: skip


def test_far_singles_stay_finite():
  far, labels = _arr(1e4, -1e4, 1e4, -1e4), jnp.array([1, 1, 0, 0], bool)
  for f in (
    lambda g: unpaired.kto(g, labels, 0.3, beta=1.0),
    lambda g: unpaired.bco(g, labels, 0.3, beta=1.0),
    lambda g: preference.odds_ratio(-abs(g), -1e-9 * abs(g)),
    *(
      lambda g, n=name: preference.f_score(g, n)
      for name in preference.DIVERGENCES
    ),
  ):
    grad = jax.grad(lambda g, f=f: f(g).sum())(far)
    assert np.all(np.isfinite(np.asarray(f(far))))
    assert np.all(np.isfinite(np.asarray(grad)))


@pytest.mark.parametrize("kind", preference.KINDS)
def test_invalid_pairs_are_not_there(kind):
  """NaN in them changes neither value nor gradient; each is 0 there."""
  c, r = _scores(1)
  settings = _settings(kind, 5)
  valid = np.array([True, False, True, True, False])
  dirty = np.where(valid, c, np.nan), np.where(valid, r, -np.inf)
  few = dict(settings)
  if kind == "aot":
    few["reference_margin_P"] = settings["reference_margin_P"][valid]
    settings["reference_margin_P"] = jnp.where(
      valid, settings["reference_margin_P"], jnp.nan
    )
  f = lambda c, r: preference.pairwise(c, r, valid_P=valid, **settings)
  g = lambda c, r: preference.pairwise(c, r, **few)

  def both(f, c, r):
    grads = jax.grad(lambda c, r: f(c, r).sum(), argnums=(0, 1))
    return f(c, r), *grads(c, r)

  got = both(f, *(_arr(*x) for x in dirty))
  want = both(g, *(_arr(*x[valid]) for x in (c, r)))
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(np.asarray(a)[valid], b, rtol=1e-5, atol=1e-7)
    assert np.all(np.asarray(a)[~valid] == 0)


def test_invalid_singles_are_not_there():
  g = _arr(1.0, np.nan)
  labels, valid = jnp.array([True, False]), jnp.array([True, False])
  for f in (unpaired.kto, unpaired.bco):
    value = lambda x, f=f: f(x, labels, 0.1, beta=0.5, valid_N=valid)
    assert value(g)[1] == 0 and np.isfinite(value(g)[0])
    grad = np.asarray(jax.grad(lambda x, v=value: v(x).sum())(g))
    assert grad[1] == 0 and np.isfinite(grad[0]) and grad[0] < 0


def test_parameters_per_pair():
  """One call with arrays equals calls pair by pair; under jit too."""
  c, r = (_arr(*x) for x in _scores(2))
  beta, eps = _arr(0.1, 0.2, 0.5, 1, 2), _arr(0, 0.1, 0.5, 0.9, 1)
  margin, weight = _arr(0, 1, -1, 0.5, 2), _arr(1, 0, 2, 0.5, 1)

  @jax.jit
  def together(beta, eps, margin, weight):
    return preference.pairwise(
      c, r, beta=beta, label_smoothing=eps, margin=margin, weight=weight
    )

  got = together(beta, eps, margin, weight)
  for i in range(5):
    want = weight[i] * preference.pairwise(
      c[i : i + 1], r[i : i + 1], beta=beta[i], label_smoothing=eps[i],
      margin=margin[i],
    )[0]  # fmt: skip
    np.testing.assert_allclose(got[i], want, rtol=1e-5, atol=1e-7)
  closed = jax.jit(lambda: preference.pairwise(c, r, beta=beta[0]))
  assert np.all(np.isfinite(np.asarray(closed())))


def test_consistency_weight_scales_the_first_gradient():
  """CREAM: at h = 0 the gradient is (2 C - 1) times DPO's."""
  zero = jnp.zeros(3)
  agreement = _arr(1.0, 0.7, 0.46)
  grad = jax.grad(
    lambda c: preference.pairwise(
      c, zero, beta=0.1, label_smoothing=1 - agreement
    ).sum()
  )(zero)
  np.testing.assert_allclose(grad, -0.05 * (2 * agreement - 1), rtol=1e-5)


def test_quantiles_need_the_whole_batch():
  """Sorted scores: the mean over halves is another number, order is not."""
  c, r = _scores(3, 6)
  f = lambda c, r: preference.pairwise(
    _arr(*c), _arr(*r), beta=1.0, kind="aot_unpaired"
  )
  whole = f(c, r)
  shuffled = np.random.default_rng(0).permutation(6)
  np.testing.assert_allclose(f(c, r[shuffled]), whole, rtol=1e-6)
  halves = (f(c[:3], r[:3]).mean() + f(c[3:], r[3:]).mean()) / 2
  assert abs(float(halves - whole.mean())) > 1e-3


def test_f_scores():
  """Each is f'(t), with slope 1 where pi = ref (js: one half)."""
  u = np.array([-1.5, -0.2, 0.0, 0.4, 2.0])
  t = np.exp(u)
  want = {
    "reverse_kl": u, "forward_kl": 1 - 1 / t, "js": np.log(2 * t / (1 + t)),
    "alpha": (t**-0.7 - 1) / -0.7,
  }  # fmt: skip
  for name, value in want.items():
    got = preference.f_score(_arr(*u), name, alpha=0.3)
    np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-6)
    slope = jax.grad(lambda x, n=name: preference.f_score(x, n, 0.3))(0.0)
    np.testing.assert_allclose(slope, 0.5 if name == "js" else 1, rtol=1e-6)
  for alpha, other in ((0.0, "forward_kl"), (1.0, "reverse_kl")):
    np.testing.assert_allclose(
      preference.f_score(_arr(*u), "alpha", alpha), want[other],
      rtol=1e-5, atol=1e-6,
    )  # fmt: skip
  steps = preference.f_score(_arr(*np.linspace(-60, 60, 500)), "forward_kl")
  assert np.all(np.diff(np.asarray(steps)) >= 0)


def test_describe():
  got = preference.describe(_arr(1.0, 0.0, -1.0), _arr(0.5, 0.0, 0.5), 0.1)
  want = {
    "accuracy": [1, 0, 0], "margin": [0.05, 0, -0.15],
    "chosen_reward": [0.1, 0, -0.1], "rejected_reward": [0.05, 0, 0.05],
  }  # fmt: skip
  assert got.keys() == want.keys()
  for name in want:
    np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("settings,words", [
  (dict(kind="dpo"), "unknown kind 'dpo'.*sigmoid"),
  (dict(beta=0.0), "beta must be above 0"),
  (dict(label_smoothing=1.5), "lies in"),
  (dict(kind="robust", label_smoothing=0.5), "lies in"),
  (dict(kind="exo_pair"), "lies in"),
  (dict(kind="ipo", label_smoothing=0.1), "no label_smoothing; these"),
  (dict(kind="sppo_hard", margin=0.1), "no margin; these"),
  (dict(kind="aot"), "reference_margin_P"),
  (dict(kind="aot_unpaired", weight=np.ones(1)), "sorts the batch"),
  (dict(kind="discopop", discopop_tau=2.0), "discopop_tau"),
])  # fmt: skip
def test_bad_settings(settings, words):
  with pytest.raises(ValueError, match=words):
    _pair(0.0, 0.0, **{"beta": 0.1, **settings})


def test_bad_settings_elsewhere():
  one, label = _arr(1.0), jnp.array([True])
  with pytest.raises(ValueError, match="choose one of"):
    preference.f_score(one, "kl")  # type: ignore[arg-type]
  for f in (unpaired.kto, unpaired.bco):
    with pytest.raises(ValueError, match="beta"):
      f(one, label, 0.0, beta=0.0)
    with pytest.raises(TypeError, match="bool"):
      f(one, jnp.ones(1), 0.0, beta=0.1)
  with pytest.raises(ValueError, match="alpha"):
    unpaired.exploration(one, alpha=-1.0)
