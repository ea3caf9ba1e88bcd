"""A toy language of retrieval: rules, balance without passages, batches."""

import numpy as np
import pytest

from rlreward import errors
from rlreward.tasks import rag
from rlreward.tasks import rag_rows as rows

C = rag.defaults()


def follows(prompt, answer):
  """Whether an answer is what its prompt asks for, read off the tokens."""
  text = prompt[: 4 * rows.PASSAGES].reshape(-1, 4).tolist()
  facts = {m: (e, r, v) for e, r, v, m in text}
  _, entity, first, then = prompt[4 * rows.PASSAGES :].tolist()
  how, *claims = answer.tolist()
  before, last = tuple(claims[:4]), tuple(claims[4:])
  empty = (rows.DASH,) * 4
  said = [v for e, r, v in facts.values() if (e, r) == (entity, first)]
  if how == rows.NONE:
    return not said and before == last == empty
  if how not in (rows.PLAIN, rows.BOTH) or last == empty:
    return False
  for *words, mark in [last] if before == empty else [before, last]:
    if facts.get(mark) != tuple(words):
      return False
  if then != rows.DASH:
    linked = before[:2] == (entity, first) and last[:2] == (before[2], then)
    return linked
  told = rows.BOTH if len(set(said)) > 1 else rows.PLAIN
  value = max(said, key=said.count) if said else None
  return last[:3] == (entity, first, value) and how == told


@pytest.mark.parametrize("kind", (*rows.KINDS, "helpful/answer"))
def test_chosen_answers_follow_the_rules_and_rejected_ones_do_not(kind):
  prompt, good, bad = rows.pairs(C, kind, 200, np.random.default_rng(0))
  for p, g, b in zip(prompt, good, bad, strict=True):
    assert follows(p, g) and not follows(p, b)


def features(tokens):
  """One-hot answers, and each answer token with each of the question's."""
  v = rows.vocab(C)
  one = np.eye(v)
  answer = tokens[:, rows.PROMPT :]
  asked = tokens[:, 4 * rows.PASSAGES + 1 : rows.PROMPT]
  alone = one[answer].reshape(len(tokens), -1)
  both = np.einsum("nav,nqw->naqvw", one[answer], one[asked])
  return np.concatenate([alone, both.sum((1, 2)).reshape(len(tokens), -1)], 1)


@pytest.mark.parametrize("scenario", rows.SCENARIOS)
def test_without_passages_there_is_nothing_to_learn(scenario):
  kinds = [k for k in rows.KINDS if k.startswith(scenario)]

  def drawn(seed, n):
    rng = np.random.default_rng(seed)
    batch = rows.batch(C, kinds, n, rng, masked=True)
    hidden = batch["tokens"][:, : 4 * rows.PASSAGES]
    assert (hidden == rows.HIDDEN).all()
    x = features(batch["tokens"])
    return x[0::2] - x[1::2], batch["group"][0::2]

  x, _ = drawn(0, 3000)
  fit = np.linalg.solve(x.T @ x + 30 * np.eye(x.shape[1]), x.sum(0))
  x, group = drawn(1, 3000)
  right = np.where(x @ fit == 0, 0.5, x @ fit > 0)
  each = [right[group == i].mean() for i in range(len(kinds))]
  # Kinds of a scenario weigh the same; the error of a mean is about 0.01.
  assert np.mean(each) == pytest.approx(0.5, abs=0.05)


def test_abstaining_is_about_the_entity_that_is_asked_for():
  """Relations are there as often in both kinds; the entity in one of them."""
  found = {}
  for kind in ("abstain/absent", "abstain/present"):
    prompt, *_ = rows.pairs(C, kind, 500, np.random.default_rng(3))
    text = prompt[:, : 4 * rows.PASSAGES].reshape(-1, rows.PASSAGES, 4)
    asked = prompt[:, 4 * rows.PASSAGES + 1 :]
    count = lambda i: (text[:, :, i] == asked[:, i, None]).sum(1)  # noqa: B023
    found[kind] = [set(count(i).tolist()) for i in (0, 1)]
  assert found["abstain/absent"] == [{0}, {1}]
  assert found["abstain/present"] == [{1}, {1}]


def test_batches_are_pairs_of_every_kind():
  task = rag.make({"name": "rag"})
  batch = next(task.preferences("test", 90, 0))
  assert batch["tokens"].shape == (180, rows.PROMPT + rows.ANSWER)
  assert np.bincount(batch["group"]).tolist() == [20] * 9
  assert batch["right"][0::2].all() and not batch["right"][1::2].any()
  assert (batch["item"] == np.arange(180) // 2).all()
  same = batch["tokens"][0::2, : rows.PROMPT]
  assert (same == batch["tokens"][1::2, : rows.PROMPT]).all()
  assert batch["loss"].sum(1).tolist() == [rows.ANSWER] * 180
  assert batch["tokens"].max() < task.spec["vocab_size"]
  asked = next(task.batches("train", 4, 0))
  assert asked["prompt"].shape == (4, rows.PROMPT)


def test_general_pairs_hide_passages_and_the_benchmark_shows_them():
  task = rag.make({"name": "rag", "pairs": "general"})
  train = next(task.preferences("train", 32, 0))["tokens"]
  test = next(task.preferences("test", 32, 0))["tokens"]
  assert (train[:, : 4 * rows.PASSAGES] == rows.HIDDEN).all()
  assert not (test == rows.HIDDEN).any()
  blind = rag.make({"name": "rag", "masked": True})
  test = next(blind.preferences("test", 32, 0))["tokens"]
  assert (test[:, : 4 * rows.PASSAGES] == rows.HIDDEN).all()


def test_the_task_judges_nothing():
  import jax.numpy as jnp

  from rlreward.types import Rollout

  empty = jnp.zeros((3, 4), jnp.int32)
  none = empty == 1
  row = jnp.zeros(3, jnp.int32)
  rollout = Rollout(empty, none, none, none, empty * 0.0, row, row, row[0])
  assert not rag.make(None).reward(rollout, {}).valid.any()


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"things": 4}, "things=4"),
    ({"relations": 2}, "relations=2"),
    ({"relations": 3.5}, "relations=3.5"),
    ({"pairs": "chat"}, "pairs='chat'"),
    ({"hidden": True}, "no field 'hidden'"),
  ],
)
def test_what_cannot_be_is_refused(changes, said):
  with pytest.raises(errors.UserError, match=said):
    rag.make({"name": "rag", **changes})
