"""Hints of the arithmetic world: "85=37+48=" is told the answer."""

import json

import numpy as np
import pytest

from rlreward.errors import UserError
from rlreward.tasks import arithmetic

TOK = arithmetic.tokenizer()
HARD = {"digits": 2, "operations": "+-*", "holdout": 0.2, "hint_share": 0.5}


def first(kind, size=300, **fields):
  task = arithmetic.make({**HARD, **fields})
  return task, next(getattr(task, kind)("train", size, 0))


def text(ids, mask):
  """What a row says, its masked tokens alone."""
  return TOK.decode(ids[mask])


@pytest.mark.parametrize("operations", ["+", "-", "*", "+-*"])
@pytest.mark.parametrize("digits", [1, 2, 9])
def test_a_hint_is_the_answer_before_the_prompt(digits, operations):
  task, b = first("batches", 50, digits=digits, operations=operations)
  p, a = task.spec["prompt_length"], task.spec["answer_length"]
  assert task.spec["hint"] and b["hint"].shape == (50, p + a)
  assert b["hint_mask"].dtype == bool
  for n in range(50):
    asked = text(b["prompt"][n], b["prompt_mask"][n])
    hint, mask = b["hint"][n], b["hint_mask"][n]
    assert text(hint, mask) == f"{eval(asked[:-1])}={asked}"
    assert (np.diff(mask.astype(int)) >= 0).all() and mask[-1]  # left-padded
    assert (hint[~mask] == TOK.pad_id).all()
    said = b["answer"][n][b["answer_mask"][n]]
    assert said[-1] == TOK.eos_ids[0] and TOK.eos_ids[0] not in hint[mask]


def test_prompts_are_the_same_with_and_without_hints():
  _, told = first("batches")
  plain, untold = first("batches", hint_share=0.0)
  assert not plain.spec["hint"] and "hint" not in untold
  for name, value in untold.items():
    np.testing.assert_array_equal(value, told[name])


@pytest.mark.parametrize("judge_share", [0.0, 0.4])
def test_demonstrations_show_answers_with_hints(judge_share):
  task, b = first("demonstrations", judge_share=judge_share, noise=0.5)
  p, a = task.spec["prompt_length"], task.spec["answer_length"]
  width = 2 * a + p + (2 if judge_share else 0)
  assert b["tokens"].shape == b["attend"].shape == (300, width)
  eos, hinted, wrong = TOK.eos_ids[0], 0, 0
  for n in range(300):
    ids, attend, loss = (b[k][n] for k in ("tokens", "attend", "loss"))
    assert (ids[~attend] == TOK.pad_id).all() and not loss[~attend].any()
    assert ids[loss][-1] == eos
    asked, said = text(ids, attend & ~loss), text(ids, loss)
    if judge_share and b["judge"][n]:
      assert said in ("0", "1") and not attend[:a].any()
      continue
    *told, problem, rest = asked.split("=")
    assert rest == ""
    if told:  # whatever the noise, told rows are right
      hinted += 1
      assert told == [said] == [str(eval(problem))] and not b["wrong"][n]
      continue
    assert not attend[:a].any()
    wrong += b["wrong"][n]
    assert (said != str(eval(problem))) == b["wrong"][n]
  free = 300 * (1 - judge_share)
  # 300 coins have a sd of at most 9.
  assert abs(hinted - free / 2) < 40 and abs(wrong - free / 4) < 40


def test_a_hinted_row_is_what_a_rollout_on_the_hint_would_be():
  task, b = first("demonstrations", hint_share=1.0)
  p, a = task.spec["prompt_length"], task.spec["answer_length"]
  np.testing.assert_array_equal(
    b["tokens"][:, : a + p],
    next(arithmetic.make({**HARD, "hint_share": 1.0}).batches(
      "train", 300, 0))["hint"],
  )  # fmt: skip
  np.testing.assert_array_equal(b["tokens"][:, a + p :], b["answer"])
  np.testing.assert_array_equal(b["loss"][:, a + p :], b["answer_mask"])
  assert not b["loss"][:, : a + p].any()


def test_states_and_hosts():
  one = arithmetic.make(HARD).demonstrations("train", 8, 3)
  next(one)
  state = json.loads(json.dumps(one.get_state()))
  want = next(one)
  parts = []
  for i in range(2):
    task = arithmetic.make(HARD, process_index=i, process_count=2)
    other = task.demonstrations("train", 8, 3)
    other.set_state(state)
    parts.append(next(other))
  for name, value in want.items():
    joined = np.concatenate([x[name] for x in parts])
    np.testing.assert_array_equal(joined, value)
  plain = arithmetic.make({**HARD, "hint_share": 0.0})
  with pytest.raises(UserError, match="digest was"):
    plain.demonstrations("train", 8, 3).set_state(state)


@pytest.mark.parametrize("share", [-0.1, 1.5, "half"])
def test_bad_shares(share):
  with pytest.raises(UserError, match="hint_share") as error:
    arithmetic.make({"hint_share": share})
  assert len(str(error.value).splitlines()) == 3
