"""Fixed points: a bandit of 16 tokens through the real decoder and step.

The answer is one token, all prompts are equal and the reward is a table, so
the optimum is known: ref exp(r / beta) / Z where the KL to the reference is
paid for, and the law of the best of n for BOND. Distances are exact, from the
logits.
"""

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import registry
from rlreward.analytic import tilt
from rlreward.ops import kl
from rlreward.steps import roles
from rlreward.types import Score

V, P = nano.V, 2
# Seven of them tied: a best-of-n law has atoms.
REWARD = np.float32(np.random.default_rng(7).normal(size=V).round(1))
REWARD[::2] = 0.3
STEPS = 120
BANDIT = {
  "steps": STEPS, "prompts_per_step": 64, "sampling__max_new_tokens": 1,
  "model__layers": 1, "optimizer__learning_rate": 3e-2,
  "optimizer__eps": 1e-8, "optimizer__schedule": "linear",
  "optimizer__final_fraction": 0.0,
}  # fmt: skip


def reward(rollout, batch):
  del batch
  value = jnp.asarray(REWARD)[rollout.tokens[:, -1]]
  return Score(value, jnp.ones(value.shape, bool))


def learn(algorithm, seed=1, **changes):
  """(log pi, log ref), each f32[V], after a short run."""
  c = nano.config(algorithm=algorithm, **{**BANDIT, **changes})
  task = nano.task(reward, stop_ids=(), prompt_length=P)
  method = registry.algorithm(algorithm).make(c, task)
  b = c.prompts_per_step
  batch = {"prompt": jnp.full((b, P), 5, jnp.int32),
           "prompt_mask": jnp.ones((b, P), bool)}  # fmt: skip
  actor = roles.policy(c.model)

  def run(seed):
    start = method.init(jax.random.key(seed))

    def body(state, _):
      key = jax.random.fold_in(state.key, state.step)
      state, found = method.step(state, batch, key)
      return state, found["reward"]

    end, rewards = jax.lax.scan(body, start, length=STEPS)
    read = lambda state: jax.nn.log_softmax(
      actor.model.logits(
        actor.variables(state.params, state.frozen),
        batch["prompt"][:1], batch["prompt_mask"][:1],
      )[0, -1]
    )  # fmt: skip
    return read(end), read(start), rewards

  return jax.jit(run)(seed)


def tilted(reference, beta):
  return jax.nn.log_softmax(reference + REWARD / beta)


def best_of(reference, n):
  p = np.exp(np.float64(reference))
  top = np.array([p[REWARD <= r].sum() for r in REWARD])
  low = np.array([p[REWARD < r].sum() for r in REWARD])
  return jnp.asarray(np.log(p * (top**n - low**n) / (top - low)), jnp.float32)


def distance(a, b):
  """KL(a || b) and total variation of two laws given by their logs."""
  gap = float(kl.categorical_kl(a, b))
  return gap, float(jnp.abs(jnp.exp(a) - jnp.exp(b)).sum() / 2)


BETA = 0.5
IN_REWARD = {"kl_reward__beta": BETA}
IN_LOSS = {"loss__kl": "reverse", "loss__kl_beta": BETA}


# Bounds are two to four times the largest of three seeds: KL below 5e-5 and
# total variation 0.0023 with the KL in the reward, where the advantage of every
# token vanishes at the optimum and takes the noise with it; 0.0014 and 0.019
# with the KL in the loss, which keeps its noise. ReMax had 0.0055 and 0.04: the
# greedy answer's own KL is not in its baseline. The reference is 0.47 or more
# away, a coefficient that is off by a third 0.022.
@pytest.mark.parametrize(
  ("algorithm", "changes", "beta", "nats", "variation"),
  [
    ("ppo", {**IN_REWARD, "updates_per_step": 2, "epochs": 2}, BETA, 1e-4,
     0.01),
    ("rloo", IN_REWARD, BETA, 1e-4, 0.01),
    ("reinforce", IN_REWARD, BETA, 1e-4, 0.01),
    ("reinforce_pp", IN_REWARD, BETA, 1e-4, 0.01),
    ("remax", IN_REWARD, BETA, 0.02, 0.08),
    ("rloo", IN_LOSS, BETA, 0.006, 0.06),
    # The mean holds the sample itself: rewards shrink by (G - 1) / G.
    ("dr_grpo", IN_LOSS, BETA * nano.G / (nano.G - 1), 0.006, 0.06),
  ],
)  # fmt: skip
def test_the_policy_becomes_the_tilted_reference(
  algorithm, changes, beta, nats, variation
):
  pi, reference, _ = learn(algorithm, **changes)
  gap, far = distance(pi, tilted(reference, beta))
  assert gap < nats and far < variation, (gap, far)
  assert distance(reference, tilted(reference, beta))[0] > 0.1
  # The bounds tell a coefficient from one that is a quarter smaller or larger.
  for other in (0.75 * beta, beta / 0.75):
    assert distance(pi, tilted(reference, other))[0] > 1.5 * nats


def test_bond_becomes_the_best_of_n():
  # 0.004 was the largest of three seeds; 32 anchors bias the law a little.
  pi, reference, rewards = learn("bond", best_of_n__n=4, best_of_n__anchors=32)
  law = best_of(reference, 4)
  gap, _ = distance(pi, law)
  assert gap < 0.016, gap
  assert distance(reference, law)[0] > 0.5
  for other in (3, 5):
    assert distance(pi, best_of(reference, other))[0] > 2 * gap
  assert float(rewards[-5:].mean() - rewards[:5].mean()) > 0.05


def test_the_controller_steers_the_kl():
  """Beta ends where the tilt is as far from the reference as was asked."""
  changes = {"kl_reward__beta": 2.0, "kl_reward__target": 0.15,
             "kl_reward__horizon": 1000.0}  # fmt: skip
  pi, reference, _ = learn("rloo", **changes)
  gap, _ = distance(pi, reference)
  assert gap == pytest.approx(0.15, abs=0.03)
  betas = np.geomspace(0.1, 4, 200)
  nearest = min(distance(pi, tilted(reference, b))[0] for b in betas)
  assert nearest < 0.006


@pytest.mark.parametrize("algorithm", ["rloo", "reinforce_pp"])
def test_a_budget_finds_its_price(algorithm):
  """The policy becomes the tilt whose KL is the budget."""
  changes = {"kl_reward__budget": 0.15, "samples_per_prompt": 8}
  pi, reference, _ = learn(algorithm, **changes)
  alpha = float(tilt.solve_alpha(reference, REWARD, 0.15))
  # The aim follows the noise of 32 samples a step: 0.02 of three seeds.
  gap, _ = distance(pi, reference)
  assert gap == pytest.approx(0.15, abs=0.03)
  assert distance(pi, tilted(reference, 1 / alpha))[0] < 0.006
