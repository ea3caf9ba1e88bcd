"""Methods on given rows against their formulas on whole logits."""

import functools

import given_rows as gr
import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward.tasks import text
from rlreward.tasks.tokens import CharTokenizer

method = functools.cache(gr.method)
MODEL = gr.model()
softplus = lambda x: np.logaddexp(0, np.asarray(x, np.float64))
sigmoid = lambda x: 1 / (1 + np.exp(-np.asarray(x, np.float64)))
MOVED = 0.4  # of the way to another model, so that log-ratios are not 0


token_logp = jax.jit(functools.partial(gr.token_logp, MODEL))


def logps(variables, given, mean=False):
  parts = {k: given[k] for k in ("tokens", "attend", "loss")}
  token, mask = (np.asarray(x) for x in token_logp(variables, parts))
  total = np.where(mask, token, 0).sum(1, dtype=np.float64)
  return total / mask.sum(1) if mean else total


def ratios(state, given, mean=False):
  own = logps(state.params["policy"], given, mean)
  return own - logps(state.frozen["reference"], given, mean)


def moved(made, seed=0):
  """A State whose policy has left its reference."""
  return gr.start(made, MOVED, seed)


def step(made, state, batch):
  return made.step(state, batch, state.key)


# ------------------------------------------------------------ dpo
def test_dpo_updates_equal_plain_ones():
  made, batch = method("dpo", preference__beta=1.0), gr.pairs()
  state = moved(made)
  ref = jnp.asarray(logps(state.frozen["reference"], batch), jnp.float32)

  def loss(params, rows):
    ratio = gr.answer_logp(MODEL, params["policy"], rows) - ref
    return jnp.mean(jax.nn.softplus(-(ratio[0::2] - ratio[1::2])))

  want, seen = gr.descend(loss, state.params, *3 * [(batch,)])
  got, losses = state, []
  for _ in range(3):
    got, found = step(made, got, batch)
    losses.append(float(found["loss"]))
  # f32: the prompt is computed once for both answers, sums run otherwise.
  np.testing.assert_allclose(losses, seen, atol=1e-5)
  assert nano.gap(got.params, want) < 1e-5
  assert nano.gap(got.params, state.params) > 1e-2
  assert int(got.step) == 3
  for old, new in zip(
    jax.tree.leaves(state.frozen), jax.tree.leaves(got.frozen), strict=True
  ):
    np.testing.assert_array_equal(old, new)


def test_dpo_of_one_policy_is_log_two():
  made = method("dpo", preference__beta=1.0)
  _, found = step(made, gr.start(made), gr.pairs())
  np.testing.assert_allclose(found["loss"], np.log(2), atol=1e-6)


@pytest.mark.parametrize("microbatch", [2, 4])
def test_microbatches_change_nothing(microbatch):
  batch = gr.pairs()
  whole = method("dpo", preference__beta=1.0)
  cut = method("dpo", preference__beta=1.0, microbatch=microbatch)
  want, a = step(whole, moved(whole), batch)
  got, b = step(cut, moved(cut), batch)
  assert nano.gap(got.params, want.params) < 1e-6
  for name in a:
    np.testing.assert_allclose(b[name], a[name], atol=1e-5, err_msg=name)


def test_held_out_rows_of_any_number_fit_the_microbatch():
  cut, whole = method("dpo", microbatch=4), method("dpo")
  odd = gr.pairs(7)  # 14 rows: no pieces of 4
  state = moved(whole)
  want, got = whole.held(state, odd), cut.held(state, odd)
  np.testing.assert_allclose(gr.value(got), gr.value(want), atol=1e-5)
  assert float(got["loss"][1]) == 7


def test_the_reference_may_be_a_column():
  batch = gr.pairs()
  live = method("dpo", preference__beta=1.0)
  told = method("dpo", preference__beta=1.0, reference="data")
  state = moved(live)
  column = logps(state.frozen["reference"], batch)
  batch_told = {**batch, "reference_logp": jnp.asarray(column, jnp.float32)}
  other = moved(told)
  assert "reference" in state.frozen and not other.frozen
  want, _ = step(live, state, batch)
  got, _ = step(told, other, batch_told)
  assert nano.gap(got.params, want.params) < 1e-5
  wrong = {**batch_told, "reference_logp": jnp.zeros(8)}
  got, _ = step(told, moved(told), wrong)
  assert nano.gap(got.params, want.params) > 1e-4


