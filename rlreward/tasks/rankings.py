"""K answers to each prompt in order: scores, ranks or a best one; ties stay.

The data of listwise reward models (`reward_model.kind="plackett_luce"`). Rows
may have different numbers of answers. See `columns` for prompts, `sources` for
files; in the rest of the package a pair is a ranking of two.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from rlreward.errors import UserError
from rlreward.sampling.buckets import bucket
from rlreward.tasks import census, columns, data, pairs, preferences, tokens
from rlreward.tasks.census_counts import Entry
from rlreward.tasks.sources import Row
from rlreward.types import Task

_LOG = logging.getLogger(__name__)
_ORDERS = ("scores", "ranks", "best")


def common() -> dict[str, Any]:
  """Fields of rankings and of ratings."""
  return {
    "train": "",  # see sources.open_source
    "test": "",  # another source; or a share of `train`:
    "holdout": 0.0,
    "prompt": "",  # column; "" takes `prompt` or `messages`
    "prompt_length": 256,  # tokens; several are buckets of compiled shapes
    "answer_length": 256,  # tokens of an answer, and eos
    "window": 0,  # batches drawn at once and put together by length of prompts
    "on_overlong": "drop",  # rows that do not fit: drop (counted) | raise
    "on_bad": "raise",  # rows that cannot be read: raise | drop (counted)
    "tokenizer": "",  # see tokens.load; used when none is passed
  }


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    **common(),
    "name": "rankings",
    "answers": "completions",  # column of K answers; or "a,b,c", one column of
    # each answer, where null is none
    "scores": "scores",  # column of K numbers, larger is better; or set one of
    "ranks": "",  # column of K numbers, smaller is better
    "best": "",  # column with the number of the best answer from 1, the others
    # tie; 0, null or one between two answers' numbers where all of them tie
    "most": 0,  # K of the arrays; 0 is that of the longest row
    "on_equal": "drop",  # with equal answers: drop | keep (counted) | raise
  }


def make(
  config: Any = None,
  tokenizer: tokens.Tokens | None = None,
  *,
  process_index: int = 0,
  process_count: int = 1,
) -> Task:
  """The task; every row is read, checked and counted here.

  A batch of `labelled` is of B rankings, rows of one in succession: `tokens`
  i32[BK, P + T], `attend` and `loss` bool[BK, P + T], `rank` f32[BK] (1 is
  best, equal is a tie), `valid` bool[BK], false for the copies of a first
  answer that fill up to K, and `row` i32[BK], index in the source.

  Args:
    config: section with the fields of `defaults`.
    tokenizer: loaded from `config.tokenizer` if None.
    process_index: this host.
    process_count: hosts; each reads its slice of the rankings of a batch.

  Returns:
    Task without a reward; `spec["answers"]` is K and `spec["report"]` the
    `Census` of each split.

  Raises:
    UserError: fields, columns or rows that cannot work, named by file and row.
  """
  c = data.section(config, defaults())
  tok = tokenizer or tokens.load(c["tokenizer"])
  reader = _reader(c, tok)
  return assemble(
    c, tok, reader, process_index=process_index, process_count=process_count
  )


class Reader(NamedTuple):
  """How rows become entries.

  Attributes:
    kind: what rows are, in words.
    judged: what they hold: "ranks", "ratings" or "steps".
    needs: columns that every row must have, beside the prompt.
    encode: (prompt column, row) -> Entry.
    arrays: (entries, K, T) -> arrays of a batch beside tokens.
    listed: K rows of a batch for each row of the source, else one.
    outputs: numbers that are judged of an answer.
  """

  kind: str
  judged: str
  needs: Sequence[str]
  encode: Callable[[str, Row], Entry]
  arrays: Callable[[Sequence[Entry], int, int], dict[str, np.ndarray]]
  listed: bool
  outputs: int = 1


def assemble(
  c: Mapping[str, Any],
  tok: tokens.Tokens,
  reader: Reader,
  *,
  process_index: int,
  process_count: int,
) -> Task:
  """A task of judged answers.

  Args:
    c: all fields of `common`; `on_equal` and `most` where rows are listed.
    tok: tokenizer.
    reader: of rows.
    process_index: this host.
    process_count: hosts.

  Raises:
    UserError: fields, columns or rows that cannot work.
  """
  c = {"chosen": "", "rejected": "", "most": 0, "on_equal": "keep", **c}
  widths = columns.lengths(c["prompt_length"])
  if len(columns.lengths(c["answer_length"])) > 1:
    raise UserError(
      f"answer_length={c['answer_length']}",
      "the place of an answer is found by its fixed number of slots",
      "set answer_length to one number of tokens",
    )
  (slots,) = columns.lengths(c["answer_length"])
  opened = columns.open_splits(c)
  first = opened["train"][0][0]
  name = columns.prompt_column(c, first)
  encode = lambda row: reader.encode(name, row)
  scans = {}
  for split, (source, where) in opened.items():
    scans[split] = found = census.scan(
      source,
      where,
      encode,
      (widths[-1], slots),
      kind=reader.kind,
      needs=[name, *reader.needs],
      select=columns.selector(c, split, name),
      on_overlong=c["on_overlong"],
      on_equal=c["on_equal"],
      on_bad=c["on_bad"],
      placed=reader.listed,
    )
    odd = logging.WARNING if found.census.warnings() else logging.INFO
    for line in found.census.lines(f"{split} of {where}"):
      _LOG.log(odd, "%s", line)
  k = max(s.most for s in scans.values())
  if reader.listed and c["most"]:
    k = _most(c["most"], k)

  def stream(split: str, batch_size: int, seed: int, load) -> data.Stream:
    rows = scans[columns.check_split(split, scans)]
    source = opened[split][0]

    def batch(own: np.ndarray, every: np.ndarray) -> dict[str, Any]:
      p = bucket(int(rows.prompts[every].max()), widths)
      return load([source[int(i)] for i in rows.keep[own]], rows.keep[own], p)

    return data.Stream(
      len(rows.keep),
      batch_size,
      seed,
      batch,
      digest=f"{rows.digest}:{k}",
      process_index=process_index,
      process_count=process_count,
      lengths=rows.prompts,
      window=c["window"] if split == "train" else 0,
    )

  def labelled(split: str, batch_size: int, seed: int) -> Iterator[Any]:
    def load(rows, index, p: int) -> dict[str, Any]:
      entries = [encode(r) for r in rows]
      fill = lambda a: [*a, *[a[0]] * (k - len(a))] if reader.listed else a
      items = [pairs.Item(list(e.prompt), fill(list(e.answers)), {}, False)
               for e in entries]  # fmt: skip
      batch = preferences.arrays(c, tok, items, p)
      each = k if reader.listed else 1
      batch |= reader.arrays(entries, k, slots)
      if "valid" in batch:  # what fills up is nothing to train on
        batch["loss"] = batch["loss"] & batch["valid"][:, None]
      return {**batch, "row": index.astype(np.int32).repeat(each)}

    return stream(split, batch_size, seed, load)

  def batches(split: str, batch_size: int, seed: int) -> Iterator[Any]:
    def load(rows, index, p: int) -> dict[str, Any]:
      ids = [encode(r).prompt for r in rows]
      prompt, mask = tokens.left_pad(ids, p, tok.pad_id)
      return {
        "prompt": prompt,
        "prompt_mask": mask,
        "row": index.astype(np.int32),
        "columns": {n: [r.get(n) for r in rows] for n in first},
      }

    return stream(split, batch_size, seed, load)

  spec: dict[str, Any] = {
    "vocab_size": tok.vocab_size,
    "prompt_length": widths[-1],
    "prompt_lengths": widths,
    "answer_length": slots,
    "stop_ids": tok.eos_ids,
    "pad_id": tok.pad_id,
    "on_device": False,
    "tokenizer": tok,
    "columns": tuple(first),
    "report": {split: s.census for split, s in scans.items()},
    "judged": False,
    "labels": reader.judged,
    "outputs": reader.outputs,
    "answers": k if reader.listed else 1,
  }
  return Task(batches, _no_reward, None, spec, labelled=labelled)


def _reader(c: Mapping[str, Any], tok: tokens.Tokens) -> Reader:
  given = [f for f in _ORDERS if c[f] and c[f] != defaults()[f]]
  if len(given) > 1:
    raise UserError(
      f"{' and '.join(f'{f}={c[f]!r}' for f in given)}",
      "one column says which answers are better",
      "set one of scores, ranks and best",
    )
  order = given[0] if given else "scores"
  if not c[order]:
    raise UserError(
      "scores, ranks and best are all empty",
      "one column says which answers are better",
      "name it in one of them",
    )
  each = [n.strip() for n in c["answers"].split(",")]

  def encode(name: str, row: Row) -> Entry:
    said = [row[n] for n in each] if len(each) > 1 else row[each[0]]
    value = row[c[order]]
    if len(each) > 1:
      said, value = _there(said, value, order)
    if not isinstance(said, Sequence) or isinstance(said, str) or len(said) < 2:
      raise UserError(
        f"{c['answers']!r} is {tokens.head(said)}",
        "a ranking has two answers or more",
        "remove the row, or give a list of answers",
      )
    better = _order(order, c[order], value, len(said))
    asked = [
      pairs.answered(tok, name, row[name], a, c["answers"]) for a in said
    ]
    rank = [1 + sum(b > own for b in better) for own in better]
    return Entry(
      asked[0][0],
      [a[1] for a in asked],
      better,
      {},
      {"rank": rank},
      any(map(pairs.blank, said)),
    )

  def arrays(entries, k: int, slots: int) -> dict[str, np.ndarray]:
    del slots
    rank = np.full((len(entries), k), k + 1, np.float32)
    valid = np.zeros((len(entries), k), bool)
    for n, e in enumerate(entries):
      rank[n, : len(e.answers)] = e.arrays["rank"]
      valid[n, : len(e.answers)] = True
    return {"rank": rank.reshape(-1), "valid": valid.reshape(-1)}

  needs = [*each, c[order]]
  return Reader("rankings", "ranks", needs, encode, arrays, listed=True)


def _order(order: str, column: str, value: Any, k: int) -> list[float]:
  """A number for each of K answers, larger is better."""
  if order == "best":
    number = 0 if value is None else value
    if not pairs.is_number(number) or not 0 <= number <= k:
      raise UserError(
        f"column {column!r} is {tokens.head(value)} for {k} answers",
        "it is the number of the best answer from 1, or a tie",
        f"write 1 to {k}, or 0 where all of them tie",
      )
    return [float(i == number) for i in range(1, k + 1)]
  listed = isinstance(value, Sequence) and not isinstance(value, str)
  if not listed or len(value) != k or not all(map(pairs.is_number, value)):
    raise UserError(
      f"column {column!r} is {tokens.head(value)} for {k} answers",
      "each answer has one finite number",
      f"give a list of {k} numbers",
    )
  sign = -1.0 if order == "ranks" else 1.0
  return [sign * float(v) for v in value]


def _there(said: list[Any], value: Any, order: str) -> tuple[list[Any], Any]:
  """The answers that are there, and what the row says of those."""
  there = [i for i, a in enumerate(said) if a is not None]
  if len(there) == len(said):
    return said, value
  if order == "best" and pairs.is_number(value) and value - 1 in there:
    value = there.index(int(value) - 1) + 1
  elif isinstance(value, Sequence) and len(value) == len(said):
    value = [value[i] for i in there]
  return [said[i] for i in there], value


def _most(most: Any, found: int) -> int:
  if not isinstance(most, int) or most < found:
    raise UserError(
      f"most={most!r}, and a row has {found} answers",
      "arrays hold the answers of every row, which are never cut",
      f"set most={found} or more, or 0 for {found}",
    )
  return most


def _no_reward(rollout: Any, batch: Any) -> NoReturn:
  del rollout, batch
  raise UserError(
    "the task has no reward",
    "it holds judged answers for a reward model",
    "train a reward model on it, or use task.name='text' with rewards",
  )
