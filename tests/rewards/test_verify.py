"""Names for `task.rewards`, their fixtures and their audits."""

import json
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import paths
import pytest
import verifier_numbers

from rlreward import audit
from rlreward.errors import UserError
from rlreward.evals import fixtures
from rlreward.rewards import function, loader, values, verify
from rlreward.tasks import text
from rlreward.tasks.tokens import CharTokenizer
from rlreward.types import STOP, Rollout

sys.path.insert(0, str(paths.REPO))

from benchmarks import fuzz_verifiers

FOLDER = pathlib.Path(verify.__file__).parent / "fixtures"
AUDITED = {
  "math": "math", "math_strict": "math", "choice": "choice", "exact": "exact",
  "think_answer": "think_answer", "tool_call": "tool_call", "bfcl": "bfcl",
  "toolrl": "toolrl", "json": "json",
}  # fmt: skip


@pytest.mark.parametrize("name", AUDITED)
def test_fixtures_are_judged_as_labelled_and_pass_the_audit(name):
  if name == "math":
    pytest.importorskip("math_verify")
  path = FOLDER / f"{AUDITED[name]}.jsonl"
  rows, _ = fixtures.read(path)
  labels = [r.label for r in rows]
  assert len(rows) >= 60 and 0 < sum(labels) < len(rows)
  report = audit.run(f"verify:{name}", path)
  assert report["passed"], audit.text(report)
  confusion = report["confusion"]
  assert confusion["false_positive"] == 0
  if name != "toolrl":  # its rewards are graded: no call is worth 1, one 4
    assert confusion["false_negative"] == 0


def test_every_name_of_the_docstring_loads():
  for name in ("math", "math_strict", "boxed", "choice", "exact",
               "think_answer", "tags", "tool_call", "toolrl", "bfcl", "json",
               "repetition", "rouge_l", "bleu", "chrf", "sari", "fkgl",
               "flesch", "thought", "readable"):  # fmt: skip
    assert f"verify:{name}" in str(verify.__doc__) or name == "flesch"
    assert function.from_path(f"verify:{name}").name == name
  assert loader.load("execute:sql").name == "sql"


def test_a_box_is_there_or_not_whatever_is_in_it():
  for said, want in (
    ("so \\boxed{4}", 1.0),
    ("\\boxed{}", 0.0),
    ("the answer is 4", 0.0),
    ("<think>\\boxed{4}", 0.0),
    ("\\boxed{4", 0.0),
  ):
    assert verify.boxed(said) == want


def test_names_that_are_not_there_are_told():
  with pytest.raises(UserError, match="verify:math") as told:
    loader.load("verify:maths")
  assert "toolrl" in str(told.value) and "Sequence" not in str(told.value)
  with pytest.raises(UserError, match="verify:math"):
    loader.load("math")


def test_a_broken_gold_is_no_reward_of_zero():
  broken = "<tool_call>no</tool_call>"
  for reward in (verify.tool_call, verify.toolrl):
    found = reward("hello", broken)
    assert isinstance(found, values.Unjudged) and found.status == values.ERROR
  assert isinstance(verify.bfcl("f(x=1)", "[1]"), values.Unjudged)
  assert verify.choice("The answer is (B)", "maybe") is None
  assert verify.rouge_l("a", []) is None
  assert verify.fkgl("123") is None
  out = verify.math(["\\boxed{1}"], [None])
  assert isinstance(out[0], values.Unjudged)
  assert verify.judgement((None, "timeout")).status == values.TIMEOUT
  assert verify.judgement((None, "timeout"), late=0.0) == 0.0
  assert verify.judgement((None, "abstain")) is None
  assert verify.judgement((0.0, "wrong")) == 0.0


