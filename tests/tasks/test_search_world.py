"""Toy search: facts, the rule of observations, turns and the last answer."""

import itertools
import pathlib
import sys

import jax
import numpy as np
import pytest

from rlreward.tasks import search_world

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import worlds

TWO = {"hops": 2, "missing": 0.3, "holdout": 0.0}


def walk(store, ask):
  """The answer by following the facts, and the facts on the way."""
  here, path = "ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(ask[0]), []
  for relation in ask[1:-1]:
    there = int(store[here, ord(relation) - ord("a")])
    assert there >= 0
    path.append((chr(65 + here), relation, chr(65 + there)))
    here = there
  return chr(65 + here), path


@pytest.mark.parametrize("level", range(4))
def test_answers_follow_the_facts(level):
  task = search_world.make({"level": level, "missing": 0.3})
  batch = worlds.first(task)
  for store, (ask, answer) in zip(
    batch["store"], worlds.asked(task, batch), strict=True
  ):
    assert walk(store, ask)[0] == answer


def test_shown_facts_hold_what_the_question_needs():
  task = search_world.make({**TWO, "entities": 5, "shown": 4})
  batch = worlds.first(task, size=64)
  for store, (ask, answer) in zip(
    batch["store"], worlds.asked(task, batch), strict=True
  ):
    facts, question = ask.split("|")
    known = facts.split(",")
    got, path = walk(store, question)
    assert got == answer and len(known) == len(set(known)) <= 4
    assert {"".join(step) for step in path} <= set(known)
    for a, r, b in known:
      assert store[ord(a) - 65, ord(r) - 97] == ord(b) - 65
  assert task.spec["turns"] == 0


STORE = np.array([[[2, -1], [0, 1], [1, 1]]], np.int32)  # A-C, a and b
SEEN = {
  "?Aa$": ">C;",
  "?Ba$": ">A;",
  "?Cb$": ">B;",
  "?Ab$": ">-;",  # no such fact
  "?Da$": ">-;",  # no such entity
  "?Ac$": ">-;",
  "?Aa": ">-;",  # no eos
  "?Aa$$": ">-;",
  "?Aab$": ">-;",
  "?aA$": ">-;",
  "Aa?$": ">-;",
  "Aa$": ">-;",
  "$": ">-;",
  "": ">-;",
}


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_observations_by_hand(pad_is_eos):
  task = search_world.make({"pad_is_eos": pad_is_eos})
  tok, observe = task.spec["tokenizer"], jax.jit(task.spec["observe"])
  ids = np.full((len(SEEN), 8), tok.pad_id, np.int32)
  mask = np.zeros(ids.shape, bool)
  for i, query in enumerate(SEEN):
    row = [tok.eos_ids[0] if c == "$" else tok.encode(c)[0] for c in query]
    at = i % 3  # a query may begin at any slot
    ids[i, at : at + len(row)], mask[i, at : at + len(row)] = row, True
  store = np.repeat(STORE, len(SEEN), 0)
  found, seen = observe(ids, mask, store)
  assert found.shape == (len(SEEN), task.spec["observation_length"])
  assert [tok.decode(x) for x in found] == list(SEEN.values()) and seen.all()


def test_every_query_of_three_tokens():
  """All V^2 pairs after "?": a fact where one is, nothing elsewhere."""
  task = search_world.make()
  tok, v = task.spec["tokenizer"], task.spec["vocab_size"]
  pairs = np.array([*itertools.product(range(v), repeat=2)], np.int32)
  n = len(pairs)
  ask, eos = tok.encode("?")[0], tok.eos_ids[0]
  column = lambda x: np.full((n, 1), x, np.int32)
  ids = np.concatenate([column(ask), pairs, column(eos)], 1)
  found, _ = jax.jit(task.spec["observe"])(
    ids, np.ones(ids.shape, bool), np.repeat(STORE, n, 0)
  )
  known = {}
  for (a, r), row in zip(pairs, np.asarray(found), strict=True):
    said = tok.decode(row)
    if said != ">-;":
      known[tok.decode([a, r])] = said[1]
  want = {"Aa": "C", "Ba": "A", "Bb": "B", "Ca": "B", "Cb": "B"}
  assert known == want


