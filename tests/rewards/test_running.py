"""Scales over prompts, runs and reference sets, against float64 loops."""

import functools

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import checkpoint, errors
from rlreward.ops import advantage, bounded, policy
from rlreward.rewards import combine, running, shaping
from rlreward.steps import credit, online
from rlreward.types import Score, State

NAN = np.nan
NAMES = ("a", "b")
# float32 sums of squares of size 10 about a mean of 3, over 60 rows.
TOL = 2e-5


class Rows:
  """What a shaping reads of a rollout."""

  def __init__(self, group=(0, 0, 0, 1, 1, 2)):
    self.group = jnp.asarray(group)
    self.extras = {}


def batches(count=10, seed=0):
  """[count, 6, 2] rewards and who was judged; holes are NaN."""
  rng = np.random.default_rng(seed)
  r = rng.normal(3, [1.0, 4.0], (count, 6, 2)).astype(np.float32)
  r[rng.uniform(size=r.shape) < 0.1] = NAN
  valid = rng.uniform(size=r.shape[:2]) < 0.8
  valid[4:5] = False  # a batch in which nothing was judged
  return r, valid


def score(r, valid):
  r = jnp.asarray(r)
  named = dict(zip(NAMES, r.T, strict=True))
  return Score(r.sum(1), jnp.asarray(valid), None, named)


def parts(found):
  return np.stack([found.components[k] for k in NAMES], -1)


def run(made, r, valid, state=None):
  """Every batch in turn: ([count, N, K] components, state)."""
  state = made.init() if state is None else state
  out = []
  for row, known in zip(r, valid, strict=True):
    found, after = made.update(score(row, known), state, Rows())
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for x, y in zip(
      jax.tree.leaves(after), jax.tree.leaves(state), strict=True
    ):
      assert x.shape == y.shape and x.dtype == y.dtype
    state = after
    out.append(parts(found))
  return np.stack(out), state


def loop(r, valid, map_one, until=None):
  """The stream in float64; statistics of all judged rows so far."""
  out = np.full(r.shape, NAN)
  for t in range(len(r)):
    last = t + 1 if until is None else min(t + 1, until)
    for k in range(r.shape[-1]):
      x = r[:last, :, k][valid[:last]].astype(np.float64)
      x = x[np.isfinite(x)]
      if x.size:
        out[t, :, k] = map_one(r[t, :, k].astype(np.float64), x)
      else:
        out[t, :, k] = r[t, :, k]
  return out


MAPS = {
  "standardise": lambda r, x: (r - x.mean()) / (x.std() or 1),
  "scale": lambda r, x: r / (x.std() or 1),
  "minmax": lambda r, x: np.clip((r - x.min()) / (np.ptp(x) or 1), 0, 1),
  "clip": lambda r, x: np.clip(r, x.mean() - x.std(), x.mean() + x.std()),
}


@pytest.mark.parametrize("until", [None, 3])
@pytest.mark.parametrize("kind", MAPS)
def test_every_map_is_its_loop_over_the_judged_rows_so_far(kind, until):
  r, valid = batches()
  made = getattr(running, kind)(NAMES, until=until)
  got, state = run(made, r, valid)
  want = loop(r, valid, MAPS[kind], until)
  # A row that was not judged shapes nothing; what it becomes is not read.
  seen = valid[..., None] & np.isfinite(r)
  np.testing.assert_allclose(got[seen], want[seen], rtol=TOL, atol=TOL)
  np.testing.assert_array_equal(np.isnan(got), np.isnan(r))
  last = 10 if until is None else until
  x = np.where(valid[:last, :, None], r[:last], NAN).reshape(-1, 2)
  np.testing.assert_array_equal(state.count, np.isfinite(x).sum(0))
  np.testing.assert_allclose(state.mean, np.nanmean(x, 0), rtol=TOL)
  np.testing.assert_allclose(
    running.deviation(state), np.nanstd(x, 0), rtol=TOL
  )
  np.testing.assert_array_equal(state.low, np.nanmin(x, 0))
  np.testing.assert_array_equal(state.high, np.nanmax(x, 0))
  assert int(state.updates) == last
  assert made.reads == NAMES


