"""Shapings that join components, against the ops and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward import errors
from rlreward.ops import aggregate as rules
from rlreward.ops import lengths
from rlreward.rewards import combine, shaping
from rlreward.types import Score

NAN = np.nan
NAMES = ("a", "b", "c")
PARTS = np.asarray(
  [[0.2, 0.9, 0.4], [0.7, NAN, 0.5], [NAN, NAN, NAN], [0.6, 0.6, 0.6]],
  np.float32,
)


class Rows:
  """What a shaping reads of a rollout."""

  def __init__(self, group=(0, 0, 1, 1), **beside):
    self.group = jnp.asarray(group)
    self.extras = {f"beside/{k}": jnp.asarray(v) for k, v in beside.items()}


def score(parts=PARTS, valid=(True,) * 4):
  named = dict(zip(NAMES, jnp.asarray(parts).T, strict=True))
  value = jnp.asarray([1.0, 2.0, 3.0, 4.0])
  return Score(value, jnp.asarray(valid), None, named)


def apply(made, given, rollout=None):
  state = made.init()
  found, after = made.update(given, state, rollout or Rows())
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert np.isfinite(found.value).all()
  assert (np.asarray(found.value)[~np.asarray(found.valid)] == 0).all()
  return found


@pytest.mark.parametrize("rule", rules.RULES)
def test_a_rule_over_components_is_the_op(rule):
  weights = None if rule in rules.UNWEIGHTED else (1.0, 2.0, 0.5)
  made = combine.aggregate(NAMES, rule, weights, coef=0.5, least=1)
  found = apply(made, score())
  w = None if weights is None else jnp.asarray(weights)
  want = rules.aggregate(PARTS, rule, np.isfinite(PARTS), w, coef=0.5)
  np.testing.assert_array_equal(found.valid, [True, True, False, True])
  np.testing.assert_allclose(found.value, np.nan_to_num(want), rtol=1e-6)
  assert made.reads == NAMES and made.beside == 0


@pytest.mark.parametrize(
  ("least", "want"),
  [(None, [1, 0, 0, 1]), (2, [1, 1, 0, 1]), (3, [1, 0, 0, 1])],
)
def test_how_many_members_must_be_known(least, want):
  found = apply(combine.aggregate(NAMES, "min", least=least), score())
  np.testing.assert_array_equal(found.valid, np.asarray(want, bool))


def test_a_row_without_judgement_stays_so():
  given = score(valid=(False, True, True, True))
  found = apply(combine.aggregate(NAMES, "mean", least=1), given)
  np.testing.assert_array_equal(found.valid, [False, True, False, True])


def test_pareto_pays_the_front_of_each_prompt():
  parts = np.asarray([[1, 0, 0], [0, 2, 0], [1, 1, 1], [0, 1, 1]], np.float32)
  found = apply(combine.pareto(NAMES), score(parts))
  # Two on the front of the first prompt, one of two on that of the second.
  np.testing.assert_allclose(found.value, [1.0, 2.0, 6.0, 0.0])
  assert found.valid.all()
  found = apply(combine.pareto(NAMES, of="b"), score(parts))
  np.testing.assert_allclose(found.value, [0.0, 2.0, 2.0, 0.0])
  parts[0, 1] = NAN  # not judged: it neither wins nor counts
  found = apply(combine.pareto(NAMES), score(parts))
  np.testing.assert_array_equal(found.valid, [False, True, True, True])
  np.testing.assert_allclose(found.value, [0.0, 2.0, 6.0, 0.0])
  apart = apply(combine.pareto(NAMES), score(parts), Rows((0, 1, 2, 3)))
  np.testing.assert_allclose(apart.value, [0.0, 2.0, 3.0, 2.0])


def test_a_gate_that_does_not_hold_pays_a_fixed_reward():
  found = apply(combine.gated("a", 0.5, -1.0), score())
  np.testing.assert_array_equal(found.valid, [True, True, False, True])
  np.testing.assert_allclose(found.value, [-1.0, 2.0, 0.0, 4.0])


def test_bounded_shapes_of_the_value_and_of_components():
  found = apply(combine.bounded(shape="tanh", slope=0.5), score())
  np.testing.assert_allclose(found.value, np.tanh([0.5, 1, 1.5, 2]), rtol=1e-6)
  made = shaping.chain(
    combine.bounded(("a", "b"), "arctan"),
    combine.aggregate(("a", "b"), "sum", least=1),
  )
  want = np.nansum(np.arctan(PARTS[:, :2]), 1)
  np.testing.assert_allclose(apply(made, score()).value, want, rtol=1e-6)


def test_preference_as_reward_of_the_value():
  refs = np.asarray([[0.0, 2.0], [2.0, NAN], [NAN, NAN], [9.0, 9.0]])
  made = combine.relative((), 2, slope=0.5)
  found = apply(made, score(), Rows(value=refs.astype(np.float32)))
  s = lambda x: 1 / (1 + np.exp(-x))
  want = [(s(0.5) + s(-0.5)) / 2, 0.5, 0.0, s(-2.5)]
  np.testing.assert_allclose(found.value, want, rtol=1e-6)
  np.testing.assert_array_equal(found.valid, [True, True, False, True])
  assert made.beside == 2
  same = apply(shaping.preference((), 2, 2.0), score(), Rows(value=refs))
  np.testing.assert_allclose(found.value, same.value, rtol=1e-6)


def test_a_missing_component_is_named_beside_what_there_is():
  for made in (
    combine.aggregate(("a", "polite"), "mean"),
    combine.pareto(("a", "polite")),
    combine.gated("polite"),
  ):
    with pytest.raises(errors.UserError) as info:
      apply(made, score())
    said = str(info.value)
    assert "'polite'" in said and "['a', 'b', 'c']" in said
    assert len(said.splitlines()) == 3


@pytest.mark.parametrize(
  ("make", "said"),
  [
    (lambda: combine.aggregate((), "mean"), "\\[\\]"),
    (lambda: combine.aggregate(("a", "a"), "mean"), "'a', 'a'"),
    (lambda: combine.aggregate(NAMES, "mode"), "mode"),
    (lambda: combine.aggregate(NAMES, "min", (1.0, 1, 1)), "min"),
    (lambda: combine.aggregate(NAMES, "mean", (1.0,)), "\\[1.0\\]"),
    (lambda: combine.aggregate(NAMES, "mean", (1.0, NAN, 1)), "nan"),
    (lambda: combine.aggregate(NAMES, "mean", (1.0, -1, 1)), "-1"),
    (lambda: combine.aggregate(NAMES, "mean", (0.0, 0, 0)), "0.0"),
    (lambda: combine.aggregate(NAMES, "harmonic", floor=0.0), "0.0"),
    (lambda: combine.aggregate(NAMES, "mean", least=4), "least=4"),
    (lambda: combine.pareto(NAMES, of="d"), "'d'"),
    (lambda: combine.pareto(NAMES, "ranks"), "ranks"),
    (lambda: combine.bounded((), "cube"), "cube"),
    (lambda: combine.relative((), 2, "cube"), "cube"),
  ],
)
def test_what_cannot_be_is_refused_before_anything_runs(make, said):
  with pytest.raises(errors.UserError, match=said) as info:
    make()
  assert len(str(info.value).splitlines()) == 3


class Acted(Rows):
  """Rows with actions of 3, 1, 2 and 4 tokens."""

  def __init__(self, group=(0, 0, 1, 1)):
    super().__init__(group)
    sizes = jnp.asarray([3, 1, 2, 4])
    self.action = jnp.arange(5)[None] < sizes[:, None]


def test_a_table_of_correctness_and_format():
  parts = [[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, NAN, 0]]
  made = combine.table("a", "b", ((-1, -0.5), (0.5, 1)))
  found = apply(made, score(parts))
  np.testing.assert_allclose(found.value, [1, 0.5, -0.5, 0])
  np.testing.assert_array_equal(found.valid, [1, 1, 1, 0])
  assert made.reads == ("a", "b")
  for bad in (((1, 2),), ((1, 2), (3, NAN)), (1, 2)):
    with pytest.raises(errors.UserError):
      combine.table("a", "b", bad)


def test_a_table_without_a_format_reads_the_value():
  made = combine.table("", "", ((0, 0), (1, 1)))
  found = apply(made, score([[1, NAN, 0], [0, 1, 1]])._replace(
    value=np.float32([0.2, 1.0]), valid=np.array([True, True])))  # fmt: skip
  np.testing.assert_allclose(found.value, [0, 1])
  assert found.valid.all() and made.reads == ()
  with pytest.raises(errors.UserError, match="format"):
    combine.table("a", "", ((-1, -0.5), (0.5, 1)))


def test_a_branch_needs_only_what_it_chooses():
  parts = [[1, 0.3, NAN], [0, NAN, 0.6], [NAN, 1, 1], [1, NAN, 1]]
  found = apply(combine.branch("a", "b", "c"), score(parts))
  np.testing.assert_allclose(found.value, [0.3, 0.6, 0, 0], atol=1e-7)
  np.testing.assert_array_equal(found.valid, [1, 1, 0, 0])


def test_factors_are_means_of_their_groups():
  parts = [[0.2, 0.4, 0.5], [-1, -1, -2], [NAN, 1, 1], [1, 1, 1]]
  found = apply(combine.factors((("a", "b"), ("c",))), score(parts))
  np.testing.assert_allclose(found.value, [0.15, 0, 0, 1], atol=1e-7)
  np.testing.assert_array_equal(found.valid, [1, 1, 0, 1])
  floored = apply(combine.factors((("a", "b"), ("c",)), 0.1), score(parts))
  np.testing.assert_allclose(floored.value[1], 0.01, atol=1e-7)
  for bad in ((), (("a",), ()), (("a",), ("a", "b"))):
    with pytest.raises(errors.UserError):
      combine.factors(bad)


def test_paid_by_the_number_of_tokens():
  linear = lambda n: lengths.linear(n, 10.0)
  found = apply(combine.paid_by_length(linear), score(), Acted())
  np.testing.assert_allclose(found.value, [1.3, 2.1, 3.2, 4.4])
  np.testing.assert_allclose(found.components["length"], [0.3, 0.1, 0.2, 0.4])
  parts = [[1, 0, 0], [1, 0, 0], [0, 0, 0], [NAN, 0, 0]]
  made = combine.paid_by_length(lengths.kimi, right="a", into="short")
  found = apply(made, score(parts), Acted())
  np.testing.assert_allclose(found.value[:3], [0.5, 2.5, 3.0])
  np.testing.assert_array_equal(found.valid, [1, 1, 1, 0])
