"""Who samples: older policies, their weights, rows that are only judged."""

import jax
import jax.numpy as jnp
import nano
import numpy as np
import optax
import pytest

from rlreward import errors
from rlreward.steps import judge, refill, roles
from rlreward.types import Score

B, G, P, T = nano.B, nano.G, nano.P, nano.T
# Far enough in one step that the next rollout would differ.
FAST = {"optimizer__learning_rate": 3e-2, "optimizer__eps": 1e-8}


def equal(a, b):
  same = jax.tree.map(lambda x, y: bool(jnp.all(x == y)), a, b)
  assert jax.tree.structure(a) == jax.tree.structure(b)
  return jax.tree.all(same)


def rolled(method, seed=0):
  state = nano.start(method)
  rollout = method.phases.sample(state, nano.batch(), jax.random.key(seed))
  rows = rollout.tokens.shape[0]
  value = np.random.default_rng(0).normal(size=rows).astype(np.float32)
  return rollout, Score(jnp.asarray(value), jnp.ones(rows, bool))


# ------------------------------------------------------------ one step ahead
@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_the_policy_of_the_step_before_samples(algorithm):
  """Against a loop that keeps every policy and samples with the older one."""
  ahead = nano.method(algorithm, ahead=1, **FAST)
  state, policies = nano.start(ahead), []
  for step in range(4):
    policies.append(jax.tree.map(jnp.copy, state.params["policy"]))
    key, batch = jax.random.key(step), nano.batch()
    rollout = ahead.phases.sample(state, batch, key)
    older = max(step - 1, 0)
    plain = nano.method(algorithm, **FAST)
    params = {**state.params, "policy": policies[older]}
    hand = state._replace(params=params, extra={})
    want = plain.phases.sample(hand, batch, key)
    assert equal(rollout.tokens, want.tokens) and equal(rollout.logp, want.logp)
    assert int(rollout.version) == older
    if step:  # the policy that is trained would say something else
      params = {**state.params, "policy": policies[step]}
      now = plain.phases.sample(state._replace(params=params), batch, key)
      assert not equal(rollout.logp, now.logp)
    score = ahead.phases.score(rollout, batch)
    state, found = ahead.phases.update(state, rollout, score)
    assert float(found["staleness"]) == min(step, 1)
    assert (float(found["logprob_abs_diff_max"]) > 1e-3) == (step > 0)


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"critic__shared": True},
    {"critic__shared": True, "model__lora_rank": 2},
    {"model__lora_rank": 2, "kl_reward__beta": 0.1, "kl_reward__target": 1.0},
  ],
)
def test_the_state_keeps_its_structure(changes):
  method = nano.method("ppo", ahead=1, **changes)
  state = jax.eval_shape(method.init, jax.random.key(0))
  after, _ = jax.eval_shape(method.step, state, nano.batch(), state.key)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  shape = lambda x: (x.shape, x.dtype)
  assert jax.tree.map(shape, after) == jax.tree.map(shape, state)


def test_only_one_step_ahead_is_kept():
  with pytest.raises(errors.UserError, match="ahead=2"):
    nano.method("grpo", ahead=2)
  with pytest.raises(errors.UserError, match=r"off_policy\.level='row'"):
    nano.method("grpo", ahead=1, off_policy__level="row")
  with pytest.raises(errors.UserError, match=r"off_policy\.low=3"):
    nano.method("grpo", off_policy__low=3.0, off_policy__high=2.0)


# ------------------------------------------------------------ stale rows
def by_hand(state, rollout, reward, loss):
  """Parameters after one update of `loss`(logp, behaviour, mask, advantage)."""
  model = roles.policy(nano.config().model).model
  credit = reward.reshape(B, G)
  credit = (G * credit - credit.sum(1, keepdims=True)) / (G - 1)
  mask, behaviour = rollout.action[:, P:], rollout.logp[:, P:]

  def f(params):
    logits = model.logits(params["policy"], rollout.tokens, rollout.attend)
    logp = jax.nn.log_softmax(logits[:, P - 1 : -1])
    logp = jnp.take_along_axis(logp, rollout.tokens[:, P:, None], 2)[..., 0]
    wide = jnp.where(
      mask, loss(logp, behaviour, mask, credit.reshape(-1, 1)), 0
    )
    return wide.sum() / (B * G)

  opt = optax.adamw(100.0, eps=1e3, weight_decay=0.0)
  change, _ = opt.update(
    jax.jit(jax.grad(f))(state.params), opt.init(state.params), state.params
  )
  return optax.apply_updates(state.params, change)


