"""Two steps of several algorithms on 8 devices and on one; run by test_mesh.py.

usage: mesh_algorithms.py ALGORITHM...   prints {algorithm: [gap, moved, loss]}
"""

import json
import sys

import jax
import jax.numpy as jnp

jax.config.update("jax_num_cpu_devices", 8)

import nano
import numpy as np

from rlreward import registry, sharding
from rlreward.sampling import tools
from rlreward.steps import roles
from rlreward.tasks import arithmetic

CHANGES = {
  "ppo": {"kl_reward__beta": 0.1, "epochs": 2, "critic__warmup": 1},
  "remax": {},
  # Masks of an adapter's input go by the cut of the rows: one cut for all.
  "tina": {"model__lora_rank": 2, "model__lora_dropout": 0.25, "microbatch": 0},
  "turns": {"sampling__max_new_tokens": 9, "credit__baseline": "turn"},
  "raft": {"rounds__kl": 0.1},
  "dpo": {},
  "kto": {},
  "reward_model": {"model__outputs": 1},
  "helpsteer2": {"steer__samples": 3},
  "helpsteer2_pref": {"model__outputs": 1},
  "gated": {
    "model__outputs": 2,
    "model__head__kind": "gated",
    "model__head__hidden": 4,
  },
  "remodetect": {"model__outputs": 1},
  "summarize": {
    "kl_reward__beta": 0.1,
    "learned__stage": 1,
    "critic__start": "reward",
    "start": {
      "algorithm": "reward_model",
      "model": {"outputs": 1},
      "critic": {"start": "policy"},
    },
  },
  "ensembles": {
    "model__outputs": 1,
    "ensemble__pretrain": 2,
    "ensemble__finetune": 2,
  },
  "rewardbench2": {
    "model__outputs": 1,
    "ensemble__pretrain": 1,
    "ensemble__finetune": 2,
    "ensemble__flip": 0.5,
  },
  # Moments of the run are sums over all rows; references lie beside them.
  "par": {
    "kl_reward__beta": 0.1,
    "shaping__link": "preference",
    "shaping__samples": 2,
  },
  "par_clip": {"kl_reward__beta": 0.1, "shaping__link": "clip"},
}
PAIRS = (
  "dpo", "kto", "reward_model", "gated", "remodetect", "ensembles",
  "helpsteer2_pref", "rewardbench2",
)  # fmt: skip
# A head or a choice of an algorithm.
OF = {"gated": "reward_model", "par_clip": "par", "turns": "grpo"}


def observe(query, mask, columns):
  """Shows every turn its size and its first token."""
  del columns
  size = jnp.minimum(mask.sum(1), nano.V - 1)
  seen = jnp.stack([size, query[:, 0]], 1).astype(jnp.int32)
  return seen, jnp.ones(seen.shape, bool), mask[:, 0]


def trained(name, shape):
  """(parameters, loss) after two steps, and those at the start."""
  algorithm = OF.get(name, name)
  c = nano.config(algorithm=algorithm, **{"microbatch": 8, **CHANGES[name]})
  if name in PAIRS:
    c.prompts_per_step = 8
  count = shape[0] * shape[1] * shape[2]
  mesh = sharding.make_mesh(*shape, jax.devices()[:count])
  with jax.set_mesh(mesh):
    task = nano.task()
    if name in PAIRS:
      task = arithmetic.make({"name": "arithmetic", "digits": 1})
    if name == "turns":
      tool = tools.Tool(observe, 2, 2)
      stops = tuple(range(0, nano.V, 2))
      task = nano.task(tool=tool, stop_ids=stops)
    method = registry.algorithm(algorithm).make(c, task)
    axes = roles.policy(c.model).axes
    key = jax.random.key(0)
    abstract = jax.eval_shape(method.init, key)
    placed = sharding.state_shardings(
      abstract, axes, sharding.TRAIN_RULES, mesh
    )
    state = jax.jit(method.init, out_shardings=placed)(key)
    before = jax.tree.map(np.asarray, state.params)
    step = jax.jit(method.step)
    stream = getattr(task, method.source)("train", c.prompts_per_step, 0)
    for _ in range(2):
      batch = {k: np.asarray(v) for k, v in next(stream).items()}
      batch = sharding.process_batch(mesh, batch)
      state, metrics = step(state, batch, jax.random.fold_in(key, state.step))
    return jax.tree.map(np.asarray, state.params), before, metrics["loss"]


def main():
  out = {}
  for name in sys.argv[1:]:
    one, before, loss = trained(name, (1, 1, 1))
    many, _, other = trained(name, (2, 2, 2))
    far = abs(float(loss) - float(other))
    out[name] = [nano.gap(one, many), nano.gap(one, before), far]
  print(json.dumps(out))


main()
