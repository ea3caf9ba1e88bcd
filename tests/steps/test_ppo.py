"""PPO: the whole update written out plainly, its critic, its early stop."""

import functools

import jax
import jax.numpy as jnp
import nano
import numpy as np
import optax
import pytest

from rlreward import errors
from rlreward.models import transformer
from rlreward.steps import batching, roles, update
from rlreward.types import Score

B, G, P, T = nano.B, nano.G, nano.P, nano.T
N = B * G
ADAM = {"optimizer__learning_rate": 1e-2, "optimizer__eps": 1e-8}
RULES = {
  "updates_per_step": 2, "epochs": 2, "optimizer__learning_rate": 2000.0,
  "critic__rate": 500.0, "critic__clip": 0.05, "credit__lam": 0.9,
  "credit__gamma": 0.97,
}  # fmt: skip


def mixed(method, share=0.3):
  """A State whose critic, policy and reference have all moved apart."""
  state, other = nano.start(method), nano.start(method, 1)
  blend = lambda a, b: jax.tree.map(lambda x, y: x + share * (y - x), a, b)
  params = {
    **state.params,
    "policy": blend(state.params["policy"], other.params["policy"]),
  }
  if "critic" in params:
    kernel = jnp.asarray(np.random.default_rng(3).normal(size=(16, 1)) / 4)
    tree = dict(params["critic"]["params"])
    tree["score"] = {"kernel": kernel.astype(jnp.float32)}
    params["critic"] = {**params["critic"], "params": tree}
  return state._replace(params=params)


def rolled(method, make=mixed):
  state = make(method)
  rollout = method.phases.sample(state, nano.batch(), state.key)
  value = np.random.default_rng(0).normal(size=N).astype(np.float32)
  valid = np.arange(N) != 5
  value[5] = np.nan
  return rollout, Score(jnp.asarray(value), jnp.asarray(valid))


def whiten(x, keep, mean=True):
  sd = np.sqrt(x[keep].var(ddof=1) + 1e-8)
  white = (x - x[keep].mean()) / sd
  return np.where(keep, white if mean else white + x[keep].mean(), 0)


def credit(config, rollout, score, value, reference):
  """Advantages and targets [N, T] by loops in float64."""
  beta, c = config.kl_reward.beta, config.credit
  act, behaviour = (
    np.asarray(x)[:, P:] for x in (rollout.action, rollout.logp)
  )
  known = act & np.asarray(score.valid)[:, None]
  step = np.where(known, -beta * (np.float64(behaviour) - reference), 0)
  for n in range(N):
    if known[n].any():
      step[n, np.flatnonzero(act[n])[-1]] += float(score.value[n])
  if c.whiten_reward:
    step = whiten(step, known, mean=False)
  advantage = np.zeros((N, T))
  for n in range(N):
    after = ahead = 0.0
    for t in reversed(np.flatnonzero(known[n])):
      delta = step[n, t] + c.gamma * after - value[n, t]
      ahead = delta + c.gamma * c.lam * ahead
      advantage[n, t], after = ahead, value[n, t]
  target = np.where(known, advantage + value, 0)
  return whiten(advantage, known), target, known


