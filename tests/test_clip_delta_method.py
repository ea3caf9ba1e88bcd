"""Clip and delta: the bandit, the claim, thresholds, credit, refusals."""

import functools
import json

import jax
import jax.numpy as jnp
import nano
import numpy as np
import paths
import pytest

from rlreward import config as config_lib
from rlreward import errors, registry
from rlreward.configfile import execute, find
from rlreward.methods import clip_delta
from rlreward.ops import advantage, process
from rlreward.rewards import process as shapes
from rlreward.steps import credit
from rlreward.types import LENGTH, Rollout, Score

SPEC = "configs/clip_delta.py"
STUDY = config_lib.study(SPEC)
FILE = vars(execute(find(SPEC)))
MOST, ETA, ALPHA = 12, 0.85, 0.1


def mini(**changes):
  return config_lib.replace(config_lib.load(f"{SPEC}:mini"), changes)


def arms():
  return {a.name: a.overrides for a in STUDY.arms}


# ------------------------------------------------------------ the bandit
@functools.partial(jax.jit, static_argnums=0)
def bandit(kind, seed):
  """(expected steps, solve rate) after GRPO on sums over trajectories.

  A stop logit before each of at most 11 steps of filler, and a solve logit; 400
  updates of rate 0.25 on 16 groups of 8.
  """
  groups = (16, 8)

  def update(theta, key):
    near, far = jax.random.split(key)
    stop, solve = jax.nn.sigmoid(theta)
    drawn = jax.random.uniform(near, (*groups, MOST - 1)) < stop
    before = jnp.where(drawn.any(-1), jnp.argmax(drawn, -1), MOST - 1)
    right = jax.random.uniform(far, groups) < solve
    slot = jnp.arange(MOST)
    last = slot == before[..., None]
    p = jnp.where(last, jnp.where(right, 0.8, 0.3)[..., None], 0.9)
    reward = right.astype(jnp.float32)
    if kind != "none":
      there = (slot <= before[..., None]).reshape(-1, MOST)
      steps = process.step_reward(p.reshape(-1, MOST), there, kind, ALPHA, ETA)
      reward += steps.sum(1).reshape(groups)
    adv = advantage.group_advantage(reward, jnp.ones(groups, bool))

    def gain(theta):
      log = jax.nn.log_sigmoid
      own = before * log(-theta[0]) + drawn.any(-1) * log(theta[0])
      own += jnp.where(right, log(theta[1]), log(-theta[1]))
      return jnp.mean(adv * own)

    return theta + 0.25 * jax.grad(gain)(theta), None

  # 3.16 steps at the start; the sheet does not say where it began.
  keys = jax.random.split(jax.random.key(seed), 400)
  theta, _ = jax.lax.scan(update, jnp.asarray([-0.787, 0.0]), keys)
  stop, solve = jax.nn.sigmoid(theta)
  return (1 - (1 - stop) ** MOST) / stop, solve


def test_filler_is_paid_by_sums_and_by_delta_alone_and_not_by_clipped_scores():
  """MEASURED there: 3.16, 11.99, 3.16, 11.85, 3.16 steps, and .998 solved."""
  found = {
    kind: [tuple(map(float, bandit(kind, seed))) for seed in range(3)]
    for kind in ("none", "raw", "clip", "delta", "clip_delta", "orm")
  }
  steps = {kind: [s for s, _ in rows] for kind, rows in found.items()}
  assert np.mean(steps["raw"]) == pytest.approx(11.99, abs=0.05)
  assert np.mean(steps["delta"]) == pytest.approx(11.85, abs=0.25)
  for kind in ("clip", "clip_delta", "orm"):
    # Against the same draws: rewards of two values have the same advantages.
    np.testing.assert_allclose(steps[kind], steps["none"], atol=0.01)
  # The stop logit of the others is a random walk: 3.1 to 4.0 with three seeds.
  assert np.mean(steps["none"]) == pytest.approx(3.16, abs=0.9)
  rates = [p for rows in found.values() for _, p in rows]
  np.testing.assert_allclose(rates, 0.998, atol=0.005)


# ------------------------------------------------------------ the claim
def optimum(kind, eta=0.8):
  """(mean steps, share right) of ref exp(R / beta) in the config's world."""
  c = mini()
  stop, wrong, most = 0.3125, 0.1, c.task.length
  weight, size, right = [], [], []
  for n in range(1, most + 1):
    chance = (1 - stop) ** (n - 1) * (stop if n < most else 1)
    for good, share in ((1, 1 - wrong), (0, wrong)):
      p = np.array([[0.9] * (n - 1) + [0.8 if good else 0.3]])
      reward = good
      if kind != "none":
        r = process.step_reward(jnp.asarray(p), jnp.ones(p.shape, bool), kind,
                                c.process.alpha, eta)  # fmt: skip
        reward += float(r.sum())
      weight.append(np.log(chance * share) + reward / c.kl_reward.beta)
      size.append(n)
      right.append(good)
  law = np.exp(weight - np.max(weight))
  law /= law.sum()
  return float(law @ size), float(law @ right)