def stale(method):
  """A rollout as a policy that has since moved sampled it."""
  rollout, score = rolled(method)
  noise = 0.8 * np.random.default_rng(1).normal(size=rollout.logp.shape)
  moved = jnp.where(rollout.action, rollout.logp + noise, 0)
  return rollout._replace(logp=moved.astype(jnp.float32)), score


@pytest.mark.parametrize(("level", "bound"), [
  ("token", "truncate"), ("sequence", "truncate"), ("geometric", "mask"),
])  # fmt: skip
def test_weights_change_the_gradient_as_the_formula_says(level, bound):
  changes = {"off_policy__level": level, "off_policy__bound": bound,
             "off_policy__high": 1.5, "off_policy__low": 0.5}  # fmt: skip
  method = nano.method("rloo", **changes)
  rollout, score = stale(method)

  def loss(logp, behaviour, mask, advantage):
    gap = jnp.where(mask, jax.lax.stop_gradient(logp) - behaviour, 0)
    if level != "token":
      total = gap.sum(1, keepdims=True)
      gap = total / (mask.sum(1, keepdims=True) if level == "geometric" else 1)
    w = jnp.exp(jnp.broadcast_to(gap, mask.shape))
    if bound == "mask":
      w = jnp.where((w >= 0.5) & (w <= 1.5), w, 0)
    return -jnp.clip(w, 0 if bound == "mask" else 0.5, 1.5) * advantage * logp

  state = nano.start(method)
  want = by_hand(state, rollout, score.value, loss)
  plain = by_hand(state, rollout, score.value, lambda p, q, m, a: -a * p)
  got, found = method.phases.update(state, rollout, score)
  # Parameters move by 0.1 times a gradient of size 1; sums differ in order.
  assert nano.gap(got.params, want) < 1e-6
  assert nano.gap(plain, want) > 1e-3
  assert 0 < float(found["weight_bounded"]) < 1


@pytest.mark.parametrize("algorithm", ["rloo", "ppo"])
def test_weights_are_one_on_policy(algorithm):
  plain = nano.method(algorithm)
  weighed = nano.method(algorithm, off_policy__high=2.0)
  rollout, score = rolled(plain)
  want, _ = plain.phases.update(nano.start(plain), rollout, score)
  got, found = weighed.phases.update(nano.start(weighed), rollout, score)
  # The sampler's log-probs differ from the update's in the last digits.
  assert float(found["weight"]) == pytest.approx(1, abs=1e-5)
  assert nano.gap(got.params, want.params) < 1e-6


def test_stale_rows_without_weights_are_clipped_against_their_sampler():
  method = nano.method("dr_grpo", ahead=1)
  rollout, score = stale(method)

  def loss(logp, behaviour, mask, advantage):
    advantage = advantage * (G - 1) / G  # the mean and not the others' mean
    ratio = jnp.exp(jnp.where(mask, logp - behaviour, 0))
    cut = jnp.clip(ratio, 0.8, 1.2)
    return -jnp.minimum(ratio * advantage, cut * advantage) / T

  state = nano.start(method)
  want = by_hand(state, rollout, score.value, loss)
  got, found = method.phases.update(state, rollout, score)
  assert nano.gap(got.params, want) < 1e-6
  assert float(found["clip_fraction"]) > 0.1


