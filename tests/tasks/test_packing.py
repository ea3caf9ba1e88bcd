"""Packing: no example is lost, cut or read twice; rows are well filled."""

import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlreward.errors import UserError
from rlreward.tasks import packing, text
from rlreward.tasks.tokens import CharTokenizer

TOK = CharTokenizer("abcdefghijklmnopqrstuvwxyz0123456789+-*=")
ROWS = [
  {"prompt": f"{i}=", "completion": "abcdefg"[: i % 7 + 1]} for i in range(23)
]


def config(**fields):
  return {
    **{"train": ROWS, "prompt_length": 8, "row_length": 16, "packing": True},
    **fields,
  }


def stream(size=2, seed=0, split="train", **fields):
  return text.make(config(**fields), TOK).demonstrations(split, size, seed)


def naive(lengths, row_length):
  """First-fit decreasing, every row tried in turn."""
  rows, room = [], []
  for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
    for r in range(len(rows)):
      if room[r] >= lengths[i]:
        break
    else:
      rows.append([])
      room.append(row_length)
      r = len(rows) - 1
    rows[r].append(i)
    room[r] -= lengths[i]
  return rows


def test_by_hand():
  assert packing.pack([3, 5, 2, 4, 5], 8) == [[1, 0], [4, 2], [3]]
  assert packing.pack([], 4) == [] and packing.pack([4], 4) == [[0]]
  assert packing.pack([2, 2, 2], 4) == [[0, 1], [2]]
  assert packing.utilisation([3, 5, 2, 4, 5], [[1, 0], [4, 2], [3]], 8) == (
    19 / 24
  )


@given(lengths=st.lists(st.integers(1, 20), max_size=60))
@settings(max_examples=100, deadline=None)
def test_against_trying_every_row(lengths):
  rows = packing.pack(lengths, 20)
  assert rows == naive(lengths, 20)
  assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
  assert all(sum(lengths[i] for i in row) <= 20 for row in rows)


def examples(batch):
  """[(prompt, trained text)] of a batch, by segment."""
  out = []
  for n in range(len(batch["tokens"])):
    segment = batch["segment"][n]
    np.testing.assert_array_equal(batch["attend"][n], segment > 0)
    last = segment.max()
    want = [*np.repeat(np.arange(1, last + 1), np.bincount(segment)[1:])]
    np.testing.assert_array_equal(segment[: len(want)], want)  # in order
    for s in range(1, last + 1):
      ids, loss = (batch[k][n][segment == s] for k in ("tokens", "loss"))
      assert not loss[0]
      out.append((TOK.decode(ids[~loss]), TOK.decode(ids[loss], False)))
  return out


WANT = sorted((r["prompt"], r["completion"] + "<eos>") for r in ROWS)


def test_every_example_once_in_an_epoch():
  one = stream(size=1)
  rows = one.get_state()["rows"]
  for _ in range(3):
    found = [x for _ in range(rows) for x in examples(next(one))]
    assert sorted(found) == WANT
  assert one.epoch == 3


def test_layout_and_dtypes():
  """By hand: two examples of five tokens in a row of twelve."""
  rows = [
    {"prompt": "ab", "completion": "cd"},
    {"prompt": "e", "completion": "fgh"},
  ]
  b = next(stream(size=1, train=rows, row_length=12))
  eos, pad = TOK.eos_ids[0], TOK.pad_id
  ids = [*TOK.encode("abcd"), eos, *TOK.encode("efgh"), eos, pad, pad]
  assert b["tokens"].tolist() == [ids]
  assert b["segment"].tolist() == [[1] * 5 + [2] * 5 + [0] * 2]
  assert b["attend"].tolist() == [[True] * 10 + [False] * 2]
  loss = [0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0]
  assert b["loss"].astype(int).tolist() == [loss]
  kinds = [b[k].dtype for k in ("tokens", "attend", "loss", "segment")]
  assert kinds == [np.int32, bool, bool, np.int32]


def test_the_first_token_has_no_loss_without_a_prompt():
  made = packing.stream(
    *([2, 3], 8, 1, 0, lambda i: ([5 + i] * (2 + i), [True] * (2 + i))),
    pad_id=0,
    where="x",
  )
  b = next(made)
  assert b["tokens"].tolist() == [[6, 6, 6, 5, 5, 0, 0, 0]]
  assert b["loss"].astype(int).tolist() == [[0, 1, 1, 0, 1, 0, 0, 0]]


def test_what_is_trained_on_is_that_of_unpacked_rows():
  packed = next(stream(size=len(ROWS)))  # a batch may pass an epoch's edge
  plain = next(stream(size=len(ROWS), packing=False))
  assert set(plain) == {"tokens", "attend", "loss"}
  said = {
    TOK.decode(ids[a])
    for ids, a in zip(plain["tokens"], plain["attend"], strict=True)
  }
  assert {p + s.removesuffix("<eos>") for p, s in examples(packed)} == said


def test_utilisation_is_logged(caplog):
  with caplog.at_level(logging.INFO):
    one = stream()
  rows = one.get_state()["rows"]
  used = sum(len(r["prompt"] + r["completion"]) + 1 for r in ROWS)
  assert f"23 examples packed into {rows} rows of 16 tokens" in caplog.text
  assert f"{100 * used / (16 * rows):.1f}% of them used" in caplog.text
  assert rows < 12 and used / (16 * rows) > 0.9


def test_overlong_examples_are_left_out_whole(caplog):
  with caplog.at_level(logging.WARNING):
    found = examples(next(stream(size=20, row_length=8)))
  assert "over-long" in caplog.text
  assert set(found) <= set(WANT) and max(map(len, map("".join, found))) == 12
  with pytest.raises(UserError, match="never cut"):
    stream(row_length=8, on_overlong="raise")


def test_state_is_exact():
  ahead = stream(size=3, seed=1)
  every = [next(ahead) for _ in range(8)]  # over edges of epochs
  for before in (0, 2, 3, 5):
    one = stream(size=3, seed=1)
    for _ in range(before):
      next(one)
    state = json.loads(json.dumps(one.get_state()))
    again = stream(size=3, seed=1)
    again.set_state(state)
    for k in range(before, 8):
      b = next(again)
      for name, value in every[k].items():
        np.testing.assert_array_equal(b[name], value)


def test_a_state_of_other_rows_is_refused():
  state = stream().get_state()
  for fields in ({"packing": False}, {"row_length": 17}):
    with pytest.raises(UserError, match="data stream has changed"):
      stream(**fields).set_state(state)


def test_hosts_read_slices_of_the_same_batch():
  want = next(stream(size=4))
  parts = [
    next(
      text.make(config(), TOK, process_index=i, process_count=2).demonstrations(
        "train", 4, 0
      )
    )
    for i in range(2)
  ]
  for name, value in want.items():
    joined = np.concatenate([p[name] for p in parts])
    np.testing.assert_array_equal(joined, value)


BAD = {
  "longer than a row": lambda: packing.pack([3, 9], 8),
  "empty": lambda: packing.pack([3, 0], 8),
  "no room": lambda: packing.pack([1], 0),
  "batch 0": lambda: stream(size=0),
  "split": lambda: stream(split="test"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
  with pytest.raises(UserError) as caught:
    BAD[case]()
  lines = str(caught.value).split("\n")
  assert len(lines) == 3, str(caught.value)
