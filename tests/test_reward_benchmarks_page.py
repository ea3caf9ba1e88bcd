"""The page about benchmarks: its snippet feeds the runner, its names exist."""

import json
import re

import numpy as np
import paths
import pytest

from rlreward import rm_report
from rlreward.evals import benchmarks, preference

TEXT = (paths.REPO / "docs" / "reward_benchmarks.md").read_text()


def lines(*args, **kwargs):
  (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
  space = {}
  exec(compile(code, "reward_benchmarks.md", "exec"), space)
  return list(space["lines"](*args, **kwargs))


def judged(tmp_path, items, spec):
  """The table of items whose right answers score 1 and wrong ones 0."""
  path = tmp_path / "s.jsonl"
  rows = []
  for item in map(json.loads, items):
    size = len(item["completions"])
    scores = (np.arange(size) < item["num_correct"]).astype(float)
    rows.append(json.dumps({**item, "scores": scores.tolist()}) + "\n")
  path.write_text("".join(rows))
  return preference.evaluate(**rm_report.read(path), spec=spec, resamples=0)


def record(name, subset, chosen, rejected):
  return {"id": name, "subset": subset, "prompt": "?", "chosen": chosen,
          "rejected": rejected}  # fmt: skip


def test_items_of_rewardbench_2(tmp_path):
  found = judged(
    tmp_path,
    lines([
      record(1, "Math", ["a"], ["b", "c", "d"]),
      record("ref:0", "Ties", ["a"], ["b"]),
      record("tied:0", "Ties", ["a", "A"], ["b"]),
    ]),
    "rewardbench2",
  )  # fmt: skip
  assert found["items"] == 3
  assert found["sections"]["Math"]["value"] == 1
  assert found["sections"]["Ties"]["value"] == pytest.approx(1.01)


def test_items_of_several_languages(tmp_path):
  pairs = [record(i, "donotanswer", "a", "b") for i in range(3)]
  items = [*lines(pairs, "eng_Latn"), *lines(pairs, "deu_Latn")]
  found = judged(tmp_path, items, "m-rewardbench")
  assert found["extra"]["language/deu_Latn"]["value"] == 1
  assert found["extra"]["kappa/deu_Latn"]["value"] == 1


def test_items_of_scenarios(tmp_path):
  pairs = [record(0, "hotpot", "a", "b")]
  found = judged(tmp_path, lines(pairs, scenario="reason"), "rag-rewardbench")
  assert found["sections"]["reason"]["value"] == 1
  assert set(found["subsets"]) == {"reason/hotpot"}


def test_names_on_the_page_exist():
  column = [row.split("|")[3] for row in TEXT.splitlines()
            if row.count("|") == 6 and "`" in row]  # fmt: skip
  specs = {s for cell in column[1:] for s in re.findall(r"`([\w-]+)`", cell)}
  assert specs == set(benchmarks.SPECS)
  for target in re.findall(r"\]\(([^)]+)\)", TEXT):
    assert (paths.REPO / "docs" / target).resolve().exists(), target
  for config in re.findall(r"`(configs/\w+\.py)`", TEXT):
    assert (paths.REPO / config).exists(), config