def test_what_was_not_judged_changes_nothing():
  r, valid = batches()
  made = running.standardise(NAMES)
  wild = np.where(valid[..., None], r, 1e30).astype(np.float32)
  _, a = run(made, r, valid)
  _, b = run(made, wild, valid)
  for x, y in zip(a, b, strict=True):
    np.testing.assert_array_equal(x, y)


def test_no_row_and_no_spread_are_safe():
  for kind in MAPS:
    made = getattr(running, kind)()
    nobody = Score(jnp.full(6, NAN), jnp.zeros(6, bool))
    found, state = made.update(nobody, made.init(), Rows())
    assert (found.value == 0).all() and not found.valid.any()
    # Three times the same reward that no float holds: no noise comes out.
    same = Score(jnp.full(6, 100.1), jnp.ones(6, bool))
    for _ in range(3):
      found, state = made.update(same, state, Rows())
    want = {"standardise": 0.0, "minmax": 0.0}.get(kind, 100.1)
    np.testing.assert_allclose(found.value, want, atol=1e-3)
    assert found.valid.all() and np.isfinite(state.m2).all()


def test_memory_forgets_what_is_old():
  ones = np.ones((40, 6, 2), np.float32)
  ones[:, ::2] = -1  # mean 0, deviation 1
  late = ones + 50
  stream = np.concatenate([ones, late])
  valid = np.ones(stream.shape[:2], bool)
  _, short = run(running.standardise(NAMES, memory=12), stream, valid)
  _, long = run(running.standardise(NAMES), stream, valid)
  np.testing.assert_allclose(long.mean, 25, rtol=1e-4)
  np.testing.assert_allclose(short.mean, 50, rtol=1e-4)
  np.testing.assert_allclose(running.deviation(short), 1, rtol=1e-3)
  np.testing.assert_array_equal(short.count, 18)  # the memory and a batch


def test_a_reference_set_is_a_fixed_scale():
  rng = np.random.default_rng(3)
  held = {"a": rng.normal(2, 3, 50), "b": rng.normal(-1, 0.1, 70), "c": [1.0]}
  held["a"][:5] = NAN
  made = running.on_reference(NAMES, held)
  r, valid = batches(3)
  got, state = run(made, r, valid)
  mean = [np.nanmean(held[k]) for k in NAMES]
  sd = [np.nanstd(held[k]) for k in NAMES]
  np.testing.assert_allclose(got, (r - mean) / sd, rtol=TOL, atol=TOL)
  np.testing.assert_array_equal(state.count, [45, 70])
  for x, y in zip(state, made.init(), strict=True):
    np.testing.assert_array_equal(x, y)
  # The same moments as a start go on with the run.
  start = running.measure(NAMES, held)
  _, state = run(running.standardise(NAMES, start=start), r, valid)
  a = np.concatenate([held["a"], r[..., 0][valid]])
  np.testing.assert_allclose(state.mean[0], np.nanmean(a), rtol=TOL)
  np.testing.assert_allclose(
    running.deviation(state)[0], np.nanstd(a), rtol=TOL
  )


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_centring_per_prompt_is_free_of_the_prompt(spread):
  r, valid = batches(1)
  r, valid, group = r[0], valid[0], np.asarray(Rows().group)
  given = score(r + spread * 1000.0 * group[:, None], valid)
  found, _ = running.centre_prompt(NAMES).update(given, (), Rows())
  want = np.full(r.shape, NAN)
  for g in set(group):
    rows = group == g
    for k in range(2):
      x = r[rows & valid, k]
      x = x[np.isfinite(x)].astype(np.float64)
      want[rows, k] = r[rows, k] - (x.mean() if x.size else 0)
  seen = valid[:, None] & np.isfinite(r)
  # float32 of 2000: steps of 1e-4.
  tol = 4e-4 if spread else 1e-6
  np.testing.assert_allclose(parts(found)[seen], want[seen], atol=tol)
  alone, _ = running.centre_prompt().update(
    Score(jnp.arange(6.0), jnp.arange(6) != 3), (), Rows()
  )
  np.testing.assert_allclose(alone.value, [-1, 0, 1, 0, 0, 0], atol=1e-6)
  np.testing.assert_array_equal(alone.valid, np.arange(6) != 3)


