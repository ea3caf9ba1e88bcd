"""Samples as plain rows: what the model wrote and how it was judged."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rlreward.steps import judge
from rlreward.types import FINISH_NAMES, Rollout, Score, Task


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
    length, finish and what `extra` holds. Every process must call this.
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
      "reward": float(score.value[n]) if score.valid[n] else None,
      "valid": bool(score.valid[n]),
    }
    for name, part in score.components.items():
      row[f"reward/{name}"] = float(part[n])
    for name, values in extra.items():
      row[name if name != "reward" else "reward_shaped"] = float(values[n])
    row["length"] = int(action.sum())
    row["finish"] = FINISH_NAMES[int(rollout.finish[n])]
    row["logp"] = [round(float(x), 5) for x in rollout.logp[n][action]]
    row["prompt_ids"], row["completion_ids"] = prompt.tolist(), ids.tolist()
    out.append(row)
  return out


def write_eval(
  workdir: pathlib.Path, step: int, found: Sequence[Mapping[str, Any]]
) -> None:
  """Writes `samples/eval_N.jsonl`, on process 0."""
  if jax.process_index() == 0:
    folder = workdir / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in found]
    path = folder / f"eval_{step}.jsonl"
    path.write_text("".join(f"{x}\n" for x in lines), encoding="utf-8")


def footer(workdir: pathlib.Path, evals, config, stage: str) -> list[str]:
  """The last lines of a run: five samples before and after, what is where."""
  here = str(workdir)
  if workdir.is_relative_to(pathlib.Path.cwd()):
    here = str(workdir.relative_to(pathlib.Path.cwd()))
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
  if not stage.startswith("stage 1"):
    lines.append(f"next         rlreward sample --run={here}")
  return lines


def _shown(row: Mapping[str, Any]) -> str:
  reward = "none" if row["reward"] is None else f"{row['reward']:.2f}"
  return f"reward {reward}  {_clip(row['completion'], 48)!r}"


def _clip(text: str, size: int) -> str:
  return text if len(text) <= size else text[: size - 3] + "..."


def _read(workdir: pathlib.Path, step: int) -> list[dict[str, Any]]:
  path = workdir / "samples" / f"eval_{step}.jsonl"
  if not path.is_file():
    return []
  return [json.loads(x) for x in path.read_text(encoding="utf-8").splitlines()]


def _text(tokenizer: Any, ids: np.ndarray) -> str:
  if tokenizer is None:
    return " ".join(map(str, ids.tolist()))
  return tokenizer.decode(ids.tolist())
