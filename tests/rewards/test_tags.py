"""Formats: the automaton against regular expressions, text against ids."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.errors import UserError
from rlreward.ops import patterns
from rlreward.rewards import tags

# Letters of the oracle: A a = <a> </a>, B b = <b> </b>, x text, _ blank.
WORDS = {"A": "<a>", "a": "</a>", "B": "<b>", "b": "</b>", "x": "x", "_": " "}
BODY = "[_x]*x[_x]*"
CASES = {
  "a b": f"_*A{BODY}a_*B{BODY}b_*",
  "a b?": f"_*A{BODY}a_*(B{BODY}b_*)?",
  "a? b?": f"_*(A{BODY}a_*)?(B{BODY}b_*)?",
  "a b*": f"_*A{BODY}a_*(B{BODY}b_*)*",
  "a* b": f"_*(A{BODY}a_*)*B{BODY}b_*",
  "a(b)": f"_*A[_x]*B{BODY}b[_x]*a_*",
  "a(b?)": f"_*A[_x]*(B{BODY}b[_x]*)?a_*",
  "a(b*)": f"_*A[_x]*(B{BODY}b[_x]*)*a_*",
}


@pytest.mark.parametrize("spec", CASES)
def test_every_short_text_against_a_regular_expression(spec):
  form, rule = tags.compile(spec), re.compile(CASES[spec])
  for size in range(7):
    for letters in itertools.product("AaBbx_", repeat=size):
      text = "".join(WORDS[c] for c in letters)
      want = rule.fullmatch("".join(letters)) is not None
      assert form.accepts(text) == want, text


@pytest.mark.parametrize("spec", ["a b", "a? b*", "a(b?)"])
def test_ids_and_text_agree(spec):
  form = tags.compile(spec)
  # Tags of two ids, the second shared; one has another way to be written.
  ids = {"<a>": [10, 1], "</a>": [11, 1], "<b>": [12, 1], "</b>": [13, 1]}
  ways = {t: [ids[t]] for t in form.tags}
  ways["</b>"] = [[13, 1], [14]]
  check = jax.jit(form.device(ways, spaces=[2]))
  rng = np.random.default_rng(0)
  texts, rows = [], []
  for _ in range(600):
    letters = rng.choice(list("AaBbx_"), rng.integers(0, 9))
    if rng.random() < 0.5:
      letters = list("AxaBxb")
      letters.insert(rng.integers(0, 7), rng.choice(list("x_AaBb")))
    texts.append("".join(WORDS[c] for c in letters))
    row = []
    for c in letters:
      word = WORDS[c]
      row += {"x": [5], " ": [2]}.get(word) or ids.get(word, [])
    rows.append(row)
  width = max(map(len, rows)) + 3
  tokens, mask = np.full((600, width), 13), np.zeros((600, width), bool)
  for i, row in enumerate(rows):
    tokens[i, 2 : 2 + len(row)], mask[i, 2 : 2 + len(row)] = row, True
  found = check(jnp.asarray(tokens), jnp.asarray(mask))
  want = [float(form.accepts(t)) for t in texts]
  assert 0 < sum(want) < 600
  np.testing.assert_array_equal(found, want)
  other = jnp.where(mask, jnp.asarray(np.where(tokens == 13, 13, tokens)), 0)
  np.testing.assert_array_equal(check(other, jnp.asarray(mask)), want)


def test_another_way_to_write_a_tag():
  form = tags.compile("a")
  check = form.device({"<a>": [[10]], "</a>": [[11], [12, 13]]})
  ids = jnp.asarray([[10, 5, 11, 0], [10, 5, 12, 13], [10, 5, 12, 5]])
  mask = jnp.asarray([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]], bool)
  np.testing.assert_array_equal(check(ids, mask), [1, 1, 0])


def test_a_tag_that_the_template_wrote_ahead():
  form = tags.compile("think answer")
  rest = "a</think><answer>b</answer>"
  assert not form.accepts(rest) and form.accepts(rest, prefilled=True)
  assert not form.accepts("<think>" + rest, prefilled=True)
  ways = {t: [[10 + k]] for k, t in enumerate(form.tags)}
  ids = jnp.asarray([[5, 11, 12, 6, 13]])
  mask = jnp.ones_like(ids, bool)
  assert float(form.device(ways)(ids, mask)[0]) == 0
  assert float(form.device(ways, prefilled=True)(ids, mask)[0]) == 1


def test_partial_credit_of_tags():
  form = tags.compile("think answer")
  text = "<think>a</think><answer>b</answer><answer>"
  assert form.share(text) == 0.75 and form.share("") == 0
  ways = [[[10 + k]] for k in range(4)]
  ids = jnp.asarray([[10, 5, 11, 12, 6, 13, 12]])
  symbol, free = patterns.symbols(ids, jnp.ones_like(ids, bool), ways)
  assert float(patterns.tag_share(symbol, free, range(4))[0]) == 0.75


def test_empty_blocks_only_where_they_are_allowed():
  text = "<think> </think>"
  assert not tags.compile("think").accepts(text)
  assert tags.compile("think", empty=True).accepts(text)


@pytest.mark.parametrize(
  "spec", ["", "a a", "a(b a)", "a)", "(a)", "a(b", "a+", "a | b"]
)
def test_formats_that_cannot_be(spec):
  with pytest.raises(UserError):
    tags.compile(spec)


def test_ids_of_every_tag_are_needed():
  with pytest.raises(UserError, match="</think>"):
    tags.compile("think").device({"<think>": [[1]]})
