"""Curricula: stages that end by their rate, and a state that says all of it."""

import json
import math

import numpy as np
import pytest

from rlreward.errors import UserError
from rlreward.tasks import arithmetic, cipher, curriculum

LADDER = ({"n": 1}, {"n": 2}, {"n": 3})
RATES = (0.1, 0.6, 0.6, 0.9, math.nan, 0.2, 0.9, 1.0)
SECTION = {"stages": "0,1,2", "advance": 0.5, "patience": 2}


def run(stream, rates):
  """Levels of the batches, each followed by its rate."""
  levels = []
  for rate in rates:
    levels.append(stream.level)
    next(stream)
    stream.observe(rate)
  return levels


def opened(**changes):
  task = arithmetic.make({**SECTION, **changes})
  return task.batches("train", 4, 0)


def test_a_level_ends_when_the_mean_of_its_last_steps_is_there():
  # (.1, .6) is .35; (.6, .6) ends level 0. The .6 of level 0 counts no more:
  # (.9) is one step of level 1, NaN none, (.9, .2) is .55.
  assert run(opened(), RATES) == [0, 0, 0, 1, 1, 1, 2, 2]
  assert run(opened(patience=1), RATES) == [0, 0, 1, 2, 2, 2, 2, 2]
  assert run(opened(advance=1.0), RATES) == [0] * 8
  assert run(opened(stages="0,1"), RATES)[-1] == 1  # the last has no end


def test_a_rate_at_the_threshold_is_enough():
  assert run(opened(patience=1), (0.5, 0.4999, 0.5)) == [0, 1, 1]


def test_batch_k_is_batch_k_of_its_level():
  stream, alone = opened(), arithmetic.make({"level": 1, "stages": ""})
  run(stream, RATES[:3])
  own = alone.batches("train", 4, 0)
  for _ in range(3):
    next(own)
  tok, texts = alone.spec["tokenizer"], []
  for batch in (next(stream), next(own)):
    texts.append(
      [
        tok.decode(row[mask])
        for row, mask in zip(batch["prompt"], batch["prompt_mask"], strict=True)
      ]
    )
  assert texts[0] == texts[1]


def test_the_state_is_exact_at_every_step():
  whole = opened()
  batches, states = [], []
  for rate in RATES:
    states.append(json.loads(json.dumps(whole.get_state())))
    batches.append(next(whole))
    whole.observe(rate)
  for k, state in enumerate(states):
    again = opened()
    run(again, (1.0, 1.0, 1.0))  # somewhere else
    again.set_state(state)
    assert again.get_state() == state
    for i in range(k, len(RATES)):
      np.testing.assert_array_equal(next(again)["prompt"], batches[i]["prompt"])
      again.observe(RATES[i])
    assert again.get_state() == whole.get_state()


@pytest.mark.parametrize(
  "changes", [{"advance": 0.6}, {"patience": 3}, {"stages": "0,2"},
              {"advance": 0.0, "stages": "0,1@3"}], ids=str
)  # fmt: skip
def test_a_state_of_another_curriculum_is_refused(changes):
  state = opened().get_state()
  with pytest.raises(UserError, match="data stream has changed"):
    opened(**changes).set_state(state)


@pytest.mark.parametrize(
  ("section", "word"),
  [
    ({"stages": "0,1@3"}, "stages"),
    ({"advance": 1.5}, "advance"),
    ({"advance": -0.1}, "advance"),
    ({"advance": "high"}, "advance"),
    ({"patience": 0}, "patience"),
    ({"patience": 1.5}, "patience"),
  ],
)
def test_what_cannot_be_is_refused(section, word):
  for task in (arithmetic, cipher):
    with pytest.raises(UserError, match=word):
      task.make({**SECTION, **section})


def test_given_answers_have_no_rate():
  task = cipher.make(SECTION)
  for kind in ("demonstrations", "preferences", "labelled"):
    with pytest.raises(UserError, match="given answers"):
      getattr(task, kind)("train", 4, 0)
    assert next(getattr(task, kind)("test", 4, 0))  # held-out rows are fixed


def test_stages_are_read():
  stage = curriculum.Stage
  assert curriculum.parse("0,2@5", LADDER) == (stage(0, 0), stage(5, 2))
  assert curriculum.parse("2,0", LADDER, True) == (stage(0, 2), stage(0, 0))
  assert curriculum.parse("", LADDER, True) == ()
  with pytest.raises(UserError, match="level=3"):
    curriculum.parse("0,3", LADDER, True)
