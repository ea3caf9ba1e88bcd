"""Runs of seconds for the tests of the loop, in this process or another.

usage: run_worker.py JOBS_JSON [DEVICES [PORT INDEX COUNT]]

JOBS_JSON is a list of [CONFIG_JSON, WORKDIR]; they run one after the other.
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


# Few groups vary under it.
RARE = """
def digits(completion):
  return float(completion[:1] in ("0", "1"))
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


def three_stages(**changes):
  """Four steps of SFT, four of a reward model, four of PPO that it judges."""
  first = {
    "algorithm": "sft",
    "steps": 4,
    "model": {"outputs": 0},
    "eval": {"every": 0},
    "checkpoint": {"every": 2},
  }
  second = {
    "algorithm": "reward_model",
    "steps": 4,
    "model": {"outputs": 1},
    "eval": {"every": 0},
    "start": first,
  }
  return base(
    4,
    algorithm="ppo",
    start=second,
    task={"name": "biased", "length": 3},
    **{
      "learned__stage": 2,
      "learned__references": 16,
      "learned__truncated": -2.0,
      "kl_reward__beta": 0.1,
      **changes,
    },
  )


def text(folder, steps=8, judge=REWARD, **changes):
  """Five prompts, two a step, judged by a python function in a file."""
  rows = [{"prompt": f"{i}+{i}=", "want": 2 * i} for i in range(5)]
  data = pathlib.Path(folder) / "rows.jsonl"
  data.write_text("".join(json.dumps(row) + "\n" for row in rows))
  reward = data.with_name("reward.py")
  reward.write_text(judge)
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


def start(jobs, *words):
  """A process that runs [(config, workdir)] in turn; the first path is kept."""
  from rlreward.config import to_json

  listed = []
  for number, (config, workdir) in enumerate(jobs):
    path = pathlib.Path(f"{workdir}.{number}.json")
    path.write_text(to_json(config))
    listed.append([str(path), str(workdir)])
  path = pathlib.Path(f"{jobs[0][1]}.jobs.json")
  path.write_text(json.dumps(listed))
  script = HERE / "run_worker.py"
  return subprocess.Popen(
    [sys.executable, *map(str, (script, path, *words))],
    env={**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def said(process, words):
  """Reads what a process prints until a line begins with these words."""
  for line in process.stdout:
    if line.startswith(words):
      return True
  return False


def saved(workdir, step, index=0):
  """Parameters that a process kept of the end of a job; {path: array}."""
  with np.load(f"{workdir}.{step}.{index}.npz") as file:
    return dict(file)


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


def samples(workdir):
  """{file name: rows} of all sample files."""
  folder = pathlib.Path(workdir) / "samples"
  return {
    path.name: [json.loads(line) for line in path.read_text().splitlines()]
    for path in folder.iterdir()
  }


def main():
  """Runs the jobs; leaves with 1 where the last one was refused."""
  path, *words = sys.argv[1:]
  jax.config.update("jax_num_cpu_devices", int(words[0]) if words else 1)
  if len(words) > 1:
    port, index, count = words[1:]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(index))
  from rlreward import config, errors, train
  from rlreward.steps import judge

  failed = False
  for number, (name, workdir) in enumerate(json.loads(_read(path))):
    print(f"job {number}", flush=True)
    try:
      result = train.run(config.from_json(_read(name)), workdir)
      failed = False
    except errors.UserError as error:
      print(f"refused: {error}", flush=True)
      failed = True
      continue
    step, index = int(result.state.step), jax.process_index()
    arrays: dict[str, Any] = leaves(judge.on_host(result.state.params))
    np.savez(f"{workdir}.{step}.{index}.npz", **arrays)
  sys.exit(failed)


def _read(path):
  return pathlib.Path(path).read_text()


if __name__ == "__main__":
  main()