def whole():
  """Members centred, put on a scale, joined, and scaled once more."""
  return shaping.chain(
    running.centre_prompt(NAMES),
    running.standardise(NAMES, until=7),
    combine.aggregate(NAMES, "mean_minus_std", least=1),
    running.clip(width=1.5, memory=20),
    running.minmax(),
  )


def test_a_scan_is_the_steps_and_ten_are_five_saved_and_five(tmp_path):
  r, valid = batches()
  made = whole()

  def step(state, row):
    found, state = made.update(score(*row), state, Rows())
    return state, (found.value, found.valid)

  jitted = jax.jit(step)
  state, out, half = made.init(), [], None
  for t, row in enumerate(zip(r, valid, strict=True)):
    if t == 5:
      half = state
    state, said = jitted(state, row)
    out.append(said)
  scanned, told = jax.jit(functools.partial(jax.lax.scan, step))(
    made.init(), (jnp.asarray(r), jnp.asarray(valid))
  )
  # Another program may add in another order: float32 of size 1.
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
    (scanned, told),
    (state, jax.tree.map(lambda *x: jnp.stack(x), *out)),
  )

  tree = State(jnp.int32(5), {}, {}, (), jax.random.key(0), {"shaping": half})
  saver = checkpoint.Checkpointer(tmp_path)
  saver.save(5, tree, {}, wait=True)
  fresh = tree._replace(extra={"shaping": made.init()})
  saved, _, _ = saver.restore(jax.eval_shape(lambda: fresh))
  saver.close()
  state_again = saved.extra["shaping"]
  assert jax.tree.structure(state_again) == jax.tree.structure(half)
  for row, said in zip(
    zip(r[5:], valid[5:], strict=True), out[5:], strict=True
  ):
    state_again, again = jitted(state_again, row)
    for x, y in zip(again, said, strict=True):
      np.testing.assert_array_equal(x, y)  # bitwise
  for x, y in zip(
    jax.tree.leaves(state_again), jax.tree.leaves(state), strict=True
  ):
    np.testing.assert_array_equal(x, y)


def test_no_two_leaves_share_a_buffer():
  made = running.standardise(NAMES, until=3)
  step = jax.jit(lambda m, s: made.update(s, m, Rows())[1], donate_argnums=0)
  r, valid = batches(2)
  state = step(made.init(), score(r[0], valid[0]))
  assert np.isfinite(step(state, score(r[1], valid[1])).mean).all()


def test_the_gradient_is_that_of_the_map_alone():
  r, valid = batches(1)
  made = running.standardise(NAMES)

  def f(r):
    found, _ = made.update(score(r, valid[0]), made.init(), Rows())
    seen = valid[0][:, None] & np.isfinite(r0)
    got = jnp.stack([found.components[k] for k in NAMES], -1)
    return jnp.sum(jnp.where(seen, got, 0))

  r0 = r[0]
  grad = np.asarray(jax.grad(f)(jnp.asarray(r0)))
  seen = valid[0][:, None] & np.isfinite(r0)
  sd = np.nanstd(np.where(seen, r0, NAN), 0)
  np.testing.assert_allclose(grad, np.where(seen, 1 / sd, 0), rtol=TOL)


