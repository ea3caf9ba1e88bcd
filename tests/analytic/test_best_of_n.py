"""Best-of-n: the worked example, enumeration of all draws and all subsets.

Everything in float64; tables are printed to 6 digits. Enumerations agree to
1e-12: sums of at most a few thousand terms of size 1.
"""

import fractions
import itertools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from rlreward.analytic import best_of_n as bon
from rlreward.analytic import tilt

P, R = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 2.0])
# Compiled once per shape: hypothesis would else trace each example.
log_pmf, pmf, kl = map(jax.jit, (bon.log_pmf, bon.pmf, bon.kl))
win_rate, mean_reward = jax.jit(bon.win_rate), jax.jit(bon.mean_reward)
settings = hypothesis.settings(max_examples=40, deadline=None, derandomize=True)

# n, pi_n, KL, bound, estimate(.2), E r, best E r at that KL, W, D_2 (bound),
# TV (bound)
TABLE = """
2 .25 .39 .36 .140638 .193147 .192406 1.11 1.127918 .64 .24686 .28768 .25 .25
4 .0625 .3471 .5904 .559751 .636294 .625525 1.5279 1.550165 .7726 .76652 .82668
  .4375 .47247
8 .003906 .163866 .832228 1.068533 1.204442 1.126592 1.828322 1.835092 .856494
  1.26767 1.45083 .63223 .65012
16 .000015 .028132 .971853 1.469645 1.835089 1.493828 1.971837 1.972031 .892957
  1.55289 2.11119 .77185 .77929
64 0 .000001 .999999 1.609428 3.174508 1.609429 1.999999 1.999999 .9
  1.60944 3.47358 .8 .92149
"""
ROWS = np.array(TABLE.split(), float).reshape(5, 14)


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def _law(seed, size=6):
  """A law with ties, an outcome of probability 0 and one of 1e-12."""
  rng = np.random.default_rng(seed)
  p = rng.dirichlet(np.ones(size))
  p[rng.integers(size)] = 1e-12
  p[rng.integers(size)] = 0
  return p / p.sum(), rng.integers(0, 4, size).astype(float)


def _enumerated(p, r, n):
  """Every n-tuple of draws; the winner's mass is shared among the tied."""
  pi = np.zeros(len(p))
  for draw in itertools.product(range(len(p)), repeat=n):
    top = max(r[i] for i in draw)
    tied = [i for i in draw if r[i] == top]
    for i in tied:
      pi[i] += np.prod(p[list(draw)]) / len(tied)
  return pi


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"n{row[0]:.0f}")
def test_worked_example(row):
  n = row[0]
  pi = pmf(P, R, n)
  alpha = tilt.solve_alpha(np.log(P), R, kl(P, R, n))
  six = [
    *pi, kl(P, R, n), bon.kl_bound(n), bon.kl_estimate(0.2, n),
    mean_reward(P, R, n), tilt.mean_reward(np.log(P), R, alpha),
  ]  # fmt: skip
  np.testing.assert_allclose(six, row[1:9], atol=1e-6)
  np.testing.assert_allclose(win_rate(P, R, n), row[9], atol=1e-6)
  five = [
    np.log(np.sum(pi**2 / P)), bon.renyi_bound(n, 2.0),
    np.abs(pi - P).sum() / 2, bon.total_variation_bound(n),
  ]  # fmt: skip
  np.testing.assert_allclose(five, row[10:], atol=6e-6)


def test_ties_are_not_broken_by_id():
  p, r = np.array([0.25, 0.25, 0.5]), np.array([1.0, 1.0, 0.0])
  np.testing.assert_allclose(pmf(p, r, 4), [0.46875, 0.46875, 0.0625])
  np.testing.assert_allclose(kl(p, r, 4), 0.459356, atol=1e-6)