def test_held_is_the_loss_of_a_step_and_moves_nothing():
  made, batch = method("dpo", preference__beta=1.0), gr.pairs()
  state = moved(made)
  before = jax.tree.map(np.array, state._replace(key=()))
  held = made.held(state, batch)
  after = jax.tree.map(np.array, state._replace(key=()))
  assert jax.tree.all(jax.tree.map(np.array_equal, before, after))
  _, found = step(made, state, batch)
  for name in ("loss", "accuracy", "margin", "chosen_reward", "nll_chosen"):
    np.testing.assert_allclose(
      gr.value(held, name), found[name], rtol=1e-5, err_msg=name
    )


# ------------------------------------------------------------ other pairs
def pair_losses(name, h, mean_h, own, mean):
  """The losses [P] of a name, float64, from log-probs of the two answers."""
  chosen, rejected = own[0::2], own[1::2]
  a, b = mean[0::2], mean[1::2]
  odds = lambda x: x - np.log(-np.expm1(x))
  return {
    "dpo": softplus(-0.1 * h),
    "ipo": (h - 5) ** 2,
    "ipo mean": (mean_h - 5) ** 2,
    "simpo": softplus(-(2 * (a - b) - 1)),
    "cpo": softplus(-0.1 * (chosen - rejected)) - a,
    "orpo": -a + 0.1 * softplus(-(odds(a) - odds(b))),
    "hinge": np.maximum(0, 1 - 0.1 * h),
    "cdpo": 0.8 * softplus(-0.1 * h) + 0.2 * softplus(0.1 * h),
  }[name]


@pytest.mark.parametrize(
  ("name", "algorithm", "changes"),
  [
    ("ipo", "ipo", {}),
    ("ipo mean", "ipo", {"preference__normalise": "mean"}),
    ("simpo", "simpo", {}),
    ("cpo", "cpo", {}),
    ("orpo", "orpo", {}),
    ("hinge", "dpo", {"preference__kind": "hinge"}),
    ("cdpo", "dpo", {"preference__label_smoothing": 0.2}),
  ],
)
def test_pair_losses_by_hand(name, algorithm, changes):
  made, batch = method(algorithm, **changes), gr.pairs(5)
  state = moved(made)
  base = moved(method("dpo"))  # the same policy beside the reference
  h, mean_h = (
    x[0::2] - x[1::2] for x in (ratios(base, batch, m) for m in (False, True))
  )
  own, mean = (logps(state.params["policy"], batch, m) for m in (False, True))
  assert ("reference" in state.frozen) == (algorithm in ("ipo", "dpo"))
  want = pair_losses(name, h, mean_h, own, mean).mean()
  # f32 log-probs of up to 20 nats; ipo squares their distance from 5.
  np.testing.assert_allclose(gr.value(made.held(state, batch)), want, rtol=1e-5)


def test_strength_weighs_pairs():
  made, batch = method("dpo", preference__strength=True), gr.pairs()
  state = moved(made)
  h = ratios(state, batch)
  each = softplus(-0.1 * (h[0::2] - h[1::2]))
  weight = np.asarray(batch["strength"], np.float64)[0::2]
  found = gr.value(made.held(state, batch))
  np.testing.assert_allclose(found, (weight * each).mean(), rtol=1e-5)
  assert abs(found - each.mean()) > 1e-3


def test_sorted_pairs_read_the_reference_of_the_whole_batch():
  made, batch = method("dpo", preference__kind="aot"), gr.pairs(5)
  state = moved(made)
  own = logps(state.params["policy"], batch)
  ref = logps(state.frozen["reference"], batch)
  upper, lower = (np.sort(x[0::2] - x[1::2]) for x in (own, ref))
  want = softplus(-0.1 * (upper - lower)).mean()
  np.testing.assert_allclose(gr.value(made.held(state, batch)), want, rtol=1e-5)


