"""The law of a group's push: against all flips listed, and against the op."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.analytic import label_noise
from rlreward.ops import advantage, noise

G = 4


def listed(q, p, unit):
  """(E g, E g^2) over every group of right answers and every flip."""
  mean = square = total = 0.0
  coins = [(c,) * G for c in (0, 1)] if unit == "prompt" else None
  for x in itertools.product((0, 1), repeat=G):
    for f in coins or itertools.product((0, 1), repeat=G):
      right, on = np.asarray(x), np.asarray(f)
      chance = np.prod(np.where(right, q, 1 - q))
      of_flip = np.where(on, p, 1 - p)
      chance *= of_flip[0] if unit == "prompt" else np.prod(of_flip)
      y = np.where(on, 1 - right, right)
      sd = y.std(ddof=1)
      a = (y - y.mean()) / (sd + 1e-6) if sd else np.zeros(G)
      g = np.mean(a * (right - q))
      total += chance
      mean += chance * g
      square += chance * g * g
  assert total == pytest.approx(1)
  return mean, square


@pytest.mark.parametrize("unit", noise.UNITS)
@pytest.mark.parametrize(("q", "p"), [(0.1, 0.2), (0.6, 0.4), (0.9, 0.0)])
def test_against_every_group_listed(q, p, unit):
  mean, square = listed(q, p, unit)
  found = label_noise.push(q, p, G, unit)
  # The listed push is centred by q; as advantages add up to 0 it is the same.
  assert found.mean == pytest.approx(mean, abs=1e-12)
  assert found.sd**2 + found.mean**2 == pytest.approx(square, abs=1e-12)


@pytest.mark.parametrize("unit", noise.UNITS)
def test_against_the_op(unit):
  """20,000 groups of 8 by our advantages and flips: five standard errors."""
  n, size, q, p = 20_000, 8, 0.2, 0.3
  a, b = jax.random.split(jax.random.key(0))
  right = jax.random.bernoulli(a, q, (n, size)).astype(jnp.float32)
  group = jnp.repeat(jnp.arange(n), size)
  on = noise.flips(b, p, group, unit)
  y = noise.flip(right.reshape(-1), on).reshape(n, size)
  adv = advantage.group_advantage(y, jnp.ones((n, size), bool))
  g = np.asarray(jnp.mean(adv * right, 1), np.float64)
  law = label_noise.push(q, p, size, unit)
  assert g.mean() == pytest.approx(law.mean, abs=5 * law.sd / n**0.5)
  assert g.std() == pytest.approx(law.sd, rel=0.03)
  assert (adv**2).mean() == pytest.approx(law.square, rel=0.02)
  silent = (y == y[:, :1]).all(1).mean()
  assert silent == pytest.approx(law.silent, abs=5 * (0.25 / n) ** 0.5)


@pytest.mark.parametrize("p", [0.1, 0.2, 0.4, 0.5, 0.7])
def test_whole_questions_shrink_by_one_minus_two_p(p):
  for q in (0.05, 0.3, 0.9):
    found = label_noise.shrink(q, p, 8, "prompt")
    assert found == pytest.approx(1 - 2 * p, abs=1e-12)
    turned, plain = (label_noise.push(q, x, 8, "prompt") for x in (p, 0.0))
    # What the group says stays as large, and no group says more than before.
    second = lambda law: law.mean**2 + law.sd**2
    assert second(turned) == pytest.approx(second(plain), abs=1e-12)
    assert turned.silent == pytest.approx(plain.silent, abs=1e-12)


def test_without_the_scale_single_flips_shrink_alike():
  for q in (0.05, 0.5, 0.9):
    ends = [label_noise.push(q, p, 8, "sample", False) for p in (0.3, 0.0)]
    assert ends[0].mean / ends[1].mean == pytest.approx(0.4, abs=1e-12)


def test_single_flips_cost_more_where_right_answers_are_rare():
  hard, even = (label_noise.shrink(q, 0.2, 8) for q in (0.05, 0.5))
  assert even == pytest.approx(0.6, abs=1e-12)  # q' = q = 1/2 there
  assert hard < 0.51
  # And all groups say something, though there is nothing to learn in most.
  plain, noisy = (label_noise.push(0.02, p, 8).silent for p in (0.0, 0.2))
  assert plain > 0.8 and noisy < 0.2


def test_it_is_covariance_times_the_gap_of_advantages():
  q, p, size = 0.15, 0.3, 8
  seen = (1 - 2 * p) * q + p
  a = label_noise.advantages(size)
  m = np.arange(size + 1)
  chance = np.asarray([label_noise._binomial(k, size, seen) for k in m])
  ones = (chance * m * a[1]).sum() / (size * seen)
  zeros = (chance * (size - m) * a[0]).sum() / (size * (1 - seen))
  want = (1 - 2 * p) * q * (1 - q) * (ones - zeros)
  assert label_noise.push(q, p, size).mean == pytest.approx(want, abs=1e-12)


def test_an_unknown_unit_is_refused():
  with pytest.raises(ValueError, match="answer"):
    label_noise.push(0.5, 0.1, 8, "answer")
