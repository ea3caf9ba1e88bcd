"""Text tasks: prompts and chats from data to batches, rewards and sft rows."""

import gzip
import json
import logging

import jax.numpy as jnp
import numpy as np
import pytest
from paths import shared_data

from rlreward.errors import UserError
from rlreward.tasks import text
from rlreward.tasks.tokens import CharTokenizer
from rlreward.types import STOP, Rollout

TOK = CharTokenizer("abcdefghijklmnopqrstuvwxyz0123456789+-*=?:,.|<> \n")
ROWS = [
  {"prompt": f"{i}+{i}=", "completion": str(2 * i), "answer": 2 * i}
  for i in range(12)
]


class ChatTokenizer(CharTokenizer):
  """Chats as "<role>content|": enough of a template for these tests."""

  def __init__(self):
    super().__init__(TOK.alphabet)
    self.has_chat = True

  def chat(self, messages):
    said = "".join(f"<{m['role']}>{m['content']}|" for m in messages)
    return self.encode(said + "<assistant>")

  def chat_with_mask(self, messages):
    ids, mask = [], []
    for m in messages:
      own = m["role"] == "assistant"
      head = self.encode(f"<{m['role']}>")
      body = self.encode(m["content"]) + [self.eos_ids[0]]
      ids += head + body
      mask += [False] * len(head) + [own] * len(body)
    return ids, mask


def config(**fields):
  return {"train": ROWS, "prompt_length": 8, "row_length": 12, **fields}


def exact(completion, answer):
  return completion == str(answer)


def first_batch(size=4, split="train", tokenizer=TOK, **fields):
  task = text.make(config(**fields), tokenizer)
  return task, next(task.batches(split, size, 0))


def decoded(batch, tokenizer=TOK):
  return [
    tokenizer.decode(ids[mask])
    for ids, mask in zip(batch["prompt"], batch["prompt_mask"], strict=True)
  ]


def test_batches():
  task, b = first_batch()
  assert b["prompt"].shape == (4, 8) and b["prompt"].dtype == np.int32
  assert decoded(b) == b["columns"]["prompt"]
  assert (np.diff(b["prompt_mask"].astype(int)) >= 0).all()
  assert [ROWS[i]["answer"] for i in b["row"]] == b["columns"]["answer"]
  spec = task.spec
  assert not spec["on_device"] and spec["prompt_length"] == 8
  assert spec["stop_ids"] == TOK.eos_ids and spec["pad_id"] == TOK.pad_id
  assert spec["columns"] == ("prompt", "completion", "answer")
  assert spec["vocab_size"] == TOK.vocab_size


def test_the_reward_sees_the_row_of_its_prompt():
  task, b = first_batch(rewards=[exact])
  answers = [str(a) for a in b["columns"]["answer"]]
  said = [x for a in answers for x in (a, "7")]
  p, n = b["prompt"].shape[1], len(said)
  tokens = np.zeros((n, p + 4), np.int32)
  action = np.zeros((n, p + 4), bool)
  group = np.arange(n) // 2
  tokens[:, :p] = b["prompt"][group]
  for i, words in enumerate(said):
    ids = [*TOK.encode(words), *TOK.eos_ids]
    tokens[i, p : p + len(ids)], action[i, p : p + len(ids)] = ids, True
  attend = action.copy()
  attend[:, :p] = b["prompt_mask"][group]
  rollout = Rollout(
    *(jnp.asarray(x) for x in (tokens, attend, action, action)),
    logp=jnp.zeros(tokens.shape),
    group=jnp.asarray(group),
    finish=jnp.full(n, STOP),
    version=jnp.zeros((), jnp.int32),
  )
  score = task.reward(rollout, b)
  np.testing.assert_array_equal(score.value, [1, 0] * 4)
  assert score.valid.all() and task.gold is None


