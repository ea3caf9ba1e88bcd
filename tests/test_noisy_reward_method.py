"""Noisy rewards: a bandit's numbers, calibration, phrases, method, claim."""

import functools
import itertools
import json
from typing import Any

import jax
import jax.numpy as jnp
import nano
import numpy as np
import paths
import pytest

from rlreward import config as config_lib
from rlreward import errors
from rlreward.analytic import label_noise
from rlreward.configfile import execute, find
from rlreward.methods import noisy_reward
from rlreward.ops import advantage, noise, patterns
from rlreward.rewards import phrases, verify
from rlreward.types import Score

SPEC = "configs/noisy_reward.py"
STUDY: Any = config_lib.study(SPEC)
FILE = vars(execute(find(SPEC)))


# ------------------------------------------------------------ the bandit
# 64 prompts of 10 answers with 32 features each; the right one is the best by a
# direction that the policy, linear in the features, must find. 300 updates of
# GRPO on 16 prompts x 8 samples by plain gradient steps.
X, Y, D, B, G, UPDATES, RATE = 64, 10, 32, 16, 8, 300, 1 / 16
SEEDS = jnp.arange(8)


def world(seed):
  """(features f32[X, Y, D], worth f32[X, Y], key)."""
  a, b, key = jax.random.split(jax.random.key(seed), 3)
  phi = jax.random.normal(a, (X, Y, D))
  return phi, phi @ jax.random.normal(b, (D,)), key


def learn(phi, judge, key):
  """Log-probs f32[X, Y] after training on judge(x, y, key) -> f32[B * G]."""
  logp = lambda w: jax.nn.log_softmax(phi @ w)

  def body(w, key):
    keys = jax.random.split(key, 3)
    x = jnp.repeat(jax.random.choice(keys[0], X, (B,), replace=False), G)
    y = jax.random.categorical(keys[1], logp(w)[x])
    r = judge(x, y, keys[2]).reshape(B, G)
    adv = advantage.group_advantage(r, jnp.ones((B, G), bool)).reshape(-1)
    gain = lambda w: jnp.mean(adv * logp(w)[x, y])
    return w + RATE * jax.grad(gain)(w), None

  w, _ = jax.lax.scan(body, jnp.zeros(D), jax.random.split(key, UPDATES))
  return logp(w)


@functools.cache
def flipped(unit):
  """{p: (mean, sd) of the chance of the right answer over seeds}."""
  group = jnp.repeat(jnp.arange(B), G)

  def one(seed, p):
    phi, worth, key = world(seed)
    right = jnp.argmax(worth, 1)

    def judge(x, y, key):
      r = (y == right[x]).astype(jnp.float32)
      return noise.flip(r, noise.flips(key, p, group, unit))

    return jnp.exp(learn(phi, judge, key))[jnp.arange(X), right].mean()

  rates = jnp.asarray([0.0, 0.2, 0.4, 0.5])
  every = jax.jit(jax.vmap(jax.vmap(one, (0, None)), (None, 0)))(SEEDS, rates)
  return dict(zip((0.0, 0.2, 0.4, 0.5), np.asarray(every), strict=True))


@pytest.mark.parametrize(
  ("unit", "want"),
  [
    ("prompt", (0.825, 0.759, 0.526, 0.105)),
    ("sample", (0.823, 0.751, 0.497, 0.101)),
  ],
)
def test_the_bandit_s_numbers(unit, want):
  # The spread of a seed is up to .043 where these were measured first, on
  # draws of their own: within one of it.
  found = flipped(unit)
  means = [found[p].mean() for p in (0.0, 0.2, 0.4, 0.5)]
  np.testing.assert_allclose(means, want, atol=0.043)
  assert all(a > b + 0.02 for a, b in itertools.pairwise(means))
  assert means[2] >= 4 / Y and abs(means[3] - 1 / Y) <= 0.05


def test_single_flips_are_not_the_milder_ones_here():
  """The paper's text calls them harmless; here they cost as much."""
  whole, single = flipped("prompt"), flipped("sample")
  assert single[0.4].mean() <= whole[0.4].mean() + 0.02