def test_the_claim_is_true_of_the_optima_and_not_of_delta_alone():
  exact = {k: {"last/length": optimum(k)[0]} for k in arms()}
  assert STUDY.claim(exact)
  assert exact["raw"]["last/length"] == pytest.approx(12.0, abs=0.05)
  assert exact["delta"]["last/length"] == pytest.approx(4.1, abs=0.1)
  assert exact["none"]["last/length"] == pytest.approx(3.2, abs=0.05)
  assert not STUDY.claim({**exact, "clip_delta": exact["delta"]})
  assert not STUDY.claim({**exact, "raw": exact["none"]})
  assert all(optimum(k)[1] > 0.99 for k in arms())


def test_the_record_is_of_this_claim_and_its_broken_variant_fails():
  found = json.loads((paths.REPO / "results/clip_delta.json").read_text())
  assert found["holds"] == STUDY.claim(found["arms"])
  broken = found["arms"][FILE["BROKEN"].name]
  assert not STUDY.claim({**found["arms"], "clip_delta": broken})
  assert len(found["arms"]["clip_delta"]["runs"]) == 3


# ------------------------------------------------------------ the shaping
def rows(scores, action=None):
  """(Score, Rollout) of N rows with scores of steps f[N, L]."""
  scores = jnp.asarray(scores, jnp.float32)
  n = scores.shape[0]
  action = jnp.ones(scores.shape, bool) if action is None else action
  blank = jnp.zeros(scores.shape)
  rollout = Rollout(blank, action, action, action, blank, jnp.arange(n),
                    jnp.full(n, LENGTH), jnp.zeros(()))  # fmt: skip
  value = jnp.ones(n)
  return Score(value, jnp.ones(n, bool), scores, {}), rollout


NAN = np.nan
STEPS = [[NAN, 0.9, NAN, 0.2, 0.7], [0.5, NAN, NAN, NAN, 0.1]]


def test_scores_become_rewards_at_the_tokens_that_end_steps():
  score, rollout = rows(STEPS)
  made = shapes.shaped("clip_delta", 0.1, 0.6)
  found, _ = made.update(score, made.init(), rollout)
  want = [[0, 0.04, 0, -0.04, 0], [-0.01, 0, 0, 0, 0]]
  np.testing.assert_allclose(found.tokens, want, atol=1e-7)
  np.testing.assert_array_equal(found.value, score.value)
  # What the policy did not write is no step, and no judgement no reward.
  action = rollout.action.at[0, 3].set(False)
  other, _ = made.update(
    score._replace(valid=jnp.asarray([True, False])), made.init(),
    rollout._replace(action=action),
  )  # fmt: skip
  np.testing.assert_allclose(other.tokens, np.zeros((2, 5)), atol=1e-7)
  none = shapes.shaped("none", 1.0)
  assert none.update(score, none.init(), rollout)[0].tokens is None


def test_the_threshold_is_a_quantile_of_the_first_rollout_with_steps():
  made = shapes.shaped("clip", 1.0, quantile=0.3)
  empty, rollout = rows(np.full((2, 5), NAN))
  found, state = made.update(empty, made.init(), rollout)
  assert state["held"] == 0 and not np.asarray(found.tokens).any()
  score, rollout = rows(STEPS)
  _, state = made.update(score, state, rollout)
  wanted = np.quantile([0.9, 0.2, 0.7, 0.5, 0.1], 0.3)
  assert state["eta"] == pytest.approx(wanted, abs=1e-6)
  later, _ = rows(np.full((2, 5), 0.3))
  found, after = made.update(later, state, rollout)
  assert after["eta"] == state["eta"]
  np.testing.assert_allclose(found.tokens, min(0.3 - wanted, 0), atol=1e-6)


def test_steps_side_by_side_are_put_into_a_score():
  found = shapes.at_ends(jnp.asarray([[0.9, 0.2, NAN]]),
                         jnp.asarray([[1, 3, -1]]), 5)  # fmt: skip
  np.testing.assert_allclose(found, [[NAN, 0.9, NAN, 0.2, NAN]])


