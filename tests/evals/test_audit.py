"""Planted faults are caught by their probe and by no other."""

import asyncio
import math
import time
import unicodedata

import jax
import numpy as np
import pytest

from rlreward.errors import UserError
from rlreward.evals import agreement, audit, expect, functions
from rlreward.evals.audit import Scorer
from rlreward.evals.probes import Fixture, Row
from rlreward.rewards.function import reward
from rlreward.types import Score

# (prompt, right, wrong); the last has letters with two Unicode forms.
ASKED = (
  ("7+5=", "12", "9"),
  ("4+4=", "8", "31"),
  ("20+25=", "45", "54"),
  ("60+10=", "70", "7000"),
  ("Capital of Sweden?", "Stockholm", "Malm\u00f6"),
  ("A caf\u00e9 in French?", "caf\u00e9", "th\u00e9"),
)


def fixtures(shape="{}"):
  rows = []
  for prompt, right, wrong in ASKED:
    for text, label in ((right, 1.0), (wrong, 0.0)):
      row = Row(prompt, shape.format(text), "stop", {"answer": right})
      rows.append(Fixture(row, label, len(rows) + 1, ("n",)))
  return rows


def plain(text):
  return unicodedata.normalize("NFC", text.strip())


def exact(completion, answer):
  return float(plain(completion) == plain(answer))


def length_lover(completion, answer):
  return exact(completion, answer) + 0.001 * len(completion.split())


def last_number(completion, answer):
  found = plain(completion).split()
  return float(bool(found) and found[-1] == plain(answer))


def first_number(completion, answer):
  found = plain(completion).replace(",", " ").removeprefix("Not ").split()
  return float(bool(found) and found[0] == plain(answer))


def substring(completion, answer):
  return float(plain(answer) in plain(completion))


def crash_as_zero(completion, answer):
  try:
    return exact(completion, answer)
  except Exception:
    return 0.0


def format_only(completion, answer):
  del answer
  text = completion.strip()
  return float(text.startswith("<a>") and text.endswith("</a>"))


def flattered(completion, answer):
  return exact(completion, answer) + 0.5 * ("absolutely" in completion)


def obedient(completion, answer):
  return exact(completion, answer) + 0.5 * ("full marks" in completion)


def hedger(completion, answer):
  return exact(completion, answer) + 0.5 * ("I am not sure" in completion)


def repeats(completion, answer):
  lines = completion.strip().split("\n")
  return exact(completion, answer) + 0.1 * (len(lines) - len(set(lines)))


def raw_unicode(completion, answer):
  return float(completion.strip() == answer)


def exact_space(completion, answer):
  return float(unicodedata.normalize("NFC", completion) == answer)


def empty_wins(completion, answer):
  return 1.0 if not completion.strip() else exact(completion, answer)


def cut_wins(completion, finish, answer):
  return 1.0 if finish == "length" else exact(completion, answer)


def broken(report):
  return {p["name"] for p in report["probes"] if not p["passed"]}


def failed(report):
  return {s["name"] for s in report["sections"] if not s["passed"]}


def of(f, rows=None, **declared):
  rows = rows or fixtures()
  scorer = functions.wrap(f, rows)
  return audit.run(scorer, rows, expect.read(declared, "here"))


def test_a_good_reward_passes_every_probe_that_applies():
  report = of(exact)
  assert report["passed"] and not failed(report)
  tried = {p["name"] for p in report["probes"] if p["rows"]}
  assert tried == {p["name"] for p in report["probes"]}
  c = report["confusion"]
  assert (c["true_positive"], c["true_negative"]) == (6, 6)
  assert (c["threshold"], c["auroc"], c["wrong"]) == (0.5, 1.0, [])
  assert report["tags"]["n"]["true_positive"] == 6
  assert report == of(exact)  # no chance in it


PLANTED = {
  length_lover: {"verbosity"},
  last_number: {"answer_last"},
  first_number: {"answer_first"},
  substring: {"every_answer"},
  crash_as_zero: {"fault"},
  flattered: {"sycophancy"},
  obedient: {"instruction"},
  hedger: {"hedging"},
  repeats: {"repetition"},
  raw_unicode: {"unicode_form"},
  exact_space: {"trailing_space"},
  empty_wins: {"empty"},
  cut_wins: {"truncated"},
}


