"""Best-of-n: its exact law, divergences and bounds, and unbiased estimators.

Draw n outcomes from p, keep one of highest reward, ties at random. With F the
mass at or below a reward value, F- the mass below it and P = F - F-,

  pi_n(y) = p(y) / P * (F^n - F-^n).

Laws are in log-space with survival sums from the top: probabilities of 1e-300
and n of 1e9 keep their digits. A NaN reward ranks as -inf.

Reference: Asymptotics of Language Model Alignment, 2404.01730; Theoretical
guarantees on the best-of-n alignment policy, 2401.01879.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.polynomial import legendre

from rlreward.analytic.tilt import bisect
from rlreward.types import Array


def _classes(r_Y: Array) -> tuple[Array, Array, Array]:
  """(order, and the first and last place of each sorted reward's ties)."""
  r = jnp.where(jnp.isnan(r_Y), -jnp.inf, jnp.asarray(r_Y, float))
  order = jnp.argsort(r)
  place, new = jnp.arange(r.size), r[order][1:] != r[order][:-1]
  first = lax.cummax(jnp.where(jnp.append(True, new), place, 0))
  last = jnp.where(jnp.append(new, True), place, r.size - 1)
  last = lax.cummin(last, reverse=True)
  return order, first, last


def _log1mexp(x: Array) -> Array:
  """log(1 - exp(-x)) for x >= 0."""
  return jnp.where(x < 0.5, jnp.log(-jnp.expm1(-x)), jnp.log1p(-jnp.exp(-x)))


def _sorted_law(
  logp_Y: Array, r_Y: Array, n: float | Array
) -> tuple[Array, Array, Array, Array]:
  """(order, sorted log pi / p, log F, log P), each [Y]."""
  chex.assert_rank([logp_Y, r_Y], 1)
  chex.assert_equal_shape([logp_Y, r_Y])
  logp = jax.nn.log_softmax(jnp.asarray(logp_Y, float))
  order, first, last = _classes(jnp.where(logp > -jnp.inf, r_Y, -jnp.inf))
  logp, size = logp[order], logp.size
  none = jnp.full(1, -jnp.inf)
  below = jnp.concatenate([none, lax.cumlogsumexp(logp)])
  above = jnp.concatenate([lax.cumlogsumexp(logp, reverse=True), none])
  top = jnp.maximum(jax.ops.segment_max(logp, first, size)[first], -1e30)
  mass = jax.ops.segment_sum(jnp.exp(logp - top), first, size)[first]
  log_mass = top + jnp.log(mass)
  # Near 1 a cumulative mass is told by what is missing.
  most = lambda a, b: jnp.where(b < -0.7, jnp.log1p(-jnp.exp(b)), a)
  log_cdf = most(below[last + 1], above[last + 1])
  before = most(below[first], above[first])
  share = jnp.exp(log_mass - log_cdf)  # of the class in all at or below it
  small = jnp.log1p(-jnp.minimum(share, 0.5))
  fall = jnp.where(share < 0.5, small, before - log_cdf)
  gain = n * log_cdf + _log1mexp(-n * fall) - log_mass
  alive = log_mass > -jnp.inf
  return order, jnp.where(alive, gain, -jnp.inf), log_cdf, log_mass


def log_pmf(logp_Y: Array, r_Y: Array, n: float | Array) -> Array:
  """log pi_n; see `pmf`.

  Args:
    logp_Y: log-probs of the base law, up to a constant.
    r_Y, n: as of `pmf`.

  Returns:
    [Y], -inf where p is 0.
  """
  order, gain, _, _ = _sorted_law(logp_Y, r_Y, n)
  logp = jax.nn.log_softmax(jnp.asarray(logp_Y, float))
  return logp + jnp.zeros_like(gain).at[order].set(gain)


def pmf(p_Y: Array, r_Y: Array, n: float | Array) -> Array:
  """pi_n(y) = p(y) / P * (F^n - F-^n), ties at random.

  Args:
    p_Y: probabilities of the base law.
    r_Y: rewards.
    n: draws, at least 1.

  Returns:
    [Y], probabilities.
  """
  return jnp.exp(log_pmf(jnp.log(jnp.asarray(p_Y, float)), r_Y, n))


def kl(p_Y: Array, r_Y: Array, n: float | Array) -> Array:
  """KL(pi_n || p), exactly; at most `kl_bound` and -log p(argmax r).

  Args:
    p_Y, r_Y, n: as of `pmf`.

  Returns:
    f[], nats.
  """
  p = jnp.asarray(p_Y, float)
  order, gain, _, _ = _sorted_law(jnp.log(p), r_Y, n)
  pi = pmf(p, r_Y, n)[order]
  return jnp.maximum(jnp.sum(jnp.where(pi > 0, pi * gain, 0)), 0)


def mean_reward(p_Y: Array, r_Y: Array, n: float | Array) -> Array:
  """E_{pi_n} r.

  Args:
    p_Y, r_Y, n: as of `pmf`.

  Returns:
    f[], units of reward.
  """
  pi = pmf(p_Y, r_Y, n)
  return jnp.sum(jnp.where(pi > 0, pi * r_Y, 0))


def win_rate(p_Y: Array, r_Y: Array, n: float | Array) -> Array:
  """P(best of n beats one draw), ties counted half; at most n / (n + 1).

  Args:
    p_Y, r_Y, n: as of `pmf`.

  Returns:
    f[], a probability.
  """
  p = jnp.asarray(p_Y, float)
  order, _, log_cdf, log_mass = _sorted_law(jnp.log(p), r_Y, n)
  pi = pmf(p, r_Y, n)[order]
  return jnp.sum(pi * (jnp.exp(log_cdf) - jnp.exp(log_mass) / 2))


def kl_bound(n: float | Array) -> Array:
  """log n - (n - 1) / n: the KL for rewards without atoms, else a bound.

  Args:
    n: draws, at least 1.

  Returns:
    Nats.
  """
  n = jnp.asarray(n, float)
  return jnp.log(n) - (n - 1) / n


def kl_estimate(eps: Array, n: float | Array) -> Array:
  """KL of best-of-n from the probability of what was selected.

  (1 - e)^n (log n + (n - 1) log(1 - e) - (n - 1) / n) + h log(h / e) with
  h = 1 - (1 - e)^n: the law whose best outcome is an atom of mass e and whose
  rest has none. Average it over prompts.

  Args:
    eps: p(selected | x), in [0, 1]; any shape.
    n: draws, broadcastable.

  Returns:
    Nats; with eps = p(argmax r) between the exact KL and `kl_bound`.

  Reference: 2401.01879.
  """
  eps, n = jnp.asarray(eps, float), jnp.asarray(n, float)
  some = (eps > 0) & (eps < 1)
  e = jnp.where(some, eps, 0.5)
  miss = n * jnp.log1p(-e)
  hit = -jnp.expm1(miss)
  inside = jnp.exp(miss) * (kl_bound(n) + (n - 1) * jnp.log1p(-e))
  value = inside + hit * (jnp.log(hit) - jnp.log(e))
  return jnp.where(some, value, jnp.where(eps > 0, 0, kl_bound(n)))


def renyi_bound(n: float | Array, a: float | Array) -> Array:
  """D_a <= log(n^a / (a (n - 1) + 1)) / (a - 1).

  Args:
    n: draws, at least 1.
    a: order, at least 0; 1 is the KL, inf gives log n.

  Returns:
    Nats.
  """
  n, a = jnp.asarray(n, float), jnp.asarray(a, float)
  t, q = a - 1, (n - 1) / n
  plain = (t != 0) & (t < jnp.inf)
  safe = jnp.where(plain, t, 1)
  drop = jnp.where(plain, jnp.log1p(safe * q) / safe, jnp.where(t == 0, q, 0))
  return jnp.log(n) - drop


def chi_square_bound(n: float | Array) -> Array:
  """chi^2(pi_n || p) <= (n - 1)^2 / (2 n - 1).

  Args:
    n: draws, at least 1.

  Returns:
    Array of n's shape.
  """
  n = jnp.asarray(n, float)
  return (n - 1) ** 2 / (2 * n - 1)


def total_variation_bound(n: float | Array) -> Array:
  """TV(pi_n, p) <= n^(-1 / (n - 1)) - n^(-n / (n - 1)).

  Args:
    n: draws, at least 1.

  Returns:
    Array of n's shape, in [0, 1).
  """
  n = jnp.asarray(n, float)
  power = jnp.log(n) / jnp.where(n > 1, n - 1, 1)
  return jnp.exp(-power) * (n - 1) / n


def optimal_win_rate(kl_budget: float | Array) -> Array:
  """Best win rate within a KL budget, for rewards without atoms.

  The tilt exp(c U) of the rank U: W = 1 / (1 - exp(-c)) - 1 / c with budget =
  c W - log((exp(c) - 1) / c). Best-of-n has hardly less at its KL, n / (n + 1).

  Args:
    kl_budget: nats, at least 0; any shape.

  Returns:
    Probabilities in [1/2, 1).

  Reference: BoNBoN Alignment, 2406.00832.
  """
  budget = jnp.asarray(kl_budget, float)
  most = 80.0 if budget.dtype == jnp.float32 else 700.0
  target = jnp.clip(budget, jnp.finfo(budget.dtype).tiny, most - 2)

  def law(c):
    small = c < 0.1
    s, c = jnp.where(small, c, 0), jnp.where(small, 1, c)
    win = -1 / jnp.expm1(-c) - 1 / c
    win = jnp.where(small, 0.5 + s / 12 - s**3 / 720, win)
    # c W - log((exp(c) - 1) / c), with the c of both terms taken out.
    spent = c / jnp.expm1(c) - 1 - jnp.log(-jnp.expm1(-c)) + jnp.log(c)
    return win, jnp.where(small, s**2 / 24 - s**4 / 960, spent)

  # The rank's variance is at most 1/4, and log c - 1 <= budget.
  low, high = jnp.log(8 * target) / 2, target + 1
  c = jnp.exp(bisect(lambda u: law(jnp.exp(u))[1] < target, low, high))
  return jnp.where(budget > 0, law(c)[0], 0.5)


def weights(size: int, n: int | Array) -> Array:
  """C(i - 1, n - 1) / C(N, n), i = 1..N: P(the i-th lowest of N is the best).

  By its ratios (i - n) / (i - 1) from n / N down: log-gammas lose the digits
  that they have in common.

  Args:
    size: N, the pool.
    n: draws without replacement, 1 to N.

  Returns:
    [N], summing to 1; 0 for i < n.

  Raises:
    ValueError: n outside 1..N, where it is a Python number.
  """
  if isinstance(n, int) and not 1 <= n <= size:
    raise ValueError(f"n must lie in 1..{size}, the size of the pool, got {n}")
  i = jnp.arange(2, size + 1, dtype=float)
  ratio = jnp.log(jnp.maximum(i - n, 0)) - jnp.log(i - 1)
  down = jnp.cumsum(jnp.append(ratio, 0)[::-1])[::-1]
  return jnp.exp(down + jnp.log(n / jnp.asarray(size, float)))


def value_unbiased(
  reward_BxN: Array, n: int | Array, gold_BxN: Array | None = None
) -> Array:
  """Mean over all n-subsets of the pool of the value of the subset's best.

  Args:
    reward_BxN: the proxy that is maximised. Ties share their weight.
    n: draws, 1 to N.
    gold_BxN: what is wanted, for the gold-against-proxy curve; None means the
      proxy itself.

  Returns:
    [B], unbiased for E_{pi_n} gold.

  Raises:
    ValueError: as `weights`.
  """
  chex.assert_rank(reward_BxN, 2)
  gold = reward_BxN if gold_BxN is None else gold_BxN
  chex.assert_equal_shape([reward_BxN, gold])
  total = jnp.cumsum(weights(reward_BxN.shape[1], n))
  total = jnp.concatenate([jnp.zeros(1, total.dtype), total])

  def one(reward, gold):
    order, first, last = _classes(reward)
    share = (total[last + 1] - total[first]) / (last + 1 - first)
    return jnp.sum(jnp.where(share > 0, share * gold[order], 0))

  return jax.vmap(one)(reward_BxN, jnp.asarray(gold, float))


def pass_at_k(correct: Array, size: int | Array, k: int) -> Array:
  """1 - C(N - c, k) / C(N, k): P(a k-subset of the pool has a correct one).

  Args:
    correct: c of each pool; any shape.
    size: N of each pool, broadcastable.
    k: draws, a Python number.

  Returns:
    Unbiased pass@k; NaN where k > N.

  Reference: 2107.03374.
  """
  c, size = jnp.asarray(correct, float), jnp.asarray(size, float)
  left = jnp.maximum(size[..., None] - jnp.arange(k), 1)
  miss = jnp.log1p(-jnp.minimum(c[..., None] / left, 1))
  return jnp.where(k <= size, -jnp.expm1(jnp.sum(miss, axis=-1)), jnp.nan)


def majority_at_k(
  answer_BxN: Array, gold_B: Array, k: int, valid_BxN: Array | None = None
) -> Array:
  """maj@k: P(the majority of a k-subset of the pool is right), ties at random.

  Exact, with neither key nor variance. A k-subset is what coins of bias k / N
  leave, given that they leave k: counts of answers are binomial, their sums
  convolutions. For each count m of the right answer the others are capped at m,
  and t ties pay 1 / (t + 1), the integral of y^t over [0, 1], exact by a Gauss
  rule. O(A k^3 log k) for A answers.

  Args:
    answer_BxN: i32, answer ids; any integers.
    gold_B: i32, the right ids.
    k: draws, a Python number in 1..N.
    valid_BxN: bool; others are drawn but have no vote. None means all.

  Returns:
    [B], unbiased maj@k; 0 where only samples without a vote are drawn.

  Raises:
    ValueError: k outside 1..N.

  Reference: self-consistency, 2203.11171.
  """
  size = answer_BxN.shape[1]
  if not 1 <= k <= size:
    raise ValueError(f"k must lie in 1..{size}, the size of the pool, got {k}")
  valid = jnp.ones(answer_BxN.shape, bool) if valid_BxN is None else valid_BxN
  table = jnp.asarray(_binomials(size, k))
  # Q: each count m of the right answer with each node y of its Gauss rule.
  rule = lambda m: np.transpose(legendre.leggauss((k // m + 1) // 2))
  nodes = [(m, *node) for m in range(1, k + 1) for node in rule(m)]
  m_Q, y_Q, w_Q = np.array(nodes).T
  m_Q, y_Q, w_Q = m_Q.astype(int), (y_Q + 1) / 2, w_Q / 2
  j = np.arange(k + 1)
  cap_QxJ = (j < m_Q[:, None]) + (j == m_Q[:, None]) * y_Q[:, None]
  drawn = j[:, None] - j  # used after - used before

  def one(answer, gold, valid):
    same = (answer[:, None] == answer) & valid
    first = valid & (jnp.argmax(same, axis=1) == jnp.arange(size))
    count = jnp.where(first, jnp.sum(same, axis=1), 0)
    others = -jnp.sort(-jnp.where(answer == gold, 0, count))
    right = jnp.sum(valid & (answer == gold))

    def draw(i, state_QxJ):
      chance = (table[others[i]] * cap_QxJ)[:, np.maximum(drawn, 0)]
      return jnp.einsum(
        "qab,qb->qa", jnp.where(drawn >= 0, chance, 0), state_QxJ
      )

    state = jnp.broadcast_to(table[size - jnp.sum(valid)], cap_QxJ.shape)
    state = lax.fori_loop(0, jnp.sum(others > 0), draw, state)
    rest = state[jnp.arange(len(m_Q)), k - m_Q]
    return jnp.sum(w_Q * table[right][m_Q] * rest) / table[size, k]

  return jax.vmap(one)(answer_BxN, gold_B, valid)


def _binomials(size: int, k: int) -> np.ndarray:
  """[size + 1, k + 1], P(j of i coins show heads) at bias k / size."""
  log = np.concatenate([[0], np.cumsum(np.log(np.arange(1, size + 1)))])
  i, j = np.arange(size + 1)[:, None], np.arange(k + 1)
  tails = np.maximum(i - j, 0)
  rate = np.exp(log[i] - log[j] - log[tails] + j * np.log(k / size))
  return np.where(j <= i, rate * (1 - k / size) ** tails, 0)
