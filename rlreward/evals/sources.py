"""Readers of published preference sets: items that a reward model can score.

Files keep the layout in which they were published, as .json, .jsonl or
.jsonl.gz. Each reader gives `Item`s with the right candidates first.
"""

from __future__ import annotations

import csv
import gzip
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlreward.errors import UserError


class Item(NamedTuple):
  """A prompt and its candidates, the right ones first.

  Attributes:
    prompt: messages, each {"role", "content"}.
    candidates: texts of answers.
    num_correct: how many from the left are right.
    subset: as the benchmark names it.
    id: of the prompt.
  """

  prompt: tuple[Mapping[str, str], ...]
  candidates: tuple[str, ...]
  num_correct: int
  subset: str
  id: str


def row(item: Item, scores: Sequence[float]) -> dict[str, Any]:
  """The line of `rlreward eval-rm` for an item and the scores of its answers.

  Args:
    item: of one of the readers.
    scores: one for each candidate; NaN is no score.

  Returns:
    {"id", "subset", "num_correct", "scores"}.

  Raises:
    ValueError: another number of scores.
  """
  if len(scores) != len(item.candidates):
    raise ValueError(f"{len(scores)} scores, {len(item.candidates)} candidates")
  plain = [float(s) if np.isfinite(s) else None for s in scores]
  return {
    "id": item.id,
    "subset": item.subset,
    "num_correct": item.num_correct,
    "scores": plain,
  }


