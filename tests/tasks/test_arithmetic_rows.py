"""Pairs, labels and judge rows of the arithmetic world, read as strings."""

import json

import numpy as np
import pytest

from rlreward.errors import UserError
from rlreward.tasks import arithmetic

HARD = {"digits": 2, "operations": "+-*", "holdout": 0.2}
TOK = arithmetic.tokenizer()
EOS = TOK.eos_ids[0]


def read(b):
  """(asked, said) of each row; what is said ends with eos."""
  out = []
  for ids, attend, loss in zip(
    b["tokens"], b["attend"], b["loss"], strict=True
  ):
    assert ids[loss][-1] == EOS and not loss[~attend].any()
    out.append((TOK.decode(ids[attend & ~loss]), TOK.decode(ids[loss])))
  return out


def right(asked, said):
  return said == str(eval(asked[:-1]))  # digits and one operation only


def first(kind, size=400, split="train", **fields):
  return next(
    getattr(arithmetic.make({**HARD, **fields}), kind)(split, size, 0)
  )


@pytest.mark.parametrize("digits", [1, 2, 9])
@pytest.mark.parametrize("operations", ["+", "-", "*", "+-*"])
def test_pairs_are_a_right_and_a_wrong_answer(digits, operations):
  c = {"digits": digits, "operations": operations}
  b = first("preferences", 50, **c)
  spec = arithmetic.make({**HARD, **c}).spec
  width = spec["prompt_length"] + spec["answer_length"]
  assert b["tokens"].shape == b["loss"].shape == (100, width)
  rows = read(b)
  for (p, good), (q, bad) in zip(rows[::2], rows[1::2], strict=True):
    assert p == q and right(p, good)
    assert 1 <= abs(int(bad) - int(good)) <= 9
  p = spec["prompt_length"]
  assert not b["loss"][:, :p].any() and b["attend"][:, p - 1 : p + 1].all()
  np.testing.assert_array_equal(b["strength"], np.ones(100, np.float32))
  assert not b["flipped"].any()


def test_noise_turns_pairs_round():
  b = first("preferences", noise=0.25)
  rows = read(b)
  turned = [not right(*row) for row in rows[::2]]
  assert [right(*row) for row in rows[1::2]] == turned
  np.testing.assert_array_equal(b["flipped"], np.repeat(turned, 2))
  assert abs(sum(turned) - 100) < 40  # 400 coins of 0.25: sd 8.7


@pytest.mark.parametrize(("share", "noise"), [(0.5, 0), (0.2, 0), (0.8, 0.25)])
def test_labels(share, noise):
  b = first("labelled", positive_share=share, noise=noise)
  good = np.array([right(*row) for row in read(b)])
  np.testing.assert_array_equal(b["label"], good ^ b["flipped"])
  assert b["label"].dtype == bool
  # sd of 400 coins is at most 10
  assert abs(good.sum() - 400 * share) < 45
  assert abs(b["flipped"].sum() - 400 * noise) < 45


def test_the_splits_of_pairs_share_no_problem():
  asked = [
    {p for p, _ in read(first("preferences", 300, split, digits=1))}
    for split in ("train", "test")
  ]
  assert not asked[0] & asked[1]


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_judge_rows(pad_is_eos):
  c = {**HARD, "judge_share": 0.5, "noise": 0.25, "pad_is_eos": pad_is_eos}
  task = arithmetic.make(c)
  tok, how = task.spec["tokenizer"], task.spec["judge"]
  b = next(task.demonstrations("train", 400, 0))
  p, t = task.spec["prompt_length"], task.spec["answer_length"]
  assert b["tokens"].shape == b["attend"].shape == (400, p + t + 2)
  assert abs(b["judge"].sum() - 200) < 45
  verdicts = []
  for n in range(400):
    ids, attend, loss = (b[k][n] for k in ("tokens", "attend", "loss"))
    asked, said = tok.decode(ids[attend & ~loss]), tok.decode(ids[loss])
    assert ids[loss][-1] == tok.eos_ids[0]
    assert (ids[~attend] == tok.pad_id).all()
    if not b["judge"][n]:
      assert right(asked, said) != b["wrong"][n]
      assert not attend[-2:].any()
      continue
    assert loss.sum() == 2 and not b["wrong"][n]
    problem, answer = asked[:-1].split("=")  # no eos between
    assert said == str(int(right(problem + "=", answer)))
    if said == "0":
      assert 1 <= abs(int(answer) - eval(problem)) <= 9
    verdicts.append(said)
    # What a method would build from a rollout: prompt, answer, suffix.
    policy = [*tok.encode(f"{problem}={answer}"), *how["suffix"]]
    assert ids[attend & ~loss].tolist() == policy
    rating = how["ratings"].index(ids[loss][0])
    assert how["values"][rating] == float(said)
  assert 60 < verdicts.count("1") < 140  # about 200 coins: sd 7


def test_judge_rows_fit_at_every_size():
  for digits in (1, 3, 9):
    for operations in ("+", "-", "*"):
      c = {"digits": digits, "operations": operations, "judge_share": 1.0}
      b = first("demonstrations", 50, **c)
      assert b["judge"].all()


def test_without_judge_rows_demonstrations_are_what_they_were():
  b = first("demonstrations", 8)
  assert "judge" not in b and b["tokens"].shape == (8, 6 + 5)


KINDS = {
  "preferences": {"noise": 0.3},
  "labelled": {"noise": 0.3, "positive_share": 0.3},
  "demonstrations": {"noise": 0.3, "judge_share": 0.4},
}


@pytest.mark.parametrize("kind", KINDS)
def test_state_is_exact(kind):
  make = getattr(arithmetic.make({**HARD, **KINDS[kind]}), kind)
  ahead = make("train", 8, 3)
  every = [next(ahead) for _ in range(6)]
  for before in (0, 1, 4):
    one = make("train", 8, 3)
    for _ in range(before):
      next(one)
    state = json.loads(json.dumps(one.get_state()))
    again = make("train", 8, 3)
    next(again)
    again.set_state(state)
    for k in range(before, 6):
      b = next(again)
      assert set(b) == set(every[k])
      for name, value in b.items():
        np.testing.assert_array_equal(value, every[k][name])


@pytest.mark.parametrize("kind", KINDS)
def test_hosts_make_slices_of_the_same_batch(kind):
  c = {**HARD, **KINDS[kind]}
  want = next(getattr(arithmetic.make(c), kind)("train", 8, 0))
  parts = []
  for i in range(2):
    task = arithmetic.make(c, process_index=i, process_count=2)
    parts.append(next(getattr(task, kind)("train", 8, 0)))
  for name, value in want.items():
    joined = np.concatenate([p[name] for p in parts])
    np.testing.assert_array_equal(joined, value)


@pytest.mark.parametrize(
  "fields",
  [
    {"judge_share": -0.1},
    {"judge_share": 1.1},
    {"judge_share": "half"},
    {"positive_share": 2},
    {"positive_share": None},
  ],
)
def test_bad_shares(fields):
  with pytest.raises(UserError, match="it is a share"):
    arithmetic.make(fields)


def test_a_state_of_other_shares_is_refused():
  state = arithmetic.make().demonstrations("train", 4, 0).get_state()
  other = arithmetic.make({"judge_share": 0.5})
  with pytest.raises(UserError, match="digest was"):
    other.demonstrations("train", 4, 0).set_state(state)
