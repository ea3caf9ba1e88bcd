"""Logs and answers of real runs: alarms, the reward's formula, the record."""

import json

import numpy as np
import paths
import pytest

from experiments import format_length_real as real


def test_an_alarm_is_the_first_window_that_has_left():
  rng = np.random.default_rng(0)
  flat = rng.normal(size=100)
  assert real.alarm(flat, 1) is None and real.alarm(flat, -1) is None
  jump = flat.copy()
  jump[59:] += 5  # from step 60 on
  assert 60 <= (real.alarm(jump, 1) or 0) <= 64
  assert real.alarm(jump, -1) is None
  assert real.alarm(-jump, -1) == real.alarm(jump, 1)


def test_noise_seldom_raises_an_alarm():
  noise = np.random.default_rng(0).normal(size=(3000, 55))
  found = [real.alarm(x, 1) is not None for x in noise]
  assert 0.003 < np.mean(found) < 0.015


def test_an_accuracy_falls_by_more_than_two_errors():
  # At .70 and .63 of 500 the error of a difference is .0298.
  assert real.fallen([0, 5, 10], [0.6, 0.7, 0.645]) is None
  assert real.fallen([0, 5, 10], [0.6, 0.7, 0.63]) == 10


def test_the_rest_is_what_length_does_not_pay():
  row = {name: 0.0 for name in real._COLUMNS.values()}
  row |= {"step": 1, "critic/score/mean": 1.0,
          "response_length/mean": 1536.0}  # fmt: skip
  found = real.log([{"step": 0, "val/test_score/MATH500": 0.5}, row])
  assert found["rest"] == [0.5] and found["step"] == [1]
  assert found["at"] == [0] and found["math500"] == [0.5]


def test_the_formula_of_a_reward_in_its_least_and_largest():
  run = {"lowest": [0.005, 0.5, 0.001], "shortest": [14.0, 14.0, 300.0],
         "highest": [1.8, 2.0, 1.9]}  # fmt: skip
  found = real.told(run)
  assert found == {"steps": 3, "lowest_is_shortest": 1, "lowest_is_below": 1,
                   "highest": 2.0}  # fmt: skip


@pytest.mark.parametrize(
  ("text", "count"),
  [
    ("", 0),
    ("Let x be 12.", 7),  # Let, x, be, a space, 1, 2 and the point
    ("\\boxed{7}", 4),  # \boxed, {, 7, }
    ("a\n\nb", 3),
    ("x_1", 3),
  ],
)
def test_pieces_are_words_digits_and_marks(text, count):
  assert real.pieces(text) == count


def answer(text, gold="7", score=1.0):
  return {"response": text, "ground_truth": gold, "score": score}


def test_answers_are_paid_as_in_the_paper():
  half = "word " * (real.BUDGET // 2 - 4)
  found = real.judged([answer(f"{half}\\boxed{{7}}"), answer("none", "7", 0)])
  assert found["recorded"] == found["ours"] == 0.5 and not found["disagree"]
  assert found["readable"] == 0.5
  assert found["format_only"] == 0.25 and found["correctness"] == 0.5
  # (1/2 + 1) for the first one, to the rounding of a length; 0 for the other.
  assert found["format_length"] == pytest.approx(0.75, abs=0.001)
  assert found["with_length"] == pytest.approx(0.5 + 0.25, abs=0.002)


def record():
  text = (paths.REPO / "results" / "format_length_real.json").read_text()
  return json.loads(text)


def test_the_page_is_made_from_the_record():
  page = (paths.REPO / "results" / "format_length_real.md").read_text()
  assert page == real.table(record())


def test_what_the_record_says():
  found = record()
  hacked = found["verdicts"]["collapse"]
  for name in ("length", "truncated"):
    assert hacked["alarms"][name] < hacked["fallen"]
    for run in ("format_deepscaler", "format_math"):
      assert found["verdicts"][run]["alarms"][name] is None
  assert hacked["alarms"]["reward"] is None
  assert hacked["formula"]["lowest_is_below"] == 0
  assert sum(a["disagree"] for a in found["answers"]) == 0
  rows = {(a["run"], a["step"]): a for a in real.joined(found["answers"])}
  first, last = rows["collapse", 25], rows["collapse", 55]
  assert last["ours"] < first["ours"] - 0.1
  assert last["with_length"] > first["with_length"]
  assert last["format_length"] < first["format_length"] - 0.5


def test_without_data_it_says_what_is_missing(monkeypatch, tmp_path):
  monkeypatch.setenv("RLREWARD_DATA", str(tmp_path))
  with pytest.raises(real.errors.UserError, match=real.DATA):
    real.folder()


def test_the_record_is_what_the_logs_give():
  pytest.importorskip("math_verify")
  data, found = paths.shared_data(real.DATA), record()
  for name in real.RUNS:
    run = real.log(real.lines(data / f"training_log_{name}.jsonl.gz"))
    own = {k: real.alarm(run[k], way) for k, way in real.SIGNALS.items()}
    assert own == found["verdicts"][name]["alarms"]
    fallen = real.fallen(run["at"], run["math500"])
    assert fallen == found["verdicts"][name]["fallen"]
  rows = real.lines(data / "collapse_step55_AIME2024.jsonl.gz")
  known = next(a for a in found["answers"]
               if (a["run"], a["step"], a["set"])
               == ("collapse", 55, "AIME2024"))  # fmt: skip
  for key, value in real.judged(rows).items():
    assert known[key] == pytest.approx(value, abs=1e-6)
