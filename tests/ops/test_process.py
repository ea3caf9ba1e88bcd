"""Rewards of steps: by hand, telescoping, holes, and the group's baselines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.ops import process, returns

P = np.array([[0.9, 0.2, 0.7, 0.4]])
EVERY = np.ones(P.shape, bool)


def reward(kind, p=P, mask=None, **changes):
  mask = np.ones(np.shape(p), bool) if mask is None else mask
  return np.asarray(process.step_reward(jnp.asarray(p), jnp.asarray(mask), kind,
                                        **changes))  # fmt: skip


def to_go(r):
  return np.cumsum(r[:, ::-1], 1)[:, ::-1]


def random(seed, n=64, s=9):
  """Scores with NaN in slots without a step, and the mask."""
  rng = np.random.default_rng(seed)
  mask = rng.random((n, s)) < 0.6
  mask[0], mask[1], mask[2] = False, True, np.arange(s) == 4
  return np.where(mask, rng.random((n, s)), np.nan), mask


def listed(kind, p, alpha, eta, temperature=0.1):
  """The sheet's rules on one answer's scores, as loops in float64."""
  p, size = [float(x) for x in p], len(p)
  if kind in ("clip", "clip_delta"):
    p = [min(x - eta, 0.0) for x in p]
  if kind in ("delta", "clip_delta"):
    out = []
    for k in range(1, size + 1):
      if k < size - 1:
        out.append(p[k - 1] - p[k])
      else:
        out.append(p[size - 2] if k == size - 1 else 0.0)
  elif kind == "progress":
    out = [x - y for x, y in zip(p, [eta, *p], strict=False)]
  elif kind == "min":
    weight = np.exp(-np.asarray(p) / temperature)
    out = list(p * weight / weight.sum())
  elif kind == "orm":
    out = [0.0] * (size - 1) + p[-1:]
  else:
    out = p
  return alpha * np.asarray(out)


def test_kinds_by_hand():
  # Numbers in f32: 1e-6 is a few units in the last place.
  close = lambda a, b: np.testing.assert_allclose(a, [b], atol=1e-6)
  close(reward("raw", alpha=0.5), [0.45, 0.1, 0.35, 0.2])
  close(reward("clip", eta=0.5), [0, -0.3, 0, -0.1])
  close(reward("delta"), [0.7, -0.5, 0.7, 0])
  close(reward("clip_delta", eta=0.5), [0.3, -0.3, 0, 0])
  close(reward("progress", eta=0.5), [0.4, -0.7, 0.5, -0.3])
  close(reward("orm", alpha=2.0), [0, 0, 0, 0.8])


def test_min_form_is_the_numbers_of_the_papers_code():
  p = np.array([[0.9, 0.8, -0.6, 0.7]])
  found = reward("min", p, temperature=1.0)
  np.testing.assert_allclose(
    found, [[0.1153, 0.1132, -0.3444, 0.1095]], atol=1e-4
  )
  np.testing.assert_allclose(to_go(reward("min", p)), [[-0.6] * 3 + [0.0]],
                             atol=1e-4)  # fmt: skip
  np.testing.assert_allclose(reward("min", np.full((1, 3), 0.5)),
                             np.full((1, 3), 1 / 6), atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("kind", process.KINDS)
def test_every_kind_is_the_rule_in_float64_with_holes(kind):
  p, mask = random(3)
  found = reward(kind, p, mask, alpha=0.3, eta=0.6)
  for row in range(len(p)):
    want = np.zeros(p.shape[1])
    if mask[row].any():
      want[mask[row]] = listed(kind, p[row][mask[row]], 0.3, 0.6)
    np.testing.assert_allclose(found[row], want, atol=2e-6)
  with jax.enable_x64(True):
    exact = reward(kind, p, mask, alpha=0.3, eta=0.6)
  assert exact.dtype == np.float64
  np.testing.assert_allclose(exact, found, atol=2e-6)


@pytest.mark.parametrize("kind", ["delta", "clip_delta"])
def test_what_follows_a_step_telescopes_to_its_own_score(kind):
  """[p_1 .., p_(S-1), 0] + c: not the version with its zero at the front."""
  p, mask = random(5)
  alpha, eta, c = 0.1, 0.6, 1.0
  found = reward(kind, p, mask, alpha=alpha, eta=eta)
  score = np.minimum(p - eta, 0) if kind == "clip_delta" else p
  for row in range(len(p)):
    own = score[row][mask[row]]
    if not len(own):
      continue
    want = alpha * np.append(own[:-1], 0.0) + c
    got = to_go(found[row][None])[0][mask[row]] + c
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_the_zero_stands_at_the_last_step_and_not_at_the_first():
  """Another reading of the paper telescopes too: it differs at the ends."""
  p, c = np.array([[0.9, 0.2, 0.7, 0.4]]), 1.0
  got = to_go(reward("delta", p))[0] + c
  np.testing.assert_allclose(got, [1.9, 1.2, 1.7, 1.0], atol=1e-6)
  shifted = to_go(np.array([[0.0, 0.2 - 0.7, 0.7 - 0.4, 0.4]]))[0] + c
  np.testing.assert_allclose(shifted, [1.2, 1.2, 1.7, 1.4], atol=1e-6)


def test_an_answer_of_one_step_earns_only_its_success():
  for kind in ("delta", "clip_delta"):
    assert reward(kind, [[0.3]], eta=0.9) == 0
  np.testing.assert_allclose(reward("raw", [[0.3]]), [[0.3]])
  np.testing.assert_allclose(reward("orm", [[0.3]]), [[0.3]])


def test_an_answer_without_steps_earns_nothing_and_has_no_gradient():
  empty = jnp.zeros((1, 3), bool)
  for kind in process.KINDS:
    loss = lambda p, kind=kind: process.step_reward(p, empty, kind).sum()
    value, slope = jax.value_and_grad(loss)(jnp.full((1, 3), jnp.nan))
    assert value == 0 and not slope.any()


@pytest.mark.parametrize("kind", process.KINDS)
def test_gradients_do_not_see_what_is_masked(kind):
  p, mask = random(7)
  weight = np.random.default_rng(0).random(p.shape)
  total = lambda x: (
    process.step_reward(x, jnp.asarray(mask), kind, 1.0, 0.6) * weight
  ).sum()
  slope = np.asarray(jax.grad(total)(jnp.asarray(p)))
  assert np.isfinite(slope).all() and not slope[~mask].any()


def test_repeating_a_good_step_pays_only_where_it_should_not():
  """A filler of 0.9 before the decisive step, once and ten times."""
  total = {}
  for count in (1, 10):
    p = np.array([[0.9] * count + [0.8]])
    for kind in process.KINDS:
      if kind != "progress":
        total[kind, count] = reward(kind, p, eta=0.85).sum()
  assert total["raw", 10] == pytest.approx(total["raw", 1] + 8.1, abs=1e-5)
  for kind in ("clip", "delta", "clip_delta", "orm"):
    assert total[kind, 10] == pytest.approx(total[kind, 1], abs=1e-6)
  # Delta alone pays the first filler against an answer at once.
  assert total["delta", 1] == pytest.approx(0.9, abs=1e-6)
  assert total["clip_delta", 1] == 0


def test_bad_words_are_refused():
  with pytest.raises(ValueError, match="kind"):
    reward("sum")
  with pytest.raises(ValueError, match="temperature"):
    reward("min", temperature=0.0)


def test_the_next_real_slot():
  x = np.array([[1.0, np.nan, 3.0, np.nan]])
  mask = np.array([[True, False, True, False]])
  value, there = process.following(jnp.asarray(x), jnp.asarray(mask))
  np.testing.assert_array_equal(value, [[3, 3, 0, 0]])
  np.testing.assert_array_equal(there, [[True, True, False, False]])


def test_steps_are_put_at_the_tokens_that_end_them():
  r = np.array([[0.1, 0.2, np.nan, 0.4], [1.0, 2.0, 3.0, np.nan]])
  end = np.array([[1, 4, -1, 6], [0, 0, 5, -7]])
  found = process.scatter_steps(jnp.asarray(r), jnp.asarray(end), 6)
  want = np.zeros((2, 6))
  want[0, 1], want[0, 4], want[1, 0], want[1, 5] = 0.1, 0.2, 3.0, 3.0
  np.testing.assert_allclose(found, want, atol=1e-7)
  slope = jax.grad(
    lambda r: process.scatter_steps(r, jnp.asarray(end), 6).sum()
  )(jnp.asarray(r))
  np.testing.assert_array_equal(slope, (end >= 0) & (end < 6))


@pytest.mark.parametrize("kind", ["raw", "clip", "delta", "clip_delta"])
def test_slots_and_tokens_are_the_same_steps(kind):
  """Rewards of steps side by side, scattered, are those in tokens' slots."""
  p, mask = random(11)
  end = [np.flatnonzero(row) for row in mask]
  width = max(map(len, end))
  at = np.stack([np.pad(e, (0, width - len(e)), constant_values=-1)
                 for e in end])  # fmt: skip
  side = np.take_along_axis(p, np.maximum(at, 0), 1)
  r = process.step_reward(jnp.asarray(side), jnp.asarray(at >= 0), kind, 1, 0.6)
  placed = process.scatter_steps(r, jnp.asarray(at), p.shape[1])
  np.testing.assert_allclose(placed, reward(kind, p, mask, eta=0.6), atol=1e-6)


