"""Masked reductions against numpy loops, peers' numbers and hidden NaNs."""

import functools
import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import shared_data

from rlreward.ops import masked

MASK = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]], bool)
# float32 sums of a dozen numbers of size 1: a few units of 1e-7.
TOL = 1e-6


def _numbers(seed=0, shape=MASK.shape):
  return np.random.default_rng(seed).normal(size=shape)


def _loop(x, mask, mode, const):
  """The table of `reduce`, in float64, row by row."""
  total = weight = 0.0
  for row, keep in zip(x, mask, strict=True):
    kept = row[keep]
    if mode == "seq_mean_token_mean":
      total += kept.mean() if kept.size else 0
    else:
      total += kept.sum()
    weight += {
      "token_mean": kept.size,
      "seq_mean_token_mean": bool(kept.size),
      "seq_mean_token_sum": bool(kept.size),
      "const": const,
      "sum": 0,
    }[mode]
  return total, 1.0 if mode == "sum" else weight


@pytest.mark.parametrize("mode", masked.MODES)
@pytest.mark.parametrize("jit", [False, True])
def test_reduce_equals_float64_loop(mode, jit):
  const = 7.0 if mode == "const" else None
  f = functools.partial(masked.reduce, mode=mode, const=const)
  total, weight = (jax.jit(f) if jit else f)(_numbers(), MASK)
  want = _loop(_numbers(), MASK, mode, const)
  np.testing.assert_allclose([total, weight], want, rtol=TOL, atol=TOL)
  assert masked.weight(jnp.asarray(MASK), mode, const) == want[1]


def test_const_weight_ignores_the_sample():
  empty = np.zeros_like(MASK)
  assert masked.weight(MASK, "const", 5) == masked.weight(empty, "const", 5)
  assert masked.weight(empty, "seq_mean_token_sum") == 0


@pytest.mark.parametrize("mode", masked.MODES)
def test_sums_and_weights_of_parts_add(mode):
  x, mask = _numbers(1, (8, 5)), _numbers(2, (8, 5)) > 0
  whole = masked.reduce(x, mask, mode, 5)
  parts = [
    masked.reduce(x[i : i + 2], mask[i : i + 2], mode, 5) for i in (0, 2, 4, 6)
  ]
  total, weight = np.sum(parts, axis=0)
  np.testing.assert_allclose(total, whole[0], rtol=1e-5)
  assert mode == "sum" or weight == whole[1]


@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)])
@pytest.mark.parametrize("ddof", [0, 1])
def test_moments_equal_numpy(axis, ddof):
  x = _numbers(3)
  want = np.ma.array(x, mask=~MASK)
  count = MASK.sum(axis)
  got = masked.masked_sum(x, MASK, axis)
  np.testing.assert_allclose(got, np.ma.filled(want.sum(axis), 0), atol=TOL)
  got = masked.masked_mean(x, MASK, axis)
  np.testing.assert_allclose(got, np.ma.filled(want.mean(axis), 0), atol=TOL)
  gap = np.ma.filled((want - want.mean(axis, keepdims=True)) ** 2, 0)
  var = np.where(count > ddof, gap.sum(axis) / np.maximum(count - ddof, 1), 0)
  got = masked.masked_var(x, MASK, axis, ddof)
  np.testing.assert_allclose(got, var, atol=TOL)


def test_offset_does_not_cost_precision():
  """E[x^2] - E[x]^2 in float32 would give 0 or worse here."""
  x = 1e4 + np.array([[0.0, 1.0, 2.0, 99.0]])
  mask = np.array([[True, True, True, False]])
  np.testing.assert_allclose(masked.masked_var(x, mask), 2 / 3, rtol=1e-3)


def test_mask_broadcasts_and_bf16_adds_in_float32():
  x = jnp.full((4, 512), 1.01, jnp.bfloat16)
  total = masked.masked_sum(x, np.array([[True], [True], [False], [True]]))
  assert total.dtype == jnp.float32
  np.testing.assert_allclose(total, 3 * 512 * float(x[0, 0]), rtol=TOL)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("jit", [False, True])
def test_masked_slots_change_nothing(bad, jit):
  def everything(x):
    out = [
      masked.masked_mean(x, MASK, 1).sum(),
      masked.masked_var(x, MASK, 1, 1).sum(),
      (masked.whiten(x, MASK) ** 3).sum(),
      masked.whiten(x, MASK, shift_mean=False).sum(),
      *(masked.reduce(x, MASK, mode, 3)[0] for mode in masked.MODES),
    ]
    return jnp.stack(out), jnp.stack(out).sum()

  f = jax.jit(everything) if jit else everything
  clean = jnp.asarray(_numbers(), jnp.float32)
  dirty = jnp.where(MASK, clean, bad)
  np.testing.assert_array_equal(f(clean)[0], f(dirty)[0])
  grad = jax.grad(lambda x: f(x)[1])
  np.testing.assert_array_equal(grad(clean), grad(dirty))
  assert np.all(np.asarray(grad(dirty))[~MASK] == 0)


