"""What single benchmarks measure beside means, against their definitions."""

import math

import numpy as np
import pytest

from rlreward import errors
from rlreward.evals import credit, preference, special


def run(scores, correct, group, spec, valid=None, **more):
  scores = np.asarray(scores, float)
  valid = np.ones(scores.shape, bool) if valid is None else valid
  more.setdefault("resamples", 0)
  return preference.evaluate(scores, valid, correct, group, None, spec, **more)


def ties_by_loop(rows):
  """RewardBench 2's score of Ties from [(id, scores, num_correct)]."""
  ref, tied = {}, {}
  for name, scores, n in rows:
    kind, prompt = name.split(":")
    right, wrong = scores[:n], scores[n:]
    spread, gap = max(right) - min(right), min(right) - max(wrong)
    (ref if kind == "ref" else tied)[prompt] = (gap > 0, spread, gap)
  both = [p for p in ref if p in tied]
  mean = lambda x: sum(x) / len(x) if len(x) else 0.0
  degree = []
  for p in both:
    least, d = min(ref[p][2], tied[p][2]), tied[p][1]
    if d == 0:
      degree.append(1.0 if least > 0 else -1.0 if least < 0 else 0.0)
    else:
      degree.append(math.tanh(least / d - 1))
  return (
    0.3 * mean([v[0] for v in tied.values()])
    + 0.3 * mean([v[0] for v in ref.values()])
    + 0.2 * mean([tied[p][2] > tied[p][1] for p in both])
    + 0.2 * mean([min(ref[p][2], tied[p][2]) > tied[p][1] for p in both])
    + 0.01 * mean(degree)
  )


def pack(rows):
  k = max(len(s) for _, s, _ in rows)
  scores = np.full((len(rows), k), np.nan)
  for i, (_, s, _) in enumerate(rows):
    scores[i, : len(s)] = s
  valid = np.arange(k) < np.asarray([len(s) for _, s, _ in rows])[:, None]
  return scores, [n for _, _, n in rows], valid, [i for i, _, _ in rows]


def test_ties_by_hand_and_by_loop():
  perfect = [("ref:1", [5, 0, 0], 1), ("tied:1", [5, 5, 5, 0], 3)]
  scores, n, valid, ids = pack(perfect)
  out = run(scores, n, ["Ties"] * 2, "rewardbench2", valid, ids=ids)
  assert out["sections"]["Ties"]["value"] == pytest.approx(1.01)  # not 1
  rng = np.random.default_rng(3)
  rows = []
  for p in range(40):
    draw = lambda k: rng.integers(0, 5, k).astype(float).tolist()
    if p % 7:
      rows.append((f"ref:{p}", draw(4), 1))
    if p % 5:
      rows.append((f"tied:{p}", draw(5), 3))
  scores, n, valid, ids = pack(rows)
  group = ["Ties"] * len(rows)
  out = run(scores, n, group, "rewardbench2", valid, ids=ids, resamples=50)
  want = ties_by_loop(rows)
  assert out["sections"]["Ties"]["value"] == pytest.approx(want, abs=1e-15)
  assert out["total"]["value"] == pytest.approx(want, abs=1e-15)
  assert out["total"]["low"] < want < out["total"]["high"]
  assert out["missing"] == ["Factuality", "Precise IF", "Math", "Safety",
                            "Focus"]  # fmt: skip


def test_ties_needs_its_ids_and_leaves_abstentions_out():
  with pytest.raises(errors.UserError, match="has id '7'"):
    run([[1, 0]], [1], ["Ties"], "rewardbench2", ids=["7"])
  with pytest.raises(errors.UserError, match="each once"):
    run([[1, 0]] * 2, [1, 1], ["Ties"] * 2, "rewardbench2", ids=["ref:1"] * 2)
  rows = [("ref:1", [5, 0, 0], 1), ("tied:1", [5, 5, 0], 2),
          ("ref:2", [math.nan, 0, 0], 1), ("tied:2", [0, 0, 5], 2)]  # fmt: skip
  scores, n, valid, ids = pack(rows)
  out = run(scores, n, ["Ties"] * 4, "rewardbench2", valid, ids=ids)
  kept = [r for r in rows if r[0] != "ref:2"]
  assert out["sections"]["Ties"]["value"] == pytest.approx(ties_by_loop(kept))
  assert out["abstained"] == 1


def test_rewardbench2_is_the_mean_of_domains():
  scores = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]]
  out = run(scores, [1] * 4, ["Math", "Math", "Focus", "Math"], "rewardbench2")
  math_ = (1 + 0.5 + 0.25) / 3
  assert out["sections"]["Math"]["value"] == pytest.approx(math_)
  assert out["total"]["value"] == pytest.approx((math_ + 0) / 2)
  assert out["tied"] == 2


