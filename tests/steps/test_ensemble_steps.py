"""A member of an ensemble is trained as if it were alone."""

import functools

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import errors, registry
from rlreward.algorithms import reward_model, sft
from rlreward.config import freeze
from rlreward.models import ensemble as members
from rlreward.steps import ensemble, roles
from rlreward.tasks import topics
from rlreward.types import State

P, F, SIZE = 2, 3, 8
K = P * F


@functools.cache
def task():
  return topics.make({"topics": 3, "words": 4, "pairs": 32, "sentences": 32})


def config(**changes):
  c = nano.config(algorithm="ensembles", model__outputs=1)
  c.model.update(tied=True)
  c.optimizer.update(learning_rate=1e-2, eps=1e-8)
  c.prompts_per_step, c.updates_per_step, c.steps = SIZE, 2, 4
  c.ensemble.update(pretrain=P, finetune=F)
  for name, value in changes.items():
    node, *rest = name.split("__")
    if rest:
      c[node][rest[0]] = value
    else:
      c[node] = value
  return freeze(c.to_dict())


@functools.cache
def made(**changes):
  """(config, method, compiled init, compiled step)."""
  c = config(**changes)
  build = reward_model.make if c.model.outputs else sft.make
  method = ensemble.make(c, task(), build)
  return c, method, jax.jit(method.init), jax.jit(method.step)


@functools.cache
def batch(source="preferences"):
  found = next(getattr(task(), source)("train", SIZE, 0))
  return jax.tree.map(jnp.asarray, found)


def alone(c, state, k, base=None):
  """The state of member k as a method of one model has it."""
  own = lambda tree: members.take(tree, k)
  key = jax.random.fold_in(state.key, k)
  step = state.step * c.updates_per_step
  return State(step, own(state.params), base or {}, own(state.opt), key, {})


@pytest.mark.parametrize("changes", [{}, {"ensemble__chunk": 2},
                                     {"microbatch": 4}])  # fmt: skip
def test_every_member_moves_as_it_does_alone(changes):
  c, _, init, step = made(**changes)
  single = reward_model.make(ensemble.of_one(c), task())
  run = jax.jit(single.step)
  state = init(jax.random.key(0))
  after, metrics = step(*(step(state, batch(), state.key)[0],), batch(), None)
  losses = []
  for k in range(K):
    own = alone(c, state, k)
    for t in range(2):
      rows = ensemble.own_rows(batch(), own.key, jnp.asarray(t), c)
      for i in range(c.updates_per_step):
        piece = jax.tree.map(lambda x, i=i: x[i], rows)
        own, found = run(own, piece, own.key)
        losses += [found["loss"]] * (t == 1)
    assert nano.gap(own.params, members.take(after.params, k)) < 1e-5
    assert nano.gap(own.params, members.take(state.params, k)) > 1e-3
  assert float(metrics["loss"]) == pytest.approx(np.mean(losses), abs=1e-5)
  assert int(after.step) == 2 and float(metrics["members"]) == K


def test_a_member_that_diverges_leaves_the_others_as_they_are():
  _, method, init, step = made()
  state = init(jax.random.key(0))
  want, _ = step(state, batch(), state.key)
  bad = jax.tree.map(lambda x: x.at[1].set(jnp.nan), state.params)
  got, metrics = step(state._replace(params=bad), batch(), state.key)
  for k in range(K):
    moved = members.take(got.params, k)
    if k == 1:
      assert all(np.isnan(x).all() for x in jax.tree.leaves(moved))
    else:
      assert nano.gap(moved, members.take(want.params, k)) == 0
  assert float(metrics["members"]) == K - 1
  assert all(np.isfinite(x) for x in metrics.values())
  assert method.held is not None
  held = {
    name: method.held(s, batch()) for name, s in (("got", got), ("want", want))
  }
  total, weight = held["got"]["loss"]
  assert np.isfinite(total) and weight == (K - 1) * SIZE
  assert held["want"]["loss"][1] == K * SIZE
  none = jax.tree.map(lambda x: x * jnp.nan, state.params)
  _, metrics = step(state._replace(params=none), batch(), state.key)
  assert np.isnan(metrics["loss"])  # a run stops where nothing is left


