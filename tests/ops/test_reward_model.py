"""Reward-model losses: hand numbers, exact enumeration, torch and TRL."""

import collections
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.ops import reward_model as rm

# float32 against closed forms in float64; values of order 1.
TOL = 1e-5
BIG = jnp.array([1e4, -1e4, 1e4, 0.0, -1e4])
BIGGER = jnp.array([-1e4, 1e4, 1e4, 1e4, -1e4])
NAN = jnp.nan


def _rng(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def _f32(x):
  return jnp.asarray(x, jnp.float32)


def _sigma(x):
  return 1 / (1 + np.exp(-np.float64(x)))


def _finite(f, *args):
  """Gradients of the sum of f, checked to be finite with the value."""
  pulled = jax.jit(jax.value_and_grad(lambda a: jnp.sum(f(*a))))
  value, grads = pulled(args)
  assert np.isfinite(value)
  assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
  return grads


# ---------------------------------------------------------------- pairs
def test_hand_numbers():
  c, r = jnp.array([1.2]), jnp.array([0.5])
  plain = rm.bradley_terry(c, r)
  np.testing.assert_allclose(plain, [0.403186], atol=1e-6)
  whole = rm.bradley_terry(c, r, margin=0.3) + rm.centering_penalty(c, r, 0.01)
  np.testing.assert_allclose(whole, [0.541915], atol=1e-6)


def test_settings_of_bradley_terry():
  """Each against its float64 closed form."""
  c, r = _rng(7), _rng(7, seed=1)
  p, m = np.linspace(0, 1, 7), np.linspace(0, 2, 7)
  d = 0.1 * (c - r) - m
  want = -(p * np.log(_sigma(d)) + (1 - p) * np.log(_sigma(-d))) * (m + 1)
  got = rm.bradley_terry(
    _f32(c), _f32(r), margin=_f32(m), scale=0.1, label_smoothing=_f32(1 - p),
    weight=_f32(m + 1),
  )  # fmt: skip
  np.testing.assert_allclose(got, want, atol=TOL)
  # The sheet's cDPO numbers: beta .1, eps .1, loss .620957 -> .635957.
  h = np.log(1 / (np.exp(0.620957) - 1))
  one = _f32([h / 0.1])
  zero = jnp.zeros(1)
  np.testing.assert_allclose(
    rm.bradley_terry(one, zero, scale=0.1), 0.620957, atol=2e-6
  )
  np.testing.assert_allclose(
    rm.bradley_terry(one, zero, scale=0.1, label_smoothing=0.1), 0.635957,
    atol=2e-6,
  )  # fmt: skip


@pytest.mark.parametrize("margin", [False, True])
@pytest.mark.parametrize("coefficient", [None, 0.01])
def test_trl(margin, coefficient):
  """RewardTrainer's own compute_loss, run on scores that are given."""
  torch = pytest.importorskip("torch")
  trainer = pytest.importorskip("trl.trainer.reward_trainer").RewardTrainer
  c, r, m = _rng(5), _rng(5, seed=1), np.abs(_rng(5, seed=2))
  scores = torch.tensor(np.concatenate([c, r]), requires_grad=True)
  metrics = {"train": collections.defaultdict(list)}
  same = lambda x: x
  self = types.SimpleNamespace(
    model=types.SimpleNamespace(training=True),
    args=types.SimpleNamespace(center_rewards_coefficient=coefficient),
    accelerator=types.SimpleNamespace(gather=same, gather_for_metrics=same),
    _metrics=metrics, _total_train_tokens=0, _tp_size=1,
  )  # fmt: skip
  model = lambda **_: types.SimpleNamespace(logits=scores[:, None])
  inputs = {"attention_mask": torch.ones(10, 1)}
  if margin:
    inputs["margin"] = torch.tensor(m)
  want = trainer.compute_loss(self, model, inputs)
  want.backward()

  def ours(c, r):
    loss = rm.bradley_terry(c, r, margin=_f32(m) if margin else 0.0)
    return jnp.mean(loss + rm.centering_penalty(c, r, coefficient or 0.0))

  value, grads = jax.value_and_grad(ours, (0, 1))(_f32(c), _f32(r))
  np.testing.assert_allclose(value, want.item(), atol=TOL)
  np.testing.assert_allclose(
    np.concatenate(grads), scores.grad.numpy(), atol=TOL
  )
  accuracy = metrics["train"]["accuracy"][0]
  got = rm.pair_accuracy(_f32(c), _f32(r)).mean()
  assert float(got) == pytest.approx(accuracy)


def test_known_scores_are_recovered():
  """Population loss over all pairs of 6 items; the constant is free."""
  true = _f32([-1.5, -0.7, 0.0, 0.4, 0.8, 2.0])
  i, j = (jnp.asarray(x) for x in np.triu_indices(6, 1))
  wrong = jax.nn.sigmoid(true[j] - true[i])

  def loss(s):
    return rm.bradley_terry(s[i], s[j], label_smoothing=wrong).mean()

  @jax.jit
  def fit(s):
    step = lambda s, _: (s - 5 * jax.grad(loss)(s), None)
    return jax.lax.scan(step, s, length=1000)[0]

  got = fit(jnp.full(6, 3.0))
  assert abs(float(got.mean()) - 3) < 1e-3  # comparisons do not move the mean
  np.testing.assert_allclose(got - got.mean(), true - true.mean(), atol=1e-3)

  @jax.jit
  def centred(s):
    def total(s):
      return loss(s) + rm.centering_penalty(s[i], s[j], 0.01).mean()

    step = lambda s, _: (s - 2 * jax.grad(total)(s), None)
    return jax.lax.scan(step, s, length=1000)[0]

  assert abs(float(centred(jnp.full(6, 3.0)).mean())) < 0.05


@pytest.mark.parametrize("name", ["bt", "centre", "rao_kupper", "davidson"])
def test_pairs_left_out_and_huge_scores(name):
  tie = jnp.array([True, False, True, True, False])
  loss = {
    "bt": lambda c, r, w: rm.bradley_terry(
      c, r, margin=0.1, label_smoothing=0.1, weight=w),
    "centre": lambda c, r, w: rm.centering_penalty(c, r, 0.01, w),
    "rao_kupper": lambda c, r, w: rm.rao_kupper(c, r, tie, 0.5, w),
    "davidson": lambda c, r, w: rm.davidson(c, r, tie, 0.5, w),
  }[name]  # fmt: skip
  _finite(lambda c, r: loss(c, r, 1.0), BIG, BIGGER)
  weight = jnp.array([1.0, 0.0, 2.0, 0.0, 1.0])
  live = weight > 0
  c, r = _f32(_rng(5)), _f32(_rng(5, seed=1))
  dirty = jnp.where(live, c, NAN), jnp.where(live, r, jnp.inf)
  f = lambda c, r: loss(c, r, weight)
  grads = _finite(f, *dirty)
  clean = _finite(f, c, r)
  jax.tree.map(np.testing.assert_array_equal, grads, clean)
  assert not np.any(grads[0][~live]) and np.any(grads[0][live])
  np.testing.assert_array_equal(f(*dirty), f(c, r))
  np.testing.assert_allclose(
    f(c, r)[live], (weight * loss(c, r, 1.0))[live], rtol=1e-6
  )


def test_settings_of_a_pair_left_out_may_be_nan():
  weight = jnp.array([1.0, 0.0])
  bad = jnp.array([0.5, NAN])

  def f(s):
    return rm.bradley_terry(
      s, -s, margin=bad, scale=bad, label_smoothing=bad, weight=weight
    )

  assert np.any(_finite(f, jnp.array([0.3, NAN])))


# ----------------------------------------------------------------- ties
def _outcomes(loss, d, setting):
  """Probabilities of win, loss and tie at the difference d."""
  d, zero = _f32(d), jnp.zeros(len(d))
  no, yes = jnp.zeros(len(d), bool), jnp.ones(len(d), bool)
  parts = (d, zero, no), (zero, d, no), (d, zero, yes)
  loss = jax.jit(loss)
  return [np.exp(-np.float64(loss(*a, setting))) for a in parts]


@pytest.mark.parametrize("setting", [0.01, 0.5, 3.0])
def test_outcomes_of_a_pair_sum_to_one(setting):
  d = np.linspace(-6, 6, 13)
  a, b = np.exp(d), np.ones(13)
  k = np.exp(setting)
  wins, losses, ties = _outcomes(rm.rao_kupper, d, setting)
  np.testing.assert_allclose(wins + losses + ties, 1, atol=TOL)
  np.testing.assert_allclose(wins, a / (a + k * b), atol=TOL)
  want = a * b * (k**2 - 1) / ((a + k * b) * (k * a + b))
  np.testing.assert_allclose(ties, want, atol=TOL)
  wins, losses, ties = _outcomes(rm.davidson, d, setting)
  np.testing.assert_allclose(wins + losses + ties, 1, atol=TOL)
  total = a + b + k * np.sqrt(a * b)
  np.testing.assert_allclose(wins, a / total, atol=TOL)
  np.testing.assert_allclose(ties, k * np.sqrt(a * b) / total, atol=TOL)


def test_without_ties_both_are_bradley_terry():
  c, r = _f32(_rng(6)), _f32(_rng(6, seed=1))
  no = jnp.zeros(6, bool)
  want = rm.bradley_terry(c, r)
  np.testing.assert_allclose(rm.davidson(c, r, no, -np.inf), want, atol=TOL)
  np.testing.assert_allclose(rm.rao_kupper(c, r, no, 1e-7), want, atol=TOL)
  _finite(lambda c, r: rm.davidson(c, r, no, -np.inf), c, r)
  # A learned threshold that has reached 0 hurts only where there is a tie.
  grad = jax.grad(lambda t: rm.rao_kupper(c, r, no, t).sum())(0.0)
  assert np.isfinite(grad)


@pytest.mark.parametrize("loss", [rm.rao_kupper, rm.davidson])
def test_the_tie_parameter_is_learned(loss):
  """The gradient vanishes at the truth and only there (population loss)."""
  d = np.linspace(-2, 2, 9)
  wins, losses, ties = _outcomes(loss, d, 0.7)
  c, zero = _f32(d), jnp.zeros(9)
  no, yes = jnp.zeros(9, bool), jnp.ones(9, bool)

  def population(setting):
    return jnp.sum(
      loss(c, zero, no, setting, _f32(wins))
      + loss(zero, c, no, setting, _f32(losses))
      + loss(c, zero, yes, setting, _f32(ties))
    )

  slope = jax.jit(jax.grad(population))
  assert abs(slope(0.7)) < 1e-5
  assert slope(0.5) < -0.05 and slope(0.9) > 0.05
  assert np.isfinite(slope(1e-3)) and np.isfinite(slope(50.0))


# ------------------------------------------------------------- rankings
def test_plackett_luce_over_all_orders_sums_to_one():
  scores = _rng(4)
  orders = list(itertools.permutations(range(4)))  # places of the items
  rank = jnp.asarray(orders)
  many = jnp.broadcast_to(_f32(scores), rank.shape)
  p = np.exp(-np.float64(rm.plackett_luce(many, rank)))
  np.testing.assert_allclose(p.sum(), 1, atol=TOL)
  for places, got in zip(orders, p, strict=True):
    e = np.exp(scores[np.argsort(places)])
    want = np.prod([e[i] / e[i:].sum() for i in range(4)])
    np.testing.assert_allclose(got, want, rtol=1e-5)
  # The first two places: 12 outcomes, each shared by the 2 orders of the rest.
  p = np.exp(-np.float64(rm.plackett_luce(many, rank, top=2)))
  np.testing.assert_allclose(p.sum(), 2, atol=TOL)
  first = np.exp(-np.float64(rm.plackett_luce(many, rank, top=1)))
  best = np.argmin(orders, axis=1)
  softmax = np.exp(scores) / np.exp(scores).sum()
  np.testing.assert_allclose(first, softmax[best], rtol=1e-5)
  np.testing.assert_allclose(
    rm.plackett_luce(many, rank, top=9), rm.plackett_luce(many, rank)
  )


def test_two_items_are_bradley_terry():
  s = _f32(_rng(5, 2))
  want = rm.bradley_terry(s[:, 1], s[:, 0])
  got = rm.plackett_luce(s, jnp.array([[7, 3]] * 5))
  np.testing.assert_allclose(got, want, atol=TOL)
  tied = rm.plackett_luce(s, jnp.zeros((5, 2)))  # Breslow: both directions
  both = want + rm.bradley_terry(s[:, 0], s[:, 1])
  np.testing.assert_allclose(tied, both, atol=TOL)


@pytest.mark.parametrize("top", [None, 1, 2])
def test_items_that_do_not_exist(top):
  """As if they were not there, whatever score and rank they hold."""
  s = _f32(_rng(4, 5))
  rank = jnp.asarray(np.argsort(_rng(4, 5, seed=1)), jnp.float32)
  valid = jnp.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0],
                     [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], bool)  # fmt: skip
  f = jax.jit(lambda s, rank: rm.plackett_luce(s, rank, valid, top=top))
  pull = jax.jit(jax.value_and_grad(lambda s, rank: f(s, rank).sum()))
  want = f(s, rank)
  assert np.all(np.isfinite(want))
  keep = np.flatnonzero(valid[1])
  alone = rm.plackett_luce(s[1:2, keep], rank[1:2, keep], top=top)
  np.testing.assert_allclose(want[1:2], alone, rtol=1e-6)
  np.testing.assert_array_equal(want[2:], 0)
  for bad in (NAN, jnp.inf, -jnp.inf):
    dirty = jnp.where(valid, s, bad), jnp.where(valid, rank, bad)
    np.testing.assert_array_equal(f(*dirty), want)
    for got, clean in zip(pull(*dirty), pull(s, rank), strict=True):
      np.testing.assert_array_equal(got, clean)