# ------------------------------------------------------------ asides
@pytest.mark.parametrize(
  ("algorithm", "changes", "count"),
  [
    ("remax", {}, 1),
    ("reinforce", {"credit__baseline": "greedy"}, 1),
    ("bond", {"best_of_n__anchors": 3}, 3),
    ("remax", {"epochs": 2, "updates_per_step": 2}, 1),
  ],
)
def test_asides_are_judged_and_never_trained_on(algorithm, changes, count):
  method = nano.method(algorithm, **changes)
  rollout, score = rolled(method)
  grouped = np.asarray(rollout.loss).reshape(B, G + count, -1)
  assert grouped[:, :G].any(2).all() and not grouped[:, G:].any()
  np.testing.assert_array_equal(rollout.group, np.repeat(range(B), G + count))
  prompts = np.asarray(rollout.tokens)[:, :P]
  np.testing.assert_array_equal(
    prompts, np.repeat(nano.batch()["prompt"], G + count, 0)
  )
  own = np.tile(np.arange(G + count) < G, B)[:, None]
  wild = np.random.default_rng(2).integers(0, nano.V, rollout.tokens.shape)
  other = rollout._replace(
    tokens=jnp.where(own, rollout.tokens, wild),
    logp=jnp.where(own, rollout.logp, -7.0),
    attend=jnp.where(own, rollout.attend, True),
    action=jnp.where(own, rollout.action, True),
  )
  want, _ = method.phases.update(nano.start(method), rollout, score)
  got, found = method.phases.update(nano.start(method), other, score)
  assert equal(got.params, want.params)
  assert nano.gap(got.params, nano.start(method).params) > 1e-3
  # Their rewards are the baseline; what is reported is of the others.
  shifted = score._replace(value=score.value + jnp.where(own[:, 0], 0, 3.0))
  moved, same = method.phases.update(nano.start(method), rollout, shifted)
  assert nano.gap(moved.params, want.params) > 1e-3
  assert float(same["reward"]) == float(found["reward"])
  row = np.asarray(found["rows"]["reward"]).reshape(B, -1)
  assert np.isnan(row[:, G:]).all() and np.isfinite(row[:, :G]).all()


def test_the_greedy_aside_is_the_likeliest_answer():
  method = nano.method("remax")
  model = roles.policy(nano.config().model).model
  state = nano.start(method)
  rollout, _ = rolled(method)
  logits = jax.jit(model.logits)(
    state.params["policy"], rollout.tokens, rollout.attend
  )
  best = np.asarray(logits[:, P - 1 : -1].argmax(-1))
  act = np.asarray(rollout.action)[:, P:]
  hit = np.asarray(rollout.tokens)[:, P:] == best
  greedy = np.tile(np.arange(G + 1) == G, B)
  assert hit[greedy][act[greedy]].all()
  assert not hit[~greedy][act[~greedy]].all()


def test_reference_asides_come_from_the_policy_of_the_start():
  method = nano.method("bond", best_of_n__anchors=3)
  state, other = nano.start(method), nano.start(method, 1)
  key = jax.random.key(5)
  before = method.phases.sample(state, nano.batch(), key)
  moved = method.phases.sample(
    state._replace(params=other.params), nano.batch(), key
  )
  aside = np.tile(np.arange(G + 3) >= G, B)
  a, b = np.asarray(before.tokens), np.asarray(moved.tokens)
  np.testing.assert_array_equal(a[aside], b[aside])
  assert np.any(a[~aside] != b[~aside])
  # Anchors are not copies of the samples: they have a key of their own.
  each = a.reshape(B, G + 3, -1)
  assert np.any(each[:, :3] != each[:, G:])


def test_refilled_groups_keep_their_asides():
  """Two rounds, of which each has two prompts whose samples differ."""
  config = nano.config(algorithm="remax", refill_rounds=2)
  method = nano.method("remax", refill_rounds=2)

  def score(rollout, batch):
    rows = rollout.group.shape[0]
    sample = jnp.arange(rows) % (G + 1)
    vary = rollout.group % 2 == 1
    # The greedy answer alone makes no group vary.
    value = jnp.where(vary, sample, sample == G).astype(jnp.float32)
    return Score(value, jnp.ones(rows, bool))

  method = method._replace(phases=method.phases._replace(score=score))
  state = nano.start(method)
  stream = nano.batches("train", B, 0)
  rollout, found, extra = refill.collect(
    method, nano.task(), state, stream, judge.arrays, config
  )
  assert extra["refill/kept"] == 4 and extra["refill/drawn"] == 2 * B
  np.testing.assert_array_equal(rollout.group, np.repeat(range(B), G + 1))
  value = np.asarray(found.value).reshape(B, G + 1)
  np.testing.assert_array_equal(value, np.tile(np.arange(G + 1), (B, 1)))
  prompts = np.asarray(rollout.tokens).reshape(B, G + 1, -1)[..., :P]
  assert np.all(prompts == prompts[:, :1])
  fresh = nano.batches("train", B, 0)
  drawn = np.concatenate([next(fresh)["prompt"][1::2] for _ in range(2)])
  np.testing.assert_array_equal(prompts[:, 0], drawn)
  loss = np.asarray(rollout.loss).reshape(B, G + 1, -1).any(2)
  assert loss[:, :G].all() and not loss[:, G].any()
  after, _ = method.phases.update(state, rollout, found)
  assert int(after.step) == 1