def test_uniform_law_nears_the_bound():
  want = {
    4: (0.59031, 1.33007, 1.38629),
    64: (0.63611, 1.83248, 3.13379),
    4096: (0.63629, 1.83509, 3.17450),
  }
  for size, row in want.items():
    p, r = np.full(size, 1 / size), np.arange(size)
    got = [kl(p, r, n) for n in (4, 16, 64)]
    np.testing.assert_allclose(got, row, atol=6e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_law_by_enumeration(seed, n):
  p, r = _law(seed, 5)
  pi = _enumerated(p, r, n)
  np.testing.assert_allclose(pmf(p, r, n), pi, rtol=1e-10, atol=1e-15)
  np.testing.assert_allclose(mean_reward(p, r, n), pi @ r, atol=1e-12)
  some = pi > 0
  want = np.sum(pi[some] * np.log(pi[some] / p[some]))
  np.testing.assert_allclose(kl(p, r, n), want, atol=1e-12)
  beats = (r[:, None] > r) + 0.5 * (r[:, None] == r)
  np.testing.assert_allclose(win_rate(p, r, n), pi @ beats @ p, atol=1e-12)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_rounds_of_exact_fine_tuning_compose(rounds):
  """T rounds of best-of-K are best-of-K^T; .0625, .3471, .5904 and so on."""
  for p, r in ((P, R), _law(0), _law(5)):
    law = p
    for _ in range(rounds):
      law = pmf(law, r, 4)
    np.testing.assert_allclose(law, pmf(p, r, 4**rounds), atol=1e-13)


def _exact(p, r, n):
  """The law in rational arithmetic."""
  p = [fractions.Fraction(x) for x in p]
  total = sum(p)
  out = []
  for y in range(len(p)):
    mass = sum(q for q, s in zip(p, r, strict=True) if s == r[y])
    below = sum(q for q, s in zip(p, r, strict=True) if s < r[y])
    cdf = (below + mass) / total
    out.append(p[y] / mass * (cdf**n - (below / total) ** n))
  return out


def test_digits_of_rare_outcomes():
  p = [1e-300, 0.4, 1e-150, 0.6, 1e-300, 1e-9]
  r = [3.0, 1.0, 2.0, 0.0, 3.0, 4.0]
  got = log_pmf(np.log(p), np.array(r), 7)
  for have, want in zip(got, _exact(p, r, 7), strict=True):
    log = math.log(want.numerator) - math.log(want.denominator)
    np.testing.assert_allclose(have, log, rtol=1e-13, atol=1e-13)


def test_a_billion_draws():
  """n P of order 1: the best outcome wins with 1 - exp(-n P)."""
  p = np.array([0.5, 0.5 - 1e-9, 1e-9])
  n = 1e9
  got = np.asarray(log_pmf(np.log(p), R, n))
  np.testing.assert_allclose(np.exp(got[2]), 1 - np.exp(-1), rtol=1e-8)
  # exact: F^n with log F = log1p(-1e-9) and log(1/2)
  np.testing.assert_allclose(got[1], n * np.log1p(-1e-9), atol=1e-6)
  np.testing.assert_allclose(got[0], n * np.log(0.5), rtol=1e-12)
  rare = log_pmf(np.array([0.0, -300 * np.log(10)]), R[:2], n)
  np.testing.assert_allclose(rare[1], np.log(n) - 300 * np.log(10), rtol=1e-14)
  np.testing.assert_allclose(rare[0], -1e-291)


def test_what_never_happens_does_not_matter():
  for r in (np.nan, np.inf, 9.0, -np.inf):
    p, rewards = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.0, 1.0, 2.0, r])
    np.testing.assert_allclose(pmf(p, rewards, 4)[:3], pmf(P, R, 4))
    assert pmf(p, rewards, 4)[3] == 0
    for f in (kl, win_rate, mean_reward):
      np.testing.assert_allclose(f(p, rewards, 4), f(P, R, 4))
  # A NaN ranks last: it is selected only where all else is.
  nan = pmf(P, np.array([np.nan, 1.0, 2.0]), 4)
  np.testing.assert_allclose(nan, pmf(P, R, 4))


@settings
@hypothesis.given(st.integers(0, 10**6), st.integers(1, 40))
def test_bounds_and_monotonicity(seed, n):
  p, r = _law(seed)
  pi, base = np.asarray(pmf(p, r, n)), p > 0
  np.testing.assert_allclose(pi.sum(), 1, atol=1e-12)
  value, top = kl(p, r, n), p[r == r[base].max()].sum()
  tiny = 1e-9
  assert -tiny <= value <= bon.kl_bound(n) + tiny
  assert value <= -np.log(top) + tiny
  estimate = bon.kl_estimate(top, n)
  assert value - tiny <= estimate <= bon.kl_bound(n) + tiny
  assert win_rate(p, r, n) <= n / (n + 1) + tiny
  assert np.abs(pi - p).sum() / 2 <= bon.total_variation_bound(n) + tiny
  ratio = pi[base] / p[base]
  assert p[base] @ (ratio - 1) ** 2 <= bon.chi_square_bound(n) + tiny
  for a in (0.5, 2.0, 5.0):
    renyi = np.log(p[base] @ ratio**a) / (a - 1)
    assert renyi <= bon.renyi_bound(n, a) + tiny
  assert kl(p, r, n + 1) >= value - tiny
  assert mean_reward(p, r, n + 1) >= mean_reward(p, r, n) - tiny
  # What the tilt reaches with the same KL is no less.
  with np.errstate(divide="ignore"):
    best = tilt.dual_value(np.log(p), np.where(base, r, 0), value)
  assert mean_reward(p, r, n) <= best + 1e-6


