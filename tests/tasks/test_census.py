"""The census of judged data: planted defects are counted, real data read."""

import json

import numpy as np
import pytest
from test_rankings import BIG, TOK, letters, lines

from rlreward import record
from rlreward.errors import UserError
from rlreward.tasks import census, census_counts, rankings, ratings, text

SIZES = {"prompt_length": 4, "answer_length": 5}


def pair(prompt, chosen, rejected, **more):
  return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def take(rows, tok=TOK, **fields):
  (found,) = census.take({"train": rows, **SIZES, **fields}, tok).values()
  return found


def test_planted_defects_of_pairs():
  rows = [
    pair("a=", "1", "2"),
    pair("a=", "1", "2"),  # duplicate
    pair("a=", "2", "1"),  # contradicts both
    pair("b=", "3", "3"),  # equal sides
    pair("b=", "3", "12345"),  # over-long
    pair("long=", "3", "4"),  # over-long
    pair("b=", " ", "4"),  # blank
    pair("a=", "1", "3"),
  ]
  n = take(rows)
  assert (n.kind, n.rows, n.kept) == ("pairs", 8, 5)
  assert (n.duplicates, n.contradicting, n.equal) == (1, 1, 1)
  assert (n.overlong, n.blank, n.comparisons, n.ties) == (2, 1, 5, 0)
  assert (n.longest_prompt, n.longest_answer) == (5, 6)
  assert len(n.warnings()) == 4 and not any("length" in w for w in n.warnings())


def test_ties_contradict_nothing():
  rows = [pair("a=", "1", "2", tie=True), pair("a=", "2", "1", tie=False)]
  n = take(rows)
  assert (n.ties, n.contradicting, n.duplicates) == (1, 0, 0)


def test_labelled_answers():
  rows = [
    {"prompt": "a=", "completion": "1", "label": True},
    {"prompt": "a=", "completion": "1", "label": False},
    {"prompt": "b=", "completion": "1", "label": True},
    {"prompt": "b=", "completion": "1", "label": True},
  ]
  n = take(rows)
  assert (n.contradicting, n.duplicates) == (1, 1)
  assert n.balance == {"label": (4, 0.75)}
  assert any("are 1" in w for w in take(rows[2:]).warnings())


@pytest.mark.parametrize("longer", [True, False])
def test_length_that_tells_is_said(longer):
  rows = []
  for i in range(40):
    sides = ("123", "4") if (i % 8 > 0) == longer else ("4", "123")
    rows.append(pair(f"{i}=", *sides))
  n = take(rows)
  auroc = 0.875 if longer else 0.125  # 5 of 40 are the other way round
  length = n.length["order"]
  np.testing.assert_allclose(length.auroc, auroc)
  assert length.tells
  (said,) = n.warnings()
  assert ("longer" in said) == longer and "AUROC" in said
  fair = take([pair(f"{i}=", *("123", "4")[:: (-1) ** i]) for i in range(40)])
  assert fair.length["order"].auroc == 0.5 and not fair.warnings()
  few = take(rows[:3])  # too few to say so
  assert not any("length" in w for w in few.warnings())


def test_auroc_equals_all_pairs():
  rng = np.random.default_rng(0)
  size, good = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.4
  d = size[good][:, None] - size[~good]
  want = ((d > 0) + (d == 0) / 2).mean()
  got, error = census_counts.auroc_of(size, good)
  np.testing.assert_allclose(got, want, rtol=1e-12)
  drawn = []
  for _ in range(2000):
    rng.shuffle(good)
    drawn.append(census_counts.auroc_of(rng.random(60), good)[0])
  np.testing.assert_allclose(error, np.std(drawn), rtol=0.06)  # 1.6% is one sd


def test_defects_of_rankings():
  row = lambda p, a, s: {"prompt": p, "completions": list(a), "scores": s}
  rows = [
    row("a=", "123", [3, 2, 1]),
    row("a=", "321", [1, 2, 3]),  # the same, listed otherwise
    row("a=", "12", [1, 2]),  # contradicts one comparison of both
    row("b=", "11", [1, 2]),  # equal answers
  ]
  task = rankings.make({"train": rows, **SIZES}, TOK)
  n = task.spec["report"]["train"]
  assert (n.kept, n.duplicates, n.contradicting, n.equal) == (3, 1, 1, 1)
  assert n.balance["answer 1 is best"] == (3, pytest.approx(1 / 3))


