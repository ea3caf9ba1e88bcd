"""Flips and calibration as shapings, and inside an online step."""

from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import errors
from rlreward.ops import advantage, policy
from rlreward.rewards import noise, shaping
from rlreward.steps import credit, online
from rlreward.types import Score

KEY = jax.random.key(5)


class Rows(NamedTuple):
  """What a shaping reads of a rollout."""

  group: Any = jnp.repeat(jnp.arange(6), 4)
  extras: Any = MappingProxyType({})


def score(**parts):
  value = jnp.asarray(np.random.default_rng(1).random(24) < 0.5, jnp.float32)
  return Score(value, jnp.arange(24) % 5 != 0, None, parts)


def several(made, given, n=4):
  state, out = made.init(), []
  for _ in range(n):
    found, state = made.update(given, state, Rows())
    out.append(found)
  return out


def test_flips_of_batches_differ_and_repeat_with_the_key():
  given = score()
  turned = [
    [f.value != given.value for f in several(noise.flip(key, 0.5), given, 6)]
    for key in (KEY, KEY, jax.random.key(6))
  ]
  np.testing.assert_array_equal(turned[0], turned[1])
  assert not np.array_equal(turned[0], turned[2])
  assert not np.array_equal(turned[0][0], turned[0][1])


def test_a_question_is_turned_whole_and_abstaining_rows_stay():
  given = score()
  for found in several(noise.flip(KEY, 0.5), given):
    on = np.asarray(found.value != given.value).reshape(6, 4)
    judged = np.asarray(given.valid).reshape(6, 4)
    assert not on[~judged].any()
    for row, known in zip(on, judged, strict=True):
      assert len(set(row[known])) == 1
    np.testing.assert_array_equal(found.valid, given.valid)
  mixed = several(noise.flip(KEY, 0.5, "sample"), given)[0].value != given.value
  assert any(0 < row.sum() < 3 for row in np.asarray(mixed).reshape(6, 4))


def test_rows_without_an_answer_are_never_turned():
  answered = jnp.asarray(np.arange(24) % 2, jnp.float32)
  given = score(**{"form/answered": answered})
  made = noise.flip(KEY, 1.0, answered="answered")
  assert made.reads == ("answered",)
  found = several(made, given, 1)[0].value
  on = given.valid & (answered > 0.5)
  np.testing.assert_array_equal(
    found, np.where(on, 1 - given.value, given.value)
  )


def test_calibration_by_hand():
  u = jnp.asarray([0.2, 0.2, 0.7, 0.7, 0.3, 0.3])
  aux = jnp.asarray([1.0, np.nan, np.nan, 1.0, 0.0, 9.0])
  given = Score(u, jnp.ones(6, bool).at[0].set(False), None, {"aux": aux})
  made = noise.calibrate(0.5, 0.1, "aux")
  found, _ = made.update(given, made.init(), Rows())
  np.testing.assert_array_equal(found.valid, [0, 0, 1, 1, 1, 1])
  np.testing.assert_allclose(found.value, [0, 0, 0.7, 0.7, 0.3, 1], rtol=1e-6)


def test_what_is_calibrated_is_the_noisy_label():
  given = score(aux=jnp.full(24, 0.25))
  made = shaping.chain(noise.flip(KEY, 1.0), noise.calibrate(0.5, 1.0, "aux"))
  found = several(made, given, 1)[0].value
  want = np.where(given.value == 1, 0.25, 1.0)
  np.testing.assert_allclose(found, np.where(given.valid, want, 0))


@pytest.mark.parametrize(
  ("made", "word"),
  [
    (lambda: noise.flip(KEY, 1.2), "1.2"),
    (lambda: noise.flip(KEY, float("nan")), "nan"),
    (lambda: noise.flip(KEY, 0.1, "answer"), "answer"),  # pyright: ignore[reportArgumentType]
    (lambda: noise.calibrate(0.5, -1.0, "aux"), "-1.0"),
    (lambda: noise.calibrate(0.5, 0.1, ""), "0.1"),
    (lambda: noise.calibrate(float("inf"), 0.1, "aux"), "inf"),
  ],
)
def test_what_cannot_be_is_refused(made, word):
  with pytest.raises(errors.UserError, match=word):
    made()


def test_in_a_step_training_is_turned_and_evaluation_is_not():
  loss = policy.clipped(0.2, 0.2)

  def made(p):
    return online.make(
      nano.config(), nano.task(), loss=loss,
      credit=credit.group(advantage.group_advantage),
      aggregate="seq_mean_token_mean", shaping=noise.flip(KEY, p),
    )  # fmt: skip

  ends, batch = {}, nano.batch()
  for p in (0.0, 1.0):
    method = made(p)
    state, found = jax.jit(method.step)(
      nano.start(method), batch, jax.random.key(1)
    )
    assert method.evaluate is not None
    judged = method.evaluate(nano.start(method), batch, jax.random.key(2))
    change = jax.tree.map(
      lambda a, b: a - b, state.params, nano.start(method).params
    )
    ends[p] = found, judged, change, state.extra["shaping"]
  plain, turned = ends[0.0], ends[1.0]
  assert plain[0]["reward"] == turned[0]["reward"]
  np.testing.assert_allclose(
    turned[0]["reward_shaped"], 1 - plain[0]["reward_shaped"], rtol=1e-6
  )
  assert plain[1]["metrics"]["reward"] == turned[1]["metrics"]["reward"]
  assert plain[3]["batches"] == turned[3]["batches"] == 1
  # A(1 - r) = -A(r): the step goes the other way. Adam's eps is far above the
  # gradient here, so that it is linear in it.
  size = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(plain[2]))
  opposite = jax.tree.map(jnp.negative, plain[2])
  assert size > 0 and nano.gap(opposite, turned[2]) < 1e-3 * size
