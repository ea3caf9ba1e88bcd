"""Pairs and labelled answers: layout, prompts, counts, splits, bad rows."""

import copy
import json
import logging

import numpy as np
import pytest

from rlreward.errors import UserError
from rlreward.tasks import text
from rlreward.tasks.tokens import CharTokenizer

TOK = CharTokenizer("abcdefghijklmnopqrstuvwxyz0123456789+-*=?:,.|<> \n")
EOS = TOK.eos_ids[0]
PAIRS = [
  {"prompt": f"{i}+{i}=", "chosen": str(2 * i), "rejected": f"{i}0", "n": i}
  for i in range(1, 13)
]
LABELS = [
  {"prompt": f"{i}=", "completion": str(i + i % 3), "label": i % 3 == 0}
  for i in range(12)
]
ARRAYS = {"tokens", "attend", "loss", "strength"}


def config(rows=PAIRS, **fields):
  sizes = {"prompt_length": 8, "row_length": 16, "answer_length": 5}
  return {"train": rows, **sizes, **fields}


def make(rows=PAIRS, tok=TOK, **fields):
  return text.make(config(rows, **fields), tok)


def read(batch, tok=TOK):
  """(prompt, trained text with special tokens) of each row."""
  out = []
  for ids, attend, loss in zip(
    batch["tokens"], batch["attend"], batch["loss"], strict=True
  ):
    out.append((tok.decode(ids[attend & ~loss]), tok.decode(ids[loss], False)))
  return out


def first(rows=PAIRS, size=4, split="train", kind="preferences", **fields):
  task = make(rows, **fields)
  stream = task.preferences if kind == "preferences" else task.labelled
  return next(stream(split, size, 0))


def whole(rows, tok=TOK, split="train", **fields):
  """All pairs of an epoch: {prompt: [(chosen, rejected)]}, and the batch."""
  task = make(rows, tok, **fields)
  one = task.preferences(split, 1, 0)
  kept = one.get_state()["rows"]
  batch = next(task.preferences(split, kept, 0))
  rows = read(batch, tok)
  found = {}
  for (p, a), (q, b) in zip(rows[::2], rows[1::2], strict=True):
    assert p == q
    found.setdefault(p, []).append((a, b))
  return found, batch


# -------------------------------------------------- layout
def test_exact_layout():
  """By hand: prompt flush right in 4 slots, answer flush left in 3."""
  rows = [{"prompt": "a=", "chosen": "1", "rejected": "23"}]
  b = first(rows, size=2, prompt_length=4, answer_length=3)
  assert set(b) == ARRAYS
  pad, a, eq = TOK.pad_id, *TOK.encode("a=")
  one, two, three = TOK.encode("123")
  want = [
    [pad, pad, a, eq, one, EOS, pad],
    [pad, pad, a, eq, two, three, EOS],
  ]
  np.testing.assert_array_equal(b["tokens"], want * 2)
  attend = [[0, 0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 1]]
  loss = [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1]]
  np.testing.assert_array_equal(b["attend"], attend * 2)
  np.testing.assert_array_equal(b["loss"], loss * 2)
  np.testing.assert_array_equal(b["strength"], np.ones(4))
  kinds = [b[k].dtype for k in ("tokens", "attend", "loss", "strength")]
  assert kinds == [np.int32, bool, bool, np.float32]


def test_all_arrays_of_a_pair():
  rows = [
    {
      **row,
      "margin": row["n"] / 2,
      "tie": row["n"] % 2,
      "chosen_reference_logp": -row["n"],
      "rejected_reference_logp": -row["n"] - 0.5,
    }
    for row in PAIRS
  ]
  b = first(rows, size=12, strength="margin")
  assert set(b) == ARRAYS | {"reference_logp", "tie"}
  asked = [p for p, _ in read(b)]
  n = np.array([int(p.split("+")[0]) for p in asked])
  second = np.arange(24) % 2
  np.testing.assert_array_equal(b["strength"], n / 2)
  np.testing.assert_array_equal(b["tie"], n % 2 == 1)
  np.testing.assert_array_equal(b["reference_logp"], -n - 0.5 * second)
  kinds = [b[k].dtype for k in ("strength", "tie", "reference_logp")]
  assert kinds == [np.float32, bool, np.float32]