def test_rewards_by_path_with_weights(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text(
    "def one(completion, answer): return 1.0\n"
    "def two(sample): return sample.row\n"
  )
  task = text.make(config(rewards=f"{file}:one, {file}:two@0.5"), TOK)
  assert task.reward.weights == (1.0, 0.5)
  assert [f.name for f in task.reward.functions] == ["one", "two"]
  task = text.make(config(rewards=exact), TOK)
  assert task.reward.functions[0].needs() == ("answer",)


def test_overlong_prompts_are_counted_and_never_cut(caplog):
  rows = [*ROWS, {"prompt": "1+1+1+1+1=", "completion": "5", "answer": 5}]
  with caplog.at_level(logging.WARNING):
    task, _ = first_batch(train=rows)
  counts = task.spec["report"]["train"]
  assert (counts.rows, counts.kept, counts.overlong) == (13, 12, 1)
  assert counts.longest == 10 and "1 over-long" in caplog.text
  stream = task.batches("train", 12, 0)
  assert "1+1+1+1+1=" not in next(stream)["columns"]["prompt"]
  with pytest.raises(UserError, match="row 12 of the list of rows has 10"):
    first_batch(train=rows, on_overlong="raise")


def test_buckets_follow_the_longest_prompt_of_the_global_batch():
  rows = [{"prompt": "a"}] * 3 + [{"prompt": "abcdef"}]
  fields = {"train": rows, "prompt_length": (2, 8)}
  widths = set()
  for i in range(2):
    task = text.make(config(**fields), TOK, process_index=i, process_count=2)
    stream = task.batches("train", 2, 1)
    widths.add(tuple(next(stream)["prompt"].shape[1] for _ in range(8)))
  assert len(widths) == 1  # both hosts pad to the same width
  assert set(next(iter(widths))) == {2, 8}


def test_hold_out_and_its_own_test_file(tmp_path):
  rows = [{"prompt": str(i)} for i in range(100)]
  task = text.make(config(train=rows * 2, holdout=0.3), TOK)
  report = task.spec["report"]
  assert report["train"].kept + report["test"].kept == 200
  assert report["train"].other_split == report["test"].kept
  seen = {
    split: {
      p
      for _ in range(3)
      for p in next(task.batches(split, report[split].kept, 0))["columns"][
        "prompt"
      ]
    }
    for split in ("train", "test")
  }
  assert not seen["train"] & seen["test"] and len(seen["test"]) > 10
  path = tmp_path / "test.jsonl"
  path.write_text(json.dumps({"prompt": "q"}) + "\n")
  task = text.make(config(test=str(path)), TOK)
  assert next(task.batches("test", 2, 0))["columns"]["prompt"] == ["q", "q"]


def test_state_is_exact():
  task, _ = first_batch()
  whole = task.batches("train", 5, 1)
  every = [next(whole) for _ in range(8)]  # over three edges of epochs
  for before in (0, 2, 3, 5):
    again = task.batches("train", 5, 1)
    for _ in range(before):
      next(again)
    state = json.loads(json.dumps(again.get_state()))
    again = task.batches("train", 5, 1)
    again.set_state(state)
    b = next(again)
    np.testing.assert_array_equal(b["prompt"], every[before]["prompt"])
    assert b["columns"] == every[before]["columns"]


def test_a_state_of_other_data_is_refused():
  task, _ = first_batch()
  other, _ = first_batch(train=[{"prompt": f"{i}="} for i in range(12)])
  state = task.batches("train", 5, 1).get_state()
  with pytest.raises(UserError, match="digest was"):
    other.batches("train", 5, 1).set_state(state)


CHATS = [
  {
    "messages": [
      {"role": "user", "content": f"{i}?"},
      {"role": "assistant", "content": str(i)},
    ]
  }
  for i in range(6)
]


def test_chats_as_prompts():
  rows = [{"messages": c["messages"][:1], "answer": "1"} for c in CHATS]
  task, b = first_batch(train=rows, prompt_length=24, tokenizer=ChatTokenizer())
  asked = [
    f"<user>{m[0]['content']}|<assistant>" for m in b["columns"]["messages"]
  ]
  assert decoded(b, task.spec["tokenizer"]) == asked


def test_sft_of_prompts_and_completions():
  task, _ = first_batch()
  b = next(task.spec["sft_batches"]("train", 6, 0))
  assert b["tokens"].shape == b["loss"].shape == (6, 12)
  for ids, attend, loss in zip(
    b["tokens"], b["attend"], b["loss"], strict=True
  ):
    said, whole = TOK.decode(ids[loss], False), TOK.decode(ids[attend])
    row = next(r for r in ROWS if whole == r["prompt"] + r["completion"])
    assert said == row["completion"] + "<eos>"
    assert (np.diff(attend.astype(int)) <= 0).all()


def test_sft_of_chats_trains_on_the_assistant_alone():
  tok = ChatTokenizer()
  c = {"train": CHATS, "row_length": 32}
  b = next(text.sft_batches(c, tok, "train", 6, 0))
  for ids, loss in zip(b["tokens"], b["loss"], strict=True):
    said = tok.decode(ids[loss], False)
    assert said.endswith("<eos>") and said[:-5].isdigit()
  pairs = [
    {"prompt": x["messages"][:1], "completion": x["messages"][1]["content"]}
    for x in CHATS
  ]
  other = next(text.sft_batches({**c, "train": pairs}, tok, "train", 6, 0))
  for name, value in b.items():
    np.testing.assert_array_equal(other[name], value)


def test_sft_rows_are_never_cut(caplog):
  with caplog.at_level(logging.WARNING):
    b = next(text.sft_batches(config(row_length=6), TOK, "train", 50, 0))
  assert "over-long" in caplog.text
  for ids, loss in zip(b["tokens"], b["loss"], strict=True):
    assert ids[loss][-1] == TOK.eos_ids[0]
  with pytest.raises(UserError, match="never cut"):
    text.sft_batches(
      config(row_length=6, on_overlong="raise"), TOK, "train", 4, 0
    )


def test_the_split_of_a_prompt_is_the_same_for_sft():
  c = config(holdout=0.5)
  task = text.make(c, TOK)
  kept = task.spec["report"]["test"].kept
  asked = set(next(task.batches("test", kept, 0))["columns"]["prompt"])
  b = next(text.sft_batches(c, TOK, "test", kept, 0))
  prompts = {
    TOK.decode(ids[a & ~m])
    for ids, a, m in zip(b["tokens"], b["attend"], b["loss"], strict=True)
  }
  assert prompts == asked


def test_bos_is_put_in_front_once():
  tok = CharTokenizer("0123456789+=", bos=True)
  _, b = first_batch(tokenizer=tok)
  for ids, mask in zip(b["prompt"], b["prompt_mask"], strict=True):
    assert (ids[mask] == tok.bos_id).sum() == 1
  rows = next(text.sft_batches(config(), tok, "train", 4, 0))
  np.testing.assert_array_equal(rows["tokens"][:, 0], tok.bos_id)


def test_real_chats_in_parquet():
  path = shared_data("tiny_llama_digits") / "data__train.parquet"
  task, b = first_batch(
    train=str(path), prompt_length=40, tokenizer=ChatTokenizer()
  )
  assert task.spec["report"]["train"].kept == 800
  assert b["columns"]["prompt"][0][0]["role"] == "user"


def test_real_problems():
  path = shared_data("gsm8k") / "train_first2000.jsonl.gz"
  tok = CharTokenizer("".join(map(chr, [*range(32, 127), 10, 0x2013, 0x2019])))
  rows = [
    json.loads(line) for line in gzip.open(path, "rt").read().splitlines()
  ]
  rows = [r for r in rows if set(r["question"]) <= set(tok.alphabet)]
  task = text.make(
    {"train": rows, "prompt": "question", "prompt_length": 256}, tok
  )
  counts = task.spec["report"]["train"]
  assert counts.kept + counts.overlong == counts.rows > 1500
  assert 0 < counts.overlong < counts.rows


def make(tokenizer=TOK, **fields):
  return lambda: text.make(config(**fields), tokenizer)


def sft(**fields):
  return lambda: text.sft_batches(config(**fields), TOK, "train", 4, 0)


def batches(split="train", size=4, seed=0, **fields):
  return lambda: text.make(config(**fields), TOK).batches(split, size, seed)


USER = {"role": "user", "content": "a"}

BAD = {
  "no train": make(train=""),
  "no file": make(train="nowhere.jsonl"),
  "unknown field": make(trian=[]),
  "empty": make(train=[]),
  "both columns": make(train=[{"prompt": "a", "messages": [USER]}]),
  "no prompt column": make(train=[{"question": "a"}]),
  "named column": make(prompt="question"),
  "column later": make(train=[*ROWS, {"answer": 1}]),
  "prompt is a number": make(train=[{"prompt": 3}]),
  "prompt is none": make(train=[{"prompt": None}]),
  "mixed prompts": make(train=[{"prompt": "a"}, {"prompt": [USER]}]),
  "empty prompt": make(train=[{"prompt": ""}]),
  "character": make(train=[{"prompt": "é"}]),
  "chat without template": make(train=[{"prompt": [USER]}]),
  "all too long": make(prompt_length=2),
  "raise": make(prompt_length=4, on_overlong="raise"),
  "policy": make(on_overlong="truncate"),
  "length 0": make(prompt_length=0),
  "no lengths": make(prompt_length=()),
  "holdout 1": make(holdout=1),
  "holdout text": make(holdout="0.1"),
  "two tests": make(holdout=0.1, test=ROWS),
  "test file": make(test="nowhere.jsonl"),
  "test columns": make(test=[{"question": "a"}]),
  "everything held out": make(train=ROWS[:1], holdout=0.9999999),
  "reward path": make(rewards="nowhere.py:f"),
  "reward form": make(rewards="no_colon"),
  "reward weight": make(rewards="rlreward.errors:UserError@much"),
  "reward column": make(rewards=[lambda anser: 1.0]),
  "reward later column": make(train=[*ROWS, {"prompt": "a"}], rewards=[exact]),
  "reward kind": make(rewards=[3]),
  "reward mixed column": make(
    train=[*ROWS, {"prompt": "a", "answer": "2"}], rewards=[exact]
  ),
  "no tokenizer": make(tokenizer=None),
  "tokenizer directory": lambda: text.make(config(tokenizer="./nowhere"), None),
  "split": batches("dev"),
  "no test": batches("test"),
  "batch 0": batches(size=0),
  "seed": batches(seed=-3),
  "hosts": lambda: text.make(config(), TOK, process_count=3).batches(
    "train", 4, 0
  ),
  "no reward": lambda: text.make(config(), TOK).reward(None, None),
  "sft no completion": sft(train=[{"prompt": "a"}]),
  "sft completion name": sft(completion="target"),
  "sft completion kind": sft(completion="answer"),
  "sft too long": sft(row_length=3),
  "sft split": lambda: text.sft_batches(config(), TOK, "test", 4, 0),
  "sft chat": sft(train=[{"messages": [USER]}]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
  with pytest.raises(UserError) as caught:
    BAD[case]()
  lines = str(caught.value).split("\n")
  assert len(lines) == 3, str(caught.value)
  assert lines[1].startswith("  why: ") and lines[2].startswith("  fix: ")


def test_errors_name_what_was_found():
  with pytest.raises(UserError, match=r"\['question'\] have neither"):
    make(train=[{"question": "a"}])()
  with pytest.raises(UserError, match="row 12 of the list of rows has no"):
    make(train=[*ROWS, {"answer": 1}])()
  with pytest.raises(UserError, match="did you mean 'answer'"):
    make(rewards=[lambda anser: 1.0])()
