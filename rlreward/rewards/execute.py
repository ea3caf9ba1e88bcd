"""Rewards that run something: SQL queries and Python programs.

In a config, `task.rewards` is one of

  rlreward.rewards.execute:sql                 1 where the rows are the gold's
  rlreward.rewards.execute:sql_partial         Reasoning-SQL's weighted parts
  rlreward.rewards.execute:python_rlimit       1 where the tests pass
  rlreward.rewards.execute:python_container    the same, in a container
  rlreward.rewards.execute:python              off: it says how to turn it on

SQL needs the columns `database` (path of a SQLite file or of a .sql script, or
the script itself) and `gold`; Python needs `test` and `entry_point`, and
`code_prompt` where the text that the policy continues is not the prompt. Other
limits: `sql_reward(...)`, `python_reward(...)` in a file of your own. A
time-out or an error is no reward of 0: the sample has none.

Reference: Reasoning-SQL, arXiv 2503.23157; HumanEval, arXiv 2107.03374.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlreward.errors import UserError
from rlreward.rewards import sandbox, sql_parts, values
from rlreward.rewards.function import RewardFunction, reward
from rlreward.rewards.sandbox import Job, Level
from rlreward.rewards.values import Unjudged
from rlreward.rewards.workers import Outcome, Workers

_FENCE = re.compile(r"```[ \t]*(\w*)[ \t]*\n(.*?)```", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def judgement(outcome: Outcome, late: float | None = None) -> Any:
  """What a reward function returns for an outcome.

  Args:
    outcome: of a worker or of a program.
    late: reward of a sample that ran out of its time; None leaves it out.

  Returns:
    1 at "ok", 0 at "wrong", None at "abstain", else an `Unjudged`, which is
    counted as a time-out or an error.
  """
  if outcome.status == "timeout" and late is not None:
    return late
  if outcome.status in ("ok", "wrong"):
    return float(outcome.status == "ok")
  if outcome.status == "abstain":
    return None
  code = values.TIMEOUT if outcome.status == "timeout" else values.ERROR
  return Unjudged(code, outcome.detail)


def extract(completion: str, language: str) -> str | None:
  """The code of an answer; strict, so that no text around it can be code.

  Args:
    completion: what the policy wrote.
    language: of its fence, "sql" or "python".

  Returns:
    What stands between the one pair of <answer> tags, else in the one fenced
    block, else the whole text; None where there are several.
  """
  text = completion
  if "<answer>" in text or "</answer>" in text:
    if text.count("<answer>") != 1 or text.count("</answer>") != 1:
      return None
    found = _ANSWER.search(text)
    if found is None:
      return None
    text = found[1]
  blocks = _FENCE.findall(text)
  if "```" not in text:
    return text
  if len(blocks) != 1 or text.count("```") != 2:
    return None
  kind, code = blocks[0]
  return code if kind.lower() in ("", language, "sqlite", "py") else None


@functools.lru_cache(maxsize=8)
def pool(count: int, timeout: float, memory_mb: int) -> Workers:
  """One pool for all rewards with the same limits."""
  return Workers(count, timeout, memory_mb)


def sql_reward(
  *,
  name: str = "sql",
  partial: bool = False,
  weights: Mapping[str, float] | None = None,
  timeout: float = 30.0,
  steps: int = 50_000_000,
  rows: int = 10_000,
  columns: str = "same",
  tolerance: float = 1e-6,
  empty: bool = True,
  workers: int = 2,
  memory_mb: int = 1024,
  late: float | None = None,
  remember: int = 0,
) -> RewardFunction:
  """A reward of queries that are run; see the module for its columns.

  Args:
    name: of the component.
    partial: the sum of `sql_parts.WEIGHTS` in place of 1 or 0.
    weights: {part: weight} in place of these.
    timeout: seconds of a query, then its process is killed.
    steps: of SQLite's machine for a query.
    rows: that a result may have.
    columns: "same" order, or "any".
    tolerance: relative, of numbers that are not both whole.
    empty: whether an empty result can be right.
    workers: processes.
    memory_mb: of a process.
    late: reward where time or steps run out; None leaves the sample out. With
      parts these are all 0 then, and `timeout` says where.
    remember: judgements that are kept, for data that does not change.

  Raises:
    UserError: options that cannot be.
  """
  options = sql_parts.Options(steps, rows, columns, tolerance, empty)
  sql_parts.check(options, weights)
  chosen = dict(sql_parts.WEIGHTS if weights is None else weights)
  seen: dict[tuple, Outcome] = {}

  def score(completion: list, database: list, gold: list) -> list:
    out: list[Any] = [0.0] * len(completion)
    jobs, place = [], []
    for i, row in enumerate(zip(completion, database, gold, strict=True)):
      said, base, right = map(_text, row, ("completion", "database", "gold"))
      query = extract(said, "sql")
      if partial or query is not None:
        jobs.append((said, query or "", base, right, tuple(options), partial))
        place.append(i)
    new = [j for j in dict.fromkeys(jobs) if j not in seen]
    outcomes = pool(workers, timeout, memory_mb).map(sql_parts.judge, new)
    found = {**seen, **dict(zip(new, outcomes, strict=True))}
    for i, job in zip(place, jobs, strict=True):
      out[i] = _sql_value(found[job], chosen, partial, late)
    # One that was killed may get its time in another batch.
    seen.update({j: found[j] for j in new if found[j].status == "ok"})
    if len(seen) > remember:
      seen.clear()
    return out

  return reward(
    score, batched=True, name=name, on_error="abstain", max_error_share=0.5
  )


def _sql_value(outcome: Outcome, weights, partial: bool, late) -> Any:
  status, parts, detail = outcome.status, {}, outcome.detail
  if status == "ok":
    status, parts, detail = outcome.value
  tell = partial and late is not None
  if tell and status == "timeout":
    none = {k: 0.0 for k in sql_parts.PARTS if k != "judge"}
    return {"value": late, **none, "timeout": 1.0}
  if status != "ok":
    return judgement(Outcome(status, None, detail), late)
  if not partial:
    return parts["execution"]
  out = sql_parts.combine(parts, weights)
  return {**out, "timeout": 0.0} if tell else out


def python_reward(
  level: str = "off",
  *,
  name: str = "python",
  seconds: float = 10.0,
  memory_mb: int = 1024,
  workers: int = 2,
  engine: str = "docker",
  image: str = "python:3.12-slim",
  url: str = "",
  late: float | None = None,
) -> RewardFunction:
  """A reward of programs that are run against tests.

  Args:
    level: see `sandbox`.
    name: of the component.
    seconds: see `sandbox.Level`; so are the next four.
    memory_mb: of a program.
    workers: programs at the same time.
    engine: of containers.
    image: of containers.
    url: of a remote service.
    late: reward where the time runs out; None leaves the sample out.
  """
  chosen = Level(level, seconds, memory_mb, engine, image, url)
  checked: list[Level] = []

  def score(prompt: list, completion: list, test: list, entry_point: list,
            code_prompt: Any = None) -> list:  # fmt: skip
    if not checked:
      checked.append(sandbox.check(chosen))
    heads = prompt if code_prompt is None else code_prompt
    out: list[Any] = [0.0] * len(completion)
    jobs, place = [], []
    for i, said in enumerate(completion):
      job = program(
        _text(heads[i], "prompt"),
        _text(said, "completion"),
        _text(test[i], "test"),
        _text(entry_point[i], "entry_point"),
      )
      if job is not None:
        jobs.append(job)
        place.append(i)
    for i, outcome in zip(
      place, sandbox.run_all(jobs, chosen, workers), strict=True
    ):
      out[i] = judgement(outcome, late)
    return out

  return reward(
    score, batched=True, name=name, on_error="abstain", max_error_share=0.5
  )


def program(prompt: str, completion: str, test: str, entry: str) -> Job | None:
  """A HumanEval problem and an answer as a job.

  An answer that is one fenced block with the function itself stands alone; any
  other continues the prompt.

  Args:
    prompt: the head of the function, with helpers.
    completion: what the policy wrote.
    test: defines `check(candidate)`, or asserts.
    entry: name of the function.

  Returns:
    The job; None where the answer has several blocks.
  """
  code = extract(completion, "python")
  if code is None:
    return None
  if re.search(rf"^(async )?def {re.escape(entry)}\b", code, re.MULTILINE):
    return Job(_head(prompt) + code, entry, test, prompt)
  return Job(prompt + code, entry, test, prompt)


def _head(prompt: str) -> str:
  """The prompt's helpers: the lines before its last function."""
  start = prompt.rfind("\ndef ")
  return prompt[: start + 1] if start >= 0 else ""


