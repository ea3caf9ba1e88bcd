"""Sources, counting, exact iterator state, slices for several hosts."""

import gzip
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import shared_data

from rlreward.errors import UserError
from rlreward.tasks import data, sources
from rlreward.tasks.data import Stream, scan
from rlreward.tasks.sources import open_source

ROWS = [{"prompt": f"p{i}", "answer": i} for i in range(7)]


def encode(row):
  return [ord(c) for c in row["prompt"]]


def write(path, rows):
  opener = gzip.open if path.suffix == ".gz" else open
  with opener(path, "wt") as file:
    file.writelines(json.dumps(r) + "\n" for r in rows)
  return str(path)


def generate():
  yield from ROWS


def endless():
  while True:
    yield {"prompt": "x"}


def parquet(path, rows):
  pa = pytest.importorskip("pyarrow")
  pytest.importorskip("pyarrow.parquet").write_table(
    pa.Table.from_pylist(rows), path
  )
  return str(path)


class Lazy:
  """Random access without a list."""

  def __len__(self):
    return len(ROWS)

  def __getitem__(self, index):
    return ROWS[index]


def test_every_source_gives_the_same_rows(tmp_path):
  opened = [
    open_source(ROWS),
    open_source(tuple(ROWS)),
    open_source(generate),
    open_source(Lazy()),
    open_source(write(tmp_path / "a.jsonl", ROWS)),
    open_source(write(tmp_path / "a.jsonl.gz", ROWS)),
    open_source(parquet(tmp_path / "a.parquet", ROWS)),
  ]
  script = tmp_path / "rows.py"
  script.write_text(f"def rows():\n  yield from {ROWS!r}\n")
  opened.append(open_source(f"{script}:rows"))
  for source in opened:
    assert [source[i] for i in range(len(source))] == ROWS


def test_several_files_in_the_order_of_their_names(tmp_path):
  write(tmp_path / "b.jsonl", ROWS[3:])
  write(tmp_path / "a.jsonl", ROWS[:3])
  assert list(open_source(str(tmp_path / "*.jsonl"))) == ROWS
  parquet(tmp_path / "d.parquet", ROWS[3:])
  parquet(tmp_path / "c.parquet", ROWS[:3])
  source = open_source(str(tmp_path / "*.parquet"))
  assert [source[i] for i in range(7)] == ROWS


def test_blank_lines_are_no_rows(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text('{"prompt": "a"}\n\n{"prompt": "b"}\n\n')
  assert len(open_source(str(path))) == 2


def test_tfds_is_read_lazily(tmp_path, monkeypatch):
  """A data set written here, in array_record, without TensorFlow."""
  pytest.importorskip("importlib_resources", reason="tfds needs it")
  tfds = pytest.importorskip("tensorflow_datasets")
  made = tfds.testing.DummyDataset(
    data_dir=tmp_path, file_format="array_record"
  )
  made.download_and_prepare()
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  source = open_source("tfds:dummy_dataset/train")
  assert sorted(source[i]["id"] for i in range(len(source))) == [0, 1, 2]
  with pytest.raises(UserError) as caught:
    open_source("tfds:dummy_dataset/nowhere")
  three_lines(caught.value, "train")


def test_real_files():
  folder = shared_data("gsm8k")
  source = open_source(str(folder / "train_first2000.jsonl.gz"))
  assert len(source) == 2000 and "####" in source[0]["answer"]
  folder = shared_data("rl_rollouts_graded")
  source = open_source(str(folder / "math_train_qwen_template.parquet"))
  assert source[0]["prompt"][0]["role"] == "system" and len(source) > 7000


def test_counts():
  rows = [{"prompt": p} for p in ("aa", "bbbb", "aa", "cccccc", "d")]
  kept = scan(rows, encode, 4, where="here")
  assert kept.keep.tolist() == [0, 1, 2, 4]
  assert kept.lengths.tolist() == [2, 4, 2, 1]
  assert kept.counts == data.Counts(5, 4, 1, 1, 0, 6)
  line = kept.counts.line("train")
  assert "4 of 5 rows (1 over-long = 20.0% dropped, 1 duplicate" in line
  other = scan(rows[:4], encode, 4, where="here")
  assert other.digest != kept.digest


@given(st.sets(st.text(max_size=5)), st.floats(0.05, 0.5))
@settings(max_examples=30, deadline=None)
def test_a_prompt_is_on_one_side(prompts, share):
  rows = [{"prompt": p + "!"} for p in prompts] * 2
  sides = []
  for want in (True, False):
    pick = lambda r, w=want: data.held_out(r["prompt"], share) == w
    here = [r["prompt"] for r in rows if pick(r)]
    sides.append(set(here))
  assert not sides[0] & sides[1]
  assert sides[0] | sides[1] == {r["prompt"] for r in rows}


def test_the_held_out_share_is_about_right():
  """4000 hashes at share 0.2: 800 +- 3 sd of 25."""
  n = sum(data.held_out(f"p{i}", 0.2) for i in range(4000))
  assert abs(n - 800) < 80


def stream(rows=7, batch=3, seed=5, **options):
  return Stream(
    rows, batch, seed, lambda own, every: {"i": own, "all": every}, **options
  )


def take(s, n):
  return [next(s)["i"].tolist() for _ in range(n)]


def test_each_epoch_is_a_permutation():
  flat = np.concatenate(take(stream(), 14)).reshape(6, 7)
  for epoch in flat:
    assert sorted(epoch.tolist()) == list(range(7))
  assert len({tuple(e) for e in flat.tolist()}) > 1
  plain = take(stream(shuffle=False), 3)
  assert plain == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]


