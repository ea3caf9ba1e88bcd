"""Answers in turns: the policy writes, a tool answers, the policy goes on.

A turn ends with a stop token. The tool then reads what the turn says: it is a
call, whose observation the policy reads before its next turn, or the row is
over. Observations are attended and are no actions, so that they have no
log-prob, earn nothing and are not trained on; see `Rollout`. They enter the
cache in one pass, and no token is encoded or computed twice.

Rows do not wait for each other within a turn, only for the tool, so that it is
asked once for all rows that call: inside the compiled program where it is made
of jnp functions, else on the host between two compiled calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlreward import errors
from rlreward.models import layers, transformer
from rlreward.ops import mesh
from rlreward.sampling import decode
from rlreward.types import LENGTH, RUNNING, STOP, Array, Rollout

WAITING = 3  # for the tool; never leaves the sampler
Variables = Any


class Tool(NamedTuple):
  """What the policy may ask.

  Attributes:
    observe: (query i32[N, T], mask bool[N, T], {column: [N, ...]}) ->
      (observation i32[N, O], mask bool[N, O], called bool[N]). The query is
      what a turn holds, its stop token too, from slot 0 on, and so is the
      observation. Rows whose turn is no call are over. On the host all are
      numpy, and columns may hold text.
    turns: most calls of a row.
    length: O.
    columns: of the batch, that it reads.
    on_device: whether `observe` can be compiled.
  """

  observe: Callable[..., tuple[Any, Any, Any]]
  turns: int
  length: int
  columns: tuple[str, ...] = ()
  on_device: bool = True


class Turns(NamedTuple):
  """N rows in the middle of their turns; S = T + O slots.

  Attributes:
    hidden: [N, D], what predicts the next token.
    prefix: keys of the prompts.
    cache: keys of the rows, without that of the last token.
    tokens: i32[N, S].
    logp: f32[N, S].
    action: bool[N, S].
    attend: bool[N, S].
    count: i32[N], tokens so far.
    begun: i32[N], those before this turn.
    calls: i32[N], calls so far.
    state: i32[N], RUNNING, WAITING, STOP or LENGTH.
    drawn: i32[], how often a token was drawn.
  """

  hidden: Array
  prefix: transformer.Prefix
  cache: transformer.Cache
  tokens: Array
  logp: Array
  action: Array
  attend: Array
  count: Array
  begun: Array
  calls: Array
  state: Array
  drawn: Array


def check(spec: decode.Spec, tool: Tool) -> None:
  """Refuses turns that cannot be.

  Raises:
    UserError: no room, or no token that ends a turn.
  """
  if not spec.stop_ids:
    raise errors.UserError(
      "a tool without stop ids",
      "a turn ends with one of them, and the tool would never be asked",
      "give the task stop_ids, or take its tool away",
    )
  if tool.turns < 0 or tool.length < 1:
    raise errors.UserError(
      f"a tool with turns={tool.turns}, length={tool.length}",
      "they are the most calls of a row and the slots of an observation",
      "use turns of 0 or more and a length of 1 or more",
    )
  least = tool.turns * (tool.length + 1) + 1
  if spec.max_new_tokens < least:
    raise errors.UserError(
      f"sampling.max_new_tokens={spec.max_new_tokens} with {tool.turns} calls"
      f" of {tool.length} tokens each to read",
      "observations take slots of the answer, and none would be left",
      f"set sampling.max_new_tokens to more than {least}, or fewer turns",
    )


def begin(
  model: transformer.Model,
  variables: Variables,
  prompt: Array,
  prompt_mask: Array,
  spec: decode.Spec,
  tool: Tool,
) -> Turns:
  """Rows that have read their prompt and written nothing.

  Args:
    model: the decoder.
    variables: its variables, stacked as `init` gives them.
    prompt: i32[B, P], left-padded.
    prompt_mask: bool[B, P].
    spec: how to sample; `max_new_tokens` slots hold actions and observations.
    tool: what may be asked.
  """
  g = spec.samples_per_prompt
  n, slots = prompt.shape[0] * g, spec.max_new_tokens + tool.length
  rows = lambda x: mesh.constrain(x, mesh.DATA)
  hidden, prefix = model.prefill(variables, rows(prompt), rows(prompt_mask))
  full = lambda value, dtype: rows(jnp.full((n, slots), value, dtype))
  zero = lambda: rows(jnp.zeros(n, jnp.int32))
  return Turns(
    hidden=rows(jnp.repeat(hidden[:, -1], g, 0)),
    prefix=prefix,
    cache=transformer.empty_cache(model, n, slots, spec.cache_dtype),
    tokens=full(spec.pad_id, jnp.int32),
    logp=full(0, jnp.float32),
    action=full(False, bool),
    attend=full(False, bool),
    count=zero(),
    begun=zero(),
    calls=zero(),
    state=zero() + RUNNING,
    drawn=jnp.zeros((), jnp.int32),
  )


def advance(
  model: transformer.Model,
  variables: Variables,
  turns: Turns,
  key: Array,
  spec: decode.Spec,
  tool: Tool,
) -> Turns:
  """Writes until each row waits for the tool or is over.

  Args:
    model: the decoder.
    variables: its variables.
    turns: as `begin` or `resume` left them.
    key: the same for all turns of a rollout.
    spec: how to sample.
    tool: a row that has called it `turns` times does not wait.
  """
  flat, kernel = model.unstack(variables), model.head(variables)

  def draw(t: Turns) -> Turns:
    live = t.state == RUNNING
    logits = transformer.logits_of(model.config, t.hidden, kernel)
    token, logp = decode.pick(
      logits,
      jax.random.fold_in(key, t.drawn),
      (t.count - t.begun)[:, None],
      spec,
    )
    # What a row that does not run would write is what is there: nothing.
    put = lambda old, new: layers.write(old, new[:, None], t.count, 1)
    count = t.count + live
    stop = live & jnp.isin(token, jnp.asarray(spec.stop_ids, jnp.int32))
    state = jnp.where(live & (count == spec.max_new_tokens), LENGTH, t.state)
    state = jnp.where(stop, STOP, state)
    state = jnp.where(stop & (t.calls < tool.turns), WAITING, state)
    return t._replace(
      tokens=put(t.tokens, jnp.where(live, token, spec.pad_id)),
      logp=put(t.logp, jnp.where(live, logp, 0.0)),
      action=put(t.action, live),
      attend=put(t.attend, live),
      count=count,
      state=state.astype(jnp.int32),
      drawn=t.drawn + 1,
    )

  def feed(t: Turns) -> Turns:
    live = t.state == RUNNING
    last = jnp.maximum(t.count - 1, 0)
    hidden, cache = model.decode(
      flat, _at(t.tokens, last)[:, None], live[:, None], t.prefix, t.cache, last
    )
    return t._replace(hidden=hidden[:, 0], cache=cache)

  runs = lambda t: jnp.any(t.state == RUNNING)
  return jax.lax.while_loop(runs, lambda t: draw(feed(t)), draw(turns))


def asked(turns: Turns, spec: decode.Spec) -> tuple[Array, Array]:
  """(i32[N, T], bool[N, T]): the present turn of each row, from slot 0 on."""
  slot = jnp.arange(spec.max_new_tokens)
  place = jnp.minimum(turns.begun[:, None] + slot, spec.max_new_tokens - 1)
  size = jnp.where(turns.state == WAITING, turns.count - turns.begun, 0)
  inside = slot < size[:, None]
  query = jnp.take_along_axis(turns.tokens, place, 1)
  return jnp.where(inside, query, spec.pad_id), inside


def resume(
  model: transformer.Model,
  variables: Variables,
  turns: Turns,
  observation: Array,
  mask: Array,
  called: Array,
  spec: decode.Spec,
) -> Turns:
  """Shows rows that wait what the tool says; those that did not call are over.

  An observation that leaves no slot for an action is not shown, and its row
  ends as one that was cut off.

  Args:
    model: the decoder.
    variables: its variables.
    turns: as `advance` left them.
    observation: i32[N, O], from slot 0 on.
    mask: bool[N, O].
    called: bool[N].
    spec: how to sample.
  """
  t = turns
  waits, called = t.state == WAITING, jnp.asarray(called)
  size = jnp.sum(mask, 1, dtype=jnp.int32)
  fits = t.count + size < spec.max_new_tokens
  goes = waits & called & fits
  seen = jnp.asarray(mask) & goes[:, None]
  last = jnp.maximum(t.count - 1, 0)
  # The stop token of the turn has not been read yet.
  block = jnp.concatenate([_at(t.tokens, last)[:, None], observation], 1)
  shown = jnp.concatenate([goes[:, None], seen], 1)
  hidden, cache = model.decode(
    model.unstack(variables), block, shown, t.prefix, t.cache, last
  )
  end = jnp.take_along_axis(hidden, size[:, None, None], 1)[:, 0]
  put = lambda old, new: layers.write(old, new, t.count, 1)
  count = t.count + jnp.where(goes, size, 0)
  state = jnp.where(waits, jnp.where(called, LENGTH, STOP), t.state)
  return t._replace(
    hidden=jnp.where(goes[:, None], end, t.hidden),
    cache=cache,
    tokens=put(t.tokens, jnp.where(seen, observation, spec.pad_id)),
    attend=put(t.attend, seen),
    count=count,
    begun=jnp.where(goes, count, t.begun),
    calls=t.calls + goes,
    state=jnp.where(goes, RUNNING, state).astype(jnp.int32),
  )


def finished(
  turns: Turns,
  prompt: Array,
  prompt_mask: Array,
  spec: decode.Spec,
  version: Array | int = 0,
) -> Rollout:
  """The Rollout of rows that are over; `extras["calls"]` is f32[N].

  Args:
    turns: no row runs or waits.
    prompt: i32[B, P].
    prompt_mask: bool[B, P].
    spec: how they were sampled.
    version: step of the parameters.
  """
  g, p = spec.samples_per_prompt, prompt.shape[1]
  n = prompt.shape[0] * g
  wide = lambda x: jnp.repeat(x, g, 0)
  join = lambda a, b: mesh.constrain(
    jnp.concatenate([a, b[:, : spec.max_new_tokens]], 1), mesh.DATA
  )
  action = join(jnp.zeros((n, p), bool), turns.action)
  return Rollout(
    tokens=join(wide(prompt), turns.tokens),
    attend=join(wide(prompt_mask), turns.attend),
    action=action,
    loss=action,
    logp=join(jnp.zeros((n, p), jnp.float32), turns.logp),
    group=jnp.arange(n, dtype=jnp.int32) // g,
    finish=turns.state,
    version=jnp.asarray(version, jnp.int32),
    sampling=decode.drawn_from(spec),
    extras={"calls": turns.calls.astype(jnp.float32)},
  )


def generate(
  model: transformer.Model,
  variables: Variables,
  prompt: Array,
  prompt_mask: Array,
  columns: Mapping[str, Array],
  key: Array,
  spec: decode.Spec,
  tool: Tool,
  version: Array | int = 0,
) -> Rollout:
  """G answers to each prompt in one compiled program, tool included.

  Args:
    model: the decoder.
    variables: its variables.
    prompt: i32[B, P], left-padded.
    prompt_mask: bool[B, P].
    columns: {name: [B, ...]}, those that the tool reads.
    key: a key that no other call uses.
    spec: how to sample.
    tool: made of jnp functions.
    version: step of the parameters.

  Returns:
    Rollout of N = B * G rows. Where no row calls, that of `decode.generate`.
  """
  wide = {
    k: jnp.repeat(columns[k], spec.samples_per_prompt, 0) for k in tool.columns
  }
  go = lambda t: advance(model, variables, t, key, spec, tool)

  def turn(t: Turns) -> Turns:
    seen = tool.observe(*asked(t, spec), wide)
    return go(resume(model, variables, t, *seen, spec))

  waits = lambda t: jnp.any(t.state == WAITING)
  first = begin(model, variables, prompt, prompt_mask, spec, tool)
  last = jax.lax.while_loop(waits, turn, go(first))
  return finished(last, prompt, prompt_mask, spec, version)


def _at(x: Array, place: Array) -> Array:
  """x[n, place[n]] of [N, S]."""
  return jnp.take_along_axis(x, place[:, None], 1)[:, 0]
