"""Text tasks: prompts or chats from data, rewards from a user's functions.

A prompt column holds strings or lists of chat messages. Prompts are encoded
when their batch is read, left-padded and never cut; every dataset column
travels with the batch to the rewards.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from rlreward.errors import UserError
from rlreward.rewards import function
from rlreward.sampling.buckets import bucket
from rlreward.tasks import beside, columns, data, packing, preferences, tokens
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
    "packing": False,  # several sft examples in a row, told apart by `segment`
    "on_overlong": "drop",  # drop (counted) | raise
    "chosen": "chosen",  # column of pairs: the better answer
    "rejected": "rejected",  # column of pairs: the worse answer
    "strength": "",  # column of pairs, 0 or more; "" is 1 for each pair
    "label": "label",  # column beside `completion`: whether it is good
    "window": 0,  # batches of pairs or labelled answers that are drawn at once
    # and put together by length of the prompts, so that few slots are padding
    "answer_length": 256,  # tokens of an answer of a pair, and eos
    "demonstrated": False,  # batches hold `completion` too (spin, distill)
    "hint": "",  # column of prompts with the answer in them (star)
    "on_equal": "raise",  # pairs with equal sides: raise | drop (counted)
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
    (`spec["sft_batches"]` too) are `sft_batches` of this config. Data with
    pairs or labels has `preferences` or `labelled`, see `preferences.streams`;
    their counts join the report when they are first asked for.

  Raises:
    UserError: data, columns, prompts or rewards that cannot work.
  """
  c = data.section(config, defaults())
  tok = tokenizer or tokens.load(c["tokenizer"])
  lengths = columns.lengths(c["prompt_length"])
  opened = columns.open_splits(c)
  first = opened["train"][0][0]
  name = columns.prompt_column(c, first)
  rewards = parse_rewards(c["rewards"])
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
    value = columns.prompt_value(c, name, row)
    if isinstance(value, (list, tuple)):
      return tok.chat(value)
    return tok.encode(columns.string(name, value), bos=tok.adds_bos)

  splits = {
    split: data.scan(
      source,
      encode,
      lengths[-1],
      where=where,
      on_overlong=c["on_overlong"],
      columns=[*columns.needed(c, name), *needs],
      select=columns.selector(c, split, name),
    )
    for split, (source, where) in opened.items()
  }
  for split, rows in splits.items():
    level = logging.WARNING if rows.counts.overlong else logging.INFO
    _LOG.log(level, "%s", rows.counts.line(split))

  def batches(split: str, batch_size: int, seed: int) -> Iterator[Any]:
    rows = splits[columns.check_split(split, splits)]

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
        **beside.arrays(c, tok, items, rows.keep[own]),
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

  report: dict[str, Any] = {k: r.counts for k, r in splits.items()}
  pairs, labelled = preferences.streams(
    c,
    tok,
    opened,
    name,
    report,
    process_index=process_index,
    process_count=process_count,
  )
  spec = {
    "vocab_size": tok.vocab_size,
    "prompt_length": lengths[-1],
    "prompt_lengths": lengths,
    "answer_length": columns.lengths(c["answer_length"])[-1],
    "stop_ids": tok.eos_ids,
    "pad_id": tok.pad_id,
    "on_device": False,
    "tokenizer": tok,
    "columns": tuple(first),
    "report": report,
    "judged": bool(rewards),
    "asked": lambda row: columns.prompt_value(c, name, row),
    "skip_special": c["skip_special"],
    "demonstrated": beside.slots(c, first),
    "hint": bool(c["hint"]),
    "sft_batches": demonstrations,
  }
  return Task(batches, reward, None, spec, demonstrations, pairs, labelled)


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
  samples. Rows that do not fit are counted and left out, never cut. With
  `packing` rows hold several examples and `segment` i32[B, row_length], see
  `packing.stream`. A `completion` that is a side of pairs is that answer.

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
  opened = columns.open_splits(c)
  source, where = opened[columns.check_split(split, opened)]
  name = columns.prompt_column(c, source[0])
  length = columns.lengths(c["row_length"])[-1]

  def encode(row: Row) -> tuple[list[int], list[bool]]:
    return _demonstration(c, tokenizer, name, row, where)

  rows = data.scan(
    source,
    lambda row: encode(row)[0],
    length,
    where=where,
    on_overlong=c["on_overlong"],
    columns=columns.needed(c, name),
    select=columns.selector(c, split, name),
  )
  if rows.counts.overlong:
    _LOG.warning("%s", rows.counts.line(f"sft {split}"))

  if c["packing"]:
    return packing.stream(
      rows.lengths,
      length,
      batch_size,
      seed,
      lambda i: encode(source[int(rows.keep[i])]),
      pad_id=tokenizer.pad_id,
      where=f"sft {split}",
      digest=rows.digest,
      process_index=process_index,
      process_count=process_count,
    )

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
  sides = (c["chosen"], c["rejected"])
  if c["completion"] in sides and columns.has_pairs(c, row):
    value, *answers = columns.pair_values(c, name, row)
    target = answers[sides.index(c["completion"])]
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
  prompt = tok.encode(columns.string(name, value), bos=tok.adds_bos)
  answer = [*tok.encode(target), tok.eos_ids[0]]
  return [*prompt, *answer], [False] * len(prompt) + [True] * len(answer)


def parse_rewards(value: Any) -> Sequence[Any]:
  """ "a.py:f@0.5,b:g" to [("a.py:f", 0.5), ("b:g", 1.0)].

  Args:
    value: the text; a function, or a sequence of what `function.make` takes.

  Raises:
    UserError: a weight that is no number.
  """
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
