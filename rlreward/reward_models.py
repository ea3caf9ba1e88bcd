"""Reward models in directories: loaded and checked, or given their record."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlreward import held_rows
from rlreward.errors import UserError
from rlreward.evals.audit import Scorer
from rlreward.evals.probes import Row
from rlreward.models import (
  ensemble_card,
  hf_files,
  reward_card,
  reward_heads,
  transformer,
)
from rlreward.rewards import learned, members
from rlreward.rewards.learned import Learned
from rlreward.tasks import scored, tokens
from rlreward.types import Score, Task

GOLDEN = 8  # texts whose scores are kept


class Loaded(NamedTuple):
  """A reward model with its tokenizer.

  Attributes:
    model: scores ids; one model, or an ensemble.
    tokenizer: of the model.
    note: what was checked, a line.
    name: its directory.
  """

  model: Learned | members.Ensemble
  tokenizer: tokens.Tokens
  note: str
  name: str

  def encode(self, row: Any) -> scored.Answers:
    """The answers of a row in ids, see `tasks.scored.answers`."""
    card = self.model.card
    return scored.answers(self.tokenizer, row, card.strings, card.read)


def load(
  path: str | os.PathLike[str],
  *,
  dtype: str | None = None,
  output: int | None = None,
  max_length: int | None = None,
  batch: int = 16,
) -> Loaded:
  """A reward model that gives its golden scores, or is refused.

  A directory without a card, such as a sequence-classification model of
  transformers, is loaded unchecked: strings become a chat where the tokenizer
  has a template, and the score is read at the last token of the rendering.
  Above the directories of several models `ensemble.json` makes one of them.

  Args:
    path: a directory or a hub name.
    dtype: type to compute in, "float32" or "bfloat16"; the card's if None.
    output: index of the output; the card's, or the only one, if None.
    max_length: longest row, tokens; see `rewards.learned.load`.
    batch: rows of a program.

  Raises:
    UserError: template, tokenizer, tokens or scores are not those of the card;
      says which.
  """
  if dtype is not None and dtype not in reward_card.TOLERANCE:
    raise UserError(
      f"dtype={dtype!r}",
      "it is the type that is computed in",
      f"use one of {', '.join(reward_card.TOLERANCE)}",
    )
  for name, number in (("batch", batch), ("max_length", max_length)):
    if number is not None and number < 1:
      raise UserError(
        f"{name}={number}", "shapes are at least 1", f"use {name}=16 or so"
      )
  folder = hf_files.resolve(path)
  several = ensemble_card.read(folder)
  if several is not None:
    each = [
      load(folder / m.path, dtype=dtype, output=output, max_length=max_length,
           batch=batch)
      for m in several.members
    ]  # fmt: skip
    return join(each, several, str(path))
  tok = tokens.load(str(folder))
  card = reward_card.read(folder)
  if card is None:
    card = reward_card.describe(tok, folder)
    card = card._replace(strings="chat" if tok.has_chat else "plain",
                         read="last")  # fmt: skip
    note = f"no {reward_card.NAME}: nothing was checked"
  else:
    reward_card.check_tokenizer(card, tok, folder)
    note = f"{len(card.golden)} golden scores reproduced"
  if output is not None:
    if card.golden and output != card.output:
      raise UserError(
        f"output={output}, and the model was saved with output {card.output}",
        "its golden scores are of that output",
        "leave output away",
      )
    card = card._replace(output=output)
  model = learned.load(
    folder, card, dtype=dtype, max_length=max_length, batch=batch
  )
  if output is None and not card.golden and model.model.config.outputs > 1:
    raise UserError(
      f"{folder} has {model.model.config.outputs} outputs",
      "one of them is the score",
      "name it: --output=0",
    )
  found = Loaded(model, tok, note, str(path))
  if card.golden:
    ids = [found.encode(g.row).found[0].ids for g in card.golden]
    reward_card.check_tokens(card, ids)
    learned.check(model, str(folder))
  return found


def join(
  each: Sequence[Loaded],
  about: ensemble_card.EnsembleCard,
  name: str,
  chunk: int = 0,
) -> Loaded:
  """Loaded reward models as one: an ensemble.

  Args:
    each: K models of one shape and tokenizer, in the order of `about`.
    about: rule, coefficient and the members.
    name: of the ensemble.
    chunk: members computed at a time; 0 for all.

  Raises:
    UserError: a rule that cannot be, or members that differ.
  """
  ensemble_card.check(about, name)
  models = [m.model for m in each if isinstance(m.model, Learned)]
  model = members.Ensemble(models, about, chunk)
  note = f"{len(each)} members joined by {about.rule}; {each[0].note}"
  return Loaded(model, each[0].tokenizer, note, name)


def golden(path: str | os.PathLike[str]) -> list[Mapping[str, Any]]:
  """The golden rows of a reward model, or of an ensemble's first member.

  Args:
    path: the directory.
  """
  folder = hf_files.resolve(path)
  several = ensemble_card.read(folder)
  if several is not None:
    folder = folder / several.members[0].path
  card = reward_card.read(folder)
  return [g.row for g in card.golden] if card else []


def measured(card, rows, ids, scores) -> reward_card.Card:
  """The card with mean and scale of scores, and golden rows.

  Args:
    card: of the model.
    rows: N answers, as `tasks.scored` reads them.
    ids: their tokens.
    scores: f32[N], raw.
  """
  golden = [
    reward_card.Golden(r, i, float(str(s)))
    for r, i, s in zip(rows, ids, scores, strict=True)
  ][:GOLDEN]
  spread = float(np.std(scores.astype(np.float64)))
  return card._replace(
    mean=float(np.mean(scores.astype(np.float64))),
    scale=spread if spread > 0 else 1.0,
    texts=len(rows),
    golden=golden,
  )


def scorer(found: Loaded) -> Scorer:
  """The model as a reward that can be audited; raw scores.

  Args:
    found: a loaded model.
  """

  def score(rows: Sequence[Row]) -> Score:
    value = np.full(len(rows), np.nan, np.float32)
    ids: list[list[int]] = []
    places, starts = [], []
    for i, row in enumerate(rows):
      asked = {"prompt": row.prompt, "completion": row.completion}
      try:
        own = found.encode(asked).found[0]
      except UserError:
        continue  # an empty answer is no judgement, not a low score
      if len(own.ids) <= found.model.buckets[-1]:
        places.append(i)
        ids.append(own.ids)
        starts.append(own.start)
    value[places] = found.model.scores(ids, starts)
    return Score(value, np.isfinite(value))  # pyright: ignore

  return Scorer(found.name, score)


def record(
  folder: pathlib.Path,
  config: Any,
  task: Task,
  model: transformer.Model,
  variables: Any,
  source: Mapping[str, Any],
) -> Loaded | None:
  """Writes the card of an exported model, and loads the model by it.

  Scores are those of the model in memory, so that the files are checked too.

  Args:
    folder: what was exported.
    config: of the run.
    task: of the run; golden texts are of its held-out rows where it has them.
    model: of the run.
    variables: of the run, an adapter merged.
    source: where the model is from, for the card.

  Returns:
    The model of the directory; None for a task without a tokenizer.

  Raises:
    UserError: the directory does not give the scores of the run.
  """
  if task.spec["tokenizer"] is None:
    return None
  tok = tokens.load(str(folder))
  rows, limit = held_rows.held_out(config, task, tok)
  chat = any(not isinstance(r.get("prompt", ""), str) for r in rows)
  params = variables["params"]
  card = reward_card.describe(tok, folder)._replace(
    strings="chat" if chat else "plain",
    dtype=model.config.dtype,
    param_dtype=str(params["embed"]["embedding"].dtype),
    max_length=limit,
    source=dict(source),
  )
  found = Learned(model, variables, card, limit)
  ids = [
    scored.answers(tok, r, card.strings, card.read).found[0].ids for r in rows
  ]
  reward_card.write(folder, measured(card, rows, ids, found.scores(ids)))
  return load(folder)


def native(
  folder: pathlib.Path,
  config: Any,
  task: Task,
  model: transformer.Model,
  variables: Any,
  head: reward_heads.Head,
  *,
  max_length: int | None = None,
  batch: int = 16,
) -> Loaded:
  """A reward model straight from its run, with whatever head it has.

  Args:
    folder: the run's directory.
    config: of the run.
    task: of the run.
    model: of the run.
    variables: of the run, an adapter merged.
    head: of the run.
    max_length: longest row, tokens; that of training if None.
    batch: rows of a program.

  Raises:
    UserError: no score in it, a task without a tokenizer, or features that are
      columns of the data.
  """
  tok = task.spec["tokenizer"]
  if not model.config.outputs or tok is None or head.columns:
    raise UserError(
      f"{folder} has model.outputs={model.config.outputs},"
      f" model.head.columns={head.columns} and"
      f" {'no' if tok is None else 'a'} tokenizer",
      "texts are scored by a head that reads nothing but them",
      "give the run of a reward model on texts",
    )
  rows, limit = held_rows.held_out(config, task, tok)
  chat = any(not isinstance(r.get("prompt", ""), str) for r in rows)
  card = reward_card.describe(tok, folder)._replace(
    strings="chat" if chat else "plain",
    dtype=model.config.dtype,
    max_length=limit,
  )
  own = Learned(model, variables, card, max_length or limit, batch, head)
  note = f"the last checkpoint, a head of kind {head.kind}: nothing was checked"
  return Loaded(own, tok, note, str(folder))
