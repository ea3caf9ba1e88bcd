"""GRPO as a starting point: a small random decoder on one-digit additions.

Copy it, name your checkpoint (`model.path`) and your task, and train:

  rlreward train --config=configs/grpo.py:mini --workdir=runs/grpo
  rlreward train --config=configs/grpo.py:mini,algorithm=dapo

Other algorithms of the family: dr_grpo, dapo, gspo, cispo. Your own prompts and
reward are `task.name=text`; see examples/dreams.py. Under a minute on 2 cores.
"""

from configs import common

PRESETS = ("mini",)


def get_config(arg="mini"):
  """One preset, small enough for a laptop."""
  del arg
  c = common.base()
  c.steps = 20
  c.prompts_per_step = 8
  c.samples_per_prompt = 8
  c.sampling.max_new_tokens = 8
  c.optimizer.learning_rate = 3e-3
  c.model.update(
    vocab=32, width=32, layers=2, heads=2, kv_heads=2, head_dim=16, mlp=64
  )
  c.task.update(name="arithmetic", digits=1, operations="+")
  c.eval.update(every=10, prompts=64)
  return c
