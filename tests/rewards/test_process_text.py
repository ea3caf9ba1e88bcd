"""Steps of text: where they end, who scores them, models that do."""

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import errors
from rlreward.models import transformer
from rlreward.models.reward_card import Card
from rlreward.rewards import learned, process
from rlreward.steps import roles
from rlreward.tasks import tokens
from rlreward.types import STOP, Rollout, Score, Task

CHARS = tokens.CharTokenizer("abc.\n ")


def pieces(words):
  """A decoder of ids that are words."""
  return lambda ids: "".join(words[i] for i in ids)


@pytest.mark.parametrize(
  ("words", "steps", "ends"),
  [
    (["a", "\n", "b", "\n", "c", ""], ["a\n", "b\n", "c"], [1, 3, 5]),
    (["a", "\n", "b", "\n", ""], ["a\n", "b\n"], [1, 4]),
    (["a\nb", "c", ""], ["a\n", "bc"], [0, 2]),
    (["a", ""], ["a"], [1]),
    (["a\n", "\n", "b"], ["a\n\n", "b"], [1, 2]),  # an empty line is no step
    (["a\nb\nc", "d"], ["a\nb\n", "cd"], [0, 1]),  # two ends at one token
    (["a\n", " ", ""], ["a\n "], [2]),
    ([""], [], []),
    ([], [], []),
  ],
)
def test_where_steps_end(words, steps, ends):
  assert process.split(list(range(len(words))), pieces(words), "\n") == (
    steps, ends)  # fmt: skip


def text_task(**spec):
  facts = {"on_device": False, "tokenizer": CHARS, **spec}

  def reward(rollout, batch):
    n = rollout.tokens.shape[0]
    return Score(np.ones(n, np.float32), np.ones(n, bool), None, {})

  return Task(lambda *_: iter(()), reward, None, facts)


def rollout(prompts, answers, length=12):
  """Rows of a prompt and an answer with its stop token."""
  ids = [CHARS.encode(p) for p in prompts]
  said = [[*CHARS.encode(a), CHARS.eos_ids[0]] for a in answers]
  p, attend_p = tokens.left_pad(ids, 3, 0)
  a, attend_a = tokens.right_pad(said, length, 0)
  action = np.concatenate([np.zeros_like(attend_p), attend_a], 1)
  n = len(ids)
  return Rollout(np.concatenate([p, a], 1),
                 np.concatenate([attend_p, attend_a], 1), action, action,
                 np.zeros(action.shape, np.float32), np.arange(n),
                 np.full(n, STOP), np.zeros((), np.int32))  # fmt: skip


JUDGE = """
def lengths(prompts, steps):
  assert prompts == ["a", "bc"], prompts
  return [[len(s) / 10 for s in row] for row in steps]
def short(prompts, steps):
  return [[0.5] for _ in steps]
"""


def test_a_function_scores_the_steps_of_text(tmp_path):
  file = tmp_path / "judge.py"
  file.write_text(JUDGE)
  rows = rollout(["a", "bc"], ["ab.\nc", "c"])
  made = process.judged(text_task(), f"{file}:lengths", "\n")
  batch = {"columns": {}}
  found = made.reward(rows, batch)
  want = np.full((2, 15), np.nan)
  want[0, 3 + 3], want[0, 3 + 5], want[1, 3 + 1] = 0.4, 0.1, 0.1
  np.testing.assert_allclose(found.tokens, want, atol=1e-7)
  shaped = process.shaped("delta", 1.0)
  device = jax.tree.map(jnp.asarray, (found, rows))
  score, _ = shaped.update(device[0], shaped.init(), device[1])
  np.testing.assert_allclose(score.tokens[0, 6], 0.4, atol=1e-6)
  assert not np.asarray(score.tokens[1]).any()  # one step: success alone
  with pytest.raises(errors.UserError, match="1 scores for the 2 steps"):
    process.judged(text_task(), f"{file}:short", "\n").reward(rows, batch)
  assert (
    process.judged(text_task(), "", "\n").reward(rows, batch).tokens is None
  )


@pytest.mark.parametrize(
  ("spec", "separator"),
  [({"on_device": True}, "\n"), ({"tokenizer": None}, "\n"), ({}, "")],
)
def test_a_judge_of_text_needs_text(spec, separator):
  with pytest.raises(errors.UserError, match=r"process\.judge"):
    process.judged(text_task(**spec), "judge.py:f", separator)


@pytest.mark.parametrize("tied", [False, True])
def test_a_language_model_says_good_or_bad_by_a_token(tied):
  """sigmoid of the score is p(good) of the two, at every tag."""
  c = roles.policy(nano.config(model__tied=tied).model).model.config
  variables = transformer.build(c).init(jax.random.key(3))
  model = transformer.build(c)
  good, bad, tag = 7, 9, 5
  card = Card(None, {}, {"pad": 0})
  found = learned.of_two_tokens(c, variables, card, good, bad, 32)
  encode = lambda text: [10 + "xy".index(t) if t != "#" else tag for t in text]
  judge = process.of_model(found, encode, tag="#", first=[1])
  scores = judge(["x", "yx"], [["xy", "y"], ["x"]])
  for row, ends, got in (
    ([1, 10, 10, 11, 5, 11, 5], [4, 6], scores[0]),
    ([1, 11, 10, 10, 5], [4], scores[1]),
  ):
    ids = jnp.asarray([row])
    logits = model.logits(variables, ids, jnp.ones(ids.shape, bool))[0]
    pair = np.asarray(logits)[ends][:, [good, bad]].astype(np.float64)
    want = np.exp(pair[:, 0]) / np.exp(pair).sum(1)
    np.testing.assert_allclose(got, want, atol=1e-5)  # f32 of two programs
