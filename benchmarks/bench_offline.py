"""Our offline steps and PPO beside GRPO, through the public API.

usage: python benchmarks/bench_offline.py {S|M} {dpo|reward_model|ppo}
  python benchmarks/bench_offline.py {S|M} export FOLDER

dpo and reward_model time `method.step`, compiled and donating its state as the
training loop does. ppo times whole PPO and GRPO steps in turn, with the same
prompts, samples and lengths. export writes the weights for the peers.
"""

from __future__ import annotations

import functools
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent.parent)]

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import bench_rlreward, offline, workload
from rlreward.algorithms import dpo, grpo, ppo, reward_model
from rlreward.models import pretrained
from rlreward.steps import roles
from rlreward.types import State, Task

NOTES = {
  "dpo": {
    "dpo": "method.step: log-probs of a live reference, loss, gradient, AdamW,"
    " metrics; each prompt is computed once for its two answers",
  },
  "reward_model": {
    "reward_model": "method.step with Bradley-Terry, no centring: scores at the"
    " last token, gradient, AdamW, metrics; no language head; each prompt is"
    " computed once for its two answers",
  },
  "ppo": {
    "grpo_step": "phases.sample, phases.score (share of even ids, on the"
    " device), phases.update with k3 to a live reference, beta 0.04",
    "grpo_update": "phases.update inside that step",
    "ppo_step": "the same phases; KL to a live reference in the reward, beta"
    " 0.04; GAE on a critic that is a model of its own",
    "ppo_update": "phases.update inside that step",
  },
}
SEEDS = {"policy": 0, "reference": 1, "reward": 2}
OFFLINE: dict[str, Callable[..., Any]] = {
  "dpo": dpo.make,
  "reward_model": reward_model.make,
}


def config(size: workload.Size, algorithm: str) -> Any:
  """The workload as a config of an algorithm."""
  c = bench_rlreward.config(size)
  c.algorithm, c.loss.kl_beta = algorithm, 0.0
  c.preference.beta, c.reward_model.centering = offline.BETA, 0.0
  c.optimizer.learning_rate = offline.RATE
  c.model.rope_theta = offline.THETA
  if algorithm in OFFLINE:
    c.prompts_per_step = size.pairs
  if algorithm == "reward_model":
    c.model.outputs = 1
  if algorithm == "grpo":
    c.loss.kl_beta = 0.04
  if algorithm == "ppo":
    c.kl_reward.beta = 0.04
  return c


def weights(size: workload.Size, name: str) -> tuple[Any, Any]:
  """(decoder's config, variables) of one of the weights in SEEDS."""
  c = config(size, "reward_model" if name == "reward" else "dpo")
  model = roles.policy(c.model).model
  return model.config, model.init(jax.random.key(SEEDS[name]))


def export(size: workload.Size, folder: pathlib.Path) -> None:
  """Writes all weights as Hugging Face directories."""
  for name in SEEDS:
    pretrained.export(folder / name, *weights(size, name))


def batch(size: workload.Size) -> dict[str, jax.Array]:
  """The pairs as rows 2i = chosen, 2i + 1 = rejected."""
  found = offline.pairs(size)
  join = lambda side: np.concatenate([found["prompt"], found[side]], 1)
  both = np.stack([join("chosen"), join("rejected")], 1)
  tokens = both.reshape(2 * size.pairs, -1)
  loss = np.broadcast_to(np.arange(tokens.shape[1]) >= size.prompt,
                         tokens.shape)  # fmt: skip
  return {
    "tokens": jnp.asarray(tokens),
    "attend": jnp.ones(tokens.shape, bool),
    "loss": jnp.asarray(loss),
    "strength": jnp.ones(len(tokens)),
  }


