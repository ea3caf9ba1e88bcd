"""Runs a query on a database that it can only read. Standard library only.

The file is opened read-only and immutable, an authorizer allows reading and
nothing else (no ATTACH, no PRAGMA, no write, no extension), a step limit ends
endless queries, and sizes and memory are limited. Run it in `workers`, whose
kill is the limit of time.
"""

from __future__ import annotations

import functools
import itertools
import os
import pathlib
import re
import urllib.parse
from collections.abc import Callable
from typing import Any, NamedTuple

STEPS_PER_CALL = 1000  # of SQLite's machine between looks at the counter
MOST_QUERY = 100_000  # characters
MOST_VALUE = 1 << 24  # bytes of one value or row
MOST_HEAP = 1 << 28  # bytes of SQLite in this process
MOST_FORMS = 64  # gold queries that braces may stand for
_SAFE_TABLES = ("sqlite_master", "sqlite_schema")
_BANNED = ("load_extension", "readfile", "writefile", "edit", "fsdir",
           "fts3_tokenizer", "zipfile", "sqlar_compress")  # fmt: skip

_CREATE = re.compile(r"\bCREATE\s+(TABLE|VIEW)\b", re.IGNORECASE)
_TOKEN = re.compile(
  r"""
  (?P<space>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
  |(?P<string>[xX]?'(?:[^']|'')*')
  |(?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])
  |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
  |(?P<word>[^\W\d][\w$]*)
  |(?P<sign><>|<=|>=|!=|==|\|\||->>|->|<<|>>|.)
  """,
  re.VERBOSE | re.DOTALL,
)


class Result(NamedTuple):
  """What a query came to.

  Attributes:
    status: "ok"; "wrong", it is no query or may not be run; "timeout", steps
      or memory ran out; "error", the database cannot be opened.
    rows: tuples of None, int, float, str and bytes.
    detail: of what is not ok.
    more: the result has more rows than were asked for.
  """

  status: str
  rows: tuple[tuple, ...] = ()
  detail: str = ""
  more: bool = False


def run(
  database: str, query: str, steps: int = 50_000_000, rows: int = 10_000
) -> Result:
  """Runs one SELECT.

  Args:
    database: path of a SQLite file or of a .sql script, or such a script.
    query: of the policy; anything.
    steps: of SQLite's machine.
    rows: that are read.
  """
  import sqlite3

  if len(query) > MOST_QUERY:
    return Result("wrong", (), f"more than {MOST_QUERY} characters")
  try:
    connection = connect(database, steps)
  except (OSError, sqlite3.Error, ValueError) as error:
    why = str(error)[:200]
    return Result("error", (), f"database {database[:60]!r}: {why}")
  try:
    cursor = connection.execute(query)
    found = cursor.fetchmany(rows + 1)
    if cursor.description is None:
      return Result("wrong", (), "no query")
    return Result("ok", tuple(found[:rows]), "", len(found) > rows)
  except MemoryError:
    return Result("timeout", (), "used up its memory")
  except sqlite3.OperationalError as error:
    late = str(error) == "interrupted"
    return Result("timeout" if late else "wrong", (), str(error)[:200])
  except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
    return Result("wrong", (), str(error)[:200])
  finally:
    connection.close()


