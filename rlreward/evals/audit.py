"""An audit of a reward: labelled fixtures, length, and the standard probes.

Rewards plug in as a `Scorer`: a rule, a reward model or an ensemble gives
`score`, a judge of pairs gives `compare`. A row without a judgement, with an
error or out of time is counted as such and enters no mean, never as a 0.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlreward.errors import UserError
from rlreward.evals import agreement, expect, filler, probes
from rlreward.evals.probes import Fixture, Row
from rlreward.rewards import values
from rlreward.types import Score


class Scorer(NamedTuple):
  """A reward that can be audited.

  Attributes:
    name: shown in the report.
    score: rows -> Score of N values. A component `status`, an index of
      `values.STATUS_NAMES`, tells errors and time-outs from abstentions; a
      valid value that is not finite is an error. None for a judge of pairs.
    compare: pairs of rows -> Score of N values in [0, 1], the chance that the
      first is the better answer. None where answers are judged one by one.
    faults: row -> [(what was broken, value or None)]: the row is scored with
      one of its inputs raising when touched; inputs that are never touched
      are left out. None where that cannot be done.
  """

  name: str
  score: Callable[[Sequence[Row]], Score] | None
  compare: Callable[[Sequence[tuple[Row, Row]]], Score] | None = None
  faults: Callable[[Row], list[tuple[str, float | None]]] | None = None


def run(
  scorer: Scorer,
  fixtures: Sequence[Fixture],
  declared: expect.Spec | None = None,
  seed: int = 0,
) -> dict[str, Any]:
  """Audits a reward.

  Args:
    scorer: the reward.
    fixtures: N labelled rows.
    declared: what is expected of it; the defaults of `Spec` if None.
    seed: of the choices of filler and of wrong answers.

  Returns:
    {"reward", "rows", "passed", "sections": [{"name", "passed", "says"}],
    "judged": counts by status, "confusion", "tags", "length", "probes"}, plain
    numbers, None where there is no such number.

  Raises:
    UserError: no fixtures, or a scorer that returns another number of values.
  """
  if scorer.score is None and scorer.compare is None:
    raise _no_way(scorer)
  if not fixtures:
    raise UserError(
      "there are no fixtures",
      "an audit compares a reward with labels",
      "give at least one labelled row",
    )
  declared = declared or expect.Spec()
  asker = _Asker(scorer)
  rows = [f.row for f in fixtures]
  label = np.array([f.label for f in fixtures], np.float64)
  cut = declared.good
  if cut is None:
    cut = (label.min() + label.max()) / 2 if np.ptp(label) else 0.5
  good = label >= cut
  value, status = asker.ask(rows)
  counted = {n: int(np.sum(status == i))
             for i, n in enumerate(values.STATUS_NAMES)}  # fmt: skip
  found: dict[str, Any] = {
    "reward": scorer.name,
    "rows": len(rows),
    "good_from": float(cut),
    "judged": counted,
  }
  threshold = declared.threshold
  if scorer.score is not None:
    if threshold is None:
      threshold = agreement.best_threshold(value, good)
    found["confusion"] = {
      "threshold": threshold,
      "chosen": "declared" if declared.threshold is not None else "best",
      **agreement.confusion(value, good, threshold),
      "auroc": agreement.concordance(value, label),
      "wrong": _listed(fixtures, value, good, threshold),
    }
    found["tags"] = {
      tag: {
        **agreement.confusion(value[own], good[own], threshold),
        "auroc": agreement.concordance(value[own], label[own]),
      }
      for tag in sorted({t for f in fixtures for t in f.tags})
      for own in [np.array([tag in f.tags for f in fixtures])]
    }
    size = np.array([len(r.completion) for r in rows], np.float64)
    found["length"] = agreement.length_correlation(value, size, label)
  # A judge of pairs compares an edit with the answer itself: 1/2 is a draw.
  accepted = good & (value >= (0.5 if threshold is None else threshold))
  known = probes.contexts(
    fixtures, good.tolist(), declared.answer, declared.pad, seed
  )
  found["probes"] = [
    _edited(asker, p, fixtures, known, value, accepted, declared)
    for p in probes.PROBES
    if not p.declared or p.name in (*declared.also, *declared.allow)
  ]
  found["probes"] += _structural(asker, fixtures, good, value, declared)
  found["asked"] = {n: int(asker.counts[i])
                    for i, n in enumerate(values.STATUS_NAMES)}  # fmt: skip
  found["first_error"] = asker.messages[0] if asker.messages else None
  found["sections"] = expect.sections(found, declared)
  found["passed"] = all(s["passed"] for s in found["sections"])
  return found


class _Asker:
  """Asks a scorer and keeps count of what it said."""

  def __init__(self, scorer: Scorer):
    self.scorer = scorer
    self.counts = np.zeros(len(values.STATUS_NAMES), int)
    self.messages: list[str] = []

  def ask(
    self, rows: Sequence[Row], against: Sequence[Row] | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """(f64[N] with NaN where there is no value, status i[N]).

    A judge of pairs gives the chance that a row beats the one it is set
    against, mean of both orders; 1/2 against itself.
    """
    if not rows:
      return np.zeros(0), np.zeros(0, int)
    score = self.scorer.score
    if score is not None:
      return self._read(lambda: score(rows), len(rows))
    if against is None:
      return np.full(len(rows), 0.5), np.zeros(len(rows), int)
    one, first = self.pairs(list(zip(rows, against, strict=True)))
    two, second = self.pairs(list(zip(against, rows, strict=True)))
    return (one + 1 - two) / 2, np.maximum(first, second)

  def pairs(
    self, pairs: Sequence[tuple[Row, Row]]
  ) -> tuple[np.ndarray, np.ndarray]:
    """The same of pairs, in the order given."""
    compare = self.scorer.compare
    if compare is None:
      raise _no_way(self.scorer)
    return self._read(lambda: compare(pairs), len(pairs))

  def _read(self, call: Callable[[], Score], n: int):
    with quiet() as messages:
      score = call()
    self.messages += messages
    value = np.asarray(score.value, np.float64)
    valid = np.asarray(score.valid, bool)
    if value.shape != (n,) or valid.shape != (n,):
      raise UserError(
        f"{self.scorer.name} gave {value.shape} values and {valid.shape} valid"
        f" for {n} rows",
        "each row has one value",
        "return a Score of one entry per row, in order",
      )
    status = np.where(valid, values.OK, values.ABSTAIN)
    if "status" in score.components:
      # Of several rewards one may fail where the others give a value.
      said = np.asarray(score.components["status"]).astype(int)
      gone = np.maximum(said, values.ABSTAIN)
      kept = np.where(said > values.ABSTAIN, said, values.OK)
      status = np.where(valid, kept, gone)
    seen = valid & np.isfinite(value)
    status = np.where(valid & ~seen, values.ERROR, status)
    self.counts += np.bincount(status, minlength=len(self.counts))
    return np.where(seen, value, np.nan), status


def _no_way(scorer: Scorer) -> UserError:
  return UserError(
    f"scorer {scorer.name} has neither score nor compare",
    "there is nothing to ask it",
    "give Scorer(name, score=...) or Scorer(name, None, compare=...)",
  )


@contextlib.contextmanager
def quiet() -> Iterator[list[str]]:
  """Keeps the warnings of rewards as messages instead of printing them."""
  messages: list[str] = []
  logger = logging.getLogger("rlreward.rewards.runner")
  handler, before = logging.Handler(), logger.propagate
  handler.emit = lambda record: messages.append(record.getMessage())
  logger.propagate = False
  logger.addHandler(handler)
  try:
    yield messages
  finally:
    logger.removeHandler(handler)
    logger.propagate = before


def _listed(fixtures, value, good, threshold) -> list[dict[str, Any]]:
  """False positives and negatives with their texts."""
  out = []
  for fixture, v, fine in zip(fixtures, value, good, strict=True):
    if np.isfinite(v) and (v >= threshold) != fine:
      out.append(
        {
          "line": fixture.line,
          "kind": "false negative" if fine else "false positive",
          "value": agreement.plain(v),
          "label": fixture.label,
          "prompt": fixture.row.prompt,
          "completion": fixture.row.completion,
        }
      )
  return out


def _edited(asker, probe, fixtures, known, value, accepted, declared):
  """The result of one probe of `probes.PROBES`."""
  out = expect.result(probe.name, probe.relation, probe.says, declared)
  if out["skipped"] is not None:
    return out
  work: list[tuple[int, probes.Edit]] = []
  for i, (fixture, context) in enumerate(zip(fixtures, known, strict=True)):
    fits = {"all": True, "bad": not context.good, "good": bool(accepted[i])}
    if fits[probe.on] and np.isfinite(value[i]):
      seeded = context._replace(seed=f"{context.seed}/{probe.name}")
      work += [(i, e) for e in probe.edits(fixture.row, seeded)]
  plain = [fixtures[i].row for i, _ in work]
  rows = [
    r._replace(completion=e.completion, finish=e.finish or r.finish)
    for r, (_, e) in zip(plain, work, strict=True)
  ]
  after, _ = asker.ask(rows, plain)
  place = [k for k, (_, e) in enumerate(work) for _ in e.controls]
  texts = [c for _, e in work for c in e.controls]
  controls = [
    plain[k]._replace(completion=c) for k, c in zip(place, texts, strict=True)
  ]
  said, _ = asker.ask(controls, [plain[k] for k in place])
  bound = np.array([value[i] for i, _ in work])
  np.fmax.at(bound, np.array(place, int), said)
  slack = declared.tolerance
  for k, (i, edit) in enumerate(work):
    gone, broken = bool(np.isnan(after[k])), False
    if probe.relation == probes.INVARIANT:
      broken = gone or abs(after[k] - value[i]) > slack
    elif not gone and probe.relation == probes.NOT_BETTER:
      broken = after[k] > bound[k] + slack
    elif not gone:
      broken = after[k] >= value[i] - slack
    out["unjudged"] += gone
    if broken:
      out["breaks"].append(
        _break(fixtures[i], edit, value[i], bound[k], after[k])
      )
  out["rows"] = len({i for i, _ in work})
  return expect.close(out)


def _break(fixture, edit, before, bound, after) -> dict[str, Any]:
  return {
    "line": fixture.line,
    "note": edit.note,
    "prompt": fixture.row.prompt,
    "before_text": fixture.row.completion,
    "after_text": edit.completion,
    "before": agreement.plain(before),
    "bound": agreement.plain(bound),
    "after": agreement.plain(after),
    "delta": agreement.plain(after - before),
  }


def _structural(
  asker, fixtures, good, value, declared
) -> Iterator[dict[str, Any]]:
  """Probes of the batch, of exceptions inside and of the order of pairs."""
  rows = [f.row for f in fixtures]
  scorer = asker.scorer
  says = probes.STRUCTURAL

  def compare(name: str, note: str, after: np.ndarray) -> dict[str, Any]:
    out = expect.result(name, probes.INVARIANT, says[name], declared)
    same = np.isclose(after, value, 0, declared.tolerance, equal_nan=True)
    for i in np.flatnonzero(~same):
      edit = probes.Edit(rows[i].completion, note)
      out["breaks"].append(
        _break(fixtures[i], edit, value[i], value[i], after[i])
      )
    out["rows"] = len(rows)
    return expect.close(out)

  if scorer.score is not None:
    for name in ("batch_order", "batch_padding"):
      out = expect.result(name, probes.INVARIANT, says[name], declared)
      if out["skipped"] is not None:
        yield out
      elif name == "batch_order":
        yield compare(name, "batch reversed", asker.ask(rows[::-1])[0][::-1])
      else:
        longest = max((r.completion for r in rows), key=len)
        much = filler.neutral("word " * 64 + longest * 2, "padding")
        beside = rows[0]._replace(completion=much)
        yield compare(
          name, "long neighbour", asker.ask([*rows, beside])[0][:-1]
        )
  if scorer.faults is not None:
    out = expect.result("fault", "unjudged", says["fault"], declared)
    if out["skipped"] is None:
      for i in np.flatnonzero(good)[: expect.FAULT_ROWS]:
        broken = scorer.faults(rows[i])
        out["rows"] += bool(broken)
        for what, got in broken:
          edit = probes.Edit(rows[i].completion, f"{what} raises when touched")
          if got is not None:
            out["breaks"].append(
              _break(fixtures[i], edit, value[i], value[i], got)
            )
    yield expect.close(out)
  if scorer.compare is not None:
    yield _order_swap(asker, fixtures, good, declared)


def _order_swap(asker, fixtures, good, declared) -> dict[str, Any]:
  """p(first better) of (a, b) and (b, a) add up to 1."""
  name = "order_swap"
  out = expect.result(name, probes.INVARIANT, probes.STRUCTURAL[name], declared)
  if out["skipped"] is not None:
    return out
  pairs = [
    (i, j)
    for i, a in enumerate(fixtures)
    for j, b in enumerate(fixtures)
    if good[i] and not good[j] and a.row.prompt == b.row.prompt
  ]
  both = [(fixtures[i].row, fixtures[j].row) for i, j in pairs]
  one, _ = asker.pairs(both) if both else (np.zeros(0), None)
  two, _ = asker.pairs([p[::-1] for p in both]) if both else (np.zeros(0), None)
  for (i, j), a, b in zip(pairs, one, 1 - two, strict=True):
    out["unjudged"] += bool(np.isnan(a + b))
    if abs(a - b) > declared.tolerance:
      edit = probes.Edit(fixtures[j].row.completion, "the pair swapped")
      out["breaks"].append(_break(fixtures[i], edit, a, a, b))
  mean = (one + 1 - two) / 2
  mean = mean[np.isfinite(mean)]
  if mean.size:
    # Ties count half.
    out["accuracy"] = float(np.mean((mean > 0.5) + 0.5 * (mean == 0.5)))
    out["first_preferred_by"] = agreement.plain(np.nanmean(one + two - 1))
  out["rows"] = len({i for i, _ in pairs})
  return expect.close(out)
