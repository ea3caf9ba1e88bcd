"""Reward heads against numpy on the same hidden states, and what they train."""

import functools

import given_rows as gr
import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import errors
from rlreward.models import reward_card, reward_heads
from rlreward.rewards.learned import Learned
from rlreward.steps import roles

GATED = {
  "model__outputs": 3,
  "model__head__kind": "gated",
  "model__head__hidden": 5,
}
MOE = {
  "model__outputs": 1,
  "model__head__kind": "moe",
  "model__head__hidden": 5,
  "model__head__categories": 2,
  "model__head__experts": 3,
  "model__head__rank": 2,
}
SCORES = {**MOE, "model__head__reads": "score"}
MIXED = {"model__outputs": 3, "model__head__kind": "features"}
FIXED = {**MIXED, "model__head__weights": (0.5, -1.0, 2.0)}
COLUMNS = {
  "model__outputs": 1,
  "model__head__kind": "features",
  "model__head__columns": ("a", "b"),
}
CRITIQUE = {"model__outputs": 1, "model__head__kind": "critique"}
KINDS = {
  "gated": GATED, "moe": MOE, "scores": SCORES, "mixed": MIXED,
  "fixed": FIXED, "columns": COLUMNS, "critique": CRITIQUE,
}  # fmt: skip
each = pytest.mark.parametrize("kind", KINDS)
softplus = lambda x: np.logaddexp(0, np.asarray(x, np.float64))
hidden = jax.jit(gr.model(model__outputs=1).hidden)


@functools.cache
def made(kind, **changes):
  return gr.method("reward_model", **KINDS[kind], **changes)


def rows(kind, count=6):
  """Pairs with the columns that a head reads."""
  rng = np.random.default_rng(count)
  batch = dict(gr.pairs(count))
  n = 2 * count
  if kind == "columns":
    for name in "ab":
      batch[name] = jnp.asarray(rng.normal(size=n), jnp.float32)
  if kind in ("moe", "scores"):
    batch["category"] = jnp.asarray(rng.integers(0, 2, count).repeat(2))
  if kind == "critique":
    place = jnp.arange(batch["tokens"].shape[1]) >= nano.P + 1
    batch["critique"] = batch["attend"] & place
    batch["tie"] = jnp.asarray(rng.random(count) < 0.4).repeat(2)
  return batch


def tree_of(state):
  tree = state.params["policy"]["params"]
  return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def ends(state, batch):
  """f64 h(x) [N, D], h(y) [N, D], h [N, L, D] of whole rows."""
  tree = state.params["policy"]["params"]
  trunk = {k: v for k, v in tree.items() if k not in ("score", "head")}
  h = hidden({"params": trunk}, batch["tokens"], batch["attend"])
  h = np.asarray(h, np.float64)
  last = [np.flatnonzero(a)[-1] for a in np.asarray(batch["attend"])]
  return h[:, nano.P - 1], h[np.arange(len(last)), last], h


def by_hand(kind, state, batch):
  """f64[N]: scores, row by row."""
  s = tree_of(state)["score"]
  x, y, _ = ends(state, batch)
  out = []
  for n in range(len(y)):
    a = y[n] @ s["kernel"]
    if kind == "gated":
      g = s["gate"]
      z = np.maximum(x[n] @ g["in"] + g["bias"], 0) @ g["out"]
      out.append(np.exp(z) / np.exp(z).sum() @ a)
    elif kind in ("mixed", "fixed"):
      own = s.get("features", {"weights": FIXED["model__head__weights"],
                               "bias": 0.0})  # fmt: skip
      out.append(a @ own["weights"] + own["bias"])
    elif kind == "columns":
      f = np.array([batch["a"][n], batch["b"][n]])
      out.append(f @ s["features"]["weights"] + s["features"]["bias"])
    elif kind == "critique":
      d = s["dense"]
      out.append((np.tanh(y[n] @ d["kernel"] + d["bias"]) @ s["kernel"])[0])
    else:
      c = int(batch["category"][n])
      e, j = s["experts"], s["join"]
      own = [y[n] + y[n] @ e["down"][c, k] @ e["up"][c, k] for k in range(3)]
      own = own if kind == "moe" else [h @ s["kernel"] for h in own]
      z = np.concatenate(own) @ j["in"][c] + j["bias"][c]
      out.append(np.where(z > 0, z, j["slope"][c] * z) @ j["out"][c])
  return np.array(out)


