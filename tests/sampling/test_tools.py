"""Turns: golden trajectories, full passes, plain sampling, a host between."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward import errors
from rlreward.models import score, transformer
from rlreward.models.config import TransformerConfig
from rlreward.sampling import decode, tools
from rlreward.types import LENGTH, STOP

CONFIG = TransformerConfig(
  vocab=12, width=16, layers=2, heads=4, kv_heads=2, head_dim=4, mlp=32
)
EOS = 1
STOPS = (EOS, 4, 7)  # enough of them for several turns
B, P, G, T = 2, 4, 3, 14


@functools.cache
def setup():
  """A random decoder and two prompts."""
  model = transformer.build(CONFIG)
  variables = jax.jit(model.init)(jax.random.key(0))
  rng = np.random.default_rng(0)
  prompt = jnp.asarray(rng.integers(3, 12, (B, P)), jnp.int32)
  mask = jnp.asarray(np.arange(P)[None] >= np.array([[0], [2]]))
  return model, variables, prompt, mask


def spec(**changes):
  fields = {"max_new_tokens": T, "samples_per_prompt": G, "stop_ids": STOPS}
  return decode.Spec(**{**fields, **changes})


def short(slots):
  """One row of each prompt, ended by EOS alone."""
  return spec(max_new_tokens=slots, samples_per_prompt=1, stop_ids=(EOS,))


def echo(turns=2, length=3, on_device=True):
  """Answers every turn with its size and 11, an odd one with its size alone."""

  def observe(query, mask, columns):
    del columns
    size = mask.sum(1)
    xp = jnp if on_device else np
    first = xp.minimum(size + 3, 10)
    seen = xp.stack([first, 0 * first + 11, 0 * first], 1).astype(xp.int32)
    keep = xp.arange(length)[None] < xp.where(size % 2, 1, 2)[:, None]
    return seen, keep, mask[:, 0]

  return tools.Tool(observe, turns, length, (), on_device)


@functools.cache
def compiled(tool, **changes):
  model = setup()[0]
  own = spec(**changes)

  def run(variables, prompt, mask, key):
    return tools.generate(model, variables, prompt, mask, {}, key, own, tool)

  return jax.jit(run)


ECHO = echo()


def scripted(rows, vocab=16):
  """A decoder without weights: row n says rows[n][i] as its i-th token.

  i counts what the row holds, observations too, so that a wrong count, a
  skipped or a doubled token changes what is said next.
  """
  said = jnp.asarray(rows, jnp.int32)
  config = TransformerConfig(
    vocab=vocab, width=vocab, layers=1, heads=2, kv_heads=2, head_dim=4, mlp=8
  )
  sure = lambda ids: 50.0 * jax.nn.one_hot(ids, vocab)

  def prefill(variables, tokens, attend):
    del variables
    b, p = tokens.shape
    nothing = (jnp.zeros((b, 2, p, 4)),)
    prefix = transformer.Prefix(nothing, nothing, attend, 0 * tokens)
    return jnp.broadcast_to(sure(said[:b, :1]), (b, p, vocab)), prefix

  def decode_(variables, tokens, attend, prefix, cache, index):
    del variables, tokens, prefix
    before = cache.attend.sum(1, keepdims=True)
    place = before + jnp.cumsum(attend, 1)
    put = jax.vmap(
      lambda o, n, i: jax.lax.dynamic_update_slice_in_dim(o, n, i, 0)
    )
    own = cache._replace(attend=put(cache.attend, attend, index))
    place = jnp.minimum(place, said.shape[1] - 1)
    return sure(jnp.take_along_axis(said, place, 1)), own

  return transformer.build(config)._replace(
    prefill=prefill,
    decode=decode_,
    unstack=lambda v: v,
    head=lambda v: jnp.eye(vocab),
  )


def test_an_interleaved_trajectory_is_written_slot_by_slot():
  # 7 asks, and sees 9 and 11 (a turn of 2) or 4 (of 1); 0 is padding.
  script = [
    [5, EOS, 0, 0, 6, EOS, 0, 0, 8, EOS, 9, 9],  # two calls, an answer
    [EOS, 0, 7, 8, 5, 6, EOS, 0, 0, EOS, 9, 9],  # turns of 1, of 5, an answer
    [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 3],  # never stops
  ]

  def observe(query, mask, columns):
    size = mask.sum(1)
    seen = jnp.stack([size + 3, 0 * size + 11, 0 * size], 1)
    keep = jnp.arange(3)[None] < jnp.where(size % 2, 1, 2)[:, None]
    return seen.astype(jnp.int32), keep, columns["calls"]

  tool = tools.Tool(observe, 2, 3, ("calls",))
  model = scripted(script)
  prompt = jnp.full((3, 2), 3, jnp.int32)
  rollout = tools.generate(
    model, {}, prompt, prompt == 3, {"calls": jnp.ones(3, bool)},
    jax.random.key(0), short(10), tool,
  )  # fmt: skip
  n, y = False, True
  np.testing.assert_array_equal(
    rollout.tokens[:, 2:],
    [
      [5, EOS, 5, 11, 6, EOS, 5, 11, 8, EOS],
      [EOS, 4, 7, 8, 5, 6, EOS, 8, 0, EOS],
      [5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
    ],
  )
  np.testing.assert_array_equal(
    rollout.action[:, 2:],
    [
      [y, y, n, n, y, y, n, n, y, y],
      [y, n, y, y, y, y, y, n, y, y],
      [y] * 10,
    ],
  )
  assert rollout.attend.all() and not rollout.action[:, :2].any()
  np.testing.assert_array_equal(rollout.loss, rollout.action)
  np.testing.assert_array_equal(rollout.finish, [STOP, STOP, LENGTH])
  np.testing.assert_array_equal(rollout.extras["calls"], [2, 2, 0])
  assert not rollout.logp[~rollout.action].any()


@pytest.mark.parametrize(
  "calls,room,finish,tokens",
  [
    (False, 10, STOP, [5, EOS]),  # what it says is no call
    (True, 4, LENGTH, [5, EOS]),  # two tokens to read, and none to write
    (True, 5, LENGTH, [5, EOS, 5, 11, 6]),
  ],
)
def test_rows_that_do_not_go_on(calls, room, finish, tokens):
  model = scripted([[5, EOS, 0, 0, 6, EOS, 0, 0, 8, EOS]])
  tool = echo(turns=1)
  asks = lambda *a: (*tool.observe(*a)[:2], jnp.full(1, calls))
  rollout = tools.generate(
    model, {}, jnp.full((1, 1), 3), jnp.ones((1, 1), bool), {},
    jax.random.key(0), short(room),
    tool._replace(observe=asks),
  )  # fmt: skip
  size = len(tokens)
  assert rollout.tokens[0, 1 : 1 + size].tolist() == tokens
  assert rollout.attend[0, 1:].tolist() == [True] * size + [False] * (
    room - size
  )
  assert rollout.finish[0] == finish


def test_the_last_call_is_not_answered():
  model = scripted([[5, EOS, 0, 0, 6, EOS, 0, 0, 8, EOS]])
  rollout = tools.generate(
    model, {}, jnp.full((1, 1), 3), jnp.ones((1, 1), bool), {},
    jax.random.key(0), short(12),
    echo(turns=1),
  )  # fmt: skip
  assert rollout.attend.sum() == 1 + 6 and rollout.finish[0] == STOP
  assert rollout.extras["calls"][0] == 1


def test_log_probs_are_those_of_one_full_pass():
  """Also of actions behind observations; f32 sums in another order: 2e-5."""
  _, variables, prompt, mask = setup()
  model = setup()[0]
  rollout = compiled(ECHO)(variables, prompt, mask, jax.random.key(3))
  assert rollout.extras["calls"].max() == 2  # some rows went all the way
  logp, _ = score.completion_logprob(
    model, variables, rollout.tokens, rollout.attend, P, G
  )
  act = np.asarray(rollout.action[:, P:])
  np.testing.assert_allclose(
    np.asarray(rollout.logp)[:, P:][act], np.asarray(logp)[act], atol=2e-5
  )
  seen = rollout.attend[:, P:] & ~act
  assert seen.any() and not rollout.loss[:, P:][seen].any()


def test_without_a_call_it_is_plain_sampling():
  model, variables, prompt, mask = setup()
  never = ECHO._replace(
    observe=lambda *a: (*ECHO.observe(*a)[:2], jnp.zeros(B * G, bool))
  )
  key = jax.random.key(5)
  ours = compiled(never)(variables, prompt, mask, key)
  plain = decode.sampler(model, spec())(variables, prompt, mask, key)
  assert {STOP, LENGTH} >= set(np.asarray(plain.finish).tolist())
  for name in ("tokens", "attend", "action", "loss", "group", "finish"):
    np.testing.assert_array_equal(getattr(ours, name), getattr(plain, name))
  # Caches of another size: sums of f32 in another order.
  np.testing.assert_allclose(ours.logp, plain.logp, atol=1e-5)


def test_a_host_between_compiled_turns_writes_the_same():
  model, variables, prompt, mask = setup()
  key, own = jax.random.key(3), spec()
  asked_here = echo(on_device=False)
  go = jax.jit(lambda now: tools.advance(model, variables, now, key, own, ECHO))
  then = jax.jit(
    lambda now, *seen: tools.resume(model, variables, now, *seen, own)
  )
  now = go(tools.begin(model, variables, prompt, mask, own, ECHO))
  while (now.state == tools.WAITING).any():
    query, inside = map(np.asarray, tools.asked(now, own))
    now = go(then(now, *asked_here.observe(query, inside, {})))
  host = tools.finished(now, prompt, mask, own)
  whole = compiled(ECHO)(variables, prompt, mask, key)
  np.testing.assert_array_equal(host.tokens, whole.tokens)
  np.testing.assert_array_equal(host.attend, whole.attend)
  np.testing.assert_array_equal(host.action, whole.action)
  np.testing.assert_allclose(host.logp, whole.logp, atol=1e-6)


def test_fewest_tokens_are_of_each_turn():
  _, variables, prompt, mask = setup()
  run = compiled(ECHO, min_new_tokens=3)
  rollout = run(variables, prompt, mask, jax.random.key(1))
  act = np.asarray(rollout.action[:, P:])
  ends = np.isin(rollout.tokens[:, P:], STOPS) & act
  assert ends.any()
  for row in range(B * G):
    size = 0
    for end, mine in zip(ends[row], act[row], strict=True):
      size = size + 1 if mine else 0
      assert not end or size > 3


def test_only_the_columns_of_the_tool_are_read():
  model, variables, prompt, mask = setup()
  names = []

  def observe(query, mask, columns):
    names.append(sorted(columns))
    assert columns["facts"].shape == (B * G, 5)
    return ECHO.observe(query, mask, columns)

  tool = tools.Tool(observe, 1, 3, ("facts",))
  columns = {"facts": jnp.zeros((B, 5)), "other": jnp.zeros((B, 2))}
  jax.eval_shape(
    lambda key: tools.generate(
      model, variables, prompt, mask, columns, key, spec(), tool
    ),
    jax.random.key(0),
  )
  assert names and set(map(tuple, names)) == {("facts",)}


@pytest.mark.parametrize(
  "changes,tool,words",
  [
    ({"stop_ids": ()}, ECHO, "without stop ids"),
    ({"max_new_tokens": 9}, ECHO, "max_new_tokens=9"),
    ({}, ECHO._replace(length=0), "length=0"),
    ({}, ECHO._replace(turns=-1), "turns=-1"),
  ],
)
def test_turns_that_cannot_be_are_refused(changes, tool, words):
  if "max_new_tokens" in changes:
    tool = tool._replace(length=4)
  with pytest.raises(errors.UserError, match=words) as caught:
    tools.check(spec(**changes), tool)
  assert len(str(caught.value).splitlines()) == 3
