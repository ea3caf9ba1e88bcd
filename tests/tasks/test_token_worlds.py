"""What all token worlds share: gold, chance, splits, levels, stages, resume."""

import json
import pathlib
import sys

import jax
import nano
import numpy as np
import pytest

from rlreward import registry
from rlreward.errors import UserError
from rlreward.tasks import cipher, grid, search_world, slots

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import worlds

MODULES = {m.__name__.split(".")[-1]: m
           for m in (cipher, grid, search_world, slots)}  # fmt: skip
TASKS = pytest.mark.parametrize("name", MODULES)
KINDS = pytest.mark.parametrize(
  "kind", ["batches", "demonstrations", "preferences", "labelled"]
)


def rungs():
  return [(n, i) for n, m in MODULES.items() for i in range(len(m.levels()))]


def make(name, **fields):
  return MODULES[name].make(fields)


def equal(a, b):
  assert set(a) == set(b)
  for key, value in a.items():
    np.testing.assert_array_equal(value, b[key])


@pytest.mark.parametrize(("name", "level"), rungs())
def test_gold_is_one_and_a_changed_token_is_none(name, level):
  """All tokens but one of a gold answer, changed to each other token."""
  task = make(name, level=level, noise=0.3)
  batch = worlds.first(task, size=8)
  assert (batch["level"] == level).all()
  answers = [a for _, a in worlds.asked(task, batch)]
  assert worlds.values(task, batch, answers).tolist() == [1] * 8
  assert worlds.values(task, batch, answers, reward=task.gold).min() == 1
  assert worlds.values(task, batch, answers, eos=False).max() == 0
  tok, own = task.spec["tokenizer"], answers[0]
  ids = [*tok.encode(own), tok.eos_ids[0]]
  rows = [
    [([*ids[:i], other, *ids[i + 1 :]], True)]
    for i in range(len(ids))
    for other in range(task.spec["vocab_size"])
    if other != ids[i]
  ]
  rows += [[([*ids, other], True)] for other in range(len(tok.alphabet))]
  rows += [[(ids[:i] + ids[i + 1 :], True)] for i in range(len(ids))]
  rollout = worlds.written(task, batch, rows, np.zeros(len(rows), int))
  assert worlds.judge(task.reward, rollout, batch).value.max() == 0


@pytest.mark.parametrize(("name", "level"), rungs())
def test_sizes_and_padding(name, level):
  task = make(name, level=level)
  batch, spec = worlds.first(task, size=16), task.spec
  assert batch["prompt"].shape == (16, spec["prompt_length"])
  assert batch["answer"].shape == (16, spec["answer_length"])
  assert spec["completion_length"] >= spec["answer_length"]
  mask = batch["prompt_mask"]
  assert (np.diff(mask.astype(int)) >= 0).all()  # real tokens at the right
  assert mask[:, 0].any()  # no slot that no prompt fills
  last = batch["answer_mask"].sum(1) - 1
  assert (batch["answer"][np.arange(16), last] == spec["stop_ids"][0]).all()
  assert set(spec["columns"]) == set(batch) - {"prompt", "prompt_mask"}


@TASKS
def test_wrong_answers_are_of_no_worth(name):
  for level in range(len(MODULES[name].levels())):
    task = make(name, level=level)
    tok = task.spec["tokenizer"]
    pairs = worlds.first(task, "preferences", 32)
    batch = worlds.first(task, "batches", 32)
    rows = [
      worlds.text(tok, *x)
      for x in zip(pairs["tokens"], pairs["loss"], strict=True)
    ]
    last = [worlds.text(tok, t, m) for t, m in zip(
      pairs["tokens"], _last_run(pairs["loss"]), strict=True)]  # fmt: skip
    assert len(rows) == 64
    # Pairs are of the same problems as the prompts: the same draws.
    worth = worlds.values(task, batch, last, np.repeat(np.arange(32), 2))
    assert worth.tolist() == [1, 0] * 32


def _last_run(mask):
  out = np.zeros_like(mask)
  for i, row in enumerate(mask):
    at = np.flatnonzero(row)[-1]
    while at >= 0 and row[at]:
      out[i, at] = True
      at -= 1
  return out


