"""The experiment on real texts: halves, cuts, mixtures, what is reported."""

import json

import numpy as np
import paths
import pytest

from experiments import remodetect_real as real
from rlreward.evals import calibration


class Letters:
  """A tokenizer of characters."""

  def encode(self, text, bos=False):
    return [*([0] if bos else []), *map(ord, text)]


def test_texts_are_cut_to_whole_words():
  tok = Letters()
  assert real.cut(tok, "one two  three", 7) == "one two"  # type: ignore[arg-type]
  assert real.cut(tok, "one two", 6) == "one"  # type: ignore[arg-type]
  assert real.cut(tok, "one", 2) == ""  # type: ignore[arg-type]


def test_a_mixed_text_is_half_of_each():
  assert real.mixed("a b c d", "w x y z") == "a b y z"


def test_no_pair_is_on_both_sides():
  train, held = real.halves(150, 0)
  assert len(train) == len(held) == 75
  assert not set(train) & set(held) and set(train) | set(held) == set(
    range(150)
  )
  assert not np.array_equal(train, real.halves(150, 1)[0])


def test_the_reply_of_a_dialogue():
  text = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d e"
  assert real.reply(text) == "d e"


def rows(shift):
  rng = np.random.default_rng(0)
  side = lambda n, s: [(rng.normal(size=n) + s).tolist(),
                       rng.normal(size=n).tolist()]  # fmt: skip
  one = lambda: {"xsum": side(60, shift), "pubmed": side(40, shift)}
  return [{"scores": {"x": one()}} for _ in range(2)]


def test_figures_are_means_over_seeds_with_intervals_around_them():
  made = rows(1.0)
  found = real.judged(made, "x", ["xsum"])
  each = [calibration.auroc(*r["scores"]["x"]["xsum"]) for r in made]
  mean, low, high = found["auroc"]
  assert mean == pytest.approx(np.mean(each))
  assert low < mean < high and 0.05 < high - low < 0.3
  none = real.judged(rows(0.0), "x", ["xsum", "pubmed"])["auroc"]
  assert none[1] < 0.5 < none[2]


def test_the_record_is_complete_and_its_page_is_made_from_it():
  folder = paths.REPO / "results"
  result = json.loads((folder / "remodetect_real.json").read_text())
  assert len(result["seeds"]) == len(result["accuracy"]) >= 1
  for found in result["summary"].values():
    for name in (*real.SETS, "both"):
      for mean, low, high in found[name].values():
        assert 0 <= low <= high <= 1 and 0 <= mean <= 1
  page = (folder / "remodetect_real.md").read_text()
  assert page == real.table(result)


def test_without_data_it_says_what_is_missing(monkeypatch, tmp_path):
  monkeypatch.setenv("RLREWARD_DATA", str(tmp_path))
  with pytest.raises(real.errors.UserError, match="hh_rlhf"):
    real.folder_of("hh_rlhf")
