"""Runs of seconds for the tests of the loop, in this process or another.

usage: run_worker.py CONFIG_JSON WORKDIR [DEVICES [PORT INDEX COUNT]]
"""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
REWARD = """
def digits(completion, want):
  share = sum(c.isdigit() for c in completion) / max(len(completion), 1)
  return {"value": share + (str(want) in completion), "share": share}
"""


def base(steps=12, **changes):
  """Two-layer decoder on one-digit additions; `a__b` reaches into sections."""
  sys.path.insert(0, str(HERE.parent))
  from configs import common
  from rlreward import config

  c: Any = common.base()
  c.steps, c.prompts_per_step, c.samples_per_prompt = steps, 4, 4
  c.sampling.max_new_tokens = 3
  c.optimizer.learning_rate = 3e-3
  # An untrained model earns nothing: without this no parameter would move.
  c.loss.entropy = 0.1
  c.model.update(width=16, heads=2, kv_heads=1, head_dim=8, mlp=24)
  c.task.update(name="arithmetic", digits=1)
  c.eval.update(every=4, prompts=4)
  c.checkpoint.every = 3
  c.log.update(every=100, samples_every=5, tensorboard=False)
  with c.unlocked():
    for name, value in changes.items():
      *path, last = name.split("__")
      node = c
      for part in path:
        node = node[part]
      node[last] = value
  return config.freeze(c.to_dict())


def two_stages(**changes):
  """Four steps of SFT, then four of GRPO."""
  first = {
    "algorithm": "sft",
    "steps": 4,
    "eval": {"every": 0},
    "checkpoint": {"every": 2},
  }
  return base(4, start=first, **changes)


def text(folder, steps=8, **changes):
  """Five prompts, two a step, judged by a python function in a file."""
  rows = [{"prompt": f"{i}+{i}=", "want": 2 * i} for i in range(5)]
  data = pathlib.Path(folder) / "rows.jsonl"
  data.write_text("".join(json.dumps(row) + "\n" for row in rows))
  reward = data.with_name("reward.py")
  reward.write_text(REWARD)
  section = {
    "name": "text",
    "train": str(data),
    "test": str(data),
    "prompt_length": 4,
    "rewards": f"{reward}:digits",
    "tokenizer": "char:0123456789+=",
  }
  changes = {"task": section, "eval__prompts": 2, "prompts_per_step": 2,
             **changes}  # fmt: skip
  return base(steps, **changes)


def command(config, workdir, *words):
  """The command line of this script; keeps the config beside the run."""
  from rlreward.config import to_json

  path = pathlib.Path(f"{workdir}.json")
  path.write_text(to_json(config))
  words = (path, workdir, *words)
  return [sys.executable, str(HERE / "run_worker.py"), *map(str, words)]


def start(config, workdir, *words):
  """A process that runs the config."""
  env = {**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}"}
  return subprocess.Popen(
    command(config, workdir, *words),
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def leaves(state):
  """{path: numpy array} of every leaf, typed keys as their bits."""

  def bits(x):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    return np.asarray(x)

  flat = jax.tree_util.tree_leaves_with_path(state)
  return {jax.tree_util.keystr(path): bits(x) for path, x in flat}


def assert_same(a, b):
  """Bitwise equality of two states."""
  a, b = leaves(a), leaves(b)
  assert a.keys() == b.keys()
  for name, want in a.items():
    np.testing.assert_array_equal(b[name], want, err_msg=name)


def curve(workdir):
  """Lines of metrics.jsonl without what depends on the clock."""
  text = (pathlib.Path(workdir) / "metrics.jsonl").read_text()
  clock = ("time", "seconds/", "compile", "train_tok", "rollout_tok")
  return [
    {k: v for k, v in json.loads(line).items() if not k.startswith(clock)}
    for line in text.splitlines()
  ]


def main():
  """Runs, and saves the parameters of process 0 as `WORKDIR.npz`."""
  path, workdir, *words = sys.argv[1:]
  jax.config.update("jax_num_cpu_devices", int(words[0]) if words else 1)
  if len(words) > 1:
    port, index, count = words[1:]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(index))
  from rlreward import config, train
  from rlreward.steps import judge

  c = config.from_json(pathlib.Path(path).read_text())
  result = train.run(c, workdir)
  params = judge.on_host(result.state.params)
  if jax.process_index() == 0:
    arrays: dict[str, Any] = leaves(params)
    np.savez(f"{workdir}.npz", **arrays)


if __name__ == "__main__":
  main()
