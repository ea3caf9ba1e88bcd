"""Answers and hints beside the prompts of text."""

import numpy as np
import pytest

from rlreward.errors import UserError
from rlreward.tasks import text
from rlreward.tasks.tokens import CharTokenizer

TOK = CharTokenizer("0123456789+= thsi")
ROWS = [
  {"prompt": f"{i}+1=", "completion": str(i + 1), "told": f"{i + 1}={i}+1="}
  for i in range(12)
]
FIELDS = {"train": ROWS, "prompt_length": 8, "answer_length": 4}


def make(**fields):
  return text.make({**FIELDS, **fields}, TOK)


def first(**fields):
  task = make(**fields)
  return task, next(task.batches("train", 6, 0))


def test_demonstrated_answers_end_with_eos_and_are_right_padded():
  task, b = first(demonstrated=True)
  assert task.spec["demonstrated"] == 4 and not task.spec["hint"]
  assert b["answer"].shape == b["answer_mask"].shape == (6, 4)
  assert b["answer"].dtype == np.int32 and b["answer_mask"].dtype == bool
  for n, row in enumerate(b["row"]):
    mask = b["answer_mask"][n]
    want = [*TOK.encode(str(row + 1)), TOK.eos_ids[0]]
    assert b["answer"][n][mask].tolist() == want
    assert mask[: len(want)].all() and not mask[len(want) :].any()
    assert (b["answer"][n][~mask] == TOK.pad_id).all()
  assert "hint" not in b


def test_hints_are_prompts():
  task, b = first(hint="told")
  assert task.spec["hint"] and task.spec["demonstrated"] == 0
  assert b["hint"].shape == b["hint_mask"].shape == (6, 8)
  for n, row in enumerate(b["row"]):
    mask = b["hint_mask"][n]
    assert TOK.decode(b["hint"][n][mask]) == ROWS[row]["told"]
    assert mask[-1] and (np.diff(mask.astype(int)) >= 0).all()
  assert "answer" not in b


def test_neither_changes_the_prompts():
  _, plain = first()
  _, both = first(demonstrated=True, hint="told")
  assert set(both) - set(plain) == {
    "answer", "answer_mask", "hint", "hint_mask"
  }  # fmt: skip
  for name in ("prompt", "prompt_mask", "row"):
    np.testing.assert_array_equal(plain[name], both[name])


@pytest.mark.parametrize(
  ("fields", "rows", "said"),
  [
    ({"demonstrated": True}, [{"prompt": "1"}], "completion"),
    ({"hint": "tip"}, None, "tip"),
    ({"hint": "told"}, [{**ROWS[0], "told": 5}], "told"),
    ({"demonstrated": True}, [{"prompt": "1", "completion": None}],
     "completion"),
    ({"demonstrated": True, "answer_length": 1}, None, "answer_length"),
    ({"hint": "told", "prompt_length": 5}, None, "prompt_length"),
  ],
)  # fmt: skip
def test_what_is_missing_or_does_not_fit_is_named(fields, rows, said):
  rows = ROWS if rows is None else rows * 6
  with pytest.raises(UserError, match=said) as error:
    _, _ = first(**fields, train=rows)
  assert len(str(error.value).splitlines()) == 3
