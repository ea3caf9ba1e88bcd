"""The straight main: config -> mesh -> task -> method -> loop -> evaluate."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from rlreward import attainable, errors, metrics, record, sharding, stages
from rlreward import config as config_lib
from rlreward.checkpoint import Checkpointer
from rlreward.steps import judge as judge_lib
from rlreward.steps import overlap, roles
from rlreward.steps import start as start_lib
from rlreward.types import Method, State, Task

# Fields that a resumed run may change: how long, what is shown, and where.
MAY_CHANGE = ("steps", "log.every", "log.samples_every", "log.tensorboard",
              "checkpoint.every", "checkpoint.keep",
              "mesh.replica", "mesh.fsdp", "mesh.tensor")  # fmt: skip


class Result(NamedTuple):
  """What a run leaves behind.

  Attributes:
    state: the last State.
    evals: {step: {metric: float}} of the held-out evaluations.
    workdir: where everything lies.
    model: TransformerConfig of the policy.
    task: the task.
    stopped: whether a signal asked it to stop.
  """

  state: State
  evals: dict[int, dict[str, float]]
  workdir: pathlib.Path
  model: Any
  task: Task
  stopped: bool = False


def run(
  config: Any,
  workdir: str | pathlib.Path,
  *,
  overwrite: bool = False,
  command: str = "",
  stage: str = "",
  stop_after: int | None = None,
  task: Task | None = None,
) -> Result:
  """Trains what the config describes, from the last checkpoint if there is one.

  Args:
    config: see `configs/common.py`.
    workdir: the run directory.
    overwrite: start again in a directory that holds a run.
    command: how to run this again, for the banner.
    stage: name of the run, or of its last stage, for the banner.
    stop_after: stop, with a checkpoint, after this many steps of this call.
    task: what to learn, where it is made in Python; else the config's.

  Returns:
    Result.

  Raises:
    UserError: a config that cannot train, before anything compiles.
  """
  # ------------------------------------------------------------- directory
  workdir = pathlib.Path(workdir).resolve()
  _prepare(workdir, config, overwrite)
  compile_cache(workdir)

  # ------------------------------------------------------------- stages
  every = stages.of(config, workdir, stage)
  left = every[stages.reached(every) :]
  trained = stages.Trained(every)
  # What a later stage refuses is refused now, not after others have trained.
  made = [stages.made(one, task) for one in left]
  while True:
    one, before = left.pop(0), 0
    if not one.last:
      _prepare(one.folder, one.config, False)
      before = Checkpointer(one.folder / "checkpoints").latest() or 0
    result = _stage(one, made.pop(0), trained, command, stop_after)
    done = int(result.state.step)
    if one.last or result.stopped or done < one.config.steps:
      return result
    trained.keep(one, result.state)
    del result
    if stop_after is not None:
      stop_after -= done - before


def _stage(
  stage: stages.Stage,
  made: stages.Made,
  trained: stages.Trained,
  command: str,
  stop_after: int | None,
) -> Result:
  """Trains one stage in its own directory, from its last checkpoint if any."""
  config, workdir = stage.config, stage.folder
  task, method, abstract = made
  saver = Checkpointer(workdir / "checkpoints", config.checkpoint.keep)
  latest = _agreed(saver.latest(), workdir)
  mesh, rollout_mesh = overlap.meshes(config)
  with contextlib.ExitStack() as stack, jax.set_mesh(mesh):
    if method.phases is None:
      method = method._replace(step=jax.jit(method.step, donate_argnums=0))

    # ----------------------------------------------------------- state
    actor = roles.policy(config.model)
    key = jax.random.key(config.seed)
    placed = sharding.state_shardings(
      abstract, actor.axes, sharding.TRAIN_RULES, mesh
    )
    source: Any = getattr(task, method.source)
    batches: Any = source("train", config.prompts_per_step, config.seed)
    if latest is None:
      loaded, given = trained.given(stage, task)
      state = start_lib.initial(config, method, key, placed, loaded, given)
      begun = 0
      del loaded, given
    else:
      wanted = sharding.with_shardings(abstract, placed)
      state, position, begun = saver.restore(wanted, latest)
      batches.set_state(position)

    # ----------------------------------------------------------- banner
    writer = metrics.Writer(
      workdir,
      config.steps,
      resume_step=None if latest is None else begun,
      tensorboard=config.log.tensorboard,
      log_every=config.log.every,
    )
    stack.callback(writer.close)
    writer.banner(
      record.banner(config, actor, abstract, mesh, workdir, command,
                    stage.label, begun, task)
    )  # fmt: skip
    record.write_command(workdir, command)
    evals = record.old_evals(workdir, begun)
    counter = stack.enter_context(metrics.CompileCounter(warn=writer.line))
    place = lambda batch: judge_lib.spread(mesh, batch)
    tracker = attainable.Tracker(config, task, actor, workdir, evals)
    judge = _Judge(
      config, task, method, place, writer, workdir, counter, tracker
    )
    record.write_data(workdir, task)
    stopping = stack.enter_context(contextlib.closing(_Signals()))
    stack.callback(saver.close)

    # ----------------------------------------------------------- loop
    asked = False
    if begun == 0:
      evals[0] = judge(state, 0)
    end = config.steps
    if stop_after is not None:
      end = min(end, begun + max(stop_after, 0))
    source = overlap.Given(batches, place)
    if method.phases is not None:
      source = overlap.Pipeline(
        method, task, batches, place, config, rollout_mesh, actor.axes, end
      )
      stack.callback(source.close)
    for step in range(begun, end):
      state, found, seen = advance(method, state, source, counter)
      done = step + 1
      found |= counter.scalars() | _drift(writer, found)
      shown = writer.scalars(done, found)
      writer.progress(done, shown)
      _refuse_nan(shown, done)
      if seen is not None:
        record.write_chosen(workdir, done, task, *seen)
        if _due(done, config.log.samples_every):
          writer.samples(done, record.rows(task, *seen))
      if _due(done, config.eval.every):
        evals[done] = judge(state, done)
      # Steps of all stages in one count, so that processes agree on one.
      asked = saver.preempted(stage.before + done) or stopping.asked
      if asked or done == end or _due(done, config.checkpoint.every):
        saver.save(done, state, source.position())
      if asked:
        break
    finished = int(state.step) >= config.steps
    if finished and config.steps not in evals:
      evals[config.steps] = judge(state, config.steps)

    # ----------------------------------------------------------- the end
    saver.close()
    if finished:
      writer.summary(
        names=_summary_names(evals),
        footer=record.footer(workdir, evals, "" if stage.last else stage.label),
      )
    asked |= stopping.asked
    if asked and (not finished or not stage.last):
      step = int(state.step)
      writer.line(f"stopped at step {step}; run the same command to go on")
    return Result(state, evals, workdir, actor.model.config, task, asked)


def advance(method: Method, state: State, source, counter):
  """One outer step, timed in its parts.

  Args:
    method: what to run; a method without phases has a jitted `step`.
    state: donated.
    source: `overlap.Pipeline`, or `overlap.Given` for a method without phases.
    counter: names what compiles.

  Returns:
    (state, {metric: scalar}, (rollout, score, rows) for the sample log or
    None).
  """
  start = time.perf_counter()
  if method.phases is None:
    batch = source.next()
    with counter.phase("update"):
      state, found = method.step(state, batch, state.key)
      jax.block_until_ready(state.step)
    took = time.perf_counter() - start
    tokens = int(np.prod(batch["tokens"].shape))
    return state, {**found, "train_tokens_per_second": tokens / took}, None
  with counter.phase("sample"):
    rollout, score, extra = source.next(state)
  middle = time.perf_counter()
  with counter.phase("update"):
    state, found = method.phases.update(state, rollout, score)
    jax.block_until_ready(state.step)
  end = time.perf_counter()
  found = {**found, **extra}
  rows = found.pop("rows")
  rolled = found["tokens_sampled"] / extra["seconds/sample"]
  found["rollout_tokens_per_second"] = rolled
  found["train_tokens_per_second"] = found["tokens_seen"] / (end - middle)
  found["seconds/update"] = end - middle
  found["seconds/step"] = end - start
  return state, found, (rollout, score, rows)


def compile_cache(workdir: pathlib.Path) -> None:
  """Keeps compiled programs beside the run, unless a cache is already set."""
  if jax.config.values["jax_compilation_cache_dir"] is None:
    folder = os.environ.get("RLREWARD_CACHE", str(workdir / "compiled"))
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _prepare(workdir: pathlib.Path, config, overwrite: bool) -> None:
  """Process 0 looks after the directory; all hear when it is refused."""
  refusal = None
  if jax.process_index() == 0:
    try:
      if overwrite:
        config_lib.check_overwrite(workdir)
        shutil.rmtree(workdir, ignore_errors=True)
      held = Checkpointer(workdir / "checkpoints").latest() or 0
      # A run cannot go back: then "steps", the first, may not change either.
      may_change = MAY_CHANGE[config.steps < held :]
      config_lib.check_workdir(workdir, config, may_change)
    except errors.UserError as error:
      refusal = [error.what, error.why, error.fix]
  refusal = judge_lib.everyone(refusal)[0]
  if refusal:
    raise errors.UserError(*refusal)


def _agreed(latest: int | None, workdir: pathlib.Path) -> int | None:
  """The step to resume from; every process must see the same."""
  found = judge_lib.everyone(latest)
  if len(set(found)) > 1:
    raise errors.UserError(
      f"the processes see checkpoints of steps {found} in {workdir}",
      "each of them reads and writes a part of every checkpoint",
      "give a --workdir on a file system that all of them share",
    )
  return latest


def _due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0


def _drift(writer, found: Mapping[str, Any], prefix: str = "") -> dict:
  """{"length_drift": tokens since the first step}, where there is a length."""
  if "length" not in found:
    return {}
  return {"length_drift": writer.drift(f"{prefix}length", found["length"])}


class _Judge:
  """Held-out evaluation on prompts and a key that never change."""

  def __init__(
    self, config, task, method, place, writer, workdir, counter, tracker
  ):
    self.method, self.task, self.place = method, task, place
    self.tracker = tracker
    self.writer, self.workdir, self.counter = writer, workdir, counter
    self.key = jax.random.key(config.seed + 1)
    size = config.eval.prompts
    self.batch = self.rows = None
    if method.evaluate is not None:
      self.batch = next(task.batches("test", size, 0))
    if method.held is not None:
      self.rows = next(getattr(task, method.source)("test", size, 0))

  def __call__(self, state: State, step: int) -> dict[str, float]:
    sums = {}
    with self.counter.phase("evaluate"):
      if self.rows is not None:
        assert self.method.held is not None
        placed = judge_lib.arrays(self.place(self.rows))
        held = self.method.held(state, placed)
        sums |= {f"held/{k}": v for k, v in jax.device_get(held).items()}
      if self.batch is not None:
        assert self.method.evaluate is not None
        batch = self.place(self.batch)
        found: Any = self.method.evaluate(state, batch, self.key, self.batch)
        sums |= jax.device_get(found["metrics"])
        rows = record.rows(self.task, found["rollout"], found["score"], {})
        record.write_eval(self.workdir, step, rows)
    values = {k: float(s) / max(float(w), 1e-9) for k, (s, w) in sums.items()}
    if self.batch is not None:
      values |= self.tracker(state, batch, self.batch, values)
    values |= _drift(self.writer, values, "eval/")
    # Last: a line of metrics says that this evaluation needs no other.
    self.writer.scalars(step, values, prefix="eval/")
    shown = ", ".join(f"{k} {v:.3f}" for k, v in values.items())
    self.writer.line(f"held out, step {step}: {shown}")
    return values


class _Signals:
  """Asks the loop to stop at the next step on SIGTERM or Ctrl-C.

  Several processes have to agree on that step; there JAX's own preemption
  notice, which a SIGTERM to any of them starts, is left in place.
  """

  def __init__(self):
    self.asked, self._old = False, {}
    if jax.process_count() > 1:
      return
    for name in (signal.SIGTERM, signal.SIGINT):
      try:
        self._old[name] = signal.signal(name, self._ask)
      except ValueError:  # not the main thread
        continue

  def _ask(self, number, frame):
    if self.asked:
      raise KeyboardInterrupt
    self.asked = True

  def close(self):
    """Gives the signals back."""
    for name, handler in self._old.items():
      signal.signal(name, handler)


def _refuse_nan(shown: Mapping[str, float], step: int) -> None:
  for name in ("loss", "grad_norm"):
    if not np.isfinite(shown.get(name, 0.0)):
      raise errors.UserError(
        f"{name} is {shown[name]} at step {step}",
        "every later step would train on it; the last checkpoint is intact",
        "lower optimizer.learning_rate or set optimizer.clip_norm, and train in"
        " another --workdir",
      )


def _summary_names(evals) -> list[str]:
  names = list(next(iter(evals.values()), {}))
  return [f"eval/{n}" for n in names] + ["loss", "kl", "length", "grad_norm"]
