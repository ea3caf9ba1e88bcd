"""Tools of texts: what is a call, what is shown, SQL over the real Chinook."""

import sqlite3

import numpy as np
import paths
import pytest

from rlreward import errors
from rlreward.rewards import text_tool
from rlreward.rewards.text_tool import Marks
from rlreward.tasks import tokens

TOK = tokens.CharTokenizer("".join(map(chr, range(32, 127))) + "\n")
TAGS = Marks()
REST = Marks("?", "", ">", ";")


@pytest.mark.parametrize(
  "marks,text,call",
  [
    (TAGS, "I look. <tool>a b</tool> now", "a b"),
    (TAGS, "<tool> a </tool>", "a"),
    (TAGS, "<tool></tool>", None),
    (TAGS, "<tool>  </tool>", None),
    (TAGS, "no call", None),
    (TAGS, "<tool>a", None),
    (TAGS, "a</tool>", None),
    (TAGS, "</tool>a<tool>", None),
    (TAGS, "<tool>a</tool><tool>b</tool>", None),
    (TAGS, "<tool><tool>a</tool>", None),
    (REST, "?ab", "ab"),
    (REST, "ab?", None),
    (REST, "?", None),
    (REST, "", None),
  ],
)
def test_what_a_call_is(marks, text, call):
  assert text_tool.call(text, marks) == call


def rows(texts, width=48):
  ids, mask = tokens.right_pad(
    [[*TOK.encode(t), *TOK.eos_ids] for t in texts], width, TOK.pad_id
  )
  return ids, mask


def played(tool, texts, columns):
  ids, seen, called = tool.observe(*rows(texts), columns)
  shown = [TOK.decode(i[m].tolist()) for i, m in zip(ids, seen, strict=True)]
  return shown, called.tolist()


def test_calls_of_all_rows_are_asked_at_once_with_their_columns():
  asked = []

  def answer(calls, columns):
    asked.append((calls, columns))
    return [c.upper() for c in calls]

  tool = text_tool.make(answer, TOK, turns=2, length=40, columns=("of",))
  shown, called = played(
    tool,
    ["<tool>a</tool>", "done", "so <tool>bc</tool>"],
    {"of": np.arange(3)},
  )
  assert asked == [(["a", "bc"], {"of": [0, 2]})]
  assert shown == ["\n<result>A</result>\n", "", "\n<result>BC</result>\n"]
  assert called == [True, False, True]
  assert not tool.on_device and tool.turns == 2 and tool.length == 40


def test_no_call_asks_nothing():
  tool = text_tool.make(
    lambda *a: pytest.fail("asked"), TOK, turns=1, length=40
  )
  shown, called = played(tool, ["a", "b"], {})
  assert shown == ["", ""] and called == [False, False]


def test_a_long_answer_is_cut_between_its_marks():
  tool = text_tool.make(
    lambda calls, _: ["x" * 100 for _ in calls], TOK, turns=1, length=6,
    marks=REST,
  )  # fmt: skip
  assert played(tool, ["?a"], {})[0] == [">xxxx;"]


def test_nothing_from_outside_becomes_a_special_token():
  """A cell that holds <eos>, or letters without an id."""

  class Special(tokens.CharTokenizer):
    def encode(self, text, bos=False):
      out = []
      for i, part in enumerate(text.split("<eos>")):
        out += [*self.eos_ids] * bool(i) + super().encode(part)
      return out

  tok = Special("abc")
  assert tok.encode("a<eos>b") == [2, 1, 3]
  assert text_tool.encoded("a<eos>b", tok) == [2, 3]
  assert text_tool.encoded("açb€c", tok) == [2, 3, 4]


def test_each_call_needs_an_answer():
  tool = text_tool.make(lambda *a: [], TOK, turns=1, length=40)
  with pytest.raises(ValueError, match="0 answers to 1 calls"):
    played(tool, ["<tool>a</tool>"], {})


@pytest.mark.parametrize(
  "fields,words",
  [
    ({"length": 19}, "19 of them its marks"),
    ({"marks": Marks(opens="")}, "no opening mark"),
  ],
)
def test_tools_that_cannot_be_are_refused(fields, words):
  given = {"turns": 1, "length": 40, **fields}
  with pytest.raises(errors.UserError, match=words) as caught:
    text_tool.make(lambda *a: [], TOK, **given)
  assert len(str(caught.value).splitlines()) == 3


# ---------------------------------------------------------------------- SQL
@pytest.fixture(scope="module")
def shop(tmp_path_factory):
  path = tmp_path_factory.mktemp("sql") / "shop.sqlite"
  with sqlite3.connect(path) as base:
    base.execute("CREATE TABLE t (name TEXT, n INTEGER, raw BLOB)")
    base.executemany(
      "INSERT INTO t VALUES (?, ?, ?)",
      [("a", 1, b"xy"), ("b", None, b""), ("c" * 99, 3, b"")],
    )
  base.close()
  return str(path)


def asked(shop, *queries):
  tool = text_tool.sql_tool(TOK, turns=1, length=120, rows=2, steps=200_000)
  texts = [f"<sql>{q}</sql>" for q in queries]
  ids, mask = rows(texts, 100)
  found, seen, called = tool.observe(
    ids, mask, {"database": [shop] * len(texts)}
  )
  assert called.all()
  said = [TOK.decode(i[m].tolist()) for i, m in zip(found, seen, strict=True)]
  return [
    s.removeprefix("\n<result>").removesuffix("</result>\n") for s in said
  ]