def test_plackett_luce_leaves_its_mask_alone():
  valid = np.ones((1, 3), bool)
  rm.plackett_luce(jnp.zeros((1, 3)), jnp.array([[0, 1, 2]]), valid, top=1)
  assert valid.all()


def test_plackett_luce_of_huge_scores():
  s = jnp.stack([BIG, BIGGER])
  rank = jnp.array([[4, 0, 3, 1, 2], [0, 0, 1, 1, 2]])
  _finite(lambda s: rm.plackett_luce(s, rank), s)


# --------------------------------------------------------------- grades
def _grades(score, thresholds):
  """-log P of each grade, [N, K]."""
  n, k = len(score), len(thresholds) + 1
  ordinal = jax.jit(rm.ordinal)
  return np.stack([
    np.float64(ordinal(score, jnp.full(n, g), thresholds)) for g in range(k)
  ], -1)  # fmt: skip


@pytest.mark.parametrize("k", [2, 3, 5])
def test_grades_sum_to_one(k):
  t = np.sort(_rng(k - 1))
  score = _rng(9) * 3
  p = np.exp(-_grades(_f32(score), _f32(t)))
  np.testing.assert_allclose(p.sum(-1), 1, atol=TOL)
  below = _sigma(t - score[:, None])
  edges = np.concatenate([np.zeros((9, 1)), below, np.ones((9, 1))], -1)
  np.testing.assert_allclose(p, np.diff(edges), atol=TOL)
  if k == 2:  # logistic regression with bias -t
    want = rm.bradley_terry(_f32(score), jnp.full(9, t[0], jnp.float32))
    np.testing.assert_allclose(-np.log(p[:, 1]), want, rtol=1e-4)