def test_gae_at_one_and_a_critic_of_zero_is_the_return():
  """Every token of step k gets alpha p_k + c; those of the last step c."""
  p = np.array([[np.nan, 0.9, np.nan, 0.2, np.nan, 0.7]])
  end = ~np.isnan(p)
  r = process.step_reward(jnp.asarray(p), jnp.asarray(end), "delta", 0.1)
  every = jnp.ones(p.shape, bool)
  steps = r + returns.at_last(jnp.ones(1), every)
  value = jnp.zeros(p.shape)
  found, target = returns.gae(steps, value, every, 1.0, 1.0)
  want = [[1.09, 1.09, 1.02, 1.02, 1.0, 1.0]]
  np.testing.assert_allclose(found, want, atol=1e-6)
  np.testing.assert_allclose(target, want, atol=1e-6)
  # A critic that knows the returns leaves nothing.
  known, _ = returns.gae(steps, jnp.asarray(want), every, 1.0, 1.0)
  np.testing.assert_allclose(known, np.zeros((1, 6)), atol=1e-6)


def test_steps_of_tokens():
  end = jnp.asarray([[False, True, True, False, False]])
  np.testing.assert_array_equal(process.step_index(end), [[0, 0, 1, 2, 2]])


def test_the_baseline_of_a_step_is_that_of_its_index():
  # Two answers of a group: steps of 2, 1 and 1, 1, 2 tokens; a second group.
  index = np.array([[0, 0, 1, 9], [0, 1, 2, 2], [0, 1, 2, 3], [0, 0, 0, 0]])
  mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0], [0] * 4], bool)
  gain = np.array([[1.0, 1, 2, np.nan], [3, 5, 7, 7], [2, 4, np.nan, 8],
                   [np.nan] * 4])  # fmt: skip
  index = np.where(index > 4, 4, index)
  found = process.step_baseline(jnp.asarray(gain), jnp.asarray(index),
                                jnp.asarray(mask), 2)  # fmt: skip
  want = [[2, 2, 3.5, 0], [2, 3.5, 7, 7], [2, 4, 0, 0], [0] * 4]
  np.testing.assert_allclose(found, want, atol=1e-6)
