"""Our own GRPO step through the public API.

usage: python benchmarks/bench_rlreward.py {S|M} {steady|first}

`update` is the update alone, as the peers time theirs: k3 to given reference
log-probs, clip, gradient, Adam; `update_with_reference` is the whole compiled
update, which also runs the reference. `grpo_step` is everything.
"""

from __future__ import annotations

import functools
import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent.parent)]

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import workload
from configs import common
from rlreward.algorithms import grpo
from rlreward.models import score as score_lib
from rlreward.ops import masked, policy
from rlreward.steps import optimizer, roles
from rlreward.types import Score, Task


def config(size: workload.Size):
  """The workload as a config."""
  c = common.base()
  c.prompts_per_step, c.samples_per_prompt = size.prompts, size.group
  c.sampling.max_new_tokens = size.new
  c.model.update(
    vocab=size.vocab,
    width=size.width,
    layers=size.layers,
    heads=size.heads,
    kv_heads=size.heads,
    head_dim=size.width // size.heads,
    mlp=size.mlp,
  )
  c.loss.kl_beta = 0.04
  c.optimizer.update(learning_rate=1e-5, clip_norm=0.0)
  return c


def even_share(rollout, batch):
  """Share of even ids among the new tokens."""
  del batch
  even = jnp.sum((rollout.tokens % 2 == 0) & rollout.action, 1)
  value = even / jnp.sum(rollout.action, 1)
  return Score(value, jnp.ones(value.shape, bool))


def build(size: workload.Size):
  """(config, method, initial state, batch)."""
  c = config(size)
  facts = {
    "vocab_size": size.vocab,
    "stop_ids": (),
    "pad_id": 0,
    "on_device": True,
  }
  method = grpo.make(c, Task(None, even_share, None, facts))
  state = jax.jit(method.init)(jax.random.key(0))
  rng = np.random.default_rng(1)
  prompt = rng.integers(1, size.vocab, (size.prompts, size.prompt), np.int32)
  batch = {
    "prompt": jnp.asarray(prompt),
    "prompt_mask": jnp.asarray(prompt > 0),
  }
  return c, method, state, batch


def bare_update(c, size: workload.Size):
  """The update alone, from the same pieces: given reference log-probs."""
  actor = roles.policy(c.model)
  opt = optimizer.make(c.optimizer, 1000)
  loss = grpo.regularised(policy.clipped(0.2, 0.2), c.loss)

  def objective(params, rollout, adv, reference):
    logp, _ = score_lib.completion_logprob(
      actor.model,
      params["policy"],
      rollout.tokens,
      rollout.attend,
      size.prompt,
      size.group,
    )
    mask = rollout.loss[:, size.prompt :]
    wide = jnp.broadcast_to(adv[:, None], mask.shape)
    extras = {"reference_logp": reference}
    terms, _ = loss.terms(logp, None, wide, mask, extras)
    total, weight = masked.reduce(terms, mask, "seq_mean_token_mean")
    return total / weight

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def update(params, state, rollout, adv, reference):
    grads = jax.grad(objective)(params, rollout, adv, reference)
    change, state = opt.update(grads, state, params)
    return jax.tree.map(jnp.add, params, change), state

  return update


def main(size: workload.Size, mode: str) -> None:
  """Runs the parts and prints a report."""
  report = workload.Report("rlreward", size, mode)
  c, method, state, batch = build(size)
  phases = method.phases
  box = {"state": state, "n": 0}

  def grpo_step():
    box["n"] += 1
    key = jax.random.key(box["n"])
    rollout = phases.sample(box["state"], batch, key)
    score = phases.score(rollout, batch)
    box["state"], metrics = phases.update(box["state"], rollout, score)
    return float(metrics["loss"])

  if mode == "first":
    grpo_step()
    report.put("first_step_s", workload.process_age())
    report.finish()
    return

  reps = 3 if size.name == "M" else 5
  rollout = phases.sample(box["state"], batch, jax.random.key(0))
  assert int(rollout.action.sum()) == size.rows * size.new

  def sample():
    box["n"] += 1
    key = jax.random.key(box["n"])
    jax.block_until_ready(phases.sample(box["state"], batch, key))

  new, seen = size.rows * size.new, size.rows * (size.new + size.prompt)
  report.add("generate", workload.measure(sample, reps), new)
  model = roles.policy(c.model).model
  score = jax.jit(
    lambda v, r: score_lib.completion_logprob(
      model, v, r.tokens, r.attend, size.prompt, size.group
    )[0]
  )
  reference = box["state"].frozen["reference"]
  logp = score(reference, rollout)
  report.add(
    "score",
    workload.measure(
      lambda: score(reference, rollout).block_until_ready(), reps
    ),
    seen,
  )
  update = bare_update(c, size)
  params = jax.tree.map(jnp.copy, box["state"].params)
  opt_state = optimizer.make(c.optimizer, 1000).init(params)
  bare = {"params": params, "opt": opt_state}
  adv = jnp.asarray(
    np.random.default_rng(2).normal(size=size.rows), jnp.float32
  )

  def run_bare():
    bare["params"], bare["opt"] = update(
      bare["params"], bare["opt"], rollout, adv, logp
    )
    jax.block_until_ready(bare["params"])

  report.add("update", workload.measure(run_bare, reps), seen)
  bare.clear()
  judged = phases.score(rollout, batch)

  def run_update():
    box["state"], _ = phases.update(box["state"], rollout, judged)
    jax.block_until_ready(box["state"])

  report.add("update_with_reference", workload.measure(run_update, reps), seen)
  report.add("grpo_step", workload.measure(grpo_step, reps), new)
  report.finish()


if __name__ == "__main__":
  main(workload.SIZES[sys.argv[1]], sys.argv[2])
