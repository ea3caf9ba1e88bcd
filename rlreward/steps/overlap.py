"""Rollouts one step ahead: the next is made while the current update runs.

With `ahead=1` the policy of step k - 1 answers the prompts of step k. It is
known before update k - 1 has run, so its rollout needs not wait for it: a
thread samples and judges on `rollout_devices` of their own (or on the same
ones, where at least rewards in Python run beside the update). What is sampled
depends on the State alone, so a run without the overlap, or resumed in the
middle, is the same.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlreward import errors, sharding
from rlreward.steps import judge, refill
from rlreward.types import Method, Rollout, Score, State, Task

Axes = Any


def meshes(config) -> tuple[jax.sharding.Mesh, jax.sharding.Mesh | None]:
  """The mesh of the updates, and that of rollouts where they have their own.

  Args:
    config: `rollout_devices` of the devices, the last ones, are for rollouts.

  Raises:
    UserError: no device is left for one of the two, or processes share them.
  """
  count = config.rollout_devices
  if not count:
    return sharding.make_mesh(**config.mesh), None
  devices = jax.devices()
  if not config.ahead:
    raise errors.UserError(
      f"rollout_devices={count} with ahead=0",
      "rollouts and updates would wait for each other on their own devices",
      "set ahead=1, or rollout_devices=0",
    )
  if jax.process_count() > 1 or not 0 < count < len(devices):
    raise errors.UserError(
      f"rollout_devices={count} of {len(devices)} devices in"
      f" {jax.process_count()} processes",
      "both rollouts and updates need some, within one process",
      f"set rollout_devices from 1 to {max(1, len(devices) - 1)}, or to 0",
    )
  shape = {k: v for k, v in config.mesh.items()}
  own = sharding.make_mesh(1, count, 1, devices[-count:])
  return sharding.make_mesh(**shape, devices=devices[:-count]), own


class Given(NamedTuple):
  """Batches of a method that does not sample.

  Attributes:
    batches: iterator of whole batches.
    place: puts this process's rows on the mesh.
  """

  batches: Any
  place: Any

  def next(self) -> dict[str, jax.Array]:
    """The next batch on the mesh, its arrays alone."""
    return judge.arrays(self.place(next(self.batches)))

  def position(self) -> Any:
    """State of the iterator."""
    return self.batches.get_state()


class Pipeline:
  """Hands out the rollout of each step, made ahead where the config says.

  Args:
    method: an online method.
    task: where its reward runs.
    batches: iterator of whole batches.
    place: batch -> the batch with its arrays on the mesh of the updates.
    config: the run's config.
    mesh: of the rollouts, or None for that of the updates.
    axes: logical axes of the policy's parameters.
    end: step after which nothing is sampled.
  """

  def __init__(
    self,
    method: Method,
    task: Task,
    batches: Any,
    place: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    config,
    mesh: jax.sharding.Mesh | None = None,
    axes: Axes = None,
    end: int = 0,
  ):
    self._method, self._task, self._batches = method, task, batches
    self._place, self._config, self._axes = place, config, axes
    self._own, self._end = mesh, end
    self._home = jax.sharding.get_mesh()
    self._frozen: Any = None
    self._position = batches.get_state()
    self._pending: concurrent.futures.Future | None = None
    # Several processes must issue their programs in one order: no thread there.
    alone = jax.process_count() == 1
    self._threads = None
    if config.ahead and alone:
      self._threads = concurrent.futures.ThreadPoolExecutor(1)

  def next(self, state: State) -> tuple[Rollout, Score, dict[str, float]]:
    """(rollout, score, metrics) of the step that `state` is at.

    Where there is a thread, the rollout of the step after it is begun.
    """
    if self._pending is None:
      found = self._collect(self._ready(state))
    else:
      found = self._pending.result()
      self._pending = None
    self._position = self._batches.get_state()
    if self._threads and int(state.step) + 1 < self._end:
      following = self._ready(state, following=True)
      self._pending = self._threads.submit(self._collect, following)
    return self._back(found)

  def position(self) -> Any:
    """State of the iterator after the batches of the steps handed out."""
    return self._position

  def close(self) -> None:
    """Ends the thread; a rollout that nobody asked for is dropped."""
    if self._threads:
      self._threads.shutdown(wait=True, cancel_futures=True)

  def _collect(self, state: State):
    mesh = self._own or self._home
    place = self._place
    if self._own is not None:
      place = lambda batch: judge.spread(mesh, batch)
    with jax.set_mesh(mesh):
      return refill.collect(
        self._method, self._task, state, self._batches, place, self._config
      )

  def _ready(self, state: State, following: bool = False) -> State:
    """What the sampler reads of a State, or of the one after the next update.

    The update donates its State, so what a thread reads is copied: the policy
    for each step, frozen roles once.
    """
    if not self._config.ahead:
      return state
    if self._frozen is None:
      roles = {k: state.frozen[k] for k in self._method.reads}
      self._frozen = self._put(roles)
    policy = state.extra["behaviour"]
    if following:
      policy = {k: state.params["policy"][k] for k in policy}
    return State(
      step=self._put(state.step + following),
      params={},
      frozen=self._frozen,
      opt=(),
      key=self._put(state.key),
      extra={"behaviour": self._put(policy)},
    )

  def _put(self, tree):
    """A copy, on the devices of the rollouts."""
    if self._own is None:
      return jax.tree.map(jnp.copy, tree)
    placed = sharding.state_shardings(
      {"tree": tree}, self._axes, sharding.DECODE_RULES, self._own
    )
    return jax.device_put(tree, placed["tree"])

  def _back(self, found):
    """A rollout and its score on the mesh of the updates."""
    rollout, score, extra = found
    if self._own is None:
      return found
    rows = sharding.batch_sharding(self._home)
    none = jax.sharding.NamedSharding(self._home, jax.sharding.PartitionSpec())

    def put(x):
      if not isinstance(x, jax.Array):
        return x
      return jax.device_put(x, rows if x.ndim else none)

    return jax.tree.map(put, rollout), jax.tree.map(put, score), extra