def pair_loss(kind, state, batch):
  score = by_hand(kind, state, batch)
  c, r = score[0::2], score[1::2]
  centred = np.mean(0.01 * (c + r) ** 2)
  if kind == "critique":
    tie = np.asarray(batch["tie"])[0::2]
    _, _, h = ends(state, batch)
    z = h[:, :-1] @ tree_of(state)["head"]["kernel"]
    logp = z - np.log(np.exp(z).sum(-1, keepdims=True))
    target = np.asarray(batch["tokens"])[:, 1:]
    own = np.take_along_axis(logp, target[..., None], 2)[..., 0]
    mask = np.asarray(batch["critique"])[:, 1:]
    nll = -(own * mask).sum(1) / np.maximum(mask.sum(1), 1)
    there = mask.any(1)
    both = (nll[0::2] + nll[1::2]) * (there[0::2] & there[1::2])
    apart, tied = softplus(r - c)[~tie].mean(), ((c - r) ** 2)[tie].mean()
    return apart + tied + centred + both.mean()
  total = softplus(r - c).mean() + centred
  if kind in ("moe", "scores"):
    x, _, _ = ends(state, batch)
    z = x[0::2] @ tree_of(state)["score"]["router"]["kernel"]
    logp = z - np.log(np.exp(z).sum(-1, keepdims=True))
    at = np.asarray(batch["category"])[0::2, None]
    total -= np.take_along_axis(logp, at, 1).mean()
  return total


@each
def test_the_loss_is_that_of_a_hand_computation(kind):
  method, batch = made(kind), rows(kind)
  state = gr.start(method)
  want = pair_loss(kind, state, batch)
  got = gr.value(method.held(state, batch))
  assert got == pytest.approx(want, rel=2e-5)  # f32 states


@each
def test_pieces_give_the_loss_of_the_whole(kind):
  method, batch = made(kind, microbatch=4), rows(kind, 4)
  state = gr.start(method)
  _, metrics = method.step(state, batch, state.key)
  want = pair_loss(kind, state, batch)
  assert float(metrics["loss"]) == pytest.approx(want, rel=2e-5)


@each
def test_the_gradient_reaches_what_it_should(kind):
  method, batch = made(kind), rows(kind)
  state = gr.start(method)
  after, metrics = method.step(state, batch, state.key)
  assert np.isfinite(float(metrics["loss"]))
  moved = jax.tree.map(
    lambda a, b: float(np.abs(a - b).max()), state.params, after.params
  )
  moved = moved["policy"]["params"]
  still = set()
  if kind == "moe":  # joins hidden states: the value head is not read
    still = {"kernel"}
  if kind == "columns":
    still = {"kernel"}
    assert moved["embed"]["embedding"] == 0
  else:
    assert moved["embed"]["embedding"] > 1e-7
  for name, part in moved["score"].items():
    for leaf in jax.tree.leaves(part):
      # The bias of a sum drops out of comparisons but for centring.
      assert (leaf == 0) if name in still else (leaf > 1e-9), (name, part)
  if kind == "critique":
    assert moved["head"]["kernel"] > 1e-7  # the language head learns too


@each
def test_an_adapter_trains_the_head_and_leaves_the_base(kind):
  method = made(kind, model__lora_rank=2)
  state = gr.start(method)
  assert set(state.params["policy"]) == {"lora", "params"}
  assert set(state.params["policy"]["params"]) == {"score"}
  assert ("head" in state.frozen["base"]["params"]) == (kind == "critique")
  batch = rows(kind)
  after, _ = method.step(state, batch, state.key)
  assert nano.gap(state.frozen, after.frozen) == 0
  head = lambda s: s.params["policy"]["params"]["score"]
  assert nano.gap(head(state), head(after)) > 1e-7


def test_the_router_learns_from_categories_and_moves_no_state():
  """Only router gradients: pairs whose answers are equal."""
  method, batch = made("moe", reward_model__centering=0.0), rows("moe")
  same = {k: v[0::2].repeat(2, 0) for k, v in batch.items()}
  state = gr.start(method)
  after, metrics = method.step(state, same, state.key)
  gap = lambda name: nano.gap(
    state.params["policy"]["params"][name],
    after.params["policy"]["params"][name],
  )
  router = lambda s: s.params["policy"]["params"]["score"]["router"]
  assert nano.gap(router(state), router(after)) > 1e-6
  # Scores of equal answers pull against each other: f32 rounding remains.
  assert gap("embed") < 1e-6
  assert 0 <= float(metrics["router_accuracy"]) <= 1


def test_without_a_category_the_router_decides():
  method, batch = made("moe"), rows("moe")
  state = gr.start(method)
  free = {k: v for k, v in batch.items() if k != "category"}
  x, _, _ = ends(state, batch)
  z = x @ tree_of(state)["score"]["router"]["kernel"]
  routed = {**batch, "category": z.argmax(-1)}
  score = by_hand("moe", state, routed)
  want = np.mean(score[0::2] > score[1::2])
  assert gr.value(method.held(state, free), "accuracy") == pytest.approx(want)