def test_multiplying_by_the_mask_would_fail_that():
  dirty = jnp.where(MASK, 1.0, jnp.nan)
  assert np.isnan(jnp.sum(dirty * MASK.astype(np.float32)))


@pytest.mark.parametrize("f", [
  masked.masked_sum, masked.masked_mean, masked.masked_var,
  lambda x, m: masked.whiten(x, m).sum(),
  lambda x, m: masked.reduce(x, m, "seq_mean_token_mean")[0],
])  # fmt: skip
def test_empty_mask_gives_zero_and_finite_gradient(f):
  x = jnp.full((2, 3), jnp.nan)
  value, grad = jax.value_and_grad(f)(x, jnp.zeros((2, 3), bool))
  assert value == 0 and not np.any(grad)


def test_whiten_moments_and_floor():
  x, mask = _numbers(5, (6, 9)) * 3 + 4, _numbers(6, (6, 9)) > -0.5
  white = np.asarray(masked.whiten(x, mask))
  np.testing.assert_allclose(white[mask].mean(), 0, atol=1e-6)
  np.testing.assert_allclose(white[mask].std(ddof=1), 1, rtol=1e-5)
  assert not white[~mask].any()
  kept = np.asarray(masked.whiten(x, mask, shift_mean=False))
  np.testing.assert_allclose(kept[mask].mean(), x[mask].mean(), rtol=1e-5)
  floored = np.asarray(masked.whiten(x, mask, sd_min=10.0))
  np.testing.assert_allclose(
    floored[mask], (x[mask] - x[mask].mean()) / 10, atol=1e-6
  )
  flat = masked.whiten(np.full((2, 3), 0.1), np.ones((2, 3), bool))
  np.testing.assert_allclose(flat, 0, atol=1e-3)


def test_last_index():
  np.testing.assert_array_equal(masked.last_index(MASK), [3, 0, 2])
  assert masked.last_index(MASK).dtype == jnp.int32


def test_safe_exp():
  d = jnp.array([-1e9, -1.0, 0.0, 1.0, 1e9])
  want = np.exp([-20, -1, 0, 1, 20])
  np.testing.assert_allclose(masked.safe_exp(d), want, rtol=1e-6)
  np.testing.assert_allclose(
    masked.safe_exp(d, 2.0), np.exp(np.clip(d, -2, 2)), rtol=1e-6
  )
  grad = jax.grad(lambda d: masked.safe_exp(d).sum())(d)
  np.testing.assert_allclose(grad[1:4], want[1:4], rtol=1e-6)
  assert grad[0] == 0 == grad[4]


def test_bad_arguments_say_what_to_do():
  with pytest.raises(TypeError, match="mask must be bool"):
    masked.masked_sum(jnp.ones(3), jnp.ones(3))
  with pytest.raises(ValueError, match="token_mean"):
    masked.reduce(jnp.ones((1, 1)), jnp.ones((1, 1), bool), "mean")  # type: ignore
  with pytest.raises(ValueError, match="generation limit"):
    masked.weight(jnp.ones((1, 1), bool), "const")


def test_peer_numbers():
  """Numbers printed in tunix's own unit tests."""
  path = shared_data("peer_fixtures") / "rl_losses.jsonl.gz"
  cases = {r["name"]: r for r in map(json.loads, gzip.open(path, "rt"))}
  case = cases["masked_mean"]
  x, mask = np.array(case["in"]["x"]), np.array(case["in"]["mask"], bool)
  got = masked.masked_mean(x, mask), masked.masked_mean(x, mask, 1)
  np.testing.assert_allclose(got[0], case["out"]["all"], rtol=1e-5)
  np.testing.assert_allclose(got[1], case["out"]["axis1"], rtol=1e-5)
  case = cases["masked_var_unbiased"]
  got = masked.masked_var(x, mask, ddof=1)
  np.testing.assert_allclose(got, case["out"], rtol=1e-5)
  case = cases["loss_aggregation"]
  x = np.array(case["in"]["per_token_loss"])
  mask = np.array(case["in"]["mask"], bool)
  for ours, theirs in (
    ("token_mean", "token-mean"),
    ("seq_mean_token_mean", "sequence-mean-token-mean"),
    ("seq_mean_token_sum", "seq-mean-token-sum"),
  ):
    total, weight = masked.reduce(x, mask, ours)
    np.testing.assert_allclose(total / weight, case["out"][theirs], rtol=1e-6)


floats = st.floats(-100, 100, width=32)


@settings(max_examples=30, deadline=None)
@given(
  st.lists(floats, min_size=12, max_size=12),
  st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_token_mean_lies_between_extremes(x, keep):
  x, keep = np.float32(x).reshape(3, 4), np.array(keep).reshape(3, 4)
  total, weight = masked.reduce(x, keep, "token_mean")
  if keep.any():
    mean = float(total / weight)
    slack = 1e-5 * (1 + np.abs(x).max())
    assert x[keep].min() - slack <= mean <= x[keep].max() + slack
  else:
    assert total == 0 == weight