@given(
  st.integers(1, 9), st.integers(1, 6), st.integers(0, 12), st.integers(1, 4)
)
@settings(max_examples=15, deadline=None)
def test_state_is_exact_anywhere(rows, batch, before, after):
  whole = take(stream(rows, batch), before + after)
  first = stream(rows, batch)
  take(first, before)
  state = json.loads(json.dumps(first.get_state()))
  again = stream(rows, batch)
  take(again, 2)  # where it was before does not matter
  again.set_state(state)
  assert take(again, after) == whole[before:]
  assert take(first, after) == whole[before:]


@pytest.mark.parametrize("rows", [6, 7])
@pytest.mark.parametrize("before", [0, 1, 2, 3, 7])
def test_state_at_the_edges_of_epochs(rows, before):
  whole = take(stream(rows), before + 5)
  first = stream(rows)
  take(first, before)
  again = stream(rows)
  again.set_state(first.get_state())
  assert take(again, 5) == whole[before:]
  assert first.epoch == before * 3 // rows


@pytest.mark.parametrize("count", [2, 3, 6])
def test_hosts_read_slices_of_the_same_batches(count):
  whole = take(stream(batch=6), 5)
  parts = [
    take(stream(batch=6, process_index=i, process_count=count), 5)
    for i in range(count)
  ]
  joined = [[i for p in parts for i in p[k]] for k in range(5)]
  assert joined == whole


def test_a_host_reads_only_its_rows():
  seen = []

  def load(own, every):
    seen.append((len(own), len(every)))
    return {}

  next(Stream(20, 8, 0, load, process_index=1, process_count=4))
  assert seen == [(2, 8)]


def test_seeds_give_other_orders():
  assert take(stream(50), 3) != take(stream(50, seed=6), 3)


@pytest.mark.parametrize(
  ("change", "word"),
  [
    ({"rows": 8}, "rows was 7 and is 8"),
    ({"batch": 4}, "batch_size was 3 and is 4"),
    ({"seed": 6}, "seed was 5 and is 6"),
    ({"digest": "x"}, "digest was '' and is 'x'"),
  ],
)
def test_a_state_of_another_stream_is_refused(change, word):
  with pytest.raises(UserError) as caught:
    stream(**change).set_state(stream().get_state())
  three_lines(caught.value, word)


def lines(tmp_path, text, name="bad.jsonl"):
  path = tmp_path / name
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return lambda: open_source(str(path))


def mixed(*prompts):
  rows = [{"prompt": "p", "answer": p} for p in prompts]
  return lambda: scan(rows, encode, 9, where="w", columns=["answer"])


def test_bad_files(tmp_path):
  cases = {
    "line 2 of bad.jsonl is not JSON": lines(tmp_path, '{"a": 1}\n{"a": \n'),
    "line 1 of b.jsonl is a list": lines(tmp_path, "[1]\n", "b.jsonl"),
    "line 3 of c.jsonl": lines(tmp_path, b'{"a":1}\n\n\xff\xfe\n', "c.jsonl"),
    "has no rows": lines(tmp_path, "", "d.jsonl"),
    "no rows": lines(tmp_path, "\n\n", "e.jsonl"),
    "cannot be read after line 0": lines(tmp_path, "{}", "f.jsonl.gz"),
    "g.parquet cannot be read": lines(tmp_path, "{}", "g.parquet"),
    "ending": lines(tmp_path, "a", "h.csv"),
  }
  full = gzip.compress(b'{"a": 1}\n' * 1000)[:-20]
  cases["cannot be read after line"] = lines(tmp_path, full, "i.jsonl.gz")
  for words, call in cases.items():
    with pytest.raises(UserError) as caught:
      call()
    three_lines(caught.value, words)
  write(tmp_path / "near.jsonl", ROWS)
  with pytest.raises(UserError, match=r"near\.jsonl"):
    open_source(str(tmp_path / "neer.jsonl"))