def records(path: str | pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
  """(line or place from 1, record) of a .json, .jsonl or .jsonl.gz file.

  Raises:
    UserError: no such file, or a line that is not a JSON object.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(
      f"there is no file {path}", "items are read from it", "check the path"
    )
  opened = gzip.open if path.suffix == ".gz" else open
  with opened(path, "rt", encoding="utf-8") as file:
    if path.suffix == ".json":
      rows = enumerate(json.load(file), 1)
    else:
      rows = ((i, x) for i, x in enumerate(file, 1) if x.strip())
    for i, value in rows:
      try:
        record = json.loads(value) if isinstance(value, str) else value
      except json.JSONDecodeError as error:
        raise UserError(
          f"line {i} of {path} is not JSON: {error.msg}",
          "each line is one item",
          "write one JSON object in each line",
        ) from error
      if not isinstance(record, dict):
        raise UserError(
          f"line {i} of {path} is a {type(record).__name__}",
          "each line is one item",
          "write one JSON object in each line",
        )
      yield i, record


def _get(record: dict[str, Any], path: Any, place: int, *names: str) -> Any:
  """A field, by its path of names; says what is missing where."""
  value: Any = record
  for depth, name in enumerate(names):
    if not isinstance(value, dict) or name not in value:
      raise UserError(
        f"line {place} of {path} has no field {'.'.join(names[: depth + 1])!r}",
        "this reader knows the published layout alone",
        f"check the file; its fields are {sorted(record)[:8]}",
      )
    value = value[name]
  return value


def _user(text: str) -> tuple[Mapping[str, str], ...]:
  return ({"role": "user", "content": text},)


def load_rm_bench(
  path: str | pathlib.Path, domain: str | None = None
) -> list[Item]:
  """RM-Bench: 3 right and 3 wrong answers, each concise, plain, markdown.

  Args:
    path: {chat, math, code, safety-refuse, safety-response}_filtered.json, or
      total_dataset.json with a domain in each record.
    domain: None takes the record's, else how the name of the file begins.

  Returns:
    Items of subset `domain`, num_correct 3.

  Raises:
    UserError: records of another layout.

  Reference: RM-Bench, arXiv 2410.16184.
  """
  name = pathlib.Path(path).name.replace("_", "-")
  known = ("safety-refuse", "safety-response", "chat", "math", "code")
  named = next((k for k in known if name.startswith(k)), None)
  out = []
  for i, r in records(path):
    of = domain or r.get("domain") or named or _get(r, path, i, "domain")
    chosen, rejected = (_get(r, path, i, k) for k in ("chosen", "rejected"))
    if len(chosen) != 3 or len(rejected) != 3:
      raise UserError(
        f"line {i} of {path} has {len(chosen)} chosen and {len(rejected)}"
        " rejected answers",
        "RM-Bench has three styles of each",
        "give three of each, from concise to markdown",
      )
    prompt = _user(_get(r, path, i, "prompt"))
    out.append(Item(prompt, (*chosen, *rejected), 3, of, str(r.get("id", i))))
  return out


def load_rmb(path: str | pathlib.Path) -> list[Item]:
  """RMB: pairs, or a best answer that has to beat every loser.

  Args:
    path: a file of Pairwise_set or of BoN_set.

  Returns:
    Items with one right answer; the subset is the category path.

  Raises:
    UserError: records of another layout.

  Reference: RMB, arXiv 2410.09893.
  """
  out = []
  for i, r in records(path):
    prompt = tuple(
      {"role": m["role"], "content": m["content"]}
      for m in _get(r, path, i, "conversation_input")
    )
    if "bon_best" in r:
      best = _get(r, path, i, "bon_best", "answer")
      losers = [x["answer"] for x in _get(r, path, i, "loser_list")]
      name = str(_get(r, path, i, "bon_uid"))
    else:
      best = _get(r, path, i, "chosen", "answer")
      losers = [_get(r, path, i, "reject", "answer")]
      name = str(_get(r, path, i, "pair_uid"))
    subset = _get(r, path, i, "category_path")
    out.append(Item(prompt, (best, *losers), 1, subset, name))
  return out


def load_hhh(path: str | pathlib.Path) -> list[Item]:
  """HHH alignment, as judge prompts: the instruction and answer are cut out.

  Args:
    path: hhh_alignment_eval.json.

  Returns:
    Pairs; the subset is helpful, honest, harmless or other.

  Raises:
    UserError: a record without the headings of the judge prompt.

  Reference: arXiv 2112.00861.
  """

  def cut(text: str, i: int) -> tuple[str, str]:
    parts = []
    rest = text
    for head in _HEADINGS:
      before, found, rest = rest.partition(head)
      if not found:
        raise UserError(
          f"line {i} of {path} has no heading {head.strip()!r}",
          "the instruction and the answer stand between headings",
          "check the file",
        )
      parts.append(before.strip())
    return parts[1], parts[2]

  out = []
  for i, r in records(path):
    prompt, best = cut(_get(r, path, i, "chosen_instruction"), i)
    _, other = cut(_get(r, path, i, "rejected_instruction"), i)
    source = _get(r, path, i, "source")
    out.append(Item(_user(prompt), (best, other), 1, source, str(i)))
  return out


_HEADINGS = (
  "###The instruction to evaluate:",
  "###Response to evaluate:",
  "###Score Rubrics:",
)


def load_llmbar(
  path: str | pathlib.Path, subset: str | None = None
) -> list[Item]:
  """LLMBar: two outputs and which one follows the instruction.

  Args:
    path: a dataset.json.
    subset: None takes the name of the file; the Natural set is RewardBench's
      llmbar-natural.

  Returns:
    Pairs, the better output first.

  Raises:
    UserError: a label that is neither 1 nor 2.

  Reference: LLMBar, arXiv 2310.07641.
  """
  name = subset or pathlib.Path(path).name.partition(".")[0]
  out = []
  for i, r in records(path):
    label = _get(r, path, i, "label")
    two = [_get(r, path, i, f"output_{k}") for k in (1, 2)]
    out.append(_labelled(_get(r, path, i, "input"), two, label, name, path, i))
  return out


def _labelled(prompt, two, label, subset, path, i) -> Item:
  if label not in (1, 2):
    raise UserError(
      f"line {i} of {path} has label {label!r}",
      "it names the better of two outputs",
      "write 1 or 2",
    )
  order = two if label == 1 else two[::-1]
  return Item(_user(prompt), tuple(order), 1, subset, str(i))


def load_alpaca_pairs(path: str | pathlib.Path) -> tuple[list[Item], int]:
  """AlpacaEval annotations: pairs with a preference of a judge.

  Args:
    path: annotations.json.

  Returns:
    (pairs with the preferred output first, how many ties were left out: a
    preference of 1.5, or 0 in older files); the subset is the source.

  Raises:
    UserError: another preference.

  Reference: AlpacaEval, arXiv 2404.04475.
  """
  out, ties = [], 0
  for i, r in records(path):
    label = _get(r, path, i, "preference")
    if label in (0, 1.5):
      ties += 1
      continue
    two = [_get(r, path, i, f"output_{k}") for k in (1, 2)]
    source = str(r.get("dataset", ""))
    prompt = _get(r, path, i, "instruction")
    out.append(_labelled(prompt, two, label, source, path, i))
  return out, ties


class Graded(NamedTuple):
  """Samples of problems with answers, correctness and rewards.

  Attributes:
    answer: i64[B, N], ids; equal texts are equal ids, -1 an empty one.
    correct: bool[B, N].
    reward: f64[B, N], NaN where there is none.
    text: answers by id, for each problem.
  """

  answer: np.ndarray
  correct: np.ndarray
  reward: np.ndarray
  text: list[list[str]]


def load_graded(path: str | pathlib.Path) -> Graded:
  """Problems x samples of a maths evaluation with an outcome reward model.

  Args:
    path: JSONL with lists `pred`, `score` (bool) and `pred_score` ([[r]]).

  Returns:
    Graded.

  Raises:
    UserError: records of another layout.
  """
  ids, texts, right, reward = [], [], [], []
  for i, r in records(path):
    pred = _get(r, path, i, "pred")
    seen = {text: k for k, text in enumerate(dict.fromkeys(pred))}
    ids.append([seen[x] if x else -1 for x in pred])
    texts.append(list(seen))
    right.append(_get(r, path, i, "score"))
    reward.append([x[0] for x in _get(r, path, i, "pred_score")])
  return Graded(
    np.asarray(ids), np.asarray(right, bool), np.asarray(reward, float), texts
  )


def load_trials(path: str | pathlib.Path) -> list[dict[str, Any]]:
  """Best-of-n accuracies of process-reward checkpoints.

  Later rows have a column more than the header: the single trials.

  Args:
    path: best-of-n-results.csv, plain or .gz.

  Returns:
    Rows {"model", "metric", "n", "mean", "std", "trials": f64[T] at this n, or
    None}.
  """
  path = pathlib.Path(path)
  opened = gzip.open if path.suffix == ".gz" else open
  out = []
  with opened(path, "rt", encoding="utf-8") as file:
    lines = csv.reader(file)
    next(lines)
    for model, metric, n, mean, std, _, *rest in lines:
      found = None
      if len(rest) > 1:
        table = np.asarray(json.loads(rest[0]), float)
        found = table[:, int(n).bit_length() - 2]  # columns 2, 4, 8, 16
      out.append(
        {
          "model": model,
          "metric": metric,
          "n": int(n),
          "mean": float(mean),
          "std": float(std),
          "trials": found,
        }
      )
  return out
