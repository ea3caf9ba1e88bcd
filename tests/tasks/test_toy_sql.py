"""Toy SQL: gold queries, near misses, what finds nothing or does not end."""

import numpy as np
import pytest

from rlreward.errors import UserError
from rlreward.rewards import sql, sql_parts
from rlreward.tasks import toy_sql, toy_sql_rows
from rlreward.types import Rollout

ROWS = toy_sql_rows.table(60, 0)


def score(task, said, which):
  """The task's rewards of texts said to prompts of ROWS."""
  tok = task.spec["tokenizer"]
  ids = [[*tok.encode(s), *tok.eos_ids] for s in said]
  width = max(map(len, ids))
  put = lambda fill, x: [*x, *[fill] * (width - len(x))]
  tokens = np.asarray([put(0, i) for i in ids], np.int32)
  act = np.asarray([put(False, [True] * len(i)) for i in ids])
  n, zero = len(ids), np.zeros(tokens.shape, np.float32)
  rollout = Rollout(tokens, act, act, act, zero, np.arange(n, dtype=np.int32),
                    np.zeros(n, np.int32), np.int32(0))  # fmt: skip
  columns = {k: [ROWS[i][k] for i in which] for k in ROWS[0]}
  batch = {"prompt": np.zeros((n, 1), np.int32), "columns": columns,
           "row": np.asarray(which, np.int32)}  # fmt: skip
  return task.reward(rollout, batch), task.gold(rollout, batch)


def test_tables_and_questions():
  assert len({r["prompt"] for r in ROWS}) == 60
  base = ROWS[0]["database"]
  assert {k: v for k, v in sql.schema(base).items()} == toy_sql_rows.TABLES
  for row in ROWS:
    found = sql.run(base, row["gold"], steps=2000)
    told = {str(x) for r in found.rows for x in r}
    assert found.status == "ok" and told - {"None", "0", *"123456"}
  assert toy_sql_rows.table(60, 1) != ROWS
  assert len(toy_sql_rows.WORDS) == 40


def test_gold_earns_everything_and_a_changed_number_less():
  task = toy_sql.make({"reward": "parts"})
  which = list(range(60))
  paid, right = score(task, [r["chosen"] for r in ROWS], which)
  assert paid.valid.all() and (paid.value == 7).all()
  assert (right.value == 1).all()
  # Another number is another result in all but a few of these tables.
  turned = [r["chosen"].translate(str.maketrans("123456", "234561"))
            for r in ROWS]  # fmt: skip
  paid, right = score(task, turned, which)
  assert right.value.mean() < 0.1
  assert (paid.value[right.value == 0] < 4).all()
  assert (paid.components["sql/schema"] == 1).all()


def test_what_a_query_can_come_to():
  task = toy_sql.make({"reward": "parts"})
  kinds = {
    "nothing": "<think> </think> <answer> </answer>",
    "no query": "<think> </think> <answer> WHERE WHERE </answer>",
    "no rows": "<think> </think> <answer> SELECT pid FROM people"
    " WHERE pid < 1 </answer>",
    "no format": ROWS[0]["gold"],
    "endless": "<think> </think> <answer> SELECT count(*) FROM sales"
    + " JOIN sales" * 6
    + " </answer>",
  }
  paid, right = score(task, list(kinds.values()), [0] * 5)
  parts = {k.rpartition("/")[2]: v for k, v in paid.components.items()}
  at = {k: i for i, k in enumerate(kinds)}
  assert paid.valid.all()  # nothing is lost, nothing raises
  assert right.value.tolist() == [0, 0, 0, 1, 0]
  assert parts["syntax"].tolist() == [0, 0, 1, 1, 0]
  assert parts["format"].tolist() == [1, 1, 1, 0, 0]
  assert parts["timeout"].tolist() == [0, 0, 0, 0, 1]
  assert paid.value[at["endless"]] == 0
  query = kinds["endless"].split("answer>")[1].removesuffix("</")
  assert sql.run(ROWS[0]["database"], query, toy_sql.STEPS).status == "timeout"


def test_an_empty_gold_result_is_never_right():
  base = ROWS[0]["database"]
  none = "SELECT pid FROM people WHERE pid < 1"
  for empty in (True, False):
    options = sql_parts.Options(empty=empty)
    _, parts, _ = sql_parts.judge(none, none, base, none, tuple(options))
    assert parts["execution"] == float(empty)


def test_garbled_demonstrations_of_what_is_not_shown():
  """Each of four parts is another with a chance of 0.6, questions alike."""
  rows = toy_sql_rows.table(60, 0, 2, 0.6)
  assert len(rows) == 60 * toy_sql_rows.COPIES
  assert [r["gold"] for r in rows] == [r["gold"] for r in ROWS] * 20
  shown = [r for i, r in enumerate(rows) if i % 60 < 24]
  assert all(r["said"] == r["chosen"] for r in shown)
  other = [r for i, r in enumerate(rows) if i % 60 >= 24]
  right = np.mean([r["said"] == r["chosen"] for r in other])
  assert right == pytest.approx(0.4**4, abs=0.024)  # 4 sd of 720
  number = np.mean([r["said"].split()[-2] == r["chosen"].split()[-2]
                    for r in other])  # fmt: skip
  assert number == pytest.approx(0.4, abs=0.073)
  tok = toy_sql.make().spec["tokenizer"]
  for row in rows[:200]:
    assert tok.decode(tok.encode(row["said"])) == row["said"]
  task = toy_sql.make({"shown": 2, "garble": 0.6})
  assert task.spec["report"]["test"].kept == 60


def test_splits_and_streams():
  task = toy_sql.make({"holdout": 0.2})
  seen = {
    split: {tuple(r) for r in next(task.batches(split, 40, 0))["prompt"]}
    for split in ("train", "test")
  }
  assert seen["train"] and seen["test"] and not seen["train"] & seen["test"]
  task = toy_sql.make()
  assert task.gold is task.reward
  for kind in ("demonstrations", "preferences"):
    assert next(getattr(task, kind)("train", 4, 0))["tokens"].shape[1] == 32


@pytest.mark.parametrize(
  ("fields", "word"),
  [({"questions": 3}, "questions"), ({"holdout": 0.9}, "holdout"),
   ({"shown": 6}, "shown"), ({"garble": 2.0}, "garble"),
   ({"reward": "some"}, "reward")],
)  # fmt: skip
def test_fields_that_cannot_be(fields, word):
  with pytest.raises(UserError, match=word):
    toy_sql.make(fields)
