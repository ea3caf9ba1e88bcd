"""Batches of near length: every row once, narrow, exact to resume."""

import collections

import numpy as np
import pytest

from rlreward.errors import UserError
from rlreward.tasks import data, text, tokens

ROWS, SIZE, WINDOW = 96, 8, 4
LENGTHS = np.random.default_rng(0).integers(1, 500, ROWS).astype(np.int32)
TOK = tokens.CharTokenizer("0123456789 ")


def stream(seed=3, **fields):
  load = lambda own, every: {"own": own, "every": every}
  fields = {"lengths": LENGTHS, "window": WINDOW, **fields}
  return data.Stream(ROWS, SIZE, seed, load, **fields)


def take(found, n):
  return [next(found)["every"] for _ in range(n)]


def test_each_row_comes_once_in_an_epoch():
  batches = take(stream(), 3 * ROWS // SIZE)  # windows end where epochs do
  for epoch in np.concatenate(batches).reshape(3, ROWS):
    assert sorted(epoch) == list(range(ROWS))


def test_batches_are_narrow_and_in_no_order_of_length():
  batches = take(stream(), 60)
  widths = [np.ptp(LENGTHS[b]) for b in batches]
  plain = [np.ptp(LENGTHS[b]) for b in take(stream(window=0), 60)]
  assert np.mean(widths) < 0.4 * np.mean(plain)
  longest = [LENGTHS[b].max() for b in batches]
  rises = np.diff(np.reshape(longest, (-1, WINDOW))) > 0
  assert 0.3 < rises.mean() < 0.7  # sorted would be 1


def test_the_position_is_exact():
  one = stream()
  take(one, 7)
  position, want = one.get_state(), take(one, 9)
  again = stream()
  again.set_state(position)
  for a, b in zip(take(again, 9), want, strict=True):
    assert (a == b).all()
  with pytest.raises(UserError, match="window"):
    stream(window=2).set_state(position)


def test_hosts_read_slices_of_the_same_batch():
  whole = take(stream(), 5)
  for index in range(2):
    part = stream(process_index=index, process_count=2)
    for want in whole:
      got = next(part)
      assert (got["every"] == want).all()
      assert (got["own"] == want[index * 4 : index * 4 + 4]).all()


def test_without_a_window_the_order_is_what_it_was():
  a = take(stream(window=0), 12)
  b = take(data.Stream(ROWS, SIZE, 3, lambda own, every: {"every": every}), 12)
  assert all((x == y).all() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("window", [-1, 2.0, True, "4"])
def test_what_is_no_number_is_refused(window):
  with pytest.raises(UserError, match="window"):
    stream(window=window)


def test_pairs_of_a_text_task_and_never_its_held_out_ones():
  rows = [
    {"prompt": "1" * n, "chosen": "2", "rejected": "3"}
    for n in np.random.default_rng(1).integers(1, 64, 64)
  ]
  fields = {"train": rows, "test": rows, "prompt_length": (8, 16, 32, 64),
            "answer_length": 4}  # fmt: skip
  width = collections.defaultdict(list)
  for window in (0, 8):
    task = text.make({**fields, "window": window}, TOK)
    assert task.preferences is not None
    for split in ("train", "test"):
      found = task.preferences(split, 4, 0)
      shapes = [next(found)["tokens"].shape[1] for _ in range(32)]
      width[split].append(np.mean(shapes))
  assert width["train"][1] < 0.8 * width["train"][0]
  assert width["test"][1] == width["test"][0]
