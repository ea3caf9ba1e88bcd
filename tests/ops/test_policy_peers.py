"""Policy losses against peers, and what they do to a policy over updates."""

import gzip
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paths import shared_data

from rlreward.ops import advantage, kl, masked, policy

N, T = 4, 6


def _arrays(seed=0, spread=0.4, n=N, t=T):
  rng = np.random.default_rng(seed)
  logp = -rng.exponential(size=(n, t))
  old = logp + spread * rng.normal(size=(n, t))
  reference = logp + 0.3 * rng.normal(size=(n, t))
  advantage = np.broadcast_to(rng.normal(size=(n, 1)), (n, t))
  entropy = rng.uniform(size=(n, t))
  extras = {"reference_logp": reference, "entropy": entropy}
  to = jnp.float32
  return (
    jnp.asarray(logp, to), jnp.asarray(old, to), jnp.asarray(advantage, to),
    jax.tree.map(lambda x: jnp.asarray(x, to), extras),
  )  # fmt: skip


def test_peer_numbers():
  """NeMo-RL's own clipped-loss test; four printed digits."""
  path = shared_data("peer_fixtures") / "rl_losses.jsonl.gz"
  cases = {r["name"]: r for r in map(json.loads, gzip.open(path, "rt"))}
  case = cases["ppo_clip_loss"]
  logp, old, adv = (
    jnp.asarray([case["in"][k]]) for k in ("logp", "old_logp", "advantages")
  )
  mask = jnp.ones(logp.shape, bool)
  clip = case["in"]["clip"]
  loss, _ = policy.clipped(clip, clip).terms(logp, old, adv, mask, {})
  np.testing.assert_allclose(loss[0], case["out"]["per_token"], rtol=1e-3)
  total, weight = masked.reduce(loss, mask, "token_mean")
  np.testing.assert_allclose(total / weight, case["out"]["mean"], rtol=1e-3)


def _grown(clip_high, outer=12, inner=200):
  """Exact-gradient ascent on a 1 % action with A = 1, clip 0.2 / clip_high."""
  loss = policy.clipped(0.2, clip_high)
  payoff = jnp.zeros(100).at[0].set(1.0)
  mask = jnp.ones((100, 1), bool)

  def objective(logits, old):
    logp = jax.nn.log_softmax(logits)[:, None]
    value, _ = loss.terms(logp, old[:, None], payoff[:, None], mask, {})
    return jnp.sum(jnp.exp(old) * value[:, 0])

  def iteration(logits, _):
    old = jax.nn.log_softmax(logits)

    def step(logits, _):
      return logits - 0.2 * jax.grad(objective)(logits, old), None

    return jax.lax.scan(step, logits, length=inner)[0], None

  logits = jax.jit(
    lambda: jax.lax.scan(iteration, jnp.zeros(100), length=outer)[0]
  )()
  return float(jax.nn.softmax(logits)[0])


def test_clip_bounds_growth():
  """12 updates from 1 %: at most .01 * (1 + clip)^12, twice as far with .28."""
  low, high = _grown(0.2), _grown(0.28)
  assert high / low >= 2
  assert low <= 0.01 * 1.2**12 * 1.25 and high <= 0.01 * 1.28**12 * 1.25
  assert low > 0.05


def _final_lengths(mode, const, seed, rate):
  """Right or wrong is a coin; then stop with a logit of one's own, cap 64.

  The reward does not depend on length. Returns the exact E[L | wrong] and
  E[L | right] after 400 updates of 32 groups of 8.
  """
  cap, prompts, group = 64, 32, 8
  slots = jnp.arange(cap)
  loss = policy.reinforce()

  def step(logits, key):
    keys = jax.random.split(key)
    right = jax.random.bernoulli(keys[0], 0.5, (prompts * group,))
    draws = jax.random.uniform(keys[1], (prompts * group, cap))
    stop = jax.nn.sigmoid(logits)[right.astype(int)][:, None]
    stops = draws < stop
    length = jnp.where(stops.any(1), jnp.argmax(stops, axis=1) + 1, cap)
    mask = slots < length[:, None]
    ended = stops & (slots == length[:, None] - 1)
    reward = right.astype(jnp.float32).reshape(prompts, group)
    adv = advantage.group_advantage(
      reward, jnp.ones((prompts, group), bool),
      scale="group" if mode == "seq_mean_token_mean" else "none",
    ).reshape(-1, 1)  # fmt: skip
    adv = jnp.broadcast_to(adv, mask.shape)

    def objective(logits):
      z = logits[right.astype(int)][:, None]
      logp = jnp.where(ended, jax.nn.log_sigmoid(z), jax.nn.log_sigmoid(-z))
      value, _ = loss.terms(logp, None, adv, mask, {})
      total, weight = masked.reduce(value, mask, mode, const)
      return total / weight

    return logits - rate * jax.grad(objective)(logits), None

  keys = jax.random.split(jax.random.key(seed), 400)
  start = jnp.full(2, jnp.log(0.1 / 0.9))
  logits, _ = jax.lax.scan(step, start, keys)
  alive = (1 - jax.nn.sigmoid(logits))[:, None] ** slots
  return alive.sum(1)


