"""The sampler against plain loops, numpy filters and its own log-probs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rlreward import errors
from rlreward.models import score, transformer
from rlreward.models.config import TransformerConfig
from rlreward.sampling import decode
from rlreward.types import LENGTH, STOP

CONFIG = TransformerConfig(
  vocab=23, width=16, layers=2, heads=4, kv_heads=2, head_dim=4, mlp=32
)
B, P, G, T = 3, 5, 4, 7


@functools.cache
def setup():
  model = transformer.build(CONFIG)
  variables = jax.jit(model.init)(jax.random.key(0))
  # Sharper logits, so that stops and filters have something to do.
  head = variables["params"]["head"]
  head["kernel"] = head["kernel"] * 3
  rng = np.random.default_rng(0)
  prompt = jnp.asarray(rng.integers(1, 23, (B, P)), jnp.int32)
  mask = jnp.asarray(np.arange(P)[None] >= np.array([[0], [2], [4]]))
  return model, variables, prompt, mask


def sample(key=1, **changes):
  model, variables, prompt, mask = setup()
  spec = decode.Spec(
    **{"max_new_tokens": T, "samples_per_prompt": G, **changes}
  )
  run = decode.sampler(model, spec)
  return run(variables, prompt, mask, jax.random.key(key))


def test_greedy_is_the_argmax_of_full_passes():
  model, variables, prompt, mask = setup()
  rollout = sample(temperature=0.0, samples_per_prompt=1)
  logits = jax.jit(model.logits)
  tokens = np.zeros((B, P + T), np.int32)
  attend = np.zeros((B, P + T), bool)
  tokens[:, :P], attend[:, :P] = prompt, mask
  for t in range(P, P + T):
    out = logits(variables, jnp.asarray(tokens), jnp.asarray(attend))
    tokens[:, t] = np.argmax(out[:, t - 1], -1)
    attend[:, t] = True
  np.testing.assert_array_equal(rollout.tokens, tokens)
  assert np.all(rollout.finish == LENGTH)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_logp_is_what_the_trainer_computes(temperature):
  model, variables, *_ = setup()
  rollout = sample(temperature=temperature, stop_ids=(3, 7))
  logp, _ = jax.jit(
    functools.partial(score.completion_logprob, model, prompt_length=P, share=G)
  )(variables, rollout.tokens, rollout.attend, temperature=temperature)
  action = rollout.action[:, P:]
  assert 0 < action.sum() < action.size
  gap = np.where(action, np.abs(logp - rollout.logp[:, P:]), 0)
  assert gap.max() < 1e-5  # f32, one set of operations in two layouts
  assert np.all(np.where(action, 0, rollout.logp[:, P:]) == 0)
  wrong = sample(temperature=temperature * 2, stop_ids=(3, 7)).logp[:, P:]
  assert np.abs(np.where(action, logp - wrong, 0)).max() > 1e-2


def test_a_shared_prompt_gives_what_repeated_prompts_give():
  model, variables, prompt, mask = setup()
  shared = sample(stop_ids=(3,))
  spec = decode.Spec(T, 1, stop_ids=(3,))
  wide = lambda x: jnp.repeat(x, G, 0)
  alone = decode.sampler(model, spec)(
    variables, wide(prompt), wide(mask), jax.random.key(1)
  )
  np.testing.assert_array_equal(shared.tokens, alone.tokens)
  np.testing.assert_allclose(shared.logp, alone.logp, atol=1e-5)
  np.testing.assert_array_equal(shared.group, np.repeat(np.arange(B), G))


def test_prompt_keys_are_not_copied_to_the_rows():
  model, variables, prompt, mask = setup()
  run = decode.sampler(model, decode.Spec(T, G))
  text = run.lower(variables, prompt, mask, jax.random.key(0)).compile()
  copied = f"f32[{B * G},2,{P},4]"
  shared = f"f32[{B},2,{P},4]"
  assert copied not in text.as_text() and shared in text.as_text()


@pytest.mark.parametrize("pad", [2, 6])
def test_left_padding_changes_nothing(pad):
  model, variables, prompt, mask = setup()
  run = decode.sampler(model, decode.Spec(T, G, stop_ids=(3,)))
  wide = run(
    variables,
    jnp.pad(prompt, ((0, 0), (pad, 0)), constant_values=9),
    jnp.pad(mask, ((0, 0), (pad, 0))),
    jax.random.key(1),
  )
  plain = sample(stop_ids=(3,))
  np.testing.assert_array_equal(wide.tokens[:, pad:], plain.tokens)
  np.testing.assert_allclose(wide.logp[:, pad:], plain.logp, atol=1e-5)


def test_more_room_changes_nothing_that_was_there():
  plain, roomy = sample(), sample(max_new_tokens=T + 5)
  np.testing.assert_array_equal(roomy.tokens[:, : P + T], plain.tokens)
  np.testing.assert_allclose(roomy.logp[:, : P + T], plain.logp, atol=1e-5)


def test_several_stop_ids_end_rows_and_belong_to_them():
  rollout = jax.device_get(sample(stop_ids=(3, 7, 11), pad_id=3))  # pad == eos
  for n in range(B * G):
    action = rollout.action[n, P:]
    count = int(action.sum())
    ids = rollout.tokens[n, P : P + count]
    assert np.all(action[:count]) and not np.any(action[count:])
    assert not set(ids[:-1]) & {3, 7, 11}
    stopped = ids[-1] in (3, 7, 11)
    assert rollout.finish[n] == (STOP if stopped else LENGTH)
    assert stopped or count == T
    assert np.all(rollout.tokens[n, P + count :] == 3)
  assert len(set(rollout.finish.tolist())) == 2
  np.testing.assert_array_equal(rollout.loss, rollout.action)
  np.testing.assert_array_equal(rollout.attend[:, P:], rollout.action[:, P:])


def test_the_loop_ends_when_every_row_has_stopped():
  # Every id stops, so the loop must not run: its first id is the whole row.
  rollout = sample(stop_ids=tuple(range(23)), max_new_tokens=200)
  assert np.all(rollout.action.sum(1) == 1)
  assert np.all(rollout.finish == STOP)
  model, variables, prompt, mask = setup()
  spec = decode.Spec(200, G, stop_ids=tuple(range(23)))
  text = (
    jax.jit(functools.partial(decode.generate, model, spec=spec))
    .lower(variables, prompt, mask, jax.random.key(0))
    .as_text()
  )
  assert "stablehlo.while" in text


def test_minimum_length_holds_back_stops():
  rollout = sample(stop_ids=(3, 7, 11), min_new_tokens=4)
  length = np.asarray(rollout.action.sum(1))
  assert length.min() >= 4
  assert (np.asarray(sample(stop_ids=(3, 7, 11)).action.sum(1)) < 4).any()
  ids = np.asarray(rollout.tokens[:, P : P + 3])
  assert not np.isin(ids, [3, 7, 11]).any()


def test_keys_decide_and_nothing_else():
  a, b, c = sample(key=1), sample(key=1), sample(key=2)
  np.testing.assert_array_equal(a.tokens, b.tokens)
  assert np.any(a.tokens != c.tokens)
  rows = np.asarray(a.tokens[:G, P:])
  assert len({tuple(r) for r in rows}) == G  # samples of a prompt differ


def test_one_new_token():
  rollout = sample(max_new_tokens=1)
  assert rollout.tokens.shape == (B * G, P + 1)
  full = sample()
  np.testing.assert_array_equal(rollout.tokens, full.tokens[:, : P + 1])


def test_bf16_cache_stays_near_f32():
  exact = sample()
  half = sample(cache_dtype="bfloat16")
  # The first token does not read the cache; later ones see 8-bit keys.
  np.testing.assert_array_equal(half.tokens[:, P], exact.tokens[:, P])
  same = np.asarray(half.tokens == exact.tokens).all(1)
  assert same.any()
  gap = np.abs(np.asarray(half.logp - exact.logp))[same]
  assert 0 < gap.max() < 0.1


def test_draws_follow_the_tempered_softmax():
  logits = jnp.asarray(np.random.default_rng(1).normal(size=(1, 8)) * 2)
  spec = decode.Spec(1, temperature=0.7)
  wide = jnp.broadcast_to(logits, (20_000, 8))
  token, logp = jax.jit(decode.pick, static_argnums=3)(
    wide, jax.random.key(3), 0, spec
  )
  p = np.asarray(jax.nn.softmax(logits[0].astype(jnp.float32) / 0.7), float)
  seen = np.bincount(np.asarray(token), minlength=8)
  p /= p.sum()
  assert stats.chisquare(seen, p * seen.sum()).pvalue > 1e-3
  np.testing.assert_allclose(logp, np.log(p)[np.asarray(token)], rtol=1e-4)


def plain_filter(row, top_k, top_p, min_p):
  """Kept ids of one row, by sorting in float64."""
  kept = list(np.argsort(-row, kind="stable"))
  if top_k:
    kept = kept[:top_k]

  def probs(ids):
    e = np.exp(row[ids] - row[ids].max())
    return e / e.sum()

  if top_p < 1:
    p = probs(kept)
    kept = kept[: int(np.sum(np.cumsum(p) - p < top_p))]
  if min_p:
    p = probs(kept)
    kept = [i for i, q in zip(kept, p, strict=True) if q >= min_p * p.max()]
  return set(kept)


@pytest.mark.parametrize(
  ("top_k", "top_p", "min_p"),
  [
    (3, 1.0, 0.0),
    (0, 0.6, 0.0),
    (0, 1e-6, 0.0),
    (0, 1.0, 0.2),
    (5, 0.8, 0.0),
    (6, 0.9, 0.1),
    (99, 1.0, 0.0),
    (1, 0.5, 0.5),
  ],
)
def test_filters_keep_what_a_plain_loop_keeps(top_k, top_p, min_p):
  rows = np.random.default_rng(2).normal(size=(40, 12)) * 2
  spec = decode.Spec(1, top_k=top_k, top_p=top_p, min_p=min_p)
  out = np.asarray(decode.truncate(jnp.asarray(rows, jnp.float32), spec))
  for row, kept in zip(rows, out, strict=True):
    want = plain_filter(row, top_k, top_p, min_p)
    assert set(np.flatnonzero(kept > -1e29)) == want
    assert spec.truncated


@pytest.mark.parametrize(
  "change",
  [
    {"max_new_tokens": 0},
    {"samples_per_prompt": 0},
    {"temperature": -1.0},
    {"temperature": float("nan")},
    {"top_k": -1},
    {"top_p": 0.0},
    {"top_p": 1.5},
    {"min_p": 1.0},
    {"min_new_tokens": 9},
    {"cache_dtype": "int8"},
    {"stop_ids": (-1,)},
  ],
)
def test_bad_specs_are_refused_by_name(change):
  with pytest.raises(errors.UserError, match=next(iter(change))) as error:
    decode.Spec(**{"max_new_tokens": T, **change})
  assert len(str(error.value).splitlines()) == 3


# ------------------------------------------------------------ mixtures
def other():
  """Variables of the same decoder that say something else."""
  model, *_ = setup()
  return jax.jit(model.init)(jax.random.key(5))


def mixture(share, **changes):
  model, variables, prompt, mask = setup()
  spec = decode.Spec(
    **{"max_new_tokens": T, "samples_per_prompt": G, **changes}
  )
  run = lambda a, b: decode.generate(
    model, a, prompt, mask, jax.random.key(1), spec, mixture=(b, share)
  )
  return jax.jit(run)(variables, other())


def between(share, rollout, temperature=1.0):
  """log of p^(1 - s) q^s / Z of each row's tokens, from full passes."""
  model, variables, *_ = setup()
  logits = jax.jit(model.logits)
  own, rest = (
    np.asarray(logits(tree, rollout.tokens, rollout.attend), np.float64)
    for tree in (variables, other())
  )
  norm = lambda z: z - np.log(np.exp(z).sum(-1, keepdims=True))
  law = norm(((1 - share) * norm(own) + share * norm(rest)) / temperature)
  law = law[:, P - 1 : -1]
  tokens = np.asarray(rollout.tokens)[:, P:, None]
  return law, np.take_along_axis(law, tokens, 2)[..., 0]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_logp_of_a_mixture_is_its_own(temperature):
  rollout = mixture(0.3, stop_ids=(3, 7), temperature=temperature)
  _, want = between(0.3, rollout, temperature)
  action = np.asarray(rollout.action[:, P:])
  gap = np.where(action, np.asarray(rollout.logp)[:, P:] - want, 0)
  assert np.abs(gap).max() < 1e-5  # f32
  for share in (0.0, 0.7):
    _, wrong = between(share, rollout, temperature)
    assert np.abs(np.where(action, wrong - want, 0)).max() > 0.1


