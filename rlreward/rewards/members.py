"""An ensemble of loaded reward models that is asked like one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.models import ensemble, heads, transformer
from rlreward.models.ensemble_card import EnsembleCard
from rlreward.ops import aggregate, masked
from rlreward.rewards import learned
from rlreward.rewards.learned import Ids, Learned
from rlreward.types import Array, Rollout, Score


class Ensemble:
  """K reward models of one shape and tokenizer, joined by a rule.

  Each member's score is brought to its own mean and scale first (those of its
  card), since the middle and the worst of members mean nothing otherwise. A
  member whose score is not finite is left out.

  Args:
    models: the members.
    about: rule, coefficient and what is known of the members.
    chunk: members computed at a time; 0 for all.

  Raises:
    UserError: members of different shapes or readings of a row.
  """

  def __init__(
    self, models: Sequence[Learned], about: EnsembleCard, chunk: int = 0
  ):
    _check_alike(models)
    first = models[0]
    self.about, self.chunk = about, chunk
    self.model: transformer.Model = first.model
    self.variables = ensemble.stack([m.variables for m in models])
    self.buckets, self.batch = first.buckets, first.batch
    cards = [m.card for m in models]
    self._mean = np.asarray([c.mean for c in cards], np.float32)
    self._scale = np.asarray([c.scale for c in cards], np.float32)
    source = {"rule": about.rule, "coef": about.coef, "members": len(models)}
    # What is joined has mean 0 and scale 1 already.
    self.card = first.card._replace(
      mean=0.0,
      scale=1.0,
      texts=min(c.texts for c in cards),
      golden=(),
      source=source,
    )

  @functools.cached_property
  def _run(self) -> Callable[..., Array]:
    run = functools.partial(ensemble.scores, self.model, chunk=self.chunk)
    return jax.jit(run)

  @functools.cached_property
  def _every(self) -> Callable[..., Array]:
    read = heads.token_values
    run = functools.partial(
      ensemble.scores, self.model, chunk=self.chunk, read=read
    )
    return jax.jit(run)

  def members(self, rows: Sequence[Ids]) -> np.ndarray:
    """Every member's score at the last token of each row, normalised.

    Args:
      rows: N lists of ids, each of at most the longest bucket.

    Returns:
      f32[K, N].

    Raises:
      UserError: a row is empty or too long; nothing is cut.
    """
    out = np.zeros((len(self._mean), len(rows)), np.float32)
    batches = learned.batches(rows, self.buckets, self.batch, self.card)
    for places, tokens, attend in batches:
      found = np.asarray(self._run(self.variables, tokens, attend))
      out[:, places] = found[:, : len(places), self.card.output]
    return (out - self._mean[:, None]) / self._scale[:, None]

  def joined(self, score: Any) -> np.ndarray:
    """f32[...] of members' scores [K, ...], joined by the rule.

    Scores that are not finite are left out; NaN where there is no other.
    """
    r = jnp.moveaxis(jnp.asarray(score), 0, -1)
    rule, coef = self.about.rule, self.about.coef
    found = aggregate.aggregate(r, rule, jnp.isfinite(r), coef=coef)
    return np.asarray(found, np.float32)

  def scores(
    self, rows: Sequence[Ids], starts: Sequence[int] | None = None
  ) -> np.ndarray:
    """f32[N]: the joined scores of rows; see `members`."""
    del starts  # members are linear heads, which read no prompt
    return self.joined(self.members(rows))

  def traces(self, rows: Sequence[Ids]) -> list[np.ndarray]:
    """The joined heads read at every token; the last entry is the score.

    Args:
      rows: as for `members`.

    Returns:
      N arrays f32[tokens of the row].
    """
    out: list[np.ndarray] = [np.zeros(0, np.float32)] * len(rows)
    batches = learned.batches(rows, self.buckets, self.batch, self.card)
    for places, tokens, attend in batches:
      found = np.asarray(self._every(self.variables, tokens, attend))
      each = found[..., self.card.output] - self._mean[:, None, None]
      value = self.joined(each / self._scale[:, None, None])
      for n, place in enumerate(places):
        out[place] = value[n, attend[n]]
    return out

  def normalised(self, value: Any) -> Any:
    """The value: members are normalised before they are joined."""
    return value

  def reward(self, rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    """Joined scores of rollouts of a policy with the same tokenizer.

    It runs on the host, between the two halves of an online step. Components:
    `member/<k>`, normalised, NaN where a member has no score; `spread`, the
    population deviation of those that have one. A shaping may join the members
    in another way (`rewards.combine.aggregate` with least=1).

    Args:
      rollout: N rows; each is read at its last token.
      batch: unused.

    Raises:
      UserError: a row is longer than the members read.
    """
    del batch
    tokens, attend = np.asarray(rollout.tokens), np.asarray(rollout.attend)
    rows = [t[a].tolist() for t, a in zip(tokens, attend, strict=True)]
    score = self.members(rows)
    value = self.joined(score)
    known = np.isfinite(score)
    var = masked.masked_var(jnp.asarray(score), jnp.asarray(known), 0)
    parts = {
      f"member/{k}": jnp.where(known[k], each, jnp.nan)
      for k, each in enumerate(score)
    }
    valid = np.isfinite(value)
    return Score(
      jnp.asarray(np.where(valid, value, 0), jnp.float32),
      jnp.asarray(valid),
      None,
      {**parts, "spread": jnp.sqrt(var)},
    )


def _check_alike(models: Sequence[Learned]) -> None:
  if not models:
    raise UserError(
      "an ensemble without members", "scores are theirs", "give one at least"
    )
  read = ("template", "tokenizer", "ids", "strings", "read", "pad_side",
          "output")  # fmt: skip
  first = models[0]
  for k, other in enumerate(models):
    a, b = first.model.config, other.model.config
    names = [
      n for n in read if getattr(first.card, n) != getattr(other.card, n)
    ]
    names += [
      n for n in a.__dataclass_fields__ if getattr(a, n) != getattr(b, n)
    ]
    if first.buckets != other.buckets:
      names.append("max_length")
    if names:
      raise UserError(
        f"members 0 and {k} of the ensemble differ in {', '.join(names)}",
        "members are one model with several weights, and read the same tokens",
        "use members of one training run, or give --max_length",
      )