# ------------------------------------------------------------ singles
def rolled(batch):
  """Each prompt with the answer of the next row, by a loop."""
  out = {}
  for k in ("tokens", "attend", "loss"):
    x = np.array(batch[k])
    y = x.copy()
    for i in range(len(x)):
      y[i, gr.P :] = x[(i + 1) % len(x), gr.P :]
    out[k] = jnp.asarray(y)
  return out


KTO = {"preference__desirable": 1.5, "preference__undesirable": 0.5,
       "preference__beta": 0.5}  # fmt: skip


@functools.cache
def kto_seed():
  """A seed whose zero is positive, and is not the mean of clamped halves."""
  made = method("kto", **KTO)
  for seed in range(20):
    batch = gr.labelled(seed=seed)
    state = moved(made, seed)
    gaps = ratios(state, rolled(batch))
    halves = np.maximum(gaps.reshape(4, 2).mean(1), 0).mean()
    if gaps.mean() > 0.05 and halves > gaps.mean() + 0.05:
      return seed, gaps.mean()
  raise AssertionError("no such seed")


def test_kto_by_hand():
  made = method("kto", **KTO)
  seed, zero = kto_seed()
  batch, state = gr.labelled(seed=seed), moved(made, seed)
  good = np.asarray(batch["label"])
  assert good.any() and not good.all()
  gap = 0.5 * (ratios(state, batch) - zero)
  want = np.where(good, 1.5 * (1 - sigmoid(gap)), 0.5 * (1 - sigmoid(-gap)))
  np.testing.assert_allclose(
    gr.value(made.held(state, batch)), want.mean(), rtol=1e-5
  )


def test_the_zero_of_kto_carries_no_gradient_and_is_of_the_whole_batch():
  seed, zero = kto_seed()
  batch = gr.labelled(seed=seed)
  made, cut = method("kto", **KTO), method("kto", **KTO, microbatch=2)
  state = moved(made, seed)
  ref = jnp.asarray(logps(state.frozen["reference"], batch), jnp.float32)

  def loss(params, batch):
    gap = gr.answer_logp(MODEL, params["policy"], batch) - ref - zero
    good = batch["label"]
    lost = jax.nn.sigmoid(jnp.where(good, -0.5, 0.5) * gap)
    return jnp.mean(jnp.where(good, 1.5, 0.5) * lost)

  want, _ = gr.descend(loss, state.params, (batch,))
  got, found = step(made, state, batch)
  assert nano.gap(got.params, want) < 1e-6
  again, _ = step(cut, moved(cut, seed), batch)
  assert nano.gap(again.params, want) < 1e-6
  assert nano.gap(want, state.params) > 1e-3
  rewards = 0.5 * ratios(state, batch)[np.asarray(batch["label"])]
  np.testing.assert_allclose(found["reward_good"], rewards.mean(), rtol=1e-4)


def test_bco_keeps_a_running_mean_of_each_label():
  made = method("bco", preference__beta=0.5)
  state = moved(made)
  sums = {True: [0.0, 0], False: [0.0, 0]}
  for seed, share in enumerate((0.2, 1.0, 0.8)):  # the second has no bad one
    batch = gr.labelled(seed=seed, good=share)
    good = np.asarray(batch["label"])
    reward = 0.5 * ratios(state, batch)
    for label in (True, False):
      sums[label][0] += reward[good == label].sum()
      sums[label][1] += (good == label).sum()
    means = {k: s / max(n, 1) for k, (s, n) in sums.items()}
    delta = (means[True] + means[False]) / 2
    want = softplus(np.where(good, delta - reward, reward - delta)).mean()
    held = gr.value(made.held(state, batch))
    state, found = step(made, state, batch)
    np.testing.assert_allclose(found["loss"], want, rtol=1e-5)
    np.testing.assert_allclose(held, want, rtol=1e-5)
    extra = {k: float(v) for k, v in state.extra.items()}
    assert (extra["n_good"], extra["n_bad"]) == (sums[True][1], sums[False][1])
    np.testing.assert_allclose(extra["good"], means[True], atol=1e-5)
    np.testing.assert_allclose(extra["bad"], means[False], atol=1e-5)
  assert sums[True][1] != sums[False][1]