@pytest.mark.parametrize("mode,const,rate", [
  ("seq_mean_token_mean", None, 0.4), ("const", 64.0, 5.0),
  ("token_mean", None, 0.8),
])  # fmt: skip
def test_length_bias(mode, const, rate):
  """1 / |o| rewards short right and long wrong answers; a constant does not.

  The rates make a typical token's push 0.04 in each mode. Measured over 8
  seeds: 55.5 and 1.0; 9.6 to 10.6; 9.6 to 10.5.
  """
  run = jax.jit(jax.vmap(lambda s: _final_lengths(mode, const, s, rate)))
  wrong, right = np.asarray(run(jnp.arange(3))).T
  if mode == "seq_mean_token_mean":
    assert np.all(wrong > 30) and np.all(right < 5)
  else:
    assert np.all(np.abs(wrong - 10) < 1.5) and np.all(np.abs(right - 10) < 1.5)


def test_rlax():
  rlax = pytest.importorskip("rlax")
  logp, old, adv, _ = _arrays()
  mask = jnp.ones((N, T), bool)
  loss, _ = policy.clipped(0.2, 0.2).terms(logp, old, adv, mask, {})
  want = rlax.clipped_surrogate_pg_loss(
    jnp.exp(logp - old).ravel(), adv.ravel(), 0.2
  )
  np.testing.assert_allclose(loss.mean(), want, rtol=1e-5)
  logits = jnp.asarray(
    np.random.default_rng(0).normal(size=(N, 7)), jnp.float32
  )
  actions = jnp.array([0, 3, 6, 2])
  weights = jnp.array([1.0, 1, 0, 1])

  def ours(logits):
    logp = jnp.take_along_axis(jax.nn.log_softmax(logits), actions[:, None], 1)
    keep = weights[:, None] > 0
    value, _ = policy.reinforce().terms(logp, None, adv[:, :1], keep, {})
    return value.sum() / N

  def theirs(logits):
    return rlax.policy_gradient_loss(logits, actions, adv[:, 0], weights)

  got, want = (jax.value_and_grad(f)(logits) for f in (ours, theirs))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, want
  )


def _trl_loss(arrays, mask, kind, level, beta, high, delta=None):
  """TRL's own `_compute_loss`, its model replaced by the given log-probs."""
  torch = pytest.importorskip("torch")
  trainer = pytest.importorskip("trl.trainer.grpo_trainer").GRPOTrainer
  logp, old, adv, extras = (
    jax.tree.map(lambda x: torch.tensor(np.asarray(x)), a) for a in arrays
  )
  logp.requires_grad_(True)
  lists = types.SimpleNamespace(append=lambda value: None)

  class _Metrics(dict):
    def __missing__(self, key):
      return lists

  fake = types.SimpleNamespace(
    _get_per_token_logps_and_entropies=lambda *a, **k: (
      logp, extras["entropy"], None
    ),
    aux_loss_enabled=False, top_entropy_quantile=1.0, beta=beta,
    off_policy_mask_threshold=None, importance_sampling_level=level,
    loss_type=kind, epsilon_low=0.2, epsilon_high=high, use_vllm=False,
    current_gradient_accumulation_steps=1, max_completion_length=T,
    _entropy_bonus_enabled=False,
    model=types.SimpleNamespace(training=True),
    args=types.SimpleNamespace(
      delta=delta, use_bias_correction_kl=False, steps_per_generation=1
    ),
    accelerator=types.SimpleNamespace(
      num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x
    ),
    _metrics={"train": _Metrics()},
  )  # fmt: skip
  ids = torch.zeros(mask.shape, dtype=torch.long)
  keep = torch.tensor(mask).float()
  inputs = {
    "prompt_ids": ids, "prompt_mask": ids, "completion_ids": ids,
    "completion_mask": keep, "advantages": adv, "old_per_token_logps": old,
    "ref_per_token_logps": extras["reference_logp"],
    "num_items_in_batch": keep.sum(),
  }  # fmt: skip
  loss = trainer._compute_loss(fake, None, inputs)
  loss.backward()
  assert logp.grad is not None
  return float(loss.detach()), logp.grad.numpy()


@pytest.mark.parametrize("kind,level,beta,mode", [
  ("grpo", "token", 0.04, "seq_mean_token_mean"),
  ("grpo", "sequence", 0.0, "seq_mean_token_mean"),
  ("bnpo", "token", 0.0, "token_mean"),
  ("dapo", "token", 0.0, "token_mean"),
  ("dr_grpo", "token", 0.0, "const"),
  ("cispo", "token", 0.0, "token_mean"),
])  # fmt: skip
def test_trl(kind, level, beta, mode):
  """The value and the gradient of TRL's GRPO trainer, ragged rows."""
  arrays = _arrays(7, n=8)
  mask = np.arange(T) < np.random.default_rng(1).integers(1, T + 1, (8, 1))
  # TRL's cispo bound is the largest weight, ours is its distance to 1.
  high = 1.28 if kind == "cispo" else 0.28
  adv = arrays[2][:, 0]
  try:
    want = _trl_loss(
      (*arrays[:2], adv, arrays[3]), mask, kind, level, beta, high
    )
  except AttributeError as error:  # another version reads other fields
    pytest.skip(f"this trl reads more of its trainer: {error}")
  loss = (
    policy.cispo(1.0, 0.28) if kind == "cispo"
    else policy.clipped(0.2, 0.28, level=level)  # type: ignore[arg-type]
  )  # fmt: skip
  if beta:
    penalty = policy.kl_penalty(kl.forward_kl_surrogate, kl.k3, beta)
    loss = policy.add(loss, penalty)

  def f(logp):
    value, _ = loss.terms(logp, arrays[1], arrays[2], mask, arrays[3])
    total, weight = masked.reduce(value, mask, mode, T)  # type: ignore[arg-type]
    return total / weight

  got = jax.value_and_grad(f)(arrays[0])
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(got[1], want[1], rtol=1e-4, atol=1e-6)