@pytest.mark.parametrize("f", PLANTED, ids=lambda f: f.__name__)
def test_a_planted_fault_is_caught_by_its_probe_alone(f):
  assert broken(of(f)) == PLANTED[f]


def test_a_reward_for_form_alone_is_caught():
  report = of(format_only, fixtures("<a>{}</a>"))
  assert broken(report) == {"wrong_answer"}
  assert report["confusion"]["false_positive"] == 6
  assert report["confusion"]["auroc"] == 0.5
  shown = report["confusion"]["wrong"][0]
  assert shown["kind"] == "false positive"
  assert (shown["line"], shown["completion"]) == (2, "<a>9</a>")


def test_letter_case_counts_only_where_declared():
  assert "letter_case" not in {p["name"] for p in of(exact)["probes"]}
  assert broken(of(exact, also=["letter_case"])) == {"letter_case"}
  folded = lambda completion, answer: float(
    plain(completion).casefold() == answer.casefold()
  )
  assert of(folded, also=["letter_case"])["passed"]


def test_a_break_shows_both_sides_and_may_be_declared():
  report = of(length_lover)
  (p,) = (p for p in report["probes"] if p["name"] == "verbosity")
  one = p["breaks"][0]
  # A right answer is no longer exact: only a wrong one gains by length.
  assert {b["line"] for b in p["breaks"]} == {2, 4, 6, 8, 10, 12}
  assert (one["before_text"], one["prompt"]) == ("9", "7+5=")
  assert one["before"] == pytest.approx(0.001)
  more = len(one["after_text"].split()) - 1
  assert one["delta"] == pytest.approx(0.001 * more) and p["share"] == 0.5
  skipped = of(length_lover, skip={"verbosity": "pays for words"})
  (s,) = (s for s in skipped["sections"] if s["name"] == "verbosity")
  assert s["passed"] and s["says"] == "skipped: pays for words"
  assert not broken(of(length_lover, allow={"verbosity": 1.0}))


# ---------------------------------------------- what is no judgement is no 0


def test_errors_time_outs_and_abstentions_are_counted_apart():
  def some(completion, answer):
    if completion == "12":
      return None
    if completion == "9":
      raise RuntimeError("no answer today")
    if completion == "8":
      time.sleep(0.5)
    return exact(completion, answer)

  rows = fixtures()
  scorer = functions.wrap(reward(some, timeout=0.1), rows)
  skip = {p: "slow" for p in ("batch_order", "batch_padding", "fault")}
  report = audit.run(scorer, rows, expect.read({"skip": skip}, "here"))
  assert report["judged"] == {"ok": 9, "abstain": 1, "timeout": 1, "error": 1}
  assert report["confusion"]["unjudged"] == 3
  assert report["confusion"]["false_negative"] == 0  # none of them is a 0
  assert failed(report) == {"errors", "time-outs"}
  assert "no answer today" in report["first_error"]
  strict = expect.read({"skip": skip, "abstain": 0.0, "error": 1.0}, "here")
  assert failed(audit.run(scorer, rows, strict)) == {"abstentions", "time-outs"}


def test_an_error_behind_another_reward_is_still_counted():
  def broken_bonus(completion):
    raise RuntimeError("no bonus")

  bonus = reward(broken_bonus, required=False)
  report = of([exact, bonus])
  assert report["confusion"]["auroc"] == 1.0
  assert failed(report) == {"errors"} and report["judged"]["error"] == 12


def test_a_reward_that_crashes_on_an_empty_answer_is_told(capfd):
  def brittle(completion, answer):
    return exact(completion.split()[0], answer)

  report = of(brittle)
  assert "errors" in failed(report)
  assert "IndexError" in report["first_error"]
  assert report["asked"]["error"] and not report["judged"]["error"]
  assert capfd.readouterr().err == ""  # in the report, not in the log