def test_grades_of_huge_scores_and_items_left_out():
  raw = jnp.array([-1e4, -300.0, 1e4, 0.5])
  label = jnp.array([0, 1, 2, 3, 4])

  def f(score, raw):
    return rm.ordinal(score, label, rm.increasing_thresholds(raw))

  for score in (BIG, BIGGER, jnp.zeros(5)):
    _finite(f, score, raw)
  weight = jnp.array([1.0, 0.0, 1.0, 0.0, 0.0])
  t = jnp.array([-1.0, 0.5, 1.0, 2.0])
  s = _f32(_rng(5))
  dirty = jnp.where(weight > 0, s, NAN)
  odd = jnp.where(weight > 0, label, -100)
  g = lambda s, label: lambda t: rm.ordinal(s, label, t, weight)
  np.testing.assert_array_equal(g(dirty, odd)(t), g(s, label)(t))
  np.testing.assert_array_equal(
    _finite(g(dirty, odd), t)[0], _finite(g(s, label), t)[0]
  )
  # A wrong label that counts is not hidden.
  for bad in (-1, 5):
    got = rm.ordinal(s, label.at[0].set(bad), t)
    assert np.isnan(got[0]) and np.all(np.isfinite(got[1:]))


def test_thresholds_increase():
  raw = _f32(_rng(6)) * 50
  t = rm.increasing_thresholds(raw)
  assert t[0] == raw[0] and np.all(np.diff(t) > 0)
  want = np.float64(raw[0]) + np.cumsum(np.logaddexp(0, raw[1:]) + 1e-3)
  np.testing.assert_allclose(t[1:], want, rtol=1e-5)


