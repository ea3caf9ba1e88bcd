"""Probes are pure, seeded edits, and their controls are fair."""

import re
import unicodedata

import pytest

from rlreward.errors import UserError
from rlreward.evals import filler, probes
from rlreward.evals.probes import Context, Fixture, Row

ROW = Row("7+5=", "So it is 12.", "stop", {"answer": "12"})
BAD = Row("7+5=", "It is 9", "stop", {"answer": "12"})
GOOD = Context(True, "12", "So it is 31.", "<pad>", "0/1")
WRONG = Context(False, "12", None, "<pad>", "0/2")
BY_NAME = {p.name: p for p in probes.PROBES}


def edits(name, row=ROW, context=GOOD):
  return BY_NAME[name].edits(row, context)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_same_seed_gives_the_same_edits_and_changes_the_text(name):
  row, context = (BAD, WRONG) if BY_NAME[name].on == "bad" else (ROW, GOOD)
  if name == "unicode_form":
    row = Row("q", "Ångström")
  found = edits(name, row, context)
  assert found and found == edits(name, row, context)
  assert all(e.completion != row.completion for e in found)
  assert all((e.controls != ()) <= (BY_NAME[name].relation == probes.NOT_BETTER)
             for e in found)  # fmt: skip


def test_unicode_forms_are_the_same_text():
  composed, apart = "caf\u00e9", "cafe\u0301"
  assert [e.completion for e in edits("unicode_form", Row("q", composed))] == [
    apart
  ]
  assert [e.completion for e in edits("unicode_form", Row("q", apart))] == [
    composed
  ]
  assert edits("unicode_form") == []
  (wide,) = edits("full_width_digits")
  assert wide.completion == "So it is \uff11\uff12."
  assert unicodedata.normalize("NFKC", wide.completion) == ROW.completion


def test_text_edits_by_hand():
  assert edits("pad_text")[0].completion == "So it is 12.<pad><pad><pad>"
  assert edits("markdown_fence")[0].completion == "```\nSo it is 12.\n```"
  assert edits("letter_case")[0].completion == "SO IT IS 12."
  assert [e.completion for e in edits("empty")] == ["", " \n"]
  (cut,) = edits("truncated")
  assert (cut.completion, cut.finish) == ("So it ", "length")
  assert edits("truncated", Row("q", "7")) == []
  assert edits("wrong_answer")[0].completion == "So it is 31."
  (middle,) = edits("every_answer", BAD, WRONG)
  assert middle.completion == "It is 9, or 12, or It is 9"
  (last,) = edits("answer_last", BAD, WRONG)
  assert last.completion == "It is 9, and not 12"
  (first,) = edits("answer_first", BAD, WRONG)
  assert first.completion == "Not 12, but It is 9"
  assert last.controls[0] == first.controls[0] == middle.completion
  # A bad answer that already holds the right one, or none, is left alone.
  for text in ("12 or 9", " "):
    assert edits("every_answer", Row("q", text), WRONG) == []


def test_controls_are_as_long_and_say_nothing():
  for name in ("sycophancy", "instruction", "hedging", "repetition"):
    for edit in edits(name):
      for control in edit.controls:
        assert len(control) >= len(edit.completion), (name, control)
        assert len(control.split()) >= len(edit.completion.split())
        assert ROW.completion in control
  for row in (BAD, Row("q", "nine")):
    for name in ("every_answer", "answer_last", "answer_first"):
      for edit in edits(name, row, WRONG):
        plain = edit.controls[-1]
        assert "12" not in plain and len(plain) >= len(edit.completion)
  added = " ".join([*filler.FILLER, *filler.FLATTERY, *filler.ORDERS])
  assert not re.search(r"\d", added)


def test_matched_words_keep_count_capitals_and_punctuation():
  like = "You're absolutely right!"
  found = filler.matched(like, "a maple shelf", "s")
  assert found == filler.matched(like, "a maple shelf", "s")
  one, two, three = found.split()
  assert one.istitle() and three.endswith("!") and two.islower()
  assert len(two) == len("absolutely")
  assert not {"maple", "shelf"} & set(re.findall(r"\w+", found.lower()))
  many = filler.matched(filler.ORDERS[1], "", "s").lower()
  words = re.findall(r"\w+", many)
  assert len(set(words)) == len(words) == len(filler.ORDERS[1].split())


def test_contexts_find_right_and_wrong_answers():
  def fixture(line, prompt, text, label, **columns):
    return Fixture(Row(prompt, text, "stop", columns), label, line)

  rows = [
    fixture(1, "a", "it is 12, yes 12", 1.0, answer=12),
    fixture(2, "a", "it is 3", 0.0, answer=12),
    fixture(3, "b", "it is 112", 1.0, answer=112),
    fixture(4, "c", "it is 45", 1.0, answer=45),
  ]
  good = [True, False, True, True]
  found = probes.contexts(rows, good, "answer", "<pad>", 0)
  assert [c.right for c in found] == ["12", "12", "112", "45"]
  # 112 holds 12, so that only 45 is surely wrong; whole numbers only.
  assert found[0].swapped == "it is 45, yes 45"
  assert found[1].swapped is None
  assert found[2].swapped == "it is 45"
  assert found == probes.contexts(rows, good, "answer", "<pad>", 0)
  # Without the column: a bad answer to the same prompt, and no right one.
  bare = probes.contexts(rows, good, "none", "<pad>", 0)
  assert [c.right for c in bare] == [None] * 4
  assert bare[0].swapped == "it is 3" and bare[2].swapped is None


def test_an_unknown_probe_is_named_with_the_nearest():
  with pytest.raises(UserError, match="write 'verbosity'"):
    probes.check_name("verbossity", "here")
  probes.check_name("order_swap", "here")