BAD = {
  "no file": lambda: open_source("nowhere/a.jsonl"),
  "no files": lambda: open_source("nowhere/*.jsonl"),
  "empty list": lambda: open_source([]),
  "iterator": lambda: open_source(generate()),
  "dict": lambda: open_source({"prompt": []}),
  "number": lambda: open_source(3),
  "list of text": lambda: open_source(["a"]),
  "array": lambda: open_source(np.zeros(3)),
  "endless": lambda: open_source(endless, limit=10),
  "generator with arguments": lambda: open_source(lambda x: [x]),
  "generator of nothing": lambda: open_source(lambda: []),
  "generator that is none": lambda: open_source(lambda: None),
  "no function": lambda: open_source("rlreward.errors:rows"),
  "tfds without split": lambda: open_source("tfds:gsm8k"),
  "tfds unknown": lambda: open_source("tfds:no_such_set_at_all/train"),
  "policy": lambda: scan(ROWS, encode, 9, where="w", on_overlong="cut"),
  "over-long": lambda: scan(ROWS, encode, 1, where="w", on_overlong="raise"),
  "nothing left": lambda: scan(ROWS, encode, 1, where="w"),
  "nothing selected": lambda: scan(
    ROWS, encode, 9, where="w", select=lambda r: False
  ),
  "missing column": lambda: scan(ROWS, encode, 9, where="w", columns=["answr"]),
  "missing later": lambda: scan(
    [*ROWS, {"prompt": "a"}], encode, 9, where="w", columns=["answer"]
  ),
  "no dict later": lambda: scan([*ROWS, 3], encode, 9, where="w"),
  "mixed": mixed("a", ["b"]),
  "empty prompt": lambda: scan([{"prompt": ""}], encode, 9, where="w"),
  "batch 0": lambda: stream(batch=0),
  "seed": lambda: stream(seed=-1),
  "large seed": lambda: stream(seed=2**32),
  "process": lambda: stream(process_index=2, process_count=2),
  "slices": lambda: stream(batch=3, process_count=2),
  "state": lambda: stream().set_state({"step": 3}),
  "section": lambda: data.section({"digit": 3}, {"digits": 2}),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
  with pytest.raises(UserError) as caught:
    BAD[case]()
  three_lines(caught.value)


def test_errors_name_the_row_and_the_columns():
  with pytest.raises(UserError) as caught:
    scan(ROWS, encode, 9, where="w", columns=["answr"])
  three_lines(caught.value, "row 0 of w", "['answer', 'prompt']", "'answer'")
  with pytest.raises(UserError) as caught:
    mixed("a", None, ["b"])()
  three_lines(caught.value, "is a list in row 2 and a str in row 0")
  with pytest.raises(UserError) as caught:
    scan(ROWS, encode, 1, where="w", on_overlong="raise")
  three_lines(caught.value, "row 0 of w has 2 tokens, the limit is 1")


def test_offline_tfds(monkeypatch, tmp_path):
  pytest.importorskip("importlib_resources", reason="tfds needs it")
  pytest.importorskip("tensorflow_datasets")
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  monkeypatch.setenv("RLREWARD_OFFLINE", "1")
  with pytest.raises(UserError) as caught:
    open_source("tfds:mnist/train")
  three_lines(caught.value, "RLREWARD_OFFLINE")


def test_names_of_sources():
  assert sources.describe("a.jsonl") == "a.jsonl"
  assert sources.describe(generate) == "generator generate"
  assert sources.describe(ROWS) == "the list of rows"


def three_lines(error, *words):
  parts = str(error).split("\n")
  assert len(parts) == 3, str(error)
  assert re.match(r"  why: .{4}", parts[1]), str(error)
  assert re.match(r"  fix: .{4}", parts[2]), str(error)
  for word in words:
    assert word in str(error), (word, str(error))
