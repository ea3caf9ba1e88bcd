"""What a user's reward function sees of a batch of rollouts.

Ids are the sampled ones; text is decoded from them once and never encoded
again.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from rlreward.errors import UserError
from rlreward.rewards import values
from rlreward.types import FINISH_NAMES, Rollout

# Keys of a batch that are no dataset columns.
_OWN_KEYS = ("prompt", "prompt_mask", "columns")
TAIL = 64


class Decoder(Protocol):
  """The one thing rewards need of a tokenizer."""

  def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
    """Ids to text."""
    ...


@dataclasses.dataclass(frozen=True)
class Sample:
  """One row, for a per-sample reward.

  Dataset columns are also attributes and items: `sample.answer`,
  `sample["answer"]`. A column that shares its name with an attribute below is
  reached as an item.

  Attributes:
    index: row of the batch.
    prompt: text of the prompt as the model saw it.
    prompt_tail: its last 64 characters with special tokens kept; shows what
      the chat template has written ahead for the model.
    completion: text of what the policy wrote, all turns of it.
    turns: the text of each turn; one without a tool. The last is the answer.
    prompt_ids: ids of the prompt.
    completion_ids: ids the policy chose, the stop token included.
    finish: "stop" or "length".
    columns: {name: value} of the row in the data.
    logs: {name: number} written by `log`.
  """

  index: int
  prompt: str
  prompt_tail: str
  completion: str
  prompt_ids: list[int]
  completion_ids: list[int]
  finish: str
  columns: Mapping[str, Any]
  turns: Sequence[str] = ()
  logs: dict[str, float] = dataclasses.field(default_factory=dict)

  def log(self, name: str, value: float) -> None:
    """Records a number next to the reward.

    Args:
      name: shown as `<function>/<name>`.
      value: finite number.
    """
    self.logs[name] = values.number(value)

  def __getitem__(self, name: str) -> Any:
    if name not in self.columns:
      raise KeyError(missing(name, self.columns))
    return self.columns[name]

  def __getattr__(self, name: str) -> Any:
    if name.startswith("__") or name == "columns":
      raise AttributeError(name)
    if name not in self.columns:
      raise AttributeError(missing(name, self.columns))
    return self.columns[name]


class Batch:
  """Every row, for a batched reward: the fields of `Sample` as lists.

  Iterating gives samples. `batch.completion[i]`, `batch.answer[i]` and
  `batch["answer"][i]` belong to row i.

  Args:
    samples: the rows.
  """

  def __init__(self, samples: Sequence[Sample]):
    self.samples = samples

  def log(self, name: str, numbers: Sequence[float]) -> None:
    """Records a number for each row.

    Args:
      name: shown as `<function>/<name>`.
      numbers: one finite number per row.
    """
    if len(numbers) != len(self.samples):
      raise values.BadValueError(
        f"{len(numbers)} numbers to log as {name!r}",
        "log one number per sample",
        f"{len(self.samples)}",
        whole=True,
      )
    for sample, value in zip(self.samples, numbers, strict=True):
      sample.log(name, value)

  def __len__(self) -> int:
    return len(self.samples)

  def __iter__(self) -> Iterator[Sample]:
    return iter(self.samples)

  def __getitem__(self, name: str) -> list[Any]:
    return [s[name] for s in self.samples]

  def __getattr__(self, name: str) -> list[Any]:
    if name.startswith("__") or name == "samples":
      raise AttributeError(name)
    return [getattr(s, name) for s in self.samples]


FIELDS = tuple(
  f.name for f in dataclasses.fields(Sample) if f.name != "logs"
) + ("log",)


def missing(name: str, columns: Iterable[str]) -> str:
  """Says that there is no such column, which there are, and the nearest."""
  found = sorted(columns)
  near = difflib.get_close_matches(name, [*found, *FIELDS], 1)
  hint = f"; did you mean {near[0]!r}?" if near else ""
  return f"no column or field {name!r}; columns: {found}{hint}"


def samples(
  rollout: Rollout, batch: Mapping[str, Any], decoder: Decoder, skip: bool
) -> list[Sample]:
  """The rows of a rollout with text and columns.

  Args:
    rollout: N rows.
    batch: the batch they were sampled from; `columns` holds lists of length B,
      and other entries with a leading axis B count as columns too.
    decoder: has `decode`.
    skip: leave special tokens out of the text.

  Returns:
    N samples.

  Raises:
    UserError: columns that do not fit the prompts.
  """
  tokens, attend, action, group, finish = (
    np.asarray(x)
    for x in (
      rollout.tokens,
      rollout.attend,
      rollout.action,
      rollout.group,
      rollout.finish,
    )
  )
  columns = _columns(batch, group)
  places = np.arange(tokens.shape[1])
  prompts: dict[int, tuple[list[int], str, str]] = {}
  rows: dict[int, dict[str, Any]] = {}
  out = []
  for n in range(tokens.shape[0]):
    b = int(group[n])
    if b not in prompts:
      first = np.argmax(action[n]) if action[n].any() else len(places)
      ids = tokens[n][attend[n] & (places < first)].tolist()
      whole = decoder.decode(ids, False)
      text = decoder.decode(ids, True) if skip else whole
      prompts[b] = ids, text, whole[-TAIL:]
      rows[b] = {k: v[b] for k, v in columns.items()}
    ids, text, tail = prompts[b]
    chosen = tokens[n][action[n]].tolist()
    out.append(
      Sample(
        index=n,
        prompt=text,
        prompt_tail=tail,
        completion=decoder.decode(chosen, skip),
        prompt_ids=ids,
        completion_ids=chosen,
        finish=FINISH_NAMES[int(finish[n])],
        columns=rows[b],
        turns=[
          decoder.decode(ids, skip) for ids in _runs(tokens[n], action[n])
        ],
      )
    )
  return out


def _runs(tokens: np.ndarray, action: np.ndarray) -> list[list[int]]:
  """Ids of each run of actions; one empty run where there are none."""
  places = np.flatnonzero(action)
  cuts = np.flatnonzero(np.diff(places) > 1) + 1
  return [tokens[part].tolist() for part in np.split(places, cuts)]


def _columns(batch: Mapping[str, Any], group: np.ndarray) -> dict[str, Any]:
  columns = dict(batch.get("columns", {}))
  for name, value in batch.items():
    if name not in _OWN_KEYS and name not in columns:
      columns[name] = np.asarray(value)
  count = int(group.max()) + 1 if group.size else 0
  if "prompt" in batch:
    count = len(batch["prompt"])
  for name, value in columns.items():
    if len(value) != count:
      raise UserError(
        f"column {name!r} has {len(value)} entries for {count} prompts",
        "row n of a rollout reads the column at its prompt's index",
        "give every column one entry per prompt",
      )
  if group.size and not 0 <= group.min() <= group.max() < count:
    raise UserError(
      f"rollout.group runs from {group.min()} to {group.max()} with {count}"
      " prompts in the batch",
      "it is the prompt index of each row",
      "score a rollout with the batch that it was sampled from",
    )
  return columns