def test_labelled_answers():
  rows = [{**r, "reference_logp": -i} for i, r in enumerate(LABELS)]
  b = first(rows, size=12, kind="labelled")
  assert set(b) == {*ARRAYS, "label", "row", "reference_logp"} - {"strength"}
  assert b["label"].dtype == bool and b["row"].dtype == np.int32
  assert b["tokens"].shape == (12, 8 + 5)
  for i, (asked, said) in zip(b["row"], read(b), strict=True):
    assert asked == LABELS[i]["prompt"]
    assert said == LABELS[i]["completion"] + "<eos>"
  np.testing.assert_array_equal(b["label"], b["row"] % 3 == 0)
  np.testing.assert_array_equal(b["reference_logp"], -b["row"])


@pytest.mark.parametrize("form", [bool, int, float])
def test_labels_of_any_form(form):
  rows = [{**r, "label": form(r["label"])} for r in LABELS]
  want = first(LABELS, kind="labelled")
  got = first(rows, kind="labelled")
  for name, value in want.items():
    np.testing.assert_array_equal(got[name], value)


def test_columns_by_name_and_a_file(tmp_path):
  file = tmp_path / "a.jsonl"
  rows = [
    {"q": r["prompt"], "yes": r["chosen"], "no": r["rejected"]} for r in PAIRS
  ]
  file.write_text("".join(json.dumps(r) + "\n" for r in rows))
  b = first(str(file), prompt="q", chosen="yes", rejected="no")
  for name, value in first(PAIRS).items():
    np.testing.assert_array_equal(b[name], value)
  pa = pytest.importorskip("pyarrow")
  path = str(tmp_path / "a.parquet")
  pytest.importorskip("pyarrow.parquet").write_table(
    pa.Table.from_pylist(PAIRS), path
  )
  for name, value in first(path).items():
    np.testing.assert_array_equal(b[name], value)


def test_what_a_task_has_follows_from_its_columns():
  both = [{**p, **q} for p, q in zip(PAIRS, LABELS, strict=True)]
  for rows, pair, label in (
    *((PAIRS, True, False), (LABELS, False, True)),
    *((both, True, True), ([{"prompt": "a", "label": 7}], False, False)),
  ):
    task = make(rows)
    assert (task.preferences is not None) == pair
    assert (task.labelled is not None) == label
    assert task.spec["answer_length"] == 5 and task.spec["prompt_length"] == 8


def test_widths_are_buckets_of_the_global_batch():
  short = {"prompt": "a", "chosen": "aaaa", "rejected": "b"}
  rows = [*PAIRS[:2], short, {**short, "prompt": "b"}]
  fields = {"prompt_length": (2, 8), "answer_length": 5}
  seen = []
  for host in range(2):
    task = text.make(
      config(rows, **fields), TOK, process_index=host, process_count=2
    )
    stream = task.preferences("train", 2, 0)
    seen.append([next(stream)["tokens"].shape for _ in range(8)])
  assert seen[0] == seen[1]  # both hosts compile the same shapes
  assert set(seen[0]) == {(2, 2 + 5), (2, 8 + 5)}


def test_hosts_read_slices_of_the_same_batch():
  want = next(make().preferences("train", 4, 3))
  parts = [
    next(
      text.make(config(), TOK, process_index=i, process_count=2).preferences(
        "train", 4, 3
      )
    )
    for i in range(2)
  ]
  for name, value in want.items():
    joined = np.concatenate([p[name] for p in parts])
    np.testing.assert_array_equal(joined, value)


@pytest.mark.parametrize("kind", ["preferences", "labelled"])
def test_state_is_exact(kind):
  task = make(PAIRS if kind == "preferences" else LABELS)
  stream = task.preferences if kind == "preferences" else task.labelled
  ahead = stream("train", 5, 1)
  every = [next(ahead) for _ in range(8)]  # over three edges of epochs
  for before in (0, 2, 3, 5):
    one = stream("train", 5, 1)
    for _ in range(before):
      next(one)
    state = json.loads(json.dumps(one.get_state()))
    again = stream("train", 5, 1)
    next(again)
    again.set_state(state)
    for k in range(before, 8):
      b = next(again)
      for name, value in every[k].items():
        np.testing.assert_array_equal(b[name], value)