@functools.cache
def judged(alpha):
  """True reward of 8 seeds under a judge that errs in 35 of 100 labels.

  An answer is good where its worth is above 0; a bit of style agrees with that
  in 80 of 100, a correlation of .6. Errors and style are fixed.
  """

  def one(seed):
    phi, worth, key = world(seed)
    good = worth > 0
    a, b, key = jax.random.split(key, 3)
    u = good ^ jax.random.bernoulli(a, 0.35, (X, Y))
    style = (good ^ jax.random.bernoulli(b, 0.2, (X, Y))).astype(jnp.float32)
    paid = noise.calibrate(u.astype(jnp.float32), style, 0.5, alpha)
    logp = learn(phi, lambda x, y, key: paid[x, y], key)
    corr = jnp.corrcoef(style.reshape(-1), good.reshape(-1))[0, 1]
    return (jnp.exp(logp) * good).sum(1).mean(), corr

  return [np.asarray(x) for x in jax.jit(jax.vmap(one))(SEEDS)]


def test_a_calibrated_judge_is_worth_more():
  """Raw .84, calibrated .92 of the true reward, as means of 8 seeds.

  That is the form for a judge of 0 and 1, which pays alpha = 1. With the
  paper's 0.1, meant for a reward model's middling scores, it is .006 more.
  """
  raw, corr = judged(0.0)
  full, _ = judged(1.0)
  little, _ = judged(0.1)
  assert corr.mean() == pytest.approx(0.6, abs=0.03)
  assert full.mean() >= raw.mean() + 0.05
  assert (full > raw).mean() >= 0.75
  assert raw.mean() - 0.01 <= little.mean() <= full.mean() - 0.05


# ------------------------------------------------------------ phrases
def test_the_list_is_the_authors():
  found = phrases.REASONING
  assert len(found) == len(set(found)) == 40
  assert all(p == p.lower() for p in found)
  assert phrases.hits("That makes sence.") == 1
  assert phrases.hits("That makes sense.") == 0  # their list is misspelt
  assert phrases.hits("They awaited it.") == 1  # within a word too


def test_rpr_of_text_by_hand():
  text = "Wait, we need to see. Therefore it holds."
  assert phrases.reward(text) == pytest.approx(3 / 40)
  assert phrases.reward(text, c=20) == pytest.approx(3 / 20)
  assert phrases.reward(text, answered=False) == 0
  assert phrases.reward(text + " User: and now?", c=2) == 0
  assert phrases.reward(" ".join(phrases.REASONING), c=20) == 1
  assert phrases.reward(" ".join(phrases.REASONING)) == 1


def test_rpr_needs_a_marked_answer():
  text = "Wait, therefore it is"
  assert verify.reasoning(text) == verify.answered(text) == 0
  said = text + r" \boxed{4}"
  assert verify.answered(said) == 1
  assert verify.reasoning(said) == pytest.approx(2 / 40)
  twice = verify.reasoning_reward(c=20)
  assert twice(said) == pytest.approx(2 / 20)
  with pytest.raises(errors.UserError, match="c=0"):
    verify.reasoning_reward(c=0)


WORDS = ("wait", "therefore", "hence", "we", "need", "to", "if", "so", "that",
         "dog", "user:", "cat", "six")  # fmt: skip


def test_rpr_of_ids_is_that_of_the_text():
  """Random texts of 13 words, an id for each: six phrases can be made."""
  rng = np.random.default_rng(0)
  ids = rng.integers(0, len(WORDS), (60, 70))
  ids[::2] = np.where(ids[::2] == WORDS.index("user:"), 0, ids[::2])
  ids[::3, 30:60] = ids[::3, :30]  # 20-grams that come again
  length = rng.integers(5, 71, 60)
  mask = np.arange(70) < length[:, None]
  code = lambda text: [WORDS.index(w) for w in text.split()]
  mine = ("wait", "therefore", "hence", "we need to", "if we", "so that")
  assert set(mine) <= set(phrases.REASONING)
  answered = rng.random(60) < 0.8
  for c in (40, 4):
    got = patterns.reasoning_reward(
      jnp.asarray(ids), jnp.asarray(mask), [[code(p)] for p in mine],
      [code("user:")], c, jnp.asarray(answered),
    )  # fmt: skip
    want = [
      phrases.reward("".join(f"{WORDS[i]} " for i in row[:n]), mine, c, bool(a))
      for row, n, a in zip(ids, length, answered, strict=True)
    ]
    # A word that ends in another's phrase: none of these does.
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert len(set(np.round(want, 3))) > 4


