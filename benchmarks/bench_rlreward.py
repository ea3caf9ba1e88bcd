"""Our own GRPO step through the public API.

usage: python benchmarks/bench_rlreward.py {S|M} {steady|first|warm}

steady: medians of the parts after warm-up. first: this process does one step;
seconds from its start to the end of the step; run.py gives it an empty
compilation cache, so writing that is part of it. warm: the same with the cache
in JAX_COMPILATION_CACHE_DIR that an earlier run filled.
"""

from __future__ import annotations

import functools
import os
import pathlib
import sys
from typing import Any

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

NOTES = {
  "generate": "phases.sample, temperature 1, no stop id, new key each time;"
  " each prompt is prefilled once per group",
  "score": "models.score.completion_logprob of the reference, jitted; each"
  " prompt is computed once per group",
  "update": "phases.update of the method with loss.kl_beta=0 and"
  " reference=auto: advantages, clipped loss, gradient, AdamW, all metrics; no"
  " reference pass, as the peers time it; the k3 arithmetic on [N, T] is"
  " missing here, see update_given_reference",
  "update_given_reference": "the library's pieces (completion_logprob, clipped"
  " loss + k3 to given reference log-probs, gradient, AdamW) in one program",
  "update_with_reference": "phases.update with loss.kl_beta=0.04, which also"
  " runs the reference",
  "grpo_step": "phases.sample, phases.score (share of even ids, on the device),"
  " phases.update with the reference; ends when the loss is on the host",
  "first_step_s": "process start to the end of one grpo_step: imports, random"
  " weights, compilation; grpo.make and its phases, not the training loop with"
  " its logs and checkpoints",
}


def config(size: workload.Size) -> Any:
  """The workload as a config."""
  c: Any = common.base()
  c.prompts_per_step, c.samples_per_prompt = size.prompts, size.group
  c.sampling.max_new_tokens = size.new
  c.model.update(
    vocab=size.vocab,
    width=size.width,
    layers=size.layers,
    heads=size.heads,
    kv_heads=size.heads,
    head_dim=size.head_dim,
    mlp=size.mlp,
  )
  c.loss.kl_beta = 0.04
  c.optimizer.update(learning_rate=1e-5, clip_norm=0.0)
  return c


def even_share(rollout, batch) -> Score:
  """Share of even ids among the new tokens."""
  del batch
  even = jnp.sum((rollout.tokens % 2 == 0) & rollout.action, 1)
  value = even / jnp.sum(rollout.action, 1)
  return Score(value, jnp.ones(value.shape, bool))


def make(c: Any, size: workload.Size):
  """(method, initial state) of a config."""
  facts = {
    "vocab_size": size.vocab,
    "stop_ids": (),
    "pad_id": 0,
    "on_device": True,
  }
  nothing = lambda split, batch_size, seed: iter(())
  method = grpo.make(c, Task(nothing, even_share, None, facts))
  return method, jax.jit(method.init)(jax.random.key(0))


def prompts(size: workload.Size) -> dict[str, jax.Array]:
  """A batch of random prompts of full length."""
  rng = np.random.default_rng(1)
  shape = (size.prompts, size.prompt)
  prompt = rng.integers(1, size.vocab, shape, np.int32)
  return {
    "prompt": jnp.asarray(prompt),
    "prompt_mask": jnp.asarray(prompt > 0),
  }


def update_given_reference(c: Any, size: workload.Size):
  """The update with k3 to given reference log-probs, from our pieces.

  Returns:
    jitted (params, optimiser state, rollout, advantage f32[N], reference
    log-probs f32[N, T]) -> (params, optimiser state); donates both.
  """
  actor = roles.policy(c.model)
  opt = optimizer.make(c.optimizer, c.steps)
  loss = grpo.regularised(policy.clipped(0.2, 0.2), c)

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


class Step:
  """Whole GRPO steps, one after another."""

  def __init__(self, size: workload.Size):
    """Compiles nothing yet but `init`."""
    self.config = config(size)
    method, self.state = make(self.config, size)
    assert method.phases is not None
    self.phases, self.batch, self.count = method.phases, prompts(size), 0

  def sample(self):
    """Samples with a new key."""
    self.count += 1
    key = jax.random.key(self.count)
    return jax.block_until_ready(
      self.phases.sample(self.state, self.batch, key)
    )

  def __call__(self) -> float:
    """One step; returns its loss."""
    self.count += 1
    key = jax.random.key(self.count)
    rollout = self.phases.sample(self.state, self.batch, key)
    score = self.phases.score(rollout, self.batch)
    self.state, metrics = self.phases.update(self.state, rollout, score)
    return float(metrics["loss"])


def steady(size: workload.Size, report: workload.Report) -> None:
  """Times the parts and the whole after warm-up."""
  step = Step(size)
  c, phases = step.config, step.phases
  time = lambda fn: workload.measure(fn, size.reps)
  rollout = step.sample()
  assert int(rollout.action.sum()) == size.new_tokens
  report.add("generate", time(step.sample), size.new_tokens)

  model = roles.policy(c.model).model

  @jax.jit
  def logprobs(variables, r):
    return score_lib.completion_logprob(
      model, variables, r.tokens, r.attend, size.prompt, size.group
    )[0]

  reference = step.state.frozen["reference"]
  run = lambda: jax.block_until_ready(logprobs(reference, rollout))
  report.add("score", time(run), size.all_tokens)

  # ----------------------------------------------- updates, the reference apart
  judged = phases.score(rollout, step.batch)
  alone = config(size)
  alone.loss.kl_beta = 0.0
  method, state = make(alone, size)
  assert method.phases is not None and "reference" not in state.frozen
  bare_update, box = method.phases.update, [state]
  del state

  def bare():
    box[0], _ = bare_update(box[0], rollout, judged)
    jax.block_until_ready(box[0])

  report.add("update", time(bare), size.all_tokens)
  box.clear()

  update = update_given_reference(c, size)
  params = jax.tree.map(jnp.copy, step.state.params)
  given = [params, optimizer.make(c.optimizer, c.steps).init(params)]
  del params
  rng = np.random.default_rng(2)
  adv = jnp.asarray(rng.normal(size=size.rows), jnp.float32)
  logp = run()

  def with_given():
    given[:] = update(*given, rollout, adv, logp)
    jax.block_until_ready(given)

  report.add("update_given_reference", time(with_given), size.all_tokens)
  given.clear()

  def whole():
    step.state, _ = phases.update(step.state, rollout, judged)
    jax.block_until_ready(step.state)

  report.add("update_with_reference", time(whole), size.all_tokens)
  report.add("grpo_step", time(step), size.new_tokens)


def main(size: workload.Size, mode: str) -> None:
  """Runs one mode and prints the report."""
  if mode == "warm" and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    raise SystemExit("warm: set JAX_COMPILATION_CACHE_DIR and run it twice")
  report = workload.Report("rlreward", size, mode, NOTES)
  if mode == "steady":
    steady(size, report)
  else:
    report.put("loss", Step(size)())
    report.put("first_step_s", workload.process_age())
  report.finish()


if __name__ == "__main__":
  main(workload.SIZES[sys.argv[1]], sys.argv[2])
