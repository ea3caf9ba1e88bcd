"""The decoder's calls agree with its plain causal pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward import errors
from rlreward.models import lora, score, transformer
from rlreward.models.config import TransformerConfig

BASE = {
  "vocab": 19,
  "width": 16,
  "layers": 3,
  "heads": 4,
  "kv_heads": 2,
  "head_dim": 4,
  "mlp": 32,
}
SHAPES = {
  "llama": {},
  "llama31": {"rope_scaling": ("llama3", 8.0, 1.0, 4.0, 16)},
  "gemma": {
    "layer_kinds": ("local", "global", "local"),
    "window": 3,
    "rope_local_theta": 5e3,
    "qk_norm": True,
    "post_norms": True,
    "attn_softcap": 5.0,
    "final_softcap": 3.0,
    "tied": True,
    "norm_offset": 1.0,
    "embed_scale": 4.0,
  },
  "mistral": {"layer_kinds": ("local",) * 3, "window": 4},
  "gpt2": {
    "norm": "layer",
    "rope_theta": None,
    "learned_positions": 32,
    "gated": False,
    "activation": "gelu_tanh",
    "qkv_bias": True,
    "out_bias": True,
    "mlp_bias": True,
    "tied": True,
    "kv_heads": 4,
  },
  "remat_full": {"remat": "full"},
  "remat_none": {"remat": "none", "qkv_bias": True},
}
B, G, P, T = 2, 3, 5, 6
N = B * G


def compiled(model):
  names = ("init", "hidden", "logits", "prefill", "together", "decode")
  return model._replace(**{n: jax.jit(getattr(model, n)) for n in names})


@functools.cache
def setup(name):
  config = TransformerConfig(**{**BASE, **SHAPES[name]})
  model = compiled(transformer.build(config))
  variables = model.init(jax.random.key(0))
  rng = np.random.default_rng(0)
  prompt = jnp.asarray(rng.integers(0, 19, (B, P)))
  prompt_attend = jnp.asarray([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], bool)
  tokens = jnp.asarray(rng.integers(0, 19, (N, T)))
  length = jnp.asarray([6, 3, 4, 1, 6, 2])
  attend = jnp.arange(T)[None] < length[:, None]
  return model, variables, prompt, prompt_attend, tokens, attend


def whole(prompt, prompt_attend, tokens, attend):
  join = lambda a, b: jnp.concatenate([jnp.repeat(a, G, 0), b], 1)
  return join(prompt, tokens), join(prompt_attend, attend)


def gap(a, b, mask):
  return float(jnp.abs(jnp.where(mask[..., None], a - b, 0)).max())


@pytest.mark.parametrize("name", SHAPES)
def test_together_and_cached_decoding_equal_the_full_pass(name):
  # 1e-5: f32 sums of a dozen terms of size one in another order.
  model, variables, *rows = setup(name)
  prompt, prompt_attend, tokens, attend = rows
  full = model.hidden(variables, *whole(*rows))
  first, rest = model.together(variables, *rows)
  assert gap(full[::G, :P], first, prompt_attend) < 1e-5
  assert gap(full[:, P:], rest, attend) < 1e-5
  flat = model.unstack(variables)
  _, prefix = model.prefill(variables, prompt, prompt_attend)
  cache = transformer.empty_cache(model, N, T, "float32")
  for i in range(T):
    at = slice(i, i + 1)
    x, cache = model.decode(
      flat, tokens[:, at], attend[:, at], prefix, cache, i
    )
    assert gap(full[:, P + i : P + i + 1], x, attend[:, at]) < 1e-5


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_decoding_in_chunks_equals_one_by_one(name):
  model, variables, *rows = setup(name)
  prompt, prompt_attend, tokens, attend = rows
  full = model.hidden(variables, *whole(*rows))
  flat = model.unstack(variables)
  _, prefix = model.prefill(variables, prompt, prompt_attend)
  cache = transformer.empty_cache(model, N, T, "float32")
  for i, width in ((0, 2), (2, 4)):
    at = slice(i, i + width)
    x, cache = model.decode(
      flat, tokens[:, at], attend[:, at], prefix, cache, i
    )
    assert gap(full[:, P + i : P + i + width], x, attend[:, at]) < 1e-5


@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2", "remat_full"])
def test_gradient_through_shared_prompts_is_that_of_separate_rows(name):
  model, variables, *rows = setup(name)
  tokens, attend = whole(*rows)

  def logp(variables, share):
    out, entropy = score.completion_logprob(
      model, variables, tokens, attend, P, share, 0.7, entropy=True
    )
    return jnp.sum(jnp.where(rows[3], out + 0.1 * entropy, 0))

  def plain(variables):
    x = model.logits(variables, tokens, attend)[:, P - 1 : -1] / 0.7
    lp = jax.nn.log_softmax(x)
    picked = jnp.take_along_axis(lp, tokens[:, P:, None], -1)[..., 0]
    entropy = -jnp.sum(jnp.exp(lp) * lp, -1)
    return jnp.sum(jnp.where(rows[3], picked + 0.1 * entropy, 0))

  want, want_grad = jax.jit(jax.value_and_grad(plain))(variables)
  for share in (1, G):
    run = jax.jit(jax.value_and_grad(logp), static_argnums=1)
    got, got_grad = run(variables, share)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    jax.tree.map(
      # f32 gradients summed over rows in another order.
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5),
      got_grad,
      want_grad,
    )


@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(name, side):
  model, variables, *rows = setup(name)
  tokens, attend = whole(*rows)
  pad = ((0, 0), (3, 0)) if side == "left" else ((0, 0), (0, 3))
  wide = model.logits(
    variables,
    jnp.pad(tokens, pad, constant_values=7),
    jnp.pad(attend, pad, constant_values=False),
  )
  wide = wide[:, 3:] if side == "left" else wide[:, :-3]
  assert gap(model.logits(variables, tokens, attend), wide, attend) < 1e-5


def test_bf16_keeps_f32_logits_and_stays_near():
  model, variables, *rows = setup("llama")
  config = model.config.replace(dtype="bfloat16")
  half = compiled(transformer.build(config))
  tokens, attend = whole(*rows)
  got = half.logits(variables, tokens, attend)
  assert got.dtype == jnp.float32
  # bf16 has 8 bits: logits of size 1 through 3 layers keep about 2 digits.
  assert gap(got, model.logits(variables, tokens, attend), attend) < 0.1


def test_lora_starts_as_the_base_and_merges_exactly():
  model, variables, *rows = setup("llama")
  config = model.config.replace(lora_scale=2.0)
  model = compiled(transformer.build(config))
  tokens, attend = whole(*rows)
  adapter = lora.init(jax.random.key(1), variables["params"], 2)
  both = {**variables, "lora": adapter}
  base = model.logits(variables, tokens, attend)
  assert gap(model.logits(both, tokens, attend), base, attend) == 0
  noise = lambda x: jax.random.normal(jax.random.key(2), x.shape) * 0.3
  both = {**variables, "lora": jax.tree.map(noise, adapter)}
  moved = model.logits(both, tokens, attend)
  merged = model.logits(lora.merge(both, config), tokens, attend)
  assert gap(moved, base, attend) > 0.1
  assert gap(moved, merged, attend) < 1e-4  # two orders of f32 products
  x, _ = model.prefill(both, tokens, attend)
  assert gap(x, model.hidden(both, tokens, attend), attend) < 1e-4


def test_logical_axes_cover_every_parameter():
  for name in SHAPES:
    model, variables, *_ = setup(name)
    axes = model.logical_axes()
    ranks = jax.tree.map(len, axes, is_leaf=lambda x: isinstance(x, tuple))
    assert ranks == jax.tree.map(jnp.ndim, variables), name


@pytest.mark.parametrize(
  ("change", "word"),
  [
    ({"kv_heads": 3}, "kv_heads=3"),
    ({"head_dim": 3}, "head_dim=3"),
    ({"layers": 0}, "layers=0"),
    ({"layer_kinds": ("global",)}, "layer_kinds"),
    ({"layer_kinds": ("local",) * 3}, "window=None"),
    ({"norm": "batch"}, "'batch'"),
    ({"remat": "some"}, "'some'"),
    ({"dtype": "float16"}, "'float16'"),
  ],
)
def test_bad_shapes_are_refused_by_name(change, word):
  with pytest.raises(errors.UserError, match=word) as error:
    TransformerConfig(**{**BASE, **change})
  assert len(str(error.value).splitlines()) == 3