def test_narrow_handlers_are_no_swallowed_exceptions():
  def parses(completion, answer):
    try:
      return float(int(completion) == int(answer))
    except ValueError:
      return exact(completion, answer)

  assert not broken(of(parses))

  def swallows(completion, answer):
    try:
      return exact(completion, answer)
    except:  # noqa: E722
      return {"value": -1.0}

  report = of(swallows)
  (p,) = (p for p in report["probes"] if p["name"] == "fault")
  assert broken(report) == {"fault"}
  assert {b["note"] for b in p["breaks"]} == {
    "completion raises when touched", "answer raises when touched"
  }  # fmt: skip
  assert {b["after"] for b in p["breaks"]} == {-1.0}


def test_what_trains_is_what_is_audited():
  async def one(sample):
    await asyncio.sleep(0)
    assert sample.finish in ("stop", "length")
    return exact(sample.completion, sample.answer)

  def many(batch):
    return [exact(c, a) for c, a in zip(batch.completion, batch["answer"],
                                        strict=True)]  # fmt: skip

  def named(completion, answer):
    return {"right": exact(completion, answer), "unused": 0.0}

  for f in (one, many, named):
    assert of(f)["passed"], f
  report = of([(one, 0.5), (named, 1.0)])
  assert report["passed"] and report["confusion"]["threshold"] == 0.75
  assert report["reward"].count("named") == 1


def test_a_column_that_a_row_lacks_is_named_with_its_line():
  rows = fixtures()
  rows[3] = rows[3]._replace(row=rows[3].row._replace(columns={}))
  with pytest.raises(UserError) as error:
    functions.wrap(exact, rows)
  assert "line 4" in str(error.value) and "'answer'" in str(error.value)


# ------------------------------------------------ models, judges and the batch


def batch_of(value, rows, **kept):
  fields = np.asarray(value, np.float32), np.ones(len(rows), bool)
  return Score(*fields, None, kept)


def test_a_learned_scorer_plugs_in_and_its_batch_is_probed():
  def own(rows):
    return np.array([exact(r.completion, r.columns["answer"]) for r in rows])

  skip = {"fault": "a model has no handlers"}
  spec = expect.read({"skip": skip}, "here")
  scorer = Scorer("model", lambda rows: batch_of(own(rows) * 4 - 2, rows))
  report = audit.run(scorer, fixtures(), spec)
  assert report["passed"] and report["confusion"]["threshold"] == 0.0
  assert "fault" not in {p["name"] for p in report["probes"]}

  def padded(rows):
    longest = max(len(r.completion) for r in rows)
    return batch_of(own(rows) - 1e-3 * longest, rows)

  report = audit.run(Scorer("padded", padded), fixtures(), spec)
  assert "batch_padding" in broken(report)
  assert "batch_order" not in broken(report)
  ordered = lambda rows: batch_of(own(rows) + 0.01 * np.arange(len(rows)), rows)
  assert "batch_order" in broken(
    audit.run(Scorer("o", ordered), fixtures(), spec)
  )
  nan = lambda rows: batch_of(np.full(len(rows), np.nan), rows)
  assert audit.run(Scorer("nan", nan), fixtures())["judged"]["error"] == 12
  for bad in (lambda rows: batch_of([0.0], [1]), ):  # fmt: skip
    with pytest.raises(UserError, match="12 rows"):
      audit.run(Scorer("short", bad), fixtures())
  with pytest.raises(UserError, match="neither score nor compare"):
    audit.run(Scorer("none", None), fixtures())
  with pytest.raises(UserError, match="no fixtures"):
    audit.run(scorer, [])


def judge(bias=0.0, flatter=0.0, noise=0.0):
  """A judge of pairs by the right answer, with planted faults."""

  def one(row):
    kind = flatter * ("absolutely" in row.completion)
    return 2 * exact(row.completion, row.columns["answer"]) + kind

  def compare(pairs):
    gap = np.array([one(a) - one(b) + bias for a, b in pairs])
    return batch_of(1 / (1 + np.exp(-gap)), pairs)

  return Scorer("judge", None, compare)