def pass_at_k(
  problems: Sequence[Mapping[str, Any]],
  samples: Sequence[tuple[str, str]],
  ks: Sequence[int],
  level: Level,
  workers: int = 2,
) -> tuple[dict[int, float], list[Outcome]]:
  """pass@k of samples: 1 - C(n - c, k) / C(n, k), mean over problems.

  A sample out of time has failed; one that could not be judged is an error.

  Args:
    problems: of HumanEval: task_id, prompt, test, entry_point.
    samples: (task_id, completion).
    ks: draws; those that exceed a problem's samples are left out.
    level: see `sandbox`.
    workers: programs at the same time.

  Returns:
    ({k: pass@k}, outcome of each sample).

  Raises:
    UserError: a sample of an unknown problem, tests that fail to run, or a
      level that cannot be.

  Reference: arXiv 2107.03374.
  """
  from rlreward.analytic import best_of_n

  sandbox.check(level)
  known = {p["task_id"]: p for p in problems}
  jobs: list[Job] = []
  for task, text in samples:
    if task not in known:
      raise UserError(
        f"a sample of the problem {task!r}",
        f"there are {len(known)} problems, and it is none of them",
        "give the problems that were sampled from",
      )
    p = known[task]
    jobs.append(Job(p["prompt"] + text, p["entry_point"], p["test"],
                    p["prompt"]))  # fmt: skip
  outcomes = sandbox.run_all(jobs, level, workers)
  counts: dict[str, list[int]] = {}
  for (task, _), outcome in zip(samples, outcomes, strict=True):
    if outcome.status == "error":
      raise UserError(
        f"the tests of {task!r} did not run: {outcome.detail}",
        "what could not be judged is no failure of the sample",
        "correct the tests",
      )
    row = counts.setdefault(task, [0, 0])
    row[0] += 1
    row[1] += outcome.status == "ok"
  least = min((n for n, _ in counts.values()), default=0)
  out = {}
  for k in ks:
    if 1 <= k <= least:
      each = [float(best_of_n.pass_at_k(c, n, k)) for n, c in counts.values()]  # pyright: ignore
      out[k] = sum(each) / len(each)
  return out, outcomes


def _text(value: Any, name: str) -> str:
  """A text column; touching it raises where it is broken."""
  if not isinstance(value, str):
    raise TypeError(f"{name} is a {values.kind(value)}; it must be a text")
  return value + ""


sql = sql_reward()
sql_partial = sql_reward(name="sql_partial", partial=True)
python = python_reward()
python_rlimit = python_reward("rlimit")
python_container = python_reward("container")
