"""Reward models against their formulas, and that they learn."""

import functools

import given_rows as gr
import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

method = functools.cache(gr.method)
softplus = lambda x: np.logaddexp(0, np.asarray(x, np.float64))
sigmoid = lambda x: 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def step(made, state, batch):
  return made.step(state, batch, state.key)


hidden = jax.jit(gr.model(model__outputs=1).hidden)


def scored(state, given):
  """f64[N, L, K], [N, K]: the head at all tokens, and at each row's last."""
  variables = state.params["policy"]
  trunk = {k: v for k, v in variables["params"].items() if k != "score"}
  x = hidden({"params": trunk}, given["tokens"], given["attend"])
  x = np.asarray(x, np.float64)
  kernel = np.asarray(variables["params"]["score"]["kernel"], np.float64)
  every = x @ kernel
  last = [np.flatnonzero(a)[-1] for a in np.asarray(given["attend"])]
  return every, every[np.arange(len(last)), last]


def wider(given, slots=3):
  """The same rows with more padding on the left, other ids in all of it."""
  pad = lambda x, fill: jnp.pad(x, ((0, 0), (slots, 0)), constant_values=fill)
  out = {k: pad(given[k], False) for k in ("attend", "loss")}
  tokens = pad(given["tokens"], 0)
  out["tokens"] = jnp.where(out["attend"], tokens, (tokens + 5) % nano.V)
  return {**given, **out}


def test_a_reward_model_reads_the_last_token_of_an_answer():
  made = method("reward_model", model__outputs=1)
  batch, state = gr.pairs(5), gr.start(made)
  assert "head" not in state.params["policy"]["params"]
  _, end = scored(state, batch)
  chosen, rejected = end[0::2, 0], end[1::2, 0]
  each = softplus(rejected - chosen) + 0.01 * (chosen + rejected) ** 2
  held = made.held(state, batch)
  np.testing.assert_allclose(gr.value(held), each.mean(), rtol=1e-5)
  right = (chosen > rejected).mean()
  np.testing.assert_allclose(gr.value(held, "accuracy"), right)
  np.testing.assert_allclose(
    gr.value(held, "margin"), (chosen - rejected).mean(), rtol=1e-4, atol=1e-6
  )
  again = made.held(state, wider(batch))
  np.testing.assert_allclose(gr.value(again), each.mean(), rtol=1e-5)
  # The shared pass over the prompt changes no gradient.
  cut = method("reward_model", model__outputs=1, microbatch=2)
  want, _ = step(made, gr.start(made), gr.pairs())
  got, _ = step(cut, gr.start(cut), gr.pairs())
  assert nano.gap(got.params, want.params) < 1e-6

  def plain(params, given):
    decoder = gr.model(model__outputs=1)
    x = decoder.hidden(params["policy"], given["tokens"], given["attend"])
    at = gr.P + given["loss"][:, gr.P :].sum(1) - 1
    x = jnp.take_along_axis(x, at[:, None, None], 1)[:, 0]
    r = decoder.score(params["policy"], x)[:, 0]
    c, r = r[0::2], r[1::2]
    return jnp.mean(jax.nn.softplus(r - c) + 0.01 * (c + r) ** 2)

  by_hand, _ = gr.descend(plain, gr.start(made).params, (gr.pairs(),))
  assert nano.gap(want.params, by_hand) < 1e-6
  assert nano.gap(want.params, gr.start(made).params) > 1e-3


def test_strength_is_a_margin_or_a_weight():
  made = method(
    "reward_model", model__outputs=1, reward_model__margin=True,
    reward_model__scale=2.0, reward_model__centering=0.0,
    reward_model__label_smoothing=0.1, preference__strength=True,
  )  # fmt: skip
  batch, state = gr.pairs(5), gr.start(made)
  _, end = scored(state, batch)
  strength = np.asarray(batch["strength"], np.float64)[0::2]
  d = 2 * (end[0::2, 0] - end[1::2, 0]) - strength
  want = (strength * (0.9 * softplus(-d) + 0.1 * softplus(d))).mean()
  np.testing.assert_allclose(gr.value(made.held(state, batch)), want, rtol=1e-5)


@pytest.mark.parametrize("kind", ["davidson", "rao_kupper"])
def test_ties(kind):
  made = method(
    "reward_model", model__outputs=1, reward_model__kind=kind,
    reward_model__ties=0.7, reward_model__centering=0.0,
  )  # fmt: skip
  tie = np.array([1, 0, 0, 1, 0], bool)
  batch = {**gr.pairs(5), "tie": jnp.asarray(tie.repeat(2))}
  state = gr.start(made)
  _, end = scored(state, batch)
  d = end[0::2, 0] - end[1::2, 0]
  if kind == "davidson":
    z = np.exp(d / 2) + np.exp(-d / 2) + np.exp(0.7)
    p = np.where(tie, np.exp(0.7), np.exp(d / 2)) / z
  else:
    win, lose = sigmoid(d - 0.7), sigmoid(-d - 0.7)
    p = np.where(tie, 1 - win - lose, win)
  np.testing.assert_allclose(
    gr.value(made.held(state, batch)), -np.log(p).mean(), rtol=1e-5
  )