@settings
@hypothesis.given(st.integers(0, 10**6), st.integers(1, 20))
def test_data_processing(seed, n):
  """Merging the ties of a reward keeps the KL; forgetting ranks lowers it."""
  p, r = _law(seed)
  classes = np.array([p[r == v].sum() for v in range(4)])
  np.testing.assert_allclose(kl(p, r, n), kl(classes, R4, n), atol=1e-12)
  half = np.array([classes[:2].sum(), classes[2:].sum(), 0, 0])
  assert kl(half, R4, n) <= kl(p, r, n) + 1e-12


R4 = np.arange(4.0)


def test_limits_of_the_bounds():
  n = np.array([1.0, 2.0, 100.0])
  np.testing.assert_allclose(bon.renyi_bound(n, 1.0), bon.kl_bound(n))
  np.testing.assert_allclose(bon.renyi_bound(n, 1 + 1e-12), bon.kl_bound(n))
  np.testing.assert_allclose(bon.renyi_bound(n, np.inf), np.log(n))
  np.testing.assert_allclose(bon.renyi_bound(n, 0.0), 0, atol=1e-15)
  np.testing.assert_allclose(
    bon.chi_square_bound(n), np.expm1(bon.renyi_bound(n, 2.0)), atol=1e-13
  )
  eps = np.array([0.0, 1e-300, 1.0])
  np.testing.assert_allclose(
    bon.kl_estimate(eps, 16), [bon.kl_bound(16)] * 2 + [0]
  )
  np.testing.assert_allclose(bon.kl_estimate(0.3, 1), 0, atol=1e-15)
  assert bon.total_variation_bound(1) == 0


def test_optimal_win_rate():
  n = np.array([2.0, 4, 8, 16, 64])
  gap = bon.optimal_win_rate(bon.kl_bound(n)) - n / (n + 1)
  want = [0.009240, 0.003996, 0.000786, 0.000110, 0.000002]
  np.testing.assert_allclose(gap, want, atol=1e-6)
  # The tilt of many equal ranks has the same frontier, up to 1 / size^2.
  size = 2000
  logp, r = np.zeros(size), (np.arange(size) + 0.5) / size
  for budget in (1e-4, 0.02, 0.7, 3.0):
    np.testing.assert_allclose(
      tilt.dual_value(logp, r, budget),
      bon.optimal_win_rate(budget),
      atol=1e-5,
    )
  rising = bon.optimal_win_rate(np.array([0, 1e-300, 1e-8, 1, 30, 600]))
  assert rising[0] == 0.5 and np.all(np.diff(rising) >= 0) and rising[-1] <= 1
  np.testing.assert_allclose(rising[2], 0.5 + np.sqrt(24e-8) / 12, rtol=1e-9)


def test_weights_and_value():
  np.testing.assert_allclose(
    bon.weights(6, 3), [0, 0, 0.05, 0.15, 0.3, 0.5], atol=1e-15
  )
  pool = jnp.array([[0.1, 0.9, 0.4, 0.4, 0.7, 0.2]])
  np.testing.assert_allclose(bon.value_unbiased(pool, 3), [0.74])
  for size, n in ((1, 1), (5, 1), (5, 5), (60, 7), (900, 256)):
    want = [math.comb(i - 1, n - 1) / math.comb(size, n)
            for i in range(1, size + 1)]  # fmt: skip
    np.testing.assert_allclose(bon.weights(size, n), want, rtol=1e-10)
  many = jax.vmap(lambda n: bon.weights(60, n))(jnp.array([7, 1]))
  np.testing.assert_allclose(many[0], bon.weights(60, 7))
  with pytest.raises(ValueError, match="pool"):
    bon.weights(5, 6)
  with jax.enable_x64(False):
    # Product form: a log-gamma of 900 in float32 would be off by 1e-3.
    np.testing.assert_allclose(
      bon.weights(900, 256)[-100:], want[-100:], rtol=5e-5
    )


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_value_over_all_subsets(n):
  """With gold and tied proxies: a tied subset is worth its mean gold."""
  rng = np.random.default_rng(0)
  proxy, gold = rng.integers(0, 3, (3, 6)), rng.normal(size=(3, 6))
  want = np.zeros(3)
  for b in range(3):
    subsets = list(itertools.combinations(range(6), n))
    for subset in map(list, subsets):
      top = proxy[b, subset] == proxy[b, subset].max()
      want[b] += gold[b, subset][top].mean() / len(subsets)
  got = jax.jit(bon.value_unbiased, static_argnums=1)(proxy, n, gold)
  np.testing.assert_allclose(got, want, atol=1e-12)


