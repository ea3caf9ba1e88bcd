"""Answers found by their mark, and compared by their form."""

import gzip
import json
import time

import hypothesis
import paths
import pytest
from hypothesis import strategies as st

from rlreward.errors import UserError
from rlreward.rewards import answers, equality, exact_values, forms, grade


@pytest.mark.parametrize(
  ("text", "want"),
  [
    ("so \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
    ("\\boxed{3} then \\boxed{", "3"),
    ("\\boxed{1} and \\boxed{2}", "2"),
    ("\\boxed {\\{1, 2\\}}", "\\{1, 2\\}"),
    ("\\boxed 5.", "5"),
    ("\\fbox{\\boxed{9}}", "9"),
    ("\\boxed{}", None),
    ("\\boxedness{4}", None),
    ("work\n#### 1,234", "1,234"),
    ("no mark: 5", None),
    ("The answer is 3.5.", "3.5"),
    ("The answer is 12. I hope it helps.", "12"),
    ("the answer is B. 42", "B. 42"),
    ("The answer is $x=2$.", "x=2"),
    ("**Answer:** 42", "42"),
    ("Answer:\n42", "42"),
    ("thus the final answer is: **(B)**", "(B)"),
    ("the answer is 1. No, the answer is 2.", "2"),
    ("thinking\n(C)", "C"),
    ("thinking\nOption D", "D"),
    ("<answer> 7 </answer>", "7"),
    ("<answer>it is \\boxed{4}</answer>", "4"),
    ("<think>\\boxed{4}</think> hm", None),
    ("<think>\\boxed{4}", None),
    ("\\boxed{3}</think>\\boxed{4}", "4"),
    ("", None),
    ("\\boxed{" + "1" * 5000 + "}", None),
  ],
)
def test_the_marked_answer(text, want):
  assert answers.extract_answer(text) == want


def test_the_last_number_only_where_it_is_asked_for():
  text = "first 3, then 1,250.5 in all"
  assert answers.extract_answer(text) is None
  assert answers.extract_answer(text, last_number=True) == "1,250.5"
  assert answers.extract_answer("no digits", last_number=True) is None
  marked = "\\boxed{3} and then 4"
  assert answers.extract_answer(marked, last_number=True) == "3"


def test_marks_in_their_order():
  text = "#### 1\n\\boxed{2}"
  assert answers.extract_answer(text) == "2"
  assert answers.extract_answer(text, ("hash", "boxed")) == "1"
  with pytest.raises(UserError, match="bxed"):
    answers.extract_answer(text, ("bxed",))


EQUAL = [
  ("5", "5.0"), ("1,234", "1234"), ("1{,}234", "1234"), ("12\\,345", "12345"),
  ("\\frac{1}{2}", "0.5"), ("\u00bd", "0.5"), ("2\\frac{1}{2}", "2.5"),
  ("2\\frac12", "2.5"), ("50\\%", "50"), ("50%", "0.5"), ("50", "50%"),
  ("500 cm", "5 m"), ("5 cm", "5"), ("\\$5", "5 dollars"),
  ("5 m/s", "5 meters per second"), ("5 million", "5000000"),
  ("90^\\circ", "90"), ("\\sin 30^\\circ", "1/2"), ("2\\sqrt{3}", "\\sqrt{12}"),
  ("e^{i\\pi}", "-1"), ("(x+1)^2", "x^2+2x+1"), ("\\log_2 8", "3"),
  ("5!", "120"), ("\\binom{5}{2}", "10"), ("2^{100}", str(2**100)),
  ("4.5e33", "4.5 \\times 10^{33}"), ("\\{1,2\\}", "\\{2,1\\}"),
  ("1, 2", "2, 1"), ("1 \\text{ and } 2", "1,2"), ("\\{1,1,2\\}", "\\{1,2\\}"),
  ("[1,2)", "1 \\le x < 2"), ("x \\in [1,2]", "[1,2]"),
  ("(-\\infty,1)\\cup(2,3]", "(2,3]\\cup(-\\infty,1)"),
  ("\\{x | -2\\leq x < 1\\}", "[-2,1)"), ("x=5", "5"), ("(x,y)=(3,4)", "(3,4)"),
  ("x^2+y^2=1", "2x^2+2y^2=2"), ("3\\pm\\sqrt2", "3+\\sqrt2, 3-\\sqrt2"),
  ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
   "\\begin{bmatrix}1 & 2\\\\ 3&\\frac82\\end{bmatrix}"),
  ("True", "true"), ("no solution", "\\text{No solution.}"), ("(B)", "B"),
  ("B. 42", "(B)"), ("\uff14\uff12", "42"), ("\u22125", "-5"),
]  # fmt: skip
UNEQUAL = [
  ("5", "6"), ("-5", "5"), ("5 kg", "5 m"), ("0.333", "1/3"),
  ("1.4142135", "\\sqrt{2}"), ("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"),
  ("1,2,3", "1,2"), ("\\{1\\}", "\\{1,2\\}"), ("5 or 6", "5"), ("3x", "3"),
  ("x", "y"), ("y=5", "x=5"), ("-\\infty", "\\infty"), ("Yes", "No"),
  ("C", "B"), ("12/24/1937", "24/48/1937"), ("x^2+2x", "x^2+2x+1"),
  ("\\begin{pmatrix}1&2\\end{pmatrix}",
   "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
  ("5\\text{ cm}^2", "5 cm"), ("(B) or (C)", "B"), ("18 million", "18"),
  ("2^{1000000}", "5"), ("1 2", "12"), ("2 1/2", "21/2"),
  ("5 is not the answer", "5"), ("5 more than 3", "5"),
  ("x=5 \\text{ is wrong}", "5"), ("3.14159", "\\pi"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal_answers(a, b):
  assert grade.decide(a, b) is True
  if b not in ("B", "(B)"):
    assert grade.decide(b, a) is True


@pytest.mark.parametrize(("a", "b"), UNEQUAL)
def test_unequal_answers(a, b):
  assert not grade.decide(a, b) and not grade.decide(b, a)


@pytest.mark.parametrize(
  ("a", "b"),
  [("|x|", "x"), ("\\sqrt{x^2}", "x"), ("\\int_0^1 x dx", "\\frac13"),
   ("\\mathbb{R}", "\\{x|x\\ne 2\\}"), ("\\frac{1}{0}", "5")],
)  # fmt: skip
def test_what_is_not_settled_is_not_called_unequal(a, b):
  assert grade.decide(a, b) is None


def test_a_percent_sign_is_left_out_only_where_the_question_has_it():
  assert grade.decide("0.5", "0.5%") is True  # the gold names the unit
  assert grade.decide("0.5%", "0.5") is False  # 0.005
  assert grade.decide("50%", "50") is True  # no share is above 1
  assert grade.decide("50", "0.5") is False


def test_tolerance_is_relative_and_for_numbers_only():
  assert grade.decide("1.59", "1.6", 0.01) is True
  assert grade.decide("1.5", "1.6", 0.01) is False
  assert grade.decide("3.14", "\\pi", 0.01) is True
  assert grade.decide("x", "y", 0.5) is False


def test_value_and_status():
  assert grade.grade("\\boxed{5}", "5") == (1.0, "ok")
  assert grade.grade("\\boxed{6}", 5) == (0.0, "wrong")
  assert grade.grade("I do not know", "5") == (0.0, "wrong")
  assert grade.grade("5", "5") == (0.0, "wrong")  # a bare number is no answer
  assert grade.grade("5", "5", whole=True) == (1.0, "ok")
  assert grade.same("5", "5") == (1.0, "ok")
  assert grade.grade("#### 18", "He has 9 * 2 = 18\n#### 18") == (1.0, "ok")
  for gold in (None, "", float("nan"), "\\boxed{}", []):
    assert grade.grade("\\boxed{5}", gold) == (None, "error")
  assert grade.grade("\\boxed{5}", ["4", "5"]) == (1.0, "ok")
  assert grade.grade("\\boxed{6}", ["4", "5"]) == (0.0, "wrong")


def test_without_the_extra_the_unknown_is_left_out(monkeypatch):
  monkeypatch.setattr(grade, "has_math_verify", lambda: False)
  unread = "\\int_0^1 x\\,dx"
  # A gold that is not read cannot make an answer wrong.
  assert grade.grade("\\boxed{7}", unread) == (None, "abstain")
  assert grade.grade(f"\\boxed{{{unread}}}", unread) == (1.0, "ok")
  # An answer that is not read is wrong where the gold is a plain number.
  assert grade.grade(f"\\boxed{{{unread}}}", "7") == (0.0, "wrong")
  with pytest.raises(UserError, match="math_verify"):
    grade.grade("\\boxed{7}", "7", engine="math_verify")


def test_math_verify_in_killed_workers():
  pytest.importorskip("math_verify")
  texts = ["\\boxed{\\int_0^1 x\\,dx}", "\\boxed{\\frac{1}{3}}", "nothing"]
  golds = ["\\frac12", "0.5", "0.5"]
  assert grade.grade_all(texts, golds) == [
    (1.0, "ok"), (0.0, "wrong"), (0.0, "wrong")
  ]  # fmt: skip
  # A tower of powers keeps sympy busy for longer than anyone waits.
  tower = "9^{9^{9^{9}}}"
  start = time.monotonic()
  found = grade.same(tower, "7", engine="math_verify", timeout=1.0, workers=1)
  assert found[1] in ("timeout", "error", "wrong", "abstain")
  assert (found[0] is None) == (found[1] != "wrong")
  assert time.monotonic() - start < 60


def test_bad_options():
  with pytest.raises(UserError, match="engine"):
    grade.grade("a", "b", engine="sympy")
  with pytest.raises(UserError, match="tolerance"):
    grade.grade("a", "b", tolerance=2)
  with pytest.raises(UserError, match="2 texts"):
    grade.grade_all(["a", "b"], ["c"])


@hypothesis.given(st.integers(-(10**9), 10**9), st.integers(1, 999))
def test_every_way_to_write_a_fraction_is_the_same(n, d):
  ways = [f"{n}/{d}", f"\\frac{{{n}}}{{{d}}}", f"\\dfrac{{{2 * n}}}{{{2 * d}}}",
          f"{n:,}/{d}" if abs(n) > 999 else f"{n}/{d}"]  # fmt: skip
  for way in ways:
    assert grade.decide(way, ways[0]) is True
    assert not grade.decide(way, f"{n + 1}/{d}")


HOSTILE = st.text(
  st.sampled_from("\\{}[]()^_$%&|!,.;:+-*/=<> \n0159exyπ½√∞²fracsqrtbox"),
  max_size=120,
)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(HOSTILE, HOSTILE)
def test_hostile_text_never_raises_and_equality_is_reflexive(a, b):
  answers.extract_answer(a, last_number=True)
  assert equality.same(a, b) in (True, False, None)
  if forms.squeezed(a):
    assert equality.same(a, a) is True
  form = forms.read(a)
  if form.kind == "number":
    node = form.items[0]
    assert exact_values.same(node, node) is not False
  value, status = grade.grade(a, b, engine="strict")
  assert (value is None) == (status not in ("ok", "wrong"))


@pytest.mark.parametrize(
  "text",
  ["(" * 3000, "\\boxed{" * 30000, "1+" * 3000 + "1", "!" * 3000, "-" * 3999,
   "9" * 4000, "{" * 100_000, "1," * 1999, "\\frac" * 700, "x^" * 1500,
   "\\text{" * 600, "a " * 1900, "$" * 100_000, "#### " * 20_000],
)  # fmt: skip
def test_long_repetitions_cost_little(text):
  start = time.process_time()
  answers.extract_answer(text)
  grade.same(text, "42", engine="strict")
  grade.same("42", text, engine="strict")
  assert time.process_time() - start < 3


def lines(name):
  path = paths.shared_data(name.split("/")[0]).parent / name
  with gzip.open(path, "rt", encoding="utf-8") as file:
    return [json.loads(line) for line in file]


def test_recorded_scores_of_real_rollouts():
  folder = paths.shared_data("rl_rollouts_graded")
  files = sorted(p.name for p in folder.glob("*20*.jsonl.gz"))
  assert len(files) == 12
  for file in files:
    rows = lines(f"rl_rollouts_graded/{file}")
    texts = [r["response"] for r in rows]
    golds = [r["ground_truth"] for r in rows]
    found = grade.grade_all(texts, golds, engine="strict")
    assert [v for v, _ in found] == [float(r["score"]) for r in rows]


def test_published_accuracies_of_recorded_outputs():
  published = json.loads(
    (paths.shared_data("bbh_codex") / "expected_accuracy.json").read_text()
  )["accuracy"]
  for name, accuracy in published.items():
    rows = lines(f"bbh_codex/{name}.jsonl.gz")
    found = grade.grade_all(
      [r["prediction"] for r in rows], [r["target"] for r in rows],
      engine="strict", whole=True,
    )  # fmt: skip
    ours = 100 * sum(v for v, _ in found) / len(rows)
    assert ours == pytest.approx(accuracy, abs=1e-9)


def test_gold_solutions_are_right_and_perturbed_ones_wrong():
  rows = lines("gsm8k/train_first2000.jsonl.gz")[:500]
  golds = [r["answer"] for r in rows]
  assert set(grade.grade_all(golds, golds)) == {(1.0, "ok")}
  own = [int(answers.extract_answer(g).replace(",", "")) for g in golds]
  changes = (lambda n: n + 1, lambda n: 10 * n + 1, lambda n: f"{n}.5",
             lambda n: f"{n}, {n + 1}", lambda n: f"1/{n + 2}")  # fmt: skip
  for change in changes:
    wrong = [f"#### {change(n)}" for n in own]
    assert set(grade.grade_all(wrong, golds, engine="strict")) == {
      (0.0, "wrong")
    }
  bare = [f"It comes to {n}" for n in own]
  assert set(grade.grade_all(bare, golds)) == {(0.0, "wrong")}


@pytest.mark.parametrize(
  ("name", "unread"),
  [("aime24", 0), ("amc23", 0), ("svamp", 0), ("minerva_math", 10),
   ("gaokao2023en", 4), ("olympiadbench_first150", 3)],
)  # fmt: skip
def test_gold_against_gold(name, unread):
  golds = []
  for row in lines(f"math_eval_sets/{name}.jsonl.gz"):
    keys = ("final_answer", "answer", "Answer")
    found = [row[k] for k in keys if k in row]
    found = found[0] if found else row["solution"]
    golds += found if isinstance(found, list) else [found]
  own = [grade.gold_answers(g) for g in golds]
  empty = sum(not o for o in own)
  assert empty == 0 or name == "gaokao2023en"  # two golds of it are empty
  boxed = [f"\\boxed{{{o[0]}}}" for o in own if o]
  kept = [g for g, o in zip(golds, own, strict=True) if o]
  found = grade.grade_all(boxed, kept, engine="strict")
  assert set(found) == {(1.0, "ok")}
  # Most golds are read as what they are, not only compared as text.
  assert sum(not forms.understood(o[0]) for o in own if o) <= unread