def test_a_state_of_other_pairs_is_refused():
  other = copy.deepcopy(PAIRS)
  other[3]["rejected"] = "99"
  state = make().preferences("train", 4, 0).get_state()
  with pytest.raises(UserError, match="digest was"):
    make(other).preferences("train", 4, 0).set_state(state)
  both = [{**p, **q} for p, q in zip(PAIRS, LABELS, strict=True)]
  task = make(both)
  state = task.preferences("train", 4, 0).get_state()
  with pytest.raises(UserError, match="digest was"):
    task.labelled("train", 4, 0).set_state(state)


# -------------------------------------------------- counts and splits
def test_overlong_pairs_are_counted_and_never_cut(caplog):
  long = {"prompt": "1+1=", "chosen": "2", "rejected": "12345", "n": 1}
  wide = {"prompt": "1+1+1+1+1=", "chosen": "5", "rejected": "4", "n": 1}
  task = make([long, *PAIRS, wide])
  with caplog.at_level(logging.INFO):
    found = next(task.preferences("train", 12, 0))
    next(task.preferences("train", 2, 1))
  lines = [r.message for r in caplog.records if "pairs" in r.message]
  assert len(lines) == 1 and "12 of 14 pairs" in lines[0]  # read once
  counts = task.spec["report"]["train pairs"]
  assert (counts.rows, counts.kept, counts.overlong) == (14, 12, 2)
  assert (counts.longest_prompt, counts.longest_answer) == (10, 6)
  assert counts.positive == sum(
    len(r["chosen"]) > len(r["rejected"]) for r in PAIRS
  )
  assert {p for p, _ in read(found)} == {r["prompt"] for r in PAIRS}
  with pytest.raises(
    UserError, match=r"row 12 .* 6 tokens for answer_length=5"
  ):
    make([*PAIRS, long], on_overlong="raise").preferences("train", 2, 0)


def test_equal_sides():
  rows = [*PAIRS, {"prompt": "1=", "chosen": "1", "rejected": "1", "n": 1}]
  with pytest.raises(UserError, match=r"row 12 of the list of rows.* the same"):
    make(rows).preferences("train", 2, 0)
  task = make(rows, on_equal="drop")
  task.preferences("train", 2, 0)
  counts = task.spec["report"]["train pairs"]
  assert (counts.kept, counts.equal, counts.overlong) == (12, 1, 0)


def test_class_balance(caplog):
  task = make(LABELS)
  with caplog.at_level(logging.INFO):
    task.labelled("train", 2, 0)
  counts = task.spec["report"]["train labelled answers"]
  assert (counts.kept, counts.positive) == (12, 4)
  assert "good: 4 = 33.3%" in caplog.text
  caplog.clear()
  with caplog.at_level(logging.WARNING):  # nothing to tell apart
    make([r for r in LABELS if r["label"]]).labelled("train", 2, 0)
  assert "good: 4 = 100.0%" in caplog.text


def test_pairs_of_one_prompt_stay_in_one_split():
  rows = [
    {"prompt": f"{i}=", "chosen": a, "rejected": b}
    for i in range(60)
    for a, b in (("1", "2"), ("3", "1"), ("2", "3"))
  ]
  sides = [whole(rows, split=s, holdout=0.3)[0] for s in ("train", "test")]
  assert not set(sides[0]) & set(sides[1])
  assert all(len(p) == 3 for side in sides for p in side.values())
  assert sum(map(len, sides)) == 60 and len(sides[1]) > 5


# -------------------------------------------------- bad input
def pair(**fields):
  """Row 12 is wrong."""
  bad = {"prompt": "a=", "chosen": "1", "rejected": "2", "n": 3, **fields}
  rows = [*PAIRS, {k: v for k, v in bad.items() if v is not ...}]
  return lambda: make(rows).preferences("train", 2, 0)


def label(**fields):
  bad = {"prompt": "a=", "completion": "1", "label": True, **fields}
  rows = [*LABELS, {k: v for k, v in bad.items() if v is not ...}]
  return lambda: make(rows).labelled("train", 2, 0)