# ----------------------------------------------------------- attributes
def _torch_regression(kind, pred, target):
  torch = pytest.importorskip("torch")
  f = torch.nn.functional
  pred, target = torch.tensor(pred, requires_grad=True), torch.tensor(target)
  loss = {
    "mse": lambda: f.mse_loss(pred, target, reduction="none"),
    "huber": lambda: f.huber_loss(pred, target, reduction="none", delta=0.7),
    "bce": lambda: f.binary_cross_entropy_with_logits(
      pred, target, reduction="none"),
  }[kind]()  # fmt: skip
  loss.sum().backward()
  return loss.detach().numpy(), pred.grad.numpy()


@pytest.mark.parametrize("kind", rm.REGRESSIONS)
def test_regression(kind):
  pred, target = 2 * _rng(6, 3), _rng(6, 3, seed=1)
  target = _sigma(target) if kind == "bce" else target
  want, slope = _torch_regression(kind, pred, target)

  def f(pred, target):
    return rm.regression(pred, target, kind=kind, delta=0.7)

  y, t = _f32(pred), _f32(target)
  value, present = f(y, t)
  np.testing.assert_allclose(value, want, atol=TOL)
  assert present.dtype == bool and np.all(present)
  grad = lambda y, t: jax.grad(lambda y: f(y, t)[0].sum())(y)
  np.testing.assert_allclose(grad(y, t), slope, atol=TOL)
  # A missing label changes neither value nor gradient, even if y is NaN too.
  gone = jnp.asarray(np.arange(18).reshape(6, 3) % 4 == 0)
  value, present = f(jnp.where(gone, NAN, y), jnp.where(gone, NAN, t))
  np.testing.assert_array_equal(present, ~gone)
  np.testing.assert_allclose(value, np.where(gone, 0, want), atol=TOL)
  got = grad(jnp.where(gone, NAN, y), jnp.where(gone, NAN, t))
  np.testing.assert_allclose(got, np.where(gone, 0, slope), atol=TOL)
  _finite(lambda y: f(y, jnp.zeros(5))[0], BIG)