@pytest.mark.parametrize("kind", ["mse", "huber", "bce"])
def test_missing_labels_of_attributes_do_not_count(kind):
  made = method("reward_model", model__outputs=2, reward_model__kind=kind)
  batch, state = gr.rows(6), gr.start(made)
  target = np.random.default_rng(1).random((6, 2)) * 3
  target = np.clip(target, 0, 1) if kind == "bce" else target
  target[[0, 2, 3], [0, 1, 1]] = np.nan
  _, y = scored(state, batch)
  if kind == "bce":
    each = softplus(y) - target * y
  else:
    gap = np.abs(y - target)
    near = np.minimum(gap, 1)
    each = gap**2 if kind == "mse" else near * (gap - near / 2)
  batch = {**batch, "target": jnp.asarray(target, jnp.float32)}
  if kind != "mse":
    held = made.held(state, batch)
    np.testing.assert_allclose(gr.value(held), np.nanmean(each), rtol=1e-5)
    assert float(held["loss"][1]) == 9
    return
  after, found = step(made, state, batch)
  np.testing.assert_allclose(found["loss"], np.nanmean(each), rtol=1e-5)
  leaves = jax.tree.leaves(after.params)
  assert all(np.isfinite(x).all() for x in leaves)
  assert nano.gap(after.params, state.params) > 1e-4


def test_labels_are_targets_where_there_are_no_others():
  made = method("reward_model", model__outputs=1, reward_model__kind="bce")
  batch, state = gr.labelled(), gr.start(made)
  _, y = scored(state, batch)
  want = (softplus(y[:, 0]) - np.asarray(batch["label"]) * y[:, 0]).mean()
  np.testing.assert_allclose(gr.value(made.held(state, batch)), want, rtol=1e-5)


def test_grades():
  made = method(
    "reward_model", model__outputs=1, reward_model__kind="ordinal",
    reward_model__grades=4, reward_model__scale=0.8,
  )  # fmt: skip
  batch, state = gr.rows(6), gr.start(made)
  grade = np.array([0, 3, np.nan, 1, 2, 2])
  _, y = scored(state, batch)
  below = sigmoid(np.array([-0.8, 0, 0.8]) - y)  # P(grade <= k)
  edge = np.concatenate([np.zeros((6, 1)), below, np.ones((6, 1))], 1)
  p = np.diff(edge, axis=1)
  known = np.flatnonzero(np.isfinite(grade))
  want = -np.log(p[known, grade[known].astype(int)]).mean()
  batch = {**batch, "target": jnp.asarray(grade, jnp.float32)}
  held = made.held(state, batch)
  np.testing.assert_allclose(gr.value(held), want, rtol=1e-5)
  assert float(held["loss"][1]) == 5


def test_steps():
  made = method("reward_model", model__outputs=1, reward_model__kind="steps")
  batch, state = gr.rows(6, least=2), gr.start(made)
  rng = np.random.default_rng(3)
  label = np.where(rng.random((6, gr.T)) < 0.5, rng.random((6, gr.T)), np.nan)
  label[:, 1] = 1.0
  every, _ = scored(state, batch)
  z = every[:, gr.P :, 0]
  # A label in the padding is none.
  known = np.isfinite(label) & np.asarray(batch["loss"])[:, gr.P :]
  assert known.sum() < np.isfinite(label).sum()
  want = (softplus(z) - label * z)[known].mean()
  batch = {**batch, "step_label": jnp.asarray(label, jnp.float32)}
  held = made.held(state, batch)
  np.testing.assert_allclose(gr.value(held), want, rtol=1e-5)
  assert float(held["loss"][1]) == known.sum()


def evens(count, seed):
  """Pairs whose chosen answer has the clearly larger share of even ids."""
  batch = jax.tree.map(np.array, gr.pairs(8 * count, seed))
  share = np.where(batch["loss"], batch["tokens"] % 2 == 0, 0).sum(1)
  share = (share / batch["loss"].sum(1)).reshape(-1, 2)
  some = np.flatnonzero(np.abs(share[:, 0] - share[:, 1]) > 0.45)[:count]
  order = np.stack([share.argmax(1), share.argmin(1)], 1)[some]
  index = (2 * some[:, None] + order).reshape(-1)
  return {k: v[index] for k, v in batch.items()}


@pytest.mark.parametrize("lora", [0, 4])
def test_a_reward_model_learns_what_is_chosen(lora):
  made = method(
    "reward_model", model__outputs=1, model__lora_rank=lora,
    optimizer__learning_rate=1e-2, optimizer__eps=1e-8,
    optimizer__clip_norm=1.0,
  )  # fmt: skip
  start = gr.start(made)

  @jax.jit
  def train(batches):
    body = lambda state, batch: made.step(state, batch, state.key)
    return jax.lax.scan(body, start, batches)[0]

  batches = jax.tree.map(
    lambda *x: jnp.stack(x), *(evens(32, seed) for seed in range(1, 81))
  )
  turned = jax.tree.map(
    lambda x: x.reshape(80, 32, 2, -1)[:, :, ::-1].reshape(x.shape), batches
  )
  unseen = evens(200, 0)
  right, wrong = train(batches), train(turned)
  bar = 0.8 if lora else 0.9  # a small adapter on a random base
  assert gr.value(made.held(right, unseen), "accuracy") > bar
  assert gr.value(made.held(wrong, unseen), "accuracy") < 1 - bar
  if lora:  # the head trains itself, the rest of the base stays
    assert set(right.params["policy"]) == {"lora", "params"}
    assert set(right.params["policy"]["params"]) == {"score"}
    assert "score" not in right.frozen["base"]["params"]
    assert nano.gap(right.frozen, start.frozen) == 0
    for part in ("lora", "params"):
      moved = nano.gap(right.params["policy"][part],
                       start.params["policy"][part])  # fmt: skip
      assert moved > 1e-2
