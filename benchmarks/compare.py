"""Medians over rounds, and the targets that they are held against.

A result is read from the reports of one (size, mode, peer): wall is the median
repetition (`median_s`), core-seconds the median of the CPU time
(`cpu_median_s`), both then medians over rounds. A target is reached when both
ratios are at most the limit.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

Report = dict[str, Any]
PARTS = (
  "generate",
  "score",
  "update",
  "update_given_reference",
  "update_with_reference",
  "grpo_step",
)
PEERS = ("rlreward", "bound", "purejax", "tunix", "trl")


class Target(NamedTuple):
  """What is wanted of ours over a peer's, or of ours alone (peer "").

  `over` is the peer's key where it is another one than ours.
  """

  size: str
  mode: str
  key: str
  peer: str
  most: float
  over: str = ""


TARGETS = (
  Target("M", "steady", "grpo_step", "tunix", 0.70),
  Target("M", "steady", "grpo_step", "trl", 0.45),
  Target("S", "steady", "grpo_step", "tunix", 0.80),
  Target("S", "steady", "grpo_step", "trl", 0.65),
  Target("M", "steady", "generate", "tunix", 0.45),
  Target("M", "steady", "update", "purejax", 1.00),
  Target("M", "steady", "update", "bound", 1.00),
  Target("M", "first", "peak_rss_mib", "tunix", 0.75),
  Target("S", "first", "first_step_s", "", 8.0),
  Target("S", "warm", "first_step_s", "", 4.0),
)
OFFLINE = (
  Target("M", "dpo", "dpo", "tunix", 0.75),
  Target("S", "reward_model", "reward_model", "trl", 0.62),
  Target("M", "ppo", "ppo_step", "rlreward", 1.60, "grpo_step"),
  Target("S", "ppo", "ppo_step", "rlreward", 1.60, "grpo_step"),
)
# What else is set beside something, without a limit.
ASIDE = (
  Target("S", "dpo", "dpo", "tunix", math.inf),
  Target("S", "dpo", "dpo", "trl", math.inf),
  Target("M", "dpo", "dpo", "trl", math.inf),
  Target("M", "reward_model", "reward_model", "trl", math.inf),
  Target("M", "ppo", "ppo_update", "rlreward", math.inf, "grpo_update"),
  Target("S", "ppo", "ppo_update", "rlreward", math.inf, "grpo_update"),
)
SAME = 1e-3  # nats; losses of the first steps on the same weights and rows


def median(
  reports: Sequence[Report], size: str, mode: str, peer: str, key: str
) -> tuple[float | None, float | None]:
  """(wall seconds or plain value, core-seconds) over rounds; None if unknown.

  Args:
    reports: of all processes.
    size: S or M.
    mode: steady, first or warm.
    peer: whose.
    key: of `results`, or `peak_rss_mib`.
  """
  wall, cpu = [], []
  for r in reports:
    if (r["size"], r["mode"], r["peer"]) != (size, mode, peer):
      continue
    value = r.get(key) if key == "peak_rss_mib" else r["results"].get(key)
    if isinstance(value, dict):
      wall.append(value["median_s"])
      cpu.append(value["cpu_median_s"])
    elif value is not None:
      wall.append(value)
  pick = lambda x: statistics.median(x) if x else None
  return pick(wall), pick(cpu)


def judge(reports: Sequence[Report], target: Target) -> dict[str, Any]:
  """A target with what was measured and whether it is reached.

  Returns:
    The target's fields, `wall` and `core` (ratios, or our own value where the
    target names no peer), and `reached`: None where something is missing.
  """
  size, mode, key, peer, most, over = target
  ours = median(reports, size, mode, "rlreward", key)
  if peer:
    theirs = median(reports, size, mode, peer, over or key)
    wall, core = (
      a / b if a is not None and b else None
      for a, b in zip(ours, theirs, strict=True)
    )
  else:
    wall, core = ours
  known = [x for x in (wall, core) if x is not None]
  reached = max(known) <= most if wall is not None else None
  fields = target._asdict()
  if math.isinf(most):
    fields["most"], reached = None, None
  return {**fields, "wall": wall, "core": core, "reached": reached}


def agreement(reports: Sequence[Report]) -> list[dict[str, Any]]:
  """Largest gap of each peer's first losses to ours, where both are known."""
  out = []
  losses = lambda r: r["results"].get("losses")
  mine = {(r["size"], r["mode"]): losses(r) for r in reports
          if r["peer"] == "rlreward"}  # fmt: skip
  for r in reports:
    ours, theirs = mine.get((r["size"], r["mode"])), losses(r)
    if r["peer"] == "rlreward" or not ours or not theirs:
      continue
    gap = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    names = {k: r[k] for k in ("size", "mode", "peer")}
    out.append({**names, "gap": gap, "same": gap <= SAME})
  return out


def _number(x: float | None) -> str:
  return "-" if x is None else f"{x:.2f}" if x < 100 else f"{x:.0f}"


def _row(*cells: str) -> str:
  return "| " + " | ".join(cells) + " |"


def target_lines(
  reports: Sequence[Report], targets: Sequence[Target] = TARGETS
) -> list[str]:
  """Markdown table of the targets."""
  names = ("size", "what", "against", "target", "wall", "core-s", "verdict")
  out = [_row(*names), "|---" * len(names) + "|"]
  words = {True: "reached", False: "not reached", None: "not measured"}
  for target in targets:
    found = judge(reports, target)
    mode = target.mode
    free = found["most"] is None and found["wall"] is not None
    out.append(
      _row(
        target.size,
        target.key + (f" ({mode})" if mode in ("first", "warm") else ""),
        target.over or target.peer or "seconds",
        "-" if math.isinf(target.most) else f"{target.most:.2f}",
        _number(found["wall"]),
        _number(found["core"]),
        "-" if free else words[found["reached"]],
      )
    )
  return out


def offline_lines(reports: Sequence[Report]) -> list[str]:
  """Markdown table of every timing of the offline benchmarks."""
  out = [_row("size", "what", "who", "wall s", "core-s")]
  out.append("|---" * 5 + "|")
  done = set()
  for r in reports:
    for key, value in r["results"].items():
      where = (r["size"], r["mode"], r["peer"], key)
      if isinstance(value, dict) and where not in done:
        done.add(where)
        found = median(reports, *where)
        out.append(_row(r["size"], key, r["peer"], *map(_number, found)))
  return out


def detail_lines(reports: Sequence[Report], size: str) -> list[str]:
  """Markdown table of all that was measured at a size, wall / core-seconds."""
  names = [
    p
    for p in PEERS
    if any((r["size"], r["peer"]) == (size, p) for r in reports)
  ]
  out = [f"size {size}: wall / core-seconds", _row("part", *names)]
  out.append("|---" * (len(names) + 1) + "|")
  for key in PARTS:
    pairs = [median(reports, size, "steady", p, key) for p in names]
    if any(wall is not None for wall, _ in pairs):
      out.append(_row(key, *(" / ".join(map(_number, p)) for p in pairs)))
  for key, mode in (
    ("first_step_s", "first"),
    ("first_step_s", "warm"),
    ("peak_rss_mib", "first"),
  ):
    cells = [median(reports, size, mode, p, key)[0] for p in names]
    if any(c is not None for c in cells):
      out.append(_row(f"{key} ({mode})", *map(_number, cells)))
  return out
