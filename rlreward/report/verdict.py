"""What to look at in a run: plain rules, each with number, limit and fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rlreward.report import read
from rlreward.report.plot import number
from rlreward.report.read import Run
from rlreward.report.stats import early, error, known, late

COLLAPSE = 0.5  # share of prompts, late in the run
TRUNCATED, GREW = 0.1, 0.05  # share late in the run, and by how much it grew
WASTED, WASTED_NATS = 0.5, 0.1  # share of the KL, and nats of a response
RATIO_F32, RATIO_BF16 = 1e-4, 3e-2  # nats; worst action, mean action
ENTROPY, ENTROPY_LEFT = 0.05, 0.1  # nats per token; share of the first
DRIFT, DRIFT_TOKENS = 1.5, 2.0  # longer or shorter by a factor; and by tokens
CLIPPED = 0.3  # share of actions
APPROX_KL = 0.02  # nats per token
SPIKE = 10.0  # times the median
JUDGED = 0.95  # share of rows
OVERFIT = 1.05  # held-out loss over its lowest
SURE = 2.0  # standard errors


class Finding(NamedTuple):
  """What a rule says of a run.

  Attributes:
    name: what it is about.
    look: whether it asks for a look; False is fine.
    said: the number that was measured, in words.
    limit: what it was compared with.
    fix: what helps.
  """

  name: str
  look: bool
  said: str
  limit: str
  fix: str


def findings(run: Run) -> list[Finding]:
  """Every rule that the run has numbers for, those to look at first."""
  found = [rule(run) for rule in RULES]
  return sorted((f for f in found if f is not None), key=lambda f: not f.look)


def _gain(run: Run) -> Finding | None:
  rewards = [(s, v) for s, v in run.series("eval/reward") if v is not None]
  if len(rewards) < 2 or not _trains(run):
    return None
  (first, a), (last, b) = rewards[0], rewards[-1]
  noise = error(run, last, first)
  if noise is None:
    return None
  return Finding(
    "held-out reward",
    not b - a > SURE * noise,
    f"changed by {b - a:+.3g} from step {first} to {last}",
    f"above {SURE:g} standard errors ({number(SURE * noise)})",
    "train longer, raise optimizer.learning_rate, or evaluate on more prompts"
    " (eval.prompts); if rewards are all equal, the task is too hard for the"
    " start: imitate first",
  )


def _collapse(run: Run) -> Finding | None:
  share = late(run.series("group_collapse"))
  if share is None or not _trains(run):
    return None
  reward = late(run.series("reward"))
  at = "" if reward is None else f" at a mean reward of {number(reward)}"
  return Finding(
    "group collapse",
    share > COLLAPSE,
    f"{share:.0%} of the prompts had equal rewards late in the run{at}",
    f"at most {COLLAPSE:.0%}; they give no gradient",
    "more samples_per_prompt; refill_rounds=1 replaces such groups; harder"
    " prompts where all answers are right, easier ones where all are wrong",
  )


def _truncation(run: Run) -> Finding | None:
  for name, where in (("eval/truncated", "held-out "), ("truncated", "")):
    a, b = _ends(run, name)
    if a is not None and b is not None:
      return Finding(
        "truncation",
        b > TRUNCATED and b - a > GREW,
        f"{a:.0%} -> {b:.0%} of the {where}answers were cut",
        f"at most {TRUNCATED:.0%}, or grown by at most {GREW:.0%}",
        "raise sampling.max_new_tokens; truncation=mask leaves cut answers out"
        " of the loss, truncation=penalise with overlong_buffer shortens them",
      )
  return None


def _wasted(run: Run) -> Finding | None:
  kl, wasted = (
    known(run.series(f"eval/{n}"))[-1:] for n in ("kl", "kl_wasted")
  )
  if kl and wasted:
    limit = max(WASTED * kl[0], WASTED_NATS)
    return Finding(
      "KL beyond what the reward needs",
      wasted[0] > limit,
      f"{number(wasted[0])} of {number(kl[0])} nats buy nothing",
      f"at most {number(limit)} nats: half of the KL, and"
      f" {WASTED_NATS:g} are always granted",
      "a KL term (loss.kl_beta with loss.kl=reverse, or kl_reward.beta), a"
      " lower optimizer.learning_rate, or larger batches",
    )
  return _past_best(run)


def _past_best(run: Run) -> Finding | None:
  """Without a frontier: KL grew beyond that of a better evaluation."""
  rows = [
    (s, v["reward"], v["kl"])
    for s, v in run.evals.items()
    if v.get("reward") is not None and v.get("kl") is not None
  ]
  if len(rows) < 2:
    return None
  best = max(rows, key=lambda row: row[1] or 0.0)
  (step, top, spent), (last, reward, kl) = best, rows[-1]
  assert top is not None and spent is not None
  assert reward is not None and kl is not None
  noise = error(run, last, step) if step != last else 0.0
  lost = top - reward
  look = lost > SURE * (noise or 0.0) and kl > spent
  return Finding(
    "KL beyond what the reward needs",
    look,
    f"the last evaluation has {number(lost)} less reward than that of step"
    f" {step}, and {number(kl - spent)} nats more KL",
    f"at most {SURE:g} standard errors less ({number(SURE * (noise or 0.0))})",
    f"stop at step {step}, or hold the KL with loss.kl_beta or kl_reward.beta;"
    " --config.frontier.samples=64 measures how much KL the reward needs",
  )


def _hacking(run: Run) -> Finding | None:
  rows = [
    (v["proxy"], v["reward"])
    for v in run.evals.values()
    if v.get("proxy") is not None and v.get("reward") is not None
  ]
  if len(rows) < 2:
    return None
  (proxy, _), (last, gold) = rows[0], rows[-1]
  best = max(g or 0.0 for _, g in rows)
  assert proxy is not None and last is not None and gold is not None
  noise = error(run, max(run.evals)) or 0.0
  return Finding(
    "reward hacking",
    last > proxy and best - gold > SURE * noise,
    f"the trained reward changed by {last - proxy:+.3g}, the wanted one is"
    f" {number(best - gold)} below its best",
    f"at most {SURE:g} standard errors below ({number(SURE * noise)})",
    "stop at the best evaluation, hold the KL (loss.kl_beta), bound or"
    " ensemble the reward",
  )


def _ratio(run: Run) -> Finding | None:
  half = run.get("model.dtype") == "bfloat16"
  name = "logprob_abs_diff" if half else "logprob_abs_diff_max"
  limit = RATIO_BF16 if half else RATIO_F32
  stale = {r["step"] for r in run.train if r.get("staleness")}
  values = known([p for p in run.series(name) if p[0] not in stale])
  if not values:
    return None
  which = "the mean action" if half else "the worst action"
  return Finding(
    "ratio error",
    max(values) > limit,
    f"sampler and trainer differ by up to {number(max(values))} nats"
    f" ({which}, {name})",
    f"at most {limit:g} nats in {run.get('model.dtype', 'float32')}",
    "it is a bug, or a cache_dtype below the model's: set"
    " sampling.cache_dtype to model.dtype and see docs/numerics.md",
  )


def _nan(run: Run) -> Finding | None:
  counts: dict[str, int] = {}
  rows = [*run.train, *run.evals.values()]
  for row in rows:
    for name, value in row.items():
      if value is None:
        counts[name] = counts.get(name, 0) + 1
  if not rows:
    return None
  worst = sorted(counts, key=lambda n: -counts[n])[:4]
  listed = ", ".join(f"{n} ({counts[n]} times)" for n in worst)
  return Finding(
    "numbers that are not finite",
    bool(counts),
    listed or f"none in {len(rows)} lines",
    "none",
    "loss or grad_norm: lower optimizer.learning_rate, set"
    " optimizer.clip_norm; a reward: look at the rows that it judged",
  )


def _entropy(run: Run) -> Finding | None:
  points = run.series("entropy") or read.surprise(run)
  a, b = early(points[:1]), late(points)
  if a is None or b is None or len(points) < 2:
    return None
  limit = min(ENTROPY, ENTROPY_LEFT * a)
  return Finding(
    "entropy collapse",
    b < limit,
    f"{number(a)} -> {number(b)} nats per token",
    f"at least {number(limit)}: {ENTROPY_LEFT:.0%} of the first, {ENTROPY:g}"
    " at most",
    "a wider upper clip (loss.clip_high=0.28), an entropy bonus (loss.entropy),"
    " a KL term, or a lower optimizer.learning_rate",
  )


def _drift(run: Run) -> Finding | None:
  for name, where in (("eval/length", "held-out answers"), ("length", "rows")):
    a, b = _ends(run, name)
    if a is not None and b is not None:
      factor = max(a, b) / max(min(a, b), 1e-9)
      return Finding(
        "length drift",
        factor > DRIFT and abs(b - a) > DRIFT_TOKENS,
        f"{where} went from {number(a)} to {number(b)} tokens",
        f"a factor of at most {DRIFT:g}, or {DRIFT_TOKENS:g} tokens",
        "read the samples below: if the task does not ask for it, use"
        " algorithm=dr_grpo or dapo, truncation=penalise, or a reward that does"
        " not see length",
      )
  return None


def _clipped(run: Run) -> Finding | None:
  share = late(run.series("clip_fraction"))
  if share is None:
    return None
  return Finding(
    "clipping",
    share > CLIPPED,
    f"{share:.1%} of the actions were clipped late in the run",
    f"at most {CLIPPED:.0%}",
    "fewer updates_per_step or epochs, or a lower optimizer.learning_rate",
  )


def _approx_kl(run: Run) -> Finding | None:
  size = late(run.series("approx_kl"))
  if size is None:
    return None
  return Finding(
    "size of a step",
    size > APPROX_KL,
    f"approx_kl is {number(size)} nats per token late in the run",
    f"at most {APPROX_KL:g}",
    f"loss.kl_stop={APPROX_KL:g} ends the updates of a step; or fewer epochs",
  )


def _spikes(run: Run) -> Finding | None:
  values = known(run.series("grad_norm"))
  values = values[len(values) // 10 :]
  if len(values) < 10:
    return None
  middle, top = sorted(values)[len(values) // 2], max(values)
  return Finding(
    "gradient spikes",
    middle > 0 and top > SPIKE * middle,
    f"the largest grad_norm is {number(top)}, the median {number(middle)}",
    f"at most {SPIKE:g} times the median, after the first tenth",
    "optimizer.clip_norm=1 bounds an update; warmup_steps; a lower rate",
  )


def _judged(run: Run) -> Finding | None:
  share = late(run.series("valid"))
  if share is None:
    return None
  return Finding(
    "rows without a judgement",
    share < JUDGED,
    f"{share:.1%} of the rows were judged late in the run",
    f"at least {JUDGED:.0%}",
    "look for exceptions and time-outs of the reward; raise its time limit",
  )


def _overfit(run: Run) -> Finding | None:
  values = known(run.series("eval/held/loss"))
  if len(values) < 2:
    return None
  low, last = min(values), values[-1]
  limit = low + (OVERFIT - 1.0) * abs(low)
  return Finding(
    "over-fitting",
    last > limit,
    f"the held-out loss ends at {number(last)}, its lowest is {number(low)}",
    f"at most {number(limit)}: {OVERFIT - 1:.0%} above the lowest",
    "stop at the lowest, use more rows or fewer steps, or a lower rate",
  )


def _critic(run: Run) -> Finding | None:
  share = late(run.series("explained_variance"))
  if share is None:
    return None
  return Finding(
    "critic",
    share < 0.0,
    f"explained_variance is {number(share)} late in the run",
    "at least 0",
    "critic.warmup trains it alone first; raise critic.rate or its coefficient",
  )


def _again(run: Run) -> Finding | None:
  last = run.train[-1] if run.train else {}
  counts = {k[9:]: v for k, v in last.items() if k.startswith("compiles/")}
  if not counts:
    return None
  name, most = max(counts.items(), key=lambda item: item[1] or 0)
  return Finding(
    "compiled again",
    (most or 0) > 1,
    f"{name} was compiled {number(most)} time{'s' * (most != 1)}",
    "1 for each phase",
    "length buckets do this once each; else see RLR-W002 in docs/warnings.md",
  )


def _trains(run: Run) -> bool:
  """Best-of-n and its kin only choose."""
  return bool(run.series("grad_norm"))


def _ends(run: Run, name: str) -> tuple[float | None, float | None]:
  """The first and last held-out value, or early and late means of training."""
  points = run.series(name)
  if len(points) < 2:
    return None, None
  if name.startswith("eval/"):
    values = known(points)
    return (values[0], values[-1]) if len(values) > 1 else (None, None)
  return early(points), late(points)


RULES: tuple[Callable[[Run], Finding | None], ...] = (
  _nan, _ratio, _gain, _hacking, _wasted, _collapse, _entropy, _drift,
  _truncation, _overfit, _clipped, _approx_kl, _spikes, _critic, _judged,
  _again,
)  # fmt: skip
