"""Dropout of adapters: in the gradient alone, with ratios that are 1."""

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import errors, registry
from rlreward.models import layers, lora, transformer
from rlreward.steps import roles, thin

RATE = 0.25


def method(rate, name="grpo", **changes):
  c = nano.config(
    algorithm=name, model__lora_rank=2, model__lora_dropout=rate, **changes
  )
  return registry.algorithm(name).make(c, nano.task())


def moved(state):
  """The state with an adapter whose B is not 0."""
  noise = lambda x: 0.3 * jax.random.normal(jax.random.key(5), x.shape)
  tree = jax.tree.map(noise, state.params["policy"]["lora"])
  return state._replace(params={"policy": {"lora": tree}})


def stepped(rate, **changes):
  made = method(rate, **changes)
  state = moved(made.init(jax.random.key(0)))
  return state, *jax.jit(made.step)(state, nano.batch(), state.key)


def change(before, after):
  pairs = jax.tree.map(lambda a, b: b - a, before.params, after.params)
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(pairs)])


@pytest.mark.parametrize("changes", [{}, {"updates_per_step": 2, "epochs": 2}])
def test_ratios_are_exact_while_the_gradient_is_thinned(changes):
  _, _, plain = stepped(0.0, **changes)
  before, after, found = stepped(RATE, **changes)
  # The first update's own pass is that of the sampler, dropout or not.
  assert float(found["logprob_abs_diff_max"]) < 1e-5
  if not changes:
    assert float(found["ratio"]) == 1.0
    assert float(found["loss"]) == float(plain["loss"])
    assert float(found["grad_norm"]) != float(plain["grad_norm"])
  assert np.isfinite(change(before, after)).all()


def test_masks_are_those_of_the_step_and_follow_it():
  made = method(RATE)
  state = moved(made.init(jax.random.key(0)))
  step = jax.jit(made.step)
  once, twice = (step(state, nano.batch(), state.key)[0] for _ in range(2))
  assert nano.gap(once.params, twice.params) == 0
  later = state._replace(step=state.step + 1)
  other = step(later, nano.batch(), state.key)[0]
  assert nano.gap(once.params, other.params) > 0


def test_the_mean_over_masks_is_the_whole_adapter():
  """E[m x / (1 - p)] = x, and an input is left out with probability p."""
  c = transformer.TransformerConfig(
    vocab=5, width=4, layers=1, heads=1, kv_heads=1, head_dim=4, mlp=4,
    lora_dropout=RATE, lora_scale=2.0,
  )  # fmt: skip
  linear = layers.Linear(c, 3, (None, None))
  w, a, b, x = (
    jax.random.normal(jax.random.key(i), shape)
    for i, shape in enumerate([(4, 3), (4, 2), (2, 3), (1, 4)])
  )
  whole = {"params": {"kernel": w}, "lora": {"a": a, "b": b}}

  def thinned(key):
    own = {**whole["lora"], "drop": key}
    return linear.apply({**whole, "lora": own}, x)[0]

  n = 20_000
  each = jax.vmap(thinned)(jax.random.split(jax.random.key(9), n))
  want = linear.apply(whole, x)[0]
  np.testing.assert_allclose(want, (x @ w + (x @ a) @ b * 2)[0], rtol=1e-5)
  error = each.std(0) / n**0.5
  assert (jnp.abs(each.mean(0) - want) < 4 * error).all()
  # All four inputs gone: the base alone.
  base = jnp.isclose(each, (x @ w)[0], atol=1e-6).all(1).mean()
  assert base == pytest.approx(RATE**4, abs=4 * (RATE**4 / n) ** 0.5)


def test_projections_and_layers_have_masks_of_their_own():
  shape = jax.eval_shape(
    transformer.build(roles.model_config(nano.config().model)).init,
    jax.random.key(0),
  )
  adapter = lora.init(jax.random.key(1), shape["params"], 2)
  tree = lora.thinned({**shape, "lora": adapter}, jax.random.key(2))["lora"]
  drops = [leaf["drop"] for part in tree["layers"].values()
           for leaf in part.values()]  # fmt: skip
  bits = np.concatenate([jax.random.key_data(d) for d in drops])
  assert len(drops) == 7 and len(set(map(tuple, bits.tolist()))) == 14


def test_rate_and_keys():
  off = nano.config(model__lora_dropout=0.5)
  assert thin.rate(off) == 0  # without an adapter there is nothing to thin
  state = method(RATE).init(jax.random.key(0))
  c = nano.config(model__lora_rank=2, model__lora_dropout=RATE)
  keys = thin.keys(c, state, 6)[thin.KEY]
  assert keys.shape == (6,)
  assert len({tuple(k) for k in np.asarray(jax.random.key_data(keys))}) == 6
  assert thin.keys(off, state, 6) == {}


def test_microbatches_thin_with_masks_of_their_own():
  _, _, one = stepped(RATE, microbatch=nano.B * nano.G)
  _, _, four = stepped(RATE, microbatch=nano.G)
  # Values are those of the whole adapter in both; sums of another order.
  assert float(one["ratio"]) == pytest.approx(float(four["ratio"]), abs=1e-6)
  assert float(one["grad_norm"]) != pytest.approx(
    float(four["grad_norm"]), rel=1e-4
  )


@pytest.mark.parametrize("name", ["dpo", "sft", "raft", "best_of_n"])
def test_methods_without_a_second_pass_refuse_it(name):
  c = nano.config(algorithm=name, model__lora_rank=2, model__lora_dropout=0.1)
  from test_laws import made_of

  with pytest.raises(errors.UserError, match=r"lora_dropout=0\.1"):
    made_of(name, c)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate):
  with pytest.raises(errors.UserError, match="lora_dropout"):
    method(rate)
