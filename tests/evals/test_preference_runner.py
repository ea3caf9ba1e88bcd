"""The runner of reward-model benchmarks against loops and published scores."""

import fractions
import json
import math

import numpy as np
import paths
import pytest

from rlreward import errors
from rlreward.evals import benchmarks, credit, preference, special
from rlreward.evals import spec as spec_lib

MODEL = "RM-R1-Qwen2.5-Instruct-32B"


def published(name):
  folder = paths.shared_data("reward_benchmarks_scores")
  return json.loads((folder / f"{MODEL}__{name}.json").read_text())


def ragged(seed=0, n=200, k=5, values=4):
  """Items of 2 to k candidates; few values, so many ties; some NaN."""
  rng = np.random.default_rng(seed)
  scores = rng.integers(0, values, (n, k)).astype(float)
  size = rng.integers(2, k + 1, n)
  valid = np.arange(k) < size[:, None]
  correct = 1 + rng.integers(0, size - 1)
  scores[rng.random((n, k)) < 0.03] = np.nan
  scores[~valid] = 1e9  # padding must not matter
  return scores, valid, correct


# --- rules, by loops ---


def by_loop(rule, s, good, bad):
  right, wrong = [s[i] for i in good], [s[j] for j in bad]
  if any(math.isnan(x) for x in right + wrong):
    return math.nan
  if rule == "beats_all":
    return float(all(r > w for r in right for w in wrong))
  if rule == "best":
    top = max(right + wrong)
    return right.count(top) / (right.count(top) + wrong.count(top))
  tie = 0.5 if rule == "pairs" else 0.0
  won = [1 if r > w else tie if r == w else 0 for r in right for w in wrong]
  return sum(won) / len(won)


@pytest.mark.parametrize("rule", ["pairs", "strict_pairs", "best", "beats_all"])
def test_rules_equal_loops_and_tell_ties_from_wins(rule):
  scores, valid, correct = ragged()
  items = credit.make(scores, valid, correct, ["a"] * len(scores))
  found = getattr(credit, rule)(items)
  for i in range(len(scores)):
    good = range(correct[i])
    bad = range(correct[i], valid[i].sum())
    want = by_loop(rule, scores[i], good, bad)
    np.testing.assert_allclose(found.value[i], want, atol=1e-15)
    assert found.judged[i] == (not math.isnan(want))
    level = {scores[i][j] for j in good} & {scores[i][j] for j in bad}
    if not level or not found.judged[i]:
      assert not found.tied[i]
  assert found.tied.any() and (~found.judged).any()
  if rule in ("pairs", "strict_pairs"):
    assert found.tied.sum() == sum(
      bool({*s[:c]} & {*s[c:v]}) and np.isfinite(s[:v]).all()
      for s, c, v in zip(scores, correct, valid.sum(1), strict=True)
    )


def test_a_constant_scorer_gets_chance_where_the_rule_says_so_and_never_wins():
  rng = np.random.default_rng(0)
  flat, all_ = np.zeros((50, 4)), np.ones((50, 4), bool)
  one, group = np.ones(50, int), ["a"] * 50
  run = lambda s, spec: preference.evaluate(
    s, all_, one, group, None, spec, resamples=0
  )
  assert run(flat, "best")["total"]["value"] == 0.25
  assert run(flat, "pairs")["total"]["value"] == 0.5
  assert run(flat, "pairs")["tied"] == 50
  items = credit.make(flat, all_, one, group)
  assert not credit.beats_all(items).value.any()
  assert not credit.strict_pairs(items).value.any()
  # A random scorer: 1 of 4; all of 3 right above 3 wrong: 1 / C(6, 3) = 1/20.
  noise = rng.normal(size=(20000, 6))
  full = np.ones(noise.shape, bool)
  many = credit.make(noise, full, np.full(20000, 3), [""] * 20000)
  # Standard error 0.0015; four of them.
  assert credit.beats_all(many).value.mean() == pytest.approx(0.05, abs=0.006)
  four = credit.make(
    noise[:, :4], full[:, :4], np.ones(20000, int), [""] * 20000
  )
  assert credit.best(four).value.mean() == pytest.approx(0.25, abs=0.0125)


def test_abstentions_are_neither_won_nor_lost():
  scores = np.asarray([[1, 0], [np.nan, 0], [0, np.inf], [0, 1.0]])
  out = preference.evaluate(
    scores, np.ones((4, 2), bool), np.ones(4, int), ["a"] * 4, resamples=0
  )
  assert (out["judged"], out["abstained"], out["tied"]) == (2, 2, 0)
  row = out["subsets"]["a"]
  assert row["accuracy"] == 0.5 and row["floor"] == 0.25
  assert row["interval"] == "wilson"
  nothing = preference.evaluate(
    scores[1:2], np.ones((1, 2), bool), [1], ["a"], resamples=5
  )
  assert nothing["total"]["value"] is None
  assert nothing["subsets"]["a"]["accuracy"] is None


def test_weights_and_groups_by_hand():
  scores = np.asarray([[1, 0], [0, 1], [1, 0], [0.0, 0.0]])
  out = preference.evaluate(
    scores,
    np.ones((4, 2), bool),
    np.ones(4, int),
    ["a", "a", "b", "b"],
    np.asarray([3.0, 1, 1, 1]),
    resamples=0,
  )
  assert out["subsets"]["a"]["accuracy"] == 0.75
  assert out["subsets"]["b"]["accuracy"] == 0.75  # a win and half a win
  assert out["micro"]["value"] == pytest.approx((3 + 1 + 0.5) / 6)