@pytest.mark.parametrize(
  ("make", "said"),
  [
    (lambda: running.on_reference(NAMES, {"a": [1.0, 2.0]}), "'b'"),
    (lambda: running.on_reference(("a",), {"a": [NAN, NAN]}), "none of"),
    (lambda: running.on_reference(("a",), {"a": [0.1] * 3}), "3 judged"),
    (lambda: running.standardise(NAMES, until=0), "until=0"),
    (lambda: running.clip(NAMES, until=-1), "until=-1"),
    (lambda: running.scale(NAMES, memory=0), "memory=0"),
    (lambda: running.minmax(NAMES, start=running.nothing(3)), "3 rewards"),
  ],
)
def test_what_cannot_be_is_refused_before_anything_runs(make, said):
  with pytest.raises(errors.UserError, match=said) as info:
    make()
  assert len(str(info.value).splitlines()) == 3


def test_a_missing_component_is_named_beside_what_there_is():
  made = running.standardise(("a", "polite"))
  r, valid = batches(1)
  with pytest.raises(errors.UserError, match=r"polite.*\['a', 'b'\]"):
    made.update(score(r[0], valid[0]), made.init(), Rows())


def test_a_shape_of_the_ops_can_be_tracked():
  fn = lambda r, m: bounded.sigmoid(bounded.standardise(r, m.mean, m.mean * 0))
  found, _ = running.tracked((), fn).update(
    Score(jnp.arange(6.0), jnp.ones(6, bool)), running.nothing(1), Rows()
  )
  want = 1 / (1 + np.exp(2.5 - np.arange(6.0)))
  np.testing.assert_allclose(found.value, want, rtol=1e-6)


def parts_reward(rollout, batch):
  even = nano.even_share(rollout, batch).value
  zeros = jnp.sum(rollout.action & (rollout.tokens < 4), 1, dtype=jnp.float32)
  return Score(even, jnp.ones(even.shape, bool), None, {"a": even, "b": zeros})


def test_an_online_step_hands_the_moments_on():
  """Two steps by hand; rows of the reference are cut off beside each prompt."""
  b, g, m = nano.B, nano.G, 3
  method = online.make(
    nano.config(),
    nano.task(parts_reward),
    loss=policy.reinforce(),
    credit=credit.sequence(
      lambda s: advantage.group_advantage(
        s.grouped(s.reward), s.grouped(s.valid), scale="none"
      ).reshape(-1)
    ),
    aggregate="seq_mean_token_sum",
    shaping=shaping.chain(
      combine.relative(NAMES, m),
      running.centre_prompt(NAMES),
      running.standardise(NAMES),
      combine.aggregate(NAMES, "mean"),
    ),
  )
  state, past = jax.jit(method.init)(jax.random.key(0)), np.zeros((0, 2))
  for t in range(2):
    batch, key = nano.batch(), jax.random.fold_in(state.key, t)
    rollout = method.phases.sample(state, batch, key)
    judged = method.phases.score(rollout, batch)
    x = np.stack([judged.components[k] for k in NAMES], -1)
    x = x.astype(np.float64).reshape(b, g + m, 2)
    gap = x[:, :g, None] - x[:, None, g:]
    x = (1 / (1 + np.exp(-gap))).mean(2)
    x = (x - x.mean(1, keepdims=True)).reshape(b * g, 2)
    past = np.concatenate([past, x])
    state, metrics = method.phases.update(state, rollout, judged)
    want = ((x - past.mean(0)) / past.std(0)).mean(1)
    rows = np.asarray(metrics["rows"]["reward"]).reshape(b, g + m)[:, :g]
    np.testing.assert_allclose(rows.ravel(), want, rtol=1e-4, atol=1e-5)
    moments = state.extra["shaping"][2]
    np.testing.assert_array_equal(moments.count, (t + 1) * b * g)
    np.testing.assert_allclose(running.deviation(moments), past.std(0), 1e-4)