# ------------------------------------------------------------ credit
def test_returns_against_those_from_the_same_step_on():
  """Tokens of step k: R_k less the group's mean R_k, then whitened."""
  reward = jnp.asarray([1.0, 0.0])
  tokens = jnp.asarray([[0.0, 0.3, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0]])
  action = jnp.ones((2, 4), bool)
  fields = {"reward": reward, "valid": jnp.ones(2, bool), "tokens": tokens,
            "action": action, "logp": jnp.zeros((2, 4)),
            "reference_logp": None, "value": None, "aside": jnp.zeros((1, 0)),
            "aside_valid": jnp.zeros((1, 0), bool), "group": 2}  # fmt: skip
  step = jnp.asarray([[0, 0, 1, 1], [0, 1, 1, 1]])
  own = credit.reward_to_go(center="step")
  found, _ = own.assign(credit.Signals(**fields, step=step), own.init())
  gap = np.array([[0.6, 0.6, 0.5, 0.5], [-0.6, -0.5, -0.5, -0.5]])
  want = (gap - gap.mean()) / gap.std(ddof=1)
  np.testing.assert_allclose(found.advantage, want, atol=1e-4)  # sd + 1e-8
  # Without scores of steps the whole answer is one.
  whole = credit.Signals(**{**fields, "tokens": None})
  plain, _ = own.assign(whole, own.init())
  sd = (8 / 7) ** 0.5
  want = [[1 / sd] * 4, [-1 / sd] * 4]
  np.testing.assert_allclose(plain.advantage, want, atol=1e-4)


# ------------------------------------------------------------ the method
def made(task=None, **changes):
  c = nano.config(**{"process__kind": "none", **changes})
  return clip_delta.make(c, task or nano.task())


@pytest.mark.parametrize("baseline", ["", "group"])
def test_ppo_and_groups(baseline):
  method = made(credit__baseline=baseline)
  state = jax.eval_shape(method.init, jax.random.key(0))
  after, _ = jax.eval_shape(method.step, state, nano.batch(), state.key)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert ("critic" in state.params) == (not baseline)


@pytest.mark.parametrize(
  ("changes", "word"),
  [
    ({"process__kind": "sum"}, "process.kind"),
    ({"process__alpha": -1.0}, "process.alpha"),
    ({"process__eta": float("inf")}, "process.eta"),
    ({"process__quantile": 1.0}, "process.quantile"),
    ({"credit__baseline": "batch"}, "baseline"),
    ({"process__judge": "a.py:f"}, "process.judge"),
  ],
)
def test_what_cannot_be_is_refused_before_anything_compiles(changes, word):
  with pytest.raises(errors.UserError, match=word):
    made(**changes)


def test_a_reward_without_scores_of_steps_is_refused():
  method = made(process__kind="clip")
  state = jax.eval_shape(method.init, jax.random.key(0))
  with pytest.raises(errors.UserError, match=r"scores no steps"):
    jax.eval_shape(method.step, state, nano.batch(), state.key)


@pytest.mark.parametrize("arm", sorted(arms()))
def test_arms_are_made(arm):
  c = mini(**arms()[arm], prompts_per_step=8, **{"start.steps": 0})
  task = registry.task(c)
  method = clip_delta.make(c, task)
  state = jax.eval_shape(method.init, jax.random.key(0))
  batch = jax.tree.map(jnp.asarray, next(task.batches("train", 8, 0)))
  after, _ = jax.eval_shape(method.step, state, batch, state.key)
  assert jax.tree.structure(after) == jax.tree.structure(state)


def test_the_size_of_the_paper_builds_without_memory():
  c = config_lib.load(f"{SPEC}:pod")
  shape = {"path": "", "vocab": 151_936, "width": 1536, "layers": 28,
           "heads": 12, "kv_heads": 2, "head_dim": 128, "mlp": 8960,
           "qkv_bias": True, "tied": True}  # fmt: skip
  c = config_lib.replace(c, {f"model.{k}": v for k, v in shape.items()})
  c = config_lib.replace(c, {"process.judge": ""})

  def reward(rollout, batch):
    found = nano.even_share(rollout, batch)
    return found._replace(tokens=rollout.logp)

  method = clip_delta.make(c, nano.task(reward, vocab_size=151_936))
  b, p = c.prompts_per_step, 512
  batch = {"prompt": jax.ShapeDtypeStruct((b, p), "int32"),
           "prompt_mask": jax.ShapeDtypeStruct((b, p), "bool")}  # fmt: skip
  state = jax.eval_shape(method.init, jax.random.key(0))
  after, _ = jax.eval_shape(method.step, state, batch, state.key)
  assert jax.tree.structure(after) == jax.tree.structure(state)