def test_style_matrix_and_levels_equal_loops():
  rng = np.random.default_rng(1)
  scores = rng.integers(0, 4, (60, 6)).astype(float)
  scores[5, 2] = np.nan
  domain = np.asarray(["chat", "math", "code", "safety-refuse",
                       "safety-response"])[np.arange(60) % 5]  # fmt: skip
  out = run(scores, [3] * 60, domain, "rmbench")
  names = np.asarray([d.partition("-")[0] for d in domain])
  table, kept = {}, ~np.isnan(scores).any(1)
  for name in ("chat", "math", "code", "safety"):
    m = np.zeros((3, 3))
    for s in scores[(names == name) & kept]:
      m += [[s[i] > s[3 + j] for j in range(3)] for i in range(3)]
    m /= ((names == name) & kept).sum()
    above = m[0, 1] + m[0, 2] + m[1, 2]
    below = m[1, 0] + m[2, 0] + m[2, 1]
    table[name] = [above / 3, (m[0, 0] + m[1, 1] + m[2, 2]) / 3, below / 3]
    rows = credit.make(scores, np.ones((60, 6), bool), [3] * 60, domain)
    found = special.style_matrix(rows.take(names == name))
    np.testing.assert_allclose(found, m, atol=1e-15)
    value = out["sections"][name]["value"]
    assert value == pytest.approx(np.mean(table[name]), abs=1e-15)
  for i, level in enumerate(special.LEVELS):
    want = np.mean([v[i] for v in table.values()])
    assert out["extra"][level]["value"] == pytest.approx(want, abs=1e-15)
  want = np.mean([*table.values()])
  assert out["total"]["value"] == pytest.approx(want, abs=1e-15)


def test_rm_bench_from_pairs_with_styles():
  scores = [[1, 0], [0, 1], [1, 0], [1, 0], [0, 0]]
  style = ["hard", "hard", "normal", "easy", "easy"]
  out = run(scores, [1] * 5, ["chat"] * 5, "rmbench", style=style)
  assert out["total"]["value"] == pytest.approx((0.5 + 1 + 0.5) / 3)
  with pytest.raises(errors.UserError, match="style 'bold'"):
    run([[1, 0]], [1], ["chat"], "rmbench", style=["bold"])


def test_rmb_best_of_n_is_harder_than_its_pairs():
  group = ["BoN_set/Helpfulness/Chat/Discussion"] * 3 + [
    "Pairwise_set/Harmlessness/S1"
  ]
  scores = [[3, 1, 2, 0], [2, 3, 1, 0], [2, 2, 0, np.nan], [1, 0, np.nan, 0]]
  valid = np.asarray([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]])
  out = run(scores, [1] * 4, group, "rmb", valid.astype(bool))
  assert out["sections"]["BoN Helpfulness"]["value"] == pytest.approx(1 / 3)
  # 3 of 3, 2 of 3, 1 of 2 pairs.
  pairs = out["extra"]["pairs/BoN Helpfulness"]["value"]
  assert pairs == pytest.approx(6 / 8)
  assert out["total"]["value"] == pytest.approx((1 / 3 + 1) / 2)


def test_rag_scenarios_count_each_subset_once():
  group = ["reason/hotpot"] * 3 + ["reason/musique", "abstain/x"]
  scores = [[1, 0], [1, 0], [0, 1], [0, 1], [1, 0]]
  out = run(scores, [1] * 5, group, "rag-rewardbench")
  assert out["sections"]["reason"]["value"] == pytest.approx((2 / 3 + 0) / 2)
  assert out["total"]["value"] == pytest.approx((1 / 3 + 1) / 2)
  assert out["micro"]["value"] == pytest.approx(3 / 5)
  assert out["missing"] == ["helpful", "citation", "harmless", "conflict"]


def test_languages_report_totals_gaps_and_kappa():
  rng = np.random.default_rng(2)
  subsets = np.asarray(["alpacaeval-easy", "mt-bench-hard", "math-prm"])
  rows, group, ids, language = [], [], [], []
  right = {}
  for code, noise in (("eng_Latn", 0.3), ("fra_Latn", 0.8), ("tur_Latn", 3.0)):
    for i in range(90):
      rows.append([1 + noise * rng.normal(), 0.0])
      group.append(subsets[i % 3])
      ids.append(i)
      language.append(code)
      right[code, i] = rows[-1][0] > 0
  out = run(rows, [1] * 270, group, "m-rewardbench", ids=ids,
            language=language, resamples=30)  # fmt: skip
  totals = {}
  for code in dict.fromkeys(language):
    # One subset for each section, so weights do not matter.
    part = [
      np.mean([right[code, i] for i in range(s, 90, 3)]) for s in range(3)
    ]
    totals[code] = np.mean(part)
    found = out["extra"][f"language/{code}"]
    assert found["value"] == pytest.approx(totals[code], abs=1e-15)
    assert found["low"] <= found["value"] <= found["high"]
  want = np.mean([*totals.values()])
  assert out["total"]["value"] == pytest.approx(want, abs=1e-15)
  for code in ("fra_Latn", "tur_Latn"):
    a = np.asarray([right["eng_Latn", i] for i in range(90)])
    b = np.asarray([right[code, i] for i in range(90)])
    seen, p, q = np.mean(a == b), a.mean(), b.mean()
    chance = p * q + (1 - p) * (1 - q)
    kappa = out["extra"][f"kappa/{code}"]["value"]
    assert kappa == pytest.approx((seen - chance) / (1 - chance), abs=1e-12)
    gap = out["extra"][f"gap/{code}"]["value"]
    assert gap == pytest.approx(p - q, abs=1e-12)


def test_padding_and_order_of_items_do_not_matter():
  rng = np.random.default_rng(4)
  scores = rng.integers(0, 3, (30, 4)).astype(float)
  group = np.asarray(["Math", "Focus"])[np.arange(30) % 2]
  base = run(scores, [1] * 30, group, "rewardbench2")
  order = rng.permutation(30)
  wide = np.concatenate([scores, np.full((30, 2), np.nan)], 1)[order]
  valid = np.tile(np.arange(6) < 4, (30, 1))
  other = run(wide, [1] * 30, group[order], "rewardbench2", valid)
  assert other["total"]["value"] == pytest.approx(base["total"]["value"])
  assert other["subsets"]["Math"] == pytest.approx(base["subsets"]["Math"])
