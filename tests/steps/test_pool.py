"""What the reference could earn: listed answers and samples of it."""

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import errors
from rlreward.steps import pool, roles
from rlreward.tasks import arithmetic, memoryless
from rlreward.types import State

M = 4


def source(**changes):
  return memoryless.make({"length": M, **changes})


def config(**changes):
  fields = {
    "model__vocab": 3,
    "sampling__max_new_tokens": M,
    "reference": "always",
    "frontier__samples": 6,
    "eval__prompts": 2,
    **changes,
  }
  return nano.config(**fields)


def drawn(c):
  """(actor, state) whose policy and reference are two different decoders."""
  actor = roles.policy(c.model)
  make = lambda seed: actor.init(jax.random.key(seed))[0]["policy"]
  # Wide logits, so that the two laws are far apart.
  wide = lambda tree: jax.tree.map(lambda x: 3 * x, tree)
  state = State(
    jnp.zeros((), jnp.int32),
    {"policy": wide(make(0))},
    {"reference": wide(make(1))},
    (),
    jax.random.key(2),
  )
  return actor, state


def by_hand(model, variables, answers):
  """f64[Y], the log-prob of each answer from the decoder's own logits."""
  tokens = jnp.concatenate(
    [jnp.zeros((len(answers), 1), jnp.int32), answers], 1
  )
  logits = model.logits(variables, tokens, jnp.ones(tokens.shape, bool))
  logp = jax.nn.log_softmax(logits[:, :-1].astype(jnp.float32), -1)
  each = jnp.take_along_axis(logp, answers[..., None], -1)[..., 0]
  return np.asarray(each, np.float64).sum(1)


def test_the_law_of_listed_answers_is_exact(monkeypatch):
  # Pieces of 50 rows: 81 answers need two, the last filled up.
  monkeypatch.setattr(pool, "_ROWS", 50)
  c, task = config(), source()
  actor, state = drawn(c)
  batch = next(task.batches("test", 2, 0))
  survey = pool.make(c, task, actor)
  found = survey.build(state, batch, jax.random.key(0), batch)
  assert found.exact and found.logp.shape == (1, 81)  # the prompt once
  answers = jnp.asarray(task.spec["outcomes"](batch).tokens[0])
  base = by_hand(actor.model, state.frozen["reference"], answers)
  own = by_hand(actor.model, state.params["policy"], answers)
  # float32 logits summed over 4 tokens
  np.testing.assert_allclose(found.logp[0], base, atol=2e-5)
  assert abs(np.exp(base).sum() - 1) < 1e-5
  law = survey.law(state, batch)
  reward, kl = law["reward"], law["kl"]
  assert "gold" not in law
  value = np.asarray([0.0, 1.0, 2.0])[np.asarray(answers)].sum(1)
  np.testing.assert_allclose(reward, np.exp(own) @ value, rtol=1e-4)
  np.testing.assert_allclose(kl, np.exp(own) @ (own - base), rtol=1e-4)
  assert kl > 0.05


def test_what_is_not_listed_is_the_rest():
  task = arithmetic.make({"digits": 1})
  c = nano.config(
    reference="always", frontier__samples=4, eval__prompts=3,
    sampling__max_new_tokens=task.spec["completion_length"],
  )  # fmt: skip
  actor, state = drawn(c)
  batch = next(task.batches("test", 3, 0))
  survey = pool.make(c, task, actor)
  found = survey.build(state, batch, jax.random.key(0), batch)
  assert found.logp.shape == (3, 2) and found.reward.tolist() == [[1, 0]] * 3
  np.testing.assert_allclose(np.exp(found.logp).sum(1), 1, rtol=1e-6)
  # By the decoder's own logits, prompt by prompt.
  rights = []
  for i in range(3):
    prompt = batch["prompt"][i][batch["prompt_mask"][i]]
    answer = batch["answer"][i][batch["answer_mask"][i]]
    row = jnp.asarray(np.concatenate([prompt, answer]))[None]
    logits = actor.model.logits(
      state.params["policy"], row, jnp.ones(row.shape, bool)
    )
    logp = jax.nn.log_softmax(logits[0, len(prompt) - 1 : -1], -1)
    rights.append(np.exp(logp[np.arange(len(answer)), answer].sum()))
  law = survey.law(state, batch)
  assert set(law) == {"reward"}
  assert law["reward"] == pytest.approx(np.mean(rights), rel=1e-3)


def test_samples_are_of_the_reference_in_chunks():
  seen = []

  def reward(rollout, batch):
    seen.append(rollout.tokens.shape)
    return nano.even_share(rollout, batch)

  def gold(rollout, batch):
    score = nano.even_share(rollout, batch)
    odd = rollout.tokens[:, -1] % 2 == 1
    return score._replace(value=1 - score.value, valid=odd)

  task = nano.task(reward)._replace(gold=gold)
  # 4 x 4 rows in training and 6 prompts: 2 samples at a time, 5 asked for.
  c = nano.config(reference="always", frontier__samples=5, eval__prompts=6)
  actor, state = drawn(c)
  batch = nano.batch(6)
  found = pool.make(c, task, actor).build(
    state, batch, jax.random.key(0), batch
  )
  assert found.reward.shape == found.logp.shape == (6, 5) and not found.exact
  assert seen == [(12, nano.P + nano.T)]  # compiled once
  known = np.isfinite(found.gold)
  assert 0 < known.mean() < 1
  np.testing.assert_allclose(
    found.gold[known], 1 - found.reward[known], rtol=1e-6
  )
  # The same call with the roles exchanged draws from another decoder.
  other = state._replace(
    params={"policy": state.frozen["reference"]},
    frozen={"reference": state.params["policy"]},
  )
  moved = pool.make(c, task, actor).build(
    other, batch, jax.random.key(0), batch
  )
  assert np.abs(moved.logp - found.logp).max() > 0.1


def test_prompts_that_repeat_unevenly_are_all_kept():
  prompt = np.asarray([[1, 2], [1, 2], [3, 4]])
  batch = {"prompt": prompt, "prompt_mask": np.ones_like(prompt, bool)}
  assert len(pool._distinct(batch)["prompt"]) == 3
  even = {k: np.concatenate([v, v[2:]]) for k, v in batch.items()}
  assert pool._distinct(even)["prompt"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
  ("changes", "word"),
  [
    ({"frontier__samples": 1}, "frontier.samples=1"),
    ({"eval__temperature": 0.0}, "eval.temperature=0"),
    ({"reference": "auto"}, "reference=always"),
  ],
)
def test_what_has_no_frontier_is_refused(changes, word):
  c = config(**changes)
  frozen = {} if "reference" in changes else {"reference": ()}
  with pytest.raises(errors.UserError, match=word):
    pool.check(c, frozen)


def test_another_length_than_that_of_the_listed_answers_is_refused():
  c, task = config(sampling__max_new_tokens=M + 1), source()
  actor, state = drawn(c)
  batch = next(task.batches("test", 2, 0))
  with pytest.raises(errors.UserError, match="max_new_tokens=4"):
    pool.make(c, task, actor).build(state, batch, jax.random.key(0), batch)


def test_without_samples_nothing_is_asked_for():
  pool.check(config(frontier__samples=0, reference="auto"), {})
