"""Curves of length, at the numbers of their papers and by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.ops import lengths

ALL = jnp.asarray([True, True, True, True])


def test_overlong():
  n = jnp.asarray([0, 80, 90, 100, 140])
  np.testing.assert_allclose(lengths.overlong(n, 100, 20), [0, 0, -0.5, -1, -1])
  np.testing.assert_allclose(lengths.overlong(n, 100, 20, 2.0)[2], -1)


def test_the_table_of_the_parabola():
  # The paper's table at p = 1/2.
  n = jnp.asarray([0, 10, 25, 50, 75, 100])
  want = [0, 0.36, 0.75, 1, 0.5, -1]
  np.testing.assert_allclose(lengths.parabola(n, 100), want, atol=1e-6)
  left = lengths.parabola(jnp.asarray([49.999]), 100)
  right = lengths.parabola(jnp.asarray([50.001]), 100)
  np.testing.assert_allclose(left, right, atol=1e-4)  # continuous at the peak


def test_a_badly_formed_answer_earns_nothing_from_length():
  n = jnp.asarray([50, 100, 50, 50])
  answered = jnp.asarray([False, False, True, True])
  thought = jnp.asarray([True, True, True, False])
  found = lengths.format_length(thought, answered, n, 100)
  np.testing.assert_allclose(found, [0, -1, 2, 1.5], atol=1e-6)


def test_cosine_ends_middle_and_over():
  n = jnp.asarray([0, 50, 100, 0, 50, 100])
  right = jnp.asarray([True] * 3 + [False] * 3)
  found = lengths.cosine(n, right, 100)
  np.testing.assert_allclose(found, [1, 0.75, 0.5, -1, -0.75, -0.5], atol=1e-6)
  over = lengths.cosine(n, right, 100, over=-10.0)
  np.testing.assert_allclose(over[jnp.asarray([2, 5])], [-10, -10])
  np.testing.assert_allclose(over[:2], found[:2])


def test_short_among_the_answers_to_a_prompt():
  n = jnp.asarray([10, 20, 30, 7, 7])
  right = jnp.asarray([True, False, True, True, False])
  group = jnp.asarray([0, 0, 0, 1, 1])
  found = lengths.kimi(n, right, group)
  np.testing.assert_allclose(found, [0.5, 0, -0.5, 0, 0])
  wrong = lengths.kimi(n, ~right, group)
  np.testing.assert_allclose(wrong, [0, 0, -0.5, 0, 0])


def test_lengths_that_were_asked_for():
  n = jnp.asarray([1000, 2000, 4000])
  right = jnp.asarray([True, False, True])
  exact = lengths.l1_exact(n, right, 2000)
  np.testing.assert_allclose(exact, [0.7, 0, 0.4], atol=1e-6)
  most = lengths.l1_max(n, right, 2000)
  np.testing.assert_allclose(most, [0.8, 0, 0], atol=1e-6)


def test_lines():
  n = jnp.asarray([0, 256, 1024])
  np.testing.assert_allclose(lengths.linear(n, 512, 1.0), [0, 0.5, 1])
  np.testing.assert_allclose(lengths.linear(n), [0, 2.56, 10.24])
  np.testing.assert_allclose(lengths.over_limit(n, 300), [0, 0, -7.24])


@pytest.mark.parametrize("floor", [0, 100])
def test_the_shortest_right_answer(floor):
  n = jnp.asarray([150, 120, 90, 120, 300, 200])
  right = jnp.asarray([True, True, False, True, False, False])
  group = jnp.asarray([0, 0, 0, 0, 1, 1])
  found = lengths.shortest_right(n, right, group, floor)
  # The first of two equal ones; nothing where no answer is right.
  np.testing.assert_allclose(found, [0, 0.2, 0, 0, 0, 0])
  too_short = lengths.shortest_right(n, right, group, 120)
  np.testing.assert_allclose(too_short, np.zeros(6))
