"""The whole pipeline: imitate, learn what is preferred, optimise it, hold back.

A tiny transformer imitates answers of a world with a known gold reward (task
`biased`: on the topic, off it, filler, a token that is rare and worth less than
nothing), a reward model begins with its weights and learns from noisy
comparisons, and PPO begins at the imitation and is judged by the reward model.
The claim is two sentences. With 51200 comparisons and a KL that costs 0.05 a
nat (`summarize`), gold rises by more than half a deviation of the imitation's.
With 50 comparisons and a KL that is all but free (`few`), the reward model's
score is at its most in the end, or nearly, and gold lies 0.2 deviations or more
below what it was on the way: the proxy was over-optimised.
The broken variant (`wrong`) has all of its labels turned around: gold ends at
-1.5 to -1.9.
Paper: Learning to summarize from human feedback, arXiv 2009.01325.

Run:  rlreward train --config=configs/summarize.py:mini
      python -m rlreward.claims configs/summarize.py:mini
About 25 seconds for an arm on 2 CPU cores, all three stages.
At scale: configs/summarize.py:pod (Pythia 6.9B on TL;DR).
"""

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
FEW = {
  "start.task.pairs": 50,
  "start.prompts_per_step": 50,
  "start.steps": 60,
  "kl_reward.beta": 0.001,
}
BROKEN = Arm("wrong", {"start.task.flip": 1.0})
ARMS = (Arm("summarize", {}), Arm("few", FEW))
SPREAD = 0.966  # deviation of gold over answers of the world's base


def better(arm):
  """Gold over that of the imitation, in its deviations: mean of the seeds."""
  return (arm["last/reward"] - arm["first/reward"]) / SPREAD


def fallen(arm):
  """Gold at its most on the way minus gold at the end, mean of the seeds."""
  falls = []
  for run in arm["runs"]:
    gold = [found["reward"] for found in run["evals"].values()]
    falls.append((max(gold) - run["last"]["reward"]) / SPREAD)
  return sum(falls) / len(falls)


def risen(arm):
  """Whether the proxy ends above where it was when gold was at its most."""
  gaps = []
  for run in arm["runs"]:
    top = max(run["evals"].values(), key=lambda found: found["reward"])
    gaps.append(run["last"]["proxy"] - top["proxy"])
  return sum(gaps) > 0


def claim(r):
  """RLHF is better than imitation; with few comparisons it is overdone."""
  few = r["few"]
  overdone = risen(few) and fallen(few) >= 0.2
  return bool(better(r["summarize"]) > 0.5 and overdone)


def pod(c):
  """Pythia 6.9B on TL;DR, all three stages of one run.

  The comparisons of openai/summarize_from_feedback and the filtered posts of
  trl-lib/tldr are local JSONLs with `prompt`, `chosen` and `rejected`, and with
  `prompt` and `completion`. EleutherAI/pythia-1b is the smaller of the paper's
  two sizes: --config.model.path.
  """
  c.steps = 1000
  c.prompts_per_step = 512
  c.samples_per_prompt = 1
  c.microbatch = 64
  c.epochs = 4
  c.sampling.update(max_new_tokens=64, cache_dtype="bfloat16")
  c.kl_reward.beta = 0.05
  c.learned.update(stage=2, references=2048, truncated=-1.0)
  c.critic.update(start="reward", coefficient=0.1)
  c.optimizer.update(learning_rate=3e-6, schedule="linear", warmup_steps=20)
  c.model.update(path="EleutherAI/pythia-6.9b", dtype="bfloat16", remat="full")
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": "data/tldr_train.jsonl",
      "test": "data/tldr_valid.jsonl",
      "prompt_length": 512,
      "answer_length": 64,
    }
  )
  c.eval.update(every=100, prompts=512)
  c.mesh.update(fsdp=8)
  c.start.update(
    {
      "algorithm": "reward_model",
      "steps": 1448,  # 92,858 comparisons, an epoch
      "prompts_per_step": 64,
      "epochs": 1,
      "model": {"outputs": 1},
      "critic": {"start": "policy"},
      "optimizer": {"learning_rate": 1.5e-5},
      "task": {
        "train": "data/summarize_from_feedback_train.jsonl",
        "test": "data/summarize_from_feedback_valid.jsonl",
      },
      "start": {
        "algorithm": "sft",
        "steps": 912,  # 116,722 posts, an epoch
        "prompts_per_step": 128,
        "model": {"outputs": 0},
        "task": {
          "train": "data/tldr_train.jsonl",
          "test": "data/tldr_valid.jsonl",
        },
      },
    }
  )
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real models and data."""
  c = common.base()
  c.algorithm = "summarize"
  if arg == "pod":
    return pod(c)
  c.steps = 60
  c.prompts_per_step = 16
  c.samples_per_prompt = 8
  c.epochs = 4
  c.sampling.max_new_tokens = 6
  c.kl_reward.beta = 0.05
  c.learned.update(stage=2, references=1024, truncated=-1.0)
  c.critic.update(start="reward", coefficient=0.5)
  c.optimizer.learning_rate = 1e-3
  c.model.update(
    vocab=8, width=32, layers=1, heads=2, kv_heads=2, head_dim=16, mlp=64
  )
  c.task = c.task.__class__(
    {
      "name": "biased",
      "stop": 0.3,
      "shares": (0.2, 0.2, 0.55, 0.05),
      "pairs": 0,
      "flip": 0.0,
    }
  )
  c.eval.update(every=10, prompts=1024)
  c.checkpoint.every = 1000
  c.log.update(every=50, samples_every=0, tensorboard=False)
  c.start.update(
    {
      "algorithm": "reward_model",
      "steps": 400,
      "prompts_per_step": 128,
      "samples_per_prompt": 1,
      "epochs": 1,
      "kl_reward": {"beta": 0.0},
      "critic": {"start": "policy"},
      "task": {"pairs": 0, "flip": 0.0},
      "model": {"outputs": 1},
      "optimizer": {"learning_rate": 5e-3, "schedule": "cosine"},
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
