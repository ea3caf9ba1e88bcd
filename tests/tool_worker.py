"""A step with a tool on the host, in one of several processes.

usage: tool_worker.py FOLDER INDEX COUNT [PORT]   writes FOLDER/COUNT_INDEX.npz
"""

import pathlib
import sys

import jax

FOLDER, INDEX, COUNT, *PORT = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 1)
if PORT:
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(f"127.0.0.1:{PORT[0]}", int(COUNT), int(INDEX))
sys.path.insert(0, str(pathlib.Path(__file__).parent / "steps"))

import nano
import numpy as np
import test_played_turns as played

from rlreward import registry, sharding
from rlreward.steps import judge, refill


def main():
  asked = []

  def observe(query, mask, columns):
    asked.append(len(query))
    return played.observe(query, mask, columns)

  c = nano.config(sampling__max_new_tokens=played.T)
  mesh = sharding.make_mesh(**c.mesh)
  task = played.task(played.HOST._replace(observe=observe))
  place = lambda batch: judge.spread(mesh, batch)
  with jax.set_mesh(mesh):
    made = registry.algorithm("grpo").make(c, task)
    state = jax.jit(made.init)(jax.random.key(0))
    source = played.Source(nano.B)
    rollout, score, _ = refill.collect(made, task, state, source, place, c)
    state, _ = made.phases.update(state, rollout, score)
    batch = next(source)
    seen = made.evaluate(state, place(batch), jax.random.key(2), batch)
    found = {
      "tokens": rollout.tokens,
      "attend": rollout.attend,
      "held_out": seen["rollout"].attend,
      **{f"p{i}": x for i, x in enumerate(jax.tree.leaves(state.params))},
    }
    found = judge.on_host(found)
  np.savez(f"{FOLDER}/{COUNT}_{INDEX}.npz", asked=asked, **found)


main()
