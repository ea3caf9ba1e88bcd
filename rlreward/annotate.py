"""Log-probs of a reference, written beside the answers that it judges.

Training with `reference="data"` then holds no reference model at all.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from rlreward import errors
from rlreward.models import pretrained, transformer
from rlreward.models import score as score_lib
from rlreward.ops import masked
from rlreward.steps import roles
from rlreward.tasks import columns, data, pairs, preferences, text, tokens


def reference(
  config: Any, out: str | pathlib.Path, split: str = "train"
) -> dict[str, int]:
  """Copies a source of pairs or labelled answers with log-probs as columns.

  Pairs get `chosen_reference_logp` and `rejected_reference_logp`, labelled
  answers `reference_logp`: sums over the tokens of an answer with its eos,
  nats, by the checkpoint of `model.path`. Rows that do not fit are left out, as
  they are in training.

  Args:
    config: a run's config with a text task.
    out: a JSONL file that does not exist.
    split: of the task; the whole source of the split is read.

  Returns:
    {"written": rows, "overlong": rows left out}.

  Raises:
    UserError: no text task, no checkpoint, an existing file, bad rows.
  """
  path = pathlib.Path(out)
  if path.exists():
    raise errors.UserError(
      f"{path} exists", "it is not overwritten", "give another --out"
    )
  if config.task.name != "text" or not config.model.path:
    raise errors.UserError(
      f"task.name={config.task.name!r}, model.path={config.model.path!r}",
      "the reference is a checkpoint that reads the rows of a text task",
      "use task.name=text with a source of pairs, and set model.path",
    )
  section = config.task.to_dict()
  section["tokenizer"] = section.get("tokenizer") or config.model.path
  c = data.section(section, text.defaults())
  tok = tokens.load(c["tokenizer"])
  opened = columns.open_splits(c)
  source, where = opened[columns.check_split(split, opened)]
  name = columns.prompt_column(c, source[0])
  paired = columns.has_pairs(c, source[0])
  read = pairs.preferred if paired else pairs.labelled
  reader = read(c, tok, name, source[0])
  names = (
    ("chosen_reference_logp", "rejected_reference_logp")
    if paired
    else ("reference_logp",)
  )
  logps = _scorer(config, columns.lengths(c["answer_length"])[-1])
  limits = [columns.lengths(c[f"{k}_length"])[-1] for k in ("prompt", "answer")]
  counts = {"written": 0, "overlong": 0}
  size = config.prompts_per_step

  def kept() -> Iterator[tuple[Any, pairs.Item]]:
    for i in range(len(source)):
      for column in reader.columns:
        data.column(source[i], column, where, i)
      item = reader.encode(source[i])
      longest = max(len(a[0]) for a in item.answers)
      if len(item.prompt) > limits[0] or longest > limits[1]:
        counts["overlong"] += 1
      else:
        yield source[i], item

  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(path.name + ".partial")
  with partial.open("w", encoding="utf-8") as file:
    batch: list[tuple[Any, pairs.Item]] = []

    def flush() -> None:
      filled = [item for _, item in batch]
      # The last batch is filled up, so that one program serves all.
      filled += [filled[-1]] * (size - len(filled))
      rows = preferences.arrays(c, tok, filled, limits[0])
      found = np.asarray(logps(rows)).reshape(size, -1)
      for (row, _), values in zip(batch, found, strict=False):
        extra = dict(zip(names, map(float, values), strict=True))
        file.write(json.dumps({**row, **extra}) + "\n")
      counts["written"] += len(batch)
      batch.clear()

    for entry in kept():
      batch.append(entry)
      if len(batch) == size:
        flush()
    if batch:
      flush()
  if not counts["written"]:
    partial.unlink()
    raise errors.UserError(
      f"all {counts['overlong']} rows of {where} are over-long",
      "nothing is cut, and nothing would be written",
      "raise task.prompt_length or task.answer_length",
    )
  os.replace(partial, path)
  return counts


def _scorer(config, slots: int):
  """rows -> f32[N], sums of log-probs of the answers."""
  model = transformer.build(roles.model_config(config.model))
  _, variables = pretrained.load(
    config.model.path,
    dtype=config.model.dtype,
    param_dtype=config.model.param_dtype,
  )

  @jax.jit
  def run(variables, tokens, attend, loss):
    logp, _ = score_lib.completion_logprob(
      model, variables, tokens, attend, tokens.shape[1] - slots
    )
    return masked.masked_sum(logp, loss[:, -slots:], 1)

  return lambda rows: run(
    variables, *(rows[k] for k in ("tokens", "attend", "loss"))
  )
