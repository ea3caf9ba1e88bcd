"""Pairs of answers, and answers with a label, from the rows of a text task.

One layout for both: the prompt is left-padded in P slots, the answer with its
eos right-padded in T slots, as a policy's own samples are.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlreward.errors import UserError
from rlreward.sampling.buckets import bucket
from rlreward.tasks import columns, data, pairs, sources, tokens
from rlreward.tasks.census_counts import Census, Tally
from rlreward.tasks.sources import Source

_LOG = logging.getLogger(__name__)
_DTYPES = {
  "strength": np.float32,
  "reference_logp": np.float32,
  "tie": bool,
  "label": bool,
}
Stream = Callable[[str, int, int], Iterator[Mapping[str, np.ndarray]]]


class Counts(NamedTuple):
  """What became of the rows of a split.

  Attributes:
    kind: "pairs" or "labelled answers".
    rows: read.
    kept: used.
    overlong: left out, prompt or answer longer than its slots; never cut.
    equal: pairs left out, both answers the same.
    other_split: left out, held out for (or from) another split.
    blank: kept rows with an answer of white space alone.
    positive: kept pairs whose chosen answer is the longer one, or kept answers
      labelled good.
    ties: kept pairs that are ties.
    longest_prompt: tokens, over-long ones included.
    longest_answer: tokens with eos, over-long ones included.
    census: duplicates, contradictions, balance, lengths and files.
  """

  kind: str
  rows: int
  kept: int
  overlong: int
  equal: int
  other_split: int
  blank: int
  positive: int
  ties: int
  longest_prompt: int
  longest_answer: int
  census: Census

  def line(self, name: str) -> str:
    """One line for the banner of a run."""
    paired = self.kind == "pairs"
    share = 100 * self.positive / max(1, self.kept)
    return (
      f"{name}: {self.kept} of {self.rows} {self.kind}"
      f" ({'chosen is longer in' if paired else 'good:'} {self.positive}"
      f" = {share:.1f}%, "
      + (f"{self.ties} ties, {self.equal} equal dropped, " if paired else "")
      + f"{self.overlong} over-long dropped, {self.blank} with a blank answer,"
      f" {self.other_split} in the other split, longest prompt"
      f" {self.longest_prompt}, answer {self.longest_answer} tokens)"
    )

  def lines(self, name: str) -> list[str]:
    """For the banner of a run: counts, balance, length, warnings."""
    return [self.line(name), *self.census.lines(name)[1:]]

  def plain(self) -> dict[str, Any]:
    """Itself as dicts and lists, for JSON."""
    own = {k: v for k, v in self._asdict().items() if k != "census"}
    return {**self.census.plain(), **own}


class _Rows(NamedTuple):
  """Indices i64[R] of the kept rows, their tokens i32[R], and what was not."""

  keep: np.ndarray
  prompts: np.ndarray
  answers: np.ndarray
  counts: Counts
  digest: str


def streams(
  c: Mapping[str, Any],
  tok: tokens.Tokens,
  opened: Mapping[str, tuple[Source, str]],
  name: str,
  report: dict[str, Any],
  *,
  process_index: int = 0,
  process_count: int = 1,
) -> tuple[Stream | None, Stream | None]:
  """The `preferences` and `labelled` of a text task.

  Pairs are rows with the columns `chosen` and `rejected` (see
  `columns.pair_values` for where their prompt is), labelled answers rows with
  a prompt, `completion` and `label` (true or false, 1 or 0). Answers are
  strings or lists of chat messages. A batch of B pairs has `tokens`
  i32[2B, P + T], `attend` and `loss` bool[2B, P + T], `strength` f32[2B], and
  `reference_logp` f32[2B] where there are columns `chosen_reference_logp` and
  `rejected_reference_logp`, `tie` bool[2B] where there is a column `tie`; a
  batch of B answers has `tokens`, `attend`, `loss`, `label` bool[B], `row`
  i32[B] (index in the source) and `reference_logp` f32[B] where there is such
  a column. Rows are read and checked when a split is first asked for.

  Args:
    c: all fields of `text.defaults`.
    tok: tokenizer.
    opened: {split: (source, its name)}.
    name: prompt column, "" where it is the common part of the pairs.
    report: `Counts` are put in as "<split> pairs", "<split> labelled answers".
    process_index: this host.
    process_count: hosts; each reads its slice of the pairs of a batch.

  Returns:
    (preferences or None, labelled or None): None where the columns are absent.

  Raises:
    UserError: fields that cannot work, or columns named but absent.
  """
  first = opened["train"][0][0]
  if c["on_equal"] not in ("raise", "drop"):
    raise UserError(
      f"on_equal={c['on_equal']!r}",
      "it says what happens to pairs whose answers are the same",
      "use 'raise' or 'drop' (counted and left out)",
    )
  if len(columns.lengths(c["answer_length"])) > 1:
    raise UserError(
      f"answer_length={c['answer_length']}",
      "the place of an answer is found by its fixed number of slots; the"
      " prompts before it may have several lengths",
      "set answer_length to one number of tokens",
    )
  for field, usual in (
    *(("chosen", "chosen"), ("rejected", "rejected")),
    *(("strength", ""), ("label", "label")),
  ):
    if c[field] != usual:
      data.column(first, c[field], opened["train"][1], 0)

  def build(reader: pairs.Reader) -> Stream:
    @functools.cache
    def scanned(split: str) -> _Rows:
      source, where = opened[split]
      select = columns.selector(c, split, name)
      rows = _scan(c, source, where, reader, select)
      report[f"{split} {reader.kind}"] = n = rows.counts
      one = reader.kind != "pairs" and n.positive in (0, n.kept)
      odd = n.overlong or n.equal or n.blank or one
      _LOG.log(logging.WARNING if odd else logging.INFO, "%s", n.line(split))
      return rows

    def stream(split: str, batch_size: int, seed: int) -> data.Stream:
      rows = scanned(columns.check_split(split, opened))
      return data.Stream(
        len(rows.keep),
        batch_size,
        seed,
        _loader(c, tok, opened[split][0], rows, reader.encode),
        digest=rows.digest,
        process_index=process_index,
        process_count=process_count,
        lengths=rows.prompts,
        window=c["window"] if split == "train" else 0,
      )

    return stream

  preferred = labelled = None
  if columns.has_pairs(c, first):
    preferred = build(pairs.preferred(c, tok, name, first))
  if name and c["completion"] in first and c["label"] in first:
    labelled = build(pairs.labelled(c, tok, name, first))
  return preferred, labelled


def _scan(c, source, where: str, reader: pairs.Reader, select) -> _Rows:
  """Reads every row once: checks it, measures it, counts what is left out."""
  limits = (
    columns.lengths(c["prompt_length"])[-1],
    columns.lengths(c["answer_length"])[-1],
  )
  keep, sizes, longest = [], [], [0, 0]
  overlong = equal = other = blank = positive = ties = 0
  digest, tally = hashlib.blake2b(digest_size=8), Tally()
  for i in range(len(source)):
    row, kind = source[i], reader.kind
    for name in reader.columns:
      data.column(row, name, where, i)
    try:
      if select is not None and not select(row):
        other += 1
        continue
      item = reader.encode(row)
      said = [a[0] for a in item.answers]
      same = kind == "pairs" and said[0] == said[1]
      size = (len(item.prompt), max(map(len, said)))
      _check(c, item, same, size, limits)
    except UserError as error:
      raise UserError(
        f"row {i} of {where}: {error.what}", error.why, error.fix
      ) from error
    longest = [max(a, b) for a, b in zip(longest, size, strict=True)]
    equal += same
    overlong += not same and (size[0] > limits[0] or size[1] > limits[1])
    if same or size[0] > limits[0] or size[1] > limits[1]:
      continue
    keep.append(i)
    sizes.append(size)
    blank += item.blank
    ties += bool(item.values.get("tie", [0])[0])
    good = len(said[0]) > len(said[-1]) or item.values.get("label", [0])[0]
    positive += bool(good)
    tally.add(pairs.entry(item), placed=False)
    digest.update(repr((item.prompt, said, item.values)).encode())
  census = Census(
    kind=reader.kind,
    rows=len(source),
    kept=len(keep),
    overlong=overlong,
    bad=0,
    equal=equal,
    other_split=other,
    longest_prompt=longest[0],
    longest_answer=longest[1],
    files=sources.parts(source),
    **tally.found(),
  )
  counts = Counts(
    kind=reader.kind,
    rows=len(source),
    kept=len(keep),
    overlong=overlong,
    equal=equal,
    other_split=other,
    blank=blank,
    positive=positive,
    ties=ties,
    longest_prompt=longest[0],
    longest_answer=longest[1],
    census=census,
  )
  if not keep:
    raise UserError(
      f"no rows are left of {counts.line(where)}; limits {limits}",
      "there is nothing to read",
      f"raise prompt_length to {longest[0]}, answer_length to {longest[1]}"
      if overlong
      else f"change the split{' or the equal answers' * bool(equal)}",
    )
  prompts, answers = np.asarray(sizes, np.int32).T
  found = np.asarray(keep, np.int64)
  return _Rows(
    found, prompts, answers, counts, f"{reader.kind}:{digest.hexdigest()}"
  )


def _check(c, item: pairs.Item, same: bool, size, limits) -> None:
  if not item.prompt:
    raise UserError(
      "it has an empty prompt",
      "the model has nothing to condition on",
      "remove the row, or use a tokenizer with a bos id",
    )
  if same and c["on_equal"] == "raise":
    raise UserError(
      f"{c['chosen']!r} and {c['rejected']!r} are the same answer",
      "neither is better, so there is nothing to learn from the pair",
      "remove the row, or set on_equal='drop'",
    )
  for n, limit, field in zip(
    size, limits, ("prompt_length", "answer_length"), strict=True
  ):
    if n > limit and c["on_overlong"] == "raise":
      raise UserError(
        f"{n} tokens for {field}={limit}",
        "rows are never cut, since that would change what is learned",
        f"set {field}={n}, or on_overlong='drop'",
      )


def arrays(
  c: Mapping[str, Any], tok: tokens.Tokens, items: Sequence[pairs.Item], p: int
) -> dict[str, np.ndarray]:
  """Items in the layout of a batch: tokens, attend, loss and their values.

  Args:
    c: all fields of `text.defaults`; its `answer_length` is T.
    tok: tokenizer.
    items: rows in tokens, none longer than the slots.
    p: P, slots of the prompts.
  """
  (t,) = columns.lengths(c["answer_length"])
  asked = [x.prompt for x in items for _ in x.answers]
  said = [a for x in items for a in x.answers]
  prompt, prompt_mask = tokens.left_pad(asked, p, tok.pad_id)
  answer, mask = tokens.right_pad([a[0] for a in said], t, tok.pad_id)
  loss = np.zeros((len(said), p + t), bool)
  for n, (_, own_words) in enumerate(said):
    loss[n, p : p + len(own_words)] = own_words
  batch = {
    "tokens": np.concatenate([prompt, answer], 1),
    "attend": np.concatenate([prompt_mask, mask], 1),
    "loss": loss,
  }
  for k in items[0].values:
    flat = [v for x in items for v in x.values[k]]
    batch[k] = np.asarray(flat, _DTYPES[k])
  return batch


def _loader(c, tok: tokens.Tokens, source, rows: _Rows, encode) -> data.Load:
  widths = columns.lengths(c["prompt_length"])

  def load(own: np.ndarray, every: np.ndarray) -> dict[str, Any]:
    p = bucket(int(rows.prompts[every].max()), widths)
    items = [encode(source[int(i)]) for i in rows.keep[own]]
    batch = arrays(c, tok, items, p)
    if "label" in batch:
      batch["row"] = rows.keep[own].astype(np.int32)
    return batch

  return load
