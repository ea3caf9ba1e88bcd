"""Is a KL budget kept? Training is to stop spending where it was told to.

Two-digit additions after an imitated start. The price of the KL is that of the
optimum which spends the budget, solved for in every step from its own samples
(`kl_reward.budget`); what the policy wastes comes out of the budget. The claim:
the KL of the samples that train, over the last tenth of the steps, is within
10 % of each budget, for every seed; that of held-out prompts is recorded beside
it. The broken variant is the price that one would guess, a fixed
`kl_reward.beta`: it ends where it ends (arm `guess`).

As measured (results/kl_budget.json, seeds 6 to 8; the controller was tuned on
others): 0.25 nats are kept to 2, 2 and 0.2 %, 0.5 nats to 3, 5 and 1 %; the
guess ends at 0.55 to 0.71 nats.
Paper of the price: Asymptotics of Language Model Alignment, arXiv 2404.01730.

Run:  rlreward train --config=configs/kl_budget.py:mini
      python -m rlreward.claims configs/kl_budget.py:mini
About 90 seconds for an arm on 2 CPU cores.
"""

from configs import algorithms
from rlreward.types import Arm

PRESETS = ("mini",)
BUDGETS = {"quarter": 0.25, "half": 0.5}  # nats of an answer
ARMS = (
  *(Arm(name, {"kl_reward.budget": x}) for name, x in BUDGETS.items()),
  Arm("guess", {"kl_reward.budget": 0.0, "kl_reward.beta": 0.2}),
)


def kept(arm, budget):
  """Whether every run of an arm ended within 10 % of a budget."""
  spent = [run["train"]["kl_sequence"] for run in arm["runs"]]
  return all(abs(kl / budget - 1) < 0.1 for kl in spent)


def claim(r):
  """Both budgets are kept; a guess keeps at most one of them."""
  guessed = [kept(r["guess"], x) for x in BUDGETS.values()]
  return all(kept(r[n], x) for n, x in BUDGETS.items()) and not all(guessed)


def get_config(arg="mini"):
  """One size: the algorithms' own start and task."""
  del arg
  c = algorithms.get_config("rloo")
  c.algorithm = "asymptotics"
  c.steps = 160
  c.prompts_per_step = 64
  c.kl_reward.budget = 0.5
  c.optimizer.update(learning_rate=1e-3, schedule="cosine", warmup_steps=5)
  c.task.update(judge_share=0.0, hint_share=0.0)
  c.frontier.samples = 64  # answers are listed: this turns it on
  c.eval.update(every=40, prompts=4096)
  c.log.samples_every = 0
  c.start.update(
    {
      "steps": 1500,
      "kl_reward": {"budget": 0.0},
      "frontier": {"samples": 0},
      "eval": {"every": 0, "prompts": 512},
    }
  )
  return c