def test_attributes_of_a_gated_head_are_regressed_one_by_one():
  method = gr.method("reward_model", **GATED, reward_model__kind="mse")
  batch = dict(gr.labelled(6))
  rng = np.random.default_rng(0)
  target = rng.normal(size=(6, 3))
  target[2, 1] = np.nan
  batch["target"] = jnp.asarray(target, jnp.float32)
  state = gr.start(method)
  _, y, _ = ends(state, batch)
  out = y @ tree_of(state)["score"]["kernel"]
  want = np.nanmean((out - target) ** 2)
  got = gr.value(method.held(state, batch))
  assert got == pytest.approx(want, rel=2e-5)


@pytest.mark.parametrize("kind", ["gated", "mixed", "fixed", "critique"])
def test_whole_rows_are_scored_as_in_training(kind):
  method, batch = made(kind), rows(kind)
  state = gr.start(method)
  c = nano.config(**gr.SMALL, **KINDS[kind])
  actor = roles.policy(c.model)
  card = reward_card.Card(None, {}, {"pad": 0})
  variables = actor.variables(state.params, state.frozen)
  found = Learned(actor.model, variables, card, 16, 5, actor.head)
  attend = np.asarray(batch["attend"])
  ids = [
    t[a].tolist()
    for t, a in zip(np.asarray(batch["tokens"]), attend, strict=True)
  ]
  starts = attend[:, : nano.P].sum(1).tolist()
  value, parts = found.readings(ids, starts)
  want = by_hand(kind, state, batch)
  np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-5)
  if kind == "gated":
    parted = sum(parts[f"gate_{k}"] * parts[f"output_{k}"] for k in range(3))
    np.testing.assert_allclose(value, parted, rtol=1e-4, atol=1e-5)
    with pytest.raises(errors.UserError, match="no prompt"):
      found.scores(ids)
  with pytest.raises(errors.UserError, match="a trace of a head"):
    found.traces(ids)


def test_a_sigmoid_is_of_the_reported_score_alone():
  head = reward_heads.Head("features", link="sigmoid")
  assert float(reward_heads.shown(head, jnp.zeros(()))) == 0.5
  assert float(reward_heads.shown(reward_heads.Head(), jnp.ones(()))) == 1


def test_a_scalar_head_has_no_new_leaves():
  c = nano.config(**gr.SMALL, model__outputs=1)
  params, _ = jax.eval_shape(roles.policy(c.model).init, jax.random.key(0))
  assert set(params["policy"]["params"]["score"]) == {"kernel"}


def test_a_checkpoint_keeps_its_leaves_and_gets_those_that_it_lacks():
  c = nano.config(**gr.SMALL, **GATED)
  actor = roles.policy(c.model)
  plain = roles.policy(nano.config(**gr.SMALL, model__outputs=3).model)
  given = plain.init(jax.random.key(1))[0]["policy"]
  params, _ = actor.init(jax.random.key(0), given)
  score = params["policy"]["params"]["score"]
  assert nano.gap(score["kernel"], given["params"]["score"]["kernel"]) == 0
  again, _ = actor.init(jax.random.key(2), params["policy"])
  assert nano.gap(again["policy"]["params"]["score"], score) == 0


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"model__outputs": 1, "model__head__kind": "gated"}, "model.outputs=1"),
    ({**MOE, "model__outputs": 2}, "model.outputs=2"),
    ({**MOE, "model__head__experts": 0}, "hidden, categories, experts, rank"),
    ({**MOE, "model__head__reads": "both"}, "reads='both'"),
    ({**MIXED, "model__head__link": "tanh"}, "link='tanh'"),
    ({**MIXED, "model__head__weights": (1.0,)}, r"weights=\(1.0,\)"),
    ({"model__outputs": 1, "model__head__kind": "deep"}, "kind='deep'"),
    ({**GATED, "reward_model__kind": "steps"}, "kind='steps'"),
    ({**CRITIQUE, "reward_model__kind": "davidson"}, "kind='davidson'"),
  ],
)
def test_what_cannot_be_is_refused(changes, said):
  with pytest.raises(errors.UserError, match=said):
    gr.method("reward_model", **changes)


def test_rows_without_what_a_head_reads_are_named():
  for kind, said in (("columns", "have no 'a'"), ("critique", "critique bool")):
    method = made(kind)
    state = jax.eval_shape(method.init, jax.random.key(0))
    with pytest.raises(errors.UserError, match=said):
      jax.eval_shape(method.step, state, gr.pairs(4), state.key)


def test_methods_of_a_linear_head_refuse_another():
  method = gr.method("remodetect", **CRITIQUE)
  state = jax.eval_shape(method.init, jax.random.key(0))
  with pytest.raises(errors.UserError, match=r"head\.kind='critique'"):
    jax.eval_shape(method.step, state, rows("critique"), state.key)
  with pytest.raises(errors.UserError, match="members of an ensemble"):
    gr.method("ensembles", **CRITIQUE, ensemble__pretrain=2)