def test_bad_items():
  two = np.ones((1, 2), bool)
  run = lambda *a, **k: preference.evaluate(np.zeros((1, 2)), *a, **k)
  with pytest.raises(errors.UserError, match="2 right and 0 wrong"):
    run(two, [2], ["a"])
  with pytest.raises(errors.UserError, match="weight nan"):
    run(two, [1], ["a"], [np.nan])
  with pytest.raises(errors.UserError, match="write 'math-prm'"):
    run(two, [1], ["math_prm"], spec="rewardbench")
  with pytest.raises(errors.UserError, match="no spec 'rewardbench3'"):
    run(two, [1], ["a"], spec="rewardbench3")
  with pytest.raises(errors.UserError, match="do not fit"):
    run(two, [1], ["a", "b"])


# --- published scores ---


def test_rewardbench_totals_are_the_published_ones():
  small = published("reward_bench__score_result__each_small_section_score")
  main = published("reward_bench__score_result__main_score")
  subset = {k: v for k, v in small.items() if isinstance(v, float)}
  assert len(subset) == 23
  spec = benchmarks.SPECS["rewardbench"]
  found = spec_lib.combine(subset, benchmarks.REWARDBENCH_ITEMS, spec)
  for name in spec.sections:
    assert found[f"section/{name}"] == pytest.approx(main[name], abs=1e-15)
  # Exact up to the order of a sum in float64.
  total, micro = main["avg_Result_each_section"], main["absoluate_Result"]
  assert found["total"] == pytest.approx(total, abs=1e-15)
  assert found["micro"] == pytest.approx(micro, abs=1e-15)
  assert sum(benchmarks.REWARDBENCH_ITEMS.values()) == 2985
  # Each published accuracy is a whole number of items.
  for name, value in subset.items():
    won = value * benchmarks.REWARDBENCH_ITEMS[name]
    assert won == pytest.approx(round(won), abs=1e-9)


def test_rewardbench_from_items_is_the_published_total():
  """Items that are won as often as published, through the whole runner."""
  small = published("reward_bench__score_result__each_small_section_score")
  main = published("reward_bench__score_result__main_score")
  scores, group = [], []
  for name, n in benchmarks.REWARDBENCH_ITEMS.items():
    won = round(small[name] * n)
    scores += [[1.0, 0.0]] * won + [[0.0, 1.0]] * (int(n) - won)
    group += [name] * int(n)
  n = len(group)
  out = preference.evaluate(
    np.asarray(scores),
    np.ones((n, 2), bool),
    np.ones(n, int),
    group,
    spec="rewardbench",
    resamples=20,
  )
  assert out["items"] == 2985 and not out["missing"]
  total = main["avg_Result_each_section"]
  assert out["total"]["value"] == pytest.approx(total, abs=1e-15)
  assert out["micro"]["value"] == pytest.approx(main["absoluate_Result"])
  assert out["total"]["low"] < total < out["total"]["high"]


def test_rmb_totals_are_the_published_ones():
  meta = published("RMB__META_RESULT")
  spec = benchmarks.SPECS["rmb"]
  heads, parts, mean = {}, {}, {}
  for name in special.RMB:
    kind, goal = name.split()
    head, parts[name] = published(
      f"RMB__{kind}_set_{goal}__score_result__Final_score"
    )
    key = "Overall_accuracy" if kind == "Pairwise" else "BoN Final Accuracy"
    mean[name], heads[name] = head[key], head
    assert {spec.section(subset) for subset in parts[name]} == {name}
    if kind == "BoN":
      right = head["BoN Absolute Number of Correct"]
      assert right / head["BoN Absolute Total Numbers"] == head[key]
  assert mean == {k: meta[k] for k in mean}
  whole = spec_lib.combine(
    {f"{k.replace(' ', '_set/')}/all": v for k, v in mean.items()}, {}, spec
  )
  total = meta["Accuracy Averaged from Four Sections"]
  assert whole["total"] == pytest.approx(total, abs=1e-15)
  # Subsets to section: only one set of counts has whole wins and these sums.
  name = "BoN Harmlessness"
  solved = solve(
    parts[name],
    heads[name]["BoN Absolute Total Numbers"],
    heads[name]["BoN Absolute Number of Correct"],
  )
  assert len(solved) == 1
  got = spec_lib.combine(parts[name], solved[0], spec)
  assert got[f"section/{name}"] == pytest.approx(meta[name], abs=1e-15)


def solve(accuracy, items, won):
  """Every {subset: items} with whole wins and these sums."""
  part = [
    fractions.Fraction(v).limit_denominator(2000) for v in accuracy.values()
  ]
  states = {(0, 0): [[]]}
  for f in part:
    new = {}
    for (n, c), ways in states.items():
      k = 1
      while n + k * f.denominator <= items and c + k * f.numerator <= won:
        key = (n + k * f.denominator, c + k * f.numerator)
        more = [[*way, k * f.denominator] for way in ways]
        new[key] = new.get(key, []) + more
        k += 1
    states = new
  ways = states.get((items, won), [])
  return [dict(zip(accuracy, way, strict=True)) for way in ways]


def test_rm_bench_totals_are_the_published_ones():
  final = published("RM-Bench__final_result")
  spec = benchmarks.SPECS["rmbench"]
  found = spec_lib.combine({k: final[k] for k in spec.sections}, {}, spec)
  total = final["total_avg_acc"]
  assert found["total"] == pytest.approx(total, abs=1e-15)
  by_level = np.mean([final[f"{k}_acc"] for k in special.LEVELS])
  assert by_level == pytest.approx(total, abs=1e-15)
