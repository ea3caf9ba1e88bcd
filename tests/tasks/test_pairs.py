"""Where the prompt of a pair is: columns, chats, dialogues; k answers."""

import gzip
import json

import numpy as np
import pytest
from paths import shared_data
from test_preferences import PAIRS, TOK, make, read, whole
from test_tokens import golden

from rlreward.errors import UserError
from rlreward.tasks import pairs, text
from rlreward.tasks.tokens import CharTokenizer


def user(words):
  return {"role": "user", "content": words}


def said(words):
  return {"role": "assistant", "content": words}


def chats():
  """One pair in five forms that mean the same."""
  ask = [user("hi"), said("yes"), user("why")]
  good, bad = [said("so")], [said("no idea")]
  return {
    "strings": {"prompt": ask, "chosen": "so", "rejected": "no idea"},
    "messages": {"prompt": ask, "chosen": good, "rejected": bad},
    "whole": {"prompt": ask, "chosen": ask + good, "rejected": ask + bad},
    "implicit": {"chosen": ask + good, "rejected": ask + bad},
    "first turn beside": {
      "prompt": "hi",
      "chosen": ask + good,
      "rejected": ask + bad,
    },
  }


@pytest.mark.parametrize("name", ["chatml", "chatml_generation", "gemma"])
@pytest.mark.parametrize("form", chats())
def test_chats(name, form):
  """The prompt is what the policy is asked, the answer what it would write."""
  g, tok = golden(name)
  sizes = {"prompt_length": 200, "answer_length": 60, "row_length": 260}
  row = chats()[form]
  task = make([row], tok, **sizes)
  b = next(task.preferences("train", 1, 0))
  ask = tok.chat(chats()["messages"]["prompt"])
  for n, words in enumerate(("so", "no idea")):
    assert b["tokens"][n, 200 - len(ask) : 200].tolist() == ask
    assert not b["attend"][n, : 200 - len(ask)].any()
    end = g["assistant"][-1].removeprefix("so")  # "<|im_end|>" or the like
    answer = tok.encode(words + end)
    size = 200 + len(answer)
    assert b["tokens"][n, 200:size].tolist() == answer
    assert answer[-1] in tok.eos_ids
    assert not b["attend"][n, size:].any()
    np.testing.assert_array_equal(
      b["loss"][n], b["attend"][n] & (np.arange(260) >= 200)
    )
  asked = next(task.batches("train", 1, 0))
  np.testing.assert_array_equal(asked["prompt"], b["tokens"][:1, :200])
  np.testing.assert_array_equal(asked["prompt_mask"], b["attend"][:1, :200])


def test_answers_of_several_turns_train_on_the_assistant_alone():
  _, tok = golden("chatml")
  tail = [said("b"), user("c"), said("d")]
  rows = [{"prompt": [user("a")], "chosen": tail, "rejected": [said("e")]}]
  b = next(
    make(rows, tok, prompt_length=99, answer_length=99).preferences(
      "train", 1, 0
    )
  )
  assert read(b, tok)[0][1] == "b<|im_end|>d<|im_end|>"
  loss, attend = b["loss"][0, 99:], b["attend"][0, 99:]
  assert attend.sum() > loss.sum() and attend[loss.nonzero()[0]].all()
  assert loss[attend.sum() - 1]  # nothing follows the last eos


def test_the_common_messages_are_those_of_trl():
  utils = pytest.importorskip("trl.data_utils")
  for form in ("implicit", "first turn beside"):
    row = chats()[form]
    mine = text.columns.pair_values(text.defaults(), "prompt", row)
    theirs = utils.extract_prompt(row)
    assert list(mine) == [theirs[k] for k in ("prompt", "chosen", "rejected")]


def test_a_dialogue_that_begins_like_the_other_keeps_an_answer():
  a, b = [user("a"), said("b")], [user("c"), said("d")]
  split = lambda x, y: text.columns.pair_values(
    text.defaults(), "", {"chosen": x, "rejected": y}
  )
  assert split(a, a + b) == (a[:1], a[1:], [*a[1:], *b])
  assert split(a, a) == (a[:1], a[1:], a[1:])  # equal sides, found later


def test_labelled_chats():
  _, tok = golden("chatml")
  ask = [user("hi")]
  rows = [
    {"prompt": ask, "completion": "yes", "label": 1},
    {"prompt": ask, "completion": [said("no")], "label": 0},
  ]
  task = make(rows, tok, prompt_length=60, answer_length=20)
  b = next(task.labelled("train", 2, 0))
  found = {s: lab for (_, s), lab in zip(read(b, tok), b["label"], strict=True)}
  assert found == {"yes<|im_end|>": True, "no<|im_end|>": False}


def dialogue(*turns):
  names = ("\n\nhuman: ", "\n\nAssistant: ")
  return "".join(names[i % 2] + t for i, t in enumerate(turns))


def test_dialogues_in_strings():
  tok = CharTokenizer(TOK.alphabet + "A")
  rows = [
    {
      "chosen": dialogue("a", "bc", "d", "ef"),
      "rejected": dialogue("a", "bc", "d", "eg"),
    },
    {"chosen": dialogue("x", "same"), "rejected": dialogue("x", "sand")},
  ]
  found, _ = whole(rows, tok, prompt_length=64, answer_length=9)
  assert found == {
    dialogue("a", "bc", "d") + "\n\nAssistant:": [(" ef<eos>", " eg<eos>")],
    dialogue("x") + "\n\nAssistant:": [(" same<eos>", " sand<eos>")],
  }


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_sft_on_one_side(side):
  b = next(make(completion=side).demonstrations("train", 12, 0))
  want = {(r["prompt"], r[side] + "<eos>") for r in PAIRS}
  assert set(read(b)) == want