def test_value_is_unbiased_and_beats_blocks():
  """Averaged over all pools of 4 from E1 it is E_{pi_2} r, exactly."""
  pools = np.array(list(itertools.product(range(3), repeat=4)))
  chance = np.prod(P[pools], axis=1)
  value = np.asarray(bon.value_unbiased(jnp.asarray(R[pools]), 2))
  np.testing.assert_allclose(chance @ value, mean_reward(P, R, 2), atol=1e-12)
  blocks = R[pools].reshape(-1, 2, 2).max(axis=2).mean(axis=1)
  spread = lambda x: chance @ (x - chance @ x) ** 2
  assert spread(value) < spread(blocks)


def test_pass_at_k():
  np.testing.assert_allclose(bon.pass_at_k(2, 6, 3), 0.8)
  for size, k in ((6, 1), (6, 6), (200, 64), (1000, 3)):
    c = np.array([0, 1, size // 2, size - 1, size])
    want = [1 - math.comb(size - x, k) / math.comb(size, k) for x in c]
    np.testing.assert_allclose(
      bon.pass_at_k(c, size, k), want, rtol=1e-11, atol=1e-15
    )
  rows = bon.pass_at_k(np.array([1, 1]), np.array([4, 2]), 3)
  np.testing.assert_allclose(rows, [0.75, np.nan])


def _majority_loop(answer, gold, k, valid):
  total, subsets = 0.0, list(itertools.combinations(range(len(answer)), k))
  for subset in subsets:
    votes = [answer[i] for i in subset if valid[i]]
    if votes:
      counts = {a: votes.count(a) for a in votes}
      tied = [a for a in counts if counts[a] == max(counts.values())]
      total += (gold in tied) / len(tied)
  return total / len(subsets)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7, 8])
def test_majority_over_all_subsets(k):
  rng = np.random.default_rng(k)
  answer = rng.integers(-2, 3, (5, 8))
  answer[0] = np.arange(8)  # all different: ties everywhere
  answer[1] = 3
  gold = np.array([2, 3, -2, 0, 99])
  valid = rng.uniform(size=(5, 8)) < 0.7
  valid[:2] = True
  valid[3] = [0, 0, 0, 0, 0, 0, 0, 1]
  f = jax.jit(bon.majority_at_k, static_argnums=2)
  for mask in (valid, None):
    got = f(answer, gold, k, mask)
    rows = np.ones_like(valid) if mask is None else mask
    want = [_majority_loop(answer[b], gold[b], k, rows[b]) for b in range(5)]
    np.testing.assert_allclose(got, want, atol=1e-12)


def test_majority_of_large_pools():
  """Two answers: a hypergeometric tail, half of the tie."""
  stats = pytest.importorskip("scipy.stats")
  size, right, k = 300, 140, 32
  answer = (np.arange(size) < right)[None] * 1
  law = stats.hypergeom(size, right, k)
  want = law.sf(k // 2) + law.pmf(k // 2) / 2
  got = bon.majority_at_k(answer, np.array([1]), k)
  np.testing.assert_allclose(got, [want], rtol=1e-10)
  with jax.enable_x64(False):
    narrow = bon.majority_at_k(answer, np.array([1]), k)
    np.testing.assert_allclose(narrow, [want], rtol=2e-5)
  with pytest.raises(ValueError, match="pool"):
    bon.majority_at_k(answer, np.array([1]), 301)


def test_float32():
  """1e-4: rounding of n log F at n = 64 over a KL of 1.6."""
  with jax.enable_x64(False):
    for row in ROWS:
      n = np.float32(row[0])
      got = bon.pmf(np.float32(P), R, n)
      assert got.dtype == jnp.float32
      np.testing.assert_allclose(got, row[1:4], atol=1e-5)
      np.testing.assert_allclose(bon.kl(P, R, n), row[4], atol=1e-4)
