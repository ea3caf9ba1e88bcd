"""Stacked members are the members: scores, seeds, groups, chunks."""

import functools

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward.models import ensemble, heads
from rlreward.steps import roles

K, N, L = 4, 3, 7


@functools.cache
def model():
  return roles.policy(nano.config(model__outputs=1).model).model


@functools.cache
def stacked():
  return jax.jit(jax.vmap(model().init))(jax.random.split(jax.random.key(0), K))


@functools.cache
def rows():
  tokens = jax.random.randint(jax.random.key(1), (N, L), 0, nano.V)
  return tokens, jnp.arange(L) < jnp.asarray([[7], [4], [5]])


def test_members_come_out_as_they_went_in():
  members = ensemble.split(stacked())
  assert ensemble.size(stacked()) == len(members) == K
  assert nano.gap(ensemble.stack(members), stacked()) == 0
  two = ensemble.take(stacked(), np.asarray([3, 1]))
  assert nano.gap(ensemble.take(two, 1), members[1]) == 0


@pytest.mark.parametrize("chunk", [0, 1, 3])
def test_each_scores_as_it_does_alone(chunk):
  run = functools.partial(ensemble.scores, model(), chunk=chunk)
  found = jax.jit(run)(stacked(), *rows())
  assert found.shape == (K, N, 1)
  for own, each in zip(found, ensemble.split(stacked()), strict=True):
    want = heads.last_value(model(), each, *rows())
    np.testing.assert_allclose(own, want, atol=1e-5)  # batched f32 sums


def test_a_member_that_is_not_finite_is_told_and_stays_alone():
  bad = jax.tree.map(lambda x: x.at[2].set(jnp.nan), stacked())
  np.testing.assert_array_equal(ensemble.finite(bad), [1, 1, 0, 1])
  assert bool(jnp.all(ensemble.finite(stacked())))
  found = ensemble.scores(model(), bad, *rows())
  want = ensemble.scores(model(), stacked(), *rows())
  alive = np.asarray([0, 1, 3])
  np.testing.assert_array_equal(found[alive], want[alive])
  assert np.isnan(found[2]).all()


@pytest.mark.parametrize(("pretrain", "finetune"), [(5, 5), (3, 2), (2, 4)])
def test_both_kinds_of_ensembles_use_every_member_once(pretrain, finetune):
  seed = np.arange(pretrain * finetune) // finetune
  apart = ensemble.pretrain_members(pretrain, finetune)
  same = ensemble.finetune_members(pretrain, finetune)
  assert apart.shape == (finetune, pretrain) and same.shape == (
    pretrain,
    finetune,
  )
  for places in (apart, same):
    assert sorted(places.ravel()) == list(range(pretrain * finetune))
  assert all(len(set(seed[row])) == pretrain for row in apart)
  assert all(len(set(seed[row])) == 1 for row in same)


def test_fine_tuning_seeds_of_a_pretrain_ensemble_differ_too():
  fine = ensemble.pretrain_members(5, 5) % 5
  assert all(len(set(row)) == 5 for row in fine)


@pytest.mark.parametrize("chunk", [0, 1, 2])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_what_a_group_shares_is_read_by_its_members(groups, chunk):
  own = {"x": jnp.arange(4.0), "key": jax.random.split(jax.random.key(0), 4)}
  shared = {"base": jnp.arange(groups) * 10.0}
  fn = lambda own, base: own["x"] + base["base"]
  found = ensemble.over(fn, own, shared, chunk)
  group = np.arange(4) // (4 // groups)
  np.testing.assert_array_equal(found, np.arange(4) + 10.0 * group)


def test_without_anything_shared():
  fn = lambda own, base: (own**2, base)
  found = ensemble.over(fn, jnp.arange(3.0), {})
  np.testing.assert_array_equal(found[0], [0.0, 1.0, 4.0])
  assert found[1] == {}


def test_a_base_is_not_copied_to_its_members():
  """The largest array of the program is the members' own, not K bases."""
  base = jnp.ones((1, 300, 40))
  own = jnp.ones((K, 40))
  run = lambda own, base: ensemble.over(
    lambda a, b: jnp.sum(jnp.tanh(b @ a)), own, base
  )
  shapes = [
    v.aval.shape
    for eqn in jax.make_jaxpr(run)(own, base).eqns
    for v in eqn.outvars
  ]
  assert max(np.prod(s, dtype=int) for s in shapes) <= 300 * 40


def test_axes_have_the_members_in_front():
  axes = model().logical_axes()
  found = ensemble.logical_axes(axes)["params"]
  assert found["layers"]["attn"]["q"]["kernel"] == (
    "members", *axes["params"]["layers"]["attn"]["q"]["kernel"]
  )  # fmt: skip
  assert found["score"]["kernel"][0] == "members"
