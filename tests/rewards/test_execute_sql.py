"""Queries on real databases: gold scores 1, mutants below, escapes fail."""

import gzip
import hashlib
import json
import pathlib
import sqlite3
import time

import pytest
from defog import script
from paths import shared_data

from rlreward import audit
from rlreward.errors import UserError
from rlreward.evals import fixtures
from rlreward.rewards import execute, sql, sql_match, sql_parts, values

HERE = pathlib.Path(__file__).resolve().parent
FIXTURES = pathlib.Path(execute.__file__).parent / "fixtures" / "sql.jsonl"
ESCAPES = [
  json.loads(line)
  for line in (HERE / "escapes_sql.jsonl").read_text().splitlines()
]
TABLES = """CREATE TABLE t (a INTEGER, b TEXT, c REAL);
INSERT INTO t VALUES (1,'x',0.5),(2,'y',NULL),(2,'y',NULL),(3,NULL,1e3);
CREATE TABLE u (a INTEGER, d TEXT);
INSERT INTO u VALUES (1,'one'),(4,'four');"""


def lines(path):
  with gzip.open(path, "rt") as file:
    return [json.loads(line) for line in file]


def judge(query, gold, base=TABLES, **options):
  chosen = tuple(sql_parts.Options(**options))
  status, parts, _ = sql_parts.judge(query, query, base, gold, chosen)
  return parts["execution"] if status == "ok" else status


@pytest.fixture(scope="module")
def chinook(tmp_path_factory):
  packed = shared_data("sql_chinook") / "Chinook_Sqlite.sqlite.gz"
  path = tmp_path_factory.mktemp("sql") / "chinook.sqlite"
  path.write_bytes(gzip.decompress(packed.read_bytes()))
  path.chmod(0o444)
  return path


def test_results_are_compared_as_declared():
  same = sql_match.same
  assert same([(1,), (2,), (2,)], [(2,), (1,), (2,)])
  assert not same([(1,), (2,), (2,)], [(2,), (1,), (1,)])
  assert not same([(1,), (2,)], [(2,), (1,)], ordered=True)
  assert same([(1,)], [(1.0,)]) and not same([(1,)], [("1",)])
  assert same([(None, "a")], [(None, "a")]) and not same([(None,)], [(0,)])
  assert same([(0.1 + 0.2,)], [(0.3,)]) and not same([(0.3,)], [(0.30001,)])
  assert not same([(10**15,)], [(10**15 + 1,)])
  assert same([(float("inf"),)], [(float("inf"),)])
  assert not same([(2**63 - 1,)], [(b"x",)])
  assert not same([(1, 2)], [(2, 1)]) and same(
    [(1, 2)], [(2, 1)], columns="any"
  )
  assert not same([(1, 2), (3, 4)], [(2, 1), (3, 4)], columns="any")
  assert same([(1, 1, 2)] * 2, [(1, 2, 1)] * 2, columns="any")
  assert same([], []) and not same([], [(1,)])
  # Sorted, these are paired wrongly; a matching finds the right pairs.
  tiny = 1e-8
  a = [(1.0, 5), (1.0 + tiny, 1)]
  assert same(a, [(1.0 + tiny, 5), (1.0, 1)])
  assert not same(a, [(1.0 + tiny, 5), (1.0, 5)])


def test_queries_are_judged():
  assert judge("SELECT b, a FROM t", "SELECT b, a FROM t ORDER BY a") == 1
  assert (
    judge("SELECT a FROM t ORDER BY a DESC", "SELECT a FROM t ORDER BY a") == 0
  )
  assert judge("SELECT a FROM t ORDER BY a DESC", "SELECT a FROM t") == 1
  inner = "SELECT * FROM (SELECT a FROM t ORDER BY a)"
  assert not sql.is_ordered(inner) and sql.is_ordered(f"{inner} order  by 1")
  assert not sql.is_ordered("SELECT 'x ORDER BY y' -- ORDER BY z")
  assert judge("SELECT a + 0.0 FROM t", "SELECT a FROM t") == 1
  assert judge("SELECT a FROM t WHERE 0", "SELECT a FROM t WHERE a > 9") == 1
  assert judge("SELECT a FROM t WHERE 0", "SELECT a FROM t WHERE a > 9",
               empty=False) == 0  # fmt: skip
  assert judge("SELECT b, a FROM t", "SELECT a, b FROM t") == 0
  assert judge("SELECT b, a FROM t", "SELECT a, b FROM t", columns="any") == 1
  assert judge("SELECT a FROM t, t, t", "SELECT a FROM t", rows=10) == 0
  assert judge("SELECT 1", "SELECT a FROM t", rows=2) == "error"
  assert judge("SELECT 1", "SELECT nothing FROM t") == "error"
  assert judge("SELECT 1", "SELECT 1", base="/no/such.sqlite") == "error"
  assert judge("SELECT 1", "SELECT 2; SELECT 1") == 1
  assert sql.alternatives("SELECT {a, b} FROM t;") == [
    "SELECT a FROM t", "SELECT b FROM t", "SELECT a, b FROM t"]  # fmt: skip


