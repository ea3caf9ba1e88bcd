"""Units of the metrics and what healthy looks like, as docs/metrics.md says."""

from __future__ import annotations

# {metric: (unit, healthy)}; a test holds both columns of the page to these.
FACTS = {
  "reward": ("reward", "rises; its rise slows as groups collapse"),
  "reward/<part>": ("reward", "no single part carries the whole rise"),
  "reward_share/<part>": (
    "share",
    "the part you want leads; a share that takes over is what the policy will"
    " chase",
  ),
  "saturation": (
    "share",
    "below 0.5; rows at an end are told apart no more",
  ),
  "length_drift": (
    "tokens",
    "near 0, unless the task asks for longer or shorter answers",
  ),
  "calls": ("calls", "as many as the task needs"),
  "observed": ("tokens", "follows calls"),
  "reward_std": (
    "reward",
    "falls slowly; 0 means nothing is left to learn",
  ),
  "group_collapse": ("share", "below 0.5; they give no gradient"),
  "loss": ("-", "0 for on-policy GRPO, see below"),
  "nll": ("nats per token", "falls to the entropy of the data, not to 0"),
  "kl": (
    "nats per token",
    "grows slowly; a jump means a broken reward or rate",
  ),
  "kl_sequence": ("nats per response", "within your budget"),
  "entropy": ("nats per token", "falls; near 0 the policy repeats itself"),
  "clip_fraction": ("share", "0 on-policy; 0.01 to 0.3 otherwise"),
  "approx_kl": (
    "nats per token",
    "below 0.02; loss.kl_stop ends the updates above it",
  ),
  "logprob_abs_diff_max": ("nats", "below 1e-4 in f32"),
  "logprob_abs_diff": (
    "nats",
    "about 1e-7 in f32, 1e-2 in bf16; more is a bug",
  ),
  "accuracy": (
    "share",
    "above 0.5 and rising; held out (eval/held/*) it is what counts",
  ),
  "bench/<name>": ("share", "above random/<name>"),
  "random/<name>": ("share", "chance: 1/4 of four, 1/2 of two, kappa 0"),
  "chosen_reward": (
    "nats",
    "apart; both falling means that the policy leaves both",
  ),
  "explained_variance": (
    "share",
    "rises towards 1; below 0 the critic harms",
  ),
  "ess": (
    "answers",
    "above 1; near 1 at first, where one answer outweighs its group",
  ),
  "kl_group": ("nats", "falls to 0"),
  "divergence": ("nats per token", "falls"),
  "selected": ("share", "above 0; 0 trains nothing"),
  "best_of/<n>": ("reward", "rises with n"),
  "length": ("tokens", "no drift that the task does not ask for"),
  "truncated": ("share", "small, and not growing"),
  "valid": ("share", "1, or the share that your verifier can judge"),
  "grad_norm": ("-", "steady; spikes come before collapse"),
  "rollout_tokens_per_second": ("1/s", "-"),
  "seconds/*": ("s", "-"),
  "eval/held/*": ("-", "as in training; a gap is over-fitting"),
  "eval/proxy": (
    "reward",
    "rises together with eval/reward; apart from it is reward hacking",
  ),
  "eval/efficiency": (
    "share",
    "near 1; a fall means KL that buys nothing",
  ),
  "eval/kl_wasted": ("nats per response", "small beside eval/kl"),
}


def healthy(name: str) -> str:
  """The sentence of a metric, "" where the page has none."""
  text = FACTS[name][1]
  return "" if text == "-" else text.removesuffix(", see below")
