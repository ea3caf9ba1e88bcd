"""Text tasks: prompts or chats from data, rewards from a user's functions.

A prompt column holds strings or lists of chat messages. Prompts are encoded
when their batch is read, left-padded and never cut; every dataset column
travels with the batch to the rewards.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from rlreward.errors import UserError
from rlreward.rewards import function
from rlreward.sampling.buckets import bucket
from rlreward.tasks import data, sources, tokens
from rlreward.tasks.sources import Row
from rlreward.types import Task

_LOG = logging.getLogger(__name__)


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "text",
    "train": "",  # see sources.open_source
    "test": "",  # another source; or a share of `train`:
    "holdout": 0.0,
    "prompt": "",  # column; "" takes `prompt` or `messages`
    "completion": "completion",  # column, for sft
    "prompt_length": 256,  # tokens; several are buckets of compiled shapes
    "row_length": 512,  # tokens of prompt and completion, for sft
    "on_overlong": "drop",  # drop (counted) | raise
    "rewards": "",  # "file.py:f" or "a.py:f@1.0,pkg.b:g@0.5", or functions
    "skip_special": True,  # leave special tokens out of the rewards' text
    "tokenizer": "",  # see tokens.load; used when none is passed
  }


def make(
  config: Any,
  tokenizer: tokens.Tokens | None = None,
  *,
  process_index: int = 0,
  process_count: int = 1,
) -> Task:
  """A task of text prompts; everything is checked and counted here.

  Batches hold `prompt` i32[B, P], `prompt_mask` bool[B, P], `row` i32[B]
  (index in the source) and `columns` {name: list of B}; only the arrays may
  enter a compiled function.

  Args:
    config: section with the fields of `defaults`.
    tokenizer: loaded from `config.tokenizer` if None.
    process_index: this host.
    process_count: hosts; each reads its slice of a batch.

  Returns:
    Task; `spec["report"]` has the counts of each split; its demonstrations
    (`spec["sft_batches"]` too) are `sft_batches` of this config.

  Raises:
    UserError: data, columns, prompts or rewards that cannot work.
  """
  c = data.section(config, defaults())
  tok = tokenizer or tokens.load(c["tokenizer"])
  lengths = _lengths(c["prompt_length"])
  opened = _open(c)
  first = opened["train"][0][0]
  name = _prompt_column(c, first)
  rewards = _rewards(c["rewards"])
  reward: Any = _no_reward
  needs: list[str] = []
  if rewards:
    reward = function.make(
      rewards,
      tok,
      columns=[*first, "row"],
      skip_special=c["skip_special"],
    )
    needs = [n for f in reward.functions for n in f.needs() if n != "row"]

  def encode(row: Row) -> list[int]:
    value = row.get(name)
    if isinstance(value, (list, tuple)):
      return tok.chat(value)
    return tok.encode(_string(name, value), bos=tok.adds_bos)

  splits = {
    split: data.scan(
      source,
      encode,
      lengths[-1],
      where=where,
      on_overlong=c["on_overlong"],
      columns=[name, *needs],
      select=_selector(c, split, name),
    )
    for split, (source, where) in opened.items()
  }
  for split, rows in splits.items():
    level = logging.WARNING if rows.counts.overlong else logging.INFO
    _LOG.log(level, "%s", rows.counts.line(split))

  def batches(split: str, batch_size: int, seed: int) -> Iterator[Any]:
    rows = splits[_split(split, splits)]

    def load(own: np.ndarray, every: np.ndarray) -> dict[str, Any]:
      width = bucket(int(rows.lengths[every].max()), lengths)
      items = [rows.source[int(i)] for i in rows.keep[own]]
      ids = [encode(r) for r in items]
      prompt, mask = tokens.left_pad(ids, width, tok.pad_id)
      return {
        "prompt": prompt,
        "prompt_mask": mask,
        "row": rows.keep[own].astype(np.int32),
        "columns": {k: [r.get(k) for r in items] for k in first},
      }

    return data.Stream(
      len(rows.keep),
      batch_size,
      seed,
      load,
      digest=rows.digest,
      process_index=process_index,
      process_count=process_count,
    )

  def demonstrations(split: str, batch_size: int, seed: int) -> Iterator[Any]:
    return sft_batches(
      config,
      tok,
      split,
      batch_size,
      seed,
      process_index=process_index,
      process_count=process_count,
    )

  spec = {
    "vocab_size": tok.vocab_size,
    "prompt_length": lengths[-1],
    "prompt_lengths": lengths,
    "stop_ids": tok.eos_ids,
    "pad_id": tok.pad_id,
    "on_device": False,
    "tokenizer": tok,
    "columns": tuple(first),
    "report": {k: r.counts for k, r in splits.items()},
    "sft_batches": demonstrations,
  }
  return Task(batches, reward, None, spec, demonstrations)


def sft_batches(
  config: Any,
  tokenizer: tokens.Tokens,
  split: str,
  batch_size: int,
  seed: int,
  *,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Mapping[str, np.ndarray]]:
  """Rows to imitate: `tokens`, `attend`, `loss` [B, row_length], right-padded.

  The loss covers the completion and its eos, or what the assistant wrote in a
  chat. Prompt and completion are encoded apart, as they are when the policy
  samples. Rows that do not fit are counted and left out, never cut.

  Args:
    config: section with the fields of `defaults`.
    tokenizer: of the model.
    split: "train" or "test".
    batch_size: B, over all processes.
    seed: of the order.
    process_index: this host.
    process_count: hosts.

  Returns:
    An iterator with `get_state` and `set_state`.

  Raises:
    UserError: data that cannot work.
  """
  c = data.section(config, defaults())
  opened = _open(c)
  source, where = opened[_split(split, opened)]
  name = _prompt_column(c, source[0])
  length = _lengths(c["row_length"])[-1]

  def encode(row: Row) -> tuple[list[int], list[bool]]:
    return _demonstration(c, tokenizer, name, row, where)

  rows = data.scan(
    source,
    lambda row: encode(row)[0],
    length,
    where=where,
    on_overlong=c["on_overlong"],
    columns=[name],
    select=_selector(c, split, name),
  )
  if rows.counts.overlong:
    _LOG.warning("%s", rows.counts.line(f"sft {split}"))

  def load(own: np.ndarray, every: np.ndarray) -> dict[str, np.ndarray]:
    del every
    pairs = [encode(source[int(i)]) for i in rows.keep[own]]
    ids = [p[0] for p in pairs]
    row_tokens, attend = tokens.right_pad(ids, length, tokenizer.pad_id)
    loss = np.zeros_like(attend)
    for n, (_, mask) in enumerate(pairs):
      loss[n, : len(mask)] = mask
    return {"tokens": row_tokens, "attend": attend, "loss": loss}

  return data.Stream(
    len(rows.keep),
    batch_size,
    seed,
    load,
    digest=rows.digest,
    process_index=process_index,
    process_count=process_count,
  )


def _demonstration(c, tok: tokens.Tokens, name: str, row: Row, where: str):
  """A row to (ids, mask of what is trained on)."""
  value, target = row.get(name), row.get(c["completion"])
  if isinstance(value, (list, tuple)):
    if isinstance(target, str):
      target = [{"role": "assistant", "content": target}]
    return tok.chat_with_mask([*value, *(target or [])])
  if not isinstance(target, str):
    raise UserError(
      f"a string prompt and the completion {target!r} in column"
      f" {c['completion']!r} of {where}; columns: {sorted(row)}",
      "the loss covers the completion, which must be text",
      "set completion to the column that holds the answers",
    )
  prompt = tok.encode(_string(name, value), bos=tok.adds_bos)
  answer = [*tok.encode(target), tok.eos_ids[0]]
  return [*prompt, *answer], [False] * len(prompt) + [True] * len(answer)


def _open(c) -> dict[str, tuple[sources.Source, str]]:
  """{split: (source, its name)}."""
  share = c["holdout"]
  if not isinstance(share, (int, float)) or not 0 <= share < 1:
    raise UserError(
      f"holdout={share!r}", "it is a share of the prompts", "use 0 to 0.5"
    )
  if isinstance(c["train"], str) and not c["train"]:
    raise UserError(
      "task.train is empty", "there are no prompts", "set it to a data file"
    )
  has_test = not isinstance(c["test"], str) or bool(c["test"])
  if has_test and share:
    raise UserError(
      f"both test={sources.describe(c['test'])} and holdout={share}",
      "there can be one test split",
      "set holdout=0 or leave test empty",
    )
  train = (sources.open_source(c["train"]), sources.describe(c["train"]))
  out = {"train": train}
  if has_test:
    test = c["test"]
    out["test"] = (sources.open_source(test), sources.describe(test))
  elif share:
    out["test"] = train
  return out


def _selector(c, split: str, name: str):
  share = c["holdout"]
  if not share:
    return None

  def select(row: Row) -> bool:
    value = row.get(name)
    if isinstance(value, (list, tuple)):
      roles = [m.get("role") if isinstance(m, dict) else "" for m in value]
      cut = roles.index("assistant") if "assistant" in roles else len(roles)
      value = json.dumps(value[:cut], sort_keys=True, default=str)
    return data.held_out(str(value), share) == (split == "test")

  return select


def _split(split: str, found) -> str:
  if split not in found:
    raise UserError(
      f"there is no split {split!r}; there is {sorted(found)}",
      "the config names the data of each split",
      "set task.test to a source, or task.holdout to a share such as 0.1",
    )
  return split


def _prompt_column(c, first: Row) -> str:
  found = sorted(map(str, first))
  if c["prompt"]:
    data.column(first, c["prompt"], sources.describe(c["train"]), 0)
    return c["prompt"]
  both = [n for n in ("prompt", "messages") if n in first]
  if len(both) == 1:
    return both[0]
  raise UserError(
    f"columns {found} have {'both' if both else 'neither'} 'prompt' and"
    " 'messages'",
    "one column holds the prompts",
    f"set task.prompt to one of {found}",
  )


def _lengths(value: Any) -> tuple[int, ...]:
  lengths = (value,) if isinstance(value, int) else tuple(value)
  bucket(0, lengths)
  return tuple(sorted(lengths))


def _string(name: str, value: Any) -> str:
  if not isinstance(value, str):
    raise UserError(
      f"column {name!r} is {tokens.head(value)}, a {type(value).__name__}",
      "a prompt is a string or a list of chat messages",
      "convert the column, or name another with task.prompt",
    )
  return value


def _rewards(value: Any) -> Sequence[Any]:
  """ "a.py:f@0.5,b:g" to [("a.py:f", 0.5), ("b:g", 1.0)]."""
  if callable(value):
    return [value]
  if not isinstance(value, str):
    return list(value)
  out = []
  for part in filter(None, (p.strip() for p in value.split(","))):
    path, at, weight = part.rpartition("@")
    try:
      out.append((path, float(weight)) if at else (part, 1.0))
    except ValueError:
      raise UserError(
        f"the weight of {part!r} is {weight!r}",
        "what follows @ is the weight in the sum of rewards",
        f"write {path}@1.0",
      ) from None
  return out


def _no_reward(rollout: Any, batch: Any) -> NoReturn:
  del rollout, batch
  raise UserError(
    "the task has no reward",
    "an online method scores what it samples",
    "set task.rewards='file.py:function'",
  )
