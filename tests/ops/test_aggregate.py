"""Aggregation against float64 loops, scipy, closed forms and hidden NaNs."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from rlreward.ops import aggregate, transform

# float32 of a handful of numbers of size 1; products and powers of them too.
TOL = 2e-6
NAN = np.nan


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def loop(r, rule, known, weight, coef=1.0, floor=0.0):
  """The table of `aggregate`, row by row, in float64."""
  out = np.full(r.shape[:-1], NAN)
  for i in np.ndindex(*out.shape):
    keep = known[i] & (weight[i] != 0)
    if keep.any():
      out[i] = one(r[i][keep], rule, weight[i][keep], coef, floor)
  return out


def one(x, rule, w, coef, floor):
  y, mean = np.maximum(x, floor), np.average(x, weights=w)
  var = np.average((x - mean) ** 2, weights=w)
  return {
    "mean": lambda: mean,
    "median": lambda: np.median(x),
    "min": lambda: x.min(),
    "mean_minus_std": lambda: mean - coef * math.sqrt(var),
    "uwo": lambda: mean - coef * var,
    "sum": lambda: (w * x).sum(),
    "product": lambda: (y**w).prod(),
    "geometric": lambda: stats.gmean(y, weights=w),
    "harmonic": lambda: stats.hmean(y, weights=w),
    "log_sigmoid": lambda: (w * np.log(special.expit(x))).sum(),
  }[rule]()


def numbers(seed=0, shape=(4, 3, 5)):
  rng = np.random.default_rng(seed)
  return rng.normal(size=shape), rng.uniform(size=shape) < 0.7


@pytest.mark.parametrize("rule", aggregate.RULES)
@pytest.mark.parametrize("masked", [False, True])
def test_every_rule_is_its_loop(rule, masked):
  r, known = numbers()
  known[0, 0] = False  # nobody judges this one
  known = known if masked else np.ones_like(known)
  weight = np.ones_like(r)
  if rule not in aggregate.UNWEIGHTED:
    weight = np.broadcast_to([0.5, 2.0, 1.0, 0.0, 0.25], r.shape)
  got = aggregate.aggregate(
    r,
    rule,
    jnp.asarray(known) if masked else None,
    None if rule in aggregate.UNWEIGHTED else weight[0, 0],
    coef=0.7,
    floor=0.05,
  )
  want = loop(r, rule, known, weight, 0.7, 0.05)
  np.testing.assert_allclose(got, want, rtol=TOL, atol=TOL)
  assert np.isnan(want).any() == masked


@pytest.mark.parametrize("rule", aggregate.RULES)
def test_hidden_members_touch_neither_value_nor_gradient(rule):
  r, known = numbers(1)
  known[2, 1] = False
  hole, zero = np.where(known, r, NAN), np.where(known, r, 0.0)
  f = jax.jit(lambda x: aggregate.aggregate(x, rule, known))
  np.testing.assert_array_equal(f(hole), f(zero))
  assert np.isnan(f(hole)[2, 1])
  seen = known.any(-1)
  total = lambda x: jnp.sum(jnp.where(seen, f(x), 0))
  slope = jax.jit(jax.grad(total))
  grad = slope(jnp.float32(hole))
  np.testing.assert_array_equal(grad, slope(jnp.float32(zero)))
  assert np.isfinite(grad).all() and (np.asarray(grad)[~known] == 0).all()
  # One member that all take and none knows makes its row unknown, no other.
  r[0, 0, 0] = NAN
  lost = np.isnan(aggregate.aggregate(r, rule))
  assert lost[0, 0] and lost.sum() == 1


@pytest.mark.parametrize(
  "rule", [r for r in aggregate.RULES if r not in aggregate.UNWEIGHTED]
)
def test_a_weight_of_zero_is_no_member_even_beside_nan(rule):
  r = np.asarray([[0.5, NAN, 0.8]])
  w = jnp.asarray([1.0, 0.0, 2.0])
  f = jax.jit(lambda r, w: aggregate.aggregate(r, rule, None, w))
  np.testing.assert_allclose(f(r, w), f(r[:, ::2], w[::2]), rtol=TOL)
  grad = jax.jit(jax.grad(lambda w: f(r, w)[0]))(w)
  assert np.isfinite(grad).all()


@pytest.mark.parametrize("rule", [r for r in aggregate.RULES if "log" not in r])
@pytest.mark.parametrize("size", [1, 3])
def test_one_member_or_many_equal_ones_are_that_member(rule, size):
  # 0.1 has no exact float: the spread of three of them is rounding.
  r = jnp.full((size,), 0.1)
  got = aggregate.aggregate(r, rule)
  want = {"sum": 0.1 * size, "product": 0.1**size}.get(rule, 0.1)
  np.testing.assert_allclose(got, want, rtol=TOL, atol=1e-7)
  grad = jax.jit(jax.grad(lambda r: aggregate.aggregate(r, rule)))(r)
  assert np.isfinite(grad).all() and np.abs(grad).max() <= 1 + TOL


def test_ties_share_the_gradient():
  low = jax.grad(lambda r: aggregate.aggregate(r, "min"))
  np.testing.assert_allclose(low(jnp.asarray([1.0, 1.0, 3.0])), [0.5, 0.5, 0])
  mid = jax.grad(lambda r: aggregate.aggregate(r, "median"))
  np.testing.assert_allclose(mid(jnp.asarray([4.0, 1, 2, 9])), [0.5, 0, 0.5, 0])
  np.testing.assert_allclose(mid(jnp.asarray([4.0, 1, 9])), [1.0, 0, 0])


@pytest.mark.parametrize("rule", aggregate.RULES)
def test_gradients_are_finite_differences(rule, x64):
  r = jnp.asarray([0.4, 0.9, 0.2])
  w = None if rule in aggregate.UNWEIGHTED else jnp.asarray([1.0, 2.0, 0.5])
  f = jax.jit(lambda r: aggregate.aggregate(r, rule, None, w, coef=0.5))
  step = 1e-6 * np.eye(3)
  want = (f(r + step) - f(r - step)) / 2e-6
  np.testing.assert_allclose(jax.jit(jax.grad(f))(r), want, atol=1e-8)


def test_hand_numbers():
  f = lambda r, *a, **k: float(aggregate.aggregate(jnp.asarray(r), *a, **k))
  lopsided, balanced = [0.95, 0.2], [0.5, 0.5]
  assert f(lopsided, "mean") > f(balanced, "mean")
  assert f(lopsided, "harmonic") < f(balanced, "harmonic")
  assert f([1.0, 3.0], "mean_minus_std") == pytest.approx(1.0)
  assert f([0.0, 4.0], "uwo", coef=0.5) == pytest.approx(0.0)
  # Two bad rewards do not make a good one, unless it is asked for.
  assert f([-2.0, -3.0], "product") == 0
  assert f([-2.0, -3.0], "product", floor=-math.inf) == 6
  assert f([0.0, 0.0], "harmonic") == pytest.approx(1e-8)
  one = jnp.asarray([1.0, 0.0])
  assert f(lopsided, "harmonic", None, one) == pytest.approx(0.95)


def test_a_product_has_its_gradient_at_zero():
  grad = jax.grad(lambda r: aggregate.aggregate(r, "product", floor=-1.0))
  np.testing.assert_allclose(grad(jnp.asarray([0.0, 2.0, 3.0])), [6, 0, 0])
  w = jnp.asarray([0.5, 1.0])
  weighted = lambda r: aggregate.aggregate(r, "product", None, w)
  assert weighted(jnp.asarray([0.0, 2.0])) == 0
  assert np.isfinite(jax.grad(weighted)(jnp.asarray([0.0, 2.0]))).all()


def test_log_sigmoid_is_lsc():
  r, known = numbers(2)
  w = jnp.asarray([1.0, 0.5, 2.0, 1.0, 0.1])
  ref = jnp.asarray([0.1, -0.3, 0.0, 1.0, 0.5])
  got = aggregate.aggregate(r - ref, "log_sigmoid", known, w)
  want = transform.lsc(r, ref, w, valid=known)
  np.testing.assert_allclose(got, want, rtol=TOL, atol=TOL)


@settings(deadline=None, max_examples=25)
@given(
  st.lists(st.floats(-3, 3, width=32), min_size=5, max_size=5),
  st.lists(st.booleans(), min_size=5, max_size=5),
  st.floats(-5, 5, width=32),
)
def test_orders_and_shifts(r, known, shift):
  known[2] = True
  r, known = jnp.asarray(r), jnp.asarray(known)
  f = lambda rule, r=r, known=known: float(aggregate.aggregate(r, rule, known))
  eps = 2e-5  # float32 of a square of 3, under a root
  assert f("min") <= f("median") <= float(r[known].max())
  assert f("mean_minus_std") <= f("mean")
  for rule in ("mean", "median", "min", "mean_minus_std", "uwo"):
    tol = 2e-3 if "std" in rule else eps  # the root of a rounded 0
    assert f(rule, r + shift) == pytest.approx(f(rule) + shift, abs=tol)
    assert f(rule, r[::-1], known[::-1]) == pytest.approx(f(rule), abs=tol)
  chances = jax.nn.sigmoid(r)
  assert f("min", chances) - eps <= f("harmonic", chances)
  assert f("harmonic", chances) <= f("geometric", chances) + eps
  assert f("geometric", chances) <= f("mean", chances) + eps


def test_gold_of_the_best_of_n_by_a_mean_is_the_closed_form():
  """E[gold] = m_n / sqrt(1 + s^2 + q^2 / K); the shared error stays."""
  prompts, n, k = 3000, 64, 5
  rng = np.random.default_rng(0)
  gold, shared = rng.normal(size=(2, prompts, n))
  own = 2.0 * rng.normal(size=(prompts, n, k))
  r = jnp.asarray((gold + 0.5 * shared)[..., None] + own, jnp.float32)
  edges = np.linspace(-8, 8, 20001)
  cdf = stats.norm.cdf(edges) ** n
  largest = np.sum((edges[1:] + edges[:-1]) / 2 * np.diff(cdf))
  assert largest == pytest.approx(2.344, abs=1e-3)

  def chosen(x):
    return gold[np.arange(prompts), np.argmax(x, -1)].mean()

  found = {rule: chosen(aggregate.aggregate(r, rule))
           for rule in ("mean", "median", "min", "mean_minus_std")}  # fmt: skip
  want = largest / math.sqrt(1 + 0.25 + 4 / k)
  assert found["mean"] == pytest.approx(want, abs=0.05)  # 3 standard errors
  single = chosen(r[..., 0])
  assert single == pytest.approx(largest / math.sqrt(5.25), abs=0.05)
  assert min(found.values()) > single + 0.3


@pytest.mark.parametrize(
  ("rule", "kwargs"),
  [
    ("mode", {}),
    ("min", {"weight": jnp.ones(2)}),
    ("harmonic", {"floor": 0.0}),
    ("product", {"floor": -1.0, "weight": jnp.ones(2)}),
  ],
)
def test_what_has_no_meaning_is_refused(rule, kwargs):
  with pytest.raises(ValueError, match=rule):
    aggregate.aggregate(jnp.ones(2), rule, **kwargs)


def test_jit_and_vmap_change_nothing():
  r, known = numbers(3)
  f = lambda r, known: aggregate.aggregate(r, "median", known)
  want = f(r, known)
  np.testing.assert_array_equal(jax.jit(f)(r, known), want)
  np.testing.assert_array_equal(jax.vmap(f)(r, jnp.asarray(known)), want)


# ------------------------------------------------------------------- Pareto
def brute(r, valid, group):
  kept = valid.copy()
  for b in range(len(r)):
    for a in range(len(r)):
      if valid[a] and valid[b] and group[a] == group[b]:
        kept[b] &= not ((r[a] >= r[b]).all() and (r[a] > r[b]).any())
  return kept


def test_the_front_is_that_of_brute_force():
  rng = np.random.default_rng(4)
  r = rng.integers(0, 4, (200, 8, 3)).astype(np.float32)  # many ties
  valid = rng.uniform(size=(200, 8)) < 0.8
  group = np.sort(rng.integers(0, 2, (200, 8)), -1)
  hole = np.where(valid[..., None], r, NAN)
  got = aggregate.non_dominated(hole, valid, group)
  want = [brute(*row) for row in zip(r, valid, group, strict=True)]
  np.testing.assert_array_equal(got, want)
  np.testing.assert_array_equal(
    aggregate.non_dominated(hole, None, group), want
  )
  alone = aggregate.non_dominated(r[..., :1])
  np.testing.assert_array_equal(alone, r[..., 0] == r[..., :1].max(-2))


@pytest.mark.parametrize("normalise", aggregate.NORMALISE)
@pytest.mark.parametrize("of", [None, 1])
def test_pareto_weights_are_the_equation(normalise, of):
  rng = np.random.default_rng(5)
  r = rng.normal(size=(9, 3)).astype(np.float32) + 2
  r[:, 2] = 1.0  # a reward that does not vary
  valid = np.arange(9) != 3
  group = np.repeat([7, 2, 5], 3)
  want = np.zeros(9)
  for g in set(group):
    rows = (group == g) & valid
    x = r[rows].astype(np.float64)
    kept = brute(r, valid, group)[rows]
    span = {"none": (0, 1), "minmax": (x.min(0), np.ptp(x, 0)),
            "zscore": (x.mean(0), x.std(0))}[normalise]  # fmt: skip
    if normalise != "none":
      x = (x - span[0]) / np.where(np.ptp(x, 0) > 0, span[1], np.inf)
    gain = x.sum(1) if of is None else x[:, of]
    want[rows] = np.where(kept, gain, 0) / kept.sum()
  f = jax.jit(
    lambda r: aggregate.pareto_weights(
      r, valid, group, of=of, normalise=normalise
    )
  )
  hole = jnp.asarray(np.where(valid[:, None], r, NAN))
  np.testing.assert_allclose(f(hole), want, atol=2e-6)
  grad = jax.jit(jax.grad(lambda r: f(r).sum()))(hole)
  assert np.isfinite(grad).all() and (np.asarray(grad)[3] == 0).all()


def test_nobody_judged_is_nobody_kept():
  r = jnp.full((3, 2), jnp.nan)
  for normalise in aggregate.NORMALISE:
    f = functools.partial(aggregate.pareto_weights, normalise=normalise)
    got = jax.jit(f)(r)
    np.testing.assert_array_equal(got, np.zeros(3))
  with pytest.raises(ValueError, match="ranks"):
    aggregate.pareto_weights(jnp.ones((2, 2)), normalise="ranks")