def test_it_is_written_and_printed(tmp_path):
  found = census.take({"train": [pair("a=", "1", "22")], **SIZES}, TOK)
  census.write(found, tmp_path / "data.json")
  read = json.loads((tmp_path / "data.json").read_text())
  assert read["train pairs"]["kept"] == 1
  assert read["train pairs"]["length"]["order"]["better"] == 2  # with eos
  lines = found["train pairs"].lines("train")
  assert lines[0].startswith("train: 1 of 1 pairs (1 comparisons")


def test_real_dialogues():
  path, rows = lines("hh_rlhf", "harmless_base_test_0_1200.jsonl.gz")
  n = take(path, letters(rows), **BIG)
  assert n.rows == 1200 and n.kept == 1200 - n.equal and n.overlong == 0
  same = sum(r["chosen"] == r["rejected"] for r in rows)
  assert n.equal == same
  better, worse = np.array([
    [len(r["chosen"]), len(r["rejected"])] for r in rows
    if r["chosen"] != r["rejected"]
  ]).T  # fmt: skip
  want = ((better > worse) + (better == worse) / 2).mean()
  np.testing.assert_allclose(n.length["order"].auroc, want, rtol=1e-9)


def test_no_judgements_are_refused():
  with pytest.raises(UserError, match="no pairs and no labels") as caught:
    take([{"prompt": "a="}])
  assert len(str(caught.value).split("\n")) == 3


def test_lengths_missing_ratings_and_files(tmp_path):
  rows = [
    pair("a=", "123", "4"),
    pair("abc=", "1", "45"),
    pair("b=", "12", "345"),
    pair("c=", "1", "2"),
  ]
  n = take(rows)
  assert n.longer == 0.25 and n.files == {}
  cuts = census_counts.QUANTILES
  sizes = {"prompt": [2, 4, 2, 2], "better": [4, 2, 3, 2],
           "worse": [2, 3, 4, 2]}  # fmt: skip
  assert n.sizes.keys() == sizes.keys()
  for name, found in sizes.items():
    np.testing.assert_allclose(n.sizes[name], np.quantile(found, cuts))
  rated = [
    {"prompt": "a=", "completion": "12", "good": 1, "short": None},
    {"prompt": "a=", "completion": "1", "good": 0},
    {"prompt": "b=", "completion": "123", "good": 0.5, "short": 1},
  ]
  for k, part in enumerate((rated[:2], rated[2:])):
    said = "".join(json.dumps(r) + "\n" for r in part)
    (tmp_path / f"{k}.jsonl").write_text(said)
  fields = {"train": f"{tmp_path}/*.jsonl", "attributes": "good,short"}
  task = ratings.make({**fields, **SIZES}, TOK)
  n = task.spec["report"]["train"]
  assert n.missing == {"short": 2} and n.longer is None
  assert n.files == {f"{tmp_path}/0.jsonl": 2, f"{tmp_path}/1.jsonl": 1}
  np.testing.assert_allclose(n.sizes["answer"][2], 3)  # 12 and its eos
  said = "\n".join(n.lines("train"))
  assert "short: missing in 2 of 3 rows" in said and "0.jsonl 2" in said


def test_a_run_shows_and_keeps_what_its_data_is(tmp_path):
  rows = [
    pair("a=", "1", "22"),
    pair("a=", "1", "22"),
    pair("b=", "3", "123456"),
  ]
  fields = {"train": rows, "test": rows[:1], **SIZES}
  task = text.make(fields, TOK)
  assert task.preferences is not None
  task.preferences("train", 1, 0)
  said = "\n".join(record.data_lines(task))
  assert "train pairs: 2 of 3 pairs" in said and "1 over-long dropped" in said
  assert "the better answer is longer in 0.0%" in said
  assert "WARNING: 1 rows came before and count twice" in said
  record.write_data(tmp_path, task)
  found = json.loads((tmp_path / "data.json").read_text())
  assert found["train pairs"]["duplicates"] == 1
  assert found["train pairs"]["longer"] == 0
  assert found["train"]["kept"] == 3 and "test pairs" not in found
  task.preferences("test", 1, 0)
  record.write_data(tmp_path, task)
  assert "test pairs" in json.loads((tmp_path / "data.json").read_text())