def plain(config, state, rollout, score):
  """Parameters after 2 updates x 2 epochs, without our steps or ops."""
  model = roles.policy(config.model).model
  critic = transformer.build(model.config.replace(outputs=1, tied=True))

  def logp_of(variables, rows):
    logits = model.logits(variables, rows["tokens"], rows["attend"])
    logp = jax.nn.log_softmax(logits[:, P - 1 : -1])
    return jnp.take_along_axis(logp, rows["tokens"][:, P:, None], 2)[..., 0]

  def value_of(variables, rows):
    hidden = critic.hidden(variables, rows["tokens"], rows["attend"])
    kernel = variables["params"]["score"]["kernel"]
    return (hidden[:, P - 1 : -1] @ kernel)[..., 0]

  whole = {"tokens": rollout.tokens, "attend": rollout.attend}
  old = jax.jit(logp_of)(state.params["policy"], whole)
  value = jax.jit(value_of)(state.params["critic"], whole)
  reference = jax.jit(logp_of)(state.frozen["reference"], whole)
  advantage, target, known = credit(
    config, rollout, score, np.float64(value), np.float64(reference)
  )
  whole |= {
    "old": old, "value": value, "known": jnp.asarray(known),
    "advantage": jnp.asarray(advantage, jnp.float32),
    "target": jnp.asarray(target, jnp.float32),
  }  # fmt: skip
  c = config.critic

  def loss(params, rows):
    keep = rows["known"]
    logp = logp_of(params["policy"], rows)
    ratio = jnp.exp(jnp.where(keep, logp - rows["old"], 0))
    cut = jnp.clip(ratio, 0.8, 1.2)
    a = rows["advantage"]
    surrogate = -jnp.minimum(ratio * a, cut * a)
    v = value_of(params["critic"], rows)
    near = jnp.clip(v, rows["value"] - c.clip, rows["value"] + c.clip)
    error = jnp.square(v - rows["target"])
    bounded = jnp.square(near - rows["target"])
    both = surrogate + c.coefficient * 0.5 * jnp.maximum(error, bounded)
    shares = (
      jnp.sum(keep & (cut != ratio)), jnp.sum(keep & (bounded > error)),
    )  # fmt: skip
    return jnp.sum(jnp.where(keep, both, 0)) / keep.sum(), shares

  rates = {"policy": config.optimizer.learning_rate, "critic": c.rate}
  opts = {k: optax.adamw(r, eps=1e3, weight_decay=0.0)
          for k, r in rates.items()}  # fmt: skip

  @jax.jit
  def one(params, memory, rows):
    grads, shares = jax.grad(loss, has_aux=True)(params, rows)
    for k, opt in opts.items():
      change, after = opt.update(grads[k], memory[k], params[k])
      params = {**params, k: optax.apply_updates(params[k], change)}
      memory = {**memory, k: after}
    return params, memory, shares

  params = state.params
  memory = {k: opt.init(params[k]) for k, opt in opts.items()}
  seen = []
  for half in (0, 1, 0, 1):
    cut = lambda x, h=half: x.reshape(B, G, -1)[h::2].reshape(N // 2, -1)
    params, memory, shares = one(params, memory, jax.tree.map(cut, whole))
    seen.append([int(x) for x in shares])
  return params, np.array(seen)


@pytest.mark.parametrize("whiten_reward", [False, True])
def test_the_whole_update_is_the_plain_one(whiten_reward):
  changes = {**RULES, "kl_reward__beta": 0.3,
             "credit__whiten_reward": whiten_reward}  # fmt: skip
  method = nano.method("ppo", **changes)
  rollout, score = rolled(method)
  state = mixed(method)
  want, clipped = plain(nano.config(**changes), state, rollout, score)
  start = jax.tree.map(jnp.copy, state.params)
  got, found = method.phases.update(state, rollout, score)
  for role in ("policy", "critic"):
    assert nano.gap(start[role], got.params[role]) > 0.05
    assert nano.gap(want[role], got.params[role]) < 1e-5, role
  # Both clips have decided on the way, and neither in the first update.
  assert not clipped[0].any() and clipped[1:].sum(0).min() > 3, clipped
  assert float(found["value_clip_fraction"]) > 0
  assert float(found["clip_fraction"]) > 0


@pytest.mark.parametrize("algorithm", ["ppo", "rloo", "reinforce_pp"])
def test_microbatches_change_nothing(algorithm):
  changes = {"kl_reward__beta": 0.3}
  if algorithm == "ppo":
    changes["updates_per_step"] = 2
  whole = nano.method(algorithm, **changes)
  rollout, score = rolled(whole)
  want, _ = whole.phases.update(mixed(whole), rollout, score)
  cut = nano.method(algorithm, microbatch=2, **changes)
  got, _ = cut.phases.update(mixed(cut), rollout, score)
  assert nano.gap(got.params, want.params) < 1e-6
  assert nano.gap(got.params, mixed(whole).params) > 1e-3


# ------------------------------------------------------------ the critic
def test_warm_up_moves_the_critic_alone():
  method = nano.method("ppo", **RULES, critic__warmup=1)
  state = nano.start(method)
  start = jax.tree.map(jnp.copy, state)
  rollout, score = rolled(method, nano.start)
  state, _ = method.phases.update(state, rollout, score)
  same = lambda a, b: jax.tree.all(
    jax.tree.map(lambda x, y: bool(jnp.all(x == y)), a, b)
  )
  inner = lambda s: s.opt.inner_states["policy"]
  assert same(state.params["policy"], start.params["policy"])
  assert same(inner(state), inner(start))
  assert nano.gap(state.params["critic"], start.params["critic"]) > 1e-3
  warm = jax.tree.map(jnp.copy, state.params)
  state, _ = method.phases.update(state, rollout, score)
  assert nano.gap(state.params["policy"], warm["policy"]) > 1e-3
  assert not same(inner(state), inner(start))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("rank", [0, 2])
def test_every_kind_of_critic_learns(shared, rank):
  """The reward is 1 for even ids, -1 for others: V must follow the prompt."""
  changes = {"critic__shared": shared, "model__lora_rank": rank,
             "critic__coefficient": 1.0, "critic__clip": 0.0,
             "credit__target": "return"}  # fmt: skip
  method = nano.method("ppo", **changes, **ADAM)
  state = nano.start(method)
  roots = {"policy"} if shared else {"policy", "critic"}
  assert set(state.params) == roots
  rollout, _ = rolled(method, nano.start)
  even = nano.batch()["prompt"][:, -1] % 2 == 0
  value = jnp.repeat(jnp.where(even, 1.0, -1.0), G)
  score = Score(value, jnp.ones(N, bool))
  start, losses = jax.tree.map(jnp.copy, state), []
  for _ in range(20):
    state, found = method.phases.update(state, rollout, score)
    losses.append(float(found["value_loss"]))
  assert losses[0] == pytest.approx(0.5, abs=1e-5)  # V starts at 0
  assert losses[-1] < 0.25, losses
  assert float(found["explained_variance"]) > 0.5
  role = "policy" if shared else "critic"
  head = lambda s: [x for path, x in jax.tree_util.tree_leaves_with_path(
    s.params[role]) if "score" in jax.tree_util.keystr(path)]  # fmt: skip
  assert nano.gap(head(state), head(start)) > 1e-3
  assert nano.gap(state.params["policy"], start.params["policy"]) > 1e-3
  if rank:  # the base is shared and frozen
    assert nano.gap(state.frozen, start.frozen) == 0


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"critic__shared": True, "critic__warmup": 2}, "critic.warmup=2"),
    ({"critic__rate": 0.0}, "critic.rate=0.0"),
    ({"critic__clip": -0.1}, "critic.clip=-0.1"),
    ({"critic__coefficient": 0.0}, "critic.coefficient=0.0"),
    ({"critic__warmup": -1}, "critic.warmup=-1"),
    ({"credit__lam": 1.5}, "credit.lam=1.5"),
    ({"credit__target": "td"}, "credit.target='td'"),
    ({"loss__kl_stop": -1.0}, "loss.kl_stop=-1.0"),
  ],
)
def test_a_critic_that_cannot_be_is_refused(changes, said):
  with pytest.raises(errors.UserError, match=said):
    nano.method("ppo", **changes)


