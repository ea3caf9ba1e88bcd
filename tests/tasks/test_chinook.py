"""Toy SQL: questions of each kind, gold queries that run, other ones that fail.

Everything but the missing file needs the Chinook database.
"""

import collections
import gzip
import json
import re
import shutil
import sqlite3

import jax
import nano
import numpy as np
import paths
import pytest

from rlreward import registry
from rlreward.errors import UserError
from rlreward.rewards import sql, sql_match
from rlreward.tasks import chinook, chinook_rows
from rlreward.types import STOP, Rollout


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """The unpacked database."""
  packed = paths.shared_data("sql_chinook") / chinook.FILE
  path = tmp_path_factory.mktemp("sql") / "chinook.sqlite"
  path.write_bytes(gzip.decompress(packed.read_bytes()))
  return str(path)


LEVELS = pytest.mark.parametrize("level", range(6))


def make(base, **fields):
  return chinook.make({"database": base, **fields})


def judged(task, batch, queries):
  """Values of queries as answers to the prompts of a batch."""
  tok, p = task.spec["tokenizer"], batch["prompt"].shape[1]
  ids = [[*tok.encode(q), tok.eos_ids[0]] for q in queries]
  width = p + max(map(len, ids))
  tokens = np.full((len(ids), width), tok.pad_id, np.int32)
  action = np.zeros(tokens.shape, bool)
  tokens[:, :p] = batch["prompt"]
  for i, row in enumerate(ids):
    tokens[i, p : p + len(row)], action[i, p : p + len(row)] = row, True
  attend = action.copy()
  attend[:, :p] = batch["prompt_mask"]
  n = len(ids)
  fields = (tokens, attend, action, action, np.zeros(tokens.shape),
            np.arange(n), np.full(n, STOP), np.zeros(()))  # fmt: skip
  score = task.reward(Rollout(*fields), batch)
  assert np.asarray(score.valid).all()
  return np.asarray(score.value)


@LEVELS
def test_gold_is_one_and_other_queries_are_none(base, level):
  task = make(base, level=level)
  batch = next(task.batches("train", 16, 0))
  columns = batch["columns"]
  assert judged(task, batch, columns["gold"]).tolist() == [1] * 16
  assert judged(task, batch, columns["rejected"]).tolist() == [0] * 16
  assert task.gold is task.reward and columns["level"] == [level] * 16


def test_the_form_of_a_query_does_not_count(base):
  task = make(base)
  batch = next(task.batches("train", 1, 0))
  gold = batch["columns"]["gold"][0]
  said = [f"```sql\n{gold}\n```", f"SELECT * FROM ({gold}) ORDER BY 1 DESC",
          f"{gold} LIMIT 0", gold[:-5], "DROP TABLE Customer", ""]  # fmt: skip
  worth = [judged(task, batch, [q])[0] for q in said]
  assert worth == [1, 1, 0, 0, 0, 0]


@LEVELS
def test_templates_are_what_they_say(base, level):
  """Joins, aggregates and filters counted in the text of the gold query."""
  del base
  c = chinook.at(level)
  kind = (c["filters"], c["joins"], c["aggregate"])
  found = [t for t in chinook_rows.TEMPLATES if t[:3] == kind]
  assert found
  for t in found:
    tables = len(re.findall(r"\bJOIN\b", t.gold))
    conditions = t.gold.split(" WHERE ")[1].split(" GROUP ")[0]
    assert tables == c["joins"]
    assert len(conditions.split(" AND ")) == c["filters"]
    assert bool(re.search(r"(count|sum|max)\(", t.gold)) == c["aggregate"]
    assert {*re.findall(r"\{\d\}", t.ask)} == {*re.findall(r"\{\d\}", t.gold)}


HAND = {
  "How many customers live in Brazil?": [(5,)],
  "How many albums are by Iron Maiden?": [(21,)],
  "How many tracks are of the genre Opera?": [(1,)],
}