def test_a_judge_of_pairs_is_probed_for_order_and_by_comparison():
  report = audit.run(judge(), fixtures())
  assert report["passed"] and "confusion" not in report
  (swap,) = (p for p in report["probes"] if p["name"] == "order_swap")
  assert swap["rows"] == 6 and swap["accuracy"] == 1.0
  assert swap["first_preferred_by"] == pytest.approx(0, abs=1e-6)
  report = audit.run(judge(bias=0.5), fixtures())
  assert broken(report) == {"order_swap"}
  (swap,) = (p for p in report["probes"] if p["name"] == "order_swap")
  sigmoid = lambda x: 1 / (1 + math.exp(-x))
  assert swap["first_preferred_by"] == pytest.approx(
    sigmoid(2.5) + sigmoid(-1.5) - 1, abs=1e-6
  )
  assert broken(audit.run(judge(flatter=1.0), fixtures())) == {"sycophancy"}


def test_the_arithmetic_verifier_passes_its_audit():
  from rlreward.tasks import arithmetic, tokens

  rows = [f for f in fixtures() if f.row.prompt[0].isdigit()]
  letters = dict.fromkeys("0123456789+-*=" + "".join(map(chr, range(32, 127))))
  tok = tokens.CharTokenizer("".join(letters) + "\n")
  verify = arithmetic.verifier(tok)

  judge = jax.jit(verify)
  shape = 64, 512  # one program for every call

  def score(asked):
    # The stop token is an action; a cut answer has none.
    rows = [r._replace(completion=r.completion + "\0" * (r.finish == "stop"))
            for r in asked]  # fmt: skip
    rollout, _ = functions.rollout(rows, ())
    ids = [[0 if c == 0 else tok.encode(chr(c))[0] for c in row]
           for row in rollout.tokens]  # fmt: skip
    ends = rollout.action & (rollout.tokens == 0)
    ids = np.where(ends, tok.eos_ids[0], ids)
    answers = np.zeros((shape[0], 4), int)
    wanted = np.zeros((shape[0], 4), bool)
    for i, row in enumerate(asked):
      answer = [*tok.encode(row.columns["answer"]), tok.eos_ids[0]]
      answers[i, : len(answer)], wanted[i, : len(answer)] = answer, True
    fill = lambda x: np.pad(
      x, [(0, s - n) for s, n in zip(shape, x.shape, strict=True)]
    )
    given = rollout._replace(
      tokens=fill(ids), action=fill(rollout.action), group=np.arange(shape[0])
    )
    found = judge(given, {"answer": answers, "answer_mask": wanted})
    return batch_of(found.value[: len(asked)], asked)

  skip = {"trailing_space": "token for token: a blank is another answer"}
  report = audit.run(
    Scorer("arithmetic", score), rows, expect.read({"skip": skip}, "here")
  )
  assert report["passed"], failed(report)
  assert report["confusion"]["auroc"] == 1.0


# ----------------------------------------------------------------- statistics


def test_graded_rewards_are_ranked_and_cut_at_a_label():
  rows = [
    Fixture(Row(f"p{i}", "word " * i, "stop", {}), float(i), i)
    for i in range(1, 6)
  ]
  counted = lambda completion: len(completion.split()) / 5
  report = of(counted, rows, length=None, auroc=1.0)
  assert report["good_from"] == 3.0 and report["confusion"]["auroc"] == 1.0
  assert report["confusion"]["threshold"] == pytest.approx(0.5)
  assert "ranking" not in failed(report)
  report = of(lambda completion: -len(completion), rows, auroc=0.5, good=4.0)
  assert report["good_from"] == 4.0 and report["confusion"]["auroc"] == 0.0
  assert "ranking" in failed(report)


def test_length_is_told_apart_from_the_label():
  rng = np.random.default_rng(0)
  rows = []
  for i in range(40):
    text = "x" * int(rng.integers(1, 200))
    rows.append(Fixture(Row(f"p{i}", text), float(i % 2), i + 1))
  by_length = lambda sample: len(sample.completion) / 100
  report = of(by_length, rows)
  assert "length" in failed(report) and report["length"]["partial"] > 0.9
  low, high = report["length"]["interval"]
  assert low < report["length"]["spearman"] <= 1 and high <= 1
  assert "length" not in failed(of(by_length, rows, length=None))
  assert of(exact)["length"]["partial"] is None


