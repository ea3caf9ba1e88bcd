"""rlreward audit-reward: exit codes, text, JSON, and wrong fixtures."""

import importlib
import json
import pathlib
import pkgutil

import paths
import pytest

from rlreward import audit, cli, rewards
from rlreward.rewards.runner import RewardFunction

JUDGE = """
def exact(completion, answer):
  return float(completion.strip() == answer)

def holds(completion, answer):
  return float(answer in completion)
"""
ROWS = [
  {"prompt": "7+5=", "completion": "12", "label": True, "answer": "12",
   "tags": ["sum"]},
  {"prompt": "7+5=", "completion": "9", "label": False, "answer": "12"},
  {"prompt": "1+3=", "completion": "4", "label": 1, "answer": "4"},
  {"prompt": "1+3=", "completion": "5", "label": 0.0, "answer": "4"},
]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
  """An own directory with a reward and fixtures."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "judge.py").write_text(JUDGE)
  rows("f.jsonl", *ROWS)
  return tmp_path


def rows(name, *given):
  lines = [r if isinstance(r, str) else json.dumps(r) for r in given]
  with open(name, "w", encoding="utf-8") as file:
    file.write("\n".join(lines) + "\n")


def call(capsys, *argv):
  code = cli.main(["audit-reward", *argv])
  done = capsys.readouterr()
  return code, done.out, done.err


def test_the_exit_code_is_the_verdict_and_the_text_shows_both_sides(capsys):
  code, out, err = call(capsys, "judge.py:exact", "--fixtures=f.jsonl")
  assert (code, err) == (0, "") and out.endswith("\npass\n")
  assert "judge.py:exact on 4 fixtures" in out
  code, out, _ = call(capsys, "judge.py:holds", "--fixtures=f.jsonl")
  assert code == 1 and out.endswith("\nFAIL: every_answer\n")
  assert "FAIL  every_answer" in out and "0 -> 1 (delta +1)" in out
  assert "before '9'" in out and "after  '9, or 12, or 9'" in out
  assert max(map(len, out.splitlines())) <= 140


def test_json_and_the_file_hold_the_same_and_nothing_is_overwritten(capsys):
  argv = ("judge.py:holds", "--fixtures=f.jsonl", "--json", "--out=a/r.json")
  code, out, _ = call(capsys, *argv)
  found = json.loads(out)
  assert code == 1 and not found["passed"]
  with open("a/r.json", encoding="utf-8") as file:
    assert json.load(file) == found
  assert found["confusion"]["auroc"] == 1.0 and found["tags"].keys() == {"sum"}
  code, out, err = call(capsys, *argv)
  assert (code, out) == (2, "") and "a/r.json exists" in err


def test_a_threshold_and_a_spec_are_read(capsys):
  code, out, _ = call(
    capsys, "judge.py:exact", "--fixtures=f.jsonl", "--threshold=1.5"
  )
  assert code == 1 and "FAIL: false negatives" in out
  assert "false negative, line 1: 1 for the label 1" in out
  spec = {"spec": {"skip": {"every_answer": "lenient"}, "false_positive": 1}}
  rows("s.jsonl", spec, "", *ROWS)
  code, out, _ = call(capsys, "judge.py:holds", "--fixtures=s.jsonl")
  assert code == 0 and "skipped: lenient" in out


def test_sums_and_scorers_are_found_by_path(capsys):
  code, out, _ = call(
    capsys, "judge.py:exact@0.5, judge.py:holds@0.5", "--fixtures=f.jsonl"
  )
  assert code == 1 and "FAIL: every_answer" in out
  with open("model.py", "w", encoding="utf-8") as file:
    file.write(
      "import numpy as np\n"
      "from rlreward.evals.audit import Scorer\n"
      "from rlreward.types import Score\n"
      "def score(rows):\n"
      "  v = [r.completion.strip() == r.columns['answer'] for r in rows]\n"
      "  return Score(np.array(v, float), np.ones(len(v), bool))\n"
      "mine = Scorer('my model', score)\n"
    )
  code, out, _ = call(capsys, "model.py:mine", "--fixtures=f.jsonl")
  assert code == 0 and out.startswith("my model on 4 fixtures")


def test_the_dream_reward_passes_with_its_declared_spec(capsys):
  reward = f"{paths.REPO / 'examples' / 'dreams.py'}:dream"
  given = paths.REPO / "examples" / "audit_fixtures.jsonl"
  code, out, _ = call(capsys, reward, f"--fixtures={given}", "--json")
  found = json.loads(out)
  assert code == 0 and found["passed"]
  assert [p["name"] for p in found["probes"] if p["skipped"]] == ["verbosity"]
  # It does pay for words, so that what is declared is needed.
  lines = given.read_text(encoding="utf-8").splitlines()
  rows("bare.jsonl", {"spec": {"threshold": 0.6}}, *lines[1:])
  code, out, _ = call(capsys, reward, "--fixtures=bare.jsonl")
  assert code == 1 and out.endswith("\nFAIL: verbosity\n")


GOOD = ROWS[0]
BAD = [
  (["{'prompt'"], ("f.jsonl line 1", "no JSON")),
  ([GOOD, "[1, 2]"], ("line 2", "an object")),
  ([GOOD, {"prompt": "a", "label": 1}], ("line 2", "'completion'")),
  ([{"prompt": "a", "completion": "b"}], ("line 1", "'label'")),
  ([{**GOOD, "prompt": ["a"]}], ("line 1", "prompt is ['a']", "a text")),
  ([{**GOOD, "label": "yes"}], ("line 1", "label is 'yes'")),
  ([{**GOOD, "label": None}], ("line 1", "label is None")),
  (['{"prompt": "a", "completion": "b", "label": NaN}'], ("label is nan",)),
  ([{**GOOD, "tags": "sum"}], ("line 1", "tags is 'sum'")),
  ([{**GOOD, "finish": "eos"}], ("line 1", "finish is 'eos'", "'length'")),
  ([""], ("no fixtures",)),
  ([{"spec": {"treshold": 1}}, GOOD], ("line 1", "'threshold'")),
  ([GOOD, {"spec": {}}], ("line 2", "'prompt'")),
  (
    [GOOD, {"prompt": "a", "completion": "b", "label": 1}],
    ("line 2", "'answer'"),
  ),
]


@pytest.mark.parametrize(("given", "words"), BAD)
def test_bad_fixtures_are_named_by_line_and_field(capsys, given, words):
  rows("f.jsonl", *given)
  code, out, err = call(capsys, "judge.py:exact", "--fixtures=f.jsonl")
  assert (code, out) == (2, "")
  assert len(err.splitlines()) == 3, err
  assert all(w in err for w in words), err


@pytest.mark.parametrize(
  ("argv", "words"),
  [
    (["judge.py:exact", "--fixtures=none.jsonl"], ("'none.jsonl'", "JSONL")),
    (["judge.py:exakt", "--fixtures=f.jsonl"], ("'exakt'", "judge.py:exact")),
    (["exact", "--fixtures=f.jsonl"], ("'exact'", "file.py")),
    (["judge.py:exact@x", "--fixtures=f.jsonl"], ("'x'", "@1.0")),
    (["judge.py:exact"], ("--fixtures",)),
    (["judge.py:exact", "--fixtures=f.jsonl", "--seeds=1"], ("--seeds=1",)),
  ],
)
def test_bad_command_lines_are_refused(capsys, argv, words):
  code, _, err = call(capsys, *argv)
  assert code == 2 and len(err.splitlines()) == 3, err
  assert all(w in err for w in words), err


def test_fixtures_that_are_no_text_are_refused(capsys):
  with open("f.jsonl", "wb") as file:
    file.write(b"\xff\xfe{}")
  code, _, err = call(capsys, "judge.py:exact", "--fixtures=f.jsonl")
  assert code == 2 and "no UTF-8" in err


def test_the_probes_follow_the_seed():
  report = audit.run("judge.py:holds", "f.jsonl", seed=3)
  assert report == audit.run("judge.py:holds", "f.jsonl", seed=3)


# Every reward that the package ships and its fixtures.
SHIPPED = {
  "rlreward.rewards.execute:sql": "sql",
  "rlreward.rewards.execute:python_rlimit": "python",
  "rlreward.rewards.tina:format": "thought_ends",
  **{
    f"rlreward.rewards.verify:{name}": name
    for name in ("math", "choice", "exact", "json", "think_answer", "tool_call",
                 "toolrl", "bfcl", "boxed", "thought", "readable", "answered")
  },
}  # fmt: skip
# The same function under other guards or a stricter form: off runs nothing, and
# a container needs an engine that few test machines have.
GUARDED = {
  "rlreward.rewards.execute:python",
  "rlreward.rewards.execute:python_container",
  "rlreward.rewards.verify:math_strict",
}
# Measures of a text, of its likeness to another or of how far a query got: they
# accept and refuse nothing, and are held against other implementations.
MEASURES = {
  "rlreward.rewards.execute:sql_partial",
  "rlreward.rewards.tina:reasoning_steps",
  "rlreward.rewards.tina:tag_count",
  "rlreward.rewards.toolrl:parts",
} | {
  f"rlreward.rewards.verify:{name}"
  for name in ("tags", "repetition", "rouge_l", "bleu", "chrf", "sari", "fkgl",
               "flesch", "reasoning")
}  # fmt: skip
FOLDER = pathlib.Path(rewards.__file__).parent


def test_no_reward_is_shipped_without_an_audit():
  found = set()
  for module in pkgutil.iter_modules([str(FOLDER)]):
    if not module.name.endswith("_child"):  # programs of other processes
      loaded = importlib.import_module(f"rlreward.rewards.{module.name}")
      found |= {
        f"{loaded.__name__}:{k}"
        for k, v in vars(loaded).items()
        if isinstance(v, RewardFunction)
      }
  assert found == GUARDED | MEASURES | set(SHIPPED)
  files = {f.stem for f in (FOLDER / "fixtures").glob("*.jsonl")}
  assert files == set(SHIPPED.values())


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(n, marks=pytest.mark.slow if "python" in n else ())
    for n in SHIPPED
  ],
)
def test_every_shipped_reward_passes_its_own_audit(name):
  path = FOLDER / "fixtures" / f"{SHIPPED[name]}.jsonl"
  report = audit.run(name, path)
  assert report["rows"] >= 60
  assert report["passed"], audit.text(report)
