"""Questions over Chinook: templates, values from the database, gold queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlreward.errors import UserError
from rlreward.rewards import sql, sql_match

MOST = 24  # questions of a template
LONGEST = 32  # characters of a value


class Template(NamedTuple):
  """A kind of question.

  Attributes:
    filters: conditions of its query.
    joins: tables that are joined.
    aggregate: whether it counts, sums or the like.
    ask: the question, with {0}, {1} for values.
    gold: its query, with the same; texts stand between quotes.
    values: a query for rows of values.
  """

  filters: int
  joins: int
  aggregate: bool
  ask: str
  gold: str
  values: str


_COUNTRIES = "SELECT DISTINCT Country FROM Customer ORDER BY 1"
_BILLED = "SELECT DISTINCT BillingCountry FROM Invoice ORDER BY 1"
_COMPOSERS = (
  "SELECT Composer FROM Track WHERE Composer IS NOT NULL GROUP BY 1"
  " ORDER BY count(*) DESC, 1"
)
_ARTISTS = (
  "SELECT r.Name FROM Artist r JOIN Album a ON a.ArtistId = r.ArtistId"
  " GROUP BY 1 ORDER BY count(*) DESC, 1"
)
_GENRES = "SELECT Name FROM Genre ORDER BY 1"
_TRACK_GENRE = "Track t JOIN Genre g ON g.GenreId = t.GenreId"
_ALBUM_ARTIST = "Album a JOIN Artist r ON r.ArtistId = a.ArtistId"

TEMPLATES = (
  Template(
    1, 0, False,
    "Which customers live in {0}? Give first and last names.",
    "SELECT FirstName, LastName FROM Customer WHERE Country = '{0}'",
    _COUNTRIES,
  ),
  Template(
    1, 0, False,
    "Which tracks are composed by {0}?",
    "SELECT Name FROM Track WHERE Composer = '{0}'",
    _COMPOSERS,
  ),
  Template(
    1, 0, True,
    "How many customers live in {0}?",
    "SELECT count(*) FROM Customer WHERE Country = '{0}'",
    _COUNTRIES,
  ),
  Template(
    1, 0, True,
    "What is the total of all invoices billed to {0}?",
    "SELECT sum(Total) FROM Invoice WHERE BillingCountry = '{0}'",
    _BILLED,
  ),
  Template(
    1, 0, True,
    "How many milliseconds does the longest track composed by {0} take?",
    "SELECT max(Milliseconds) FROM Track WHERE Composer = '{0}'",
    _COMPOSERS,
  ),
  Template(
    2, 0, False,
    "Which invoices billed to {0} are over {1} dollars? Give their ids.",
    "SELECT InvoiceId FROM Invoice WHERE BillingCountry = '{0}'"
    " AND Total > {1}",
    "SELECT c, t FROM (SELECT DISTINCT BillingCountry c FROM Invoice),"
    " (SELECT 5 t UNION SELECT 10) ORDER BY 1, 2",
  ),
  Template(
    1, 1, False,
    "Which albums are by {0}?",
    f"SELECT a.Title FROM {_ALBUM_ARTIST} WHERE r.Name = '{{0}}'",
    _ARTISTS,
  ),
  Template(
    1, 1, False,
    "Which tracks are on the album {0}?",
    "SELECT t.Name FROM Track t JOIN Album a ON a.AlbumId = t.AlbumId"
    " WHERE a.Title = '{0}'",
    "SELECT Title FROM Album ORDER BY AlbumId",
  ),
  Template(
    1, 1, True,
    "How many tracks are of the genre {0}?",
    f"SELECT count(*) FROM {_TRACK_GENRE} WHERE g.Name = '{{0}}'",
    _GENRES,
  ),
  Template(
    1, 1, True,
    "How many albums are by {0}?",
    f"SELECT count(*) FROM {_ALBUM_ARTIST} WHERE r.Name = '{{0}}'",
    _ARTISTS,
  ),
  Template(
    1, 1, True,
    "How much has each customer from {0} spent? Give last name and sum.",
    "SELECT c.LastName, sum(i.Total) FROM Customer c JOIN Invoice i"
    " ON i.CustomerId = c.CustomerId WHERE c.Country = '{0}'"
    " GROUP BY c.CustomerId",
    _COUNTRIES,
  ),
  Template(
    2, 3, True,
    "How many tracks of the genre {0} are on albums by {1}?",
    f"SELECT count(*) FROM {_TRACK_GENRE} JOIN Album a"
    " ON a.AlbumId = t.AlbumId JOIN Artist r ON r.ArtistId = a.ArtistId"
    " WHERE g.Name = '{0}' AND r.Name = '{1}'",
    f"SELECT g.Name, r.Name FROM {_TRACK_GENRE} JOIN Album a"
    " ON a.AlbumId = t.AlbumId JOIN Artist r ON r.ArtistId = a.ArtistId"
    " GROUP BY 1, 2 ORDER BY count(*) DESC, 1, 2",
  ),
  Template(
    2, 3, True,
    "How many tracks of the genre {0} were sold to each city of {1}?"
    " Give city and number.",
    "SELECT i.BillingCity, sum(l.Quantity) FROM InvoiceLine l JOIN Invoice i"
    " ON i.InvoiceId = l.InvoiceId JOIN Track t ON t.TrackId = l.TrackId"
    " JOIN Genre g ON g.GenreId = t.GenreId WHERE g.Name = '{0}'"
    " AND i.BillingCountry = '{1}' GROUP BY i.BillingCity",
    "SELECT g.Name, c.Country FROM Genre g, (SELECT DISTINCT Country FROM"
    " Customer) c WHERE g.GenreId < 5 ORDER BY 1, 2",
  ),
)  # fmt: skip


def table(database: str, c: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Questions with as many filters, joins and aggregates as a section says.

  A question whose query has no rows is left out, as any query without rows
  would be right; so is one without another question to be mistaken for.

  Args:
    database: path of the SQLite file.
    c: the fields of `chinook.defaults`.

  Returns:
    Dicts of `prompt`, `question`, `gold`, `chosen` (the same), `rejected`
    (the query of another question), `database` and `level`.

  Raises:
    UserError: no template has these sizes, or a query cannot run.
  """
  kind = (c["filters"], c["joins"], c["aggregate"])
  chosen = [t for t in TEMPLATES if t[:3] == kind]
  if not chosen:
    known = sorted({t[:3] for t in TEMPLATES})
    raise UserError(
      f"no question has (filters, joins, aggregate) = {kind}",
      "questions are made from templates",
      f"use one of: {', '.join(map(str, known))}",
    )
  shown = _schema(database) + "\n\n" if c["schema"] else ""
  out = []
  for template in chosen:
    asked = _questions(database, template)
    for i, (question, gold) in enumerate(asked):
      wrong = _other(database, asked, i)
      if wrong is not None:
        out.append(
          {
            "prompt": f"{shown}Question: {question}\nSQL: ",
            "question": question,
            "gold": gold,
            "chosen": gold,
            "rejected": wrong,
            "database": database,
            "level": int(c["level"]),
          }
        )
  return out


