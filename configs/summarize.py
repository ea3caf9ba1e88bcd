"""draft"""

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
FEW = {"start.task.pairs": 50, "kl_reward.beta": 0.001}
ARMS = (Arm("summarize", {}), Arm("few", FEW))


def get_config(arg="mini"):
  c = common.base()
  c.algorithm = "summarize"
  c.steps = 120
  c.prompts_per_step = 16
  c.samples_per_prompt = 8
  c.epochs = 4
  c.sampling.max_new_tokens = 6
  c.kl_reward.beta = 0.05
  c.learned.update(stage=2, references=1024, truncated=-1.0)
  c.critic.update(start="reward", coefficient=0.5)
  c.optimizer.update(learning_rate=2e-3)
  c.model.update(
    vocab=8, width=32, layers=1, heads=2, kv_heads=2, head_dim=16, mlp=64
  )
  c.task = c.task.__class__({"name": "biased", "stop": 0.3, "pairs": 0})
  c.eval.update(every=10, prompts=1024)
  c.checkpoint.every = 1000
  c.log.update(every=50, samples_every=0, tensorboard=False)
  c.start.update(
    {
      "algorithm": "reward_model",
      "steps": 300,
      "prompts_per_step": 64,
      "samples_per_prompt": 1,
      "kl_reward": {"beta": 0.0},
      "critic": {"start": "policy"},
      "task": {"pairs": 0},
      "model": {"outputs": 1},
      "optimizer": {"learning_rate": 2e-3, "schedule": "cosine"},
      "eval": {"every": 0},
      "log": {"every": 200},
      "start": {
        "algorithm": "sft",
        "steps": 200,
        "prompts_per_step": 256,
        "model": {"outputs": 0},
        "optimizer": {"learning_rate": 5e-3, "final_fraction": 0.01},
      },
    }
  )
  return c
