"""The hidden reward of length: recorded numbers, closed forms, the record."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import paths
import pytest

from experiments import length_bias as bias


@pytest.fixture(scope="module")
def exact():
  """{way: lengths f64[8 seeds, (wrong, right)] after 400 updates}."""
  out = {}
  for way in bias.WAYS:
    run = jax.vmap(functools.partial(bias.stop_lengths, way))
    out[way] = np.asarray(jax.jit(run)(jnp.arange(8)), np.float64)[:, -1]
  return out


def test_wrong_answers_grow_under_grpo_alone(exact):
  wrong, right = exact["grpo"].mean(0)
  assert wrong == pytest.approx(60.7, abs=0.3)  # recorded, with its spread
  assert right == pytest.approx(1.0, abs=0.05)
  for way in ("dr_grpo", "dapo"):
    np.testing.assert_allclose(exact[way].mean(0), 10, atol=1.5)
  assert exact["dr_grpo"].std(0, ddof=1).max() < 0.3


def test_skips_are_the_work_of_the_mean_over_a_response():
  """One decision of fact: easy .903 and .605, hard .001 and .018."""
  found = {}
  for way in ("grpo", "dr_grpo"):
    run = jax.vmap(functools.partial(bias.skip_rates, way))
    found[way] = np.asarray(jax.jit(run)(jnp.arange(8)))[:, -1].mean(0)
  np.testing.assert_allclose(found["grpo"], [0.903, 0.001], atol=0.03)
  np.testing.assert_allclose(found["dr_grpo"], [0.605, 0.018], atol=0.03)
  cold = bias.skip_rates("grpo", 0, start=1e-4)
  assert float(cold[-1].max()) < 0.01


def direction(way):
  """Expected gradient of the two logits at first, f64[(wrong, right)].

  By sums over all lengths, apart from the experiment: each way weighs a token
  of an answer of n tokens with A times 1 / n, 1 / 64 or 1 / (mean length).
  """
  h, n = 1 / bias.MEAN, np.arange(1, bias.MOST + 1)
  p = h * (1 - h) ** (n - 1)
  p[-1] = (1 - h) ** (bias.MOST - 1)
  ended = np.where(n < bias.MOST, 1.0, h)  # the last token may not be a stop
  score = ended - h * n  # d log p(n) / d logit
  weight = {"grpo": 1 / n, "dr_grpo": np.full(len(n), 1 / bias.MOST),
            "dapo": np.full(len(n), 1 / (p @ n))}[way]  # fmt: skip
  size = 1.0 if way != "dr_grpo" else 0.5  # of A at half right, over its spread
  up = size * (p * weight * score).sum() / 2
  return np.array([-up, up])


def test_the_bias_is_the_mean_of_one_over_the_length():
  """Where it comes from: A grad E[1 / L], and 0 with a constant weight."""
  assert direction("grpo")[1] > 0.05
  np.testing.assert_allclose(direction("dr_grpo"), 0, atol=1e-12)
  np.testing.assert_allclose(direction("dapo"), 0, atol=1e-12)
  one = jax.jit(jax.vmap(lambda s: bias.stop_lengths("grpo", s, 1)))
  length = np.asarray(one(jnp.arange(400)), np.float64)[:, -1].mean(0)
  h = 1 / (1 + (bias.MEAN - 1) * np.exp(-direction("grpo")))
  want = (1 - (1 - h) ** bias.MOST) / h
  # A group of 8 has a spread below 1/2 by chance, so that A is a little larger.
  moved = (length - length.mean()) / (want - want.mean())
  np.testing.assert_allclose(moved, 1, atol=0.15)


def record():
  text = (paths.REPO / "results" / "length_bias.json").read_text()
  return json.loads(text)


def test_the_page_is_made_from_the_record():
  page = (paths.REPO / "results" / "length_bias.md").read_text()
  assert page == bias.table(record())


def test_a_transformer_s_wrong_answers():
  """Only under GRPO do wrong answers fill the limit and right ones shrink."""
  runs = record()["runs"]
  assert set(runs) == {*bias.WAYS, *(f"{w} held" for w in bias.WAYS)}
  last = lambda way, part: bias.ends(runs[f"{way} held"], part)[1]
  gap = {way: last(way, "wrong") - last(way, "right") for way in bias.WAYS}
  assert gap["grpo"] > 40
  assert max(abs(gap["dr_grpo"]), abs(gap["dapo"])) < 15


def test_ends_leave_out_steps_without_an_answer():
  run = {"wrong": [[2.0] * 10 + [np.nan] * 5 + [4.0] * 5] * 2}
  first, last, sd = bias.ends(run, "wrong")
  assert (first, last, sd) == (2.0, 4.0, 0.0)