def test_seeds_decide_what_members_have_in_common():
  _, _, init, _ = made()
  tree = init(jax.random.key(0)).params["policy"]["params"]
  trunk = tree["embed"]["embedding"]
  for k in range(K):
    for j in range(k):
      same = k // F == j // F
      assert bool(jnp.all(trunk[k] == trunk[j])) == same
      assert not jnp.any(
        tree["score"]["kernel"][k] == tree["score"]["kernel"][j]
      )


def test_members_have_orders_of_their_own():
  c = config()
  root, step = jax.random.key(3), jnp.asarray(0)
  rows = [
    ensemble.own_rows(batch(), jax.random.fold_in(root, k), step, c)
    for k in range(3)
  ]
  again = ensemble.own_rows(batch(), jax.random.fold_in(root, 1), step, c)
  later = ensemble.own_rows(batch(), jax.random.fold_in(root, 1), step + 1, c)
  order = lambda r: np.asarray(r["row"]).reshape(-1)
  assert (order(again) == order(rows[1])).all()
  assert (order(later) != order(rows[1])).any()
  for a in rows:
    assert sorted(order(a)) == sorted(np.asarray(batch()["row"]))
    assert a["tokens"].shape[:2] == (2, SIZE)  # 2 updates of SIZE / 2 pairs
    pairs = np.asarray(a["row"]).reshape(-1, 2)
    assert (pairs[:, 0] == pairs[:, 1]).all()  # a pair stays in one piece
  assert (order(rows[0]) != order(rows[1])).any()


def test_a_share_is_kept_in_every_epoch():
  c = config(ensemble__share=0.5, model__outputs=0)
  stream = task().demonstrations("train", SIZE, 0)
  kept: list[dict[int, bool]] = [{}, {}]
  for step in range(8):  # two epochs of 32 sentences
    rows = jax.tree.map(jnp.asarray, next(stream))
    for k, known in enumerate(kept):
      key = jax.random.fold_in(jax.random.key(0), k)
      own = ensemble.own_rows(rows, key, jnp.asarray(step), c)
      pairs = zip(own["row"].reshape(-1), own["valid"].reshape(-1), strict=True)
      for row, valid in pairs:
        assert known.setdefault(int(row), bool(valid)) == bool(valid)
  assert all(len(known) == 32 for known in kept)
  assert all(8 <= sum(known.values()) <= 24 for known in kept)
  assert kept[0] != kept[1]


def test_the_rest_of_a_share_is_not_read():
  """NaN weights of rows outside the share change nothing."""
  c, _, init, step = made(ensemble__share=0.5, ensemble__finetune=1,
                          model__outputs=0)  # fmt: skip
  state = init(jax.random.key(0))
  rows = batch("demonstrations")
  after, _ = step(state, rows, state.key)
  key = jax.random.fold_in(state.key, 0)
  own = ensemble.own_rows(rows, key, state.step, c)
  left = own["row"].reshape(-1)[~own["valid"].reshape(-1)]
  gone = jnp.isin(rows["row"], left)
  other = {**rows, "tokens": jnp.where(gone[:, None], 5, rows["tokens"])}
  again, _ = step(state, other, state.key)
  assert (
    nano.gap(members.take(after.params, 0), members.take(again.params, 0)) == 0
  )
  assert (
    nano.gap(members.take(after.params, 1), members.take(again.params, 1)) > 0
  )