def test_partial_rewards_and_their_gate():
  gold = "SELECT t.a, u.d FROM t JOIN u ON t.a = u.a"
  said = f"<think>join</think><answer>{gold}</answer>"
  _, parts, _ = sql_parts.judge(said, gold, TABLES, gold)
  assert parts == dict.fromkeys(
    ("execution", "syntax", "schema", "ngram", "format"), 1.0
  )
  assert sql_parts.combine(parts)["value"] == 7
  assert sql_parts.combine(parts, judged=1.0)["value"] == 7  # judge is gated
  _, parts, _ = sql_parts.judge("", "SELECT a FROM t", TABLES, gold)
  # {t, t.a} of {t, t.a, u, u.a, u.d}; bigrams: 12 of the gold's, 3 of ours.
  assert parts["schema"] == pytest.approx(2 / 5)
  assert parts["execution"] == 0 and parts["syntax"] == 1
  with_judge = sql_parts.combine(parts, judged=0.5)["value"]
  assert with_judge == pytest.approx(sql_parts.combine(parts)["value"] + 1)
  assert sql_parts.ngram("SELECT a FROM t", "select A from t;") == 1
  assert sql_parts.ngram("SELECT a FROM t", "SELECT b FROM t") == pytest.approx(
    1 / 5
  )
  # The paper's weights let a wrong query outrank a right one with a judge.
  assert sql_parts.hazard(sql_parts.WEIGHTS) == 0
  assert sql_parts.hazard(sql_parts.WEIGHTS, judged=True) == 2
  assert sql_parts.hazard({**sql_parts.WEIGHTS, "execution": 6}, True) < 0


def test_schema_linking_of_a_query_that_does_not_compile():
  used = sql_parts.used(TABLES, "SELECT a, FROM t WHERE d = 'b'")
  assert used == {"t", "t.a"}
  assert sql_parts.used(TABLES, "SELECT x.d FROM u AS x") == {"u", "u.d"}
  assert sql_parts.used(TABLES, "SELECT count(*) FROM u") == {"u"}


@pytest.mark.parametrize(
  "name", ["questions_gen", "instruct_basic", "instruct_advanced"]
)
def test_gold_of_defog_scores_one_and_mutants_less(name):
  folder = shared_data("sql_defog")
  gold_below, mutants_up = [], 0
  rows = lines(folder / f"{name}_sqlite.jsonl.gz")
  for row in rows:
    base = script(folder, row["db_name"])
    for query in sql.alternatives(row["query"])[:2]:
      status, parts, why = sql_parts.judge(query, query, base, row["query"])
      if status != "ok" or sql_parts.combine(parts)["value"] < 6:
        gold_below.append((row["db_name"], query, status, parts, why))
      wrong = f"SELECT * FROM ({query.rstrip().rstrip(';')}) LIMIT -1 OFFSET 1"
      status, other, _ = sql_parts.judge(wrong, wrong, base, row["query"])
      full = sql.run(base, query)
      if full.rows and status == "ok":  # one row is missing
        mutants_up += other["execution"] > 0
        total = sql_parts.combine(other)["value"]
        assert total < sql_parts.combine(parts)["value"]
  assert gold_below == []
  assert mutants_up == 0, f"{mutants_up} of {len(rows)}"


CHINOOK = (
  ("SELECT count(*) FROM Track", "SELECT count(*) FROM Album"),
  ("SELECT Name FROM Artist ORDER BY Name LIMIT 10",
   "SELECT Name FROM Artist ORDER BY Name DESC LIMIT 10"),
  ("SELECT g.Name, count(*) FROM Genre g JOIN Track t USING (GenreId)"
   " GROUP BY g.GenreId",
   "SELECT g.Name, count(*) FROM Genre g LEFT JOIN Track t ON 1"
   " GROUP BY g.GenreId"),
  ("SELECT BillingCountry, round(sum(Total), 2) FROM Invoice GROUP BY 1",
   "SELECT BillingCountry, sum(Total) + 0.01 FROM Invoice GROUP BY 1"),
  ("SELECT Composer FROM Track",
   "SELECT Composer FROM Track WHERE Composer IS NOT NULL"),
  ("SELECT avg(Milliseconds) FROM Track",
   "SELECT max(Milliseconds) FROM Track"),
)  # fmt: skip


@pytest.mark.parametrize(("gold", "wrong"), CHINOOK)
def test_chinook(chinook, gold, wrong):
  base = str(chinook)
  assert judge(gold, gold, base) == 1
  assert judge(wrong, gold, base) == 0
  right = sql_parts.judge(gold, gold, base, gold)[1]
  other = sql_parts.judge(wrong, wrong, base, gold)[1]
  assert right["schema"] == right["ngram"] == 1 > other["ngram"]


def test_chinook_rounded_and_rewritten(chinook):
  base = str(chinook)
  gold = "SELECT BillingCountry, sum(Total) FROM Invoice GROUP BY 1"
  other = "SELECT c, s FROM (SELECT sum(Total) s, BillingCountry c FROM"
  assert judge(f"{other} Invoice GROUP BY 2)", gold, base) == 1


