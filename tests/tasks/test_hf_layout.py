"""Splits of data set directories: found, in order, whole or refused."""

import gzip
import json
import pathlib
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from rlreward.errors import UserError
from rlreward.tasks import hf_layout, preferences, sources, text, tokens

ROWS = [{"prompt": f"{i}+1=", "chosen": str(i + 1), "rejected": "0"}
        for i in range(1, 7)]  # fmt: skip
TOK = tokens.CharTokenizer("0123456789+= ")


def write(path: pathlib.Path, rows):
  """Rows as the ending says."""
  path.parent.mkdir(parents=True, exist_ok=True)
  table = pyarrow.Table.from_pylist(rows)
  if path.name.endswith(".parquet"):
    pyarrow.parquet.write_table(table, path)
  elif path.name.endswith(".arrow"):
    with pyarrow.OSFile(str(path), "wb") as file:
      with pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
  else:
    lines = "".join(json.dumps(r) + "\n" for r in rows).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)


def shards(root, form, rows=ROWS, count=2):
  size = len(rows) // count
  for k in range(count):
    write(root / form.format(k, count), rows[k * size : (k + 1) * size])


@pytest.mark.parametrize(
  "form",
  [
    "train-{:05d}-of-{:05d}.parquet",
    "data/train-{:05d}-of-{:05d}-0123456789abcdef.parquet",
    "train/data-{:05d}-of-{:05d}.arrow",
    "main/train-{:05d}-of-{:05d}.parquet",
  ],
)
def test_shards_are_read_in_their_order(tmp_path, form):
  shards(tmp_path, form)
  for name in ("README.md", "dataset_infos.json", "state.json"):
    (tmp_path / name).write_text("{}")
  write(tmp_path / "test-00000-of-00001.parquet", ROWS[:1])
  found = sources.open_source(f"hf:{tmp_path}/train")
  assert [found[i] for i in range(len(found))] == ROWS
  counts = sources.parts(found)
  assert list(counts.values()) == [3, 3]
  assert all(k.startswith(str(tmp_path)) for k in counts)


@pytest.mark.parametrize("form", ["train.parquet", "train.jsonl",
                                  "train.jsonl.gz", "data/train.jsonl",
                                  "train/rows.jsonl"])  # fmt: skip
def test_one_file_for_each_split(tmp_path, form):
  write(tmp_path / form, ROWS)
  found = sources.open_source(f"hf:{tmp_path}/train")
  assert [found[i] for i in range(len(found))] == ROWS


def test_the_layout_of_hh_rlhf(tmp_path):
  """harmless-base/{train,test}.jsonl.gz, whole dialogues on both sides."""
  asked = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
  pair = {"chosen": asked + " d", "rejected": asked + " e f"}
  write(tmp_path / "harmless-base" / "train.jsonl.gz", [pair])
  (row,) = list(sources.open_source(f"hf:{tmp_path}/harmless-base/train"))
  assert row == pair
  tok = tokens.CharTokenizer("abcdef \n:HumnAsit")
  fields = {"train": f"hf:{tmp_path}/harmless-base/train"}
  task = text.make({**fields, "prompt_length": 64, "answer_length": 8}, tok)
  assert task.preferences is not None
  batch = next(task.preferences("train", 1, 0))
  said = [tok.decode(t[a][:].tolist()) for t, a in
          zip(batch["tokens"], batch["attend"], strict=True)]  # fmt: skip
  assert said == [pair["chosen"], pair["rejected"]]
  assert batch["loss"].sum(1).tolist() == [3, 5]  # the last turn and its eos
  assert isinstance(task.spec["report"]["train pairs"], preferences.Counts)


def test_what_is_missing_or_mixed_is_refused(tmp_path):
  shards(tmp_path, "a/train-{:05d}-of-{:05d}.parquet", count=3)
  shards(tmp_path, "b/train-{:05d}-of-{:05d}.parquet")
  cases = (
    (f"hf:{tmp_path}/train", "configurations ['a', 'b']", "a/train"),
    (f"hf:{tmp_path}/a/test", "no split 'test'", "['train']"),
    (f"hf:{tmp_path}/none/train", "no directory", "beside it: ['a', 'b']"),
    ("hf:train", "no directory or no split", "hf:directory/split"),
  )
  for spec, *words in cases:
    with pytest.raises(UserError) as error:
      sources.open_source(spec)
    said = str(error.value)
    assert len(said.splitlines()) == 3 and all(w in said for w in words), said
  (tmp_path / "a" / "train-00001-of-00003.parquet").unlink()
  with pytest.raises(UserError, match=r"2 of 3 shards; missing: \[1\]"):
    hf_layout.files(f"hf:{tmp_path}/a/train")


def test_the_hub_reader_needs_no_library_before_it_is_used():
  code = "import sys, rlreward.tasks.sources; print('pyarrow' in sys.modules)"
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == "False"
