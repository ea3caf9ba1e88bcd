"""Who plays the turns of a rollout: one program, or programs and a host.

A task with `spec["tool"]` is answered in turns, see `sampling.tools`. A tool of
jnp functions runs inside the compiled sampler. One in Python runs on the host,
between compiled calls; with several processes each asks it for its own share
of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlreward import errors
from rlreward.ops import masked
from rlreward.sampling import decode, tools
from rlreward.steps import judge, roles
from rlreward.types import Array, Rollout, State, Task

Variables = Callable[[State], tuple[Any, Array]]  # (tree, version) of a policy


def of(task: Task) -> tools.Tool | None:
  """The task's tool, None where the policy answers in one go."""
  return task.spec.get("tool")


def on_host(task: Task) -> bool:
  """Whether a rollout needs Python between its turns."""
  tool = of(task)
  return tool is not None and not tool.on_device


def also(task: Task, whole: Mapping[str, Any]) -> tuple[Any, ...]:
  """The whole batch, where a sampler takes it beside (state, batch, key).

  Args:
    task: whether its tool is on the host.
    whole: the batch as the iterator gave it.
  """
  return (whole,) if on_host(task) else ()


def check(task: Task, spec: decode.Spec, asides: tuple) -> None:
  """Refuses turns that cannot be played.

  Args:
    task: it may have a tool.
    spec: how its rows are sampled.
    asides: further rows of each prompt.

  Raises:
    UserError: see the messages.
  """
  tool = of(task)
  if tool is None:
    return
  tools.check(spec, tool)
  if asides and not tool.on_device:
    raise errors.UserError(
      "rows beside the samples, with a tool that runs on the host",
      "they would be played in turns of their own, and cost as much again",
      "use a method without them, e.g. grpo",
    )
  if any(a.role == "mixture" for a in asides):
    raise errors.UserError(
      "rows of a mixture of two policies, with a tool",
      "turns are played by one policy",
      "use a method without them, e.g. grpo",
    )


def refuse(task: Task, what: str) -> None:
  """For what samples without turns.

  Raises:
    UserError: the task has a tool.
  """
  if of(task) is not None:
    raise errors.UserError(
      f"{what} on a task with a tool",
      "it samples answers in one go, and the tool would never be asked",
      "use an online method, e.g. grpo or ppo",
    )


def write(
  actor: roles.Policy,
  tree: Any,
  batch: Mapping[str, Array],
  key: Array,
  spec: decode.Spec,
  version: Array,
  tool: tools.Tool | None,
) -> Rollout:
  """Answers to the prompts of a batch, inside a compiled function.

  Args:
    actor: the policy.
    tree: its variables, laid out for decoding.
    batch: `prompt`, `prompt_mask`, and what the tool reads.
    key: a key that no other call uses.
    spec: how to sample.
    version: step of the parameters.
    tool: made of jnp functions, or None.
  """
  asked = batch["prompt"], batch["prompt_mask"]
  if tool is None:
    return decode.generate(actor.model, tree, *asked, key, spec, version)
  return tools.generate(
    actor.model, tree, *asked, batch, key, spec, tool, version
  )


def sampler(
  actor: roles.Policy,
  spec: decode.Spec,
  tool: tools.Tool | None,
  variables: Variables,
  after: Callable[[State, Rollout], Any],
) -> Callable[..., Any]:
  """`after` of a rollout, compiled as far as its tool can be.

  Args:
    actor: the policy.
    spec: how its rows are sampled.
    tool: of the task, or None.
    variables: State -> (variables laid out for decoding, their version).
    after: (State, Rollout) -> what is wanted.

  Returns:
    (state, batch, key, *`also`) -> what `after` returns.
  """
  if tool is not None and not tool.on_device:
    played, compiled = play(actor, spec, tool, variables), jax.jit(after)
    return lambda state, *rest: compiled(state, played(state, *rest))

  def sample(state: State, batch, key):
    tree, version = variables(state)
    return after(state, write(actor, tree, batch, key, spec, version, tool))

  return jax.jit(sample)