# ---------------------------------------------------------------- steps
def test_step_labels_are_two_class_cross_entropy():
  """TRL's PRM trainer: token classification, -100 where there is no label."""
  torch = pytest.importorskip("torch")
  logits, label = _rng(3, 4, 2), np.int64(_rng(3, 4, seed=1) > 0)
  mask = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]], bool)
  z = torch.tensor(logits, requires_grad=True)
  want = torch.nn.functional.cross_entropy(
    z.reshape(-1, 2), torch.tensor(np.where(mask, label, -100)).reshape(-1),
    reduction="none",
  )  # fmt: skip
  want.sum().backward()

  def f(logits):
    gap = logits[..., 1] - logits[..., 0]
    return rm.step_labels(gap, jnp.asarray(label), jnp.asarray(mask))

  y = _f32(logits)
  np.testing.assert_allclose(
    f(y), want.detach().numpy().reshape(3, 4), atol=TOL
  )
  np.testing.assert_allclose(
    jax.grad(lambda y: f(y).sum())(y), z.grad.numpy(), atol=TOL
  )


def test_hard_and_soft_step_labels():
  z = _f32(_rng(1, 4))
  rate = jnp.array([[0.0, 0.25, 0.75, 1.0]])
  mask = jnp.ones((1, 4), bool)
  p = _sigma(z)
  soft = rm.step_labels(z, rate, mask, "soft")
  want = -(rate * np.log(p) + (1 - rate) * np.log(1 - p))
  np.testing.assert_allclose(soft, want, atol=TOL)
  hard = rm.step_labels(z, rate, mask)  # any continuation succeeded
  y = np.array([[0, 1, 1, 1]])
  np.testing.assert_allclose(
    hard, -np.log(np.where(y, p, 1 - p)), atol=TOL
  )  # fmt: skip
  # The soft loss is least at the rate itself.
  logit = jnp.log(rate[:, 1:3] / (1 - rate[:, 1:3]))
  grad = jax.grad(
    lambda z: rm.step_labels(z, rate[:, 1:3], mask[:, 1:3], "soft").sum()
  )(logit)
  np.testing.assert_allclose(grad, 0, atol=1e-6)


