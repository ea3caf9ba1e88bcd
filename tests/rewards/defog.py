"""Databases of defog's sets as SQLite scripts."""

import pathlib
import re

NOW = "'now'"
_UNIT = r"INTERVAL\s+'(\d+)\s+(\w+?)s?'"
_BASE = (r"(DATE_TRUNC\('(?:month|week)',\s*(?:NOW\(\)|CURRENT_DATE)\)"
         r"|NOW\(\)|CURRENT_DATE|CURRENT_TIMESTAMP)")  # fmt: skip
_WHEN = re.compile(rf"{_BASE}((?:\s*[+-]\s*{_UNIT})*)")


def _when(match: re.Match) -> str:
  steps = []
  if "TRUNC" in match[1]:
    week = ["'-6 days'", "'weekday 1'"]
    steps = week if "week" in match[1] else ["'start of month'"]
  for sign, size, unit in re.findall(rf"([+-])\s*{_UNIT}", match[2]):
    number = int(size) * (7 if unit == "week" else 1)
    steps.append(f"'{sign}{number} {'day' if unit == 'week' else unit}'")
  call = "date" if "DATE" in match[1] else "datetime"
  return f"{call}({', '.join([NOW, *steps])})"


def script(folder: pathlib.Path, name: str) -> str:
  """A PostgreSQL dump of the set, rewritten for SQLite as its README says."""
  text = (folder / f"{name}.sql").read_text()
  text = re.sub(r"public\.|::\w+", "", text)
  text = re.sub(r"\bSERIAL\b", "INTEGER", text)
  text = re.sub(r"DEFAULT NOW\(\)", "DEFAULT (datetime('now'))", text)
  text = _WHEN.sub(_when, text)
  text = re.sub(r"TO_CHAR\(((?:[^()]|\([^()]*\))*?),\s*'[^']*'\)", r"\1", text)
  return re.sub(r"EXTRACT\(EPOCH FROM ((?:[^()]|\([^()]*\))*)\)",
                r"strftime('%s', \1)", text)  # fmt: skip
