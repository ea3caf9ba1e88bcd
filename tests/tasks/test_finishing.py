"""Answers that must be finished: the base's law, the reward, refusals."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlreward import errors
from rlreward.tasks import finishing
from rlreward.tasks.finishing import BOX, CLOSE, EOS, OPEN, WORD
from rlreward.types import LENGTH, STOP, Rollout

WORDS = [WORD] * 12


def rollout(rows, width=16):
  """Rows of actions behind one prompt token; without EOS they were cut."""
  tokens = np.zeros((len(rows), 1 + width), np.int32)
  action = np.zeros(tokens.shape, bool)
  for n, row in enumerate(rows):
    tokens[n, 1 : 1 + len(row)] = row
    action[n, 1 : 1 + len(row)] = True
  finish = [STOP if EOS in row else LENGTH for row in rows]
  attend = action | (np.arange(1 + width) == 0)
  blank = jnp.zeros(tokens.shape)
  return Rollout(jnp.asarray(tokens), jnp.asarray(attend), jnp.asarray(action),
                 jnp.asarray(action), blank, jnp.arange(len(rows)),
                 jnp.asarray(finish), jnp.zeros(()))  # fmt: skip


def score(rows, solved=True, **fields):
  batch = {"solved": np.full((len(rows), finishing.TRIES), solved)}
  return finishing.make(fields).reward(rollout(rows), batch)


def test_what_a_right_answer_needs():
  rows = [
    [OPEN, *WORDS, CLOSE, BOX, EOS],  # all of it
    [*WORDS, CLOSE, BOX, EOS],  # no thought was opened
    [*WORDS, CLOSE, EOS],  # no box
    [OPEN, *WORDS, CLOSE, BOX],  # cut
    [*WORDS[1:], CLOSE, BOX, EOS],  # a word too few
    [BOX, *WORDS, CLOSE, EOS],  # boxed before it was solved
    [CLOSE, OPEN, *WORDS, BOX, EOS],  # closed before it was opened
  ]
  found = score(rows, counts="words")
  parts = {k: v.astype(int).tolist() for k, v in found.components.items()}
  assert parts["correct"] == [1, 1, 0, 0, 0, 0, 1]
  assert parts["answered"] == [1, 1, 0, 0, 1, 1, 1]
  assert parts["thought"] == [1, 0, 0, 1, 0, 0, 0]
  np.testing.assert_array_equal(found.value, parts["correct"])
  assert found.valid.all()
  assert not score(rows, solved=False, counts="words").value.any()


def test_every_token_can_be_work():
  """12 of them, whatever they are, and an end; else as before."""
  rows = [
    [*WORDS[:9], CLOSE, BOX, EOS],  # 12 tokens
    [*WORDS[:8], CLOSE, BOX, EOS],  # 11
    [BOX] * 11 + [EOS],  # nothing but boxes
    [*WORDS, CLOSE, EOS],  # no box
    [*WORDS, CLOSE, BOX],  # cut
  ]
  assert score(rows).value.tolist() == [1, 0, 1, 0, 0]
  with pytest.raises(errors.UserError, match="counts='steps'"):
    finishing.make({"counts": "steps"})


def test_answers_to_a_prompt_have_their_own_luck():
  rows = [[*WORDS, CLOSE, BOX, EOS]] * 6
  rolled = rollout(rows)._replace(group=jnp.repeat(jnp.arange(2), 3))
  solved = np.zeros((2, finishing.TRIES), bool)
  solved[0, 1] = solved[1, 2] = True
  found = finishing.make().reward(rolled, {"solved": solved})
  np.testing.assert_array_equal(found.value, [0, 1, 0, 0, 0, 1])


def test_the_base_finishes_badly():
  task = finishing.make()
  rows = next(task.demonstrations("train", 4000, 0))
  size = rows["loss"].sum(1)
  has = lambda token: (rows["tokens"] == token).any(1)
  # Five standard errors of a share of 4000, and of a mean with deviation 22.
  assert size.mean() == pytest.approx(40, abs=2)
  assert has(OPEN).mean() == pytest.approx(0.5, abs=0.04)
  assert has(BOX)[has(EOS)].mean() == pytest.approx(0.2, abs=0.04)
  assert 0.2 < 1 - has(EOS).mean() < 0.4
  assert rows["tokens"].shape == (4000, 65)
  assert not rows["loss"][:, 0].any() and rows["attend"][:, 0].all()


def test_batches_hold_the_skill():
  batch = next(finishing.make({"skill": 0.3}).batches("train", 500, 0))
  assert batch["solved"].mean() == pytest.approx(0.3, abs=0.02)
  other = next(finishing.make({"skill": 0.3}).batches("test", 500, 0))
  assert (batch["solved"] != other["solved"]).any()


@pytest.mark.parametrize(
  "changes",
  [
    {"budget": 13},
    {"budget": 10.5},
    {"needs": -1},
    {"skill": 1.1},
    {"boxes": -0.1},
    {"ends": 0.0},
    {"size": 3},
  ],
)
def test_fields_that_cannot_work_are_refused(changes):
  with pytest.raises(errors.UserError):
    finishing.make(changes)
