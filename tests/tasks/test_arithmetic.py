"""The arithmetic world: problems, split, demonstrations, compiled verifier."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlreward.errors import UserError
from rlreward.rewards import function
from rlreward.tasks import arithmetic
from rlreward.types import LENGTH, STOP, Rollout

HARD = {"digits": 2, "operations": "+-*", "holdout": 0.2}
SLOTS = 8  # completion slots of the rollouts made here


def text(tok, ids, mask):
  return tok.decode(np.asarray(ids)[np.asarray(mask)])


def problems(config, split="train", batches=3, size=64, seed=0):
  task = arithmetic.make(config)
  tok, out = task.spec["tokenizer"], []
  stream = task.batches(split, size, seed)
  for _ in range(batches):
    b = next(stream)
    for i in range(size):
      out.append(
        (
          text(tok, b["prompt"][i], b["prompt_mask"][i]),
          text(tok, b["answer"][i], b["answer_mask"][i]),
        )
      )
  return out


def rollout_of(tok, batch, said, stopped, group):
  """Completions as the sampler lays them out."""
  p, n = batch["prompt"].shape[1], len(said)
  tokens = np.full((n, p + SLOTS), tok.pad_id, np.int32)
  action = np.zeros((n, p + SLOTS), bool)
  for i, words in enumerate(said):
    ids = (tok.encode(words) + [tok.eos_ids[0]] * stopped[i])[:SLOTS]
    tokens[i, p : p + len(ids)], action[i, p : p + len(ids)] = ids, True
  tokens[:, :p] = batch["prompt"][group]
  attend = action.copy()
  attend[:, :p] = batch["prompt_mask"][group]
  return Rollout(
    tokens=jnp.asarray(tokens),
    attend=jnp.asarray(attend),
    action=jnp.asarray(action),
    loss=jnp.asarray(action),
    logp=jnp.zeros(tokens.shape),
    group=jnp.asarray(group),
    finish=jnp.where(jnp.asarray(stopped), STOP, LENGTH),
    version=jnp.zeros((), jnp.int32),
  )


@pytest.mark.parametrize("digits", [1, 2, 3, 9])
def test_answers_are_right(digits):
  for ask, answer in problems({**HARD, "digits": digits}, batches=2):
    assert re.fullmatch(rf"\d{{1,{digits}}}[+*-]\d{{1,{digits}}}=", ask)
    assert str(eval(ask[:-1])) == answer  # digits and one operation only


def test_shapes_and_padding():
  task = arithmetic.make(HARD)
  b, spec = next(task.batches("train", 16, 0)), task.spec
  assert b["prompt"].shape == (16, spec["prompt_length"]) == (16, 6)
  assert b["answer"].shape == (16, spec["completion_length"]) == (16, 5)
  mask = b["prompt_mask"]
  assert (np.diff(mask.astype(int)) >= 0).all()  # real tokens at the right
  assert (b["prompt"][~mask] == spec["pad_id"]).all()
  last = b["answer_mask"].sum(1) - 1
  assert (b["answer"][np.arange(16), last] == spec["stop_ids"][0]).all()
  assert b["prompt"].dtype == np.int32 and b["answer_mask"].dtype == bool


def canonical(ask):
  a, op, b = re.fullmatch(r"(\d+)([+*-])(\d+)=", ask).groups()
  a, b = int(a), int(b)
  return (op, a, b) if op == "-" else (op, min(a, b), max(a, b))


@pytest.mark.parametrize("holdout", [0.1, 0.5])
def test_no_problem_is_in_both_splits(holdout):
  """One digit: 300 problems, so 6000 draws see nearly all of them."""
  c = {"digits": 1, "operations": "+-*", "holdout": holdout}
  train, test = (
    {canonical(ask) for ask, _ in problems(c, split, 10, 300)}
    for split in ("train", "test")
  )
  assert not train & test
  assert len(train | test) == 55 + 100 + 55  # every problem is in one
  share = len(test) / len(train | test)
  assert abs(share - holdout) < 0.1  # 210 hashes: sd below 0.035


def test_the_split_of_all_two_digit_problems():
  """1e4 hashes at share 0.2: 2000 +- 40; a+b and b+a on the same side."""
  grid = np.stack(np.meshgrid([0], range(100), range(100)), -1).reshape(-1, 3)
  held = arithmetic.in_test(grid, 0.2)
  assert abs(held.sum() - 2000) < 250
  swapped = grid[:, [0, 2, 1]]
  np.testing.assert_array_equal(held, arithmetic.in_test(swapped, 0.2))
  minus = grid + [1, 0, 0]
  other = minus[:, [0, 2, 1]]
  assert (
    arithmetic.in_test(minus, 0.2) != arithmetic.in_test(other, 0.2)
  ).any()


@pytest.mark.parametrize("kind", ["batches", "sft_batches"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_state_is_exact(kind, split):
  task = arithmetic.make({**HARD, "noise": 0.3})
  make = task.batches if kind == "batches" else task.spec["sft_batches"]
  whole = make(split, 8, 3)
  every = [next(whole) for _ in range(9)]
  for before in (0, 1, 4):
    first = make(split, 8, 3)
    for _ in range(before):
      next(first)
    state = json.loads(json.dumps(first.get_state()))
    again = make(split, 8, 3)
    next(again)
    again.set_state(state)
    for k in range(before, 9):
      jax.tree.map(np.testing.assert_array_equal, next(again), every[k])


def test_batches_differ_and_seeds_differ():
  task = arithmetic.make(HARD)
  one, two = task.batches("train", 32, 0), task.batches("train", 32, 1)
  a, b, c = next(one)["prompt"], next(one)["prompt"], next(two)["prompt"]
  assert (a != b).any() and (a != c).any()


def test_hosts_make_slices_of_the_same_batch():
  whole = next(arithmetic.make(HARD).batches("train", 8, 0))
  parts = [
    next(
      arithmetic.make(HARD, process_index=i, process_count=2).batches(
        "train", 8, 0
      )
    )
    for i in range(2)
  ]
  for name, value in whole.items():
    joined = np.concatenate([p[name] for p in parts])
    np.testing.assert_array_equal(joined, value)


# What a row says, judged in Python strings.
def right(ask, said, stopped):
  return stopped and said == str(eval(ask[:-1]))


def well_formed(said, stopped):
  return stopped and re.fullmatch(r"-?[1-9][0-9]*|0", said) is not None


TRICKY = [
  "",
  "0",
  "-0",
  "00",
  "-",
  "--1",
  "007",
  "-07",
  "1-",
  "=",
  "10+1",
  "0-",
]


def judge(config, said, stopped, group, batch, tok):
  """The compiled score and the one from strings."""
  r = rollout_of(tok, batch, said, stopped, group)
  s = jax.jit(arithmetic.verifier(tok))(r, batch)
  asks = [text(tok, batch["prompt"][g], batch["prompt_mask"][g]) for g in group]
  want = [right(*x) for x in zip(asks, said, stopped, strict=True)]
  well = [well_formed(*x) for x in zip(said, stopped, strict=True)]
  return s, want, well


@pytest.mark.parametrize("pad_is_eos", [False, True])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_verifier_against_strings(pad_is_eos, data):
  config = {**HARD, "pad_is_eos": pad_is_eos}
  task = arithmetic.make(config)
  tok = task.spec["tokenizer"]
  batch = next(task.batches("train", 4, data.draw(st.integers(0, 9))))
  group = np.repeat(np.arange(4), 3)
  answers = [
    text(tok, a, m)
    for a, m in zip(batch["answer"], batch["answer_mask"], strict=True)
  ]
  letters = st.text(arithmetic.ALPHABET, max_size=SLOTS - 1)
  said = []
  for g in group:
    own = answers[g]
    near = st.sampled_from([own, "0" + own, own + "0", own[:-1], "-" + own])
    said.append(data.draw(near | st.sampled_from(TRICKY) | letters))
  stopped = [data.draw(st.booleans()) for _ in group]
  s, want, well = judge(config, said, stopped, group, batch, tok)
  np.testing.assert_array_equal(np.asarray(s.value) == 1, want)
  np.testing.assert_array_equal(s.components["correct"], s.value)
  np.testing.assert_array_equal(
    np.asarray(s.components["well_formed"]) == 1, well
  )
  assert s.valid.all()


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_gold_answers_are_correct_for_the_whole_group(pad_is_eos):
  task = arithmetic.make({**HARD, "pad_is_eos": pad_is_eos})
  tok = task.spec["tokenizer"]
  batch = next(task.batches("train", 16, 0))
  group = np.repeat(np.arange(16), 2)
  said = [text(tok, batch["answer"][g], batch["answer_mask"][g]) for g in group]
  r = rollout_of(tok, batch, said, [True] * 32, group)
  s = task.reward(r, batch)
  assert s.value.sum() == 32 and s.components["well_formed"].sum() == 32
  # The prompts shifted by one: the answers belong to others.
  wrong = task.reward(r._replace(group=(r.group + 1) % 16), batch)
  assert wrong.value.sum() < 32
  assert task.gold is task.reward


def test_a_row_that_writes_nothing():
  task = arithmetic.make(HARD)
  batch = next(task.batches("train", 2, 0))
  tok = task.spec["tokenizer"]
  r = rollout_of(tok, batch, ["", ""], [False, True], np.arange(2))
  s = task.reward(r, batch)
  np.testing.assert_array_equal(s.value, [0, 0])
  np.testing.assert_array_equal(s.components["well_formed"], [0, 0])


def test_the_host_reward_agrees():
  """The same judgement as a user would write it, on decoded text."""
  task = arithmetic.make(HARD)
  tok = task.spec["tokenizer"]
  batch = next(task.batches("train", 4, 0))
  answers = [
    text(tok, a, m)
    for a, m in zip(batch["answer"], batch["answer_mask"], strict=True)
  ]
  said = [answers[0], "1", answers[2], answers[3]]
  r = rollout_of(tok, batch, said, [True, True, True, False], np.arange(4))

  def exact(prompt, completion, finish):
    return finish == "stop" and completion == str(eval(prompt[:-1]))

  mine = function.make(exact, tok)(r, batch)
  np.testing.assert_array_equal(mine.value, task.reward(r, batch).value)


def test_demonstrations():
  rows = 400
  stream = arithmetic.sft_batches({**HARD, "noise": 0.25}, "train", rows, 0)
  b = next(stream)
  tok = arithmetic.tokenizer(HARD)
  assert b["tokens"].shape == b["attend"].shape == (rows, 6 + 5)
  wrong = 0
  for i in range(rows):
    said = text(tok, b["tokens"][i], b["loss"][i])
    ask = text(tok, b["tokens"][i], b["attend"][i] & ~b["loss"][i])
    assert well_formed(said, True)
    off = abs(int(said) - eval(ask[:-1]))
    assert (1 <= off <= 9) if b["wrong"][i] else off == 0
    wrong += off > 0
    assert b["tokens"][i][b["loss"][i]][-1] == tok.eos_ids[0]
  assert wrong == b["wrong"].sum()
  assert abs(wrong - 100) < 40  # 400 coins of 0.25: sd 8.7
  assert not next(arithmetic.sft_batches(HARD, "train", rows, 0))["wrong"].any()


def test_pad_as_eos_changes_ids_only():
  a = problems({**HARD, "pad_is_eos": True}, batches=1)
  assert a == problems(HARD, batches=1)
  spec = arithmetic.make({**HARD, "pad_is_eos": True}).spec
  assert spec["pad_id"] in spec["stop_ids"]


def test_spec_and_defaults():
  spec = arithmetic.make().spec
  assert spec["vocab_size"] == 16 and spec["on_device"]
  assert spec["prompt_length"] == 6 and spec["completion_length"] == 4


def make(**fields):
  return lambda: arithmetic.make(fields)


def batches(split="train", size=4, seed=0, **fields):
  return lambda: arithmetic.make(fields).batches(split, size, seed)


def state_of(**fields):
  return lambda: (
    arithmetic.make()
    .batches("train", 4, 0)
    .set_state(
      arithmetic.make(fields)
      .batches(fields.pop("split", "train"), 4, 0)
      .get_state()
    )
  )


BAD = {
  "digits 0": make(digits=0),
  "digits 10": make(digits=10),
  "digits 1.5": make(digits=1.5),
  "digits text": make(digits="2"),
  "no operations": make(operations=""),
  "division": make(operations="/"),
  "twice": make(operations="++"),
  "holdout -1": make(holdout=-0.1),
  "holdout 0.9": make(holdout=0.9),
  "holdout text": make(holdout="0.1"),
  "holdout of nothing": make(digits=1, holdout=1e-6),
  "noise 2": make(noise=2),
  "noise -1": make(noise=-1),
  "noise none": make(noise=None),
  "unknown field": make(digit=2),
  "unknown field 2": make(operation="+"),
  "split": batches("dev"),
  "no test": batches("test", holdout=0),
  "batch 0": batches(size=0),
  "batch -1": batches(size=-1),
  "seed -1": batches(seed=-1),
  "seed large": batches(seed=2**32),
  "hosts": lambda: arithmetic.make(process_count=2).batches("train", 3, 0),
  "host": lambda: arithmetic.make(process_index=1).batches("train", 4, 0),
  "state digits": state_of(digits=3),
  "state operations": state_of(operations="-"),
  "state noise": state_of(noise=0.5),
  "state holdout": state_of(holdout=0.2),
  "state of another": lambda: (
    arithmetic.make().batches("train", 4, 0).set_state({"next_index": 1})
  ),
  "sft split": lambda: arithmetic.sft_batches({}, "dev", 4, 0),
  "sft field": lambda: arithmetic.sft_batches({"nois": 1}, "train", 4, 0),
  "tokenizer field": lambda: arithmetic.tokenizer({"pad": 1}),
  "rare test problems": lambda: next(
    arithmetic.make({"holdout": 1e-9}).batches("test", 4, 0)
  ),
  "character": lambda: arithmetic.tokenizer().encode("1 + 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
  with pytest.raises(UserError) as caught:
    BAD[case]()
  lines = str(caught.value).split("\n")
  assert len(lines) == 3, str(caught.value)
  assert lines[1].startswith("  why: ") and lines[2].startswith("  fix: ")
