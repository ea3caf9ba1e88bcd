"""What a run shows and keeps in words: banner, samples as plain rows, end."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rlreward import metrics, registry, sharding
from rlreward.steps import judge
from rlreward.tasks import census
from rlreward.types import FINISH_NAMES, Rollout, Score, Task


def banner(
  config, actor, abstract, mesh, workdir, command, stage, begun, task
) -> list[str]:
  """What is about to run, in the words of the config."""
  size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  trained, frozen = size(abstract.params), size(abstract.frozen)
  b, g = config.prompts_per_step, config.samples_per_prompt
  module = registry.algorithm(config.algorithm)
  lines = [
    f"rlreward {config.algorithm}" + (f" ({stage})" if stage else ""),
    f"{metrics.human(trained)} parameters trained"
    + (f", {metrics.human(frozen)} frozen" if frozen else ""),
    sharding.describe(mesh),
  ]
  if "online" in vars(module):
    n, u = b * g, config.updates_per_step * config.epochs
    rows = n // config.updates_per_step
    lines += [
      f"{b} prompts x {g} samples = {n} rows = {u} update"
      f"{'s' * (u > 1)} x {rows}, microbatch {config.microbatch or rows}",
      "loss " + (module.__doc__ or "").splitlines()[0],
      _kl_line(config),
    ]
  elif "ensemble" in vars(module):
    p, f, u = (
      config.ensemble.pretrain,
      config.ensemble.finetune,
      config.updates_per_step,
    )
    lines += [
      f"{p * f} members: {p} pretraining seeds x {f} fine-tuning seeds",
      f"{b} rows per step = {u} updates x {b // u}, microbatch"
      f" {config.microbatch or b // u}",
      "loss " + (module.__doc__ or "").splitlines()[0],
    ]
  else:
    lines += [
      f"{b} rows per update, microbatch {config.microbatch or b}",
      "loss " + (module.__doc__ or "").splitlines()[0],
    ]
  lines += data_lines(task)
  lines.append(f"output {_here(workdir)}")
  if begun:
    lines.append(f"resumes from the checkpoint of step {begun}")
  elif command:
    lines.append(f"resume with the same command: {command}")
  return lines


def data_lines(task: Task) -> list[str]:
  """What is known of the rows of each split that has been read."""
  report = task.spec.get("report", {})
  return [x for name, found in report.items() for x in found.lines(name)]


def write_data(workdir: pathlib.Path, task: Task) -> None:
  """Writes `data.json`, the counts of every split read so far, on process 0.

  Args:
    workdir: the run directory.
    task: of judged rows or of text; nothing is written for another one.
  """
  report = task.spec.get("report", {})
  if report and jax.process_index() == 0:
    census.write(report, workdir / "data.json")


def _kl_line(config) -> str:
  c, r = config.loss, config.kl_reward
  if r.budget:
    return (
      f"KL to the reference: in the reward, at the coefficient whose optimum"
      f" spends {r.budget:g} nats per response"
    )
  if r.beta:
    aim = f", steered to {r.target:g} nats per response" if r.target else ""
    return f"KL to the reference: {r.beta:g} x k1 in the reward{aim}"
  if not c.kl_beta:
    return "KL to the reference: none in the loss or the reward" + (
      ", logged" if config.reference == "always" else ""
    )
  grad = {"forward": "k3, gradient of KL(ref||pi)",
          "reverse": "gradient of KL(pi||ref)"}[c.kl]  # fmt: skip
  return f"KL to the reference: {c.kl_beta:g} x {c.kl} surrogate ({grad})"


def rows(
  task: Task,
  rollout: Rollout,
  score: Score,
  extra: Mapping[str, Any],
  limit: int = 64,
) -> list[dict[str, Any]]:
  """One plain row for each of the first samples.

  Args:
    task: its tokenizer turns ids into text, for reading only.
    rollout: N rows.
    score: their rewards and components.
    extra: {name: f32[N]}, e.g. advantage and KL.
    limit: most rows returned, whole prompts first.

  Returns:
    Rows with prompt, completion, ids, reward, every component, log-probs,
    length, finish and what `extra` holds; with a tool also the transcript, in
    which what it said stands in brackets. Every process must call this.
  """
  rollout, score, extra = judge.on_host((rollout, score, dict(extra)))
  tokenizer = task.spec.get("tokenizer")
  out = []
  for n in range(min(limit, rollout.tokens.shape[0])):
    action = rollout.action[n].astype(bool)
    first = int(np.argmax(action)) if action.any() else len(action)
    prompt = rollout.tokens[n, :first][rollout.attend[n, :first].astype(bool)]
    ids = rollout.tokens[n][action]
    row: dict[str, Any] = {
      "group": int(rollout.group[n]),
      "prompt": _text(tokenizer, prompt),
      "completion": _text(tokenizer, ids),
      "reward": _number(score.value[n]) if score.valid[n] else None,
      "valid": bool(score.valid[n]),
    }
    seen = rollout.attend[n].astype(bool) & ~action
    if seen[first:].any():
      row["transcript"] = _transcript(
        tokenizer, rollout.tokens[n, first:], action[first:], seen[first:]
      )
    for name, part in score.components.items():
      row[f"reward/{name}"] = _number(part[n])
    for name, values in extra.items():
      row[name if name != "reward" else "reward_shaped"] = _number(values[n])
    row["length"] = int(action.sum())
    row["finish"] = FINISH_NAMES[int(rollout.finish[n])]
    row["logp"] = [round(float(x), 5) for x in rollout.logp[n][action]]
    row["prompt_ids"], row["completion_ids"] = prompt.tolist(), ids.tolist()
    out.append(row)
  return out


def write_command(workdir: pathlib.Path, command: str) -> None:
  """Writes how to run this again to `command.txt`, on process 0."""
  if command and jax.process_index() == 0:
    (workdir / "command.txt").write_text(command + "\n", encoding="utf-8")


def write_eval(
  workdir: pathlib.Path, step: int, found: Sequence[Mapping[str, Any]]
) -> None:
  """Writes `samples/eval_N.jsonl`, on process 0."""
  _write(workdir, f"eval_{step}", found)


def _write(
  workdir: pathlib.Path, name: str, found: Sequence[Mapping[str, Any]]
) -> None:
  if jax.process_index() == 0:
    folder = workdir / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in found]
    text = "".join(f"{x}\n" for x in lines)
    (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def write_chosen(
  workdir: pathlib.Path, step: int, task: Task, rollout, score, extra
) -> None:
  """Writes `samples/chosen_N.jsonl`: the answer that was chosen of each prompt.

  Args:
    workdir: the run directory.
    step: N.
    task: its tokenizer turns ids into text.
    rollout: all samples.
    score: of them.
    extra: {name: f32[N]} with `chosen`, 1 where a row was; a method without it
      chooses nothing, and nothing is written. Every process must call this.
  """
  if "chosen" not in extra:
    return
  found = rows(task, rollout, score, extra, limit=rollout.tokens.shape[0])
  _write(workdir, f"chosen_{step}", [r for r in found if r["chosen"]])


def old_evals(workdir: pathlib.Path, begun: int) -> dict[int, dict[str, float]]:
  """Evaluations up to the step resumed from, as process 0 knows them.

  Args:
    workdir: the run directory.
    begun: that step; 0 for a new run.

  Returns:
    {step: {metric: float}}. Every process must call this.
  """
  path, out = workdir / "metrics.jsonl", []
  if begun and jax.process_index() == 0 and path.is_file():
    for line in path.read_text(encoding="utf-8").splitlines():
      row = json.loads(line)
      found = {k[5:]: v for k, v in row.items() if k.startswith("eval/")}
      if found and row["step"] <= begun:
        out.append((row["step"], found))
  number = lambda x: math.nan if x is None else x
  return {
    step: {k: number(v) for k, v in found.items()}
    for step, found in judge.everyone(out)[0]
  }


def footer(workdir: pathlib.Path, evals, stage: str) -> list[str]:
  """The last lines of a run: five samples before and after, what is where.

  Args:
    workdir: the run directory.
    evals: {step: metrics} of the held-out evaluations.
    stage: one that others follow only says where its checkpoint is; empty for
      the last.
  """
  here = _here(workdir)
  if stage:
    return [f"checkpoints  {here}/checkpoints"]
  lines = []
  if len(evals) > 1:
    first, last = min(evals), max(evals)
    before, after = (_read(workdir, step) for step in (first, last))
    lines.append(f"the same prompts at step {first} and at step {last}:")
    for a, b in list(zip(before, after, strict=False))[:5]:
      lines.append(f"  {_clip(a['prompt'], 30)!r}")
      lines.append(f"    before {_shown(a)}")
      lines.append(f"    after  {_shown(b)}")
  lines.append(f"samples      {here}/samples/*.jsonl")
  lines.append(f"curves       tensorboard --logdir {here}/tensorboard")
  lines.append(f"checkpoints  {here}/checkpoints")
  lines.append(f"next         rlreward sample --run={here}")
  return lines


def _here(path: pathlib.Path) -> str:
  """As one would type it."""
  inside = path.is_relative_to(pathlib.Path.cwd())
  return str(path.relative_to(pathlib.Path.cwd()) if inside else path)


def _number(value: Any) -> float | None:
  """JSON has no NaN."""
  return float(value) if math.isfinite(value) else None


def _shown(row: Mapping[str, Any]) -> str:
  reward = "none" if row["reward"] is None else f"{row['reward']:.2f}"
  return (
    f"reward {reward}  {_clip(row.get('transcript', row['completion']), 48)!r}"
  )


def _clip(text: str, size: int) -> str:
  return text if len(text) <= size else text[: size - 3] + "..."


def _read(workdir: pathlib.Path, step: int) -> list[dict[str, Any]]:
  path = workdir / "samples" / f"eval_{step}.jsonl"
  if not path.is_file():
    return []
  return [json.loads(x) for x in path.read_text(encoding="utf-8").splitlines()]


def _transcript(tokenizer: Any, ids, action, seen) -> str:
  """What the policy wrote and, in brackets, what it was shown."""
  kind = np.where(action, 1, np.where(seen, 2, 0))
  edges = np.flatnonzero(np.diff(kind)) + 1
  out = []
  for part, kinds in zip(
    np.split(ids, edges), np.split(kind, edges), strict=True
  ):
    if kinds[0]:
      said = _text(tokenizer, part)
      out.append(said if kinds[0] == 1 else f"[{said}]")
  return "".join(out)


def _text(tokenizer: Any, ids: Any) -> str:
  if tokenizer is None:
    return " ".join(map(str, ids.tolist()))
  return tokenizer.decode(ids.tolist())