def test_answers_by_hand(base):
  """Counted in Python over whole tables, without a query of ours."""
  c = sqlite3.connect(base)
  people = c.execute("SELECT * FROM Customer").fetchall()
  assert sum("Brazil" in row for row in people) == 5
  artists = {n: i for i, n in c.execute("SELECT * FROM Artist")}
  albums = [a for _, _, a in c.execute("SELECT * FROM Album")]
  assert albums.count(artists["Iron Maiden"]) == 21
  genres = {n: i for i, n in c.execute("SELECT * FROM Genre")}
  tracks = [r[0] for r in c.execute("SELECT GenreId FROM Track")]
  assert tracks.count(genres["Opera"]) == 1
  asked = {
    q["question"]: q["gold"]
    for level in (1, 4)
    for q in chinook_rows.table(base, chinook.at(level))
  }
  for question, rows in HAND.items():
    found = sql.run(base, asked[question]).rows
    assert sql_match.same(rows, found)


@LEVELS
def test_the_guess_is_that_of_all_pairs(base, level):
  questions = chinook_rows.table(base, chinook.at(level))
  # Sums of cents as floats: rounded to them, equal rows are equal tuples.
  cents = lambda x: round(x, 2) if isinstance(x, float) else x
  found = collections.Counter(
    tuple(sorted(tuple(map(cents, r)) for r in sql.run(base, q["gold"]).rows))
    for q in questions
  )
  want = sum(n * n for n in found.values()) / len(questions) ** 2
  assert chinook_rows.guess(questions) == pytest.approx(want, abs=1e-12)


def test_questions_are_different_and_have_rows(base):
  for level in range(6):
    questions = chinook_rows.table(base, chinook.at(level))
    asked = [q["prompt"] for q in questions]
    assert len(asked) == len(set(asked)) >= 20
    assert all(sql.run(base, q["gold"]).rows for q in questions)


@pytest.mark.parametrize("kind", ["batches", "demonstrations", "preferences"])
@pytest.mark.parametrize("stages", ["", "0,4@2"])
def test_state_is_exact(base, kind, stages):
  open_ = getattr(make(base, stages=stages), kind)
  whole = open_("train", 4, 3)
  every = [next(whole) for _ in range(5)]
  for before in (0, 1, 3):
    one = open_("train", 4, 3)
    for _ in range(before):
      next(one)
    state = json.loads(json.dumps(one.get_state()))
    again = open_("train", 4, 3)
    next(again)
    again.set_state(state)
    for k in range(before, 5):
      jax.tree.map(np.testing.assert_array_equal, next(again), every[k])


def test_training_goes_through_the_stages(base):
  task = make(base, stages="0,4@2")
  stream = task.batches("train", 4, 0)
  levels = [next(stream)["columns"]["level"][0] for _ in range(4)]
  assert levels == [0, 0, 4, 4]
  test = next(task.batches("test", 4, 0))
  assert test["columns"]["level"] == [4] * 4


def test_no_question_is_in_both_splits(base):
  task = make(base, level=4, holdout=0.3)
  sides = []
  for split in ("train", "test"):
    stream = task.batches(split, 16, 0)
    sides.append({q for _ in range(8)
                  for q in next(stream)["columns"]["question"]})  # fmt: skip
  assert sides[0] and sides[1] and not sides[0] & sides[1]


def test_demonstrations_and_pairs(base):
  task = make(base)
  tok = task.spec["tokenizer"]
  shown = next(task.demonstrations("train", 4, 0))
  for ids, loss in zip(shown["tokens"], shown["loss"], strict=True):
    assert tok.decode(ids[loss]).startswith("SELECT ")
    assert ids[loss][-1] == tok.eos_ids[0]
  pairs = next(task.preferences("train", 4, 0))
  said = [tok.decode(i[m]) for i, m in zip(pairs["tokens"], pairs["loss"],
                                           strict=True)]  # fmt: skip
  right = {q["gold"]: q["rejected"]
           for q in chinook_rows.table(base, chinook.at(0))}  # fmt: skip
  assert [right[q] for q in said[::2]] == said[1::2]


