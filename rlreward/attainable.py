"""A run against the best reward at its KL, while it trains."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from rlreward.evals import frontier
from rlreward.steps import judge, pool, roles
from rlreward.types import State, Task


class Tracker:
  """Measures every evaluation against the frontier of the held-out prompts.

  The first call surveys the reference and writes `frontier/pool.npz` and
  `frontier/curve.json`; a resumed run reads them. Each call redraws
  `frontier/frontier.png`.

  Args:
    config: a run's config; without `frontier.samples` calls return nothing.
    task: its task.
    actor: its policy.
    workdir: the run directory.
    evals: evaluations so far, {step: {metric: float}}, for the picture.
  """

  def __init__(
    self,
    config,
    task: Task,
    actor: roles.Policy,
    workdir: pathlib.Path,
    evals: Mapping[int, Mapping[str, float]] | None = None,
  ):
    self._on = bool(config.frontier.samples)
    self._folder, self._curve = workdir / "frontier", None
    self._survey = pool.make(config, task, actor) if self._on else None
    self._path = {step: dict(found) for step, found in (evals or {}).items()}
    self._key = jax.random.key(config.seed + 2)

  def __call__(
    self,
    state: State,
    batch: Mapping[str, Any],
    whole: Mapping[str, Any],
    values: Mapping[str, float],
  ) -> dict[str, float]:
    """What an evaluation is worth: {metric: float}.

    Args:
      state: with a reference.
      batch: held-out prompts on the mesh.
      whole: the same as the iterator gave them.
      values: metrics of the evaluation, `kl` and `reward` (`proxy`) among them.
    """
    if self._survey is None:
      return {}
    if self._curve is None:
      self._curve = self._surveyed(state, batch, whole)
    reward, kl = values.get("proxy", values["reward"]), values["kl"]
    found = {}
    if self._survey.law is not None:
      law = self._survey.law(state, whole)
      reward, kl = law["reward"], law.get("kl", kl)
      found |= {f"exact_{name}": value for name, value in law.items()}
    found |= frontier.measure(self._curve, reward, kl)
    self._path[int(state.step)] = {**values, **found}
    if jax.process_index() == 0:
      frontier.draw(self._curve, self._path, self._folder / "frontier.png")
    return found

  def _surveyed(self, state, batch, whole) -> dict[str, Any]:
    """The curve of the run's reference, that of the first process for all."""
    own = None
    if jax.process_index() == 0:
      own = frontier.read(self._folder)
    known = judge.everyone(own)[0]
    if known is None:
      assert self._survey is not None
      found = self._survey.build(state, batch, self._key, whole)
      known = frontier.curve(found)
      if jax.process_index() == 0:
        frontier.write(self._folder, found, known)
    return known
