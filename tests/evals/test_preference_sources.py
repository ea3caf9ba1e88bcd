"""Readers of published sets in their own layout, and what they refuse."""

import collections
import json

import numpy as np
import paths
import pytest

from rlreward import errors
from rlreward.evals import preference, sources


def test_rm_bench():
  folder = paths.shared_data("rm_bench")
  chat = sources.load_rm_bench(folder / "chat_first40.jsonl.gz")
  safe = sources.load_rm_bench(folder / "safety_refuse_first40.jsonl.gz")
  assert len(chat) == len(safe) == 40
  assert {i.subset for i in chat} == {"chat"}
  assert {i.subset for i in safe} == {"safety-refuse"}
  for item in (*chat, *safe):
    assert len(item.candidates) == 6 and item.num_correct == 3
    assert item.prompt[0]["role"] == "user"
  # Styles from concise to markdown: a length scorer finds hard items hard.
  items = [*chat, *safe]
  rows = [sources.row(i, [len(c) for c in i.candidates]) for i in items]
  out = preference.evaluate(
    np.asarray([r["scores"] for r in rows]),
    np.ones((80, 6), bool),
    [3] * 80,
    [i.subset for i in items],
    spec="rmbench",
    ids=[i.id for i in items],
    resamples=20,
  )
  levels = {k: v["value"] for k, v in out["extra"].items()}
  assert levels["hard"] < 0.2 < levels["normal"] < 0.8 < levels["easy"]
  assert out["missing"] == ["math", "code"]


def test_rmb():
  folder = paths.shared_data("rmb")
  best = sources.load_rmb(folder / "bon_casual_conversation.jsonl.gz")
  pair = sources.load_rmb(folder / "pairwise_discussion_first60.jsonl.gz")
  assert (len(best), len(pair)) == (71, 60)
  assert {i.num_correct for i in (*best, *pair)} == {1}
  assert {len(i.candidates) for i in pair} == {2}
  assert {len(i.candidates) for i in best} == {3, 4, 5}
  assert any(len(i.prompt) > 1 for i in best)  # several turns
  assert {m["role"] for i in best for m in i.prompt} == {"user", "assistant"}
  n = max(len(i.candidates) for i in best)
  items = [*best, *pair]
  scores = np.full((len(items), n), np.nan)
  valid = np.zeros((len(items), n), bool)
  for i, item in enumerate(items):
    valid[i, : len(item.candidates)] = True
    scores[i, : len(item.candidates)] = [len(c) for c in item.candidates]
  out = preference.evaluate(
    scores, valid, [1] * len(items), [i.subset for i in items], spec="rmb",
    resamples=20,
  )  # fmt: skip
  assert set(out["sections"]) == {"BoN Helpfulness", "Pairwise Helpfulness"}
  won = [len(i.candidates[0]) > max(map(len, i.candidates[1:])) for i in best]
  value = out["sections"]["BoN Helpfulness"]["value"]
  assert value == pytest.approx(np.mean(won))
  pairs = [
    len(i.candidates[0]) > len(c) for i in best for c in i.candidates[1:]
  ]
  value = out["extra"]["pairs/BoN Helpfulness"]["value"]
  assert value == pytest.approx(np.mean(pairs))


def test_hhh_is_cut_out_of_its_judge_prompt():
  path = paths.shared_data("hhh_alignment") / "hhh_alignment_eval.jsonl.gz"
  items = sources.load_hhh(path)
  count = collections.Counter(i.subset for i in items)
  assert count == {"honest": 61, "helpful": 59, "harmless": 58, "other": 43}
  assert items[0].prompt[0]["content"].startswith("Can you tell me what kind")
  assert items[0].candidates[0].startswith("Sorry, I'm not interested")
  assert all("###" not in c for i in items for c in i.candidates)


def test_llmbar_puts_the_better_output_first():
  folder = paths.shared_data("llmbar")
  items = sources.load_llmbar(folder / "natural.jsonl.gz", "llmbar-natural")
  assert len(items) == 100
  raw = [r for _, r in sources.records(folder / "natural.jsonl.gz")]
  for item, r in zip(items, raw, strict=True):
    assert item.candidates[0] == r[f"output_{r['label']}"]
    assert item.candidates[1] == r[f"output_{3 - r['label']}"]
  n = len(items)
  out = preference.evaluate(
    np.asarray([[len(c) for c in i.candidates] for i in items]),
    np.ones((n, 2), bool), [1] * n, [i.subset for i in items],
    spec="rewardbench", resamples=0,
  )  # fmt: skip
  assert out["sections"].keys() == {"Chat Hard"}


def test_alpaca_pairs_leave_ties_out_and_count_them():
  folder = paths.shared_data("alpaca_eval1_pairs")
  path = folder / "alpaca-7b_vs_davinci003_first300.jsonl.gz"
  items, ties = sources.load_alpaca_pairs(path)
  assert (len(items), ties) == (296, 4)
  raw = [r for _, r in sources.records(path) if r["preference"] in (1, 2)]
  want = [r[f"output_{r['preference']}"] for r in raw]
  assert [i.candidates[0] for i in items] == want


def test_rows_are_lines_of_the_verb():
  item = sources.Item((), ("a", "b"), 1, "x", "7")
  row = sources.row(item, [1.0, np.nan])
  assert json.loads(json.dumps(row)) == {
    "id": "7", "subset": "x", "num_correct": 1, "scores": [1.0, None]
  }  # fmt: skip
  with pytest.raises(ValueError, match="1 scores, 2 candidates"):
    sources.row(item, [1.0])


@pytest.mark.parametrize(
  ("load", "line", "match"),
  [
    (sources.load_rmb, "{", "line 2 of .* is not JSON"),
    (sources.load_rmb, "[1]", "is a list"),
    (sources.load_rmb, "{}", "no field 'conversation_input'"),
    (sources.load_rm_bench, '{"domain": "chat"}', "no field 'chosen'"),
    (
      sources.load_rm_bench,
      '{"domain": "chat", "chosen": ["a"], "rejected": ["b"]}',
      "1 chosen and 1 rejected",
    ),
    (
      sources.load_llmbar,
      '{"label": 3, "input": "", "output_1": "", "output_2": ""}',
      "label 3",
    ),
    (
      sources.load_hhh,
      '{"chosen_instruction": "x", "rejected_instruction": "y"}',
      "no heading",
    ),
  ],
)
def test_other_layouts_are_refused_with_their_line(tmp_path, load, line, match):
  path = tmp_path / "x.jsonl"
  path.write_text("\n" + line + "\n")
  with pytest.raises(errors.UserError, match=match):
    load(path)
  with pytest.raises(errors.UserError, match="no file"):
    load(tmp_path / "none.jsonl")


def test_plain_json_lists_are_read(tmp_path):
  path = tmp_path / "chat_filtered.json"
  row = {"prompt": "p", "chosen": list("abc"), "rejected": list("def")}
  path.write_text(json.dumps([row]))
  (item,) = sources.load_rm_bench(path)
  assert item.candidates == tuple("abcdef") and item.subset == "chat"
