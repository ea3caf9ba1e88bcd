"""Partial rewards of a query, and the judgement that workers make.

  r = w_exec R_exec + w_judge R_judge [R_exec = 0] + w_syntax R_syntax
      + w_schema R_schema + w_ngram R_ngram + w_format R_format

Reference: Reasoning-SQL, arXiv 2503.23157.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from rlreward.errors import UserError
from rlreward.rewards import sql, sql_match

PARTS = ("execution", "judge", "syntax", "schema", "ngram", "format")
# The paper's. Execution and syntax, 4, are less than the others' 5 or 3 with
# and without a judge: see `hazard`.
WEIGHTS: Mapping[str, float] = {
  "execution": 3.0,
  "judge": 2.0,
  "syntax": 1.0,
  "schema": 1.0,
  "ngram": 1.0,
  "format": 1.0,
}
_FORMAT = re.compile(
  r"\s*<think>(?:(?!</?(?:think|answer)>).)*</think>"
  r"\s*<answer>(?:(?!</?(?:think|answer)>).)*</answer>\s*",
  re.DOTALL,
)


class Options(NamedTuple):
  """How queries are run and compared.

  Attributes:
    steps: of SQLite's machine.
    rows: of a result.
    columns: "same" or "any", see `sql_match.same`.
    tolerance: see `sql_match.same`.
    empty: whether an empty result can be right.
  """

  steps: int = 50_000_000
  rows: int = 10_000
  columns: str = "same"
  tolerance: float = 1e-6
  empty: bool = True


def check(options: Options, weights: Mapping[str, float] | None) -> None:
  """Raises a UserError where options or weights cannot be.

  Args:
    options: see `Options`.
    weights: {part: weight}, or None.
  """
  if options.columns not in ("same", "any"):
    raise UserError(
      f"columns={options.columns!r}",
      "it says whether their order counts",
      "use 'same' or 'any'",
    )
  for name in ("steps", "rows"):
    value = getattr(options, name)
    if not isinstance(value, int) or value < 1:
      raise UserError(f"{name}={value!r}", "it is a limit", "use 1 or more")
  if not 0 <= options.tolerance < 1:
    raise UserError(
      f"tolerance={options.tolerance!r}", "it is relative", "use 1e-6"
    )
  for name in weights or ():
    if name not in PARTS:
      raise UserError(
        f"a weight of the part {name!r}",
        f"the parts are {', '.join(PARTS)}",
        "use one of these names",
      )


def judge(
  completion: str,
  query: str,
  database: str,
  gold: str,
  options: tuple = (),
  partial: bool = True,
) -> tuple[str, dict[str, float], str]:
  """What a query earns; runs in a worker.

  Args:
    completion: the whole answer, for its format.
    query: the code of the answer.
    database: see `sql.run`.
    gold: see `sql.alternatives`.
    options: an `Options`.
    partial: give the other parts too.

  Returns:
    (status, {part: value in [0, 1]}, detail); the status is "error" where the
    gold query or the database fails, "timeout" where the query's limits end.
  """
  o = Options(*options)
  if not query.strip():
    return _parts(completion, query, database, gold, 0.0, 0.0, partial)
  found = sql.run(database, query, o.steps, o.rows)
  if found.status in ("timeout", "error"):
    return found.status, {}, found.detail
  hit = 0.0
  try:
    accepted = sql.alternatives(gold)
  except ValueError as error:
    return "error", {}, str(error)
  for form in accepted:
    right = sql.run(database, form, o.steps, o.rows)
    if right.status != "ok" or right.more:
      why = right.detail or f"more than {o.rows} rows"
      return "error", {}, f"the gold query failed: {why}"
    if found.status == "ok" and not found.more and not hit:
      hit = float(
        sql_match.same(
          right.rows, found.rows, sql.is_ordered(form), o.tolerance, o.columns
        )
        and (o.empty or bool(right.rows))
      )
  ran = float(found.status == "ok")
  return _parts(completion, query, database, gold, hit, ran, partial)


def _parts(completion, query, database, gold, hit, ran, partial):
  parts = {"execution": hit}
  if partial:
    forms = sql.alternatives(gold)
    parts |= {
      "syntax": ran,
      "schema": max(schema_linking(database, query, g) for g in forms),
      "ngram": max(ngram(query, g) for g in forms),
      "format": float(_FORMAT.fullmatch(completion) is not None),
    }
  return "ok", parts, ""


def combine(
  parts: Mapping[str, float],
  weights: Mapping[str, float] = WEIGHTS,
  judged: float | None = None,
) -> dict[str, float]:
  """The weighted sum, with the judge only where execution gives nothing.

  Args:
    parts: {part: value}.
    weights: {part: weight}; a part without one counts nothing.
    judged: a judge's score in [0, 1], or None without a judge.

  Returns:
    {"value": sum, part: value}.
  """
  out = dict(parts)
  if judged is not None:
    out["judge"] = judged if parts["execution"] == 0 else 0.0
  total = sum(weights.get(k, 0.0) * v for k, v in out.items())
  return {"value": total, **out}


def hazard(weights: Mapping[str, float], judged: bool = False) -> float:
  """How far a wrong query can outrank a right one; 0 or less is safe.

  The best wrong query has all but execution; the worst right one has execution
  and syntax alone.

  Args:
    weights: {part: weight}.
    judged: whether there is a judge.
  """
  rest = ("schema", "ngram", "format", *(("judge",) if judged else ()))
  return sum(weights.get(k, 0.0) for k in rest) - weights.get("execution", 0.0)


def jaccard(a: frozenset | set, b: frozenset | set) -> float:
  """|a & b| / |a | b|, 1 where both are empty.

  Args:
    a: items.
    b: items.
  """
  return len(a & b) / len(a | b) if a | b else 1.0


def ngram(query: str, gold: str, size: int = 2) -> float:
  """Jaccard of the sets of n-grams of tokens.

  Args:
    query: of the policy.
    gold: the right one.
    size: n.
  """
  return jaccard(_ngrams(query, size), _ngrams(gold, size))


def _ngrams(query: str, size: int) -> set[tuple[str, ...]]:
  words = [t for t in sql.tokens(query) if t != ";"]
  if len(words) < size:
    return {tuple(words)} if words else set()
  return set(zip(*(words[i:] for i in range(size)), strict=False))


def schema_linking(database: str, query: str, gold: str) -> float:
  """Jaccard of the tables and columns that two queries use.

  Args:
    database: see `sql.run`.
    query: of the policy.
    gold: the right one.
  """
  ours, theirs = used(database, query), used(database, gold)
  return jaccard(ours, theirs)


def used(database: str, query: str) -> frozenset[str]:
  """Tables and columns of a query: SQLite's own word, else the names in it.

  A query that does not compile has no resolved columns; of it those names
  count that the schema knows, each column in every table that the query names.

  Args:
    database: see `sql.run`.
    query: any text.
  """
  found = sql.reads(database, query) if query.strip() else frozenset()
  return named(sql.schema(database), query) if found is None else found


def named(schema: Mapping[str, tuple[str, ...]], query: str) -> frozenset[str]:
  """Names of a schema among the tokens of a query.

  Args:
    schema: {table: columns}.
    query: any text.
  """
  words = set(sql.tokens(query))
  tables = [t for t in schema if t.lower() in words]
  out = {t.lower() for t in tables}
  for table in tables:
    out |= {f"{table}.{c}".lower() for c in schema[table]
            if c.lower() in words}  # fmt: skip
  return frozenset(out)


def parsed(query: str, dialect: str = "sqlite") -> frozenset[str]:
  """Tables and columns of a query without a database; needs sqlglot.

  A column without a table is given as "*.column" where the query reads from
  several tables.

  Args:
    query: of any dialect that sqlglot reads.
    dialect: its name.

  Raises:
    UserError: sqlglot is not installed.
    ValueError: no query.
  """
  try:
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError
  except ImportError as error:
    raise UserError(
      "sqlglot is not installed",
      "without a database it is what reads the names in a query",
      "pip install 'rlreward[sql]', or give the database",
    ) from error
  try:
    tree: Any = sqlglot.parse_one(query, dialect=dialect)
  except SqlglotError as error:
    raise ValueError(str(error)) from error
  if tree is None:
    raise ValueError("no query")
  own = {c.alias_or_name.lower() for c in tree.find_all(exp.CTE)}
  named_by, tables = {}, set()
  for table in tree.find_all(exp.Table):
    if table.name.lower() not in own:
      tables.add(table.name.lower())
      named_by[table.alias_or_name.lower()] = table.name.lower()
  out = set(tables)
  alone = next(iter(tables)) if len(tables) == 1 else "*"
  for column in tree.find_all(exp.Column):
    if not isinstance(column.this, exp.Star):
      place = named_by.get(column.table.lower(), alone)
      out.add(f"{place}.{column.name.lower()}")
  return frozenset(out)
