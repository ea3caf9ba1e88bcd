"""What ensembles choose: against loops over subsets, and by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.analytic import ensemble as closed
from rlreward.evals import ensembles
from rlreward.models import ensemble as members
from rlreward.ops import aggregate

RNG = np.random.default_rng(0)


def test_the_best_of_all_subsets_by_a_loop():
  score = RNG.normal(size=(2, 7)).astype(np.float32)
  gold, hack = RNG.normal(size=(2, 7)).astype(np.float32)
  values = {"gold": jnp.asarray(gold), "list": jnp.asarray(hack)}
  found = ensembles.chosen(jnp.asarray(score), values, (1, 3, 7))
  for n in (1, 3, 7):
    picks = [
      max(subset, key=lambda i, s=s: s[i])
      for s in score
      for subset in itertools.combinations(range(7), n)
    ]
    for name, value in (("gold", gold), ("list", hack)):
      want = np.mean([value[i] for i in picks])
      assert float(found[f"{name}/{n}"]) == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("rule", ["mean", "median", "min", "mean_minus_std"])
def test_shifts_of_members_change_nothing(rule):
  score = jnp.asarray(RNG.normal(size=(6, 20)), jnp.float32)
  moved = score + jnp.arange(6.0)[:, None] * 3
  sets = members.finetune_members(2, 3)
  one = ensembles.joined(score, sets, rule)
  np.testing.assert_allclose(
    one, ensembles.joined(moved, sets, rule), atol=1e-5
  )
  own = np.asarray(score - score.mean(1, keepdims=True))
  want = [np.asarray(aggregate.aggregate(own[s].T, rule)) for s in sets]
  np.testing.assert_allclose(one, want, atol=1e-6)


def test_one_member_is_itself_under_every_rule():
  score = jnp.asarray(RNG.normal(size=(3, 9)), jnp.float32)
  want = score - score.mean(1, keepdims=True)
  for rule in ("mean", "median", "min", "mean_minus_std", "uwo"):
    found = ensembles.joined(score, np.arange(3)[:, None], rule)
    np.testing.assert_allclose(found, want, atol=1e-6)


def test_a_dead_member_is_not_there():
  score = jnp.asarray(RNG.normal(size=(4, 30)), jnp.float32)
  bad = score.at[1].set(jnp.nan)
  sets = np.asarray([[0, 1], [2, 3]])
  found = ensembles.joined(bad, sets)
  lone = ensembles.joined(score, np.asarray([[0], [2]]))
  np.testing.assert_allclose(found[0], lone[0], atol=1e-6)
  single = ensembles.joined(bad, np.arange(4)[:, None])
  assert np.isnan(single[1]).all()
  gold = jnp.asarray(RNG.normal(size=30), jnp.float32)
  got = ensembles.chosen(single, {"gold": gold}, (8,))["gold/8"]
  alive = ensembles.joined(score, np.asarray([[0], [2], [3]]))
  want = ensembles.chosen(alive, {"gold": gold}, (8,))["gold/8"]
  assert float(got) == pytest.approx(float(want), abs=1e-5)
  assert np.isfinite(ensembles.expected(single, gold, 8))


def test_gaussian_scores_give_the_closed_form():
  """20,000 answers, 5 x 5 members: the sheet's world within 0.1."""
  rng = np.random.default_rng(3)
  p, f, m = 5, 5, 20_000
  gold, hack = rng.normal(size=(2, m))
  group = rng.normal(size=(p, m))[np.arange(p * f) // f]
  score = gold + 0.7 * hack + group + rng.normal(size=(p * f, m))
  score, gold, hack = (jnp.asarray(x, jnp.float32) for x in (score, gold, hack))
  parts = closed.Parts(0.49, 1.0, 1.0)
  kinds = {
    "single": (np.arange(p * f)[:, None], [0]),
    "finetune": (members.finetune_members(p, f), [0] * f),
    "pretrain": (members.pretrain_members(p, f), list(range(p))),
  }
  for sets, seeds in kinds.values():
    joined = ensembles.joined(score, sets)
    error = closed.error_variance(parts, seeds)
    got = ensembles.chosen(joined, {"gold": gold, "hack": hack}, (64,))
    want = closed.best_of_n_gold(64, error)
    assert float(got["gold/64"]) == pytest.approx(float(want), abs=0.1)
    artefact = closed.best_of_n_artefact(64, error, 0.7)
    assert float(got["hack/64"]) == pytest.approx(float(artefact), abs=0.1)
    expected = ensembles.expected(joined, gold, 64)
    assert float(expected) == pytest.approx(float(want), abs=0.05)
  found = ensembles.parts(score, p, f)
  total = 1 + 0.49 + 1 + 1
  assert float(sum(found.values())) == pytest.approx(1, abs=1e-5)
  for name, variance in (
    ("shared", 1.49),
    ("pretrain", 1.0),
    ("finetune", 1.0),
  ):
    assert float(found[name]) == pytest.approx(variance / total, abs=0.03)


def test_it_compiles():
  score = jnp.asarray(RNG.normal(size=(4, 16)), jnp.float32)
  run = jax.jit(lambda s: ensembles.chosen(
    ensembles.joined(s, members.pretrain_members(2, 2), "median"),
    {"gold": s[0]}, (4,)))  # fmt: skip
  assert np.isfinite(run(score)["gold/4"])
