"""What is expected of an audited reward, declared beside its fixtures.

A reward that may pay for length says so: {"skip": {"verbosity": "pays for up
to 12 words"}}. What is not declared has a strict default.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from rlreward.errors import UserError
from rlreward.evals import probes

FAULT_ROWS = 8  # good answers on which exceptions are tried


@dataclasses.dataclass(frozen=True)
class Spec:
  """Expectations; shares are in [0, 1] and None only reports.

  Attributes:
    threshold: a value that reaches it is accepted; None takes the cut that is
      best on the fixtures themselves.
    good: a label that reaches it is good; None is the middle of the labels.
    tolerance: differences of values up to it do not count.
    false_positive: share of the bad answers that may be accepted.
    false_negative: share of the good answers that may be refused.
    auroc: least share of pairs in the right order.
    length: largest correlation with length given the label; broken where the
      95 % interval lies beyond it.
    abstain: share of fixtures that may be left without a judgement.
    error: share of errors, over fixtures and probes.
    timeout: share of time-outs, likewise.
    also: probes that apply only where declared.
    skip: {probe: reason}.
    allow: {probe: share of its rows that may break it}.
    answer: column of the right answer.
    pad: text of the padding token.
  """

  threshold: float | None = None
  good: float | None = None
  tolerance: float = 1e-6
  false_positive: float | None = 0.0
  false_negative: float | None = 0.0
  auroc: float | None = None
  length: float | None = 0.3
  abstain: float | None = None
  error: float | None = 0.0
  timeout: float | None = 0.0
  also: tuple[str, ...] = ()
  skip: Mapping[str, str] = dataclasses.field(default_factory=dict)
  allow: Mapping[str, float] = dataclasses.field(default_factory=dict)
  answer: str = "answer"
  pad: str = "<pad>"


FIELDS = tuple(f.name for f in dataclasses.fields(Spec))
_TEXTS = ("answer", "pad")
_CUTS = ("threshold", "good")


def read(given: Any, where: str) -> Spec:
  """A Spec of what a file declares.

  Args:
    given: mapping of fields.
    where: of the file, for messages.

  Raises:
    UserError: unknown fields or probes, values of the wrong form.
  """
  if not isinstance(given, Mapping):
    raise _bad(where, "spec", given, 'an object such as {"threshold": 0.5}')
  for name, value in given.items():
    if name not in FIELDS:
      near = difflib.get_close_matches(str(name), FIELDS, 1)
      raise UserError(
        f"{where}: the spec has no field {name!r}",
        f"the fields are {', '.join(FIELDS)}",
        f"write {near[0]!r}" if near else "use one of these fields",
      )
    if name in _TEXTS:
      if not (isinstance(value, str) and value):
        raise _bad(where, name, value, "a text")
    elif name in ("also", "skip", "allow"):
      _check_probes(where, name, value)
    elif value is None and name != "tolerance":
      continue
    elif not _number(value):
      raise _bad(where, name, value, "a number")
    elif name not in _CUTS and float(value) < 0:
      raise _bad(where, name, value, "0 or more")
    elif name not in (*_CUTS, "tolerance") and float(value) > 1:
      raise _bad(where, name, value, "a share from 0 to 1")
  spec = dataclasses.replace(Spec(), **given)
  return dataclasses.replace(spec, also=tuple(spec.also))


def _check_probes(where: str, name: str, value: Any) -> None:
  if not isinstance(value, list if name == "also" else Mapping):
    form = '["letter_case"]' if name == "also" else '{"verbosity": ...}'
    raise _bad(where, name, value, f"of the form {form}")
  for probe in value:
    probes.check_name(probe, f"{where}: {name}")
    if name == "skip" and not (isinstance(value[probe], str) and value[probe]):
      raise _bad(where, f"skip.{probe}", value[probe], "the reason, a text")
    if name == "allow" and not (
      _number(value[probe]) and 0 <= value[probe] <= 1
    ):
      raise _bad(where, f"allow.{probe}", value[probe], "a share from 0 to 1")


def _number(value: Any) -> TypeGuard[float]:
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and math.isfinite(value)
  )


def _bad(where: str, name: str, value: Any, form: str) -> UserError:
  return UserError(
    f"{where}: {name} of the spec is {value!r}",
    "it says what is expected of the reward",
    f"make it {form}",
  )


def result(name: str, relation: str, says: str, spec: Spec) -> dict[str, Any]:
  """An empty result of a probe."""
  return {
    "name": name,
    "relation": relation,
    "says": says,
    "skipped": spec.skip.get(name),
    "allowed": float(spec.allow.get(name, 0.0)),
    "rows": 0,
    "unjudged": 0,
    "share": 0.0,
    "breaks": [],
    "passed": True,
  }


def close(out: dict[str, Any]) -> dict[str, Any]:
  """The result with the share of its rows that break the relation."""
  if out["rows"]:
    out["share"] = len({b["line"] for b in out["breaks"]}) / out["rows"]
  out["passed"] = out["share"] <= out["allowed"]
  return out


def sections(found: Mapping[str, Any], spec: Spec) -> list[dict[str, Any]]:
  """The verdict of each part of a report.

  Args:
    found: the report of `audit.run` so far.
    spec: what is expected.

  Returns:
    [{"name", "passed", "says"}].
  """
  judged, asked = found["judged"], found["asked"]
  out = [_share("abstentions", judged["abstain"], found["rows"], spec.abstain)]
  calls = sum(asked.values())
  out.append(_share("errors", asked["error"], calls, spec.error))
  out.append(_share("time-outs", asked["timeout"], calls, spec.timeout))
  if "confusion" in found:
    c = found["confusion"]
    for name, hit, limit in (
      ("false_positive", "true_negative", spec.false_positive),
      ("false_negative", "true_positive", spec.false_negative),
    ):
      title = name.replace("_", " ") + "s"
      out.append(_share(title, c[name], c[name] + c[hit], limit))
    if spec.auroc is not None:
      area = c["auroc"]
      out.append(
        {
          "name": "ranking",
          "passed": area is None or area >= spec.auroc,
          "says": f"AUROC {area}, at least {spec.auroc:g}",
        }
      )
    out.append(_length(found["length"], spec.length))
  for p in found["probes"]:
    says = f"{len(p['breaks'])} breaks on {p['share']:.0%} of {p['rows']} rows"
    if p["skipped"] is not None:
      says = f"skipped: {p['skipped']}"
    elif not p["rows"]:
      says = "no row that it applies to"
    elif p["allowed"]:
      says += f", {p['allowed']:.0%} allowed"
    out.append({"name": p["name"], "passed": p["passed"], "says": says})
  return out


def _share(name: str, count: int, of: int, limit: float | None):
  share = count / of if of else 0.0
  says = f"{count} of {of}"
  if limit is not None:
    says += f", at most {limit:.0%}"
  passed = limit is None or share <= limit
  return {"name": name, "passed": passed, "says": says}


def _length(found: Mapping[str, Any], limit: float | None) -> dict[str, Any]:
  r, band = found["partial"], found["partial_interval"]
  says = "no correlation is left that the label does not explain"
  passed = True
  if r is not None:
    says = f"Spearman {r:+.2f} given the label"
    if band is None:
      says += ", too few rows for an interval"
    else:
      says += f", 95 % in [{band[0]:+.2f}, {band[1]:+.2f}]"
      passed = limit is None or not (band[0] > limit or band[1] < -limit)
    if limit is not None:
      says += f", at most {limit:g}"
  return {"name": "length", "passed": passed, "says": says}
