"""Credit: loops over the tokens of six answers, and what algorithms choose."""

import math

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import errors, registry
from rlreward.steps import credit, online

B, G, T = 2, 3, 4
N = B * G
ACTION = np.array([
  [1, 1, 1, 1], [1, 0, 1, 1], [1, 0, 0, 0],
  [1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1],
], bool)  # fmt: skip
VALID = np.array([1, 1, 1, 1, 0, 1], bool)
REWARD = np.array([1.0, 0.0, 3.0, -1.0, 9.0, 2.0])
LENGTH = ACTION.sum(1)
# Float32 sums of a dozen numbers of size 1.
TOL = {"rtol": 1e-5, "atol": 2e-6}
_rng = np.random.default_rng(0)
TOKENS, LOGP, SHIFT, VALUE = _rng.normal(size=(4, N, T))
REFERENCE = LOGP - 0.3 * SHIFT - 0.1
K1 = np.where(ACTION, LOGP - REFERENCE, 0)
ASIDE = np.array([[0.5], [2.5]])


def signals(**changes):
  """The answers above, NaN wherever a number must not be read."""
  dirty = lambda x: jnp.where(ACTION, jnp.asarray(x, jnp.float32), jnp.nan)
  reward = jnp.where(VALID, jnp.asarray(REWARD, jnp.float32), jnp.nan)
  fields = dict(
    reward=reward, valid=jnp.asarray(VALID), tokens=None,
    action=jnp.asarray(ACTION), logp=dirty(LOGP),
    reference_logp=dirty(REFERENCE), value=dirty(VALUE),
    aside=jnp.asarray(ASIDE, jnp.float32), aside_valid=jnp.ones((B, 1), bool),
    group=G,
  )  # fmt: skip
  return credit.Signals(**{**fields, **changes})


def assign(found, given=None, state=None):
  state = found.init() if state is None else state
  return found.assign(signals() if given is None else given, state)


def rows(advantage):
  """One number for each answer, from advantages equal at its actions."""
  advantage = np.asarray(advantage)
  assert not np.any(advantage[~ACTION])
  out = np.array([a[m][0] for a, m in zip(advantage, ACTION, strict=True)])
  np.testing.assert_array_equal(advantage, np.where(ACTION, out[:, None], 0))
  return out


def whiten(x, keep, mean=True):
  sd = np.sqrt(x[keep].var(ddof=1) + 1e-8)
  white = (x - x[keep].mean()) / sd
  return np.where(keep, white if mean else white + x[keep].mean(), 0)