def test_draws_of_a_mixture_follow_it():
  # 1000 rows of each prompt; two tokens, so that the second reads the first.
  rollout = mixture(0.4, samples_per_prompt=1000, max_new_tokens=2)
  law, _ = between(0.4, rollout)
  tokens = np.asarray(rollout.tokens).reshape(B, 1000, -1)
  law = law.reshape(B, 1000, 2, -1)
  for b in range(B):
    # The second token's law is the mean over the first ones drawn.
    for t in range(2):
      seen = np.bincount(tokens[b, :, P + t], minlength=23)
      p = np.exp(law[b, :, t]).mean(0)
      # Rare ones together with the likeliest, as a chi-square wants.
      place = np.where(p * 1000 < 5, p.argmax(), np.arange(23))
      join = lambda x, place=place: np.bincount(place, x)[np.unique(place)]
      found = stats.chisquare(join(seen), join(p / p.sum()) * 1000).pvalue
      assert found > 1e-4


def test_a_mixture_of_nothing_or_all_is_one_of_the_two():
  model, variables, prompt, mask = setup()
  run = decode.sampler(model, decode.Spec(T, G))
  for share, tree in ((0.0, variables), (1.0, other())):
    alone = run(tree, prompt, mask, jax.random.key(1))
    both = mixture(share)
    np.testing.assert_array_equal(both.tokens, alone.tokens)
    np.testing.assert_allclose(both.logp, alone.logp, atol=1e-5)