def rolled(task, batch, rows):
  """Rows of texts; a text that begins with ">" is an observation."""
  tok = task.spec["tokenizer"]
  out = []
  for row in rows:
    out.append([])
    for words in row:
      mine = not words.startswith(">")
      out[-1].append((tok.encode(words) + [tok.eos_ids[0]] * mine, mine))
  return worlds.written(task, batch, out, np.zeros(len(rows), int))


def test_the_last_thing_that_is_written_is_judged():
  task = search_world.make(TWO)
  batch = worlds.first(task, size=1)
  ask, answer = worlds.asked(task, batch)[0]
  _, path = walk(batch["store"][0], ask)
  turns = [s for a, r, b in path for s in (f"?{a}{r}", f">{b};")]
  other = "ABCD".replace(answer, "")[0]
  rows = [
    [*turns, answer],
    [answer],  # right without a look
    [*turns, other],
    turns,  # the observation is the last thing, and no answer
    turns[:3],
    [*turns, answer + answer],
    [answer, ">-;"],  # what it said first does not count
    [answer, ">-;", other],
    ["?Aa", ">-;", answer],
  ]
  score = worlds.judge(task.reward, rolled(task, batch, rows), batch)
  assert score.value.tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 1]
  searches = score.components["searches"].tolist()
  assert searches == [2, 0, 2, 1, 1, 2, 0, 1, 1]


def test_demonstrations_search_and_do_not_learn_observations():
  task = search_world.make({"hops": 2})
  tok = task.spec["tokenizer"]
  shown = worlds.first(task, "demonstrations")
  width = task.spec["prompt_length"] + 2 * (4 + 3) + 2
  assert shown["tokens"].shape == (32, width)
  for i in range(32):
    ids, loss, attend = (shown[k][i] for k in ("tokens", "loss", "attend"))
    ask, answer = worlds.asked(task, shown)[i]
    _, path = walk(shown["store"][i], ask)
    said = "".join(f"?{a}{r}" for a, r, _ in path) + answer
    assert tok.decode(ids[loss]) == said
    assert loss.sum() == len(said) + 3  # three eos
    seen = "".join(f">{b};" for _, _, b in path)
    assert tok.decode(ids[attend & ~loss]) == ask + seen


def test_a_demonstration_is_what_the_observer_shows():
  task = search_world.make({"hops": 1})
  shown = worlds.first(task, "demonstrations")
  p = task.spec["prompt_length"]
  query, seen = shown["tokens"][:, p : p + 4], shown["tokens"][:, p + 4 : p + 7]
  found, _ = jax.jit(task.spec["observe"])(
    query, np.ones(query.shape, bool), shown["store"]
  )
  np.testing.assert_array_equal(found, seen)


def test_chance_is_exact():
  task = search_world.make({"hops": 1})
  batch = worlds.first(task, size=1)
  every, worth = worlds.all_answers(task, batch, 2)
  assert len(every) == task.spec["vocab_size"] ** 2 and worth.sum() == 1
  assert worth.mean() == pytest.approx(task.spec["chance"](batch)[0], rel=1e-6)


def test_a_guess_is_one_entity():
  task = search_world.make(TWO)
  batch = worlds.first(task, size=8)
  group = np.repeat(np.arange(8), 4)
  worth = worlds.values(task, batch, [*"ABCD"] * 8, group).reshape(8, 4)
  assert (worth.sum(1) == 1).all() and task.spec["guess"] == 1 / 4


def test_repeating_the_entity_is_right_as_often_as_the_page_says():
  task = search_world.make({"hops": 2, "holdout": 0.0})
  rows = worlds.asked(task, worlds.first(task, size=4000))
  got = np.mean([ask[0] == answer for ask, answer in rows])
  # 1/4 + 3/4 / 8 = 0.344; sd of 4000 coins is 0.0075
  assert abs(got - (1 / 4 + 3 / 4 / 8)) < 0.03


def test_stores_of_stages_share_a_shape():
  task = search_world.make({"stages": "0,2@1"})
  stream = task.batches("train", 4, 0)
  a, b = next(stream)["store"], next(stream)["store"]
  assert a.shape == b.shape == (4, 8, 4)
  assert (a[:, 4:] == -1).all() and (a[:, :, 2:] == -1).all() and b.min() >= 0