@TASKS
def test_noise_and_labels(name):
  task = make(name, noise=0.25, positive_share=0.2, level=1)
  shown = worlds.first(task, "demonstrations", 400)
  assert abs(shown["wrong"].sum() - 100) < 45  # 400 coins: sd 8.7
  last = [
    worlds.text(task.spec["tokenizer"], t, m)
    for t, m in zip(shown["tokens"], _last_run(shown["loss"]), strict=True)
  ]
  worth = worlds.values(task, shown, last)
  np.testing.assert_array_equal(worth == 1, ~shown["wrong"])
  labels = worlds.first(task, "labelled", 400)
  right = labels["label"] ^ labels["flipped"]
  assert abs(right.sum() - 80) < 45 and abs(labels["flipped"].sum() - 100) < 45
  pairs = worlds.first(task, "preferences", 400)
  assert abs(pairs["flipped"].sum() / 2 - 100) < 45


@TASKS
def test_no_prompt_is_in_both_splits(name):
  task = make(name, holdout=0.3)
  sides = [
    {p for k in range(3) for p, _ in worlds.asked(
      task, worlds.first(task, size=200, split=split, seed=k))}
    for split in ("train", "test")
  ]  # fmt: skip
  assert sides[0] and sides[1] and not sides[0] & sides[1]


@TASKS
@KINDS
@pytest.mark.parametrize("stages", ["", "0,1@2,0@4"])
def test_state_is_exact(name, kind, stages):
  open_ = getattr(make(name, noise=0.3, stages=stages), kind)
  whole = open_("train", 4, 3)
  every = [next(whole) for _ in range(6)]
  for before in (0, 3, 5):
    one = open_("train", 4, 3)
    for _ in range(before):
      next(one)
    state = json.loads(json.dumps(one.get_state()))
    again = open_("train", 4, 3)
    next(again)
    again.set_state(state)
    for k in range(before, 6):
      equal(next(again), every[k])


@TASKS
@KINDS
def test_hosts_make_slices_of_the_same_batch(name, kind):
  c = {"noise": 0.3, "stages": "1"}
  want = worlds.first(make(name, **c), kind, 8)
  parts = [
    worlds.first(
      MODULES[name].make(c, process_index=i, process_count=2), kind, 8
    )
    for i in range(2)
  ]
  equal({k: np.concatenate([p[k] for p in parts]) for k in want}, want)


@TASKS
def test_levels(name):
  module = MODULES[name]
  ladder = module.levels()
  assert set(module.at(0)) == set(module.defaults())
  for level, fields in enumerate(ladder):
    got = module.at(level)
    assert got["level"] == level and fields.items() <= got.items()
    # The level alone says the same as its fields.
    by_fields = module.make({**fields, "level": level})
    equal(worlds.first(module.make({"level": level})), worlds.first(by_fields))
  # Harder: a blind guess is right less often, or as often on a longer way.
  guess = [module.make({"level": i}).spec["guess"] for i in range(len(ladder))]
  assert guess == sorted(guess, reverse=True) and guess[-1] < guess[0]
  vocab = {module.make({"level": i}).spec["vocab_size"]
           for i in range(len(ladder))}  # fmt: skip
  assert len(vocab) == 1  # one policy goes through all of them


@TASKS
def test_training_goes_through_the_stages(name):
  task = make(name, stages="0,1@2,2@3")
  stream = task.batches("train", 8, 0)
  levels = [next(stream)["level"] for _ in range(5)]
  assert [row[0] for row in levels] == [0, 0, 1, 2, 2]
  test = worlds.first(task, split="test", size=4)
  assert (test["level"] == 2).all()
  # Batch k is batch k of its level, at the sizes of the widest.
  alone = make(name, level=1).batches("train", 8, 0)
  for _ in range(2):
    next(alone)
  stream = task.batches("train", 8, 0)
  for _ in range(2):
    next(stream)
  both = [worlds.asked(task, b) for b in (next(stream), next(alone))]
  assert both[0] == both[1]
  shapes = {worlds.first(task, seed=s)["prompt"].shape for s in range(2)}
  assert shapes == {(32, task.spec["prompt_length"])}