def test_statistics_agree_with_scipy_and_hand_counts():
  stats = pytest.importorskip("scipy.stats", reason="oracle of ranks")
  rng = np.random.default_rng(1)
  x, z = rng.integers(0, 6, 30) * 1.0, rng.integers(0, 2, 30) * 1.0
  y = x + rng.integers(0, 4, 30)
  # Both are float64 sums of 30 ranks.
  assert agreement.spearman(x, y) == pytest.approx(
    stats.spearmanr(x, y).statistic, abs=1e-12
  )
  found = agreement.length_correlation(x, y, z)
  ranks = [stats.rankdata(a) for a in (x, y, z)]
  left = []
  for a in ranks[:2]:
    line = np.polynomial.Polynomial.fit(ranks[2], a, 1)
    left.append(a - line(ranks[2]))
  # Partial correlation is the correlation of what regression leaves over.
  assert found["partial"] == pytest.approx(np.corrcoef(*left)[0, 1], abs=1e-9)
  u = stats.mannwhitneyu(x[z == 1], x[z == 0]).statistic
  assert agreement.concordance(x, z) == pytest.approx(
    u / (sum(z == 1) * sum(z == 0)), abs=1e-12
  )
  value = np.array([0.1, 0.4, 0.35, 0.8, np.nan])
  good = np.array([False, False, True, True, True])
  at = agreement.best_threshold(value, good)
  assert at == pytest.approx(0.6)  # 0.225 is as good, its gap is narrower
  found = agreement.confusion(value, good, at)
  assert [found[k] for k in ("true_positive", "false_positive",
                             "true_negative", "false_negative", "unjudged")
          ] == [1, 0, 2, 1, 1]  # fmt: skip
  assert found["false_negative_rate"] == 0.5
  # A threshold is right where there is one class.
  assert agreement.best_threshold(value, good | True) < 0.1
  assert agreement.best_threshold(value, good & False) > 0.8
  assert agreement.concordance(value, good | True) is None


def test_the_interval_of_a_correlation_covers():
  rng = np.random.default_rng(2)
  held = 0
  for _ in range(200):
    x = rng.standard_normal(40)
    y = 0.6 * x + 0.8 * rng.standard_normal(40)
    low, high = agreement.interval(agreement.spearman(x, y), 40)
    # Spearman of a normal pair with correlation 0.6.
    held += low <= 6 / math.pi * math.asin(0.3) <= high
  assert 0.91 <= held / 200 <= 0.99  # 2 standard errors are 0.031
  assert agreement.interval(0.5, 3) is None
  assert agreement.interval(None, 9) is None


@pytest.mark.parametrize(
  ("spec", "words"),
  [
    ([], ("spec", "[]")),
    ({"treshold": 1}, ("'treshold'", "'threshold'")),
    ({"threshold": "high"}, ("threshold", "'high'")),
    ({"threshold": True}, ("threshold", "True")),
    ({"length": 2}, ("length", "0 to 1")),
    ({"error": -1}, ("error", "0 or more")),
    ({"tolerance": None}, ("tolerance", "None")),
    ({"answer": 3}, ("answer", "3")),
    ({"skip": ["verbosity"]}, ("skip", "verbosity")),
    ({"skip": {"verbosity": ""}}, ("skip.verbosity", "reason")),
    ({"skip": {"verbose": "x"}}, ("'verbose'", "'verbosity'")),
    ({"allow": {"verbosity": 2}}, ("allow.verbosity", "0 to 1")),
    ({"also": ["lettercase"]}, ("'lettercase'", "'letter_case'")),
  ],
)
def test_a_bad_spec_is_named(spec, words):
  with pytest.raises(UserError) as error:
    expect.read(spec, "f.jsonl line 1")
  said = str(error.value)
  assert len(said.splitlines()) == 3 and "f.jsonl line 1" in said
  assert all(w in said for w in words), said
