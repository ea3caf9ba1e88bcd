"""User rewards: forms, concurrency, time-outs, and every way to fail."""

import asyncio
import inspect
import logging
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.errors import UserError
from rlreward.rewards import function, values
from rlreward.rewards.function import from_path, make, reward
from rlreward.rewards.values import RewardError
from rlreward.tasks.tokens import CharTokenizer
from rlreward.types import LENGTH, STOP, Rollout

TOK = CharTokenizer("0123456789+-*= ", pad_is_eos=True)
ASKED = ["1+1=", "12+3="]
SAID = ["2", "3", "15", ""]  # two rows for each prompt; the last is empty


def rollout_of(asked=ASKED, said=SAID, stop=(True, True, True, False)):
  """Rows laid out as the sampler does, with pad == eos."""
  p, t = max(map(len, asked)), max(map(len, said)) + 1
  n, share = len(said), len(said) // len(asked)
  tokens = np.full((n, p + t), TOK.pad_id, np.int32)
  attend = np.zeros((n, p + t), bool)
  action = np.zeros((n, p + t), bool)
  for i, text in enumerate(said):
    ids = TOK.encode(asked[i // share])
    tokens[i, p - len(ids) : p], attend[i, p - len(ids) : p] = ids, True
    own = TOK.encode(text) + [TOK.eos_ids[0]] * stop[i]
    tokens[i, p : p + len(own)], action[i, p : p + len(own)] = own, True
  finish = np.where(stop, STOP, LENGTH)
  return Rollout(
    tokens=jnp.asarray(tokens),
    attend=jnp.asarray(attend | action),
    action=jnp.asarray(action),
    loss=jnp.asarray(action),
    logp=jnp.zeros(tokens.shape),
    group=jnp.arange(n) // share,
    finish=jnp.asarray(finish),
    version=jnp.zeros((), jnp.int32),
  )


BATCH = {
  "prompt": np.zeros((2, 5), np.int32),
  "prompt_mask": np.zeros((2, 5), bool),
  "row": np.array([7, 9], np.int32),
  "columns": {"answer": ["2", "15"], "level": [1, 2]},
}


def score(*functions, **options):
  return make(list(functions), TOK, **options)(rollout_of(), BATCH)


def per_sample(sample):
  return float(sample.completion == sample.answer)


def batched(batch):
  return [
    float(c == a) for c, a in zip(batch.completion, batch.answer, strict=True)
  ]


def by_name(completion, answer):
  return completion == answer


@reward(batched=True)
def lists(completion, answer, level):
  assert len(level) == 4
  return np.array(completion) == np.array(answer)


async def later(sample):
  await asyncio.sleep(0)
  return per_sample(sample)


async def later_batched(batch):
  await asyncio.sleep(0)
  return batched(batch)


class Callable:
  def __call__(self, sample):
    return per_sample(sample)


FORMS = [per_sample, batched, by_name, lists, later, later_batched, Callable()]
FORMS += [reward(timeout=5.0)(by_name), reward(timeout=5.0)(batched)]


@pytest.mark.parametrize(
  "f", FORMS, ids=lambda f: type(f).__name__ + reward(f).name
)
def test_every_form_gives_the_same_score(f):
  s = score(f)
  np.testing.assert_array_equal(s.value, [1, 0, 1, 0])
  np.testing.assert_array_equal(s.valid, [True] * 4)
  assert s.value.dtype == np.float32 and s.valid.dtype == bool
  name = reward(f).name
  np.testing.assert_array_equal(s.components[name], [1, 0, 1, 0])


def test_what_a_sample_shows():
  seen = []

  def look(sample):
    seen.append(sample)
    return 0.0

  score(look)
  one = seen[1]
  assert (one.index, one.prompt, one.completion) == (1, "1+1=", "3")
  assert one.prompt_ids == TOK.encode("1+1=")
  assert one.completion_ids == [*TOK.encode("3"), 0]
  assert [s.finish for s in seen] == ["stop", "stop", "stop", "length"]
  assert (one.answer, one["level"], one.row) == ("2", 1, 7)
  assert seen[2].row == 9
  assert seen[3].completion == "" and seen[3].completion_ids == []
  assert seen[3].prompt == "12+3="


def test_what_a_batch_shows():
  def look(batch):
    assert batch.prompt == ["1+1=", "1+1=", "12+3=", "12+3="]
    assert batch["answer"] == batch.answer == ["2", "2", "15", "15"]
    assert batch.finish[3] == "length"
    assert len(batch) == 4 and [s.index for s in batch] == [0, 1, 2, 3]
    batch.log("half", [0.5] * 4)
    return [0.0] * 4

  s = score(look)
  np.testing.assert_array_equal(s.components["look/half"], [0.5] * 4)


def test_special_tokens_are_kept_on_request_and_in_the_tail():
  seen = []

  def look(completion, prompt_tail):
    seen.append((completion, prompt_tail))
    return 0.0

  score(look, skip_special=False)
  assert seen[0] == ("2<eos>", "1+1=")


def test_sampled_ids_are_never_encoded_again():
  class OneWay:
    def decode(self, ids, skip_special=True):
      return TOK.decode(ids, skip_special)

  s = make(by_name, OneWay())(rollout_of(), BATCH)
  np.testing.assert_array_equal(s.value, [1, 0, 1, 0])


def test_observations_are_no_completion():
  """Slots after the first action that are no action: tool text."""
  r = rollout_of(["1="], ["234"], (True,))
  action = np.asarray(r.action).copy()
  action[0, 3] = False
  r = r._replace(action=jnp.asarray(action))
  seen = []

  def look(prompt, completion):
    seen.append((prompt, completion))
    return 0.0

  make(look, TOK)(r, {"prompt": np.zeros((1, 2))})
  assert seen == [("1=", "24")]


def test_components_weights_and_logs():
  def parts(sample):
    sample.log("size", len(sample.completion))
    return {"value": 2.0, "format": 0.5}

  def summed(sample):
    return {"a": 1.0, "b": 0.25}

  def silent(sample):
    return 100.0

  s = score((parts, 0.5), summed, (silent, 0))
  np.testing.assert_allclose(s.value, [2.25] * 4)
  np.testing.assert_array_equal(s.components["parts/format"], [0.5] * 4)
  np.testing.assert_array_equal(s.components["parts/size"], [1, 1, 2, 0])
  np.testing.assert_array_equal(s.components["summed"], [1.25] * 4)
  np.testing.assert_array_equal(s.components["silent"], [100] * 4)


def test_abstaining_is_invalid_and_never_zero():
  def some(sample):
    return None if sample.index == 1 else 1.0

  s = score(some, by_name)
  np.testing.assert_array_equal(s.valid, [True, False, True, True])
  np.testing.assert_array_equal(s.value[s.valid], [2, 2, 1])
  assert np.isnan(s.components["some"][1])
  assert s.components["status"][1] == values.ABSTAIN
  shares = function.status_shares(s)
  assert shares == {"abstain": 0.25, "timeout": 0.0, "error": 0.0}


def test_a_part_that_is_none_makes_the_sum_none():
  def parts(sample):
    return {"a": 1.0, "b": None if sample.index == 0 else 1.0}

  s = score(parts)
  np.testing.assert_array_equal(s.valid, [False, True, True, True])
  np.testing.assert_array_equal(s.components["parts/a"], [1] * 4)


def test_optional_functions_leave_the_sample_to_the_others():
  @reward(required=False)
  def maths(sample):
    return 1.0 if sample.level == 1 else None

  @reward(required=False)
  def code(sample):
    return 3.0 if sample.index == 2 else None

  s = score(maths, code)
  np.testing.assert_array_equal(s.valid, [True, True, True, False])
  np.testing.assert_array_equal(s.value[:3], [1, 1, 3])


def test_weight_zero_neither_poisons_nor_invalidates():
  s = score(by_name, (lambda sample: None, 0.0))
  np.testing.assert_array_equal(s.valid, [True] * 4)
  np.testing.assert_array_equal(s.value, [1, 0, 1, 0])


def test_the_score_keeps_its_structure():
  calls = []

  def rare(sample):
    if not calls:
      sample.log("once", 1.0)
    calls.append(1)
    return 0.0

  f = make(rare, TOK)
  first, second = (f(rollout_of(), BATCH) for _ in range(2))
  assert list(first.components) == list(second.components)
  assert np.isnan(second.components["rare/once"]).all()


def test_extra_columns_through_keywords():
  def everything(completion, level=5, unknown=3, **rest):
    assert rest["answer"] in ("2", "15") and unknown == 3
    return level

  np.testing.assert_array_equal(score(everything).value, [1, 1, 2, 2])


@pytest.mark.parametrize("number", [1, True, np.float64(1), np.float32(1)])
def test_numbers_of_every_kind(number):
  s = score(lambda sample: number)
  np.testing.assert_array_equal(s.value, [1] * 4)


def test_zero_dimensional_arrays():
  torch = pytest.importorskip("torch")
  for one in (jnp.ones(()), np.ones(()), torch.ones(())):
    np.testing.assert_array_equal(score(lambda sample, v=one: v).value, [1] * 4)
  for four in (jnp.ones(4), torch.ones(4), (1, 1, 1, 1)):
    np.testing.assert_array_equal(score(lambda batch, v=four: v).value, [1] * 4)


# Wrong values: each is named with the function, the sample and the form.
WRONG = {
  "string": ("1.0", "the string '1.0'"),
  "nan": (float("nan"), "NaN"),
  "inf": (float("inf"), "inf"),
  "large": (1e39, "infinite in 32 bits"),
  "list": ([1.0, 2.0], "a list of 2 entries"),
  "tuple": ((1.0,), "a tuple of 1 entries"),
  "array": (np.ones(3), "an array of shape (3,)"),
  "object": (object(), "a object"),
  "complex": (1j, "a complex"),
  "empty": ({}, "an empty dict"),
  "key": ({1: 1.0}, "a dict with the key 1"),
  "part": ({"value": 1.0, "p": "x"}, "the string 'x' as 'p'"),
  "nan part": ({"p": float("nan")}, "NaN as 'p'"),
  "nested": ({"p": {"q": 1.0}}, "a dict as 'p'"),
  "bytes": (b"1", "a bytes"),
  "generator": ((i for i in ()), "a generator"),
  "text array": (np.array("x"), "an array"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("timeout", [None, 5.0])
def test_wrong_values_of_a_sample(case, timeout):
  wrong, words = WRONG[case]

  @reward(timeout=timeout)
  def broken(sample):
    return wrong if sample.index == 2 else 1.0

  with pytest.raises(RewardError) as caught:
    score(broken)
  three_lines(caught.value, "broken", "sample 2", "'12+3='")
  if case != "text array":
    assert words in caught.value.what
  assert "expected a finite float, None to abstain" in caught.value.what
  assert caught.value.sample == 2


@pytest.mark.parametrize(
  ("wrong", "words"),
  [
    ([1.0] * 3, "3 entries"),
    ([1.0] * 5, "5 entries"),
    ([], "0 entries"),
    (1.0, "returned 1.0"),
    (None, "returned None"),
    ("abcd", "'abcd'"),
    (np.ones((4, 1)), "shape (4, 1)"),
    (np.ones(()), "shape ()"),
    ((x for x in [1.0] * 4), "a generator"),
    ({"value": [1.0] * 3}, "3 entries as 'value'"),
    ({"value": 1.0}, "1.0 as 'value'"),
    ({}, "an empty dict"),
    ({1.0, 2.0}, "a set"),
  ],
  ids=lambda x: x if isinstance(x, str) else "",
)
def test_wrong_batches(wrong, words):
  def broken(batch):
    return wrong

  with pytest.raises(RewardError) as caught:
    score(broken)
  three_lines(caught.value, "broken", "batch of 4 samples", words)
  if "dict" not in words:
    assert "a sequence of 4" in str(caught.value)


@pytest.mark.parametrize("bad", ["1", float("nan"), [1.0], {"a": "b"}])
def test_a_wrong_entry_of_a_batch_names_its_sample(bad):
  def broken(batch):
    return [1.0, 1.0, 1.0, bad]

  with pytest.raises(RewardError) as caught:
    score(broken)
  three_lines(caught.value, "broken", "sample 3")


def raising(sample):
  raise ZeroDivisionError("first\nsecond")


async def raising_later(sample):
  await asyncio.sleep(0)
  raise ZeroDivisionError("x")


def raising_batch(batch):
  raise KeyError("gone")


def leaving(sample):
  raise SystemExit(3)


@pytest.mark.parametrize("f", [raising, raising_later, raising_batch, leaving])
@pytest.mark.parametrize("timeout", [None, 5.0])
def test_exceptions_name_everything(f, timeout):
  with pytest.raises(RewardError) as caught:
    score(reward(timeout=timeout)(f))
  place = "batch of 4" if "batch" in f.__name__ else "sample 0"
  three_lines(caught.value, f.__name__, place, "raised", "test_function.py:")
  assert caught.value.__cause__ is not None


def test_a_missing_column_in_the_body_lists_those_found():
  with pytest.raises(RewardError) as caught:
    score(lambda sample: sample.anwser)
  three_lines(caught.value, "'answer', 'level', 'row'", "did you mean 'answer'")


def fails_on(*rows, how="raise"):
  def flaky(sample):
    if sample.index in rows:
      if how == "raise":
        raise ValueError("no")
      return float("nan") if how == "nan" else "x"
    return 1.0

  return flaky


@pytest.mark.parametrize("how", ["raise", "nan", "string"])
def test_abstain_policy_leaves_samples_out_and_counts_them(how, caplog):
  f = reward(on_error="abstain", max_error_share=0.5)(fails_on(1, how=how))
  with caplog.at_level(logging.WARNING):
    s = score(f)
  np.testing.assert_array_equal(s.valid, [True, False, True, True])
  assert np.isnan(s.components["flaky"][1])
  assert function.status_shares(s)["error"] == 0.25
  assert "failed on 1 of 4 samples" in caplog.text


def test_too_many_errors_stop_the_run():
  with pytest.raises(RewardError) as caught:
    score(reward(on_error="abstain")(fails_on(1)))
  three_lines(caught.value, "flaky", "failed on 1 of 4", "sample 1")


def test_a_failed_batch_is_every_sample():
  with pytest.raises(RewardError) as caught:
    score(reward(on_error="abstain")(raising_batch))
  three_lines(caught.value, "failed on 4 of 4", "batch of 4")
  f = reward(on_error="abstain", max_error_share=1.0)(raising_batch)
  assert not score(f).valid.any()


def test_one_bad_entry_of_a_batch_spares_the_others():
  @reward(on_error="abstain", max_error_share=0.3)
  def one(batch):
    return [1.0, float("nan"), 1.0, 1.0]

  np.testing.assert_array_equal(score(one).valid, [True, False, True, True])


def test_async_runs_at_the_same_time():
  running, most = [0], [0]

  async def slow(sample):
    running[0] += 1
    most[0] = max(most[0], running[0])
    await asyncio.sleep(0.01)
    running[0] -= 1
    return 1.0

  score(slow)
  assert most[0] == 4
  most[0] = 0
  score(reward(workers=2)(slow))
  assert most[0] == 2


def test_async_inside_a_running_loop():
  async def notebook():
    return score(later)

  np.testing.assert_array_equal(asyncio.run(notebook()).value, [1, 0, 1, 0])


def stuck(release):
  def wait(sample):
    if sample.index == 1:
      release.wait(20)
    return 1.0

  return wait


def stuck_async(release):
  async def wait(sample):
    while sample.index == 1 and not release.is_set():
      await asyncio.sleep(0.01)
    return 1.0

  return wait


def blocking_async(release):
  async def wait(sample):
    if sample.index == 1:
      release.wait(20)
    return 1.0

  return wait


@pytest.mark.parametrize("kind", [stuck, stuck_async])
@pytest.mark.parametrize("on_error", ["raise", "abstain"])
def test_a_time_out_is_invalid_with_its_status(kind, on_error, caplog):
  release = threading.Event()
  options = {"timeout": 0.3, "on_error": on_error, "max_error_share": 0.5}
  start = time.monotonic()
  with caplog.at_level(logging.WARNING):
    s = score(reward(**options)(kind(release)))
  assert time.monotonic() - start < 10
  release.set()
  np.testing.assert_array_equal(s.valid, [True, False, True, True])
  assert s.components["status"][1] == values.TIMEOUT
  assert "ran longer than its time-out of 0.3 s" in caplog.text
  assert "sample 1" in caplog.text


def test_a_coroutine_that_blocks_does_not_hang_the_run():
  release = threading.Event()
  f = reward(timeout=0.3, max_error_share=1.0)(blocking_async(release))
  start = time.monotonic()
  s = score(f)
  assert time.monotonic() - start < 10
  release.set()
  assert not s.valid[1] and s.components["status"][1] == values.TIMEOUT


def test_too_many_time_outs_stop_the_run():
  release = threading.Event()
  with pytest.raises(RewardError) as caught:
    score(reward(timeout=0.3)(stuck(release)))
  release.set()
  three_lines(caught.value, "sample 1", "time-out of 0.3 s", "1 of 4")


def test_a_batch_out_of_time():
  release = threading.Event()

  @reward(timeout=0.05, max_error_share=1.0)
  def slow(batch):
    release.wait(20)
    return [1.0] * 4

  s = score(slow)
  release.set()
  assert not s.valid.any()


def test_hung_threads_are_bounded():
  release = threading.Event()

  @reward(timeout=0.01, max_error_share=1.0, workers=8)
  def never(sample):
    release.wait(20)
    return 1.0

  f = make(never, TOK)
  with pytest.raises(RewardError) as caught:
    for _ in range(20):
      f(rollout_of(), BATCH)
  release.set()
  three_lines(caught.value, "never", "still run", "cannot be killed")


def test_threads_keep_the_order():
  @reward(timeout=5.0, workers=3)
  def index(sample):
    time.sleep(0.001 * (4 - sample.index))
    return sample.index

  np.testing.assert_array_equal(score(index).value, [0, 1, 2, 3])


def test_from_path(tmp_path, monkeypatch):
  file = tmp_path / "mine.py"
  file.write_text(
    "from rlreward.rewards.function import reward\n"
    "def plain(completion, answer): return completion == answer\n"
    "@reward(name='other', timeout=3.0)\n"
    "def dressed(sample): return 1.0\n"
    "class A:\n"
    "  @staticmethod\n"
    "  def inner(sample): return 1.0\n"
  )
  f = from_path(f"{file}:plain")
  assert f.needs() == ("answer",) and f.name == "plain"
  assert from_path(f"{file}:dressed").timeout == 3.0
  assert from_path(f"{file}:A.inner").form == "sample"
  monkeypatch.syspath_prepend(tmp_path)
  assert from_path("mine:plain").where == "mine:plain"
  s = make([(f"{file}:plain", 2.0)], TOK)(rollout_of(), BATCH)
  np.testing.assert_array_equal(s.value, [2, 0, 2, 0])


def test_the_decorated_function_stays_callable():
  @reward(timeout=1.0)
  def double(completion):
    return 2.0 * len(completion)

  assert double("abc") == 6.0


def test_an_empty_batch():
  r = rollout_of()
  none = Rollout(*(x[:0] for x in r[:7]), r.version)
  s = make(by_name, TOK)(none, {"prompt": np.zeros((0, 5)), "columns": {}})
  assert s.value.shape == (0,)


BAD_SET_UPS = {
  "no function": lambda: reward(3),
  "no parameters": lambda: reward(lambda: 1.0),
  "by position": lambda: reward(lambda *a: 1.0),
  "positional only": lambda: reward(eval("lambda sample, /: 1.0")),
  "no signature": lambda: reward(dict),
  "two words": lambda: reward(lambda sample, batch: 1.0),
  "sample and column": lambda: reward(lambda sample, answer: 1.0),
  "stated wrongly": lambda: reward(lambda batch: 1.0, batched=False),
  "policy": lambda: reward(by_name, on_error="ignore"),
  "timeout": lambda: reward(by_name, timeout=0),
  "timeout text": lambda: reward(by_name, timeout="5"),
  "workers": lambda: reward(by_name, workers=0),
  "share": lambda: reward(by_name, max_error_share=1.5),
  "reserved": lambda: reward(by_name, name="status"),
  "no functions": lambda: make([], TOK),
  "same names": lambda: make([by_name, by_name], TOK),
  "all weights 0": lambda: make([(by_name, 0.0)], TOK),
  "weight nan": lambda: make([(by_name, float("nan"))], TOK),
  "weight text": lambda: make([(by_name, "1")], TOK),
  "triple": lambda: make([(by_name, 1.0, 2.0)], TOK),
  "no column": lambda: make(lambda answr: 1.0, TOK, columns=["answer"]),
  "plural": lambda: make(lambda completions: 1.0, TOK, columns=[]),
  "no column late": lambda: score(lambda answr: 1.0),
  "path form": lambda: from_path("my_module"),
  "path kind": lambda: from_path(3),
  "no module": lambda: from_path("no_such_module_here:f"),
  "no submodule": lambda: from_path("rlreward.nothing:f"),
  "no file": lambda: from_path("nowhere/mine.py:f"),
  "no name": lambda: from_path("rlreward.errors:UserEror"),
  "not callable": lambda: from_path("rlreward.types:FINISH_NAMES"),
  "column length": lambda: make(by_name, TOK)(
    rollout_of(), {**BATCH, "columns": {"answer": ["2"]}}
  ),
  "other batch": lambda: make(by_name, TOK)(
    rollout_of(), {"prompt": np.zeros((1, 5)), "columns": {"answer": ["2"]}}
  ),
  "log text": lambda: score(lambda sample: sample.log("x", "y")),
  "log length": lambda: score(lambda batch: batch.log("x", [1.0])),
  "overflow": lambda: score((lambda sample: 3e38, 10.0)),
}


@pytest.mark.parametrize("case", BAD_SET_UPS)
def test_bad_set_ups(case):
  with pytest.raises(UserError) as caught:
    BAD_SET_UPS[case]()
  three_lines(caught.value)


def test_nearest_names_are_offered():
  with pytest.raises(UserError, match="did you mean 'completion'"):
    make(lambda completions: 1.0, TOK, columns=[])
  with pytest.raises(UserError, match=r"use rlreward\.errors:UserError"):
    from_path("rlreward.errors:UserEror")


def test_a_file_that_does_not_import(tmp_path):
  for text, words in (("1/0\n", "ZeroDivision"), ("def (", "SyntaxError")):
    file = tmp_path / f"broken{len(text)}.py"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
      from_path(f"{file}:f")
    three_lines(caught.value, words)


def three_lines(error, *words):
  """The error form: what, why, fix; and the words it must contain."""
  lines = str(error).split("\n")
  assert len(lines) == 3, str(error)
  assert lines[1].startswith("  why: ") and lines[2].startswith("  fix: ")
  assert all(len(line) > 8 for line in lines)
  for word in words:
    assert word in str(error), (word, str(error))


def test_public_functions_are_documented():
  for f in (reward, from_path, make, function.status_shares):
    assert "Args:" in inspect.getdoc(f)