def task(size: workload.Size) -> Task:
  """A task that says it has pairs; none are drawn from it."""
  facts = {
    "vocab_size": size.vocab,
    "answer_length": size.new,
    "stop_ids": (),
    "pad_id": 0,
    "on_device": True,
    "judged": False,
  }
  nothing = lambda split, batch_size, seed: iter(())
  judge = bench_rlreward.even_share
  return Task(nothing, judge, None, facts, preferences=nothing)


class Fit:
  """Steps of DPO or a reward model on the same pairs."""

  def __init__(self, size: workload.Size, algorithm: str):
    """Compiles nothing yet but `init`."""
    method = OFFLINE[algorithm](config(size, algorithm), task(size))
    first = "policy" if algorithm == "dpo" else "reward"
    _, variables = weights(size, first)
    init = jax.jit(method.init)
    self.state: State = init(jax.random.key(0), variables)
    if algorithm == "dpo":
      _, reference = weights(size, "reference")
      frozen = {**self.state.frozen, "reference": reference}
      self.state = self.state._replace(frozen=frozen)
    self.step = jax.jit(method.step, donate_argnums=0)
    self.batch, self.key = batch(size), jax.random.key(0)
    self.losses: list[float] = []

  def __call__(self) -> None:
    """One step."""
    self.state, metrics = self.step(self.state, self.batch, self.key)
    jax.block_until_ready(self.state)
    self.losses.append(float(metrics["loss"]))


class Online:
  """Whole steps of an online algorithm, with their updates timed apart."""

  def __init__(self, size: workload.Size, algorithm: str):
    """Compiles nothing yet but `init`."""
    make = {"grpo": grpo.make, "ppo": ppo.make}[algorithm]
    method = make(config(size, algorithm), task(size))
    assert method.phases is not None
    self.phases, self.name, self.count = method.phases, algorithm, 0
    self.state: State = jax.jit(method.init)(jax.random.key(0))
    self.batch = bench_rlreward.prompts(size)
    self.clear()

  def clear(self) -> None:
    """Forgets the repetitions so far."""
    self.whole, self.part = workload.Clock(), workload.Clock()

  def __call__(self) -> None:
    """One step."""
    self.count += 1
    self.whole.start()
    key = jax.random.key(self.count)
    rollout = self.phases.sample(self.state, self.batch, key)
    score = self.phases.score(rollout, self.batch)
    jax.block_until_ready(score)
    self.part.start()
    self.state, metrics = self.phases.update(self.state, rollout, score)
    jax.block_until_ready(self.state)
    assert np.isfinite(float(metrics["loss"]))
    self.part.tick()
    self.whole.tick()


def fit(size: workload.Size, algorithm: str, report: workload.Report) -> None:
  """Times an offline step."""
  step = Fit(size, algorithm)
  report.add(algorithm, workload.measure(step, size.reps), size.pair_tokens)
  report.put("losses", step.losses[: offline.LOSSES])


def beside(size: workload.Size, report: workload.Report) -> None:
  """Times PPO and GRPO steps in turn."""
  steps = [Online(size, name) for name in ("grpo", "ppo")]
  for step in steps:
    step()
    step.clear()
  begun, seconds = time.perf_counter(), workload.limit()
  spent = lambda: time.perf_counter() - begun
  done = functools.partial(workload.enough, reps=size.reps, seconds=seconds)
  while not all(done(x.whole.rows, spent=spent()) for x in steps):
    for step in steps:
      step()
  for step in steps:
    for part, clock in (("step", step.whole), ("update", step.part)):
      stats = workload.summarise(clock.rows)
      report.add(f"{step.name}_{part}", stats, size.new_tokens)


def main(size: workload.Size, mode: str, folder: str = "") -> None:
  """Runs one mode and prints the report."""
  if mode == "export":
    export(size, pathlib.Path(folder))
    return
  report = workload.Report("rlreward", size, mode, NOTES[mode])
  if mode == "ppo":
    beside(size, report)
  else:
    fit(size, mode, report)
  report.finish()


if __name__ == "__main__":
  main(workload.SIZES[sys.argv[1]], *sys.argv[2:])
