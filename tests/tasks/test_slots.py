"""Slot filling: requests by hand, calls against Python, order-free match."""

import itertools
import math
import pathlib
import re
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlreward.rewards import calls as host
from rlreward.tasks import slots, slots_rows

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import worlds

HARD = {"level": 4}
TOK = slots.make().spec["tokenizer"]


def understood(request):
  """A request read character by character: [(tool, {key: digit})]."""
  out = []
  for part in request[:-1].split(";"):
    letters = [c for c in part if c not in "yz"]
    tool = "ABCDEFGH"["IJKLMNOPQRSTUVWX".index(letters[0]) // 2]
    pairs = {}
    for cue, digit in zip(letters[1::2], letters[2::2], strict=True):
      pairs["abcdefgh"["ijklmnopqrstuvwx".index(cue) // 2]] = int(digit)
    out.append((tool, pairs))
  return out


def test_by_hand():
  assert understood("Ii7l3>") == [("A", {"a": 7, "b": 3})]
  call = slots_rows.Spoken(0, [(0, 7), (1, 3)])
  other = slots_rows.Spoken(2, [(0, 1)])
  assert slots_rows.write([call, other]) == "A(a=7,b=3),C(a=1)"


@pytest.mark.parametrize("level", range(5))
def test_answers_are_what_was_asked_for(level):
  task = slots.make({"level": level})
  for request, answer in worlds.asked(task, worlds.first(task, size=64)):
    found = [(c.name, dict(c.arguments)) for c in host.parse(answer)]
    assert found == understood(request)


def orderings(answer):
  """Every text of the same calls: of their order and of their arguments."""
  each = []
  for call in host.parse(answer):
    pairs = [f"{k}={v}" for k, v in call.arguments.items()]
    each.append([f"{call.name}({','.join(p)})"
                 for p in itertools.permutations(pairs)])  # fmt: skip
  return {",".join(order) for chosen in itertools.product(*each)
          for order in itertools.permutations(chosen)}  # fmt: skip


@pytest.mark.parametrize("level", [1, 4])
def test_all_orders_are_right_and_the_chance_counts_them(level):
  task = slots.make({"level": level})
  c = slots.levels()[level]
  batch = worlds.first(task, size=2)
  for i in range(2):
    every = sorted(orderings(worlds.asked(task, batch)[i][1]))
    assert len(every) == slots.orders(c)
    worth = worlds.values(task, batch, every, [i] * len(every))
    assert worth.min() == 1
  v = task.spec["vocab_size"]
  n = len(task.spec["tokenizer"].encode(every[0])) + 1
  got = task.spec["chance"](batch)[1]
  assert got == pytest.approx(len(every) * v**-n, rel=1e-9)
  want = (
    math.factorial(c["calls"]) * math.factorial(c["arguments"]) ** (c["calls"])
  )
  assert len(every) == want
  assert "outcomes" not in task.spec  # there are several right answers


def test_a_guess_is_one_in_all_calls():
  """Every call of two tools, two keys and ten digits: one of 40 is right."""
  task = slots.make()
  batch = worlds.first(task, size=4)
  every = [f"{t}({k}={v})" for t in "AB" for k in "ab" for v in range(10)]
  worth = worlds.values(
    task, batch, every * 4, np.repeat(np.arange(4), len(every))
  )
  assert (worth.reshape(4, -1).sum(1) == 1).all()
  assert worth.mean() == pytest.approx(task.spec["guess"], rel=1e-6)
  assert slots.guess({**slots.at(1)}) == 1 / (4 * 6 * 100)
  assert slots.guess({**slots.at(4)}) == pytest.approx(
    1 / (28 * (56 * 1000) ** 2)
  )


CALLS = st.lists(
  st.tuples(
    st.sampled_from("ABC"),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3), min_size=1),
  ),
  min_size=1,
  max_size=4,
)
spell = lambda calls: ",".join(
  f"{t}({','.join(f'{k}={v}' for k, v in d.items())})" for t, d in calls
)


def score(said, gold):
  """One text against one gold text, by the compiled verifier."""
  encode = lambda s: [*TOK.encode(s), TOK.eos_ids[0]]
  answer = np.zeros((1, 80), np.int32)
  answer[0, : len(encode(gold))] = encode(gold)
  mask = np.arange(80)[None] < len(encode(gold))
  batch = {
    "prompt": np.zeros((1, 1), np.int32),
    "answer": answer,
    "prompt_mask": np.ones((1, 1), bool),
    "answer_mask": mask,
  }
  ids = (encode(said) + [0] * 80)[:80]
  rows = [[(encode(said), True), (ids[len(encode(said)) :], False)]]
  rollout = worlds.written(slots.make(), batch, rows, np.zeros(1, int))
  return worlds.judge(VERIFIER, rollout, batch)


VERIFIER = slots.verifier(TOK)


@given(said=CALLS, gold=CALLS)
@settings(max_examples=150, deadline=None)
def test_the_match_against_the_host(said, gold):
  """`rewards.calls` reads the same texts as Python and scores on the host."""
  one, two = spell(said), spell(gold)
  found = score(one, two)
  ours, theirs = host.parse(one), host.parse(two)
  assert float(found.components["well_formed"][0]) == 1
  # f32 sums of a few thirds and quarters against float64.
  assert float(found.components["graded"][0]) == pytest.approx(
    host.graded(ours, theirs, 0.0, 1.0), abs=1e-5
  )
  assert bool(found.value[0]) == host.same(ours, theirs)


@given(said=st.text("AaIb1,()=", max_size=20), gold=CALLS)
@settings(max_examples=100, deadline=None)
def test_malformed_texts_are_worth_nothing(said, gold):
  found = score(said, spell(gold))
  pair = r"[a-h]=\d"
  call = rf"[A-H]\({pair}(,{pair})*\)"
  form = re.fullmatch(rf"{call}(,{call})*", said) is not None
  if form:
    keys = [re.findall(r"([a-h])=", c) for c in re.findall(r"\(.*?\)", said)]
    form = all(len(k) == len(set(k)) for k in keys) and len(keys) <= 4
  assert bool(found.components["well_formed"][0]) == form
  assert form or float(found.components["graded"][0]) == 0


TEXTS = {
  "A(a=1,b=2)": (1, 1, 1),
  "A(b=2,a=1)": (1, 1, 1),
  "A(a=1,b=3)": (0, 3 / 4, 1),  # names 1, keys 1, one value, of 4
  "A(a=1)": (0, 2.5 / 4, 1),  # names 1, keys 1/2, one value
  "B(a=1,b=2)": (0, 0, 1),
  "A(a=1,b=2),B(a=1)": (0, 3.5 / 4, 1),  # names 1/2
  "A(a=1,a=1)": (0, 0, 0),
  "A()": (0, 0, 0),
  "A(a=1,b=2),": (0, 0, 0),
  "A(a=1,b=2": (0, 0, 0),
  "A(a=12)": (0, 0, 0),
  "": (0, 0, 0),
  "A(a=1),A(a=1),A(a=1),A(a=1),A(a=1)": (0, 0, 0),  # more than can be read
}


@pytest.mark.parametrize("said", TEXTS)
def test_scores_by_hand(said):
  exact, graded, well = TEXTS[said]
  found = score(said, "A(a=1,b=2)")
  assert float(found.value[0]) == exact
  assert float(found.components["graded"][0]) == pytest.approx(graded, abs=1e-6)
  assert float(found.components["well_formed"][0]) == well


def test_the_graded_reward_and_its_gold():
  task = slots.make({"level": 1, "reward": "graded"})
  batch = worlds.first(task, size=4)
  answer = worlds.asked(task, batch)[0][1]
  half = answer[:5] + ")"  # one of two arguments: (1 + 1/2 + 1) / 4
  got = worlds.values(task, batch, [answer, half], [0, 0])
  np.testing.assert_allclose(got, [1, 2.5 / 4], atol=1e-6)
  gold = worlds.values(task, batch, [answer, half], [0, 0], reward=task.gold)
  assert gold.tolist() == [1, 0]


def test_fillers_and_synonyms():
  task = slots.make({"level": 3})
  seen = "".join(p for p, _ in worlds.asked(task, worlds.first(task, size=200)))
  assert set("yz" + "IJKLMNOPQRSTUVWX" + "ijklmnopqrstuvwx") <= set(seen)
  plain = slots.make({"level": 1})
  seen = "".join(
    p for p, _ in worlds.asked(plain, worlds.first(plain, size=200))
  )
  assert set(seen) == set("IKMO" + "ikmo" + "0123456789" + ">")


def test_the_chance_in_stages_is_that_of_each_level():
  task = slots.make({"stages": "0,4@1"})
  stream = task.batches("train", 2, 0)
  got = [task.spec["chance"](next(stream)) for _ in range(2)]
  v = float(task.spec["vocab_size"])
  # One order of 7 tokens; 2! * 3!^2 orders of 30.
  np.testing.assert_allclose(got[0], [v**-7] * 2, rtol=1e-9)
  np.testing.assert_allclose(got[1], [72 * v**-30] * 2, rtol=1e-9)


def test_garbled_answers_have_each_part_wrong_for_itself():
  """Of 7 parts: tools of 8, keys of 8 (5 of them not there), digits of 10."""
  share = 0.75
  task = slots.make({"level": 3, "noise": 1.0, "garble": share, "fillers": 0})
  batch = next(task.demonstrations("train", 1000, 0))
  right = worlds.asked(task, batch)
  hits = {"tool": 0, "key": 0, "value": 0}
  for row, (_, answer) in enumerate(right):
    ids = batch["tokens"][row][batch["loss"][row]]
    (made,), (gold,) = map(host.parse, (TOK.decode(ids), answer))
    assert len(made.arguments) == 3 and made != gold
    hits["tool"] += made.name == gold.name
    pairs = zip(made.arguments.items(), gold.arguments.items(), strict=True)
    for (key, value), (right_key, right_value) in pairs:
      hits["key"] += key == right_key
      hits["value"] += value == right_value
  # 4 standard errors of 1,000 and of 3,000 draws.
  assert hits["tool"] / 1000 == pytest.approx(1 - share, abs=0.055)
  assert hits["key"] / 3000 == pytest.approx(1 - share, abs=0.032)
  assert hits["value"] / 3000 == pytest.approx(1 - share, abs=0.032)
  with pytest.raises(slots.UserError, match="garble"):
    slots.make({"garble": 2.0})
