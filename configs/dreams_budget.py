"""A nat for a dream: a real checkpoint at a KL budget, against its frontier.

The tiny Llama of configs/dreams.py (convert it first, see there) is trained to
spend one nat of KL for each response, and every evaluation says how far it is
from the best reward at its KL. Nobody can list its answers, so what is
attainable is estimated from 256 samples of the checkpoint for each held-out
prompt, with a band. The claim: the KL of the samples that train, over the last
tenth of the steps, is within 15 % of the budget; the reward rises; and the
efficiency is known to within 0.1. The broken variant: `kl_reward.budget=4`,
beyond what the samples show, has no efficiency to report. As measured: 2, 1 and
4 % off the budget (seeds 3 to 5). In half as many steps seeds 0 to 2 ended 3,
15 and 13 % below it: the price lags behind a policy whose steps shrink.
Paper of the price: Asymptotics of Language Model Alignment, arXiv 2404.01730.

Run:  rlreward train --config=configs/dreams_budget.py
About 5 minutes on 2 CPU cores.
"""

from configs import dreams
from rlreward.types import Arm

PRESETS = ("mini",)
ARMS = (Arm("budget", {}),)
BUDGET = 1.0  # nats of a response


def claim(r):
  """Within the budget, better than before, and it is known how good that is."""
  for run in r["budget"]["runs"]:
    last = run["last"]
    if abs(run["train"]["kl_sequence"] / BUDGET - 1) > 0.15:
      return False
    if "efficiency" not in last or last["reward"] < run["first"]["reward"]:
      return False
    if last["efficiency_high"] - last["efficiency_low"] > 0.1:
      return False
  return True


def get_config(arg="mini"):
  """One size: the checkpoint decides it."""
  c = dreams.get_config(arg)
  c.algorithm = "asymptotics"
  c.steps = 160
  c.loss.kl_beta = 0.0
  c.kl_reward.budget = BUDGET
  c.reference = "always"
  c.frontier.samples = 256
  # Noise is KL that buys nothing: small steps, and smaller ones at the end.
  c.optimizer.update(learning_rate=1e-4, schedule="cosine")
  c.eval.update(every=20, prompts=64)
  return c