def test_results_errors_and_queries_without_end(shop):
  found = asked(
    shop,
    "SELECT name, n, raw FROM t LIMIT 2",
    "SELECT n FROM t",
    "SELECT name FROM t WHERE n > 9",
    "SELECT wrong FROM t",
    "DROP TABLE t",
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c)"
    " SELECT count(*) FROM c",
    "SELECT name FROM t WHERE n = 3",
  )
  assert found[0] == "a | 1 | 2 bytes\nb | NULL | 0 bytes"
  assert found[1] == "1\nNULL\n..."
  assert found[2] == "no rows"
  assert found[3].startswith("wrong: no such column")
  assert found[4].startswith("wrong: ")
  assert found[5].startswith("timeout: ")
  assert found[6] == "c" * 57 + "..."
  with sqlite3.connect(shop) as base:  # nothing was written
    assert base.execute("SELECT count(*) FROM t").fetchone() == (3,)
  base.close()


def test_demonstrations_over_chinook_try_the_query_first():
  from rlreward.tasks import chinook

  base = paths.shared_data("sql_chinook") / chinook.FILE
  task = chinook.make(
    {"level": 0, "turns": 1, "observation": 80, "database": str(base)}
  )
  tok, p = task.spec["tokenizer"], task.spec["prompt_length"]
  width = p + task.spec["completion_length"]
  for split in ("train", "test"):
    rows = next(task.demonstrations(split, 8, 0))
    again = next(task.demonstrations(split, 8, 0))
    assert rows["tokens"].shape == (8, width) == again["tokens"].shape
    np.testing.assert_array_equal(rows["tokens"], again["tokens"])
    for ids, attend, loss in zip(
      rows["tokens"], rows["attend"], rows["loss"], strict=True
    ):
      said = tok.decode(ids[loss], False)
      call, answer, nothing = said.split("<eos>")
      assert nothing == "" and call == f"<sql>{answer}</sql>"
      seen = tok.decode(ids[p:][attend[p:] & ~loss[p:]])
      assert seen.startswith("\n<result>") and seen.endswith("</result>\n")
      assert not seen.startswith("\n<result>wrong") and not loss[:p].any()


def test_demonstrations_that_do_not_fit_the_tool_are_refused():
  from rlreward.tasks import turned

  tool = text_tool.make(lambda c, _: c, TOK, turns=1, length=40)
  table = [{"prompt": "a"}]
  for turns, words in ((["b", "c"], "no call"), (["<tool>b</tool>"], "a call")):
    with pytest.raises(errors.UserError, match=words):
      turned.Shown(table, TOK, tool, lambda row, t=turns: t)
  fine = turned.Shown(table, TOK, tool, lambda row: ["<tool>b</tool>", "c"])
  batch = next(fine.stream(2, fine.width, "x")("train", 2, 0))
  assert TOK.decode(batch["tokens"][0][batch["attend"][0]]) == (
    "a<tool>b</tool>\n<result>b</result>\nc"
  )
  with pytest.raises(errors.UserError, match="'test' of 1 prompts is empty"):
    fine.stream(2, fine.width, "x")("test", 2, 0)


def test_a_question_over_chinook_in_turns():
  """The policy tries a query, reads its rows, and its last turn is judged."""
  from rlreward.tasks import chinook
  from rlreward.types import STOP, Rollout

  base = paths.shared_data("sql_chinook") / chinook.FILE
  task = chinook.make(
    {"level": 0, "turns": 2, "observation": 100, "database": str(base)}
  )
  tok, tool = task.spec["tokenizer"], task.spec["tool"]
  batch = next(task.batches("train", 2, 0))
  gold = batch["columns"]["gold"]
  tried = [f"<sql>{g}</sql>" for g in gold]
  ids, mask = tokens.right_pad(
    [[*tok.encode(t), *tok.eos_ids] for t in tried], 300, tok.pad_id
  )
  seen, inside, called = tool.observe(
    ids, mask, {"database": batch["columns"]["database"]}
  )
  assert called.all() and inside[:, 0].all()
  said, mine = [], []
  for n, last in enumerate((gold[0], "SELECT 1")):
    parts = [
      (ids[n][mask[n]].tolist(), True),
      (seen[n][inside[n]].tolist(), False),
      ([*tok.encode(last), *tok.eos_ids], True),
    ]
    said.append([i for part, _ in parts for i in part])
    mine.append([by for part, by in parts for _ in part])
  width = max(map(len, said))
  out, attend = tokens.right_pad(said, width, tok.pad_id)
  action = tokens.right_pad(mine, width, 0)[0].astype(bool)
  before = np.zeros_like(batch["prompt_mask"])
  join = lambda a, b: np.concatenate([a, b], 1)
  rollout = Rollout(
    tokens=join(batch["prompt"], out),
    attend=join(batch["prompt_mask"], attend),
    action=join(before, action),
    loss=join(before, action),
    logp=np.zeros((2, width + before.shape[1]), np.float32),
    group=np.arange(2),
    finish=np.full(2, STOP),
    version=np.int32(0),
  )
  score = task.reward(rollout, batch)
  assert score.valid.all() and score.value.tolist() == [1.0, 0.0]
