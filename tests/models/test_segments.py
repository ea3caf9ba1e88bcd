"""Rows of several examples: positions, what is seen, and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_transformer import BASE, SHAPES

from rlreward.models import score, transformer
from rlreward.models.config import TransformerConfig


def place(segments, real):
  """Positions by a loop: counted from each segment's first real token."""
  out, count, last = [], 0, None
  for s, r in zip(segments, real, strict=True):
    count = count if s == last else 0
    last = s
    count += int(r)
    out.append(max(count - 1, 0))
  return out


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1,
                max_size=12))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_positions_begin_again_where_the_segment_changes(slots):
  segment, real = (np.array(x) for x in zip(*slots, strict=True))
  found = transformer.positions(jnp.asarray(real)[None], segment[None])
  want = np.array(place(segment, real))
  # Slots without a token are never seen: theirs are free.
  np.testing.assert_array_equal(np.asarray(found)[0][real], want[real])


def test_one_segment_is_none():
  real = jnp.asarray([[0, 0, 1, 1, 0, 1]], bool)
  one = transformer.positions(real, jnp.ones((1, 6), jnp.int32))
  np.testing.assert_array_equal(one, transformer.positions(real))


SIZES = ((4, 3, 5), (7, 6))  # examples of each row; the rest is padding


@functools.cache
def packed():
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 19, (2, 14))
  segment, attend = np.zeros((2, 14), np.int32), np.zeros((2, 14), bool)
  where = []
  for n, sizes in enumerate(SIZES):
    at = 0
    for i, size in enumerate(sizes):
      where.append((n, slice(at, at + size)))
      segment[n, where[-1][1]] = i + 1
      at += size
    attend[n, :at] = True
  return jnp.asarray(tokens), jnp.asarray(attend), jnp.asarray(segment), where


@pytest.mark.parametrize("name", ["llama", "gemma", "mistral", "gpt2"])
def test_packed_examples_are_read_as_if_alone(name):
  config = TransformerConfig(**{**BASE, **SHAPES[name]})
  model = transformer.build(config)
  variables = jax.jit(model.init)(jax.random.key(0))
  tokens, attend, segment, where = packed()
  hidden = jax.jit(model.hidden)
  together = np.asarray(hidden(variables, tokens, attend, segment))
  mixed = np.asarray(hidden(variables, tokens, attend))
  # All examples as rows of their own, right-padded: one program.
  alone = np.zeros((len(where), 14), np.int32)
  real = np.zeros((len(where), 14), bool)
  for i, (n, part) in enumerate(where):
    size = part.stop - part.start
    alone[i, :size], real[i, :size] = tokens[n, part], True
  want = np.asarray(hidden(variables, alone, real))
  for i, (n, part) in enumerate(where):
    size = part.stop - part.start
    # f32 sums of a dozen terms of size one in another order.
    np.testing.assert_allclose(together[n, part], want[i, :size], atol=1e-5)
    seen = np.abs(mixed[n, part] - want[i, :size]).max()
    assert seen < 1e-5 if part.start == 0 else seen > 1e-3


def test_no_gradient_crosses_a_segment():
  config = TransformerConfig(**BASE)
  model = transformer.build(config)
  variables = jax.jit(model.init)(jax.random.key(0))
  tokens, attend, segment, where = packed()
  n, part = where[1]

  def read(table):
    tree = {**variables["params"], "embed": {"embedding": table}}
    x = model.hidden({"params": tree}, tokens, attend, segment)
    return jnp.sum(x[n, part] ** 3)

  grad = jax.jit(jax.grad(read))(variables["params"]["embed"]["embedding"])
  touched = set(np.flatnonzero(np.abs(np.asarray(grad)).max(1)))
  assert touched == set(np.asarray(tokens[n, part]).tolist())


@pytest.mark.parametrize("name", ["llama", "gemma"])
@pytest.mark.parametrize("share", [1, 2])
def test_states_of_answers_are_those_of_the_full_pass(name, share):
  config = TransformerConfig(**{**BASE, **SHAPES[name]})
  model = transformer.build(config)
  variables = jax.jit(model.init)(jax.random.key(0))
  rng = np.random.default_rng(1)
  p, t = 5, 4
  tokens = rng.integers(0, 19, (4, p + t))
  length = np.array([5, 2]).repeat(2)
  tokens[:, :p] = tokens[::2, :p].repeat(2, 0)
  before = np.arange(p) >= p - length[:, None]
  after = np.arange(t) < np.array([4, 1, 2, 3])[:, None]
  attend = jnp.asarray(np.concatenate([before, after], 1))
  found = jax.jit(functools.partial(
    score.completion_states, model, prompt_length=p, share=share
  ))(variables, jnp.asarray(tokens), attend)  # fmt: skip
  full = jax.jit(model.hidden)(variables, jnp.asarray(tokens), attend)
  gap = np.where(after[..., None], np.abs(found - full[:, p:]), 0)
  assert gap.max() < 1e-5
  # The state of a token, not the one that predicts it.
  assert np.abs(np.asarray(found - full[:, p - 1 : -1])).max() > 0.1