@TASKS
def test_a_state_of_other_stages_is_refused(name):
  state = make(name, stages="0,1@2").batches("train", 4, 0).get_state()
  for stages in ("0,1@3", ""):
    with pytest.raises(UserError, match="data stream has changed"):
      make(name, stages=stages).batches("train", 4, 0).set_state(state)


@TASKS
@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_pad_as_eos_changes_ids_only(name, pad_is_eos):
  task = make(name, pad_is_eos=pad_is_eos)
  batch = worlds.first(task, size=8)
  assert worlds.asked(task, batch) == worlds.asked(
    make(name), worlds.first(make(name), size=8)
  )
  answers = [a for _, a in worlds.asked(task, batch)]
  assert worlds.values(task, batch, answers).min() == 1
  assert (task.spec["pad_id"] in task.spec["stop_ids"]) == pad_is_eos


@TASKS
def test_grpo_accepts_the_task(name):
  """Made, and a step of abstract arrays; nothing is trained or compiled."""
  task = make(name, stages="0,1@5")
  c = nano.config(
    model__vocab=task.spec["vocab_size"],
    sampling__max_new_tokens=task.spec["completion_length"],
    loss__kl_beta=0.1,
  )
  method = registry.algorithm("grpo").make(c, task)
  batch = worlds.first(task, size=nano.B)
  state = jax.eval_shape(method.init, jax.random.key(0))
  after, metrics = jax.eval_shape(method.step, state, batch, jax.random.key(0))
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert "reward" in metrics


@TASKS
def test_the_registry_finds_it(name):
  assert name in registry.tasks()
  assert MODULES[name].defaults()["name"] == name


BAD = {
  "level 9": {"level": 9},
  "level -1": {"level": -1},
  "level text": {"level": "1"},
  "level true": {"level": True},
  "stages text": {"stages": "easy"},
  "stages from 5": {"stages": "0@5"},
  "stages falling": {"stages": "0,1@9,2@3"},
  "stages twice": {"stages": "0,1@0"},
  "stages of no level": {"stages": "0,9@3"},
  "holdout": {"holdout": 0.9},
  "noise": {"noise": 2},
  "share": {"positive_share": None},
  "unknown": {"levels": 1},
}


def three_lines(error):
  lines = str(error.value).split("\n")
  assert len(lines) == 3, str(error.value)
  assert lines[1].startswith("  why: ") and lines[2].startswith("  fix: ")


@TASKS
@pytest.mark.parametrize("case", BAD)
def test_bad_input(name, case):
  with pytest.raises(UserError) as caught:
    make(name, **BAD[case])
  three_lines(caught)


OWN = [
  ("cipher", {"letters": 1}),
  ("cipher", {"letters": 27}),
  ("cipher", {"length": 0}),
  ("cipher", {"key": "enigma"}),
  ("cipher", {"direction": "up"}),
  ("grid", {"height": 0}),
  ("grid", {"width": 2.5}),
  ("grid", {"kinds": 5}),
  ("slots", {"tools": 9}),
  ("slots", {"arguments": 3}),
  ("slots", {"calls": 3}),
  ("slots", {"synonyms": 3}),
  ("slots", {"fillers": -1}),
  ("slots", {"reward": "half"}),
  ("search_world", {"hops": 3}),
  ("search_world", {"entities": 1}),
  ("search_world", {"hops": 2, "shown": 1}),
  ("search_world", {"shown": 9}),
  ("search_world", {"missing": 1.0}),
]


@pytest.mark.parametrize(("name", "fields"), OWN)
def test_bad_fields(name, fields):
  with pytest.raises(UserError) as caught:
    make(name, **fields)
  three_lines(caught)


@TASKS
def test_bad_splits(name):
  with pytest.raises(UserError, match="no split"):
    make(name, holdout=0.0).batches("test", 4, 0)
  with pytest.raises(UserError, match="no split"):
    make(name).batches("dev", 4, 0)


def test_a_split_without_a_prompt_is_said():
  """Two letters, a text of one: 4 prompts, none of them in 1e-9."""
  task = cipher.make({"letters": 2, "length": 1, "holdout": 1e-9})
  with pytest.raises(UserError, match="draws in a row"):
    next(task.batches("test", 4, 0))