@pytest.mark.parametrize("kind", rm.STEPS)
def test_steps_that_do_not_count(kind):
  z, y = _f32(_rng(2, 5)), jnp.asarray(_rng(2, 5, seed=1) > 0, jnp.float32)
  mask = jnp.array([[1, 0, 1, 0, 1], [0, 0, 0, 0, 0]], bool)
  f = lambda z, y: rm.step_labels(z, y, mask, kind)
  dirty = jnp.where(mask, z, NAN), jnp.where(mask, y, NAN)
  np.testing.assert_array_equal(f(*dirty), f(z, y))
  got = _finite(lambda z: f(z, dirty[1]), dirty[0])
  np.testing.assert_array_equal(got[0], _finite(lambda z: f(z, y), z)[0])
  assert np.any(got[0]) and not np.any(got[0][~mask])
  _finite(
    lambda z: rm.step_labels(z, y[:1], jnp.ones((1, 5), bool), kind), BIG[None]
  )


def test_pair_accuracy():
  c, r = jnp.array([1.0, 0.0, 2.0, NAN]), jnp.array([0.0, 1.0, 2.0, 0.0])
  np.testing.assert_array_equal(rm.pair_accuracy(c, r), [1, 0, 0.5, 0])
  assert not np.any(jax.grad(lambda c: rm.pair_accuracy(c, r).sum())(c))


# --------------------------------------------------------------- errors
ONE = jnp.ones(1)
NO = jnp.zeros(1, bool)
GRID = jnp.ones((1, 2))


@pytest.mark.parametrize("call,match", [
  (lambda: rm.bradley_terry(ONE, ONE, margin=-1.0), "margin must be at least"),
  (lambda: rm.bradley_terry(ONE, ONE, scale=0.0), "scale must be positive"),
  (lambda: rm.bradley_terry(ONE, ONE, label_smoothing=1.5), "label_smoothing"),
  (lambda: rm.bradley_terry(ONE, ONE, label_smoothing=-0.1), "at least 0"),
  (lambda: rm.bradley_terry(ONE, ONE, weight=-1.0), "weight must be at least"),
  (lambda: rm.bradley_terry(ONE, ONE, margin=float("nan")), "got nan"),
  (lambda: rm.centering_penalty(ONE, ONE, -0.01), "coefficient must be"),
  (lambda: rm.rao_kupper(ONE, ONE, NO, 0.0), "log_theta must be positive"),
  (lambda: rm.davidson(ONE, ONE, NO, float("inf")), "below"),
  (lambda: rm.davidson(ONE, ONE, NO, float("nan")), "below"),
  (lambda: rm.plackett_luce(GRID, GRID, top=0), "top must be positive"),
  (lambda: rm.ordinal(ONE, NO, (1.0, 1.0)), "must increase"),
  (lambda: rm.ordinal(ONE, NO, ()), "must increase"),
  (lambda: rm.increasing_thresholds(ONE, 0.0), "gap_min must be positive"),
  (lambda: rm.regression(ONE, ONE, kind="l1"), "'mse', 'huber', 'bce'"),
  (lambda: rm.regression(ONE, ONE, delta=0.0), "delta must be positive"),
  (lambda: rm.step_labels(GRID, GRID, GRID > 0, "hard"), "'bce', 'soft'"),
])  # fmt: skip
def test_settings_that_cannot_be(call, match):
  with pytest.raises(ValueError, match=match):
    call()


def test_a_float_mask_is_refused():
  with pytest.raises(TypeError, match="bool"):
    rm.step_labels(GRID, GRID, GRID)
  with pytest.raises(TypeError, match="bool"):
    rm.plackett_luce(GRID, GRID, GRID)
