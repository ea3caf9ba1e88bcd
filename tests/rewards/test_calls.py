"""Tool calls: reading, and matching by hand, on arrays and on real gold."""

import gzip
import itertools
import json
import random

import hypothesis
import jax
import numpy as np
import paths
import pytest
from hypothesis import strategies as st

from rlreward.errors import UserError
from rlreward.ops import calls as device
from rlreward.rewards import call_arrays, calls, toolrl

C = calls.Call
ONE = '{"name": "f", "parameters": {"x": 1}}'


def block(*lines):
  return "<tool_call>\n" + "\n".join(lines) + "\n</tool_call>"


@pytest.mark.parametrize(
  "text",
  [block(ONE), block(ONE.replace("parameters", "arguments")), ONE, f"[{ONE}]",
   "f(x=1)", "[f(x=1)]", block('{"function": {"name": "f", "arguments": '
   '"{\\"x\\": 1}"}}'), f"<think>{block('no')}</think>{block(ONE)}"],
)  # fmt: skip
def test_every_form_of_a_call(text):
  assert calls.parse(text) == [C("f", {"x": 1})]


@pytest.mark.parametrize(
  "text",
  [block(""), block("no"), block(ONE)[:-5], block('{"name": "f", "x": 1}', "x"),
   block('{"name": "", "parameters": {}}'), block('{"parameters": {}}'),
   block('{"name": "f", "parameters": [1]}'), "f(1)", "f(x=g(1))", "f(**{})",
   block('{"name": "f", "parameters": {"x": NaN}}'), "[1, 2]", "[f(x=1), 2]",
   block('{"name": "f", "parameters": {"x": 1, "x": 2}}'), "f(x=1, x=2)",
   "</tool_call>" + ONE + "<tool_call>", block(*[ONE] * 40),
   "[" * 4000 + "]" * 4000, "f(x=" + "-" * 20_000 + "1)", "x" * 60_000],
)  # fmt: skip
def test_what_is_no_call(text):
  with pytest.raises(calls.BadCallError):
    calls.parse(text)


def test_prose_has_no_calls_and_numbers_know_their_kind():
  assert calls.parse("Hello, f of x is 1.") == []
  assert calls.parse('{"name": "f"}') == [C("f", {})]
  assert calls.same([C("f", {"x": 1})], [C("f", {"x": 1.0})])
  assert not calls.same([C("f", {"x": 1})], [C("f", {"x": True})])
  assert not calls.same([C("f", {"x": "1"})], [C("f", {"x": 1})])
  assert calls.same([C("f", {}), C("g", {})], [C("g", {}), C("f", {})])
  assert not calls.same([C("f", {})] * 2, [C("f", {})])


GOLD = [C("f", {"a": 1, "b": 2})]


@pytest.mark.parametrize(
  ("made", "gold", "share"),
  [
    # S / S_max by hand: S_max = 1 + (1 + 2) for one call of two arguments.
    (GOLD, GOLD, 1.0),
    ([], [], 1.0),
    ([], GOLD, 0.0),
    (GOLD, [], 0.0),
    ([C("g", {"a": 1, "b": 2})], GOLD, 0.0),
    ([C("f", {"a": 2, "b": 1})], GOLD, (1 + 1 + 0) / 4),
    ([C("f", {"a": 1, "b": 9})], GOLD, (1 + 1 + 1) / 4),
    ([C("f", {"a": 1})], GOLD, (1 + 1 / 2 + 1) / 4),
    ([C("f", {"a": 1, "b": 2, "c": 3})], GOLD, (1 + 2 / 3 + 2) / 4),
    ([*GOLD, C("g", {})], GOLD, (1 / 2 + 1 + 2) / 4),
    ([*GOLD, *GOLD], GOLD, (1 / 2 + 1 + 2) / 4),
    (GOLD, [*GOLD, *GOLD], (1 / 2 + 1 + 2) / 7),
    ([C("f", {})], [C("f", {})], 1.0),
    ([C("f", {"a": 1})], [C("f", {})], (1 + 0 + 0) / 2),
  ],
)
def test_graded_by_hand_on_the_host_and_on_arrays(made, gold, share):
  want = -3 + 6 * share
  assert calls.graded(made, gold) == pytest.approx(want)
  found = device.graded(*call_arrays.encode([made], [gold]))
  if gold or not made:
    assert float(found[0]) == pytest.approx(want, abs=1e-5)


def test_greedy_is_the_paper_and_the_best_assignment_an_option():
  # In gold order the first takes the call that the second needs.
  gold = [C("f", {"a": 1}), C("f", {"a": 1, "b": 2})]
  made = [C("f", {"a": 1, "b": 2}), C("f", {"a": 9, "b": 2})]
  greedy = calls.graded(made, gold)
  best = calls.graded(made, gold, optimal=True)
  # Greedy: (1/2 + 1) + (1 + 1); best: (1/2 + 0) + (1 + 2) of S_max = 1 + 2 + 3.
  assert greedy == pytest.approx(-3 + 6 * (1 + 1.5 + 2) / 6)
  assert best == pytest.approx(-3 + 6 * (1 + 0.5 + 3) / 6)