def play(
  actor: roles.Policy,
  spec: decode.Spec,
  tool: tools.Tool,
  variables: Variables,
) -> Callable[..., Rollout]:
  """The sampler of a tool in Python: (state, batch, key, whole) -> Rollout.

  Args:
    actor: the policy.
    spec: how its rows are sampled.
    tool: runs on the host.
    variables: State -> (variables laid out for decoding, their version).

  Returns:
    A function that is not to be compiled. `batch` has `prompt` and
    `prompt_mask` on the mesh, `whole` is the batch of all processes as the
    iterator gave it. Every process must call it.
  """
  model = actor.model

  @jax.jit
  def first(state: State, prompt, mask, key):
    tree, _ = variables(state)
    start = tools.begin(model, tree, prompt, mask, spec, tool)
    now = tools.advance(model, tree, start, key, spec, tool)
    return now, tools.asked(now, spec)

  @jax.jit
  def then(state: State, now, seen, key):
    tree, _ = variables(state)
    shown, mask, called = seen
    now = tools.resume(model, tree, now, shown, mask, called, spec)
    now = tools.advance(model, tree, now, key, spec, tool)
    return now, tools.asked(now, spec)

  @jax.jit
  def end(state: State, now, prompt, mask):
    _, version = variables(state)
    return tools.finished(now, prompt, mask, spec, version)

  def sample(state: State, batch, key, whole: Mapping[str, Any]) -> Rollout:
    prompt, mask = batch["prompt"], batch["prompt_mask"]
    now, said = first(state, prompt, mask, key)
    for _ in range(tool.turns):
      query, inside = judge.on_host(said)
      if not inside.any():  # no row waits
        break
      seen = _observed(tool, query, inside, whole, spec.samples_per_prompt)
      now, said = then(state, now, seen, key)
    return end(state, now, prompt, mask)

  return sample


def describe(rollout: Rollout) -> dict[str, Array]:
  """{"calls": of a row, "observed": tokens read}, where there is a tool."""
  if "calls" not in rollout.extras:
    return {}
  calls = rollout.extras["calls"]
  first = jnp.argmax(rollout.action, 1)[:, None]
  place = jnp.arange(rollout.action.shape[1])
  seen = rollout.attend & ~rollout.action & (place > first)
  return {
    "calls": jnp.mean(calls),
    "observed": jnp.mean(masked.masked_sum(jnp.ones(seen.shape), seen, 1)),
  }


def _observed(tool: tools.Tool, query, inside, whole, group: int):
  """What the tool says of all rows, each process asking for its share."""
  count = jax.process_count()
  size = query.shape[0] // count
  rows = np.arange(size) + jax.process_index() * size
  told, failure = None, None
  try:
    told = tool.observe(
      query[rows], inside[rows], _columns(tool.columns, whole, rows // group)
    )
  except Exception as error:  # told to all, who would wait for ever
    failure = error
  words = judge.everyone(failure and f"{type(failure).__name__}: {failure}")
  if failure is not None:
    raise failure
  for index, word in enumerate(words):
    if word:
      raise errors.UserError(
        f"the tool failed on process {index}: {word}",
        "rows that wait for it cannot go on, so all processes stop",
        "see the output of that process",
      )
  told = tuple(np.asarray(x) for x in told or ())
  if count == 1:
    return told
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(told, tiled=True)


def _columns(names, whole: Mapping[str, Any], prompts: np.ndarray):
  """{name: values of these prompts}, of arrays or of `columns` with text."""
  out = {}
  for name in names:
    column = whole.get("columns", {}).get(name)
    column = whole[name] if column is None else column
    if isinstance(column, (list, tuple)):
      out[name] = [column[i] for i in prompts]
    else:
      out[name] = np.asarray(column)[prompts]
  return out