def guess(questions: Sequence[Mapping[str, Any]]) -> float:
  """How often the gold query of a random question is right for another one.

  Args:
    questions: of `table`; each is as likely as the others, itself too.
  """
  rows = [_run(q["database"], q["gold"]) for q in questions]
  same = sum(sql_match.same(a, b) for a in rows for b in rows)
  return same / len(rows) ** 2


def _questions(database: str, template: Template) -> list[tuple[str, str]]:
  out = []
  for row in _run(database, template.values):
    texts = [str(x) for x in row]
    if any(len(x) > LONGEST or not x.isascii() for x in texts):
      continue
    quoted = [x.replace("'", "''") for x in texts]
    gold = template.gold.format(*quoted)
    if any(set(r) - {None, 0} for r in _run(database, gold)):
      out.append((template.ask.format(*texts), gold))
    if len(out) == MOST:
      break
  return out


def _other(database: str, asked: list[tuple[str, str]], i: int) -> str | None:
  """The query of the next question that has other rows."""
  own = _run(database, asked[i][1])
  for _, gold in asked[i + 1 :] + asked[:i]:
    if not sql_match.same(own, _run(database, gold)):
      return gold
  return None


def _run(database: str, query: str) -> tuple[tuple, ...]:
  found = sql.run(database, query)
  if found.status != "ok":
    raise UserError(
      f"{query[:80]!r} came to {found.status}: {found.detail}",
      "questions and answers are read from the database",
      "set task.database to a Chinook database",
    )
  return found.rows


def _schema(database: str) -> str:
  return "\n".join(
    f"{name}({', '.join(columns)})"
    for name, columns in sorted(sql.schema(database).items())
  )