def draw(rng):
  return [
    C(rng.choice("fg"), {k: rng.choice([1, 2])
                         for k in rng.sample("abc", rng.randint(0, 3))})
    for _ in range(rng.randint(0, 4))
  ]  # fmt: skip


def test_arrays_and_lists_give_the_same_rewards():
  rng = random.Random(0)
  made, gold = ([draw(rng) for _ in range(300)] for _ in "ab")
  arrays = call_arrays.encode(made, gold, most_calls=4, most_arguments=3)
  found = jax.jit(device.graded)(*arrays)
  want = [calls.graded(m, g) for m, g in zip(made, gold, strict=True)]
  np.testing.assert_allclose(found, want, atol=1e-5)
  best = [
    calls.graded(m, g, optimal=True) for m, g in zip(made, gold, strict=True)
  ]
  assert all(b >= w - 1e-9 for b, w in zip(best, want, strict=True))
  for m, g, b in list(zip(made, gold, best, strict=True))[:80]:
    table = [[calls.pair_score(c, h) if c.name == h.name else 0.0 for c in m]
             for h in g]  # fmt: skip
    width = max(len(m), len(g))
    table = [row + [0.0] * (width - len(row)) for row in table]
    brute = max(
      sum(table[i][j] for i, j in enumerate(order[: len(g)]))
      for order in itertools.permutations(range(width))
    )
    assert calls._best(table) == pytest.approx(brute)
    assert b <= 3 + 1e-9


def test_more_calls_than_the_arrays_hold():
  with pytest.raises(UserError, match="row 1"):
    call_arrays.encode([[], GOLD * 3], most_calls=2)


def test_tools_of_toolrl():
  think = "<think>t</think>\n"
  gold = think + block(ONE)
  assert toolrl.format_score(gold, gold) == 1
  assert toolrl.correctness(gold, gold) == 3
  both = gold + "\n<response>r</response>"
  assert toolrl.format_score(both, gold) == 0  # a field that gold has not
  assert toolrl.format_score(both, both) == 1
  assert toolrl.correctness(think, gold) == -3
  assert toolrl.correctness(think + block("no"), gold) == -3
  answer = think + "<response>r</response>"
  assert toolrl.correctness(gold, answer) == 0
  assert toolrl.format_score(answer, answer) == 1


def lines(name):
  path = paths.shared_data(name.split("/")[0]).parent / name
  with gzip.open(path, "rt", encoding="utf-8") as file:
    return [json.loads(line) for line in file]


def first(value):
  """The first accepted value, inside objects too."""
  if isinstance(value, dict):
    return {k: first(v[0]) for k, v in value.items() if v[0] != ""}
  return [first(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kind", ["simple_python", "multiple", "parallel"])
def test_accepted_answers_of_bfcl(kind):
  rows = lines(f"bfcl/{kind}_answers.jsonl.gz")
  for row in rows:
    gold = row["ground_truth"]
    made = [
      C(name, {k: first(v[0]) for k, v in values.items() if v[0] != ""})
      for g in gold for name, values in g.items()
    ]  # fmt: skip
    assert calls.accepted(made[::-1], gold), row["id"]
    assert not calls.accepted(made[1:], gold)
    name, given = made[0]
    assert not calls.accepted([C(name + "x", given), *made[1:]], gold)
    more = C(name, {**given, "no_such": 1})
    assert not calls.accepted([more, *made[1:]], gold)


def test_supervised_targets_of_toolrl_earn_everything():
  rows = [r["output"] for r in lines("toolrl/rlla_sft_first200.jsonl.gz")]
  match = [toolrl.correctness(g, g) for g in rows]
  assert match == [3.0 if "<tool_call>" in g.split("</think>")[-1] else 0.0
                   for g in rows]  # fmt: skip
  form = [toolrl.format_score(g, g) for g in rows]
  # Six of the authors' own targets speak of a tag in the thought, or break the
  # line otherwise; the paper's rule refuses them too.
  assert sum(form) == 194


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(
  st.text(st.sampled_from('{}[]()":,=<>/ \nnamefx1\\"tool_call'), max_size=80)
)
def test_hostile_text_is_a_list_of_calls_or_refused(text):
  for form in (text, block(text), f'{{"name": "f", "arguments": {text}}}'):
    try:
      found = calls.parse(form)
    except calls.BadCallError:
      continue
    assert calls.same(found, found)
    assert calls.graded(found, found) == 3