def connect(database: str, steps: int) -> Any:
  """A connection that can only read.

  Args:
    database: see `run`.
    steps: see `run`.

  Raises:
    OSError: there is no such file, or its last writes lie in a journal.
    sqlite3.Error: it is no database.
  """
  import sqlite3

  if _is_script(database):
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.deserialize(_built(database, _stamp(database)))
  else:
    path = pathlib.Path(database)
    if not path.is_file():
      raise FileNotFoundError(f"there is no file {database!r}")
    for tail in ("-wal", "-journal"):
      beside = path.with_name(path.name + tail)
      if beside.exists() and beside.stat().st_size:
        raise OSError(f"{beside.name} holds writes: open and close it once")
    uri = f"file:{urllib.parse.quote(str(path.resolve()))}"
    connection = sqlite3.connect(
      f"{uri}?mode=ro&immutable=1", uri=True, isolation_level=None
    )
  for pragma in (f"hard_heap_limit={MOST_HEAP}", "query_only=1",
                 "trusted_schema=0", "temp_store=2"):  # fmt: skip
    connection.execute(f"PRAGMA {pragma}").close()
  connection.execute("SELECT count(*) FROM sqlite_master").close()
  connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
  for limit, value in (
    (sqlite3.SQLITE_LIMIT_LENGTH, MOST_VALUE),
    (sqlite3.SQLITE_LIMIT_SQL_LENGTH, 4 * MOST_QUERY),
    (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
    (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 200),
    (sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 100),
    (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000),
    (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
  ):
    connection.setlimit(limit, value)
  connection.set_authorizer(authorizer(lambda table, column: None))
  left = itertools.count(steps // STEPS_PER_CALL, -1)
  connection.set_progress_handler(lambda: next(left) <= 0, STEPS_PER_CALL)
  return connection


def authorizer(seen: Callable[[str, str], None]) -> Callable[..., int]:
  """Allows reading and nothing else.

  Args:
    seen: told (table, column) of each read; the column may be empty.
  """
  import sqlite3

  def allow(action: int, first: Any, second: Any, *rest: Any) -> int:
    del rest
    good = False
    if action == sqlite3.SQLITE_READ:
      name = str(first).lower()
      own = name.startswith(("sqlite_", "pragma_")) or name == "dbstat"
      good = not own or name in _SAFE_TABLES
      if good:
        seen(str(first), str(second))
    elif action == sqlite3.SQLITE_FUNCTION:
      good = str(second).lower() not in _BANNED
    elif action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
      good = True
    return sqlite3.SQLITE_OK if good else sqlite3.SQLITE_DENY

  return allow


def reads(database: str, query: str) -> frozenset[str] | None:
  """Tables and columns that a query reads, as SQLite itself resolves them.

  Args:
    database: see `run`; its rows are not read.
    query: is compiled and not run.

  Returns:
    {"table", "table.column"} in lower case; None where it does not compile.
  """
  import sqlite3

  found: set[str] = set()

  def seen(table: str, column: str) -> None:
    found.add(table.lower())
    if column:
      found.add(f"{table}.{column}".lower())

  connection = connect(database, 1_000_000)
  try:
    connection.set_authorizer(authorizer(seen))
    connection.execute(f"EXPLAIN {query}").close()
  except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError):
    return None
  finally:
    connection.close()
  return frozenset(found)


@functools.lru_cache(maxsize=64)
def _schema(database: str, stamp: int) -> dict[str, tuple[str, ...]]:
  del stamp
  connection = connect(database, 1_000_000)
  try:
    connection.set_authorizer(None)
    tables = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
    names = [r[0] for r in connection.execute(tables)]
    ask = "SELECT name FROM pragma_table_info(?)"
    return {n: tuple(r[0] for r in connection.execute(ask, (n,)))
            for n in names}  # fmt: skip
  finally:
    connection.close()


def schema(database: str) -> dict[str, tuple[str, ...]]:
  """{table: columns} of a database.

  Args:
    database: see `run`.
  """
  return _schema(database, _stamp(database))


def tokens(query: str) -> list[str]:
  """Tokens of a query; words and quoted names in lower case, no comments.

  Args:
    query: any text.
  """
  out = []
  for match in _TOKEN.finditer(query):
    kind, text = match.lastgroup, match.group()
    if kind == "quoted":
      out.append(text[1:-1].lower())
    elif kind == "word":
      out.append(text.lower())
    elif kind != "space":
      out.append(text)
  return out


def is_ordered(query: str) -> bool:
  """Whether the outermost query has an ORDER BY."""
  depth, before = 0, ""
  for token in tokens(query):
    depth += (token == "(") - (token == ")")
    if depth == 0 and (before, token) == ("order", "by"):
      return True
    before = token
  return False


def alternatives(gold: str) -> list[str]:
  """The queries that a gold entry accepts.

  Statements are alternatives, and {a, b} stands for any non-empty choice of
  these columns, as in defog's sql-eval.

  Args:
    gold: one or more statements.

  Raises:
    ValueError: no statement, or more forms than can be tried.
  """
  parts, start = [], 0
  for match in _TOKEN.finditer(gold):
    if match.group() == ";":
      parts.append(gold[start : match.start()])
      start = match.end()
  out: list[str] = []
  for part in (*parts, gold[start:]):
    if tokens(part):
      out += _braces(part)
  if not out or len(out) > MOST_FORMS:
    raise ValueError(f"the gold stands for {len(out)} queries")
  return out


def _braces(query: str) -> list[str]:
  found = next((m for m in _TOKEN.finditer(query) if m.group() == "{"), None)
  if found is None:
    return [query]
  stop = query.find("}", found.end())
  if stop < 0:
    return [query]
  names = [n.strip() for n in query[found.end() : stop].split(",")]
  if len(names) > 5:
    raise ValueError(f"{len(names)} columns between braces")
  out = []
  for size in range(1, len(names) + 1):
    for chosen in itertools.combinations(names, size):
      head, tail = query[: found.start()], query[stop + 1 :]
      out += _braces(head + ", ".join(chosen) + tail)
  return out


def _is_script(database: str) -> bool:
  """A script makes tables; a path is one line."""
  return database.endswith(".sql") or bool(_CREATE.search(database))


def _stamp(database: str) -> int:
  """Time of the last change of a file, 0 of a script."""
  try:
    return os.stat(database).st_mtime_ns
  except (OSError, ValueError):
    return 0


@functools.lru_cache(maxsize=16)
def _built(database: str, stamp: int) -> bytes:
  """The pages of a database that a script makes; scripts are trusted."""
  import sqlite3

  text = database
  if database.endswith(".sql"):
    text = pathlib.Path(database).read_text(encoding="utf-8")
  del stamp
  connection = sqlite3.connect(":memory:", isolation_level=None)
  try:
    connection.executescript(text)
    return connection.serialize()
  finally:
    connection.close()