def test_a_second_stage_begins_at_the_members_of_the_first():
  _, _, init, _ = made()
  first = made(ensemble__finetune=1, model__outputs=0)[2](jax.random.key(5))
  state = init(jax.random.key(0), first.params["policy"])
  got = state.params["policy"]["params"]["layers"]
  want = first.params["policy"]["params"]["layers"]
  for k in range(K):
    assert nano.gap(members.take(got, k), members.take(want, k // F)) == 0


def test_all_may_begin_at_one_model():
  _, _, init, _ = made()
  model = roles.policy(config(model__outputs=0).model).model
  one = model.init(jax.random.key(8))
  state = init(jax.random.key(0), one)
  got = state.params["policy"]["params"]["layers"]
  for k in range(K):
    assert nano.gap(members.take(got, k), one["params"]["layers"]) == 0


def test_another_number_of_pretrained_models_is_refused():
  method = made()[1]
  three = members.stack([{"params": roles.policy(config().model).model.init(
    jax.random.key(i))["params"]} for i in range(3)])  # fmt: skip
  with pytest.raises(errors.UserError, match="3 pretrained models for ens"):
    method.init(jax.random.key(0), three)


# ------------------------------------------------------------ adapters
@pytest.mark.parametrize("pretrain", [1, 2])
def test_adapters_share_a_base_for_each_pretraining_seed(pretrain):
  changes = {"model__lora_rank": 2, "ensemble__pretrain": pretrain}
  c, _, init, step = made(**changes)
  actor = roles.policy(c.model)
  state = init(jax.random.key(0))
  base = state.frozen["base"]
  assert members.size(base) == pretrain and set(state.frozen) == {"base"}
  assert "score" not in base["params"] and "lora" in state.params["policy"]
  after, _ = step(state, batch(), state.key)
  after, _ = step(after, batch(), state.key)
  assert nano.gap(after.frozen, state.frozen) == 0
  single = jax.jit(reward_model.make(ensemble.of_one(c), task()).step)
  for k in range(pretrain * F):
    own = alone(c, state, k, members.take(state.frozen, k // F))
    for t in range(2):
      rows = ensemble.own_rows(batch(), own.key, jnp.asarray(t), c)
      for i in range(c.updates_per_step):
        own, _ = single(own, jax.tree.map(lambda x, i=i: x[i], rows), own.key)
    assert nano.gap(own.params, members.take(after.params, k)) < 1e-5
  moved = jax.tree.map(
    lambda a, b: float(jnp.abs(a - b).max()), after.params, state.params
  )
  assert min(jax.tree.leaves(moved)) > 1e-5
  rows = {k: batch()[k] for k in ("tokens", "attend")}
  found = ensemble.scores(actor, after, rows, 6)
  assert found.shape == (pretrain * F, 2 * SIZE)


# ------------------------------------------------------------ refused
@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"ensemble__pretrain": 0}, "ensemble.pretrain=0"),
    ({"ensemble__finetune": 0}, "ensemble.finetune=0"),
    ({"ensemble__chunk": -1}, "ensemble.chunk=-1"),
    ({"ensemble__share": 0.0}, "ensemble.share=0.0"),
    ({"ensemble__share": 1.5}, "ensemble.share=1.5"),
    ({"updates_per_step": 3}, "prompts_per_step=8 in updates_per_step=3"),
    ({"updates_per_step": 0}, "updates_per_step=0"),
    ({"reference": "always"}, "reference='always'"),
    ({"ensemble__paths": ("a",)}, "1 ensemble.paths"),
    ({"microbatch": 5}, "microbatch=5"),
  ],
)
def test_what_cannot_be_is_refused_before_anything_compiles(changes, said):
  with pytest.raises(errors.UserError, match=said):
    ensemble.make(config(**changes), task(), reward_model.make)


def test_a_share_of_rows_without_numbers_is_refused():
  c = config(ensemble__share=0.5)
  rows = {k: v for k, v in batch().items() if k != "row"}
  with pytest.raises(errors.UserError, match="without a column `row`"):
    ensemble.own_rows(rows, jax.random.key(0), jnp.asarray(0), c)


def test_members_that_sample_are_refused():
  with pytest.raises(errors.UserError, match="has members that sample"):
    ensemble.make(
      config(algorithm="grpo", model__outputs=0),
      nano.task(),
      lambda c, t: registry.algorithm("grpo").make(nano.config(), t),
    )