def test_real_dialogues():
  path = str(shared_data("hh_rlhf") / "harmless_base_test_0_1200.jsonl.gz")
  with gzip.open(path, "rt") as lines:
    rows = [json.loads(line) for line in lines][:300]
  letters = sorted({c for r in rows for side in r.values() for c in side})
  tok = CharTokenizer("".join(letters))
  sizes = {"prompt_length": 4096, "answer_length": 4096, "row_length": 8192}
  task = make(rows, tok, **sizes)
  found, _ = whole(rows, tok, **sizes)
  count = task.spec["report"]["train"].kept
  pairs_count = make(rows, tok, **sizes)
  next(pairs_count.preferences("train", 1, 0))
  counts = pairs_count.spec["report"]["train pairs"]
  assert counts.kept == count == 300 and counts.blank == 1  # row 86
  assert len(found) == 300
  turn = "\n\nAssistant:"
  for row in rows:
    prompt = row["chosen"].rpartition(turn)[0] + turn
    want = [row[side].removeprefix(prompt) for side in ("chosen", "rejected")]
    assert found[prompt] == [tuple(w + "<eos>" for w in want)]
  sft = make(rows, tok, **sizes, completion="chosen")
  one = read(next(sft.demonstrations("train", 2, 0)), tok)
  wanted = {r["chosen"] for r in rows}
  assert {p + s.removesuffix("<eos>") for p, s in one} <= wanted


def test_dialogues_that_open_alike_stay_in_one_split():
  tok = CharTokenizer(TOK.alphabet + "A")
  strings, lists = [], []
  for i in range(60):
    for turns in (["a"], ["a", "b", "c"]):
      turns = [f"{i}", *turns[1:]]
      for out, form in (
        (strings, dialogue),
        (lists, lambda *t: [(user, said)[k % 2](x) for k, x in enumerate(t)]),
      ):
        out.append({"chosen": form(*turns, "x"), "rejected": form(*turns, "y")})
  where = {}
  for name, rows in (("strings", strings), ("lists", lists)):
    own = tok if name == "strings" else golden("chatml")[1]
    for split in ("train", "test"):
      b = whole(
        rows, own, split, holdout=0.4, prompt_length=150, answer_length=40
      )
      opening = ["".join(filter(str.isdigit, p)) for p in b[0]]
      assert all(opening.count(o) == 2 for o in opening)
      where[name, split] = set(opening)
    assert not where[name, "train"] & where[name, "test"]
    assert len(where[name, "test"]) > 5


# -------------------------------------------------- k answers to one prompt
def test_all_pairs_of_scores():
  row = {"prompt": "q", "completions": ["a", "b", "c"], "scores": [1, 3, 1]}
  assert pairs.all_pairs(row) == [
    {"prompt": "q", "chosen": "b", "rejected": "a", "strength": 2.0},
    {"prompt": "q", "chosen": "b", "rejected": "c", "strength": 2.0},
  ]
  kept = pairs.all_pairs(row, ties=True)
  assert [p["tie"] for p in kept] == [False, True, False]
  assert kept[1]["strength"] == 0


def test_all_pairs_of_ranks():
  row = {"prompt": "q", "completions": ["a", "b", "c"], "ranks": [2, 1, 3]}
  found = pairs.all_pairs(row, ranks="ranks")
  assert [(p["chosen"], p["rejected"]) for p in found] == [
    *(("b", "a"), ("a", "c"), ("b", "c"))
  ]
  assert {p["strength"] for p in found} == {1.0}


def test_all_pairs_feed_a_task():
  rows = [
    {"prompt": f"{i}=", "completions": list("abcd"), "scores": [4, 3, 2, i]}
    for i in range(4)
  ]

  def source():
    for row in rows:
      yield from pairs.all_pairs(row, ties=True)

  found, b = whole(source, strength="strength")
  assert [len(p) for p in found.values()] == [6] * 4
  assert b["tie"].sum() == 2 * 2  # i = 2 and 3, both rows of the pair


# -------------------------------------------------- bad input
def messages(chosen, rejected, prompt=..., kind="chatml"):
  row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
  row = {k: v for k, v in row.items() if v is not ...}
  sizes = {"prompt_length": 99, "answer_length": 99}
  return lambda: make([row], golden(kind)[1], **sizes).preferences(
    "train", 2, 0
  )


ASK = [user("hi")]
BAD = {
  "dialogue and messages": lambda: make([{"chosen": "a", "rejected": ASK}]),
  "empty message": messages([said("")], [said("a")], ASK),
  "no messages": messages([], [said("a")], ASK),
  "ends with user": messages([said("a"), user("b")], [said("c")], ASK),
  "begins with user": messages([user("b"), said("a")], [said("c")], ASK),
  "prompts differ": messages([user("a"), said("c")], [user("b"), said("c")]),
  "nothing before the answer": messages([said("a")], [said("b")]),
  "message kind": messages(["a"], [said("b")], ASK),
  "content kind": messages([said(3)], [said("b")], ASK),
  "role refused": messages(
    [said("a")], [said("b")], [{"role": "system", "content": "s"}], "gemma"
  ),
  "scores": lambda: pairs.all_pairs({"completions": ["a"], "scores": [1, 2]}),
  "scores kind": lambda: pairs.all_pairs(
    {"completions": ["a", "b"], "scores": [1, None]}
  ),
  "scores name": lambda: pairs.all_pairs({"completions": ["a"], "score": [1]}),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
  with pytest.raises(UserError) as caught:
    BAD[case]()
  lines = str(caught.value).split("\n")
  assert len(lines) == 3, str(caught.value)
  assert lines[1].startswith("  why: ") and lines[2].startswith("  fix: ")