# ------------------------------------------------------------ controllers
def test_beta_follows_the_kl_of_the_rollout():
  changes = {"kl_reward__beta": 0.2, "kl_reward__target": 0.05,
             "kl_reward__horizon": 1000.0}  # fmt: skip
  method = nano.method("ppo", **changes)
  state = mixed(method)
  rollout, score = rolled(method)
  beta = 0.2
  for _ in range(2):
    assert float(state.extra["credit"]["kl_beta"]) == pytest.approx(beta)
    state, found = method.phases.update(state, rollout, score)
    kl = float(found["kl_sequence"])
    assert kl > 0.06  # so that the error is bounded
    assert float(found["kl_beta"]) == pytest.approx(beta)
    beta *= 1 + 0.2 * N / 1000
  assert float(state.extra["credit"]["kl_beta"]) == pytest.approx(beta)


def test_a_kl_that_is_too_far_skips_the_rest():
  """Three passes that stop before the third are two, or one."""
  run = {**RULES, "updates_per_step": 1, "optimizer__learning_rate": 300.0,
         "critic__shared": True}  # fmt: skip
  make = lambda epochs, stop=0.0: nano.method(
    "ppo", **{**run, "epochs": epochs}, loss__kl_stop=stop
  )
  start = nano.start(make(1))
  rollout, score = rolled(make(1), nano.start)

  @functools.cache
  def after(*passes):
    state = jax.tree.map(jnp.copy, start)  # the update takes it
    return make(*passes).phases.update(state, rollout, score)

  kl = lambda n: n * float(after(n)[1]["approx_kl"])  # the sum over passes
  second, third = kl(2), kl(3) - kl(2)
  assert 1e-3 < second < 0.8 * third
  for stop, passes in ((second / 2, 1), ((second + third) / 2, 2)):
    got, found = after(3, stop)
    want, same = after(passes)
    assert nano.gap(got.params, want.params) < 1e-6
    assert nano.gap(got.opt, want.opt) < 1e-6
    assert float(found["updates_skipped"]) == 3 - passes
    for name in ("approx_kl", "loss", "clip_fraction", "value_loss"):
      np.testing.assert_allclose(found[name], same[name], atol=1e-6)
  assert nano.gap(after(2)[0].params, after(1)[0].params) > 1e-2


def test_once_stopped_nothing_starts_again():
  kl = jnp.array([0.0, 0.1, 0.5, 0.2])

  def one(carry, rows):
    far = rows["kl"][0]
    return carry + 1, {"approx_kl": far, "logprob_abs_diff": far + 1}

  outer = batching.Plan(4, 1, 4)
  run = lambda stop: update.several(one, jnp.zeros(()), {"kl": kl}, outer, 2,
                                    stop)  # fmt: skip
  made, found = run(0.3)
  assert float(made) == 2 and float(found["updates_skipped"]) == 6
  assert float(found["approx_kl"]) == pytest.approx(0.05)
  assert float(found["logprob_abs_diff"]) == 1  # of the first alone
  made, found = run(0.0)
  assert float(made) == 8 and "updates_skipped" not in found
  assert float(found["approx_kl"]) == pytest.approx(0.2)