def test_values_of_the_others():
  assert verify.repetition("a b c a b c") == pytest.approx(-1 / 4)
  assert verify.rouge_l("the cat", ["a dog", "the cat"]) == pytest.approx(1)
  assert verify.tags("<think>a</think>") == 0.5
  easy = verify.fkgl("The cat sat. It was warm.")
  hard = verify.fkgl("Institutional considerations necessitate reevaluation.")
  assert easy > hard
  assert verify.flesch("The cat sat.") > verify.flesch("Considerable.")
  toolrl = verify.toolrl("<think>a</think>", "<think>b</think>")
  assert toolrl == {"format": 1.0, "correct": 0.0}
  prefilled = verify.format_reward("think answer", prefilled=True)
  assert prefilled("a</think><answer>b</answer>") == 1


@pytest.mark.parametrize(
  ("text", "thought", "readable"),
  [
    ("<think>a</think> so \\boxed{7}", 1, 1),
    ("so \\boxed{\\frac{1}{2}}", 0, 1),
    ("</think> <think> \\boxed{7}", 0, 0),  # what follows is thought
    ("\\boxed{}. \\boxed{}.", 0, 0),  # a run that was paid for its length
    ("seven", 0, 0),
    ("", 0, 0),
  ],
)
def test_a_thought_and_an_answer_that_can_be_read(text, thought, readable):
  assert verify.thought(text) == thought
  assert verify.readable(text) == readable


def test_options_are_checked_before_anything_runs():
  with pytest.raises(UserError, match="engine"):
    verify.math_reward(engine="none")
  with pytest.raises(UserError, match="metric"):
    verify.text_reward("meteor")
  loose = verify.math_reward(tolerance=0.01, name="loose", engine="strict")
  found = loose(["\\boxed{1.59}", "\\boxed{1.5}"], ["1.6", "1.6"])
  np.testing.assert_allclose(found, [1, 0])


def test_the_page_says_what_was_measured():
  results = paths.REPO / "results"
  real = json.loads((results / "verifiers.json").read_text())
  fuzz = json.loads((results / "fuzz_verifiers.json").read_text())
  page = (paths.REPO / "docs" / "verifiers.md").read_text()
  for line in verifier_numbers.lines(real, fuzz):
    assert line in page
  assert real["rollouts"]["agree"] == real["rollouts"]["rows"] == 678
  assert fuzz["host"]["failures"] == fuzz["host"]["slow_calls"] == 0


def test_a_few_hostile_strings_break_no_verifier():
  found = fuzz_verifiers.fuzz(300, seed=7)
  assert found["failures"] == 0, found["failed"]
  assert found["slow_calls"] == 0, found["slow"]


def test_names_work_as_rewards_of_a_task():
  alphabet = CharTokenizer("0123456789+= #", pad_is_eos=True)
  asked, said = ["1+1="] * 2, ["#### 2", "#### 3", "2", "####   2"]
  width = 12
  tokens = np.full((4, 4 + width), alphabet.pad_id, np.int32)
  action = np.zeros(tokens.shape, bool)
  for i, words in enumerate(said):
    ids = [*alphabet.encode(words), alphabet.eos_ids[0]]
    tokens[i, :4] = alphabet.encode(asked[0])
    tokens[i, 4 : 4 + len(ids)], action[i, 4 : 4 + len(ids)] = ids, True
  attend = action.copy()
  attend[:, :4] = True
  fields = [tokens, attend, action, action, np.zeros(tokens.shape)]
  rollout = Rollout(
    *map(jnp.asarray, fields),
    group=jnp.asarray([0, 0, 1, 1]),
    finish=jnp.full(4, STOP),
    version=jnp.zeros((), jnp.int32),
  )
  batch = {"columns": {"answer": ["2", 2]}}
  made = function.make(
    text.parse_rewards("verify:math_strict@1.0, verify:repetition@0"),
    alphabet,
    columns=["answer"],
  )
  found = made(rollout, batch)
  np.testing.assert_array_equal(found.value, [1, 0, 0, 1])
  assert found.valid.all() and (found.components["status"] == 0).all()
  with pytest.raises(UserError, match="answer"):
    function.make(["verify:math_strict"], alphabet, columns=["gold"])
  # A row without a gold answer has no reward, and is counted as an error; of
  # more than a few the run would stop.
  with pytest.raises(values.RewardError, match="no gold answer"):
    made(rollout, {"columns": {"answer": ["", ""]}})
