"""A loaded reward model: rows of ids in, scores and per-token traces out.

One program for each bucket of length, with a fixed number of rows, so that a
row's score does not depend on what it is scored beside.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.models import (
  heads,
  hf_files,
  pretrained,
  reward_card,
  reward_heads,
  transformer,
)
from rlreward.models.reward_card import Card
from rlreward.sampling.buckets import bucket
from rlreward.types import Array, Rollout, Score

Ids = Sequence[int]
_SCALAR = reward_heads.Head()


class Learned:
  """A reward model with the card that says how it is read.

  Args:
    model: a decoder with outputs.
    variables: its variables.
    card: how rows are padded and which output is the score.
    max_length: tokens of the longest row that is scored.
    batch: rows of a program.
    head: how the score is read.
  """

  def __init__(
    self,
    model: transformer.Model,
    variables: Any,
    card: Card,
    max_length: int,
    batch: int = 16,
    head: reward_heads.Head = _SCALAR,
  ):
    self.model, self.variables, self.card = model, variables, card
    self.batch, self.head = batch, head
    powers = [2**k for k in range(4, 30) if 2**k < max_length]
    self.buckets = (*powers, max_length)

  @functools.cached_property
  def _run(self) -> Callable[..., Array]:
    # Variables are arguments: as constants they would be compiled in.
    return jax.jit(functools.partial(heads.last_value, self.model))

  @functools.cached_property
  def _every(self) -> Callable[..., Array]:
    return jax.jit(functools.partial(heads.token_values, self.model))

  @functools.cached_property
  def _whole(self) -> Callable[..., reward_heads.Reading]:
    read = functools.partial(reward_heads.at_places, self.head, self.model)
    return jax.jit(read)

  def readings(
    self, rows: Sequence[Ids], starts: Sequence[int]
  ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Scores by a head that is more than a linear layer, and what is in them.

    Args:
      rows: N lists of ids, each of at most `max_length`.
      starts: N, where the answers begin; from 1 for heads that read prompts.

    Returns:
      (f32[N], {"output_<k>", "gate_<k>" ..: f32[N]}).

    Raises:
      UserError: a row is empty or too long, or has no prompt.
    """
    if self.head.kind in reward_heads.PROMPTED and min(starts, default=1) < 1:
      raise UserError(
        "a row has no prompt that ends before its answer",
        f"a head of kind {self.head.kind!r} reads the end of the prompt",
        "give prompt and completion, not tokens alone",
      )
    out: dict[str, np.ndarray] = {}
    for places, tokens, attend in batches(
      rows, self.buckets, self.batch, self.card
    ):
      filled = places + places[-1:] * (self.batch - len(places))
      first = np.argmax(attend, 1)
      end = first + np.maximum([starts[i] for i in filled], 1) - 1
      found = self._whole(self.variables, tokens, attend, end.astype(np.int32))
      columns = {"value": found.value}
      for name, x in {"output": found.outputs, **found.parts}.items():
        columns |= {f"{name}_{k}": x[:, k] for k in range(x.shape[1])}
      for name, x in columns.items():
        out.setdefault(name, np.zeros(len(rows), np.float32))
        out[name][places] = np.asarray(x)[: len(places)]
    return out.pop("value", np.zeros(0, np.float32)), out

  def scores(
    self, rows: Sequence[Ids], starts: Sequence[int] | None = None
  ) -> np.ndarray:
    """Scores at the last token of each row.

    Args:
      rows: N lists of ids, each of at most `max_length`.
      starts: N, where the answers begin; read by some heads.

    Returns:
      f32[N].

    Raises:
      UserError: a row is empty or too long; nothing is cut.
    """
    if self.head.kind != "scalar":
      return self.readings(rows, starts or [0] * len(rows))[0]
    out = np.zeros(len(rows), np.float32)
    for places, tokens, attend in batches(
      rows, self.buckets, self.batch, self.card
    ):
      found = np.asarray(self._run(self.variables, tokens, attend))
      out[places] = found[: len(places), self.card.output]
    return out

  def traces(self, rows: Sequence[Ids]) -> list[np.ndarray]:
    """The head read at every token; the last entry is the score.

    Args:
      rows: as for `scores`.

    Returns:
      N arrays f32[tokens of the row].

    Raises:
      UserError: a head that reads whole answers.
    """
    if self.head.kind != "scalar":
      raise UserError(
        f"a trace of a head of kind {self.head.kind!r}",
        "it reads whole answers, and has no score at each token",
        "leave --tokens away",
      )
    out: list[np.ndarray] = [np.zeros(0, np.float32)] * len(rows)
    for places, tokens, attend in batches(
      rows, self.buckets, self.batch, self.card
    ):
      found = np.asarray(self._every(self.variables, tokens, attend))
      for n, place in enumerate(places):
        out[place] = found[n, attend[n], self.card.output]
    return out

  def normalised(self, value: Any) -> Any:
    """(value - mean) / scale, by the held-out answers of the card."""
    return (value - self.card.mean) / self.card.scale

  def reward(self, rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    """Normalised scores of rollouts of a policy with the same tokenizer.

    It runs on the host, between the two halves of an online step.

    Args:
      rollout: N rows; each is read at its last token.
      batch: unused.

    Raises:
      UserError: a row is longer than `max_length`.
    """
    del batch
    tokens, attend = np.asarray(rollout.tokens), np.asarray(rollout.attend)
    rows = [t[a].tolist() for t, a in zip(tokens, attend, strict=True)]
    parts: dict[str, np.ndarray] = {}
    if self.head.kind == "scalar":
      value = self.scores(rows)
    else:
      before = np.cumsum(np.asarray(rollout.action), 1) == 0
      value, parts = self.readings(rows, np.sum(attend & before, 1).tolist())
    value = self.normalised(value)
    valid = jnp.isfinite(value)
    columns = {k: jnp.asarray(v) for k, v in parts.items()}
    return Score(jnp.asarray(value, jnp.float32), valid, None, columns)


def of_two_tokens(
  config: Any,
  variables: Any,
  card: Card,
  good: int,
  bad: int,
  max_length: int,
) -> Learned:
  """A language model that says good or bad by a token, as a score of tokens.

    sigmoid(h (w_good - w_bad)) = p(good) / (p(good) + p(bad))

  Args:
    config: of the decoder.
    variables: with its language head, as `pretrained.load` reads them.
    card: how rows are padded.
    good: id of the token for a right step.
    bad: id of that for a wrong one.
    max_length: tokens of the longest row.

  Reference: Math-Shepherd, arXiv 2312.08935, whose checkpoint is read so.
  """
  head = transformer.build(config).head(variables)
  kernel = (head[:, good] - head[:, bad])[:, None]
  scored = transformer.build(config.replace(outputs=1))
  tree = {**variables["params"], "score": {"kernel": kernel}}
  if not config.tied:
    tree.pop("head")
  return Learned(scored, {**variables, "params": tree}, card, max_length)


def batches(
  rows: Sequence[Ids], buckets: Sequence[int], size: int, card: Card
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
  """Rows by length, in programs of a fixed shape.

  Args:
    rows: N lists of ids.
    buckets: lengths of the programs.
    size: rows of a program.
    card: side and id of the padding.

  Yields:
    (places of at most `size` rows, tokens i32[size, L], attend bool[size, L]).

  Raises:
    UserError: a row is empty or longer than the longest bucket.
  """
  if not all(len(r) for r in rows):
    raise UserError(
      "a row has no tokens", "there is nothing to read", "remove the row"
    )
  groups: dict[int, list[int]] = {}
  for i, row in enumerate(rows):
    groups.setdefault(bucket(len(row), buckets), []).append(i)
  left = card.pad_side == "left"
  for length, places in sorted(groups.items()):
    for start in range(0, len(places), size):
      own = places[start : start + size]
      # The last batch is filled up, so that one program serves all.
      filled = own + own[-1:] * (size - len(own))
      tokens = np.full((size, length), card.ids["pad"], np.int32)
      attend = np.zeros(tokens.shape, bool)
      for n, i in enumerate(filled):
        count = len(rows[i])
        at = slice(length - count, length) if left else slice(0, count)
        tokens[n, at], attend[n, at] = rows[i], True
      yield own, tokens, attend


def load(
  folder: pathlib.Path,
  card: Card,
  *,
  dtype: str | None = None,
  max_length: int | None = None,
  batch: int = 16,
) -> Learned:
  """The weights of a directory behind its card; see `check` for the rest.

  Args:
    folder: in the Hugging Face layout, with a score head.
    card: read from it, or a description of its tokenizer.
    dtype: type to compute in; the card's if None.
    max_length: tokens; the card's, else the model's own if None.
    batch: rows of a program.

  Raises:
    UserError: no score head, no such output, weights of another type, or more
      tokens than the model has positions.
  """
  config, variables = pretrained.load(
    folder, dtype=dtype or card.dtype, head="score"
  )
  if not 0 <= card.output < config.outputs:
    raise UserError(
      f"output {card.output} of {config.outputs} in {folder}",
      "one output is the score",
      f"name one of 0 .. {config.outputs - 1}",
    )
  if card.golden and config.param_dtype != card.param_dtype:
    raise UserError(
      f"the weights of {folder} are {config.param_dtype}, and the model was"
      f" saved with param_dtype {card.param_dtype}",
      "rounded weights give other scores",
      "restore the files as they were exported",
    )
  hf = hf_files.read_json(folder)
  own = config.learned_positions or hf.get("max_position_embeddings") or 2048
  limit = max_length or card.max_length or min(int(own), 4096)
  if config.learned_positions and limit > config.learned_positions:
    raise UserError(
      f"max_length={limit} for {config.learned_positions} learned positions",
      "a later position has no embedding",
      f"use at most {config.learned_positions}",
    )
  model = transformer.build(config)
  return Learned(model, variables, card, limit, batch)


def check(found: Learned, where: str) -> None:
  """Refuses a model that does not give its golden scores.

  Args:
    found: the model.
    where: its directory, for messages.

  Raises:
    UserError: says which row moved, by how much, and what explains it.
  """
  card = found.card
  if not card.golden:
    return
  rows = [list(g.tokens) for g in card.golden]
  config = found.model.config
  length = max(map(len, rows))
  # Golden rows are read whole, also where longer rows are refused from now on.
  whole = found
  if length > found.buckets[-1]:
    whole = Learned(found.model, found.variables, card, length, found.batch)

  def slot(side: str, at: int) -> Callable[[], np.ndarray]:
    """Scores read at a slot of padded rows, whatever it holds."""

    def run() -> np.ndarray:
      pad = [card.ids["pad"]]
      filled = [
        r + pad * (length - len(r)) if side == "right"
        else pad * (length - len(r)) + r
        for r in rows
      ]  # fmt: skip
      tokens = np.asarray(filled, np.int32)
      every = heads.token_values(
        found.model,
        found.variables,
        jnp.asarray(tokens),
        jnp.ones(tokens.shape, bool),
      )
      return np.asarray(every)[:, at, card.output]

    return run

  def earlier(k: int) -> Callable[[], np.ndarray]:
    return lambda: whole.scores([r[:-k] if len(r) > k else r for r in rows])

  def computed(dtype: str) -> Callable[[], np.ndarray]:
    model = transformer.build(config.replace(dtype=dtype))
    other = Learned(model, found.variables, card, length, found.batch)
    return lambda: other.scores(rows)

  others = {
    f"dtype {d}, and this is {config.dtype}": computed(d)
    for d in reward_card.TOLERANCE
    if d != config.dtype
  }
  others |= {
    f"read position {k} token{'s' * (k > 1)} before the last": earlier(k)
    for k in (1, 2)
  }
  others["pad side right, read at the last slot, padding included"] = slot(
    "right", -1
  )
  others["pad side left, padding attended"] = slot("left", -1)
  scores = whole.scores(rows)
  reward_card.check_scores(card, scores, others, where)