def test_the_schema_in_the_prompt(base):
  rows = chinook_rows.table(base, {**chinook.at(3), "schema": True})
  assert "\nAlbum(AlbumId, Title, ArtistId)\n" in "\n" + rows[0]["prompt"]
  plain = chinook_rows.table(base, chinook.at(3))
  assert [r["gold"] for r in rows] == [r["gold"] for r in plain]
  assert rows[0]["prompt"].endswith(plain[0]["prompt"])


def test_grpo_accepts_the_task(base):
  task = make(base)
  c = nano.config(
    model__vocab=task.spec["vocab_size"], sampling__max_new_tokens=8
  )
  method = registry.algorithm("grpo").make(c, task)
  batch = next(task.batches("train", nano.B, 0))
  arrays = {k: v for k, v in batch.items() if k != "columns"}
  state = jax.eval_shape(method.init, jax.random.key(0))
  assert method.phases is not None
  rolled = jax.eval_shape(
    method.phases.sample, state, arrays, jax.random.key(0)
  )
  assert rolled.tokens.shape[0] == nano.B * nano.G
  assert "chinook" in registry.tasks()


def test_levels(base):
  ladder = chinook.levels()
  assert set(chinook.at(0)) == set(chinook.defaults())
  for level, fields in enumerate(ladder):
    assert fields.items() <= chinook.at(level).items()
    one = chinook_rows.table(base, chinook.at(level))
    two = chinook_rows.table(base, {**chinook.defaults(), **fields})
    assert [q["gold"] for q in one] == [q["gold"] for q in two]


def test_a_packed_file_is_unpacked_once(base, tmp_path, monkeypatch):
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
  packed = paths.shared_data("sql_chinook") / chinook.FILE
  first = chinook.database(str(packed))
  with open(first, "rb") as one, open(base, "rb") as two:
    raw = two.read()
    assert one.read() == raw
  with open(first, "wb") as broken:
    broken.write(b"half")
  assert chinook.database(str(packed)) == first
  with open(first, "rb") as one:
    assert one.read() == raw
  assert [p.name for p in tmp_path.iterdir()] == [first.split("/")[-1]]
  folder = tmp_path / "data" / "sql_chinook"
  folder.mkdir(parents=True)
  shutil.copy(packed, folder / chinook.FILE)
  monkeypatch.setenv("RLREWARD_DATA", str(tmp_path / "data"))
  assert chinook.database() == first


def three_lines(error):
  lines = str(error.value).split("\n")
  assert len(lines) == 3, str(error.value)
  assert lines[1].startswith("  why: ") and lines[2].startswith("  fix: ")


def test_an_absent_database_is_said(tmp_path, monkeypatch):
  monkeypatch.setenv("RLREWARD_DATA", str(tmp_path))
  with pytest.raises(UserError, match="Chinook database is not at") as caught:
    chinook.make()
  three_lines(caught)
  with pytest.raises(UserError, match="RLREWARD_DATA"):
    chinook.make({"database": "nowhere.sqlite"})


def test_another_database_is_said(tmp_path):
  path = tmp_path / "other.sqlite"
  with sqlite3.connect(path) as c:
    c.execute("CREATE TABLE t (a)")
  with pytest.raises(UserError, match="no such table") as caught:
    make(str(path))
  three_lines(caught)


@pytest.mark.parametrize(
  "fields",
  [
    {"level": 6},
    {"filters": 0},
    {"joins": 1.5},
    {"aggregate": 1},
    {"schema": "full"},
    {"stages": "1@1"},
    {"holdout": 2},
    {"table": "Track"},
  ],
)
def test_bad_input(base, fields):
  with pytest.raises(UserError) as caught:
    make(base, **fields)
  three_lines(caught)