def test_spider_gold_compiles_and_links(tmp_path):
  folder = shared_data("spider")
  bases, parsed = {}, {}
  for t in lines(folder / "tables_concert_pets_car.jsonl.gz"):
    names = t["table_names_original"]
    columns = {n: [] for n in names}
    for (i, name), kind in zip(
      t["column_names_original"], t["column_types"], strict=True
    ):
      if i >= 0:
        columns[names[i]].append(f'"{name}" {kind}')
    bases[t["db_id"]] = "\n".join(
      f'CREATE TABLE "{n}" ({", ".join(c)});' for n, c in columns.items()
    )
    parsed[t["db_id"]] = names
  rows = lines(folder / "dev_concert_pets_car.jsonl.gz")
  assert len(rows) == 179
  apart = 0
  for row, after in zip(rows, rows[1:] + rows[:1], strict=True):
    base, query = bases[row["db_id"]], row["query"]
    _, parts, why = sql_parts.judge(query, query, base, query)
    assert parts["syntax"] == parts["schema"] == parts["ngram"] == 1, why
    used = sql_parts.used(base, query)
    units = row["sql"]["from"]["table_units"]
    for kind, i in units:  # the set's own parse names these tables
      if kind == "table_unit":
        assert parsed[row["db_id"]][i].lower() in used
    if after["db_id"] == row["db_id"] and sql.tokens(
      after["query"]
    ) != sql.tokens(query):
      apart += 1
      assert sql_parts.ngram(after["query"], query) < 1
  assert apart > 50


def test_sqlglot_agrees_with_sqlite_where_it_is_installed():
  pytest.importorskip("sqlglot")
  folder = shared_data("sql_defog")
  agree, total = 0.0, 0
  for row in lines(folder / "questions_gen_sqlite.jsonl.gz"):
    query = sql.alternatives(row["query"])[0]
    own = sql_parts.used(script(folder, row["db_name"]), query)
    tables = {i for i in own if "." not in i}
    found = {i for i in sql_parts.parsed(query) if "." not in i}
    agree += sql_parts.jaccard(tables, found)
    total += 1
  assert agree / total > 0.98


def test_without_sqlglot_it_says_what_to_install(monkeypatch):
  import sys

  monkeypatch.setitem(sys.modules, "sqlglot", None)
  with pytest.raises(UserError, match=r"rlreward\[sql\]"):
    sql_parts.parsed("SELECT 1")


def test_escapes_fail_and_leave_no_trace(tmp_path, monkeypatch):
  assert len(ESCAPES) >= 50
  monkeypatch.chdir(tmp_path)
  path = tmp_path / "base.sqlite"
  rows, _ = fixtures.read(FIXTURES)
  connection = sqlite3.connect(path)
  connection.executescript(rows[0].row.columns["database"])
  connection.close()
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  gold = "SELECT name FROM city"
  reward = execute.sql_reward(steps=3_000_000, rows=1000, timeout=4)
  start = time.monotonic()
  for base in (str(path), rows[0].row.columns["database"]):
    n = len(ESCAPES)
    out = reward(ESCAPES, [base] * n, [gold] * n)
    for query, value in zip(ESCAPES, out, strict=True):
      late = isinstance(value, values.Unjudged)
      assert late or value == 0, query[:100]
      assert not late or value.status == values.TIMEOUT, (query[:100], value)
    # The same pool still judges rightly.
    assert reward([gold], [base], [gold]) == [1.0]
  assert time.monotonic() - start < 120
  assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
  assert [p.name for p in tmp_path.iterdir()] == ["base.sqlite"]


def test_a_database_with_writes_in_a_journal_is_refused(tmp_path):
  path = tmp_path / "a.sqlite"
  connection = sqlite3.connect(path)
  connection.execute("PRAGMA journal_mode=WAL")
  connection.execute("CREATE TABLE t (a)")
  connection.commit()
  assert sql.run(str(path), "SELECT a FROM t").status == "error"
  connection.close()
  assert sql.run(str(path), "SELECT a FROM t").status == "ok"


def test_the_fixtures_are_judged_as_labelled_and_pass_the_audit():
  rows, _ = fixtures.read(FIXTURES)
  assert len(rows) >= 60
  report = audit.run("rlreward.rewards.execute:sql", FIXTURES)
  assert report["passed"], audit.text(report)
  assert report["judged"]["timeout"] == 1
  c = report["confusion"]
  assert c["false_positive"] == c["false_negative"] == 0


def test_bad_options():
  for options in ({"columns": "some"}, {"steps": 0}, {"tolerance": 2},
                  {"weights": {"speed": 1.0}}):  # fmt: skip
    with pytest.raises(UserError):
      execute.sql_reward(**options)


def test_an_error_of_the_data_is_no_reward_of_zero():
  out = execute.sql(["SELECT 1"], ["/no/such.sqlite"], ["SELECT 1"])
  assert out[0].status == values.ERROR and "no/such" in out[0].why