# ------------------------------------------------------------ the method
class Rows:
  """What the shapings read of a rollout."""

  group = jnp.repeat(jnp.arange(3), 4)


def shaped(value, parts, **changes):
  section = nano.config(**{f"noise__{k}": v for k, v in changes.items()}).noise
  made = noisy_reward.shaper(section, 0)
  n = len(value)
  parts = {k: jnp.asarray(v, jnp.float32) for k, v in parts.items()}
  given = Score(jnp.asarray(value, jnp.float32), jnp.ones(n, bool), None, parts)
  return np.asarray(made.update(given, made.init(), Rows())[0].value)


def test_the_section_says_what_becomes_of_a_reward():
  r = np.asarray([0, 1] * 6, np.float32)
  parts = {"rpr": np.linspace(0, 1, 12), "form": np.arange(12) % 3 > 0}
  np.testing.assert_array_equal(shaped(r, parts), r)
  np.testing.assert_array_equal(shaped(r, parts, flip=1.0), 1 - r)
  np.testing.assert_allclose(
    shaped(r, parts, reward="rpr"), parts["rpr"], rtol=1e-6
  )
  np.testing.assert_array_equal(
    shaped(r, parts, gate="form"), r * parts["form"]
  )
  np.testing.assert_allclose(
    shaped(r, parts, aux="rpr", alpha=1.0), np.where(r, 1, parts["rpr"]),
    rtol=1e-6,
  )  # fmt: skip
  # Flips come first: what was right earns the phrases then.
  np.testing.assert_allclose(
    shaped(r, parts, flip=1.0, aux="rpr", alpha=1.0),
    np.where(r, parts["rpr"], 1), rtol=1e-6,
  )  # fmt: skip
  np.testing.assert_array_equal(
    shaped(r, parts, flip=1.0, answered="form"),
    np.where(parts["form"], 1 - r, r),
  )


@pytest.mark.parametrize(
  ("changes", "word"),
  [
    ({"noise__flip": -0.1}, "-0.1"),
    ({"noise__unit": "token"}, "token"),
    ({"noise__aux": "rpr", "noise__alpha": -1.0}, "-1.0"),
    ({"credit__baseline": "running"}, "running"),
    ({"credit__baseline": "group", "samples_per_prompt": 1}, "group of one"),
  ],
)
def test_what_cannot_be_is_refused(changes, word):
  with pytest.raises(errors.UserError, match=word):
    noisy_reward.make(nano.config(**changes), nano.task())


def test_seeds_have_flips_of_their_own():
  r = np.zeros(12)
  section = nano.config(noise__flip=0.5).noise
  draws = set()
  for seed in range(8):
    made = noisy_reward.shaper(section, seed)
    given = Score(jnp.asarray(r), jnp.ones(12, bool))
    value = made.update(given, made.init(), Rows())[0].value
    draws.add(tuple(np.asarray(value).tolist()))
  assert len(draws) > 2  # of 8 that are possible


def test_the_pod_is_the_paper_s():
  c: Any = config_lib.load(f"{SPEC}:pod")
  assert (c.prompts_per_step, c.samples_per_prompt) == (128, 4)
  assert (c.credit.lam, c.credit.gamma, c.kl_reward.beta) == (1.0, 1.0, 0.0)
  assert (c.critic.warmup, c.critic.rate) == (20, 5e-6)
  assert c.optimizer.learning_rate == 1e-6 and c.credit.baseline == ""


# ------------------------------------------------------------ the claim
def test_the_claim_can_fail():
  r = json.loads((paths.REPO / "results" / "noisy_reward.json").read_text())
  arms = r["arms"]
  assert STUDY.claim(arms) == r["holds"]
  assert not STUDY.claim({**arms, "noisy": arms["blind"]})
  assert not STUDY.claim({**arms, "blind": arms["noisy"]})
  idle = {**arms["clean"], "last/exact_reward": 0.5, "first/exact_reward": 0.5}
  assert not STUDY.claim(dict.fromkeys(arms, idle))


def test_the_broken_variant_has_the_gradient_of_noisy_turned_around():
  noisy = next(a for a in STUDY.arms if a.name == "noisy").overrides
  turned = FILE["BROKEN"].overrides
  for q in (0.3, 0.7):
    a, b = (
      label_noise.push(q, x["noise.flip"], 8, "prompt") for x in (noisy, turned)
    )
    assert a.mean == pytest.approx(-b.mean) and a.mean > 0
