"""Rows of a nano task, and plain arithmetic on a model's whole logits."""

import functools

import jax
import jax.numpy as jnp
import nano
import numpy as np
import optax

from rlreward import registry
from rlreward.models import transformer
from rlreward.steps import roles

P, T = nano.P, nano.T
SMALL = {"model__layers": 1, "model__remat": "none"}


def rows(prompts, each=1, seed=0, least=1):
  """prompts * each rows of ragged prompts and answers, garbage in between."""
  rng = np.random.default_rng(seed)
  n = prompts * each
  prompt = rng.integers(0, nano.V, (prompts, P)).repeat(each, 0)
  length = rng.integers(2, P + 1, prompts).repeat(each)
  said = rng.integers(least, T + 1, n)
  before = np.arange(P) >= P - length[:, None]
  after = np.arange(T) < said[:, None]
  tokens = np.concatenate([prompt, rng.integers(0, nano.V, (n, T))], 1)
  return {
    "tokens": jnp.asarray(tokens, jnp.int32),
    "attend": jnp.asarray(np.concatenate([before, after], 1)),
    "loss": jnp.asarray(np.concatenate([before & False, after], 1)),
  }


def pairs(count=4, seed=0):
  """Rows 2i = chosen, 2i + 1 = rejected, of unequal strength."""
  strength = np.random.default_rng(seed).uniform(0.2, 2, count).repeat(2)
  return {
    **rows(count, 2, seed),
    "strength": jnp.asarray(strength, jnp.float32),
  }


def labelled(count=8, seed=0, good=0.5):
  """Single answers with a label."""
  label = np.random.default_rng(seed + 99).random(count) < good
  return {**rows(count, 1, seed), "label": jnp.asarray(label)}


def forever(make):
  """(split, size, seed) -> an endless iterator of the same batch."""

  def stream(split, size, seed):
    while True:
      yield make(size, seed)

  return stream


def task(**spec):
  """A nano task with pairs, labels and demonstrations."""
  return nano.task(answer_length=T, **spec)._replace(
    preferences=forever(pairs),
    labelled=forever(labelled),
    demonstrations=forever(rows),
  )


def method(algorithm, own=None, **changes):
  """A method of a small config and a task with every source."""
  config = nano.config(algorithm=algorithm, **SMALL, **changes)
  made = registry.algorithm(algorithm).make(config, own or task())
  return made._replace(step=jax.jit(made.step), init=jax.jit(made.init))


def start(method, moved=0.0, seed=0):
  """A State; the policy `moved` of the way to another one."""
  state = method.init(jax.random.key(seed))
  if moved:
    other = method.init(jax.random.key(seed + 1)).params
    mix = lambda a, b: jnp.asarray(a + np.float32(moved) * np.subtract(b, a))
    state = state._replace(params=jax.tree.map(mix, state.params, other))
  return state


def model(**changes):
  """The decoder of the small config."""
  config = nano.config(**SMALL, **changes)
  return transformer.build(roles.model_config(config.model))


def token_logp(decoder, variables, given):
  """(f32[N, L - 1], mask) from whole logits, every row alone."""
  logits = decoder.logits(variables, given["tokens"], given["attend"])
  logp = jax.nn.log_softmax(logits[:, :-1].astype(jnp.float32))
  target = given["tokens"][:, 1:, None]
  return jnp.take_along_axis(logp, target, 2)[..., 0], given["loss"][:, 1:]


def answer_logp(decoder, variables, given, mean=False):
  """f32[N]: log p of the answers, or its mean over their tokens."""
  logp, mask = token_logp(decoder, variables, given)
  total = jnp.sum(jnp.where(mask, logp, 0), 1)
  return total / mask.sum(1) if mean else total


@functools.partial(jax.jit, static_argnums=0)
def _descend(loss, params, batches):
  opt = optax.adam(100.0, eps=1e3)

  def step(carry, batch):
    params, memory = carry
    value, grad = jax.value_and_grad(loss)(params, *batch)
    change, memory = opt.update(grad, memory)
    return (optax.apply_updates(params, change), memory), value

  carry, seen = jax.lax.scan(step, (params, opt.init(params)), batches)
  return carry[0], seen


def descend(loss, params, *batches):
  """(params after a plain Adam step on each batch, the losses before each).

  Args:
    loss: (params, *batch) -> f32[]; the same function compiles once.
    params: a tree.
    *batches: tuples of arrays.
  """
  stacked = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *batches)
  params, seen = _descend(loss, params, stacked)
  return params, np.asarray(seen)


def value(held, name="loss"):
  """The mean that a `held` reports."""
  total, weight = held[name]
  return float(total) / float(weight)
