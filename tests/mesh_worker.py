"""One GRPO step of the nano model on a mesh; run by test_mesh.py.

usage: mesh_worker.py DEVICES REPLICA FSDP TENSOR ALGORITHM OUT
"""

import json
import re
import sys

import jax

DEVICES, REPLICA, FSDP, TENSOR = map(int, sys.argv[1:5])
jax.config.update("jax_num_cpu_devices", DEVICES)

import nano
import numpy as np

from rlreward import sharding
from rlreward.steps import roles


def collectives(text):
  names = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
  found = re.findall(rf"= \S+ ({names})(?:-start)?\(", text)
  return {n: found.count(n) for n in names.split("|")}


def main():
  algorithm, out = sys.argv[5:7]
  devices = jax.devices()[: REPLICA * FSDP * TENSOR]
  mesh = sharding.make_mesh(REPLICA, FSDP, TENSOR, devices)
  changes = {"loss__kl_beta": 0.1, "microbatch": 8}
  c = nano.config(**changes)
  with jax.set_mesh(mesh):
    method = nano.method(algorithm, **changes)
    key = jax.random.key(0)
    axes = roles.policy(c.model).axes
    abstract = jax.eval_shape(method.init, key)
    placed = sharding.state_shardings(
      abstract, axes, sharding.TRAIN_RULES, mesh
    )
    state = jax.jit(method.init, out_shardings=placed)(key)
    batch = {k: np.asarray(v) for k, v in nano.batch().items()}
    batch = sharding.process_batch(mesh, batch)
    spread = max(
      len({str(s.index) for s in x.addressable_shards})
      for x in jax.tree.leaves(state.params)
    )
    sample = method.phases.sample.lower(state, batch, key).compile()
    rollout = sample(state, batch, key)
    score = method.phases.score(rollout, batch)
    update = method.phases.update.lower(state, rollout, score).compile()
    counts = {
      "sample": collectives(sample.as_text()),
      "update": collectives(update.as_text()),
    }
    for step in range(2):
      if step:
        rollout = sample(state, batch, jax.random.key(step))
        score = method.phases.score(rollout, batch)
      state, metrics = update(state, rollout, score)
    jax.tree.map(
      lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) or 1 / 0,
      state.params,
      placed.params,
    )
  arrays = {
    sharding.path_name(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
  }
  arrays["tokens"] = np.asarray(rollout.tokens)
  arrays["logp"] = np.asarray(rollout.logp)
  np.savez(out, **arrays)
  metrics.pop("rows")
  scalars = {k: float(v) for k, v in metrics.items()}
  print(json.dumps({"counts": counts, "spread": spread, "metrics": scalars}))


main()