def leave_one_out(total):
  want = np.zeros(N)
  for n in np.flatnonzero(VALID):
    others = [m for m in range(n // G * G, n // G * G + G)
              if m != n and VALID[m]]  # fmt: skip
    want[n] = total[n] - np.mean(total[others])
  return want


PENALTY = credit.Penalty(0.3)
KNOWN = ACTION & VALID[:, None]


# ------------------------------------------------------------ the KL
@pytest.mark.parametrize("tokens", [False, True])
def test_the_kl_and_token_rewards_are_part_of_an_answers_reward(tokens):
  seen = []

  def read(reward, valid):
    seen.append((reward, valid))
    return reward

  extra = jnp.where(ACTION, jnp.asarray(TOKENS, jnp.float32), jnp.nan)
  given = signals(tokens=extra if tokens else None)
  found, _ = assign(credit.group(read, PENALTY), given)
  total = np.where(VALID, REWARD, 0) - 0.3 * K1.sum(1)
  if tokens:
    total = total + np.where(ACTION, TOKENS, 0).sum(1)
  reward, valid = seen[0]
  np.testing.assert_allclose(reward, total.reshape(B, G), **TOL)
  np.testing.assert_array_equal(valid, VALID.reshape(B, G))
  np.testing.assert_allclose(rows(found.advantage), total, **TOL)


def test_a_transform_comes_before_the_kl():
  found = credit.sequence(
    lambda s: s.reward, PENALTY, transform=lambda s: 10 * s.reward
  )
  got = rows(assign(found)[0].advantage)
  want = np.where(VALID, 10 * REWARD, 0) - 0.3 * K1.sum(1)
  np.testing.assert_allclose(got, want, **TOL)


@pytest.mark.parametrize(
  "make",
  [
    lambda p: credit.group(lambda r, v: r, p),
    lambda p: credit.running_mean(0.9, p),
    lambda p: credit.reward_to_go(p),
    lambda p: credit.gae(p),
  ],
)
def test_beta_is_state_and_follows_its_target(make):
  """The step uses the beta it is given and leaves the next one behind."""
  found = make(credit.Penalty(0.3, target=0.05, horizon=60.0))
  assert "reference_logp" in found.needs
  state, beta = found.init(), 0.3
  kl = K1.sum(1).mean()
  assert kl > 0.06  # the bound of the controller is met
  for _ in range(3):
    assigned, state = assign(found, state=state)
    assert float(assigned.metrics["kl_beta"]) == pytest.approx(beta, rel=1e-6)
    beta *= 1 + 0.2 * N / 60
    assert float(state["kl_beta"]) == pytest.approx(beta, rel=1e-6)
  fixed = make(PENALTY)
  first, _ = assign(found)
  same, state = assign(fixed)
  np.testing.assert_array_equal(first.advantage, same.advantage)
  assert float(state["kl_beta"]) == pytest.approx(0.3)
  assert "kl_beta" not in make(None).init()
  assert "reference_logp" not in make(None).needs


# ------------------------------------------------------------ baselines
def test_the_running_mean_by_hand():
  found = credit.running_mean(0.9)
  state, mean, weight = found.init(), 0.0, 0.0
  for shift in (0.0, 2.0, -1.0):
    given = signals(reward=signals().reward + shift)
    assigned, state = assign(found, given, state)
    baseline = mean / weight if weight else 0.0
    want = REWARD + shift - baseline
    got = rows(assigned.advantage)
    np.testing.assert_allclose(got[VALID], want[VALID], **TOL)
    assert float(assigned.metrics["baseline"]) == pytest.approx(baseline)
    # Known rewards are 1, 0, 3, -1 and 2.
    mean, weight = 0.9 * mean + 0.1 * (1 + shift), 0.9 * weight + 0.1
    assert float(state["mean"]) == pytest.approx(mean, rel=1e-5)
    assert float(state["weight"]) == pytest.approx(weight, rel=1e-5)
  nothing = signals(valid=jnp.zeros(N, bool))
  _, after = assign(found, nothing, state)
  jax.tree.map(np.testing.assert_array_equal, after, state)


@pytest.mark.parametrize("center", ["none", "group"])
@pytest.mark.parametrize("penalty", [None, PENALTY])
def test_reward_to_go_is_a_loop(center, penalty):
  found = credit.reward_to_go(penalty, gamma=0.9, center=center)
  got = assign(found)[0].advantage
  reward = np.where(VALID, REWARD, 0)
  if center == "group":
    reward = reward - np.repeat([reward[:3].mean(), reward[[3, 5]].mean()], G)
  reward = np.where(VALID, reward, 0)
  out = np.zeros((N, T))
  for n in range(N):
    at = np.flatnonzero(ACTION[n])
    total = 0.0
    for t in reversed(at):
      step = reward[n] * (t == at[-1])
      step -= 0.3 * K1[n, t] if penalty else 0
      total = step + 0.9 * total
      out[n, t] = total
  np.testing.assert_allclose(got, whiten(out, KNOWN), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("whiten_reward", [False, True])
@pytest.mark.parametrize("whiten_advantage", [False, True])
@pytest.mark.parametrize("target", ["gae", "return"])
def test_gae_is_a_loop(whiten_reward, whiten_advantage, target):
  found = credit.gae(
    PENALTY, gamma=0.9, lam=0.8, whiten_reward=whiten_reward,
    whiten=whiten_advantage, target=target,
  )  # fmt: skip
  extra = jnp.where(ACTION, jnp.asarray(TOKENS, jnp.float32), jnp.nan)
  got, _ = assign(found, signals(tokens=extra))
  step = np.where(ACTION, TOKENS, 0) - 0.3 * K1
  for n in np.flatnonzero(VALID):
    step[n, np.flatnonzero(ACTION[n])[-1]] += REWARD[n]
  if whiten_reward:
    step = whiten(step, KNOWN, mean=False)
  advantage, to_go = np.zeros((2, N, T))
  for n in np.flatnonzero(VALID):
    after = ahead = total = 0.0
    for t in reversed(np.flatnonzero(ACTION[n])):
      delta = step[n, t] + 0.9 * after - VALUE[n, t]
      ahead = delta + 0.9 * 0.8 * ahead
      total = step[n, t] + 0.9 * total
      after = VALUE[n, t]
      advantage[n, t], to_go[n, t] = ahead, total
  want = to_go if target == "return" else advantage + VALUE
  want = np.where(KNOWN, want, 0)
  np.testing.assert_allclose(got.target, want, rtol=1e-4, atol=1e-5)
  gap = (want - VALUE)[KNOWN]
  explained = 1 - gap.var() / want[KNOWN].var()
  assert float(got.metrics["explained_variance"]) == pytest.approx(
    explained, abs=1e-4
  )
  assert float(got.metrics["value"]) == pytest.approx(
    VALUE[KNOWN].mean(), abs=1e-5
  )
  if whiten_advantage:  # after the targets are made
    advantage = whiten(advantage, KNOWN)
  np.testing.assert_allclose(got.advantage, advantage, rtol=1e-4, atol=2e-5)


def test_the_floor_keeps_noise_small():
  noise = signals(reward=jnp.asarray(1e-3 * REWARD, jnp.float32))
  loud = assign(credit.reward_to_go(), noise)[0].advantage
  quiet = assign(credit.reward_to_go(sd_min=1.0), noise)[0].advantage
  assert np.abs(loud).max() > 1 and np.abs(quiet).max() < 0.01


def test_credit_carries_no_gradient():
  def f(reward, logp, value):
    given = signals(reward=reward, logp=logp, value=value)
    total = 0.0
    for found in (
      credit.group(lambda r, v: r, PENALTY), credit.reward_to_go(PENALTY),
      credit.gae(PENALTY), credit.running_mean(0.9, PENALTY),
    ):  # fmt: skip
      assigned, _ = assign(found, given)
      total += assigned.advantage.sum()
      if assigned.target is not None:
        total += assigned.target.sum()
    return total

  one = jnp.ones((N, T))
  grads = jax.grad(f, (0, 1, 2))(jnp.ones(N), one, one)
  assert not any(np.any(g) for g in grads)


def test_unknown_words_are_refused():
  with pytest.raises(ValueError, match="center='mean'"):
    credit.reward_to_go(center="mean")
  with pytest.raises(ValueError, match="target='td'"):
    credit.gae(target="td")


# ------------------------------------------------------------ algorithms
@pytest.fixture
def pieces(monkeypatch):
  """What an algorithm hands to the online step."""
  monkeypatch.setattr(online, "make", lambda config, task, **parts: parts)
  make = lambda name, **changes: registry.algorithm(name).make(
    nano.config(algorithm=name, **changes), nano.task()
  )
  return make


def _baselines():
  valid = np.where(VALID, REWARD, 0)
  by_group = lambda a, b: np.repeat([a, b], G)
  length = LENGTH * VALID
  weighed = (length * valid).reshape(B, G).sum(1) / length.reshape(B, G).sum(1)
  group = by_group(4 / 3, 0.5)
  return {
    "running": valid, "none": valid, "batch": valid - 1.0,
    "greedy": valid - by_group(0.5, 2.5), "group": valid - group,
    "length": valid - by_group(*weighed), "gpg": valid - group,
  }  # fmt: skip


@pytest.mark.parametrize("name", ["", *_baselines()])
def test_reinforce_takes_off_the_baseline_of_its_name(pieces, name):
  parts = pieces("reinforce", credit__baseline=name)
  got = rows(assign(parts["credit"])[0].advantage)
  want = _baselines()[name or "running"]
  np.testing.assert_allclose(got[VALID], want[VALID], **TOL)
  mean = "token_mean" if name == "gpg" else "seq_mean_token_sum"
  assert parts["aggregate"] == mean
  greedy = [a for a in parts["credit"].asides if a.greedy]
  assert len(greedy) == (name == "greedy")


def test_rloo_leaves_one_out_of_penalised_rewards(pieces):
  parts = pieces("rloo", kl_reward__beta=0.3)
  got = rows(assign(parts["credit"])[0].advantage)
  want = leave_one_out(REWARD - 0.3 * K1.sum(1))
  np.testing.assert_allclose(got, want, **TOL)
  assert parts["aggregate"] == "seq_mean_token_sum"
  assert parts["credit"].needs == {"reference_logp"}
  assert pieces("rloo")["credit"].needs == frozenset()


def test_remax_takes_off_the_greedy_answer(pieces):
  parts = pieces("remax", samples_per_prompt=1)
  assert parts["credit"].asides == (credit.Aside("policy", 1, True),)
  got = rows(assign(parts["credit"])[0].advantage)
  np.testing.assert_allclose(
    got, np.where(VALID, REWARD - np.repeat([0.5, 2.5], G), 0), **TOL
  )
  unknown = signals(aside_valid=jnp.array([[True], [False]]))
  got = rows(assign(parts["credit"], unknown)[0].advantage)
  assert np.all(got[:3] == np.float32(REWARD[:3] - 0.5)) and not got[3:].any()


def test_bond_is_rloo_on_the_log_of_the_best_of_n_law(pieces):
  parts = pieces("bond", best_of_n__n=4, best_of_n__anchors=5)
  assert parts["credit"].asides == (credit.Aside("reference", 5),)
  anchor = np.array([[0, 1, 1, 2, 5], [-1, 0, 0, 3, 3]], np.float32)
  known = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 1]], bool)
  given = signals(
    aside=jnp.where(known, anchor, jnp.nan), aside_valid=jnp.asarray(known)
  )
  law = np.zeros(N)
  for n in range(N):
    a = anchor[n // G][known[n // G]]
    top = (1 + (a <= REWARD[n]).sum()) / (len(a) + 1)
    low = (a < REWARD[n]).sum() / (len(a) + 1)
    law[n] = np.log((top**4 - low**4) / (top - low))
  got = rows(assign(parts["credit"], given)[0].advantage)
  want = leave_one_out(law - K1.sum(1))
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_a_kl_is_paid_for_once():
  for name in ("ppo", "rloo", "reinforce", "reinforce_pp", "remax", "bond",
               "grpo"):  # fmt: skip
    for beta in (0.1, 0.0) if name == "bond" else (0.1,):
      with pytest.raises(errors.UserError) as caught:
        nano.method(name, kl_reward__beta=beta, loss__kl_beta=0.2)
      said = str(caught.value)
      assert "kl_reward.beta" in said and "loss.kl_beta=0.2" in said, name
  with pytest.raises(errors.UserError, match=r"kl_reward\.target=3"):
    nano.method("ppo", kl_reward__target=3.0)


def test_a_budget_excludes_other_prices():
  for changes, said in (
    ({"kl_reward__beta": 0.1}, "beta=0.1"),
    ({"loss__kl_beta": 0.2}, "loss.kl_beta=0.2"),
    ({"samples_per_prompt": 1}, "samples_per_prompt=1"),
  ):
    with pytest.raises(errors.UserError) as caught:
      nano.method("ppo", kl_reward__budget=0.5, **changes)
    assert "kl_reward.budget=0.5" in str(caught.value)
    assert said in str(caught.value)


def test_the_first_price_is_that_of_the_first_samples():
  """At the reference the price is that of the rewards' own tilt."""
  reward = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
  action = np.ones((512, 2), bool)
  logp = np.full((512, 2), -1.0, np.float32)
  signals = credit.Signals(
    reward=jnp.asarray(reward.reshape(-1)), valid=jnp.ones(512, bool),
    tokens=None, action=jnp.asarray(action), logp=jnp.asarray(logp),
    reference_logp=jnp.asarray(logp), value=None, aside=jnp.zeros((64, 0)),
    aside_valid=jnp.zeros((64, 0), bool), group=8,
  )  # fmt: skip
  made = credit.group(lambda r, v: r, credit.Penalty(0.0, budget=0.3))
  found, state = made.assign(signals, made.init())
  # Normal rewards of variance 1: KL = alpha^2 / 2; G = 8 costs a few per cent.
  # Nothing is spent yet, e = -1: the price is exp(-0.3) of it.
  price = 0.6**-0.5 * math.exp(-0.3)
  assert float(found.metrics["kl_beta"]) == pytest.approx(price, rel=0.1)
  # A policy that is far from its budget says nothing of what it wastes.
  assert float(state["kl_error"]) == 0


def test_a_budget_is_trimmed_by_the_error_of_the_kl():
  """exp(0.3 e + 0.06 sum e) of the price, by hand."""
  made = credit.group(lambda r, v: r, credit.Penalty(0.0, budget=0.5))
  state = {**made.init(), "kl_beta": jnp.asarray(2.0)}
  total = 0.0
  for spent in (0.6, 0.35, 0.8, 0.5):
    signals = credit.Signals(
      reward=jnp.ones(8), valid=jnp.ones(8, bool), tokens=None,
      action=jnp.ones((8, 2), bool), logp=jnp.full((8, 2), spent / 2),
      reference_logp=jnp.zeros((8, 2)), value=None, aside=jnp.zeros((2, 0)),
      aside_valid=jnp.zeros((2, 0), bool), group=4,
    )  # fmt: skip
    # Equal rewards imply no price of their own, so that 2 stays.
    found, state = made.assign(signals, state)
    error = spent / 0.5 - 1
    total += error if abs(error) < 0.5 else 0.0
    trim = 0.3 * min(error, 1) + 0.06 * total
    # 1e-5: f32.
    assert float(found.metrics["kl_trim"]) == pytest.approx(trim, abs=1e-5)
    price = 2 * math.exp(trim)
    assert float(found.metrics["kl_beta"]) == pytest.approx(price, rel=1e-5)


def test_rewards_that_say_nothing_leave_the_price():
  made = credit.group(lambda r, v: r, credit.Penalty(0.0, budget=0.3))
  signals = credit.Signals(
    reward=jnp.ones(8), valid=jnp.ones(8, bool), tokens=None,
    action=jnp.ones((8, 2), bool), logp=jnp.zeros((8, 2)),
    reference_logp=jnp.zeros((8, 2)), value=None, aside=jnp.zeros((2, 0)),
    aside_valid=jnp.zeros((2, 0), bool), group=4,
  )  # fmt: skip
  known = {"kl_beta": jnp.asarray(0.7), "kl_error": jnp.asarray(0.0)}
  _, state = made.assign(signals, known)
  assert float(state["kl_beta"]) == pytest.approx(0.7)
  found, _ = made.assign(signals, made.init())
  assert float(found.metrics["kl_beta"]) == 0  # no price before any sign
