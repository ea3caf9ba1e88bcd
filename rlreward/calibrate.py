"""The card of a reward model that came without one."""

from __future__ import annotations

import os

from rlreward import reward_models
from rlreward.errors import UserError
from rlreward.models import ensemble_card, hf_files, reward_card
from rlreward.rewards.learned import Learned
from rlreward.tasks import scored, sources


def calibrate(
  path: str | os.PathLike[str],
  source: str | os.PathLike[str],
  *,
  dtype: str | None = None,
  output: int | None = None,
  max_length: int | None = None,
  batch: int = 16,
) -> reward_models.Loaded:
  """Writes the card of a model that has none, such as one of transformers.

  Template and tokenizer are recorded as they are, mean and scale are those of
  the answers given, and the first of them become golden.

  Args:
    path: a directory with a score head and no card.
    source: answers, see `tasks.scored` and `tasks.sources`.
    dtype: see `reward_models.load`.
    output: see `reward_models.load`.
    max_length: see `reward_models.load`.
    batch: see `reward_models.load`.

  Returns:
    The model, loaded by its card.

  Raises:
    UserError: there is a card, or no answer that fits.
  """
  folder = hf_files.resolve(path)
  for name in (reward_card.NAME, ensemble_card.NAME):
    if (folder / name).exists():
      raise UserError(
        f"{folder / name} exists",
        "it is not overwritten: scores were made by it",
        "remove it to write another one",
      )
  found = reward_models.load(
    folder, dtype=dtype, output=output, max_length=max_length, batch=batch
  )
  assert isinstance(found.model, Learned)
  limit = found.model.buckets[-1]
  rows, ids = [], []
  answers = sources.open_source(str(source))
  for i in range(len(answers)):
    for single in scored.singly(answers[i]):
      own = found.encode(single).found[0].ids
      if len(own) <= limit:
        rows.append(single)
        ids.append(own)
  if not rows:
    raise UserError(
      f"no answer of {source} has {limit} tokens or fewer",
      "mean and scale are those of its scores",
      "give shorter answers, or raise --max_length",
    )
  scores = found.model.scores(ids)
  config = found.model.model.config
  card = found.model.card._replace(
    dtype=config.dtype,
    param_dtype=config.param_dtype,
    max_length=limit,
    source={"answers": str(source)},
  )
  reward_card.write(folder, reward_models.measured(card, rows, ids, scores))
  return reward_models.load(folder, batch=batch)