# ------------------------------------------------------------ sft
def packed(rows, width):
  """Two examples in each row, told apart by `segment`."""
  n = len(rows["tokens"]) // 2
  out = {k: np.zeros((n, width), bool) for k in ("attend", "loss")}
  out |= {k: np.zeros((n, width), np.int32) for k in ("tokens", "segment")}
  for i in range(n):
    at = 0
    for part in (2 * i, 2 * i + 1):
      real = np.asarray(rows["attend"][part])
      here = slice(at, at + real.sum())
      for k in ("tokens", "loss", "attend"):
        out[k][i, here] = np.asarray(rows[k][part])[real]
      out["segment"][i, here] = part % 2 + 1
      at = here.stop
  return {k: jnp.asarray(v) for k, v in out.items()}


def test_packed_rows_give_the_gradient_of_single_ones():
  rows = gr.rows(8)
  made = method("sft")
  state = gr.start(made)
  token, mask = token_logp(state.params["policy"], rows)
  plain = -np.asarray(token)[np.asarray(mask)].mean()
  alone, found = step(made, state, rows)
  np.testing.assert_allclose(found["loss"], plain, rtol=1e-5)
  together = packed(rows, 2 * (gr.P + gr.T))
  got, found = step(made, gr.start(made), together)
  np.testing.assert_allclose(found["loss"], plain, rtol=1e-5)
  assert nano.gap(got.params, alone.params) < 1e-5
  assert float(found["trained_tokens"]) == float(rows["loss"].sum())
  # Without the segments the second example reads the first.
  del together["segment"]
  got, found = step(made, gr.start(made), together)
  assert abs(float(found["loss"]) - plain) > 1e-3
  assert nano.gap(got.params, alone.params) > 1e-4


def test_rows_that_a_task_packs_are_the_same_examples():
  rows = [{"prompt": f"{i}+", "completion": "abc"[: 1 + i % 3]}
          for i in range(8)]  # fmt: skip
  tok = CharTokenizer("0123456789+abc")
  found = []
  for packing in (False, True):
    c = {"train": rows, "prompt_length": 3, "row_length": 12,
         "packing": packing}  # fmt: skip
    own = text.make(c, tok)
    made = gr.method(
      "sft", own._replace(reward=nano.even_share), model__vocab=20
    )
    size = 8 if not packing else 4
    batch = next(own.demonstrations("train", size, 0))
    batch = jax.tree.map(jnp.asarray, {k: batch[k] for k in batch})
    assert ("segment" in batch) == packing
    sums = made.held(gr.start(made), batch)
    found.append([float(x) for x in sums["loss"]])
  assert found[0][1] == sum(2 + i % 3 for i in range(8))  # and the eos
  np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


# ------------------------------------------------------------ adapters
def test_an_adapter_is_compared_with_its_start():
  made = method("dpo", model__lora_rank=2, preference__beta=1.0)
  state, batch = gr.start(made), gr.pairs()
  assert set(state.params["policy"]) == {"lora"}
  assert set(state.frozen) == {"base", "reference"}
  assert set(state.frozen["reference"]) == {"lora"}
  decoder = gr.model(model__lora_rank=2)
  whole = lambda params: {**params["policy"], **state.frozen["base"]}
  # Two steps: the second has an adapter that is not its reference.
  first, found = step(made, state, batch)
  np.testing.assert_allclose(found["loss"], np.log(2), atol=1e-6)
  start = jax.lax.stop_gradient(state.params)

  def loss(params, batch):
    ratio = gr.answer_logp(decoder, whole(params), batch)
    ratio -= gr.answer_logp(decoder, whole(start), batch)
    return jnp.mean(jax.nn.softplus(-(ratio[0::2] - ratio[1::2])))

  want, seen = gr.descend(loss, state.params, (batch,), (batch,))
  got, found = step(made, first, batch)
  np.testing.assert_allclose(found["loss"], seen[1], atol=1e-5)
  assert seen[1] < np.log(2) - 1e-4
  assert nano.gap(got.params, want) < 1e-5
  assert nano.gap(got.frozen, state.frozen) == 0
