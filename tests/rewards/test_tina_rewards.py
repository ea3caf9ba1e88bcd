"""Tina's rewards: text by hand, and the recipe against its definition."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.errors import UserError
from rlreward.methods.tina import RECIPES
from rlreward.rewards import function, tina
from rlreward.types import Rollout, Score

NAN = float("nan")


@pytest.mark.parametrize(
  ("text", "want"),
  [
    ("a\n</think>\nb", 1), ("a\n</think>\n\n</think>\nb", 0),
    ("a</think>\n", 0), ("a\n</think>", 0), ("", 0),
    ("<think>\na\n</think>\nb", 1),
    ("a\n</think>\n</think>\nb", 1),  # they share a line end: counted once
  ],
)  # fmt: skip
def test_the_end_of_the_thought_stands_once(text, want):
  assert tina.thought_ends(text) == want


def test_tags_are_half_each_and_a_template_s_own_counts():
  whole = "<think>\na\n</think>\nb"
  assert tina.tags(whole) == 1
  assert tina.tags("a\n</think>\nb") == 0.5
  assert tina.tags("<think>\na") == 0.5
  assert tina.tags("<think>\n<think>\na\n</think>\n") == 0.5
  # Written ahead by the chat template, as by that of R1's distilled models.
  assert tina.tags("a\n</think>\nb", "<|Assistant|><think>\n") == 1
  assert tina.tags(whole, "<|Assistant|><think>\n") == 0.5
  assert tina.tags("a", "") == 0


@pytest.mark.parametrize(
  ("text", "hits"),
  [
    ("", 0), ("Step 1: a. Step 2: b", 2), ("First, a. Next, b. Finally, c", 3),
    ("1. a\n2. b", 1),  # a number counts at the start of the text alone
    ("x\n- a\n* b\n- c\n- d", 3), ("Firstly, Secondly", 0), ("step 1:", 0),
  ],
)  # fmt: skip
def test_three_signs_of_a_step_are_enough(text, hits):
  assert tina.steps(text) == pytest.approx(min(1, hits / 3))


def test_names_for_configs():
  for name in ("format", "tag_count", "reasoning_steps"):
    assert function.from_path(f"tina:{name}").name == name
    assert f"tina:{name}" in str(tina.__doc__)
  assert function.from_path("tina:tag_count").needs() == ()


# ------------------------------------------------------------ the recipe
GROUP = np.asarray([0, 0, 0, 1, 1, 1], np.int32)
LENGTH = np.asarray([2, 4, 6, 3, 3, 5])
RIGHT = np.asarray([1, 0, 1, 1, 0, NAN], np.float32)


def paid(weights, *, valid=None, right=RIGHT, **options):
  """The score that a recipe makes of six answers of two prompts."""
  n, width = len(LENGTH), 8
  action = np.arange(width) < LENGTH[:, None]
  ids = np.tile(np.arange(width, dtype=np.int32), (n, 1))
  ids[2] = 7  # one token again and again
  rollout = Rollout(
    ids, action, action, action, np.zeros((n, width), np.float32), GROUP,
    np.zeros(n, np.int32), np.int32(0), None,
  )  # fmt: skip
  form = np.asarray([1, 1, 0, 1, 0, 1], np.float32)
  score = Score(
    jnp.zeros(n),
    jnp.ones(n, bool) if valid is None else jnp.asarray(valid),
    None,
    {"math": jnp.asarray(right), "format": jnp.asarray(form)},
  )
  shape = tina.recipe(weights, "math", names={"accuracy": "math"}, **options)
  return shape.update(score, shape.init(), rollout)[0], shape


def test_the_main_recipe_is_a_weighted_sum_of_what_is_known():
  score, shape = paid(RECIPES["open_rs2"])
  assert shape.reads == ("format", "math")
  assert score.valid.tolist() == [True] * 5 + [False]
  np.testing.assert_allclose(score.value, [3, 1, 2, 3, 0, 0])


def test_a_row_without_a_judgement_stays_without_one():
  score, _ = paid({"format": 1.0}, valid=[True, False] * 3)
  assert score.valid.tolist() == [True, False] * 3
  np.testing.assert_allclose(score.value, [1, 0, 0, 0, 0, 0])


def test_lengths_are_paid_by_their_curves_with_hand_numbers():
  score, shape = paid({"length": 1.0})
  assert shape.reads == ("math",)
  # Prompt 0: 2, 4 and 6 tokens are 1/2, 0 and -1/2; prompt 1: 3, 3 and 5.
  np.testing.assert_allclose(score.value[:5], [0.5, 0, -0.5, 0.5, 0])
  assert not score.valid[5] and score.value[5] == 0
  score, _ = paid({"l1_exact": 1.0}, target=5)
  want = np.nan_to_num(RIGHT) - 3e-4 * np.abs(5 - LENGTH)
  np.testing.assert_allclose(score.value[:5], want[:5], rtol=1e-6)
  score, _ = paid({"l1_max": 1.0}, target=5)
  np.testing.assert_allclose(
    score.value[:5], [0.5009, 0, 0.4997, 0.5006, 0], rtol=1e-6
  )
  score, _ = paid({"cosine": 2.0}, longest=8)
  half = lambda n: (1 + math.cos(math.pi * n / 8)) / 2
  right = lambda n: 0.5 + 0.5 * half(n)
  wrong = lambda n: -0.5 - 0.5 * half(n)
  want = [right(2), wrong(4), right(6), right(3), wrong(3)]
  np.testing.assert_allclose(score.value[:5], 2 * np.asarray(want), rtol=1e-6)
  score, _ = paid({"repetition": 1.0})
  # Four trigrams of which one is different: -(1 - 1 / 4); the others repeat
  # nothing, and what is right does not matter.
  np.testing.assert_allclose(score.value, [0, 0, -0.75, 0, 0, 0], atol=1e-6)
  assert score.valid.all()


def test_the_seven_rewards_add_up_and_are_kept():
  weights = {k: v for k, v in RECIPES["open_r1"].items()
             if k not in ("tag_count", "reasoning_steps")}  # fmt: skip
  score, _ = paid(weights, longest=8)
  parts = [paid({k: 1.0}, longest=8)[0].value for k in weights]
  np.testing.assert_allclose(
    score.value[:5], sum(np.asarray(p) for p in parts)[:5], rtol=1e-6
  )
  assert set(score.components) == {"math", "format", "length", "cosine",
                                   "repetition"}  # fmt: skip


def test_recipes_hold_the_authors_weights():
  assert RECIPES["open_rs2"] == {"format": 1, "accuracy": 2}
  assert RECIPES["open_rs3"] == {"format": 1, "cosine": 2}
  assert set(RECIPES["open_r1"].values()) == {1.0}
  known = {"accuracy", "format", "tag_count", "reasoning_steps"}
  assert all(set(r) <= known | set(tina.DEVICE) for r in RECIPES.values())


def test_a_recipe_can_be_written_out():
  assert tina.parse("limr", RECIPES) == RECIPES["limr"]
  assert tina.parse("format@1, l1_max@0.5", RECIPES) == {
    "format": 1.0, "l1_max": 0.5,
  }  # fmt: skip


@pytest.mark.parametrize(
  ("text", "word"),
  [
    ("open_rs4", "open_rs4"), ("format", "format"), ("format@x", "format@x"),
    ("format@1,format@2", "format@2"), ("@1", "@1"), ("format@inf", "@inf"),
    ("format@nan", "@nan"),
  ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_read_is_refused(text, word):
  with pytest.raises(UserError, match=word) as told:
    tina.parse(text, RECIPES)
  assert len(str(told.value).splitlines()) == 3


@pytest.mark.parametrize(
  ("weights", "word"),
  [
    ({"cosine": 1.0}, "longest"), ({"l1_exact": 1.0}, "target"),
    ({"l1_max": 1.0}, "target"), ({"format": 0.0}, "weights"), ({}, "weights"),
  ],
)  # fmt: skip
def test_curves_without_their_length_are_refused(weights, word):
  with pytest.raises(UserError, match=word):
    tina.recipe(weights, "math")


def test_a_reward_that_the_task_does_not_give_is_named():
  with pytest.raises(UserError, match="tag_count"):
    paid({"tag_count": 1.0})
