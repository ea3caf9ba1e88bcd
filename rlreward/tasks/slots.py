"""Slot filling for tool calls: "Ii7l3>" is answered by "A(a=7,b=3)".

A request names a tool by an intent letter (A is asked for by I or J, B by K or
L, ...), then an argument by a cue letter and its value (a by i or j, b by k or
l, ...). Fillers y and z mean nothing; ";" stands between two calls. The order
of calls and of arguments does not count. Difficulty: tools, arguments, calls,
synonyms and fillers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from rlreward.errors import UserError
from rlreward.ops import calls as call_ops
from rlreward.tasks import answered, curriculum
from rlreward.tasks import slots_rows as rows
from rlreward.types import Rollout, Score, Task

REWARDS = ("exact", "graded", "toolrl")


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "slots",
    **answered.FIELDS,
    "tools": 2,
    "keys": 2,  # arguments that there are
    "arguments": 1,  # of a call
    "calls": 1,  # of a request, of tools that differ
    "synonyms": 1,  # letters that ask for the same
    "fillers": 0,  # letters of a request that mean nothing
    "garble": 0.0,  # of a wrong answer: each part is another with this chance;
    # 0 changes one tool or value
    "reward": "exact",  # exact | graded, ToolRL's match from 0 to 1 | toolrl,
    # its format (0, 1) and 3 times the match in [-1, 1]
  }


def levels() -> tuple[dict[str, Any], ...]:
  """Fields of each level, easy to hard."""
  names = ("tools", "keys", "arguments", "calls", "synonyms", "fillers")
  sizes = (
    (2, 2, 1, 1, 1, 0),
    (4, 4, 2, 1, 1, 0),
    (4, 4, 2, 1, 2, 2),
    (8, 8, 3, 1, 2, 4),
    (8, 8, 3, 2, 2, 4),
  )
  return tuple(dict(zip(names, size, strict=True)) for size in sizes)


def at(level: int) -> dict[str, Any]:
  """The task's section at a level."""
  return curriculum.at(defaults(), levels(), level)


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task: calls that match the request's in any order, and a stop token.

  Args:
    config: section with the fields of `defaults`, None for all of them.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task, see `answered.task`. Its score has `graded`, the match of
    `ops.calls.graded` from 0 to 1, and `well_formed`; gold is 1 where all is
    right, whatever the reward.

  Raises:
    UserError: fields that cannot work.
  """
  world = answered.World(
    defaults(), levels(), rows.ALPHABET, _check, rows.sizes, rows.draw,
    guess, lambda tok, c: verifier(tok, c["reward"]),
    lambda tok, c: verifier(tok, "exact"), orders,
  )  # fmt: skip
  return answered.task(world, config, process_index, process_count)


def verifier(tok: Any, reward: str = "exact") -> Any:
  """The match of calls, inside a compiled function.

  Args:
    tok: of the task.
    reward: "exact", "graded" or "toolrl", what the value is.

  Returns:
    (Rollout, batch) -> Score with components `correct`, `graded` and
    `well_formed`. An answer that is no list of calls is worth 0. "toolrl" has
    the components of `rewards.toolrl.parts` besides, without `words`.
  """
  read = rows.reader(tok)

  def score(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    said, well = read(rollout.tokens, rollout.action)
    gold, _ = read(batch["answer"], batch["answer_mask"])
    own = call_ops.Calls(*(x[rollout.group] for x in gold))
    graded = well * call_ops.graded(said, own, 0.0, 1.0)
    # As many calls as wanted and the whole score: each is matched by its own.
    same = (said.is_call.sum(1) == own.is_call.sum(1)) & (graded == 1.0)
    found = answered.scored(same, graded=graded, well_formed=1.0 * well)
    if reward == "toolrl":
      return _in_parts(found, said, own, well)
    return found._replace(value=graded) if reward == "graded" else found

  return score


def _in_parts(score: Score, said: Any, own: Any, well: Any) -> Score:
  """The format and each match in [-1, 1]; their sum as the paper weighs it."""
  grade = lambda match, best=False: jnp.where(
    well, call_ops.graded(said, own, -1.0, 1.0, match, best), -1.0
  )
  parts = {m: grade(m) for m in call_ops.MATCHES}
  parts |= {"optimal": grade("fine", True), "format": 1.0 * well}
  value = parts["format"] + 3.0 * parts["fine"]
  return score._replace(value=value, components={**score.components, **parts})


def orders(c: Mapping[str, Any]) -> int:
  """How many texts are a right answer: calls! * arguments!^calls."""
  within = math.factorial(c["arguments"]) ** c["calls"]
  return math.factorial(c["calls"]) * within


def guess(c: Mapping[str, Any]) -> float:
  """1 in all sets of calls: of tools, and of arguments and digits for each."""
  per_call = math.comb(c["keys"], c["arguments"]) * 10 ** c["arguments"]
  return 1.0 / (math.comb(c["tools"], c["calls"]) * per_call ** c["calls"])


def _check(c: Mapping[str, Any]) -> None:
  most = len(rows.TOOLS)
  answered.whole("tools", c["tools"], 2, most)
  answered.whole("keys", c["keys"], 1, most)
  answered.whole("arguments", c["arguments"], 1, c["keys"])
  answered.whole("calls", c["calls"], 1, min(rows.MOST_CALLS, c["tools"]))
  answered.whole("synonyms", c["synonyms"], 1, 2)
  answered.whole("fillers", c["fillers"], 0, 64)
  if not 0 <= c["garble"] <= 1:
    raise UserError(
      f"garble={c['garble']!r}", "it is a share", "use a number from 0 to 1"
    )
  if c["reward"] not in REWARDS:
    raise UserError(
      f"reward={c['reward']!r}",
      "it says whether a part of the calls is worth something",
      f"use one of: {', '.join(REWARDS)}",
    )