def everywhere(rows=PAIRS, config=(), kind="preferences", **extra):
  """Columns added to all rows; the last one may be another."""
  config = dict(config)
  last = {k: v[1] for k, v in extra.items()}
  rows = [{**r, **{k: v[0] for k, v in extra.items()}} for r in rows]
  rows[-1].update(last)
  return lambda: getattr(make(rows, **config), kind)("train", 2, 0)


STRENGTH = {"strength": "s"}
BAD = {
  "empty chosen": pair(chosen=""),
  "empty rejected": pair(rejected=""),
  "chosen is a number": pair(chosen=3),
  "chosen is none": pair(chosen=None),
  "no chosen": pair(chosen=...),
  "no rejected": pair(rejected=...),
  "no prompt": pair(prompt=...),
  "empty prompt": pair(prompt=""),
  "prompt is a number": pair(prompt=7),
  "equal": pair(chosen="2"),
  "character": pair(chosen="é"),
  "messages to a string": pair(chosen=[{"role": "assistant", "content": "a"}]),
  "strength none": everywhere(s=(1, None), config=STRENGTH),
  "strength text": everywhere(s=(1, "2"), config=STRENGTH),
  "strength nan": everywhere(s=(1, float("nan")), config=STRENGTH),
  "strength below 0": everywhere(s=(1, -0.5), config=STRENGTH),
  "strength name": everywhere(config=STRENGTH),
  "tie": everywhere(tie=(False, 2)),
  "tie text": everywhere(tie=("yes", "no")),
  "reference of one side": everywhere(chosen_reference_logp=(-1.0, -2.0)),
  "reference inf": everywhere(
    chosen_reference_logp=(-1.0, float("-inf")),
    rejected_reference_logp=(-1.0, -1.0),
  ),
  "chosen name": lambda: make(chosen="chosn"),
  "rejected name": lambda: make(rejected="reject"),
  "label name": lambda: make(LABELS, label="good"),
  "on_equal": lambda: make(on_equal="keep"),
  "answer_length 0": lambda: make(answer_length=0),
  "answer_length twice": lambda: make(answer_length=(3, 5)),
  "answer_length none": lambda: make(answer_length=()),
  "all over-long": lambda: make(answer_length=1).preferences("train", 2, 0),
  "all equal": lambda: make(
    [{"prompt": "a", "chosen": "b", "rejected": "b"}], on_equal="drop"
  ).preferences("train", 2, 0),
  "all held out": lambda: make(PAIRS[:1], holdout=0.99999).preferences(
    "train", 2, 0
  ),
  "split": lambda: make().preferences("test", 2, 0),
  "labelled split": lambda: make(LABELS).labelled("dev", 2, 0),
  "test columns": lambda: make(test=[{"prompt": "a"}]).preferences(
    "test", 2, 0
  ),
  "batch 0": lambda: make().preferences("train", 0, 0),
  "seed": lambda: make().preferences("train", 2, -1),
  "label 2": label(label=2),
  "label 0.5": label(label=0.5),
  "label text": label(label="good"),
  "label none": label(label=None),
  "no label": label(label=...),
  "empty completion": label(completion=""),
  "completion kind": label(completion=4),
  "no completion": label(completion=...),
  "no common dialogue": lambda: make([{"chosen": "a", "rejected": "b"}]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
  with pytest.raises(UserError) as caught:
    BAD[case]()
  lines = str(caught.value).split("\n")
  assert len(lines) == 3, str(caught.value)
  assert lines[1].startswith("  why: ") and lines[2].startswith("  fix: ")


@pytest.mark.parametrize(
  ("case", "row", "column"),
  [
    ("empty chosen", 12, "'chosen'"),
    ("empty rejected", 12, "'rejected'"),
    ("strength nan", 11, "'s'"),
    ("tie", 11, "'tie'"),
    ("label 2", 12, "'label'"),
    ("empty completion", 12, "'completion'"),
    ("no rejected", 12, "'rejected'"),
  ],
)
def test_errors_name_row_and_column(case, row, column):
  with pytest.raises(UserError, match=f"row {row} of .*{column}"):
    BAD[case]()
